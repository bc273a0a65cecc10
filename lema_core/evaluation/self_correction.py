"""A second turn: a model is shown its own first answer and asked to check and correct it; what that changes.

The first answers are those of the evaluation. An answer that never came is shown to no model: it counts as not right in
both turns, so that the questions of the two turns are the same.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from lema_core.errors import DataError
from lema_core.evaluation import statistics
from lema_core.evaluation.accuracy import FAILED
from lema_core.evaluation.statistics import PairedDifference, Proportion
from lema_core.llm.requests import CompletionRequest, Sampling
from lema_core.prompts import fingerprint, load
from lema_core.questions import get_task
from lema_core.reasoning_paths import PathRequest, PromptKind, path_messages, prompt_identity
from lema_core.records import JudgedPath, Question

SECOND = 1
"""The sample index of a second turn's answer."""


def has_answer(first: JudgedPath) -> bool:
    """Return whether there is a text of the model that it can be shown."""
    return first.verdict != FAILED and first.decided_by != "thinking"


def second_turns(answers: Iterable[JudgedPath], sampling: Sampling, prompt: PromptKind) -> Iterator[PathRequest]:
    """Yield the request of each second turn: the first chat, the model's own answer, and the wish to check it."""
    for first in answers:
        if not has_answer(first):
            continue
        asked = Question(
            id=first.question_id, task=first.task, text=first.question, gold=first.gold, rationale=first.rationale,
            candidates=first.candidates, level=first.level,
        )  # fmt: skip
        check = load(get_task(first.task).prompts).check.instruction
        own, wish = {"role": "assistant", "content": first.text}, {"role": "user", "content": check}
        messages = (*path_messages(asked, prompt), own, wish)
        yield PathRequest(asked, SECOND, CompletionRequest(messages, sampling, 0))


def second_prompt_identity(task: str) -> str:
    """Return the hash of the prompts of both turns."""
    return f"{prompt_identity(task)} {fingerprint(get_task(task).prompts, 'check')}"


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnScore:
    """One model's accuracy at its first and its second turn."""

    name: str
    first: Proportion
    second: Proportion
    difference: PairedDifference
    """Of the second turn to the first, question by question. ``only_arm`` counts wrong to right, ``only_reference``
    right to wrong."""
    stayed_right: int
    stayed_wrong: int


def score_turns(
    first: Mapping[str, Iterable[JudgedPath]], second: Mapping[str, Iterable[JudgedPath]]
) -> tuple[TurnScore, ...]:
    """Return what the second turn changed, for each model that had one.

    Raises:
        DataError: a model's turns are of different questions.
    """
    scores = []
    for name, rows in second.items():
        after = {row.question_id: row.verdict == "right" for row in rows}
        before = {row.question_id: row.verdict == "right" for row in first.get(name, ())}
        if before.keys() != after.keys() or not after:
            raise DataError(
                f"{name} has {len(before)} first answers and {len(after)} second ones, or they are of other questions. "
                "Expected one second answer per first one: evaluate again."
            )
        items = sorted(after)
        one, two = [before[item] for item in items], [after[item] for item in items]
        scores.append(
            TurnScore(
                name=name,
                first=statistics.wilson(sum(one), len(items)),
                second=statistics.wilson(sum(two), len(items)),
                difference=statistics.paired_difference(one, two),
                stayed_right=sum(a and b for a, b in zip(one, two, strict=True)),
                stayed_wrong=sum(not a and not b for a, b in zip(one, two, strict=True)),
            )
        )
    return tuple(scores)
