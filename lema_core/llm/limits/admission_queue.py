"""FIFO queue in front of the limiter, shared by all shards."""

import asyncio
import math
from collections import deque
from dataclasses import dataclass

from lema_core.llm.limits.limiter import Limiter, Permit


@dataclass(slots=True)
class _Waiter:
    tokens: float
    permit: "asyncio.Future[Permit]"


class AdmissionQueue:
    """Hands out one limiter's permits in one event loop."""

    def __init__(self, limiter: Limiter) -> None:
        self.limiter = limiter
        self._loop = asyncio.get_running_loop()
        self._waiters: deque[_Waiter] = deque()
        self._timer: asyncio.TimerHandle | None = None

    @property
    def is_busy(self) -> bool:
        """Return whether a request is in flight, or waits here."""
        return self.limiter.in_flight > 0 or any(not waiter.permit.done() for waiter in self._waiters)

    async def acquire(self, tokens: float, *, is_retry: bool) -> Permit:
        """Wait for a permit to send about ``tokens``; retries go before requests that were never sent."""
        if not self._waiters and self.limiter.wait(self._loop.time(), tokens) <= 0:
            return self.limiter.start(self._loop.time(), tokens)
        waiter = _Waiter(tokens, self._loop.create_future())
        (self._waiters.appendleft if is_retry else self._waiters.append)(waiter)
        self.wake()
        try:
            return await waiter.permit
        except asyncio.CancelledError:
            # Cancelled after `wake` granted the permit and before this task ran: no other task can give it back.
            if waiter.permit.done() and not waiter.permit.cancelled():
                self.limiter.record_end(waiter.permit.result(), self._loop.time())
            self.wake()
            raise

    def release(self) -> None:
        """Give a permit back whose request succeeded and is committed."""
        self.limiter.release(self._loop.time())
        self.wake()

    def wake(self) -> None:
        """Grant permits to the waiters that may start now, and set a timer for the next. Call it after each request."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while self._waiters:
            waiter = self._waiters[0]
            if waiter.permit.done():
                self._waiters.popleft()
                continue
            now = self._loop.time()
            wait = self.limiter.wait(now, waiter.tokens)
            if wait > 0:
                # Without a finite wait, the end of a request in flight wakes the queue.
                if math.isfinite(wait):
                    self._timer = self._loop.call_later(wait, self.wake)
                return
            self._waiters.popleft()
            waiter.permit.set_result(self.limiter.start(now, waiter.tokens))
