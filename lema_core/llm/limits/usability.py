"""Whether any request to an endpoint can succeed, judged by what became of all of them. Pure: time is an argument.

The class of a failure does not decide this: a wrong key comes as 400, a used-up quota as 429 for ever. What decides is
whether any other request fared better. Three detectors look at what came since the last answer:

- *loss* (`Outage`): connections, silence and server errors; nothing else for two minutes ends the run;
- *refusal* (`Refusals`): the endpoint answers, and it refuses the first requests. Retrying is useless, so the number of
  refused requests decides, not a time;
- *push-back* (`PushBacks`): 429, 503 and 529, for longer than a rate limit or a short overload lasts.

One answer clears all three. From the first refusal on until the first answer `suspended` is set: the limiter sends the
next request when those in flight have ended, so an endpoint that refuses everything gets few requests.
"""

import math
import re
from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

from lema_core.errors import EndpointError, LemaError
from lema_core.llm.limits.outage import FEWEST, FORGET_S, MOST, Outage
from lema_core.llm.limits.retry import PACED
from lema_core.llm.responses import AttemptError

FIRST_REFUSALS = 8
"""Refused requests, none answered, after which an endpoint is unusable; more where more are asked (`REFUSED_SHARE`)."""
REFUSED_SHARE = 0.02
"""Of the requests asked so far. Within the first hundreds of a large file a bad stretch of 8 prompts is possible."""
FIRST_PATIENCE_S = 120.0
"""Push-backs in place of a first answer end the run earlier than an interruption of good service does."""
PROOF = 3
"""Push-backs of attempts that began after the first one; one is enough where the first is `PROOF_S` ago, or where
`FIRST_REFUSALS` were pushed back in all."""
PROOF_S = 60.0

_REFUSALS = frozenset({"bad_request", "malformed"})
_OWN = re.compile(
    r"context.{0,3}(length|window|size)|(prompt|input|messages?)\b.{0,40}(too (long|many|large)|exceed)|"
    r"half a surrogate",
    re.IGNORECASE,
)
"""Complaints about the length or the characters of one prompt: others may be shorter."""


def remedy(reason: str, detail: str = "") -> str:
    """Return what to do about failures of a class, where every request of a run ended in it.

    Args:
        reason: the class, as in rejected rows.
        detail: the endpoint's words, as in rejected rows.
    """
    if "HTTP 404" in detail:
        return "Check the model's name, and that base_url ends where /chat/completions begins (usually /v1)"
    if "HTTP 403" in detail:
        return "Check that the key in the variable named by api_key_env may use this model"
    return _REMEDIES.get(reason, "Look at the endpoint's own words")


_REMEDIES = {
    "bad_request": "Every request has the same parameters and key: correct what the endpoint names (a sampling option, "
    "the model's name, the key)",
    "malformed": "Check that base_url is an OpenAI-compatible API (it usually ends in /v1) that does not stream",
    "content_filter": "The endpoint's filter stops these prompts: use another endpoint, or ask its provider",
    "rate_limit": "A quota may be used up: look at the account's limits, and run again later",
    "overload": "The endpoint has no capacity now: run again later",
    "connection": "Look whether the server runs, and at its log",
    "deadline": "Look whether the server works; if its answers take longer, raise attempt_timeout_s",
    "server_error": "Look at the server's log",
    "expired": "The endpoint did not reach these requests within the window of a batch: run again later, or by HTTP",
}


