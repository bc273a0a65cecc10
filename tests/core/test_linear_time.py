"""Every function that takes model text takes time linear in it: one repetitive answer must not stop a run.

The functions of ``lema_core.answers`` have a test of their own (answers/test_answers_linear_time.py).
"""

import importlib
import inspect
from collections.abc import Callable
from dataclasses import replace

import pytest
from hostile_texts import cpu_seconds, patterns, repeated, superlinear

from lema_core.answers import MAX_TEXT_CHARS
from lema_core.corrections import parse_correction, render_correction, review_correction
from lema_core.corrections.review import first_false_step
from lema_core.evolution import Novelty, answer_by_majority, parse_created, parse_evolved
from lema_core.llm.requests import Completion
from lema_core.llm.simulated import models as simulated
from lema_core.mixture.building import count_words
from lema_core.prompts import sets
from lema_core.questions.near_duplicates import KnownQuestions, NearDuplicates, normalise, with_signs
from lema_core.questions.tasks.published import boxed_gold
from lema_core.questions.tasks.task import rationale_from
from lema_core.reasoning_paths import parse_path, without_run_on
from lema_core.records import Correction, JudgedPath, Question, content_id
from lema_core.reference_corrector import Problem, correct, gold_rationale, repair
from lema_core.report.render import align_correction, collapse_blank_lines
from lema_core.step_checker import equations
from lema_core.steps import (
    numbered_path,
    render_path,
    same_step,
    sentences,
    splice,
    split_path,
    step_label,
    strip_marks,
)
from lema_core.system.redaction import Redactor
from lema_core.verdicts import judge_path, mistake_key

QUESTION = Question(id="q", task="gsm8k", text="Tom has 3 apples and buys 4. How many has he?", gold="7")
RATIONALE = "Tom has 3 + 4 = <<3+4=7>>7 apples.\n#### 7"
GOOD = render_correction(1, "The sum is wrong.", ["3 + 4 = 7."], "The answer is 7.")


def completion(text: str) -> Completion:
    return Completion("key", text, "stop", 1, 1, "model")


def judged(text: str) -> JudgedPath:
    path = parse_path(QUESTION, 0, "student", completion("Step 1: 3 + 4 = 8.\nThe answer is 8."))
    found = judge_path(path)
    assert isinstance(found, JudgedPath)
    return replace(found, text=text)


def correction(original: str, spliced: str) -> Correction:
    row = review_correction(judged("Step 1: 3 + 4 = 8.\nThe answer is 8."), completion(GOOD), family="numeric")
    assert isinstance(row, Correction)
    return replace(row, original=original, spliced=spliced)


# Made once: an index takes 30 ms to make.
NEAR, NOVELTY = NearDuplicates(), Novelty([QUESTION.text], [QUESTION.text])

