"""One endpoint in use: its client, its gate, and the first contact, made once for everybody who waits for it."""

import asyncio
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from lema_core.errors import ConfigError
from lema_core.llm.costs.token_estimates import prompt_chars
from lema_core.llm.endpoints import WEIGHTS, EndpointSpec
from lema_core.llm.http_transport import Buyer, Desk
from lema_core.llm.ledger.claims import BEAT_S
from lema_core.llm.ledger.credit import Amount
from lema_core.llm.limits.admission_queue import Gate
from lema_core.llm.limits.descriptors import Descriptors
from lema_core.llm.limits.limiter import Limiter
from lema_core.llm.limits.usability import Usability
from lema_core.llm.pending import Flight
from lema_core.llm.progress import remaining
from lema_core.llm.requests import CompletionRequest, KeyMaker, Outcome

if TYPE_CHECKING:
    from lema_core.llm.client import Client

GATHER_S = 1.0
Chunks = Iterator[list[CompletionRequest]]


class Channel:
    """Requests to one endpoint spec. ``gates`` are shared: one for each URL, key and model of a process."""

    def __init__(self, spec: EndpointSpec, desk: Desk, gates: dict[str, Gate], descriptors: Descriptors) -> None:
        if spec.identity == WEIGHTS:
            raise ConfigError(
                f"endpoint {spec.name!r}: {WEIGHTS} stands for a hash, and as it is it would give all weights one key: "
                "give the endpoint's answers_as as its identity"
            )
        self.spec = spec
        self.keys = KeyMaker(spec.identity)
        self.unsubmitted: list[Flight] = []
        """Flights that wait for their batch to be full."""
        self.gathering = False
        """A purchase is about to take them."""
        self._desk = desk
        self._gates = gates
        self._descriptors = descriptors
        self._client: Client | None = None
        self._contact: asyncio.Task[tuple[Client, Buyer]] | None = None

    @property
    def usability(self) -> Usability:
        """Return what is known of the endpoint: whether any request to it can succeed."""
        return self._desk.usability

    async def buy(self, flight: Flight) -> Outcome:
        """Buy one completion over HTTP; see `Buyer.buy`."""
        _, buyer = await self._opened()
        return await buyer.buy(flight)

    async def gather(self) -> None:
        """Let shards that start together add to ``unsubmitted``, which is the caller's from then on."""
        try:
            await asyncio.sleep(min(GATHER_S, self.spec.batch_poll_s))
        finally:
            self.gathering, self.unsubmitted = False, []

    async def buy_batch(self, flights: list[Flight]) -> None:
        """Buy completions through the Batch API and settle the flights; see `BatchBuyer.buy`."""
        from lema_core.llm.batch.transport import BatchBuyer

        client, _ = await self._opened()
        await BatchBuyer(self._desk, client).buy(flights)

    async def remaining(self, chunks: Chunks) -> str:
        """Say how many requests are not paid yet and what they would cost, judging by the answers so far."""
        desk, missing, worth = self._desk, set[str](), Amount()
        for chunk in chunks:
            fresh = {key: request for request in chunk if (key := self.keys.key(request)) not in missing}
            held = await desk.ledger.lookup(list(fresh))
            # What a batch under way owes is not to be bought.
            owed = await desk.ledger.owed(fresh.keys() - held.keys())
            for key in fresh.keys() - held.keys() - owed:
                missing.add(key)
                worth += desk.amount(*desk.sizes.likely(prompt_chars(fresh[key]), fresh[key].sampling.cap))
        return remaining(len(missing), worth.tokens, worth.dollars if desk.price else None)

    async def close(self) -> None:
        """Close the connections."""
        if self._client is not None:
            await self._client.close()

    async def _opened(self) -> "tuple[Client, Buyer]":
        if self._contact is None or _failed(self._contact):
            self._contact = asyncio.create_task(self._open())
        return await asyncio.shield(self._contact)

    async def _open(self) -> "tuple[Client, Buyer]":
        # Here, because `aiohttp` takes longer to import than many a repeated run that needs no endpoint at all.
        from lema_core.llm.client import Client

        await self.close()
        client = self._client = Client(self.spec)
        await client.preflight()
        pool = pool_of(self.spec)
        ledger = self._desk.ledger
        share = await ledger.call(lambda: ledger.claims.share(pool))
        connections = self._descriptors.grant(pool, self.spec.concurrency)
        limits = (connections, self.spec.requests_per_minute, self.spec.tokens_per_minute)
        if pool in self._gates:
            self._gates[pool].limiter.restrict(*limits)
        else:
            limiter = Limiter(*limits)
            limiter.join(share, asyncio.get_running_loop().time(), BEAT_S)
            self._gates[pool] = Gate(limiter)
        return client, Buyer(self._desk, client, self._gates[pool])


def pool_of(spec: EndpointSpec) -> str:
    """Return the name of what has limits in common: one URL, key and model."""
    # The variable's name, not the key: the pool is a row in the ledger.
    return f"{spec.base_url} {spec.api_key_env or '-'} {spec.model}"


def _failed(task: "asyncio.Task[Any]") -> bool:
    return task.done() and (task.cancelled() or task.exception() is not None)
