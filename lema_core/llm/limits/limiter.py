"""How many requests may be in flight to one server and key, and how fast they may start. Pure: time is an argument.

Three limits, each with its own way up and down:

- the *window*: requests in flight. It grows by one per answer until the first push-back, then by one per window
  (additive increase), and shrinks by `SHRINK` (multiplicative decrease) once per congestion epoch: push-backs of
  requests that were sent before the last decrease say nothing new;
- the *pace*: requests per second. A push-back shows how much was accepted since the last one, pause included, and that
  rate is the new pace. After `HOLD_S` it doubles each time such a rate has given `DOUBLE_ANSWERS`. So a limit that was
  raised is found within seconds, and a slow endpoint is not pushed against its limit more often than a fast one.
  A limit that headers only advertise is where the pace starts;
- the *quotas*: requests and tokens per minute as given, or as headers state that also count down what remains.

Starts are jittered (`JITTER_RATE`): otherwise a window whose answers arrive at once would be sent at once, and all of
it would pass a limit before the first push-back arrived.

A pause stops all starts: a back-off that doubles, or Retry-After if that is longer. No number from outside makes a
pause shorter or a rate higher than our own. Requests answered from the ledger never come here.
"""

import math
import random
from collections.abc import Mapping
from dataclasses import dataclass, field

from lema_core.llm.responses import rate_limit
from lema_core.llm.settings import DEFAULTS

SHRINK = 0.7
"""The window's factor at congestion; TCP's is a half."""
FIRST_WINDOW = 32.0
HOLD_S, DOUBLE_ANSWERS = 0.25, 25
"""After a push-back the pace holds for this long; then it doubles in the time that this many answers take."""
FASTEST_DOUBLE_S, SLOWEST_DOUBLE_S = 0.25, 1.0
"""The bounds of that time."""
PACE_BURST_S = 0.05
BACKOFF_MAX_S = 30.0
LONGEST_PAUSE_S = 3600.0
FASTEST = 10_000.0
"""A pace beyond any client's speed, which limits nothing."""
JITTER_RATE, JITTER_BURST = 2000.0, 8
"""Starts per second, and starts at one moment. Wide windows may start 40 times themselves in a second."""
QUOTA_USE = 0.98
"""Our clock and the endpoint's drift apart within a minute; two per cent are cheaper than answers 429."""


@dataclass
class Bucket:
    """A token bucket. It goes into debt when a request turns out to be larger than estimated."""

    rate: float
    """Tokens per second."""
    burst_s: float
    """Its capacity, in seconds of its rate."""
    level: float = math.inf
    at: float = 0.0

    def wait(self, now: float, cost: float) -> float:
        """Return the seconds until ``cost`` can be taken. A cost above the capacity needs a full bucket."""
        self._refill(now)
        missing = min(cost, self._capacity) - self.level
        # Less than a billionth is rounding: waiting for it would only spin.
        return missing / self.rate if missing > 1e-9 else 0.0

    def take(self, now: float, cost: float) -> None:
        """Take tokens; a negative cost returns some."""
        self._refill(now)
        self.level -= cost

    def set_rate(self, now: float, rate: float) -> None:
        """Change the rate from now on."""
        self._refill(now)
        self.rate = rate

    @property
    def _capacity(self) -> float:
        return max(1.0, self.rate * self.burst_s)

    def _refill(self, now: float) -> None:
        self.level = min(self._capacity, self.level + max(0.0, now - self.at) * self.rate)
        self.at = max(self.at, now)


@dataclass(frozen=True, slots=True)
class Permit:
    """The right to send one request."""

    started_at: float
    tokens: float