class Usability:
    """What became of the requests to one endpoint. ``where`` names it for the user."""

    def __init__(
        self,
        where: str,
        concurrency: int,
        attempt_timeout_s: float,
        request_timeout_s: float = math.inf,
        push_back_patience_s: float = 600.0,
    ) -> None:
        self._where = where
        self._request_timeout_s = request_timeout_s
        self._answered_at = -math.inf
        self._outage = Outage(where, concurrency, attempt_timeout_s)
        self._refusals = Refusals(where, concurrency)
        # Requests are given up at their deadline: a push-back that lasts as long is not theirs alone.
        self._push_backs = PushBacks(where, min(push_back_patience_s, request_timeout_s))
        self.served = False
        """A request was answered in this process."""
        self.words: dict[str, str] = {}
        """The endpoint's last words to requests that were given up, by class."""

    @property
    def suspended(self) -> bool:
        """Say whether nothing new is to be sent before those in flight have ended."""
        return self._refusals.suspended

    def asked(self) -> None:
        """Count one more request to be sent."""
        self._refusals.asked += 1

    def held(self) -> None:
        """Take note that the ledger has an answer of this endpoint: it does not refuse everything."""
        self._refusals.held, self._refusals.suspended = True, False

    def answered(self, now: float) -> None:
        """Take note that a request was answered."""
        self.served, self._answered_at = True, now
        self._outage.answered()
        self._refusals.answered()
        self._push_backs.answered()

    def failed(self, key: str, error: AttemptError, started: float, now: float) -> None:
        """Take in a failed attempt. It sets ``error.excused`` and ``error.fatal``, and drops an absurd Retry-After."""
        if error.retry_after is not None and not error.retry_after >= 0:
            error.retry_after = None
        if error.doubtful and error.fatal is not None:
            # Whether it holds for others is decided when the request is given up (`given_up`), which is now.
            self._outage.sign_of_life()
            return
        self._refusals.suspect(error)
        self._too_long_a_wait(error, started)
        self._outage.failed(key, error, started, now)
        self._push_backs.failed(error, started, now)

    def paused(self, error: AttemptError, now: float, until: float) -> None:
        """Take in that nothing starts before ``until`` after a failure; set ``error.fatal`` where that is too late."""
        for detector in (self._outage, self._push_backs):
            detector.judge(error, now, max(now, until))

    def given_up(self, key: str, error: AttemptError, began: float, now: float, in_flight: int) -> None:
        """Take in the error of a request that is not tried again. Its first attempt began at ``began``.

        Sets ``error.fatal`` where no other request fares better, and takes a doubtful one back where another may.
        ``in_flight`` says how many others are being sent.
        """
        self.words[error.reason] = error.detail
        self._refusals.given_up(key, error, in_flight)
        if error.reason in PACED and error.fatal is None and self._answered_at < began and self._push_backs.proven(now):
            # Pushed back until its deadline, and so were all others: its row would blame the request.
            error.fatal = self._push_backs.verdict(error, now)

    def _too_long_a_wait(self, error: AttemptError, started: float) -> None:
        asked = error.retry_after
        if asked is None or asked <= self._request_timeout_s or error.fatal is not None:
            return
        if self._answered_at > started:
            # Others were answered meanwhile: so long a wait cannot be meant for everybody.
            error.retry_after = None
            return
        error.fatal = EndpointError(
            f"{self._where} asks to wait until {_moment(asked)} ({error.detail}), longer than request_timeout_s "
            f"({self._request_timeout_s:g} s). Nothing is rejected and everything paid is kept: run again then"
        )


def _moment(seconds: float) -> str:
    """Return the time of day (UTC) in so many seconds."""
    if seconds > 366 * 86_400:
        return f"more than a year from now ({seconds:.3g} s)"
    return f"{datetime.now(UTC) + timedelta(seconds=seconds):%Y-%m-%d %H:%M:%S} UTC"


class Refusals:
    """Requests that the endpoint refused, in a row, without an answer to any other."""

    def __init__(self, where: str, concurrency: int) -> None:
        self._where = where
        self._access = max(FEWEST, min(MOST, concurrency))
        self._refused: dict[str, AttemptError] = {}
        self._served = False
        self.asked = 0
        self.held = False
        self.suspended = False

    def answered(self) -> None:
        """Take note that a request was answered."""
        self._served, self.suspended = True, False
        self._refused.clear()

    def suspect(self, error: AttemptError) -> None:
        """Send nothing more beside what is in flight where an attempt was refused and no request answered yet."""
        self.suspended = self.suspended or self._counts(error)

    def _counts(self, error: AttemptError) -> bool:
        """Say whether a failure counts against the endpoint: a refusal that is not for the prompt's own sake."""
        others = self._served or self.held
        return not others and error.reason in _REFUSALS and not _OWN.search(error.detail)

    def given_up(self, key: str, error: AttemptError, in_flight: int) -> None:
        """Take in the error of a request that is not tried again; see `Usability.given_up`."""
        access, error.fatal = error.fatal, None
        others = self._served or self.held
        if access is not None or self._counts(error):
            self._refused[key] = error
        if access is not None and others:
            # Few are refused access: a firewall takes offence at what they say. A withdrawn key hits all.
            error.fatal = access if len(self._refused) >= self._access else None
            return
        # Refusals come back sooner than answers: those in flight may fare better, and nothing more is sent before.
        self.suspended = not others and (self.suspended or bool(self._refused))
        if self.suspended and in_flight <= 0 and len(self._refused) >= self._threshold():
            error.fatal = access if access is not None else self._verdict()

    def _threshold(self) -> float:
        return max(FIRST_REFUSALS, REFUSED_SHARE * self.asked)

    def _verdict(self) -> EndpointError:
        errors = self._refused.values()
        counts = Counter[str](error.reason for error in errors)
        words: dict[str, str] = {error.reason: error.detail for error in errors}
        return EndpointError(nothing_answered(self._where, counts, words))


