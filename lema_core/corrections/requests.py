"""Requests for corrections, and the reviewed tries on each mistake (paper, section 2.1)."""

import asyncio
from collections.abc import AsyncIterator, Iterable, Iterator
from dataclasses import dataclass
from functools import partial

from lema_core.corrections.review import require_agreement, review_correction, without_false_steps
from lema_core.llm.requests import CompletionRequest, Outcome, Sampling
from lema_core.prompts import correction_prompt
from lema_core.questions.tasks import Task
from lema_core.records import Correction, JudgedPath, Rejection
from lema_core.steps import numbered_path, strip_marks


@dataclass(frozen=True, slots=True)
class MistakeTries:
    """The reviewed tries on one mistake, in their order."""

    mistake: JudgedPath
    rows: tuple[Correction | Rejection, ...]

    @property
    def corrected(self) -> bool:
        """Whether some try was accepted."""
        return any(isinstance(row, Correction) for row in self.rows)


def correction_requests(
    mistakes: Iterable[JudgedPath], task: Task, sampling: Sampling, tries: int = 1
) -> Iterator[CompletionRequest]:
    """Yield ``tries`` requests per mistake, in order: the same prompt with sample index 0, 1, ..."""
    for mistake in mistakes:
        original = numbered_path(mistake.text) if task.shape == "steps" else strip_marks(mistake.text).strip()
        messages = correction_prompt(task.prompts, mistake.question, original, mistake.candidates, task.shape)
        for attempt in range(tries):
            yield CompletionRequest(messages, sampling, attempt)


async def review_tries(
    mistakes: Iterable[JudgedPath],
    outcomes: AsyncIterator[Outcome],
    task: Task,
    *,
    corrector: str,
    tries: int,
    reject_false_steps: bool = False,
) -> AsyncIterator[MistakeTries]:
    """Yield each mistake with its tries: accepted corrections, and rejections with their reason."""
    for mistake in mistakes:
        check = partial(review_correction, mistake, family=task.family, shape=task.shape, corrector=corrector)
        # In a thread: matching two answers may take a second, and the event loop has requests to look after.
        rows = [await asyncio.to_thread(check, await anext(outcomes), attempt=attempt) for attempt in range(tries)]
        yield MistakeTries(mistake, tuple(map(without_false_steps, rows) if reject_false_steps else rows))


async def keep_agreed(
    tried: Iterable[MistakeTries], outcomes: AsyncIterator[Outcome], task: Task, second: str
) -> list[MistakeTries]:
    """Return the tries that the second teacher's own correction agrees with on the step.

    ``outcomes`` holds one answer per mistake that is ``corrected``, in order: the second teacher gets only these.
    """
    checked = []
    for mistake_tries in tried:
        rows = mistake_tries.rows
        if mistake_tries.corrected:
            answer = await anext(outcomes)
            check = partial(review_correction, family=task.family, shape=task.shape, corrector=second)
            own = await asyncio.to_thread(check, mistake_tries.mistake, answer)
            rows = tuple(require_agreement(row, own) if isinstance(row, Correction) else row for row in rows)
        checked.append(MistakeTries(mistake_tries.mistake, rows))
    return checked
