"""How stages judge texts: by the task's scorer where it has one, else by the matcher; and what of it is identity."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from lema_core.artifacts import PartWriter
from lema_core.llm.endpoints import EndpointSpec
from lema_core.llm.requests import CompletionRequest, Outcome, changed_params
from lema_core.questions import Task, get_task
from lema_core.scoring.pool import Scored, TextToScore, score_all
from lema_core.stages.failed_requests import ANSWERED, JUDGE, SMALL, failed_error, failures_in, too_many
from lema_core.stages.stage import ModelCalls, StageContext, times


def judged_as(task: str, judge: EndpointSpec | None) -> dict[str, Any]:
    """Return what decides the verdicts of a task of one's own, for an identity; nothing for a bundled task.

    Of a scorer its file's text, the files that it uses, and its judge: an edited scorer judges again, and samples
    nothing again.
    """
    found = get_task(task)
    if not found.reference:
        return {}
    shaped: dict[str, Any] = {"shape": found.shape, "family": found.family}
    if found.scorer is None:
        return shaped
    asked = {}
    if judge and found.judge:
        asked = {"judge": judge.identity, **changed_params(found.judge.sampling, judge.params)}
    return shaped | {"scorer": found.reference.rpartition("#")[2], "judge": asked}


def judge_calls(task: str, judge: EndpointSpec | None, texts: int | None) -> tuple[ModelCalls, ...]:
    """Return what a scorer asks its judge at most about ``texts`` texts, for a plan."""
    found = get_task(task).judge
    if found is None or judge is None:
        return ()
    return (
        ModelCalls(
            endpoint=judge, rows=times(texts, found.requests), max_tokens=found.max_tokens, role="judge",
            sampling=found.sampling,
        ),
    )  # fmt: skip


def judge_requests(task: str) -> int:
    """Return the most requests to a judge for one text."""
    found = get_task(task).judge
    return found.requests if found else 0


async def score_texts(
    context: StageContext, task: Task, judge: EndpointSpec | None, part: PartWriter, texts: Sequence[TextToScore]
) -> list[Scored]:
    """Return a scorer's verdicts in order; its requests are tallied in the part.

    Raises:
        RequestsFailedError: the judge did not answer too many of them.
        LemaError: its endpoint is unusable, or the budget is used up.
    """
    words: dict[str, str] = {}

    async def ask(request: CompletionRequest) -> Outcome:
        assert judge is not None  # noqa: S101  the pool gets this function only with one
        # The number of requests is not known before: they are checked together below.
        (outcome,) = [outcome async for outcome in context.ask(judge, [request], 0, part, JUDGE)]
        words[getattr(outcome, "reason", "")] = getattr(outcome, "detail", "")
        return outcome

    scored = await score_all(task, texts, ask if judge else None)
    codes = Counter(found.decided_by for found in scored if found.verdict == "unknown")
    part.counts.update({f"scorer {code}": count for code, count in sorted(codes.items())})
    failed = failures_in(part.counts, JUDGE)
    requests = failed.total() + part.counts.get(f"{JUDGE}{ANSWERED}", 0)
    nothing = failed.total() == requests >= SMALL
    if context.max_failed < 1 and (nothing or too_many(failed, requests, context.max_failed)):
        raise failed_error(failed, requests, context.max_failed, words)
    return scored
