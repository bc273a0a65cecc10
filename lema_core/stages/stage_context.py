"""What a stage works with: the store, and for stages that ask a model the request engine and the live endpoints."""

from collections import Counter
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lema_core.artifacts import PartWriter, Store
from lema_core.errors import BatchPendingError
from lema_core.llm.endpoints import EndpointSpec
from lema_core.llm.requests import CompletionRequest, Failure, Outcome
from lema_core.run.failed_requests import ANSWERED, FAILED, SMALL, failed_error, too_many

if TYPE_CHECKING:
    from lema_core.llm.engine import Engine


@dataclass(frozen=True, slots=True)
class StageContext:
    """What a shard works with."""

    store: Store
    engine: "Engine | None" = None
    endpoints: Sequence[EndpointSpec] = ()
    """As they can be reached now, in the order of the stage's own."""
    max_failed: float = 0.2

    def ask(
        self,
        endpoint: EndpointSpec,
        requests: Iterable[CompletionRequest],
        count: int,
        part: PartWriter,
        prefix: str = "",
    ) -> AsyncIterator[Outcome]:
        """Send ``count`` requests and yield their outcomes in order, tallied in the part."""
        if self.engine is None:
            raise LookupError("a stage that asks a model runs in a session with an engine")
        return tally_outcomes(self.engine.stream(endpoint, requests), part, count, self.max_failed, prefix)


async def tally_outcomes(
    outcomes: AsyncIterator[Outcome], part: PartWriter, requests: int, max_failed: float, prefix: str = ""
) -> AsyncIterator[Outcome]:
    """Pass outcomes on and add up what they used and what failed, in the part's counts.

    Args:
        outcomes: of the requests, in order.
        part: keeps the counts, for the report and for ``lema run``.
        requests: how many there are.
        max_failed: the largest share of them that may fail.
        prefix: keeps apart the counts of a stage's second endpoint.

    Raises:
        BatchPendingError: an outcome is still to come. A part must not hold it as a failure.
        RequestsFailedError: with the last outcome, so that all are settled: more failed than the run lets pass.
    """
    failed, words, seen = Counter[str](), dict[str, str](), 0
    async for outcome in outcomes:
        seen += 1
        if isinstance(outcome, Failure):
            if outcome.reason == "pending":
                raise BatchPendingError(f"a batch is submitted and not finished ({outcome.detail})")
            part.counts[f"{prefix}{FAILED}{outcome.reason}"] += 1
            failed[outcome.reason] += 1
            words[outcome.reason] = outcome.detail
        else:
            part.counts[f"{prefix}{ANSWERED}"] += 1
            part.counts[f"{prefix}prompt_tokens"] += outcome.prompt_tokens
            part.counts[f"{prefix}completion_tokens"] += outcome.completion_tokens
        if seen == requests and max_failed < 1:
            # Of a filter's refusals too: where it lets nothing pass, the prompts are not to blame one by one.
            nothing = failed.total() == requests >= SMALL
            if nothing or too_many(failed, requests, max_failed):
                raise failed_error(failed, requests, max_failed, words)
        yield outcome
