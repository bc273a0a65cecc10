"""The request engine: one per process, shared by all shards.

    async with Engine.open(ledger="ledger.sqlite", run="teacher") as engine:
        async for outcome in engine.stream(spec, requests):
            ...

A request is looked up in the ledger, joined to an identical one in flight (in this process or, through claims, in
another), or bought. Outcomes come in the order of the requests through a bounded window, so memory stays flat.
"""

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence, Sized
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from itertools import chain

from lema_core.errors import BudgetExceededError, LemaError
from lema_core.llm.connection import Channel, Chunks, pool_of
from lema_core.llm.costs.budget import Account
from lema_core.llm.costs.prices import need_price
from lema_core.llm.endpoints import EndpointSpec
from lema_core.llm.http_transport import Desk
from lema_core.llm.ledger.claims import BEAT_S
from lema_core.llm.ledger.credit import Budget
from lema_core.llm.ledger.ledger import Ledger
from lema_core.llm.limits.admission_queue import Gate
from lema_core.llm.limits.descriptors import Descriptors
from lema_core.llm.limits.usability import Usability
from lema_core.llm.pending import Flight
from lema_core.llm.progress import Counters, Snapshot
from lema_core.llm.read_ahead import Window, chunks
from lema_core.llm.requests import Completion, CompletionRequest, Outcome

GIVEN_UP_S = 1.0
"""For the end of requests that are given up while they are out."""
POLL_S = 0.25
"""How often to ask for completions that another process is buying."""


