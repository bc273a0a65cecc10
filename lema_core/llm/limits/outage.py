"""Whether an endpoint is away, and whether it has been for too long. Pure: time is an argument.

One request that is lost may be to blame itself: a prompt that crashes the server, an answer that takes longer than a
proxy waits. So an endpoint is away once a connection is refused, or as many different requests as are usually in flight
were lost one after the other without any answer between. While it is away the limiter makes everybody wait and lets a
few try; those tries are not counted against their requests. It is away for good when tries that began after that moment
are lost as well for `UNREACHABLE_S`. Any answer ends it all.
"""

import math

from lema_core.errors import EndpointError
from lema_core.llm.limits.retry import BROKEN
from lema_core.llm.responses import AttemptError

UNREACHABLE_S = 120.0
"""An endpoint that is away for so long ends the run. Silence is heard when an attempt ends: it takes two of them."""
FORGET_S = 120.0
"""Nobody tried for so long: what was lost before says nothing. The limiter's own pauses are shorter."""
FEWEST, MOST = 4, 32
"""Different requests that must be lost; between the two, as many as may be in flight."""
AGAIN = 3
"""Attempts lost that began while it was away, before it is given up."""
_BAD = BROKEN | {"server_error"}


class Outage:
    """What an endpoint's attempts came to since its last answer. ``where`` names it for the user."""

    def __init__(self, where: str, concurrency: int, attempt_timeout_s: float) -> None:
        self._where = where
        self._attempt_timeout_s = attempt_timeout_s
        self._enough = max(FEWEST, min(MOST, concurrency))
        self._served = False
        self._failed: set[str] = set()
        self._since: float | None = None
        self._again = 0
        self._last = self._resumes = -math.inf

    def answered(self) -> None:
        """A request was answered."""
        self._served = True
        self._clear()

    def sign_of_life(self) -> None:
        """A request was refused: the endpoint is not away."""
        self._clear()

    def failed(self, key: str, error: AttemptError, started: float, now: float) -> None:
        """Take in a failed attempt, and say so in the error where its request is not to blame.

        Sets ``excused`` while the endpoint is away and ``fatal`` where it is for good.
        """
        if error.reason == "overload":
            # It is there and says that it is busy: neither an answer nor a loss.
            return
        if error.reason not in _BAD:
            self._clear()
            return
        if started - max(self._last, self._resumes) > FORGET_S:
            # Nothing was asked meanwhile, for another reason than a pause: earlier losses say nothing any more.
            self._clear()
        self._last = now
        self._count(key, error, started, now)
        if self._since is not None:
            error.excused = error.reason in BROKEN
        self.judge(error, now, now)

    def _count(self, key: str, error: AttemptError, started: float, now: float) -> None:
        self._failed.add(key)
        if self._since is not None:
            self._again += started >= self._since
            return
        if error.refused or len(self._failed) >= self._enough:
            self._since = now

    def judge(self, error: AttemptError, now: float, resumes: float) -> None:
        """Set ``fatal`` where it is away for good; ``resumes`` is when the next attempt may start.

        Before its first answer an endpoint is given up where that is too late; later on it is tried once more.
        """
        if self._since is None or error.reason not in _BAD:
            return
        self._resumes = resumes
        away = (now if self._served else resumes) - self._since
        if error.fatal is None and away > UNREACHABLE_S and self._again >= AGAIN:
            error.fatal = EndpointError(
                f"{self._where} stopped answering {now - self._since:.0f} s ago ({error.detail}). What was paid is "
                "kept: run again when it is back. If single answers take longer than attempt_timeout_s "
                f"({self._attempt_timeout_s:g} s) or than a proxy waits, raise that"
            )

    def _clear(self) -> None:
        if self._failed:
            self._failed = set()
            self._since, self._again = None, 0
