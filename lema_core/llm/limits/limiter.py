"""How many requests may be in flight to one endpoint and key, and how fast they may start. Pure: time is an argument.

Three brakes, each with its own way back:

- the *window*: requests in flight. It grows by one for each answer until the first push-back, then by one a window
  (additive increase), and shrinks by `SHRINK` (multiplicative decrease), once an episode: push-backs of requests that
  were sent before the last decrease say nothing new;
- the *pace*: requests a second. A push-back tells how much was accepted since the last one, pause included: that is the
  rate to go on with. After `HOLD_S` it doubles with every `DOUBLE_ANSWERS` that such a rate gives, so that a limit that
  was raised is found in seconds, and a slow endpoint is not pushed against its limit more often than a fast one.
  A limit that headers only advertise is where the pace starts;
- the *quotas*: requests and tokens a minute as given, or as headers tell that also count down what remains.

Starts are spread a little (`SPREAD`): a window that comes back at once would else go out at once, and all of it would
pass a limit before the first push-back could be heard.

A pause stops all starts: a back-off that doubles, or Retry-After where that is longer. No number from outside makes a
pause shorter or a rate higher than our own. Cache hits never come here.
"""

import math
import random
from collections.abc import Mapping
from dataclasses import dataclass, field

from lema_core.llm.headers import rate_limit

SHRINK = 0.7
FIRST_WINDOW = 32.0
HOLD_S, DOUBLE_ANSWERS = 0.25, 25
FASTEST_DOUBLE_S, SLOWEST_DOUBLE_S = 0.25, 1.0
PACE_BURST_S = 0.05
BACKOFF_S, BACKOFF_MAX_S = 0.25, 30.0
LONGEST_PAUSE_S = 3600.0
FASTEST = 10_000.0
"""A pace beyond any client's speed: no brake any more."""
SPREAD, SPREAD_BURST = 2000.0, 8
"""Starts a second, and starts at one moment; wide windows may start 40 times themselves in a second."""
QUOTA_USE = 0.98
"""Our clock and the endpoint's drift apart within a minute; two per cent are cheaper than answers 429."""


@dataclass
class Bucket:
    """A token bucket that may run into debt, when a request turns out to be larger than it was taken for."""

    rate: float
    """Tokens a second."""
    burst_s: float
    """Its capacity, in seconds of its rate."""
    level: float = math.inf
    at: float = 0.0

    def wait(self, now: float, cost: float) -> float:
        """Return the seconds until ``cost`` can be taken; more than the capacity needs a full bucket."""
        self._refill(now)
        missing = min(cost, self._capacity) - self.level
        # A billionth short is rounding: waiting for it would only spin.
        return missing / self.rate if missing > 1e-9 else 0.0

    def take(self, now: float, cost: float) -> None:
        """Take tokens; a negative cost gives some back."""
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
class Ticket:
    """The right to send one request."""

    started: float
    tokens: float


