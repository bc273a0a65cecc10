"""Evolution: new questions from old ones, with an answer by majority (paper, section 2.2).

Seeds are drawn with replacement: *correction-centric* from the questions that occur in accepted corrections, each by
its count there; *general*, the control, from all questions alike. A model writes a new question for each; repetitions
and test questions are left out; the answer is the majority of several sampled ones. Nothing here sends or stores.
"""

import random
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Literal

from lema_core.answers import MAX_TEXT_CHARS, Family, extract, majority_vote
from lema_core.errors import DataError
from lema_core.llm.requests import Completion, CompletionRequest, Outcome, Sampling
from lema_core.prompts import evolution_prompt
from lema_core.questions import get_task, question_id
from lema_core.questions.near_duplicates import KnownQuestions, NearDuplicates
from lema_core.reasoning_paths import no_answer, seed_of, without_run_on
from lema_core.records import Correction, EvolvedQuestion, Question, Rejection
from lema_core.steps import numbered_path

REASONS = {
    "request_failed": "the request got no answer",
    "cut_off": "the answer was cut off by its length limit",
    "cut_in_thinking": "the model was cut off inside its thinking",
    "only_thinking": "the model wrote its thinking and no question",
    "too_long": "the answer is longer than any stage reads",
    "unparsable": "no created question was found in the answer",
    "near_duplicate": "the question repeats its seed, another seed or an earlier created question",
    "test_overlap": "the question is, or nearly is, one of the test questions",
    "no_majority": "no answer has more than half of the samples",
}
"""Every reason code of this stage."""

LABEL = re.compile(r"(?:Created|New)\s++Question\s*+#?\s*+:[*\s]*+", re.IGNORECASE)
_PART = r"(?:Given Question|Created Question|(?:Final )?Answer|Solution|Explanation)"
NEXT_PART = re.compile(
    rf"#[#\s*]{{0,16}}{_PART}\b"
    rf"|(?:\n|(?<=[.?!])\s)[\s*]{{0,16}}{_PART}[\s*]*+:"
    r"|(?:\n|(?<=\?)\s)[\s*]{0,16}(?:(?:So|Thus|Therefore|Hence),? )?the (?:final )?answer is\b",
    re.IGNORECASE,
)
"""What a model adds to its question; "Solution A has 30% acid" and "Answer in cents." are the question's own words."""
CHOICES = re.compile(r"\[(?P<choices>[^\[\]]++)\]\s*+$")
MIN_CHOICES = 2
Kind = Literal["centric", "general"]


@dataclass(frozen=True, slots=True)
class EvolutionRequest:
    """The request for one new question: the ``draw``-th from this seed, counted from 0."""

    seed: Question
    draw: int
    request: CompletionRequest


def seed_counts(
    kind: Kind, questions: Iterable[Question], corrections: Iterable[Correction], draws: int, seed: int = 0
) -> Counter[str]:
    """Return how often each question is drawn as a seed, by id; ``corrections`` count for the centric kind only.

    Raises:
        DataError: there is nothing to draw from.
    """
    if kind == "centric":
        weights = Counter(correction.question_id for correction in corrections)
    else:
        weights = Counter({question.id: 1 for question in questions})
    if not weights:
        raise DataError(
            f"No seed can be drawn: there is no {'accepted correction' if kind == 'centric' else 'question'}. "
            "Expected at least one: look at the rejected rows of the corrections, or take the other one of `kinds`."
        )
    ids = sorted(weights)
    rng = random.Random(f"lema-evolution-{kind}-{seed}")  # noqa: S311  # a seeded draw, not a secret
    return Counter(rng.choices(ids, [weights[seed_id] for seed_id in ids], k=draws))


def evolution_requests(
    counts: Counter[str], questions: Iterable[Question], sampling: Sampling, round_number: int = 1
) -> Iterator[EvolutionRequest]:
    """Yield a request for each drawn seed, in the questions' order; draws of one seed differ in the sample index.

    Every round takes the same seeds; a later one goes on where the samples of the one before ended.
    """
    for question in questions:
        if not counts[question.id]:
            continue
        messages = evolution_prompt(get_task(question.task).prompts, question.text, question.candidates)
        own = sampling if sampling.seed is not None else sampling.model_copy(update={"seed": seed_of(question.id)})
        drawn = counts[question.id]
        for draw in range(drawn * (round_number - 1), drawn * round_number):
            yield EvolutionRequest(question, draw, CompletionRequest(messages, own, draw))