FUNCTIONS: dict[str, Callable[[str], object]] = {
    "steps.strip_marks": strip_marks,
    "steps.split_path": split_path,
    "steps.numbered_path": numbered_path,
    "steps.render_path": lambda text: render_path([text], text),
    "steps.splice": lambda text: splice(split_path("Step 1: a"), 1, [text], text),
    "steps.same_step": lambda text: same_step(text, text + "1"),
    "steps.step_label": step_label,
    "steps.sentences": sentences,
    "reasoning_paths.without_run_on": lambda text: without_run_on(text, "gsm8k"),
    "reasoning_paths.parse_path": lambda text: parse_path(QUESTION, 0, "student", completion(text)),
    "verdicts.judge_path": lambda text: judge_path(judged(text)),
    "verdicts.mistake_key": lambda text: mistake_key(judged(text)),
    "near_duplicates.normalise": normalise,
    "near_duplicates.with_signs": with_signs,
    "near_duplicates.KnownQuestions": lambda text: text in KnownQuestions([text]),
    "near_duplicates.NearDuplicates": NEAR.like,
    "evolution.parse_created": parse_created,
    "evolution.parse_created, choices": lambda text: parse_created(text, with_choices=True),
    "evolution.parse_evolved": lambda text: parse_evolved(QUESTION, 0, completion(text)),
    "evolution.answer_by_majority": lambda text: answer_by_majority(QUESTION, [completion(text)] * 3),
    "evolution.Novelty": lambda text: list(NOVELTY.screen([replace(QUESTION, text=text)])),
    "corrections.parse_correction": parse_correction,
    "corrections.parse_correction, choice": lambda text: parse_correction(text, "choice"),
    "corrections.parse_correction, in its place": lambda text: parse_correction(GOOD.replace("3 + 4", text)),
    "corrections.review_correction": lambda text: review_correction(judged(text), completion(GOOD), family="numeric"),
    "corrections.review_correction, corrector's": lambda text: review_correction(
        judged("Step 1: 8.\nThe answer is 8."), completion(GOOD.replace("3 + 4", text)), family="numeric"
    ),
    "corrections.first_false_step": lambda text: first_false_step([text]),
    "corrections.render_correction": lambda text: render_correction(2, text, [text], text),
    "mixture.count_words": count_words,
    "questions.rationale_from": lambda text: rationale_from(text, "7"),
    "questions.boxed_gold": lambda text: boxed_gold(text, text),
    "report.align_correction": lambda text: align_correction(correction(text, text.replace("1", "2"))),
    "report.collapse_blank_lines": collapse_blank_lines,
    "reference_corrector.correct": lambda text: correct(Problem(QUESTION.text, "7", RATIONALE), text),
    "reference_corrector.correct, prose": lambda text: correct(Problem(QUESTION.text, "7", "Seven are left."), text),
    "reference_corrector.correct, choice": lambda text: correct(
        Problem("Which?", "A", None, ("a", "b")), text, "choice"
    ),
    "reference_corrector.correct, rationale": lambda text: correct(
        Problem(text, "7", text), "Step 1: 3 + 4 = 8.\nThe answer is 8."
    ),
    "step_checker.equations": equations.equations,
    "step_checker.chains": equations.chains,
    "step_checker.numbers": equations.numbers,
    "reference_corrector.given_numbers": gold_rationale.given_numbers,
    "reference_corrector.known_numbers": gold_rationale.known_numbers,
    "reference_corrector.read_steps": gold_rationale.read_steps,
    "reference_corrector.analyze": lambda text: gold_rationale.analyze(text, text, "7"),
    "reference_corrector.sentence": repair.sentence,
    "prompts.path_prompt": lambda text: sets.path_prompt("gsm8k", text),
    "prompts.correction_prompt": lambda text: sets.correction_prompt("gsm8k", text, text),
    "prompts.evolution_prompt": lambda text: sets.evolution_prompt("gsm8k", text),
    "records.content_id": lambda text: content_id("x", text),
    "redaction.Redactor": Redactor("sk-1111111111111111").redact,
}
COVERED_BY_ANOTHER = {
    "reference_corrector.diagnosed_kind": "correct",
    "steps.number_steps": "render_path",
    "steps.same_steps": "same_step",
    "reasoning_paths.path_messages": "prompts.path_prompt",
    "reasoning_paths.path_row": "parse_path",
    "prompts.sets.question_block": "prompts.path_prompt",
    "prompts.sets.path_input": "prompts.path_prompt",
    "prompts.sets.correction_input": "prompts.correction_prompt",
    "prompts.sets.solution_block": "prompts.correction_prompt",
    "corrections.parsing.render_choice_correction": "render_correction",
    "reference_corrector.repair.with_result": "reference_corrector.correct",
    "reference_corrector.repair.explain": "reference_corrector.correct",
}
"""Functions of the modules below that take a string and are not in the table by themselves."""
NO_MODEL_TEXT = {
    "reasoning_paths.prompt_identity",
    "reasoning_paths.seed_of",
    "mixture.building.rank",
    "prompts.sets.load",
    "prompts.sets.prompt_text",
    "prompts.sets.fingerprint",
    "questions.tasks.task.draft_by_mapping",
}
MODULES = (
    "steps",
    "reasoning_paths",
    "verdicts",
    "questions.near_duplicates",
    "evolution",
    "corrections.parsing",
    "corrections.review",
    "report.render",
    "questions.tasks.task",
    "reference_corrector",
    "reference_corrector.gold_rationale",
    "reference_corrector.repair",
    "step_checker.equations",
    "prompts.sets",
    "mixture.building",
)


