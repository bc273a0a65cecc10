"""What tests of the batch transport share: a purchase, and what the simulated endpoint took in."""

from collections.abc import Sequence
from typing import Any

from lema_core.llm import Completion, EndpointSpec, Engine, Price
from lema_core.llm.settings import DEFAULTS, BatchSettings
from lema_core.llm.simulated import SimulatedEndpoint

QUICK = BatchSettings(tries=2, unreachable_s=1.0, listing_s=0.4, listings=4, reading_s=0.4, readings=4)
PRICE = Price(input_per_million=1e6, output_per_million=1e6, batch_factor=1)


def batched(endpoint: SimulatedEndpoint, **changes: Any) -> EndpointSpec:
    fields = {"model": "fixed", "base_url": endpoint.url, "transport": "batch", "batch_poll_s": 0.02, "price": PRICE}
    fields["batches"] = QUICK
    return EndpointSpec(**(fields | changes))


async def buy(ledger, spec, requests, budget=None, settings=DEFAULTS):
    async with Engine.open(ledger, budget, "batch", settings) as opened:
        return [outcome async for outcome in opened.stream(spec, requests)]


def answered(outcomes: Sequence[object], count: int) -> bool:
    """Tell whether there are so many outcomes, and each is an answer."""
    return [type(one) for one in outcomes] == [Completion] * count


def submitted(endpoint: SimulatedEndpoint) -> list[int]:
    return [batch["request_counts"]["total"] for batch in endpoint.batches.batches.values()]


def let_end(endpoint: SimulatedEndpoint) -> None:
    """End the wait of every batch under way."""
    for batch in endpoint.batches.batches.values():
        batch["ready_at"] = 0
