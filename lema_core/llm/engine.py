"""The request engine: one per process, shared by all shards.

    async with Engine.open(ledger="ledger.sqlite", run="teacher") as engine:
        async for outcome in engine.stream(spec, requests):
            ...

A request is looked up in the ledger, joined to an identical one in flight (in this process or, through claims, in
another), or bought. Outcomes come in the order of the requests through a bounded window, so memory stays flat.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence, Sized
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from lema_core.errors import BudgetExceededError, LemaError
from lema_core.llm.budget import Account, Amount, Budget
from lema_core.llm.buyer import Buyer, Desk
from lema_core.llm.claims import BEAT_S
from lema_core.llm.endpoints import EndpointSpec
from lema_core.llm.flight import Flight
from lema_core.llm.gate import Gate
from lema_core.llm.ledger import Ledger
from lema_core.llm.limiter import Limiter
from lema_core.llm.prices import need_price
from lema_core.llm.progress import Counters, Snapshot
from lema_core.llm.requests import Completion, CompletionRequest, KeyMaker, Outcome
from lema_core.llm.store import chunked

if TYPE_CHECKING:
    from lema_core.llm.client import Client

CHUNK = 256
"""Requests in one look-up."""
WINDOW = 1024
"""Requests between the first unfinished one and the last one read; four times the concurrency where that is more."""
BATCH_WINDOW = 200_000
"""With the batch transport everything is submitted at once; memory follows."""
POLL_S = 0.25
"""How often to ask for completions that another process is buying."""


@dataclass
class _Channel:
    """One endpoint spec in use."""

    spec: EndpointSpec
    keys: KeyMaker
    desk: Desk
    client: "Client | None" = None
    buyer: Buyer | None = None
    opening: "asyncio.Task[None] | None" = None
    pool: str = ""
    unsubmitted: list[Flight] = field(default_factory=list)
    """Flights that wait for their batch to be full."""


class Engine:
    """Buys each completion once. Use it in the event loop that opened it."""

    def __init__(self, ledger: Ledger, account: Account) -> None:
        self._ledger = ledger
        self._account = account
        self._counters = Counters()
        self._channels: dict[EndpointSpec, _Channel] = {}
        self._gates: dict[str, Gate] = {}
        self._flights: dict[str, Flight] = {}
        self._foreign: dict[str, tuple[_Channel, Flight]] = {}
        self._poller: asyncio.Task[None] | None = None
        self._batches: set[asyncio.Task[None]] = set()
        self._unclaimed: list[str] = []
        self._beat = asyncio.create_task(self._keep_alive())

    @classmethod
    @asynccontextmanager
    async def open(cls, ledger: str, budget: Budget | None = None, run: str = "default") -> AsyncIterator["Engine"]:
        """Open an engine on a ledger (a path or a PostgreSQL URL).

        At the end it waits for requests that are out, because they are paid, and commits their answers.

        Raises:
            LedgerError: the ledger cannot be opened.
        """
        book = await Ledger.open(str(ledger), run)
        try:
            spent = await book.call(lambda: book.store.spent(run)) if budget not in {None, Budget()} else (0.0, 0)
            engine = cls(book, Account(budget, Amount(*spent)))
            try:
                yield engine
            finally:
                await engine._close()
        finally:
            await book.close()

    async def stream(self, spec: EndpointSpec, requests: Iterable[CompletionRequest]) -> AsyncIterator[Outcome]:
        """Yield one outcome a request, in order.

        Raises:
            EndpointError: nothing answers, or no request can succeed (key refused, model unknown).
            BudgetExceededError: the budget is used up; what was in flight is settled and kept.
            LedgerError: the ledger cannot be read or written.
        """
        channel = await self._channel(spec)
        self._counters.expect(len(requests) if isinstance(requests, Sized) else None)
        source = chunked(requests, CHUNK)
        window = BATCH_WINDOW if spec.transport == "batch" else max(WINDOW, 4 * spec.concurrency)
        order: deque[Flight] = deque()
        try:
            while await self._fill(channel, source, order, window):
                outcome = await order[0].result()
                self._land(order.popleft())
                self._counters.done += 1
                self._counters.failures += not isinstance(outcome, Completion)
                yield outcome
        except BudgetExceededError as error:
            raise BudgetExceededError(f"{error}; {await self._remaining(channel, order, source)}") from None
        finally:
            for flight in order:
                self._land(flight)

    async def complete(self, spec: EndpointSpec, request: CompletionRequest) -> Outcome:
        """Return the outcome of one request; see `stream`."""
        async for outcome in self.stream(spec, [request]):
            return outcome
        raise RuntimeError("a stream of one request gave no outcome")

    def snapshot(self) -> Snapshot:
        """Return the present figures, cheap enough to be asked for twice a second."""
        now = asyncio.get_running_loop().time()
        limiters = [gate.limiter for gate in self._gates.values()]
        unfinished = [flight.asked for flight in self._flights.values() if not flight.done]
        in_flight = sum(limiter.in_flight for limiter in limiters)
        count = self._counters
        return Snapshot(
            total=count.total,
            done=count.done,
            held=count.held,
            completions=count.completions,
            failures=count.failures,
            in_flight=in_flight,
            waiting=max(0, len(unfinished) - in_flight),
            window=sum(limiter.window for limiter in limiters),
            rate=count.rate(now),
            sleeping_s=max([0.0, *(limiter.paused_until - now for limiter in limiters)]),
            oldest_s=now - min(unfinished, default=now),
            r429=count.ends["rate_limit"],
            r5xx=count.ends["server_error"] + count.ends["overload"],
            lost=count.ends["connection"] + count.ends["deadline"],
            prompt_tokens=count.prompt_tokens,
            completion_tokens=count.completion_tokens,
            dollars=count.dollars,
            dollars_forecast=count.forecast(),
            eta_s=count.eta(now),
        )

    async def _fill(
        self, channel: _Channel, source: Iterator[list[CompletionRequest]], order: deque[Flight], window: int
    ) -> bool:
        """Read requests until the window is full; say whether any are unfinished."""
        while len(order) <= window - CHUNK or not order:
            chunk = next(source, None)
            if chunk is None:
                break
            await self._admit(channel, chunk, order)
        self._submit(channel)
        return bool(order)

    async def _admit(self, channel: _Channel, chunk: Sequence[CompletionRequest], order: deque[Flight]) -> None:
        """Give each request a flight: an identical one's, or a new one that is looked up and then bought."""
        now = asyncio.get_running_loop().time()
        fresh: dict[str, Flight] = {}
        for request in chunk:
            key = channel.keys.key(request)
            flight = self._flights.get(key)
            if flight is None:
                # Registered before the look-up: a second shard that asks meanwhile joins instead of buying again.
                flight = self._flights[key] = fresh[key] = Flight(key, request, channel.keys.identity, now)
            else:
                flight.users += 1
            order.append(flight)
        await self._look_up(channel, fresh)

    async def _look_up(self, channel: _Channel, flights: dict[str, Flight]) -> None:
        """Settle what the ledger holds, wait for what others buy, buy the rest."""
        if not flights:
            return
        try:
            held, foreign = await self._ledger.reserve(list(flights))
        except LemaError as error:
            for flight in flights.values():
                flight.settle(error=error)
            raise
        self._counters.held += len(held)
        for key, flight in flights.items():
            if key in held:
                flight.settle(held[key])
            elif key in foreign:
                self._foreign[key] = (channel, flight)
            elif channel.spec.transport == "batch":
                channel.unsubmitted.append(flight)
            else:
                flight.task = asyncio.create_task(self._buy(channel, flight))
        if self._foreign and (self._poller is None or self._poller.done()):
            self._poller = asyncio.create_task(self._poll())

    async def _buy(self, channel: _Channel, flight: Flight) -> None:
        try:
            await self._open(channel)
            if channel.buyer is not None:
                flight.settle(await channel.buyer.buy(flight))
        except LemaError as error:
            self._break(channel, [flight], error)
        except BaseException as error:
            flight.settle(error=error)
            raise
        finally:
            if flight.users <= 0 and self._flights.get(flight.key) is flight:
                del self._flights[flight.key]

    def _submit(self, channel: _Channel) -> None:
        """Hand what the batch transport has gathered to one batch purchase."""
        if channel.unsubmitted:
            flights, channel.unsubmitted = channel.unsubmitted, []
            task = asyncio.create_task(self._buy_batch(channel, flights))
            self._batches.add(task)
            task.add_done_callback(self._batches.discard)

    async def _buy_batch(self, channel: _Channel, flights: Sequence[Flight]) -> None:
        from lema_core.llm.batch import BatchBuyer

        try:
            await self._open(channel)
            if channel.client is not None:
                await BatchBuyer(channel.desk, channel.client).buy(flights)
        except LemaError as error:
            self._break(channel, flights, error)
        except BaseException as error:
            for flight in flights:
                flight.settle(error=error)
            raise

    def _break(self, channel: _Channel, flights: Sequence[Flight], error: LemaError) -> None:
        """Nothing more can be bought here: tell everybody who waits, and let those that are out come home."""
        for flight in flights:
            flight.settle(error=error)
        for other in self._flights.values():
            here = other.identity == channel.keys.identity or isinstance(error, BudgetExceededError)
            if here and other.task is not None and not other.sent and not other.done:
                other.settle(error=error)
                other.task.cancel()

    async def _open(self, channel: _Channel) -> None:
        """Make the first contact with an endpoint, once for all who wait for it."""
        if channel.opening is None:
            channel.opening = asyncio.create_task(self._contact(channel))
        await asyncio.shield(channel.opening)

    async def _contact(self, channel: _Channel) -> None:
        # Here, because `openai` takes longer to import than many a repeated run that needs no endpoint at all.
        from lema_core.llm.client import Client

        client = channel.client = Client(channel.spec)
        await client.preflight()
        # The variable's name, not the key: the pool is a row in the ledger.
        channel.pool = f"{channel.spec.base_url} {channel.spec.api_key_env or '-'}"
        share = await self._ledger.call(lambda: self._ledger.claims.share(channel.pool))
        spec = channel.spec
        if channel.pool not in self._gates:
            limiter = Limiter(spec.concurrency, spec.requests_per_minute, spec.tokens_per_minute)
            self._gates[channel.pool] = Gate(limiter)
        gate = self._gates[channel.pool]
        gate.limiter.divide(share)
        channel.buyer = Buyer(channel.desk, client, gate)

    async def _channel(self, spec: EndpointSpec) -> _Channel:
        if spec not in self._channels:
            desk = Desk(spec, self._ledger, self._account, self._counters)
            if self._account.budget.dollars is not None:
                need_price(spec, desk.price)
            self._channels[spec] = _Channel(spec, KeyMaker(spec.identity), desk)
        return self._channels[spec]

    def _land(self, flight: Flight) -> None:
        """A stream lets go of a flight; one that nobody waits for and that is not out is called off."""
        flight.users -= 1
        if flight.users > 0:
            return
        if self._flights.get(flight.key) is flight and (flight.done or not flight.sent):
            del self._flights[flight.key]
        self._foreign.pop(flight.key, None)
        if flight.task is not None and not flight.sent and not flight.done:
            flight.task.cancel()
            self._unclaimed.append(flight.key)

    async def _poll(self) -> None:
        """Ask for what other processes buy; buy it ourselves where they gave up."""
        while self._foreign:
            await asyncio.sleep(POLL_S)
            waiting = dict(self._foreign)
            self._foreign.clear()
            by_channel: dict[int, tuple[_Channel, dict[str, Flight]]] = {}
            for key, (channel, flight) in waiting.items():
                by_channel.setdefault(id(channel), (channel, {}))[1][key] = flight
            for channel, flights in by_channel.values():
                await self._look_up(channel, flights)
                self._submit(channel)

    async def _keep_alive(self) -> None:
        """Give signs of life, and take our share of limits and budget as other processes come and go."""
        while True:
            await asyncio.sleep(BEAT_S)
            unclaimed, self._unclaimed = self._unclaimed, []
            await self._ledger.call(lambda keys=unclaimed: self._ledger.claims.release(keys))  # type: ignore[misc]
            shares = await self._ledger.call(self._ledger.claims.beat)
            for pool, gate in self._gates.items():
                gate.limiter.divide(shares.get(pool, 1))
                gate.pump()
            if max(shares.values(), default=1) > 1 and self._account.budget != Budget():
                spent = await self._ledger.call(lambda: self._ledger.store.spent(self._ledger.run))
                self._account.seen(Amount(*spent))

    async def _remaining(
        self, channel: _Channel, order: deque[Flight], source: Iterator[list[CompletionRequest]]
    ) -> str:
        """Say how many requests are not paid yet and what they would cost."""
        missing = {flight.key for flight in order if not isinstance(flight.outcome, Completion)}
        for chunk in source:
            keys = {channel.keys.key(request) for request in chunk}
            missing |= keys - (await self._ledger.lookup(list(keys))).keys()
        count = self._counters
        mean_tokens = (count.prompt_tokens + count.completion_tokens) / max(1, count.completions)
        if not count.completions:
            return f"{len(missing):,} requests remain. Raise the budget and run again: nothing paid is paid twice"
        cost = "" if count.dollars is None else f" and ${count.dollars / count.completions * len(missing):.4f}"
        return (
            f"{len(missing):,} requests remain, about {mean_tokens * len(missing):,.0f} tokens{cost} at the mean "
            "so far. Raise the budget and run again: nothing paid is paid twice"
        )

    async def _close(self) -> None:
        """Wait for what is out, call off the rest, close the connections."""
        self._beat.cancel()
        if self._poller is not None:
            self._poller.cancel()
        for task in self._batches:
            task.cancel()
        tasks = [*self._batches, *(flight.task for flight in self._flights.values() if flight.task is not None)]
        for flight in self._flights.values():
            if flight.task is not None and not flight.sent:
                flight.task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for channel in self._channels.values():
            if channel.client is not None:
                await channel.client.close()
