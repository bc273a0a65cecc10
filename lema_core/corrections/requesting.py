"""What is asked of a corrector, and the tries on one mistake brought together again (paper, section 2.2)."""

from collections.abc import AsyncIterator, Iterable, Iterator
from typing import Literal

from lema_core.corrections.reviewing import review
from lema_core.corrections.selection import select
from lema_core.llm.requests import CompletionRequest, Outcome, Sampling
from lema_core.prompts import correction_prompt
from lema_core.questions.tasks import Task
from lema_core.records import Correction, JudgedPath, Rejection
from lema_core.steps import numbered_path, strip_marks


def correction_requests(
    mistakes: Iterable[JudgedPath], task: Task, sampling: Sampling, tries: int
) -> Iterator[CompletionRequest]:
    """Yield ``tries`` requests a mistake, in order: the same prompt with sample index 0, 1, ..."""
    for mistake in mistakes:
        original = numbered_path(mistake.text) if task.shape == "steps" else strip_marks(mistake.text).strip()
        messages = correction_prompt(task.prompts, mistake.question, original, mistake.candidates, task.shape)
        for attempt in range(tries):
            yield CompletionRequest(messages, sampling, attempt)


async def reviewed(
    mistakes: Iterable[JudgedPath],
    outcomes: AsyncIterator[Outcome],
    task: Task,
    *,
    corrector: str,
    tries: int,
    keep: Literal["shortest", "all"],
) -> AsyncIterator[Correction | Rejection]:
    """Yield a row a request: accepted corrections, and rejections with their reason."""
    for mistake in mistakes:
        rows = [
            review(mistake, await anext(outcomes), family=task.family, shape=task.shape, corrector=corrector, attempt=k)
            for k in range(tries)
        ]
        for row in select(rows, keep):
            yield row