class Engine:
    """Buys each completion once. Use it in the event loop that opened it."""

    def __init__(self, ledger: Ledger, account: Account) -> None:
        self._ledger = ledger
        self._account = account
        self._counters = Counters()
        self._channels: dict[EndpointSpec, Channel] = {}
        self._gates: dict[str, Gate] = {}
        self._usability: dict[str, Usability] = {}
        self._descriptors = Descriptors()
        self._flights: dict[str, Flight] = {}
        self._foreign: dict[str, tuple[Channel, Flight]] = {}
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
        book = await Ledger.open(str(ledger), run, budget)
        try:
            engine = cls(book, Account(budget, book))
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
        channel = self._channel(spec)
        self._counters.expect(len(requests) if isinstance(requests, Sized) else None)
        source, window = chunks(requests), Window(spec)
        order = window.flights
        try:
            while await self._fill(channel, source, window):
                outcome = await order[0].result()
                self._land(window.popleft())
                self._counters.done += 1
                self._counters.failures += not isinstance(outcome, Completion)
                yield outcome
        except BudgetExceededError as error:
            raise BudgetExceededError(
                error.reached, await channel.remaining(chain([[one.request for one in order]], source))
            ) from None
        finally:
            for flight in order:
                self._land(flight)

    async def complete(self, spec: EndpointSpec, request: CompletionRequest) -> Outcome:
        """Return the outcome of one request; see `stream`."""
        (outcome,) = [one async for one in self.stream(spec, [request])]
        return outcome

    def snapshot(self) -> Snapshot:
        """Return the present figures, cheap enough to be asked for twice a second."""
        now = asyncio.get_running_loop().time()
        unfinished = [flight.asked for flight in self._flights.values() if not flight.done]
        # Not those of servers that were stopped; between two stages the last one's.
        gates = [gate for gate in self._gates.values() if gate.busy] or list(self._gates.values())[-1:]
        snapshot = self._counters.snapshot(now, [gate.limiter for gate in gates], unfinished)
        return replace(
            snapshot,
            claimed=len(self._foreign),
            ledger_s=self._ledger.busy_s(),
            capped=self._descriptors.refused,
        )

    async def _fill(self, channel: Channel, source: Chunks, window: Window) -> bool:
        """Read requests until the window is full; say whether any are unfinished."""
        chunk: list[CompletionRequest] | None = []
        order = window.flights
        while window.has_room() and (chunk := next(source, None)) is not None:
            await self._admit(channel, chunk, window)
        # At the end and before the stream waits, not with every chunk: 256 requests are no batch.
        if order and (chunk is None or not order[0].done):
            self._submit(channel)
        return bool(order)

    async def _admit(self, channel: Channel, chunk: Sequence[CompletionRequest], window: Window) -> None:
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
            window.append(flight)
        # In a task of its own: another shard may have joined these flights, and ours may be cancelled here.
        await asyncio.shield(asyncio.create_task(self._look_up(channel, fresh)))

    async def _look_up(self, channel: Channel, flights: dict[str, Flight]) -> None:
        """Settle what the ledger holds, wait for what others buy, buy the rest."""
        if not flights:
            return
        try:
            held, foreign = await self._ledger.reserve(list(flights))
            owed = await self._ledger.owed(flights.keys() - held.keys())
        except LemaError as error:
            for flight in flights.values():
                flight.settle(error=error)
            raise
        self._counters.held += len(held)
        if held:
            channel.usability.held()
        for key, flight in flights.items():
            if key in held:
                flight.settle(held[key])
            elif flight.users <= 0:
                self._unclaimed.append(key)
            elif key in foreign:
                self._foreign[key] = (channel, flight)
            else:
                self._start(channel, flight, owed=key in owed)
        if self._foreign and (self._poller is None or self._poller.done()):
            self._poller = asyncio.create_task(self._poll())

    def _start(self, channel: Channel, flight: Flight, *, owed: bool) -> None:
        if channel.spec.transport == "batch":
            channel.unsubmitted.append(flight)
        elif owed:
            # What a batch under way owes will be billed: it is collected, although HTTP would be quicker.
            batched = self._channel(channel.spec.by_batch())
            batched.unsubmitted.append(flight)
            self._submit(batched)
        else:
            flight.task = asyncio.create_task(self._buy(channel, flight))

    async def _buy(self, channel: Channel, flight: Flight) -> None:
        try:
            flight.settle(await channel.buy(flight))
        except LemaError as error:
            self._break(channel, [flight], error)
        except BaseException as error:
            flight.settle(error=error)
            # Any other is told to whoever waits; a task that nobody awaits would only print it, with all it holds.
            if not isinstance(error, Exception):
                raise
        finally:
            if flight.users <= 0 and self._flights.get(flight.key) is flight:
                del self._flights[flight.key]

    def _submit(self, channel: Channel) -> None:
        """Hand what the batch transport has gathered to one batch purchase."""
        if channel.unsubmitted and not channel.gathering:
            channel.gathering = True
            task = asyncio.create_task(self._buy_batch(channel))
            self._batches.add(task)
            task.add_done_callback(self._batches.discard)

    async def _buy_batch(self, channel: Channel) -> None:
        flights = channel.unsubmitted
        try:
            await channel.gather()
            await channel.buy_batch(flights)
        except LemaError as error:
            self._break(channel, flights, error)
        except BaseException as error:
            for flight in flights:
                flight.settle(error=error)
            if not isinstance(error, Exception):
                raise

    def _break(self, channel: Channel, flights: Sequence[Flight], error: LemaError) -> None:
        """Nothing more can be bought here: tell everybody who waits, and let those that are out come home."""
        for flight in flights:
            flight.settle(error=error)
            self._unclaimed.append(flight.key)
        for other in self._flights.values():
            here = other.identity == channel.keys.identity or isinstance(error, BudgetExceededError)
            if here and other.task is not None and not other.sent and not other.done:
                other.settle(error=error)
                other.task.cancel()
                self._unclaimed.append(other.key)

    def _channel(self, spec: EndpointSpec) -> Channel:
        if spec not in self._channels:
            desk = Desk(spec, self._ledger, self._account, self._counters, self._judged(spec))
            if self._account.budget.dollars is not None:
                need_price(spec, desk.price)
            self._channels[spec] = Channel(spec, desk, self._gates, self._descriptors)
        return self._channels[spec]

    def _judged(self, spec: EndpointSpec) -> Usability:
        """Return what is known of an endpoint: one for every spec that has its URL, key and model."""
        where, limits = f"{spec.model!r} at {spec.base_url}", (spec.concurrency, spec.attempt_timeout_s)
        return self._usability.setdefault(
            pool_of(spec), Usability(where, *limits, spec.request_timeout_s, spec.push_back_patience_s)
        )

    def words(self, spec: EndpointSpec) -> dict[str, str]:
        """Return an endpoint's last words to requests that it did not answer, by the class of the failure."""
        return dict(self._judged(spec).words)

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
            waiting, self._foreign = self._foreign, {}
            by_channel: dict[int, tuple[Channel, dict[str, Flight]]] = {}
            for key, (channel, flight) in waiting.items():
                by_channel.setdefault(id(channel), (channel, {}))[1][key] = flight
            for channel, flights in by_channel.values():
                # An error is told to whoever waits for these flights; the poller goes on for the others.
                with suppress(LemaError):
                    await self._look_up(channel, flights)
                    self._submit(channel)

    async def _keep_alive(self) -> None:
        """Give signs of life, take our share of limits as other processes come and go, return what is not needed."""
        while True:
            await asyncio.sleep(BEAT_S)
            # A ledger that fails for good is told by the next look-up or commit.
            with suppress(LemaError):
                await self._pulse()

    async def _pulse(self) -> None:
        unclaimed, self._unclaimed = self._unclaimed, []
        # Somebody may have asked for one of them again meanwhile.
        given_up = [key for key in unclaimed if (flight := self._flights.get(key)) is None or flight.done]
        await self._ledger.call(lambda: self._ledger.claims.release(given_up))
        shares = await self._ledger.call(self._ledger.beat)
        for pool, gate in self._gates.items():
            gate.limiter.divide(shares.get(pool, 1))
            gate.pump()
        await self._account.rest()

    async def _close(self) -> None:
        """Wait for what is out, call off the rest, close the connections; when cancelled, give up what is out, too."""
        if self._poller is not None:
            self._poller.cancel()
        for task in self._batches:
            task.cancel()
        try:
            await asyncio.gather(*self._batches, return_exceptions=True)
            while tasks := self._tasks():
                for flight in self._flights.values():
                    # Again and again: one that was out may have come back with nothing and want another try.
                    if flight.task is not None and not flight.sent:
                        flight.task.cancel()
                await asyncio.wait(tasks, timeout=0.1)
        finally:
            if tasks := self._tasks():
                for task in tasks:
                    task.cancel()
                await asyncio.wait(tasks, timeout=GIVEN_UP_S)
            # Only now: without signs of life others would take us for dead, and buy what we still wait for.
            self._beat.cancel()
            await asyncio.gather(self._beat, return_exceptions=True)
            # What may have been billed without an answer outlives this process.
            with suppress(LemaError):
                await self._account.rest()
            for channel in self._channels.values():
                await channel.close()

    def _tasks(self) -> list[asyncio.Task[None]]:
        return [flight.task for flight in self._flights.values() if flight.task and not flight.task.done()]