COSTLY = {
    "report.align_correction",
    "reference_corrector.correct",
    "reference_corrector.correct, prose",
    "reference_corrector.correct, rationale",
    "evolution.answer_by_majority",
}
"""Timed on every sixth pattern, and on those that compare with words."""


@pytest.mark.parametrize("name", FUNCTIONS)
def test_time_is_linear(name):
    assert superlinear(FUNCTIONS[name], some_patterns if name in COSTLY else patterns) == []


def some_patterns(size: int) -> dict[str, str]:
    chosen = list(patterns(size).items())[::6]
    return dict(chosen) | words_apart(size)


def words_apart(size: int) -> dict[str, str]:
    """Return lines of alike words, for what compares two texts."""
    return {
        "one word against two": repeated("1 1 1 2 ", size),
        "many different words": " ".join(f"w{number} x" for number in range(size // 8)),
        "lines of one word": repeated("Step 1: " + "a 1 " * 60 + "\n", size),
    }


def test_marking_differences_takes_linear_time_where_every_second_word_differs():
    def mark(text: str) -> object:
        return align_correction(correction(text, text.replace("x", "y").replace("1 2", "2 2")))

    assert superlinear(mark, words_apart) == []


@pytest.mark.parametrize("name", ["parse_path", "judge_path", "review", "parse_evolved"])
def test_the_longest_text_that_enters_a_stage_is_dealt_with_within_seconds(name):
    stages = {
        "parse_path": FUNCTIONS["reasoning_paths.parse_path"],
        "judge_path": FUNCTIONS["verdicts.judge_path"],
        "review": FUNCTIONS["corrections.review_correction, corrector's"],
        "parse_evolved": FUNCTIONS["evolution.parse_evolved"],
    }
    texts = patterns(MAX_TEXT_CHARS - 100)
    for kind in ("newlines", "digits", "plus", "hashes", "open boxes", "letters", "step lines", "question lines"):
        assert cpu_seconds(stages[name], texts[kind]) < 3, kind


def test_a_longer_text_is_rejected_with_a_reason():
    long = completion("1" * (MAX_TEXT_CHARS + 1))
    assert parse_path(QUESTION, 0, "student", long).reason == "too_long"
    assert parse_evolved(QUESTION, 0, long).reason == "too_long"
    assert review_correction(judged("Step 1: 8."), long, family="numeric").reason == "too_long"
    assert answer_by_majority(QUESTION, [long, long, long]).reason == "no_majority"


def test_every_public_function_that_takes_text_is_timed():
    timed = {name.partition(",")[0].rpartition(".")[2] for name in FUNCTIONS}
    missing = []
    for place in MODULES:
        module = importlib.import_module(f"lema_core.{place}")
        for name, function in inspect.getmembers(module, inspect.isfunction):
            takes_text = str in {parameter.annotation for parameter in inspect.signature(function).parameters.values()}
            ours = function.__module__ == module.__name__ and not name.startswith("_")
            known = name in timed or f"{place}.{name}" in COVERED_BY_ANOTHER.keys() | NO_MODEL_TEXT
            if ours and takes_text and not known:
                missing.append(f"{place}.{name}")
    assert not missing


def test_the_simulated_endpoint_reads_prompts_in_linear_time():
    def read(text: str) -> object:
        return simulated.read_request(text)

    assert superlinear(read) == []
