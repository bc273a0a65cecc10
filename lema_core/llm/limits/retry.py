"""Which failures are tried again, how often, and after which wait. The loop is tenacity's.

The limiter makes every request wait after a push-back, so those classes need no wait of their own, and only the
request's deadline ends them. A prompt that always breaks the server (HTTP 500) is given up after a few seconds.
"""

import time
from collections import Counter
from collections.abc import Callable

from tenacity import AsyncRetrying, RetryCallState, wait_random_exponential

from lema_core.llm.requests import FailureReason
from lema_core.llm.responses import AttemptError
from lema_core.llm.settings import DEFAULTS

MAX_ATTEMPTS: dict[FailureReason, int | None] = {
    "rate_limit": None,
    "overload": None,
    "connection": 8,
    "deadline": 3,
    "server_error": 5,
    "malformed": 3,
    "bad_request": 1,
    "content_filter": 1,
}
"""The most attempts of one request that may fail in each way; None: until the request's deadline."""

BACKPRESSURE = frozenset({"rate_limit", "overload"})
CONNECTION_FAILURES = frozenset({"connection", "deadline"})
MAX_WAIT_S = 20.0


class RetryState:
    """The attempts of one request so far, and how much longer it is tried."""

    def __init__(
        self,
        timeout_s: float,
        clock: Callable[[], float] = time.monotonic,
        retry_wait_s: float = DEFAULTS.retry_wait_s,
        *,
        greedy: bool = False,
    ) -> None:
        self._greedy = greedy
        self._clock = clock
        self._timeout_s = timeout_s
        self._deadline = clock() + timeout_s
        self._wait = wait_random_exponential(multiplier=retry_wait_s, max=MAX_WAIT_S)
        self.attempts = 0
        self._last_error: AttemptError | None = None
        self._retries_last = False
        self._failures: Counter[str] = Counter()

    def retry_loop(self) -> AsyncRetrying:
        """Return tenacity's loop with our rules; it raises the error of the last attempt."""
        return AsyncRetrying(retry=self._is_retried, wait=self._wait_s, reraise=True)

    def begin_attempt(self) -> None:
        """Count an attempt."""
        if not self.attempts:
            # The clock starts here: the budget and the limiter may have kept the first attempt waiting.
            self._deadline = self._clock() + self._timeout_s
        self.attempts += 1

    def deadline_error(self) -> AttemptError:
        """Return the last attempt's error, for a request whose deadline passed while it waited for another one."""
        waited = f"not answered after {self.attempts} attempts and {self._timeout_s:g} s"
        if self._last_error is None:
            return AttemptError("deadline", waited)
        return AttemptError(self._last_error.reason, f"{self._last_error.detail}; {waited}")

    @property
    def started_at(self) -> float:
        """Return when the first attempt began."""
        return self._deadline - self._timeout_s

    def remaining_s(self) -> float:
        """Return the seconds until the request's deadline."""
        return self._deadline - self._clock()

    def should_retry(self, error: AttemptError) -> bool:
        """Take in a failed attempt and return whether there is another one; for the same error, return that again."""
        # Asked twice per failure: by the transport, before the next request starts, and then by tenacity.
        if error is self._last_error:
            return self._retries_last
        self._last_error = error
        if error.adapted:
            # It is sent in another spelling, which is no repetition: only the deadline ends it.
            self._retries_last = self.remaining_s() > 0
            return self._retries_last
        self._failures[error.reason] += not error.exempt
        limit = MAX_ATTEMPTS.get(error.reason, 1)
        if error.is_whole:
            # A tool call, say: the same again at temperature 0, and likely otherwise.
            limit = 1 if self._greedy else 2
        is_allowed = limit is None or self._failures[error.reason] < limit
        has_time = self.remaining_s() > max(0.0, error.retry_after or 0.0)
        self._retries_last = is_allowed and error.fatal is None and has_time
        return self._retries_last

    def _is_retried(self, call: RetryCallState) -> bool:
        error = call.outcome.exception() if call.outcome is not None else None
        return isinstance(error, AttemptError) and self.should_retry(error)

    def _wait_s(self, call: RetryCallState) -> float:
        error = call.outcome.exception() if call.outcome is not None else None
        if not isinstance(error, AttemptError) or error.reason in BACKPRESSURE or error.adapted:
            return 0.0
        return max(error.retry_after or 0.0, float(self._wait(call)))
