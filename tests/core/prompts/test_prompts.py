"""Our prompts: well-formed, verified by the project's own parser and matcher, stable in identity."""

import pytest

from lema_core import prompts
from lema_core.answers import extract, judge
from lema_core.corrections import ParsedCorrection, parse_correction, render_correction
from lema_core.errors import ConfigError
from lema_core.questions import TASKS
from lema_core.steps import numbered_path, same_step, split_path

SETS = prompts.names()
FAMILY = {task.prompts: task for task in TASKS.values()}


@pytest.mark.parametrize("name", SETS)
def test_a_set_has_four_worked_examples_of_each_kind(name):
    loaded = prompts.load(name)
    assert len(loaded.path.examples) == len(loaded.correction.examples) == 4
    assert len(loaded.evolution.examples) == 2


@pytest.mark.parametrize("name", SETS)
def test_every_worked_path_is_in_our_form_and_gives_one_answer(name):
    task = FAMILY[name]
    for example in prompts.load(name).path.examples:
        assert extract(example.solution, task.family, example.candidates).outcome == "value"
        if task.shape == "steps":
            assert numbered_path(example.solution) == example.solution


@pytest.mark.parametrize("name", SETS)
def test_every_worked_correction_repairs_a_mistake_and_keeps_what_was_right(name):
    task = FAMILY[name]
    loaded = prompts.load(name)
    solutions = {example.question: example.solution for example in loaded.path.examples}
    for example in loaded.correction.examples:
        parsed = parse_correction(example.correction, task.shape)
        assert isinstance(parsed, ParsedCorrection)
        gold = extract(solutions[example.question], task.family, example.candidates).value
        assert judge(example.original, gold, task.family, example.candidates).verdict == "wrong"
        assert judge(example.correction, gold, task.family, example.candidates).verdict == "right"
        if task.shape == "steps":
            original = split_path(example.original).steps
            assert 1 <= parsed.step <= len(original)
            assert not same_step(original[parsed.step - 1], parsed.steps[0])


@pytest.mark.parametrize("name", SETS)
def test_a_path_prompt_alternates_turns_and_ends_with_the_question(name):
    messages = prompts.path_prompt(name, "How many?")
    assert [message["role"] for message in messages] == ["user", "assistant"] * 4 + ["user"]
    assert messages[-1]["content"] == prompts.path_input(name, "How many?")
    assert prompts.path_prompt(name, "How many?", shots=0) == messages[-1:]


def test_the_path_input_has_the_papers_parts_in_order():
    text = prompts.path_input("gsm8k", "How many?")
    instruction = prompts.load("gsm8k").path.instruction
    assert text == f"{instruction}\n\nQuestion: How many?\nAnswer: Let's think step by step."


def test_the_correction_input_numbers_the_steps_and_ends_in_the_cue():
    text = prompts.correction_input("gsm8k", "How many?", "2+2=5\nSo 6.\nThe answer is 6.")
    assert text.endswith(
        "Question: How many?\nOriginal Solution:\n{\nStep 1: 2+2=5\nStep 2: So 6.\nThe answer is 6.\n}\nIncorrect Step:"
    )


def test_the_choice_shape_has_neither_step_nor_cue():
    text = prompts.correction_input("csqa", "Which?", "I guess oak.\nThe answer is oak.", ("oak", "elm"), "choice")
    assert "Candidate Answers: oak, elm." in text
    assert text.endswith("}")
    output = prompts.correction_output(0, "It is no guess.", "The answer is elm.", shape="choice")
    parsed = parse_correction(output, "choice")
    assert isinstance(parsed, ParsedCorrection)
    assert (parsed.explanation, parsed.steps[0]) == ("It is no guess.", "The answer is elm.")


@pytest.mark.parametrize("step", [1, 3])
def test_training_and_correcting_write_the_same_text(step):
    steps = ["a is 4.", "b is 5."]
    solution = f"Step {step}: a is 4.\nStep {step + 1}: b is 5.\nThe answer is 5."
    ours = prompts.correction_output(step, "It was added.", solution)
    assert ours == render_correction(step, "It was added.", steps, "The answer is 5.")
    assert ("...\n" in ours) == (step > 1)


def test_an_evolution_prompt_shows_the_labels():
    messages = prompts.evolution_prompt("csqa", "Which?", ("oak", "elm"))
    assert messages[-1]["content"].endswith("#Given Question#: Which? [oak; elm]")
    assert messages[1]["content"].startswith("#Created Question#: ")


def test_a_parts_fingerprint_depends_on_that_part_alone(monkeypatch):
    loaded = prompts.load("gsm8k")
    changed = loaded.model_copy(update={"evolution": loaded.evolution.model_copy(update={"instruction": "Write."})})
    before = [prompts.fingerprint("gsm8k", part) for part in ("path", "correction", "evolution")]
    monkeypatch.setattr("lema_core.prompts.sets.load", lambda _: changed)
    after = [prompts.fingerprint("gsm8k", part) for part in ("path", "correction", "evolution")]
    assert before[:2] == after[:2]
    assert before[2] != after[2]


def test_an_unknown_set_is_refused():
    with pytest.raises(ConfigError, match="Expected one of arithmetic, csqa, gsm8k, math"):
        prompts.load("gsm9k")
