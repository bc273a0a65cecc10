"""The request engine: one per process, shared by all shards.

    async with Engine.open(ledger="ledger.sqlite", run="teacher") as engine:
        async for outcome in engine.stream(spec, requests):
            ...

The engine looks a request up in the ledger, joins it to an identical one that is pending (in this process or, through
claims, in another), or sends it to the endpoint. A stream yields outcomes in the order of its requests and reads only a
bounded number ahead, so memory stays flat.
"""

import asyncio
import math
from collections import deque
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence, Sized
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from itertools import chain

from lema_core.errors import BudgetExceededError, LemaError
from lema_core.llm.adaptation import Spelling
from lema_core.llm.connection import DescriptorQuota, EndpointConnection, pool_of
from lema_core.llm.costs.budget import BudgetGuard
from lema_core.llm.costs.prices import need_price, prompt_chars
from lema_core.llm.endpoints import EndpointSpec
from lema_core.llm.ledger.credit import Budget
from lema_core.llm.ledger.ledger import Ledger
from lema_core.llm.limits.admission_queue import AdmissionQueue
from lema_core.llm.limits.health import EndpointHealth
from lema_core.llm.progress import Counters, Snapshot
from lema_core.llm.requests import Completion, CompletionRequest, Outcome
from lema_core.llm.settings import DEFAULTS, EngineSettings
from lema_core.llm.transport import EndpointContext, PendingRequest


class ReadAhead:
    """The pending requests of one stream, oldest first. It bounds their number and the characters of their prompts."""

    def __init__(self, spec: EndpointSpec, settings: EngineSettings) -> None:
        is_batch, in_flight = spec.transport == "batch", spec.concurrency * max(1, len(spec.urls))
        self.pending: deque[PendingRequest] = deque()
        self._chunk = settings.lookup_requests
        self._max_requests = settings.batch_read_ahead if is_batch else max(settings.read_ahead, 4 * in_flight)
        # Batches are not split by characters: batches that wait for each other take a day each.
        self._max_chars = math.inf if is_batch else settings.read_ahead_chars
        self._min_requests = in_flight
        self._chars = 0

    def can_read(self) -> bool:
        """Return whether the stream may read the requests of one more look-up."""
        count = len(self.pending)
        if count == 0:
            return True
        # Long prompts must not leave the endpoint idle: as many as may be in flight are read whatever their length.
        return count <= self._max_requests - self._chunk and (
            self._chars < self._max_chars or count < self._min_requests
        )

    def append(self, pending: PendingRequest) -> None:
        """Add the request that the stream read last."""
        self.pending.append(pending)
        self._chars += pending.chars

    def popleft(self) -> PendingRequest:
        """Remove and return the oldest request."""
        pending = self.pending.popleft()
        self._chars -= pending.chars
        return pending


def lookup_chunks(requests: Iterable[CompletionRequest], settings: EngineSettings) -> Iterator[list[CompletionRequest]]:
    """Yield requests in lists for one look-up each, in order."""
    chunk: list[CompletionRequest] = []
    chars = 0
    for request in requests:
        chunk.append(request)
        chars += prompt_chars(request)
        if len(chunk) == settings.lookup_requests or chars >= settings.lookup_chars:
            yield chunk
            chunk, chars = [], 0
    if chunk:
        yield chunk


