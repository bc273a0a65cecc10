"""One server of an endpoint as the admission queue sees it: its limiter, and whether it is in service.

Only an endpoint with several servers takes one of them out of service, and never the last one: what all of them do is
judged by `EndpointHealth`. A server is taken out

- like an endpoint that is away (`OutageDetector`): a refused connection, or many losses without an answer between;
- when it denies a request (wrong key, unknown model) that another server may answer.

It is then probed, with waits that double, and comes back on trial: one request in flight until the first answer. So a
server whose ``/models`` works while its chat completions fail gets few requests. Without the trial it would get most of
them, because a server that fails at once is always the least busy one.
"""

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable
from typing import Literal

from lema_core.llm.limits.health import LOSSES, OutageDetector
from lema_core.llm.limits.limiter import Limiter
from lema_core.llm.responses import AttemptError
from lema_core.llm.servers import is_down
from lema_core.llm.settings import DEFAULTS, EngineSettings

_log = logging.getLogger(__name__)


async def _never() -> bool:
    return False


class Replica:
    """One server. ``probe`` returns whether it answers anything now."""

    def __init__(
        self,
        url: str,
        limiter: Limiter,
        concurrency: int = 1,
        attempt_timeout_s: float = math.inf,
        probe: Callable[[], Awaitable[bool]] = _never,
        settings: EngineSettings = DEFAULTS,
    ) -> None:
        self.url = url
        self.limiter = limiter
        self.has_answered = False
        self.started_at = -math.inf
        """When it last got a request."""
        self.on_return: Callable[[], None] = lambda: None
        """Called when it is back on trial."""
        self._state: Literal["in service", "away", "on trial"] = "in service"
        # Whether the endpoint is given up is not decided here, so no outage is too long.
        self._outage = OutageDetector(url, concurrency, attempt_timeout_s, math.inf)
        self._probe, self._settings = probe, settings
        self._wait_s = settings.probe_wait_s
        self._probing: asyncio.Task[None] | None = None

    @property
    def in_service(self) -> bool:
        """Return whether requests may go there, were it only one on trial."""
        return self._state != "away" and not is_down(self.url)

    def wait(self, now: float, tokens: float) -> float:
        """Return the seconds until a request may start here; see `Limiter.wait`."""
        if self._state == "on trial" and self.limiter.in_flight > 0:
            return math.inf
        return self.limiter.wait(now, tokens)

    def record_success(self) -> None:
        """Take in an answer."""
        self.has_answered = True
        self._outage.record_success()
        if self._state != "in service":
            _log.warning("%s answers again", self.url)
            self._state, self._wait_s = "in service", self._settings.probe_wait_s

    def take_blame(
        self, key: str, error: AttemptError, started_at: float, now: float, *, others_answered: bool, tried: int
    ) -> bool:
        """Take in a failure while another server is in service; return whether it says nothing of the endpoint.

        ``error.exempt`` is set where the failure does not count against the request, which is then asked elsewhere.

        Args:
            key: the request's key.
            error: the failure.
            started_at: when the attempt began.
            now: the time.
            others_answered: whether another server in service has answered any request.
            tried: the servers where this request has failed, this one included.
        """
        if error.reason in LOSSES:
            self._outage.record_failure(key, error, started_at, now)
            if self._outage.is_away or self._state == "on trial":
                self.take_out(error.detail)
            return True
        denied = error.fatal is not None and not (error.fatal_unless_served and self.has_answered)
        # 400 for a parameter that the others take, or a page of HTML: it is not the server that it should be.
        refused = error.reason in {"bad_request", "malformed"} and not self.has_answered
        if denied or (refused and others_answered):
            error.exempt, error.fatal = True, None
            self.take_out(error.detail)
            return True
        # None has answered yet: a second server decides whether it is the request. The endpoint's health counts it.
        error.exempt = error.exempt or (refused and tried < 2)
        return False

    def take_out(self, words: str) -> None:
        """Take the server out of service and begin to probe it."""
        if self._state == "away":
            return
        if self._state == "in service":
            _log.warning("%s is out of service (%s): its requests go to the endpoint's other servers", self.url, words)
        self._state = "away"
        self._probing = asyncio.create_task(self._probe_until_back())

    def close(self) -> None:
        """End the probing."""
        if self._probing is not None:
            self._probing.cancel()

    async def _probe_until_back(self) -> None:
        while self._state == "away":
            await asyncio.sleep(self._wait_s)
            # The wait is only reset by an answer to a request: a server on trial that fails again is probed later.
            self._wait_s = min(2 * self._wait_s, self._settings.longest_probe_wait_s)
            if not is_down(self.url) and await self._probe():
                self._state = "on trial"
                self.on_return()
