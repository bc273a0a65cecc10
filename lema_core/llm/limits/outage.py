"""Whether an endpoint is away, and whether it has been for too long. Pure: time is an argument.

A single lost request may itself be the cause: a prompt that crashes the server, or an answer that takes longer than a
proxy waits. So an endpoint counts as away once a connection is refused, or once as many different requests as are
usually in flight were lost without an answer in between. While it is away, the limiter makes every request wait and
lets a few try; those attempts do not count against their requests. The run ends when attempts that began after that
moment are lost as well for `EngineSettings.unreachable_s`. Any answer resets everything.
"""

import math

from lema_core.errors import EndpointError
from lema_core.llm.limits.retry import CONNECTION_FAILURES
from lema_core.llm.responses import AttemptError
from lema_core.llm.settings import DEFAULTS

FORGET_S = 120.0
"""After this time without an attempt, earlier losses say nothing. The limiter's own pauses are shorter."""
MIN_LOSSES, MAX_LOSSES = 4, 32
"""Different requests that must be lost; between the two, as many as may be in flight."""
MIN_LOSSES_WHILE_AWAY = 3
"""Lost attempts that began while the endpoint was away, before it is given up."""
_LOSSES = CONNECTION_FAILURES | {"server_error"}


class OutageDetector:
    """The attempts at an endpoint since its last answer. ``where`` names the endpoint for the user."""

    def __init__(
        self,
        where: str,
        concurrency: int,
        attempt_timeout_s: float,
        unreachable_s: float = DEFAULTS.unreachable_s,
    ) -> None:
        self._where = where
        self._attempt_timeout_s = attempt_timeout_s
        self._unreachable_s = unreachable_s
        self._min_losses = max(MIN_LOSSES, min(MAX_LOSSES, concurrency))
        self._served = False
        self._lost_keys: set[str] = set()
        self._away_since: float | None = None
        self._losses_while_away = 0
        self._last = self._resumes = -math.inf

    def record_success(self) -> None:
        """Take in an answer."""
        self._served = True
        self._clear()

    def record_sign_of_life(self) -> None:
        """Take in a refusal: the endpoint is not away."""
        self._clear()

    def record_failure(self, key: str, error: AttemptError, started_at: float, now: float) -> None:
        """Take in a failed attempt.

        Sets ``error.exempt`` while the endpoint is away, and ``error.fatal`` when it has been away for too long.
        """
        if error.reason == "overload":
            # The endpoint says that it is busy: neither an answer nor a loss.
            return
        if error.reason not in _LOSSES:
            self._clear()
            return
        if started_at - max(self._last, self._resumes) > FORGET_S:
            # Nothing was sent meanwhile, for another reason than a pause: earlier losses say nothing any more.
            self._clear()
        self._last = now
        self._lost_keys.add(key)
        if self._away_since is not None:
            self._losses_while_away += started_at >= self._away_since
        elif error.refused or len(self._lost_keys) >= self._min_losses:
            self._away_since = now
        if self._away_since is not None:
            error.exempt = error.reason in CONNECTION_FAILURES
        self.judge(error, now, now)

    def judge(self, error: AttemptError, now: float, resumes: float) -> None:
        """Set ``error.fatal`` if the endpoint has been away for too long; the next attempt may start at ``resumes``.

        Before its first answer an endpoint is given up if that is too late; afterwards it is tried once more.
        """
        if self._away_since is None or error.reason not in _LOSSES:
            return
        self._resumes = resumes
        away_s = (now if self._served else resumes) - self._away_since
        if error.fatal is None and away_s > self._unreachable_s and self._losses_while_away >= MIN_LOSSES_WHILE_AWAY:
            error.fatal = EndpointError(
                f"{self._where} stopped answering {now - self._away_since:.0f} s ago ({error.detail}). What was paid "
                "is kept: run again when it is back. If single answers take longer than attempt_timeout_s "
                f"({self._attempt_timeout_s:g} s) or than a proxy waits, raise that"
            )

    def _clear(self) -> None:
        if self._lost_keys:
            self._lost_keys = set()
            self._away_since, self._losses_while_away = None, 0