class Engine:
    """Gets each completion once, and pays for it once. Use it in the event loop that opened it."""

    def __init__(self, ledger: Ledger, budget: BudgetGuard, settings: EngineSettings = DEFAULTS) -> None:
        self._ledger = ledger
        self._budget = budget
        self._settings = settings
        self._counters = Counters()
        self._connections: dict[EndpointSpec, EndpointConnection] = {}
        # Per set of URLs, key and model, which endpoint specs may share.
        self._queues: dict[str, AdmissionQueue] = {}
        self._health: dict[str, EndpointHealth] = {}
        self._spellings: dict[tuple[object, ...], Spelling] = {}
        self._descriptors = DescriptorQuota()
        # By key. A request stays here while a stream waits for it and, once sent, until its outcome is known.
        self._pending: dict[str, PendingRequest] = {}
        self._claimed_elsewhere: dict[str, tuple[EndpointConnection, PendingRequest]] = {}
        self._poller: asyncio.Task[None] | None = None
        self._batch_tasks: set[asyncio.Task[None]] = set()
        # Released with the next heartbeat, in one transaction.
        self._claims_to_release: list[str] = []
        self._heartbeat_task = asyncio.create_task(self._send_heartbeats())

    @classmethod
    @asynccontextmanager
    async def open(
        cls, ledger: str, budget: Budget | None = None, run: str = "default", settings: EngineSettings = DEFAULTS
    ) -> AsyncIterator["Engine"]:
        """Open an engine on a ledger (a path or a PostgreSQL URL).

        Leaving the block waits for requests that were sent, because they are billed, and commits their answers.

        Raises:
            LedgerError: the ledger cannot be opened.
        """
        opened = await Ledger.open(str(ledger), run, budget, settings)
        try:
            engine = cls(opened, BudgetGuard(budget, opened), settings)
            try:
                yield engine
            finally:
                await engine._close()
        finally:
            await opened.close()

    async def stream(self, spec: EndpointSpec, requests: Iterable[CompletionRequest]) -> AsyncIterator[Outcome]:
        """Yield one outcome per request, in order.

        Raises:
            EndpointError: the endpoint does not answer, or no request can succeed (key refused, model unknown).
            BudgetExceededError: the budget is used up; what was in flight is settled and kept.
            LedgerError: the ledger cannot be read or written.
        """
        connection = self._connection_to(spec)
        self._counters.expect(len(requests) if isinstance(requests, Sized) else None)
        source, window = lookup_chunks(requests, self._settings), ReadAhead(spec, self._settings)
        try:
            while True:
                chunk: list[CompletionRequest] | None = []
                while window.can_read() and (chunk := next(source, None)) is not None:
                    fresh = self._join_pending(connection, chunk, window)
                    # In a task of its own: another shard may have joined these requests, and ours may be cancelled.
                    await asyncio.shield(asyncio.create_task(self._look_up(connection, fresh)))
                if not window.pending:
                    return
                # At the end and before the stream waits, not with every chunk: a batch per look-up would be too small.
                if chunk is None or not window.pending[0].done:
                    self._submit_batch(connection)
                outcome = await window.pending[0].result()
                self._leave(window.popleft())
                self._counters.done += 1
                self._counters.failures += not isinstance(outcome, Completion)
                yield outcome
        except BudgetExceededError as error:
            unfinished = [pending.request for pending in window.pending]
            raise BudgetExceededError(
                error.reached, await connection.describe_remaining(chain([unfinished], source))
            ) from None
        finally:
            # Also when the caller leaves the stream early: what is not sent then is cancelled.
            for pending in window.pending:
                self._leave(pending)

    async def complete(self, spec: EndpointSpec, request: CompletionRequest) -> Outcome:
        """Return the outcome of one request; see `stream`."""
        (outcome,) = [outcome async for outcome in self.stream(spec, [request])]
        return outcome

    def snapshot(self) -> Snapshot:
        """Return the present figures, cheap enough to be asked for twice a second."""
        now = asyncio.get_running_loop().time()
        unfinished = [pending.created_at for pending in self._pending.values() if not pending.done]
        # Queues of servers that were stopped do not count; between two stages the last one does.
        queues = [queue for queue in self._queues.values() if queue.is_busy] or list(self._queues.values())[-1:]
        snapshot = self._counters.snapshot(
            now, [replica.limiter for queue in queues for replica in queue.replicas], unfinished
        )
        busy_s = self._ledger.busy_s()
        return replace(
            snapshot,
            claimed=len(self._claimed_elsewhere),
            ledger_s=busy_s if busy_s > self._settings.ledger_locked_s else 0.0,
            capped=self._descriptors.not_granted,
        )

    def last_failure_details(self, spec: EndpointSpec) -> dict[str, str]:
        """Return what an endpoint last said to requests that it did not answer, by the class of the failure."""
        return dict(self._health_of(spec).last_details)

    def _join_pending(
        self, connection: EndpointConnection, chunk: Sequence[CompletionRequest], window: ReadAhead
    ) -> dict[str, PendingRequest]:
        """Join each request to an identical pending one; return those without one, for the look-up."""
        now = asyncio.get_running_loop().time()
        fresh: dict[str, PendingRequest] = {}
        for request in map(connection.resolve, chunk):
            key = connection.keys.key(request)
            pending = self._pending.get(key)
            if pending is None:
                # Registered before the look-up: a second shard that asks meanwhile joins instead of paying again.
                pending = self._pending[key] = fresh[key] = PendingRequest(key, request, connection.keys.identity, now)
            else:
                pending.waiters += 1
            window.append(pending)
        return fresh

    async def _look_up(self, connection: EndpointConnection, requests: dict[str, PendingRequest]) -> None:
        """Resolve what the ledger has, wait for what other processes claimed, send the rest."""
        if not requests:
            return
        try:
            stored, claimed = await self._ledger.look_up_and_claim(list(requests))
            in_batches = await self._ledger.pending_in_batches(requests.keys() - stored.keys())
        except LemaError as error:
            for pending in requests.values():
                pending.resolve(error=error)
            raise
        self._counters.from_ledger += len(stored)
        if stored:
            connection.health.record_stored_answer()
        for key, pending in requests.items():
            if key in stored:
                pending.resolve(stored[key])
            elif pending.waiters <= 0:
                # Its stream was left during the look-up.
                self._claims_to_release.append(key)
            elif key in claimed:
                self._claimed_elsewhere[key] = (connection, pending)
            elif connection.spec.transport == "batch":
                connection.unsubmitted.append(pending)
            elif key in in_batches:
                # A batch under way will be billed for it: it is collected there, although HTTP would be quicker.
                batched = self._connection_to(connection.spec.with_batches())
                batched.unsubmitted.append(pending)
                self._submit_batch(batched)
            else:
                pending.task = asyncio.create_task(self._complete(connection, [pending]))
        if self._claimed_elsewhere and (self._poller is None or self._poller.done()):
            self._poller = asyncio.create_task(self._poll_claimed())

    def _submit_batch(self, connection: EndpointConnection) -> None:
        """Hand the requests gathered for the batch transport to one task."""
        if connection.unsubmitted and not connection.is_gathering:
            connection.is_gathering = True
            # Shards go on adding to this list until `gather_batch` replaces it.
            task = asyncio.create_task(self._complete(connection, connection.unsubmitted))
            self._batch_tasks.add(task)
            task.add_done_callback(self._batch_tasks.discard)

    async def _complete(self, connection: EndpointConnection, requests: Sequence[PendingRequest]) -> None:
        """Resolve requests through the connection's transport, with its error if it fails."""
        try:
            if connection.spec.transport == "batch":
                await connection.gather_batch()
            transport = await connection.transport()
            await transport.complete(requests)
        except LemaError as error:
            # No request can succeed any more. Those already sent are billed, so they may finish.
            for pending in requests:
                pending.resolve(error=error)
                self._claims_to_release.append(pending.key)
            for other in self._pending.values():
                # The budget is one for all endpoints.
                is_hit = other.identity == connection.keys.identity or isinstance(error, BudgetExceededError)
                if is_hit and other.task is not None and not other.is_sent and not other.done:
                    other.resolve(error=error)
                    other.task.cancel()
                    self._claims_to_release.append(other.key)
        except BaseException as error:
            for pending in requests:
                pending.resolve(error=error)
            # The waiters raise any other error. A task without a waiter would only print it, with all it refers to.
            if not isinstance(error, Exception):
                raise
        finally:
            for pending in requests:
                if pending.waiters <= 0 and self._pending.get(pending.key) is pending:
                    del self._pending[pending.key]

    def _connection_to(self, spec: EndpointSpec) -> EndpointConnection:
        if spec not in self._connections:
            context = EndpointContext(
                spec, self._ledger, self._budget, self._counters, self._health_of(spec), self._spelling_of(spec),
                self._settings,
            )  # fmt: skip
            if self._budget.limits.dollars is not None:
                need_price(spec, context.price)
            self._connections[spec] = EndpointConnection(context, self._queues, self._descriptors)
        return self._connections[spec]

    def _spelling_of(self, spec: EndpointSpec) -> Spelling:
        """Return how requests to an endpoint are spelled, one for all specs that differ in transport and the like."""
        known = (spec.identity, spec.base_url, spec.model, spec.rules, hash(spec.rename))
        return self._spellings.setdefault(known, Spelling(spec, self._settings.first_reply_s))

    def _health_of(self, spec: EndpointSpec) -> EndpointHealth:
        """Return the health of an endpoint, one for all specs with the same URLs, key and model."""
        pool = pool_of(spec)
        if pool not in self._health:
            self._health[pool] = EndpointHealth(
                spec.where,
                spec.concurrency,
                spec.attempt_timeout_s,
                spec.request_timeout_s,
                spec.push_back_patience_s,
                self._settings,
            )
        return self._health[pool]

    def _leave(self, pending: PendingRequest) -> None:
        """Take one waiter off a request. Without waiters it is cancelled unless it is sent."""
        pending.waiters -= 1
        if pending.waiters > 0:
            return
        if self._pending.get(pending.key) is pending and (pending.done or not pending.is_sent):
            del self._pending[pending.key]
        self._claimed_elsewhere.pop(pending.key, None)
        if pending.task is not None and not pending.is_sent and not pending.done:
            pending.task.cancel()
            self._claims_to_release.append(pending.key)

    async def _poll_claimed(self) -> None:
        """Look for what other processes claimed; send it ourselves where they gave up."""
        while self._claimed_elsewhere:
            await asyncio.sleep(self._settings.claim_poll_s)
            claimed, self._claimed_elsewhere = self._claimed_elsewhere, {}
            by_connection: dict[int, tuple[EndpointConnection, dict[str, PendingRequest]]] = {}
            for key, (connection, pending) in claimed.items():
                by_connection.setdefault(id(connection), (connection, {}))[1][key] = pending
            for connection, requests in by_connection.values():
                # The waiters of these requests raise the error; the poller goes on for the others.
                with suppress(LemaError):
                    await self._look_up(connection, requests)
                    self._submit_batch(connection)

    async def _send_heartbeats(self) -> None:
        """Send a heartbeat every few seconds until the engine closes."""
        while True:
            await asyncio.sleep(self._settings.heartbeat_s)
            # If the ledger fails for good, the next look-up or commit raises the error.
            with suppress(LemaError):
                await self._heartbeat()

    async def _heartbeat(self) -> None:
        """Prove that we are alive, release claims, take our share of the rate limits, return idle credit."""
        candidates, self._claims_to_release = self._claims_to_release, []
        # A stream may have asked for some of them again meanwhile.
        given_up = [key for key in candidates if (pending := self._pending.get(key)) is None or pending.done]
        await self._ledger.call(lambda: self._ledger.claims.release(given_up))
        processes = await self._ledger.call(self._ledger.heartbeat)
        # Processes came or went since the last heartbeat.
        for connection in self._connections.values():
            queue = self._queues.get(pool_of(connection.spec))
            for replica in queue.replicas if queue else ():
                replica.limiter.divide(processes.get(pool_of(connection.spec.at(replica.url)), 1))
            if queue:
                queue.wake()
        await self._budget.return_idle_credit()

    async def _close(self) -> None:
        """Wait for sent requests, cancel the others, close the connections. If cancelled, cancel sent requests too."""
        if self._poller is not None:
            self._poller.cancel()
        for task in self._batch_tasks:
            task.cancel()
        try:
            await asyncio.gather(*self._batch_tasks, return_exceptions=True)
            while tasks := self._running_tasks():
                for pending in self._pending.values():
                    # In every round: a sent request may have failed since, and would start another attempt.
                    if pending.task is not None and not pending.is_sent:
                        pending.task.cancel()
                await asyncio.wait(tasks, timeout=0.1)
        finally:
            if tasks := self._running_tasks():
                for task in tasks:
                    task.cancel()
                await asyncio.wait(tasks, timeout=self._settings.cancel_wait_s)
            # The last of all: without heartbeats other processes take us for dead and pay for what we still wait for.
            self._heartbeat_task.cancel()
            await asyncio.gather(self._heartbeat_task, return_exceptions=True)
            # The ledger keeps what may have been billed without an answer, after this process has ended too.
            with suppress(LemaError):
                await self._budget.return_idle_credit()
            for queue in self._queues.values():
                queue.close()
            for connection in self._connections.values():
                await connection.close()

    def _running_tasks(self) -> list[asyncio.Task[None]]:
        return [pending.task for pending in self._pending.values() if pending.task and not pending.task.done()]