@dataclass
class Limiter:
    """The limits of one server and key. ``now`` is any clock in seconds that does not run backwards."""

    ceiling: float
    """The most requests in flight from this process, as the user gave it."""
    requests_per_minute: float | None = None
    tokens_per_minute: float | None = None
    randomness: random.Random = field(default_factory=random.Random)
    share: int = 1
    """How many processes use the same endpoint and key: every quota is divided by it."""
    backoff_s: float = DEFAULTS.backoff_s
    """The first pause after a push-back."""

    window: float = FIRST_WINDOW
    in_flight: int = 0
    paused_until: float = -math.inf

    def __post_init__(self) -> None:
        self.window = min(self.window, self.ceiling)
        self._jitter = Bucket(JITTER_RATE, JITTER_BURST / JITTER_RATE)
        self._slow_start = True
        self._streak = 0
        self._congestion_epoch = -math.inf
        self._measuring_since: float | None = None
        self._starts = 0
        self._measurement = (0, 1.0)
        self._idle_since: float | None = None
        self._pace: Bucket | None = None
        self._base_rate = 1.0
        self._advertised = 0.0
        self._requests = self._quota(self.requests_per_minute)
        self._tokens = self._quota(self.tokens_per_minute)

    def _quota(self, per_minute: float | None) -> Bucket | None:
        return None if per_minute is None else Bucket(per_minute * QUOTA_USE / 60 / self.share, 0.5)

    def wait(self, now: float, tokens: float) -> float:
        """Return the seconds until a request may start. Infinity: not before another one has ended."""
        self._end_idle(now)
        if self.in_flight >= max(1.0, min(self.window, self.ceiling)):
            return math.inf
        # The longest of all waits counts.
        self._jitter.rate = max(JITTER_RATE, 40 * self.window)
        wait = max(0.0, self.paused_until - now, self._jitter.wait(now, 1))
        if self._requests is not None:
            wait = max(wait, self._requests.wait(now, 1))
        if self._tokens is not None:
            wait = max(wait, self._tokens.wait(now, tokens))
        if self._pace is not None:
            # Faster the longer no push-back came: the measured rate doubles over and over until it limits nothing.
            free = now - (now if self._measuring_since is None else self._measuring_since) - HOLD_S
            double = min(SLOWEST_DOUBLE_S, max(FASTEST_DOUBLE_S, DOUBLE_ANSWERS / self._base_rate))
            grown = self._base_rate * 2 ** min(60.0, max(0.0, free) / double)
            if grown >= FASTEST:
                self._pace = None
            else:
                self._pace.set_rate(now, grown)
                wait = max(wait, self._pace.wait(now, 1))
        return wait

    def start(self, now: float, tokens: float) -> Permit:
        """Return a permit. Call it only after ``wait`` returned 0."""
        self._end_idle(now)
        self._measuring_since = now if self._measuring_since is None else self._measuring_since
        self.in_flight += 1
        self._starts += 1
        # Taken when it starts, not when it waits: a waiter may be cancelled and would keep what it took.
        costs = ((self._jitter, 1.0), (self._requests, 1.0), (self._tokens, tokens), (self._pace, 1.0))
        for bucket, cost in costs:
            if bucket is not None:
                bucket.take(now, cost)
        return Permit(now, tokens)

    def record_success(self, permit: Permit, now: float, used_tokens: float) -> None:
        """Take in an answer; its true size corrects the tokens-per-minute quota.

        The request stays in flight until `release`: what is answered but not yet committed would be lost by a kill.
        """
        # Growth needs evidence: a window that is hardly used does not grow.
        if self.in_flight >= 0.8 * self.window:
            self.window = min(self.ceiling, self.window + (1.0 if self._slow_start else 1.0 / self.window))
        # An answer to what was sent before the push-back says nothing about the load since.
        if permit.started_at >= self._congestion_epoch:
            self._streak = 0
        # May be below zero: the bucket then owes tokens, and the next request waits longer.
        if self._tokens is not None:
            self._tokens.take(now, used_tokens - permit.tokens)

    def record_congestion(
        self, permit: Permit, now: float, retry_after: float | None = None, *, is_push_back: bool = True
    ) -> None:
        """Take in a push-back (429, overload) or, if ``is_push_back`` is false, a lost connection or deadline."""
        # An endless or absurd Retry-After is cut at `LONGEST_PAUSE_S`.
        asked = min(LONGEST_PAUSE_S, retry_after) if retry_after is not None and retry_after > 0 else 0.0
        # Our back-off is the floor: with Retry-After 0, or a date that is past by our clock, we would hammer.
        pause = max(min(BACKOFF_MAX_S, self.backoff_s * 2 ** min(self._streak, 10)), asked)
        # Never before Retry-After, and not all clients at the same moment after it.
        until = now + pause * (1 + 0.1 * self.randomness.random())
        # The first push-back of an epoch. Later ones of requests sent before it describe the same congestion.
        if permit.started_at >= self._congestion_epoch:
            self._streak += 1
            self._congestion_epoch = now
            self._slow_start = False
            self.window = max(1.0, SHRINK * self.window)
            self.paused_until = max(self.paused_until, until)
            if is_push_back:
                # Measure the rate that was accepted since the last push-back, the pause included, and start anew.
                began = now if self._measuring_since is None else self._measuring_since
                self._measurement = (self._starts, max(until - began, 1e-3))
                self._starts, self._measuring_since = 0, until
                fastest = FASTEST if self._pace is None else self._pace.rate
                # Empty if nothing was accepted since the last push-back: with a token in hand each push-back would pay
                # for the next start, whatever the rate.
                level = 1.0 if self._streak < 2 else 0.0
                self._pace = Bucket(fastest, PACE_BURST_S, level=level, at=until)
        # Later ones of the same epoch shrink nothing, but their Retry-After holds.
        elif asked > 0:
            self.paused_until = max(self.paused_until, until)
        if is_push_back:
            self._slow_down(now)
        if self._tokens is not None:
            self._tokens.take(now, -permit.tokens)
        self.release(now)

    def record_end(self, permit: Permit, now: float) -> None:
        """Take in an end that says nothing about load (bad request, server error, cancelled)."""
        if self._tokens is not None:
            self._tokens.take(now, -permit.tokens)
        self.release(now)

    def learn_limits(self, headers: Mapping[str, str], now: float) -> None:
        """Take the limits from an answer's headers, unless the user gave some."""
        for name, given in (("requests", self.requests_per_minute), ("tokens", self.tokens_per_minute)):
            value = rate_limit(headers, name)
            if given is not None or value is None:
                continue
            if f"x-ratelimit-remaining-{name}" in headers:
                self._set_quota(f"_{name}", value)
            elif name == "requests" and self._advertised != value:
                # Nothing says that this number is up to date: start there, and let push-backs correct it.
                self._advertised = value
                self._base_rate = value * QUOTA_USE / 60 / self.share
                self._pace, self._measuring_since = Bucket(self._base_rate, 0.5, at=now), now

    def join(self, share: int, now: float, notice_s: float) -> None:
        """Start beside other processes: no quota is used until they, too, know that there is one more."""
        self.divide(share)
        # The others divide at their next heartbeat; until then all quotas together would be exceeded.
        if share > 1 and (self._requests is not None or self._tokens is not None):
            self.paused_until = max(self.paused_until, now + notice_s)

    def divide(self, share: int) -> None:
        """Divide the quotas by the number of processes that use this endpoint and key now."""
        share = max(1, share)
        for bucket in (self._requests, self._tokens):
            if bucket is not None:
                bucket.rate *= self.share / share
        self.share = share

    def restrict(self, ceiling: float, requests_per_minute: float | None, tokens_per_minute: float | None) -> None:
        """Take in the limits of another spec with the same endpoint and key: the tighter ones hold for both."""
        self.ceiling = min(self.ceiling, ceiling)
        for name, new in (("requests", requests_per_minute), ("tokens", tokens_per_minute)):
            given = getattr(self, f"{name}_per_minute")
            if new is not None and (given is None or new < given):
                setattr(self, f"{name}_per_minute", new)
                self._set_quota(f"_{name}", new)

    def _end_idle(self, now: float) -> None:
        """End an idle time: the time since the last request ended is no evidence of a slow endpoint."""
        if self._idle_since is not None and self._measuring_since is not None:
            self._measuring_since += now - self._idle_since
        self._idle_since = None

    def _set_quota(self, own: str, per_minute: float) -> None:
        bucket: Bucket | None = getattr(self, own)
        rate = per_minute * QUOTA_USE / 60 / self.share
        if bucket is None:
            setattr(self, own, self._quota(per_minute))
        elif not math.isclose(bucket.rate, rate):
            bucket.rate = rate

    def _slow_down(self, now: float) -> None:
        """Correct the measured rate: one more of the requests that were sent was not accepted.

        What is still in flight counts as accepted until it is pushed back: answers take longer than push-backs.
        """
        if self._pace is None:
            return
        sent, seconds = self._measurement
        self._measurement = (sent - 1, seconds)
        # If nothing at all was accepted, the rate is unknown, only far too fast.
        measured = (sent - 1) / seconds if sent > 1 else self._base_rate / 2
        self._base_rate = max(0.1, min(measured, self._pace.rate))
        self._pace.set_rate(now, self._base_rate)

    def release(self, now: float) -> None:
        """Take a request out of flight that succeeded and is committed."""
        self.in_flight -= 1
        if self.in_flight == 0:
            self._idle_since = now
