"""What kind of mistake a wrong path makes: a column that arms filter by and that mistakes are drawn by.

LEMMA (arXiv 2503.17439) samples mistakes by the share of each kind among a student's own. The kind is the reference
corrector's diagnosis, where a rationale is known, or a teacher's answer to one question per mistake. The two have names
of their own: what the diagnosis compares is numbers, what a teacher reads is words.
"""

import random
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence

from lema_core.llm.requests import Completion, CompletionRequest, Outcome, Sampling
from lema_core.questions import get_task
from lema_core.records import ErrorType, JudgedPath, Rejection, content_id
from lema_core.reference_corrector import Problem, diagnosed_kind
from lema_core.steps import numbered_path

TYPES: Mapping[str, str] = {
    "calculation": "a computation has a wrong result",
    "misreading": "a condition or a word of the question is misunderstood, or a number is copied wrongly",
    "formula": "a wrong operation, formula or rule is chosen",
    "missing_step": "a needed step is left out, or the solution stops too early",
    "units": "units or quantities of different kinds are mixed up",
    "invention": "a value or fact is used that the question does not give",
    "other": "none of these",
}
"""What a teacher chooses from."""
DIAGNOSES = ("arithmetic", "off_course", "stops_short", "no_way_on", "past_the_goal", "answer_line", "undiagnosed")
"""What the reference corrector says; ``undiagnosed`` where it cannot compare the path with a rationale."""
REASONS = {
    "request_failed": "the request for the type failed",
    "unparsable": "the answer names none of the types",
}
VERSION = 1
"""Raised when the same mistake would be asked about in other words."""
_NAMED = re.compile(r"\b(?:" + "|".join(TYPES) + r")\b", re.IGNORECASE)


def type_requests(mistakes: Iterable[JudgedPath], sampling: Sampling) -> Iterator[CompletionRequest]:
    """Yield one request per mistake: which type it is."""
    listed = "\n".join(f"{name}: {about}" for name, about in TYPES.items())
    for mistake in mistakes:
        path = numbered_path(mistake.text) if get_task(mistake.task).shape == "steps" else mistake.text.strip()
        text = (
            "The solution below ends in a wrong answer. Name the type of its first mistake, one of:\n"
            f"{listed}\n\nQuestion: {mistake.question}\n\nSolution:\n{path}\n\n"
            "Answer with the type's name alone."
        )
        yield CompletionRequest(({"role": "user", "content": text},), sampling, 0)


def parse_type(mistake: JudgedPath, outcome: Outcome, model: str) -> ErrorType | Rejection:
    """Return the type that a teacher names last: what it may weigh before is not its answer."""
    if not isinstance(outcome, Completion):
        detail = f"{outcome.reason}: {outcome.detail}"
        return Rejection.of(mistake.id, "request_failed", detail, request_key=outcome.key)
    named = _NAMED.findall(outcome.text[-2_000:])
    if not named:
        return Rejection.of(mistake.id, "unparsable", REASONS["unparsable"], text=outcome.text, request_key=outcome.key)
    return type_of(mistake, named[-1].lower(), model, outcome.key)


def diagnose_type(mistake: JudgedPath) -> ErrorType:
    """Return the type that the reference corrector finds."""
    kind = None
    if get_task(mistake.task).shape == "steps":
        kind = diagnosed_kind(Problem(mistake.question, mistake.gold, mistake.rationale), mistake.text)
    return type_of(mistake, kind or DIAGNOSES[-1], "reference")


def type_of(mistake: JudgedPath, error_type: str, named_by: str, key: str = "") -> ErrorType:
    """Return the row of a mistake's type."""
    return ErrorType(
        id=content_id("type", mistake.id, error_type, named_by),
        path_id=mistake.id,
        question_id=mistake.question_id,
        student=mistake.student,
        error_type=error_type,
        named_by=named_by,
        request_key=key,
    )


def draw_alike(types: Mapping[str, str], students: Mapping[str, str], like: str, seed: int) -> set[str]:
    """Return the mistakes to keep so that all of them have the shares of types that one student's mistakes have.

    As many as possible are kept: those of the type that is scarcest for its share decide how many.

    Args:
        types: each mistake's type, by id.
        students: each mistake's student, by id.
        like: the student whose shares count.
        seed: decides which ones of a type are kept.
    """
    by_type: dict[str, list[str]] = {}
    for mistake, error_type in types.items():
        by_type.setdefault(error_type, []).append(mistake)
    wanted = Counter(error_type for mistake, error_type in types.items() if students[mistake] == like)
    if not wanted:
        return set()
    # The student has as many itself, so the factor is at least 1.
    factor = min(len(by_type[error_type]) / count for error_type, count in wanted.items())
    kept = set[str]()
    for error_type, count in sorted(wanted.items()):
        kept |= set(_draw(sorted(by_type[error_type]), int(count * factor + 1e-9), f"{seed}:{error_type}"))
    return kept


def _draw(ids: Sequence[str], count: int, seed: str) -> list[str]:
    return random.Random(seed).sample(ids, count)  # noqa: S311  not for secrets