def parse_evolved(seed: Question, draw: int, outcome: Outcome) -> Question | Rejection:
    """Return the created question, its ``gold`` still empty, or a rejection with a reason of ``REASONS``."""
    if not isinstance(outcome, Completion):
        return _rejected(seed, draw, outcome, "request_failed", f"{outcome.reason}: {outcome.detail}")
    if outcome.thinking and not outcome.text:
        return _rejected(seed, draw, outcome, *no_answer(outcome))
    if outcome.finish_reason == "length":
        return _rejected(seed, draw, outcome, "cut_off", f"after {outcome.completion_tokens} tokens; raise max_tokens")
    if len(outcome.text) > MAX_TEXT_CHARS:
        return _rejected(seed, draw, outcome, "too_long", f"{len(outcome.text)} characters; at most {MAX_TEXT_CHARS}")
    parsed = parse_created(outcome.text, with_choices=seed.candidates is not None)
    if parsed is None:
        return _rejected(seed, draw, outcome, "unparsable", f"it starts with {outcome.text[:60]!r}")
    text, candidates = parsed
    return Question(
        id=question_id(seed.task, text, candidates),
        task=seed.task,
        text=text,
        gold="",
        candidates=candidates,
        origin=outcome.key,
        seed_question_id=seed.id,
    )


def parse_created(text: str, *, with_choices: bool = False) -> tuple[str, tuple[str, ...] | None] | None:
    """Return the question, and the choices that stand after it in brackets, or None if there are none.

    The label may be missing where the answer is one paragraph: it is the question then.
    """
    label = LABEL.search(text)
    if label is None and "\n" in text.strip():
        return None
    rest = text[label.end() :] if label else text
    following = NEXT_PART.search(rest)
    question = " ".join((rest[: following.start()] if following else rest).replace("**", "").split())
    if not with_choices:
        return (question, None) if question else None
    found = CHOICES.search(question)
    choices = tuple(choice.strip() for choice in found["choices"].split(";") if choice.strip()) if found else ()
    asked = question[: found.start()].rstrip() if found else ""
    return (asked, choices) if asked and len(set(choices)) >= MIN_CHOICES else None


class Novelty:
    """Screens created questions: passes none that is a test question, a seed, or like an earlier one."""

    def __init__(self, tests: Iterable[str], seeds: Iterable[str], similarity: float = 0.6) -> None:
        self._known_tests = KnownQuestions()
        self._tests, self._others = NearDuplicates(similarity), NearDuplicates(similarity)
        for number, text in enumerate(tests):
            self._known_tests.add(text)
            self._tests.add(f"test {number}", text)
        for number, text in enumerate(seeds):
            self._others.add(f"seed {number}", text)

    def screen(self, questions: Iterable[Question]) -> Iterator[Question | Rejection]:
        """Yield each question, or a rejection where it is not new."""
        for question in questions:
            if question.text in self._known_tests or (like := self._tests.like(question.text)) is not None:
                yield _not_new(question, "test_overlap", "a test question")
            elif (like := self._others.like(question.text)) is not None:
                yield _not_new(question, "near_duplicate", like)
            else:
                self._others.add(question.id, question.text)
                yield question


def answer_by_majority(question: Question, outcomes: Sequence[Outcome]) -> EvolvedQuestion | Rejection:
    """Return the question with the majority's answer as its gold answer and a path that ends in it as its rationale.

    More than half of the samples must agree, by equivalence and not by spelling; failed samples and those without an
    answer agree with none (paper: the majority of 3; three different answers drop the question).
    """
    task = get_task(question.task)
    texts = [
        without_run_on(outcome.text, question.task)
        if isinstance(outcome, Completion) and len(outcome.text) <= MAX_TEXT_CHARS
        else ""
        for outcome in outcomes
    ]
    family: Family = task.comparable
    answers = [extract(text, family, question.candidates).value if text else None for text in texts]
    vote = majority_vote(answers, family, question.candidates)
    if vote.answer is None or 2 * vote.count <= len(outcomes):
        said = ", ".join("none" if answer is None else answer for answer in answers)
        return _not_new(question, "no_majority", said)
    place = vote.classes[0][0]
    path, chosen = texts[place], outcomes[place]
    answered = {name: getattr(question, name) for name in (field.name for field in fields(Question))} | {
        "gold": vote.answer,
        "rationale": numbered_path(path) if task.shape == "steps" else path,
    }
    return EvolvedQuestion(**answered, thinking=chosen.thinking if isinstance(chosen, Completion) else "")


def _rejected(seed: Question, draw: int, outcome: Outcome, reason: str, detail: str) -> Rejection:
    text = outcome.text if isinstance(outcome, Completion) else ""
    why = f"{REASONS[reason]} ({detail})"
    return Rejection.of(seed.id, reason, why, seed.id, draw, text=text, request_key=outcome.key)


def _not_new(question: Question, reason: str, detail: str) -> Rejection:
    parent, made_by = question.seed_question_id or question.id, question.origin
    why = f"{REASONS[reason]}: {detail}"
    return Rejection.of(parent, reason, why, question.id, made_by, text=question.text, request_key=made_by)
