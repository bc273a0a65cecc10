"""Which failures are tried again, how often and after which wait. The mechanics are tenacity's.

The limiter already makes everybody wait after a push-back; so those classes need no wait of their own, only the
request's deadline ends them. A prompt that always breaks the server (500) is given up after a few seconds.
"""

import time
from collections import Counter
from collections.abc import Callable
from typing import Any

from tenacity import AsyncRetrying, RetryCallState, wait_random_exponential

from lema_core.llm.requests import FailureReason
from lema_core.llm.responses import AttemptError

TRIES: dict[FailureReason, int | None] = {
    "rate_limit": None,
    "overload": None,
    "connection": 8,
    "deadline": 3,
    "server_error": 5,
    "malformed": 3,
    "bad_request": 1,
    "content_filter": 1,
}
"""At most so many attempts that end this way; None: until the request's deadline."""

PACED = frozenset({"rate_limit", "overload"})
BROKEN = frozenset({"connection", "deadline"})

_wait = wait_random_exponential(multiplier=0.2, max=20)


class Patience:
    """How much longer one request is tried, from its first attempt on."""

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._seconds = seconds
        self._until = clock() + seconds
        self.attempts = 0
        self._last: AttemptError | None = None
        self._again = False
        self._ends: Counter[str] = Counter()

    def retrying(self) -> AsyncRetrying:
        """Return tenacity's loop with our rules; it raises the last `AttemptError`."""
        return AsyncRetrying(retry=self._retry, wait=self._wait_s, reraise=True)

    def begin(self) -> None:
        """Count an attempt."""
        if not self.attempts:
            # Only now: the limiter and the budget may have made it wait for its first turn.
            self._until = self._clock() + self._seconds
        self.attempts += 1

    def expired(self) -> AttemptError:
        """Return the error of a request whose deadline passed while it waited for another try: of its last attempt."""
        said = f"not answered after {self.attempts} attempts and {self._seconds:g} s"
        if self._last is None:
            return AttemptError("deadline", said)
        return AttemptError(self._last.reason, f"{self._last.detail}; {said}")

    @property
    def began(self) -> float:
        """Return when the first attempt began."""
        return self._until - self._seconds

    def left(self) -> float:
        """Return the seconds until the request's deadline."""
        return self._until - self._clock()

    def goes_on(self, error: AttemptError) -> bool:
        """Take in a failed attempt, once; return whether there is another try."""
        if error is self._last:
            return self._again
        self._last = error
        self._ends[error.reason] += not error.excused
        tries = TRIES.get(error.reason, 1)
        left = tries is None or self._ends[error.reason] < tries
        self._again = left and error.fatal is None and self.left() > max(0.0, error.retry_after or 0.0)
        return self._again

    def _retry(self, state: RetryCallState) -> bool:
        error = _error(state)
        return error is not None and self.goes_on(error)

    def _wait_s(self, state: RetryCallState) -> float:
        error = _error(state)
        if error is None or error.reason in PACED:
            return 0.0
        return max(error.retry_after or 0.0, float(_wait(state)))


def _error(state: RetryCallState) -> AttemptError | None:
    outcome: Any = state.outcome
    error = outcome.exception() if outcome is not None else None
    return error if isinstance(error, AttemptError) else None