@dataclass
class Limiter:
    """The brakes of one endpoint and key. ``now`` is any clock in seconds that does not run backwards."""

    ceiling: float
    """At most so many in flight from this process (given by the user)."""
    requests_per_minute: float | None = None
    tokens_per_minute: float | None = None
    randomness: random.Random = field(default_factory=random.Random)
    share: int = 1
    """How many processes use the same endpoint and key: every quota is divided by it."""

    window: float = FIRST_WINDOW
    in_flight: int = 0
    suspended: bool = False
    """Nothing starts before what is in flight has ended (`Usability.suspended`)."""
    paused_until: float = -math.inf

    def __post_init__(self) -> None:
        self.window = min(self.window, self.ceiling)
        self._spread = Bucket(SPREAD, SPREAD_BURST / SPREAD)
        self._slow_start = True
        self._streak = 0
        self._episode = -math.inf
        self._cycle: float | None = None
        self._starts = 0
        self._measured = (0, 1.0)
        self._idle_since: float | None = None
        self._pace: Bucket | None = None
        self._base = 1.0
        self._advertised = 0.0
        self._requests = self._quota(self.requests_per_minute)
        self._tokens = self._quota(self.tokens_per_minute)

    def _quota(self, per_minute: float | None) -> Bucket | None:
        return None if per_minute is None else Bucket(per_minute * QUOTA_USE / 60 / self.share, 0.5)

    def wait(self, now: float, tokens: float) -> float:
        """Return the seconds until a request may start; 0: now; infinity: when another one has ended."""
        self._wake(now)
        if self.in_flight >= (1.0 if self.suspended else max(1.0, min(self.window, self.ceiling))):
            return math.inf
        self._spread.rate = max(SPREAD, 40 * self.window)
        wait = max(0.0, self.paused_until - now, self._spread.wait(now, 1))
        if self._requests is not None:
            wait = max(wait, self._requests.wait(now, 1))
        if self._tokens is not None:
            wait = max(wait, self._tokens.wait(now, tokens))
        if self._pace is not None:
            self._quicken(now)
        if self._pace is not None:
            wait = max(wait, self._pace.wait(now, 1))
        return wait

    def start(self, now: float, tokens: float) -> Ticket:
        """Take the right to send. Call it only when ``wait`` gave 0."""
        self._wake(now)
        self._cycle = now if self._cycle is None else self._cycle
        self.in_flight += 1
        self._starts += 1
        costs = ((self._spread, 1.0), (self._requests, 1.0), (self._tokens, tokens), (self._pace, 1.0))
        for bucket, cost in costs:
            if bucket is not None:
                bucket.take(now, cost)
        return Ticket(now, tokens)

    def succeeded(self, ticket: Ticket, now: float, used_tokens: float) -> None:
        """The endpoint answered; its true size settles the tokens-per-minute account.

        The request stays in flight until `leave`: what is answered but not yet committed would be lost by a kill.
        """
        if self.in_flight >= 0.8 * self.window:
            self.window = min(self.ceiling, self.window + (1.0 if self._slow_start else 1.0 / self.window))
        if ticket.started >= self._episode:
            self._streak = 0
        if self._tokens is not None:
            self._tokens.take(now, used_tokens - ticket.tokens)

    def refused(self, ticket: Ticket, now: float, retry_after: float | None = None, *, paced: bool = True) -> None:
        """The endpoint pushed back (429, overload), or broke down (``paced`` False: connection lost, deadline)."""
        asked = _finite(retry_after)
        # Retry-After 0, a date that is past by our clock: without our own back-off as the floor we would hammer.
        pause = max(self._backoff(), asked)
        # Never before Retry-After, and not all clients at the same moment after it.
        until = now + pause * (1 + 0.1 * self.randomness.random())
        if ticket.started >= self._episode:
            self._streak += 1
            self._episode = now
            self._slow_start = False
            self.window = max(1.0, SHRINK * self.window)
            self.paused_until = max(self.paused_until, until)
            if paced:
                self._new_cycle(now, until)
        elif asked > 0:
            self.paused_until = max(self.paused_until, until)
        if paced:
            self._slow_down(now)
        if self._tokens is not None:
            self._tokens.take(now, -ticket.tokens)
        self.leave(now)

    def ended(self, ticket: Ticket, now: float) -> None:
        """The request ended in a way that says nothing about load (bad request, server error, cancelled)."""
        if self._tokens is not None:
            self._tokens.take(now, -ticket.tokens)
        self.leave(now)

    def learn(self, headers: Mapping[str, str], now: float) -> None:
        """Take the limits from an answer's headers, where the user gave none."""
        for name, given in (("requests", self.requests_per_minute), ("tokens", self.tokens_per_minute)):
            value = rate_limit(headers, name)
            if given is not None or value is None:
                continue
            if f"x-ratelimit-remaining-{name}" in headers:
                self._set_quota(f"_{name}", value)
            elif name == "requests" and self._advertised != value:
                # Nobody says that this number is kept up to date: begin there, and let push-backs tell.
                self._advertised = value
                self._base = value * QUOTA_USE / 60 / self.share
                self._pace, self._cycle = Bucket(self._base, 0.5, at=now), now

    def join(self, share: int, now: float, notice_s: float) -> None:
        """Start beside other processes: no quota is touched until they, too, know that there is one more."""
        self.divide(share)
        if share > 1 and (self._requests is not None or self._tokens is not None):
            self.paused_until = max(self.paused_until, now + notice_s)

    def divide(self, share: int) -> None:
        """So many processes use this endpoint and key now."""
        share = max(1, share)
        for bucket in (self._requests, self._tokens):
            if bucket is not None:
                bucket.rate *= self.share / share
        self.share = share

    def restrict(self, ceiling: float, requests_per_minute: float | None, tokens_per_minute: float | None) -> None:
        """Somebody else with limits of their own uses this endpoint and key too: the tighter ones hold for both."""
        self.ceiling = min(self.ceiling, ceiling)
        for name, new in (("requests", requests_per_minute), ("tokens", tokens_per_minute)):
            given = getattr(self, f"{name}_per_minute")
            if new is not None and (given is None or new < given):
                setattr(self, f"{name}_per_minute", new)
                self._set_quota(f"_{name}", new)

    def _wake(self, now: float) -> None:
        """Somebody asks: the time since the last request ended was idle, no evidence of a slow endpoint."""
        if self._idle_since is not None and self._cycle is not None:
            self._cycle += now - self._idle_since
        self._idle_since = None

    def _set_quota(self, own: str, per_minute: float) -> None:
        bucket: Bucket | None = getattr(self, own)
        rate = per_minute * QUOTA_USE / 60 / self.share
        if bucket is None:
            setattr(self, own, self._quota(per_minute))
        elif not math.isclose(bucket.rate, rate):
            bucket.rate = rate

    def _backoff(self) -> float:
        return float(min(BACKOFF_MAX_S, BACKOFF_S * 2 ** min(self._streak, 10)))

    def _new_cycle(self, now: float, until: float) -> None:
        """Close the account of what was sent since the last push-back; the pause belongs to it."""
        began = now if self._cycle is None else self._cycle
        self._measured = (self._starts, max(until - began, 1e-3))
        self._starts, self._cycle = 0, until
        fastest = FASTEST if self._pace is None else self._pace.rate
        # Empty where nothing was accepted since the last refusal: a token in hand would let each refusal pay for the
        # next start, whatever the rate.
        level = 1.0 if self._streak < 2 else 0.0
        self._pace = Bucket(fastest, PACE_BURST_S, level=level, at=until)

    def _slow_down(self, now: float) -> None:
        """One more of the requests that were sent was not accepted: correct the measured rate.

        What is still in flight counts as accepted until it is refused; answers take longer than refusals.
        """
        if self._pace is None:
            return
        sent, seconds = self._measured
        self._measured = (sent - 1, seconds)
        # Nothing accepted at all tells only that it was far too fast.
        measured = (sent - 1) / seconds if sent > 1 else self._base / 2
        self._base = max(0.1, min(measured, self._pace.rate))
        self._pace.set_rate(now, self._base)

    def _quicken(self, now: float) -> None:
        free = now - (now if self._cycle is None else self._cycle) - HOLD_S
        double = min(SLOWEST_DOUBLE_S, max(FASTEST_DOUBLE_S, DOUBLE_ANSWERS / self._base))
        grown = self._base * 2 ** min(60.0, max(0.0, free) / double)
        if grown >= FASTEST:
            self._pace = None
        elif self._pace is not None:
            self._pace.set_rate(now, grown)

    def leave(self, now: float) -> None:
        """A request that succeeded is committed and no longer in flight."""
        self.in_flight -= 1
        if self.in_flight == 0:
            self._idle_since = now


def _finite(seconds: float | None) -> float:
    """Return the seconds that the endpoint asks to wait, 0 where it asks for nothing that can be kept."""
    return min(LONGEST_PAUSE_S, seconds) if seconds is not None and seconds > 0 else 0.0
