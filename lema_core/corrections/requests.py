"""Requests for corrections, and the reviewed tries on each mistake (paper, section 2.1)."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from lema_core.corrections.parsing import Parse, Shape, parse_correction
from lema_core.corrections.review import (
    Filter,
    corrected_solution,
    original_of,
    require_agreement,
    review_correction,
    without_false_steps,
)
from lema_core.llm.requests import CompletionRequest, Outcome, Sampling
from lema_core.prompts import correction_prompt
from lema_core.prompts.sets import Messages
from lema_core.questions.tasks import Task
from lema_core.records import Correction, JudgedPath, Rejection
from lema_core.scoring.pool import Scored, TextToScore


@dataclass(frozen=True, slots=True)
class MistakeTries:
    """The reviewed tries on one mistake, in their order."""

    mistake: JudgedPath
    rows: tuple[Correction | Rejection, ...]

    @property
    def corrected(self) -> bool:
        """Whether some try was accepted."""
        return any(isinstance(row, Correction) for row in self.rows)


Prompt = Callable[[str, str, str, tuple[str, ...] | None, Shape], Messages]
"""Writes the chat that asks for a correction: prompt set, question, mistaken path, candidates, shape."""


def correction_requests(
    mistakes: Iterable[JudgedPath],
    task: Task,
    sampling: Sampling,
    tries: int = 1,
    prompt: Prompt = correction_prompt,
) -> Iterator[CompletionRequest]:
    """Yield ``tries`` requests per mistake, in order: the same prompt with sample index 0, 1, ..."""
    for mistake in mistakes:
        original = original_of(mistake, task.shape)
        messages = prompt(task.prompts, mistake.question, original, mistake.candidates, task.shape)
        for attempt in range(tries):
            yield CompletionRequest(messages, sampling, attempt)


Score = Callable[[Sequence[TextToScore]], Awaitable[Sequence[Scored]]]
"""Returns the verdicts of a task's scorer on corrected solutions."""


async def review_tries(  # noqa: PLR0913  what is asked, what came, and how it is judged
    mistakes: Iterable[JudgedPath],
    outcomes: AsyncIterator[Outcome],
    task: Task,
    score: Score | None = None,
    *,
    corrector: str,
    tries: int,
    reject_false_steps: bool = False,
    parse: Parse = parse_correction,
    rule: Filter = "checks",
) -> AsyncIterator[MistakeTries]:
    """Yield each mistake with its tries: accepted corrections, and rejections with their reason.

    ``score`` is that of a task with a scorer. Then all outcomes are read first: the corrected solutions are scored
    together, as each may take a judge's answer or a program's run.
    """
    scored: Mapping[TextToScore, Scored] | None = None
    if score is not None:
        mistakes = list(mistakes)
        asked = [mistake for mistake in mistakes for _ in range(tries)]
        outcomes, scored = await _score_corrected(asked, outcomes, task, score, parse, rule)
    for mistake in mistakes:
        check = partial(
            review_correction,
            mistake,
            family=task.family,
            shape=task.shape,
            corrector=corrector,
            scored=scored,
            parse=parse,
            rule=rule,
        )
        # In a thread: matching two answers may take a second, and the event loop has requests to look after.
        rows = [await asyncio.to_thread(check, await anext(outcomes), attempt=attempt) for attempt in range(tries)]
        yield MistakeTries(mistake, tuple(map(without_false_steps, rows) if reject_false_steps else rows))


async def _score_corrected(
    mistakes: Sequence[JudgedPath],
    outcomes: AsyncIterator[Outcome],
    task: Task,
    score: Score,
    parse: Parse,
    rule: Filter,
) -> tuple[AsyncIterator[Outcome], Mapping[TextToScore, Scored]]:
    """Return the outcomes of the mistakes again, and the verdicts on the corrected solutions of those that are read."""
    read = [await anext(outcomes) for _ in mistakes]
    texts = [
        TextToScore.of(mistake, text)
        for mistake, outcome in zip(mistakes, read, strict=True)
        if (text := corrected_solution(mistake, outcome, task.shape, parse, rule=rule)) is not None
    ]
    scored = dict(zip(texts, await score(texts), strict=True))

    async def again() -> AsyncIterator[Outcome]:
        for outcome in read:
            yield outcome

    return again(), scored


async def keep_agreed(
    tried: Iterable[MistakeTries],
    outcomes: AsyncIterator[Outcome],
    task: Task,
    second: str,
    score: Score | None = None,
    parse: Parse = parse_correction,
    *,
    rule: Filter = "checks",
) -> list[MistakeTries]:
    """Return the tries that the second teacher's own correction agrees with on the step.

    ``outcomes`` holds one answer per mistake that is ``corrected``, in order: the second teacher gets only these.
    """
    checked = []
    scored: Mapping[TextToScore, Scored] | None = None
    if score is not None:
        tried = list(tried)
        corrected = [tries.mistake for tries in tried if tries.corrected]
        outcomes, scored = await _score_corrected(corrected, outcomes, task, score, parse, rule)
    for mistake_tries in tried:
        rows = mistake_tries.rows
        if mistake_tries.corrected:
            answer = await anext(outcomes)
            check = partial(
                review_correction, family=task.family, shape=task.shape, corrector=second, scored=scored, parse=parse,
                rule=rule,
            )  # fmt: skip
            own = await asyncio.to_thread(check, mistake_tries.mistake, answer)
            rows = tuple(require_agreement(row, own) if isinstance(row, Correction) else row for row in rows)
        checked.append(MistakeTries(mistake_tries.mistake, rows))
    return checked