def nothing_answered(where: str, reasons: Mapping[str, int], words: Mapping[str, str]) -> str:
    """Return the sentence for an endpoint that answered no request: how many failed why, its words, what to do."""
    told = "; ".join(
        f"{count} {reason}" + (f" ({words[reason]})" if reason in words else "")
        for reason, count in sorted(reasons.items(), key=lambda item: -item[1])
    )
    main = max(reasons, key=lambda reason: reasons[reason])
    return (
        f"{where} answered none of {sum(reasons.values())} requests: {told}. {remedy(main, words.get(main, ''))}; then "
        "run again, which asks again for everything that has no answer"
    )


class PushBacks:
    """Answers that say "later" and nothing else, since the last answer to a request."""

    def __init__(self, where: str, patience_s: float) -> None:
        self._where = where
        self._patience_s = patience_s
        self._served = False
        self._last = self._resumes = -math.inf
        self._since: float | None = None
        self._again = 0
        self._counts = Counter[str]()

    def answered(self) -> None:
        """Take note that a request was answered."""
        self._served = True
        self._clear()

    def failed(self, error: AttemptError, started: float, now: float) -> None:
        """Take in a failed attempt; only push-backs count, and nothing but an answer clears them."""
        if error.reason not in PACED:
            return
        if started - max(self._last, self._resumes) > FORGET_S:
            # Nothing was asked meanwhile, for another reason than a pause.
            self._clear()
        if self._since is None:
            self._since = now
        elif started >= self._since:
            self._again += 1
        self._last = now
        self._counts[error.reason] += 1

    def judge(self, error: AttemptError, now: float, resumes: float) -> None:
        """Set ``error.fatal`` where the next try would be later than patience lasts."""
        if self._since is None or error.reason not in PACED:
            return
        self._resumes = resumes
        patience = self._patience_s if self._served else min(self._patience_s, FIRST_PATIENCE_S)
        if error.fatal is None and self.proven(now) and resumes - self._since > patience:
            error.fatal = self.verdict(error, now)

    def proven(self, now: float) -> bool:
        """Say whether enough attempts were pushed back to judge by."""
        if self._since is None or self._again == 0:
            return False
        return self._counts.total() >= FIRST_REFUSALS or self._again >= PROOF or now - self._since >= PROOF_S

    def verdict(self, error: AttemptError, now: float) -> LemaError:
        """Return the error that ends a run: ``error`` is the last push-back."""
        waited = 0.0 if self._since is None else now - self._since
        counts = ", ".join(f"{count} {reason}" for reason, count in sorted(self._counts.items()))
        ever = "since its last answer" if self._served else "so far"
        return EndpointError(
            f"{self._where} has pushed back every attempt for {waited:.0f} s and answered none {ever} ({counts}; its "
            f"last words: {error.detail}). A quota may be used up, or the endpoint is overloaded. Nothing is rejected "
            "and everything paid is kept: run again later. How long to wait is push_back_patience_s, at most "
            f"request_timeout_s ({self._patience_s:g} s; {FIRST_PATIENCE_S:g} s before the first answer)"
        )

    def _clear(self) -> None:
        self._since, self._resumes, self._again = None, -math.inf, 0
        self._counts.clear()
