"""Whether any request to an endpoint can succeed, judged by the results of all of them. Pure: time is an argument.

The class of a failure does not decide this: a wrong key comes as 400, a used-up quota as an endless 429. What decides
is whether any other request fared better. Three detectors look at the failures since the last answer:

- *loss* (`OutageDetector`): connections, silence and server errors; nothing else for two minutes ends the run;
- *refusal* (`RefusalDetector`): the endpoint answers, and it refuses the first requests. Retrying is useless, so the
  number of refused requests decides, not a time;
- *push-back* (`PushBackDetector`): 429, 503 and 529, for longer than a rate limit or a short overload lasts.

One answer clears all three. From the first refusal until the first answer, ``suspended`` is set: the limiter sends the
next request when those in flight have ended, so an endpoint that refuses everything gets few requests.
"""

import math
import re
from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

from lema_core.errors import EndpointError, LemaError
from lema_core.llm.limits.retry import BACKPRESSURE, CONNECTION_FAILURES
from lema_core.llm.responses import AttemptError
from lema_core.llm.settings import DEFAULTS, EngineSettings

FORGET_S = 120.0
"""After this time without an attempt, earlier losses say nothing. The limiter's own pauses are shorter."""
MIN_LOSSES, MAX_LOSSES = 4, 32
"""Different requests that must be lost; between the two, as many as may be in flight."""
MIN_LOSSES_WHILE_AWAY = 3
"""Lost attempts that began while the endpoint was away, before it is given up."""
LOSSES = CONNECTION_FAILURES | {"server_error"}
FIRST_REFUSALS = 8
"""Refused requests, none answered, after which an endpoint is unusable; more if more are sent (`REFUSED_SHARE`)."""
REFUSED_SHARE = 0.02
"""Of the requests sent so far. Within the first hundreds of a large file, a bad stretch of 8 prompts is possible."""
PROOF = 3
"""Push-backs of attempts that began after the first one. One is enough if the first is `PROOF_S` old, or if
`FIRST_REFUSALS` were pushed back in all."""
PROOF_S = 60.0
_REFUSALS = frozenset({"bad_request", "malformed"})
_PROMPTS_OWN_FAULT = re.compile(
    r"context.{0,3}(length|window|size)|(prompt|input|messages?)\b.{0,40}(too (long|many|large)|exceed)|"
    r"half a surrogate",
    re.IGNORECASE,
)
"""Complaints about the length or the characters of one prompt: others may be shorter."""


class OutageDetector:
    """The attempts at an endpoint since its last answer: whether it is away, and has been for too long.

    A single lost request may itself be the cause: a prompt that crashes the server, or an answer that takes longer than
    a proxy waits. So an endpoint counts as away once a connection fails, or once as many different requests as are
    usually in flight were lost without an answer in between. While it is away, the limiter makes every request wait and
    lets a few try; those attempts do not count against their requests. The run ends when attempts that began after that
    moment are lost as well for `EngineSettings.unreachable_s`. Any answer resets everything.

    ``where`` names the endpoint for the user.
    """

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

    @property
    def is_away(self) -> bool:
        """Return whether it counts as away."""
        return self._away_since is not None

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
        if error.reason not in LOSSES:
            self._clear()
            return
        if started_at - max(self._last, self._resumes) > FORGET_S:
            # Nothing was sent meanwhile, for another reason than a pause: earlier losses say nothing any more.
            self._clear()
        self._last = now
        self._lost_keys.add(key)
        if self._away_since is not None:
            self._losses_while_away += started_at >= self._away_since
        elif error.not_sent or len(self._lost_keys) >= self._min_losses:
            self._away_since = now
        if self._away_since is not None:
            error.exempt = error.reason in CONNECTION_FAILURES
        self.judge(error, now, now)

    def judge(self, error: AttemptError, now: float, resumes: float) -> None:
        """Set ``error.fatal`` if the endpoint has been away for too long; the next attempt may start at ``resumes``.

        Before its first answer an endpoint is given up if that is too late; afterwards it is tried once more.
        """
        if self._away_since is None or error.reason not in LOSSES:
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


