"""The limiter's door: requests wait here, first come first served over all shards, until they may start."""

import asyncio
import math
from collections import deque
from dataclasses import dataclass

from lema_core.llm.limits.limiter import Limiter, Ticket


@dataclass(slots=True)
class _Waiter:
    tokens: float
    turn: "asyncio.Future[Ticket]"


class Gate:
    """One limiter in one event loop."""

    def __init__(self, limiter: Limiter) -> None:
        self.limiter = limiter
        self._loop = asyncio.get_running_loop()
        self._waiters: deque[_Waiter] = deque()
        self._timer: asyncio.TimerHandle | None = None

    @property
    def busy(self) -> bool:
        """Say whether a request is in flight, or waits here."""
        return self.limiter.in_flight > 0 or any(not waiter.turn.done() for waiter in self._waiters)

    async def enter(self, tokens: float, *, again: bool) -> Ticket:
        """Wait for the right to send; a request that comes again goes before those that were never sent."""
        if not self._waiters and self.limiter.wait(self._loop.time(), tokens) <= 0:
            return self.limiter.start(self._loop.time(), tokens)
        waiter = _Waiter(tokens, self._loop.create_future())
        (self._waiters.appendleft if again else self._waiters.append)(waiter)
        self.pump()
        try:
            return await waiter.turn
        except asyncio.CancelledError:
            if waiter.turn.done() and not waiter.turn.cancelled():
                self.limiter.ended(waiter.turn.result(), self._loop.time())
            self.pump()
            raise

    def leave(self) -> None:
        """A request that succeeded is committed: the next one may start."""
        self.limiter.leave(self._loop.time())
        self.pump()

    def pump(self) -> None:
        """Let in whoever may start now, and set the alarm for the next. Call it whenever a request has ended."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while self._waiters:
            waiter = self._waiters[0]
            if waiter.turn.done():
                self._waiters.popleft()
                continue
            now = self._loop.time()
            wait = self.limiter.wait(now, waiter.tokens)
            if wait > 0:
                if math.isfinite(wait):
                    self._timer = self._loop.call_later(wait, self.pump)
                return
            self._waiters.popleft()
            waiter.turn.set_result(self.limiter.start(now, waiter.tokens))
