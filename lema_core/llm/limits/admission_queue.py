"""FIFO queue in front of an endpoint's servers, shared by all shards: it grants the permits of their limiters.

Each server has a limiter of its own, because a push-back says how much *that* server takes. A request goes to the least
busy server that may start it now: the one with the fewest requests in flight, the longest idle one among equals. A
request that failed at a server goes to another one as long as one is in service, and waits for it if it has to.
"""

import asyncio
import math
from collections import deque
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from lema_core.llm.limits.limiter import Permit
from lema_core.llm.limits.replica import Replica
from lema_core.llm.servers import is_down

DOWN_S = 0.1
"""How often servers that are being started again are looked at: nothing wakes the queue when one is back."""


@dataclass(frozen=True, slots=True)
class Grant:
    """A permit, and the server that it is for."""

    replica: Replica
    permit: Permit


@dataclass(slots=True)
class _Waiter:
    tokens: float
    failed_at: AbstractSet[Replica]
    grant: "asyncio.Future[Grant]"


class AdmissionQueue:
    """Hands out the permits of one endpoint's servers in one event loop."""

    def __init__(self, replicas: Sequence[Replica]) -> None:
        self.replicas = tuple(replicas)
        self.suspended = False
        """Nothing starts at any server before the requests in flight have ended (`EndpointHealth.suspended`)."""
        self._loop = asyncio.get_running_loop()
        self._waiters: deque[_Waiter] = deque()
        self._timer: asyncio.TimerHandle | None = None
        for replica in replicas:
            replica.on_return = self.wake

    @property
    def in_flight(self) -> int:
        """Return the requests in flight at all servers."""
        return sum(replica.limiter.in_flight for replica in self.replicas)

    @property
    def is_busy(self) -> bool:
        """Return whether a request is in flight, or waits here."""
        return self.in_flight > 0 or any(not waiter.grant.done() for waiter in self._waiters)

    @property
    def paused_until(self) -> float:
        """Return when the first server's pause ends."""
        return min((replica.limiter.paused_until for replica in self._usable()), default=-math.inf)

    def others_in_service(self, replica: Replica) -> list[Replica]:
        """Return the other servers that may get a request which failed at this one."""
        return [other for other in self.replicas if other is not replica and other.in_service]

    async def acquire(self, tokens: float, *, is_retry: bool, failed_at: AbstractSet[Replica] = frozenset()) -> Grant:
        """Wait for a permit to send about ``tokens``; retries go before requests that were never sent.

        Args:
            tokens: of the prompt and the answer.
            is_retry: whether the request was sent before.
            failed_at: the servers where it failed.
        """
        waiter = _Waiter(tokens, failed_at, self._loop.create_future())
        if not self._waiters and isinstance(grant := self._try_to_start(waiter), Grant):
            return grant
        (self._waiters.appendleft if is_retry else self._waiters.append)(waiter)
        self.wake()
        try:
            return await waiter.grant
        except asyncio.CancelledError:
            # Cancelled after `wake` granted the permit and before this task ran: no other task can give it back.
            if waiter.grant.done() and not waiter.grant.cancelled():
                self.end(waiter.grant.result())
            self.wake()
            raise

    def end(self, grant: Grant) -> None:
        """Give a permit back whose request ended in a way that says nothing about load."""
        grant.replica.limiter.record_end(grant.permit, self._loop.time())
        self.wake()

    def release(self, grant: Grant) -> None:
        """Give a permit back whose request succeeded and is committed."""
        grant.replica.limiter.release(self._loop.time())
        self.wake()

    def wake(self) -> None:
        """Grant permits to the waiters that may start now, and set a timer for the next. Call it after each request."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        passed_over = list[_Waiter]()
        soonest = math.inf
        while self._waiters:
            waiter = self._waiters.popleft()
            if waiter.grant.done():
                continue
            found = self._try_to_start(waiter)
            if isinstance(found, Grant):
                waiter.grant.set_result(found)
                continue
            passed_over.append(waiter)
            soonest = min(soonest, found)
            # One that waits for another server than the free one does not keep back those behind it.
            if not waiter.failed_at or len(self.replicas) == 1:
                break
        self._waiters.extendleft(reversed(passed_over))
        # Without a finite wait, the end of a request in flight wakes the queue.
        if math.isfinite(soonest):
            self._timer = self._loop.call_later(soonest, self.wake)

    def close(self) -> None:
        """End the probing of servers."""
        for replica in self.replicas:
            replica.close()

    def _try_to_start(self, waiter: _Waiter) -> Grant | float:
        """Return a permit of the least busy server that may start the request now, else the seconds until one may."""
        if self.suspended and self.in_flight > 0:
            return math.inf
        usable = self._usable()
        choice = [replica for replica in usable if replica not in waiter.failed_at] or usable
        now, soonest, best = self._loop.time(), math.inf if usable else DOWN_S, None
        for replica in choice:
            wait = replica.wait(now, waiter.tokens)
            if wait > 0:
                soonest = min(soonest, wait)
            elif best is None or _load(replica) < _load(best):
                best = replica
        if best is None:
            return soonest
        best.started_at = now
        return Grant(best, best.limiter.start(now, waiter.tokens))

    def _usable(self) -> Sequence[Replica]:
        """Return the servers in service; if none is, those that are away: an attempt is the surest probe."""
        in_service = [replica for replica in self.replicas if replica.in_service]
        return in_service or [replica for replica in self.replicas if not is_down(replica.url)]


def _load(replica: Replica) -> tuple[int, float]:
    return replica.limiter.in_flight, replica.started_at