def remedy(reason: str, detail: str = "") -> str:
    """Return what to do about failures of a class, when every request of a run ended in it.

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
    "the model's name, the key). `params` of the endpoint sets a field, or leaves it out ('omit'); `rename` renames it",
    "malformed": "Check that base_url is an OpenAI-compatible API (it usually ends in /v1) that does not stream",
    "content_filter": "The endpoint's filter stops these prompts: use another endpoint, or ask its provider",
    "rate_limit": "A quota may be used up: look at the account's limits, and run again later",
    "overload": "The endpoint has no capacity now: run again later",
    "connection": "Look whether the server runs, and at its log",
    "deadline": "Look whether the server works; if its answers take longer, raise attempt_timeout_s",
    "server_error": "Look at the server's log",
    "expired": "The endpoint did not reach these requests within the window of a batch: run again later, or by HTTP",
}


class EndpointHealth:
    """What is known of one endpoint from the results of its requests. ``where`` names it for the user."""

    def __init__(
        self,
        where: str,
        concurrency: int,
        attempt_timeout_s: float,
        request_timeout_s: float = math.inf,
        push_back_patience_s: float = 600.0,
        settings: EngineSettings = DEFAULTS,
    ) -> None:
        self._where = where
        self._request_timeout_s = request_timeout_s
        self._answered_at = -math.inf
        self._outage = OutageDetector(where, concurrency, attempt_timeout_s, settings.unreachable_s)
        self._refusals = RefusalDetector(where, concurrency)
        # Requests are given up at their deadline: a push-back that lasts as long hits all of them.
        patience_s = min(push_back_patience_s, request_timeout_s)
        self._push_backs = PushBackDetector(where, patience_s, settings.first_answer_patience_s)
        self.last_details: dict[str, str] = {}
        """What the endpoint last said to requests that were given up, by class."""

    @property
    def suspended(self) -> bool:
        """Return whether nothing new is to be sent before the requests in flight have ended."""
        return self._refusals.suspended

    @suspended.setter
    def suspended(self, value: bool) -> None:
        self._refusals.suspended = value

    def record_request(self) -> None:
        """Count one more request to be sent."""
        self._refusals.requests += 1

    def record_stored_answer(self) -> None:
        """Take in that the ledger has an answer of this endpoint: it does not refuse everything."""
        self._refusals.has_stored_answer, self._refusals.suspended = True, False

    def record_success(self, now: float) -> None:
        """Take in an answer."""
        self._answered_at = now
        self._outage.record_success()
        self._refusals.record_success()
        self._push_backs.record_success()

    def record_failure(self, key: str, error: AttemptError, started_at: float, now: float) -> None:
        """Take in a failed attempt. Sets ``error.exempt`` and ``error.fatal``, and drops an absurd Retry-After."""
        # "not >=" instead of "<": it also drops NaN.
        if error.retry_after is not None and not error.retry_after >= 0:
            error.retry_after = None
        if error.fatal_unless_served and error.fatal is not None:
            # `record_final_failure`, which follows at once, decides whether it holds for other requests.
            self._outage.record_sign_of_life()
            return
        self._refusals.suspend_on_refusal(error)
        self._check_retry_after(error, started_at)
        self._outage.record_failure(key, error, started_at, now)
        self._push_backs.record_failure(error, started_at, now)

    def record_pause(self, error: AttemptError, now: float, until: float) -> None:
        """Take in that nothing starts before ``until`` after a failure; set ``error.fatal`` if that is too late."""
        for detector in (self._outage, self._push_backs):
            detector.judge(error, now, max(now, until))

    def record_final_failure(
        self, key: str, error: AttemptError, started_at: float, now: float, in_flight: int
    ) -> None:
        """Take in the error of a request that is not tried again.

        Sets ``error.fatal`` if no other request fares better, and removes a doubtful one if another may.

        Args:
            key: the request's key.
            error: the error of its last attempt.
            started_at: when its first attempt began.
            now: the time.
            in_flight: how many other requests are being sent.
        """
        self.last_details[error.reason] = error.detail
        self._refusals.record_final_failure(key, error, in_flight)
        nobody_answered = error.reason in BACKPRESSURE and self._answered_at < started_at
        if nobody_answered and error.fatal is None and self._push_backs.is_proven(now):
            # Pushed back until its deadline, as were all others: a rejected row would blame this request.
            error.fatal = self._push_backs.fatal_error(error, now)

    def _check_retry_after(self, error: AttemptError, started_at: float) -> None:
        """End the run if the endpoint asks for a wait that is longer than a request may take."""
        wait_s = error.retry_after
        if wait_s is None or wait_s <= self._request_timeout_s or error.fatal is not None:
            return
        if self._answered_at > started_at:
            # Other requests were answered meanwhile, so such a wait cannot be meant for all.
            error.retry_after = None
            return
        if wait_s > 366 * 86_400:
            moment = f"more than a year from now ({wait_s:.3g} s)"
        else:
            moment = f"{datetime.now(UTC) + timedelta(seconds=wait_s):%Y-%m-%d %H:%M:%S} UTC"
        error.fatal = EndpointError(
            f"{self._where} asks to wait until {moment} ({error.detail}), longer than request_timeout_s "
            f"({self._request_timeout_s:g} s). Nothing is rejected and everything paid is kept: run again then"
        )


class RefusalDetector:
    """Requests that the endpoint refused without an answer to any other in between."""

    def __init__(self, where: str, concurrency: int) -> None:
        self._where = where
        self._enough_denials = max(MIN_LOSSES, min(MAX_LOSSES, concurrency))
        self._refused: dict[str, AttemptError] = {}
        self._served = False
        self.requests = 0
        self.has_stored_answer = False
        self.suspended = False

    def record_success(self) -> None:
        """Take in an answer."""
        self._served, self.suspended = True, False
        self._refused.clear()

    def suspend_on_refusal(self, error: AttemptError) -> None:
        """Send nothing beside what is in flight, if an attempt is refused before any request was answered."""
        self.suspended = self.suspended or self._is_refusal(error)

    def _is_refusal(self, error: AttemptError) -> bool:
        """Return whether a failure counts against the endpoint, and not against the prompt."""
        others_answered = self._served or self.has_stored_answer
        return not others_answered and error.reason in _REFUSALS and not _PROMPTS_OWN_FAULT.search(error.detail)

    def record_final_failure(self, key: str, error: AttemptError, in_flight: int) -> None:
        """Take in the error of a request that is not tried again; see `EndpointHealth.record_final_failure`."""
        denial, error.fatal = error.fatal, None
        others_answered = self._served or self.has_stored_answer
        if denial is not None or self._is_refusal(error):
            self._refused[key] = error
        if denial is not None and others_answered:
            # A firewall denies few requests, for what they say. A withdrawn key hits all.
            error.fatal = denial if len(self._refused) >= self._enough_denials else None
            return
        # Refusals come back sooner than answers: those in flight may fare better, and nothing more is sent before.
        self.suspended = not others_answered and (self.suspended or bool(self._refused))
        threshold = max(FIRST_REFUSALS, REFUSED_SHARE * self.requests)
        if self.suspended and in_flight <= 0 and len(self._refused) >= threshold:
            counts = Counter[str](refused.reason for refused in self._refused.values())
            details: dict[str, str] = {refused.reason: refused.detail for refused in self._refused.values()}
            error.fatal = denial or EndpointError(no_answer_message(self._where, counts, details))


def no_answer_message(where: str, reasons: Mapping[str, int], details: Mapping[str, str]) -> str:
    """Return the sentence for an endpoint that answered no request: how many failed why, its words, what to do."""
    failures = "; ".join(
        f"{count} {reason}" + (f" ({details[reason]})" if reason in details else "")
        for reason, count in sorted(reasons.items(), key=lambda item: -item[1])
    )
    main = max(reasons, key=lambda reason: reasons[reason])
    return (
        f"{where} answered none of {sum(reasons.values())} requests: {failures}. "
        f"{remedy(main, details.get(main, ''))}; then run again, which asks again for everything that has no answer"
    )


class PushBackDetector:
    """Push-backs (429, 503, 529) since the last answer to a request."""

    def __init__(
        self, where: str, patience_s: float, first_answer_patience_s: float = DEFAULTS.first_answer_patience_s
    ) -> None:
        self._where = where
        self._patience_s = patience_s
        self._first_answer_patience_s = first_answer_patience_s
        self._served = False
        self._last = self._resumes = -math.inf
        self._since: float | None = None
        self._later_push_backs = 0
        self._counts = Counter[str]()

    def record_success(self) -> None:
        """Take in an answer."""
        self._served = True
        self._clear()

    def record_failure(self, error: AttemptError, started_at: float, now: float) -> None:
        """Take in a failed attempt; only push-backs count, and only an answer clears them."""
        if error.reason not in BACKPRESSURE:
            return
        if started_at - max(self._last, self._resumes) > FORGET_S:
            # Nothing was sent meanwhile, for another reason than a pause.
            self._clear()
        if self._since is None:
            self._since = now
        elif started_at >= self._since:
            self._later_push_backs += 1
        self._last = now
        self._counts[error.reason] += 1

    def judge(self, error: AttemptError, now: float, resumes: float) -> None:
        """Set ``error.fatal`` if the next attempt, at ``resumes``, would be later than patience lasts."""
        if self._since is None or error.reason not in BACKPRESSURE:
            return
        self._resumes = resumes
        patience_s = self._patience_s if self._served else min(self._patience_s, self._first_answer_patience_s)
        if error.fatal is None and self.is_proven(now) and resumes - self._since > patience_s:
            error.fatal = self.fatal_error(error, now)

    def is_proven(self, now: float) -> bool:
        """Return whether enough attempts were pushed back to judge by."""
        if self._since is None or self._later_push_backs == 0:
            return False
        many = self._counts.total() >= FIRST_REFUSALS or self._later_push_backs >= PROOF
        return many or now - self._since >= PROOF_S

    def fatal_error(self, error: AttemptError, now: float) -> LemaError:
        """Return the error that ends a run; ``error`` is the last push-back."""
        waited_s = 0.0 if self._since is None else now - self._since
        counts = ", ".join(f"{count} {reason}" for reason, count in sorted(self._counts.items()))
        since = "since its last answer" if self._served else "so far"
        return EndpointError(
            f"{self._where} has pushed back every attempt for {waited_s:.0f} s and answered none {since} ({counts}; "
            f"its last words: {error.detail}). A quota may be used up, or the endpoint is overloaded. Nothing is "
            "rejected and everything paid is kept: run again later. How long to wait is push_back_patience_s, at most "
            f"request_timeout_s ({self._patience_s:g} s; {self._first_answer_patience_s:g} s before the first answer)"
        )

    def _clear(self) -> None:
        self._since, self._resumes, self._later_push_backs = None, -math.inf, 0
        self._counts.clear()
