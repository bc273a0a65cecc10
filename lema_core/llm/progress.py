"""Figures of a running engine: what is in flight, what waits, what it costs, when it ends."""

from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from lema_core.llm.costs.prices import money
from lema_core.llm.limits.limiter import Limiter

RATE_WINDOW_S = 30


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The state of an engine at one moment. Durations in seconds, money in dollars."""

    total: int | None
    """Requests asked for, where the streams' lengths are known."""
    done: int
    from_ledger: int
    """Of the done ones: answered from the ledger."""
    completions: int
    """Paid for by this process."""
    failures: int
    in_flight: int
    waiting: int
    window: float
    """How many requests the limiters allow in flight."""
    rate: float
    """Completions per second, over the last half minute."""
    sleeping_s: float
    """Until the longest pause (Retry-After, back-off) ends; 0: no pause."""
    oldest_s: float
    """Age of the oldest request in flight or waiting."""
    r429: int
    r5xx: int
    lost: int
    """Connections lost and deadlines passed."""
    prompt_tokens: int
    completion_tokens: int
    dollars: float | None
    """Paid by this process; None: no price known."""
    dollars_forecast: float | None
    """For all requests, at the mean so far."""
    eta_s: float | None
    claimed: int = 0
    """Requests that another process has claimed; this one waits for their answers."""
    ledger_s: float = 0.0
    """How long the ledger's present statement has taken, if longer than `EngineSettings.ledger_locked_s`."""
    capped: int = 0
    """Requests in flight that the limit of open files does not allow."""
    submitted: int = 0
    """Requests in batches under way."""
    batch: str = ""
    """The oldest batch under way, its status and age, and how many others."""

    def since(self, before: "Snapshot", total: int) -> "Snapshot":
        """Return the figures of the ``total`` requests that were asked for since an earlier moment."""
        counts = {name: max(0, getattr(self, name) - getattr(before, name)) for name in _COUNTS}
        done, bought = counts["done"], counts["completions"]
        dollars = None if self.dollars is None else max(0.0, self.dollars - (before.dollars or 0.0))
        forecast = None if dollars is None or not bought else dollars + max(0, total - done) * dollars / bought
        eta = max(0, total - done) / self.rate if self.rate else None
        return replace(self, total=total, dollars=dollars, dollars_forecast=forecast, eta_s=eta, **counts)


_COUNTS = (
    "done",
    "from_ledger",
    "completions",
    "failures",
    "r429",
    "r5xx",
    "lost",
    "prompt_tokens",
    "completion_tokens",
)


def figures(now: Snapshot) -> dict[str, str]:
    """Return the figures that show whether it runs, waits or is stuck, in words for people."""
    shown = {
        "done": f"{now.done}" if now.total is None else f"{now.done}/{now.total}",
        "from the ledger": str(now.from_ledger),
        "rate": f"{now.rate:.0f}/s",
        "in flight": f"{now.in_flight} of {now.window:.0f}",
        "oldest": f"{now.oldest_s:.0f} s",
        "tokens": f"{now.prompt_tokens + now.completion_tokens}",
        "ETA": "?" if now.eta_s is None else _duration(now.eta_s),
    }
    if now.sleeping_s > 0:
        shown["sleeping"] = f"{now.sleeping_s:.0f} s"
    if now.claimed:
        shown["waiting for another process"] = _count(now.claimed, "request")
    if now.ledger_s > 0:
        shown["waiting for the ledger"] = f"{now.ledger_s:.0f} s (locked by another program?)"
    if now.capped:
        shown["limited by open files"] = f"{_count(now.capped, 'connection')} fewer"
    if now.batch:
        shown["batch"] = now.batch
    if now.dollars is not None:
        whole = "" if now.dollars_forecast is None else f" of about {money(now.dollars_forecast)}"
        shown["spent"] = f"{money(now.dollars)}{whole}"
    counts = {"429": now.r429, "5xx": now.r5xx, "lost": now.lost, "rejected": now.failures}
    return shown | {name: str(count) for name, count in counts.items() if count}


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _duration(seconds: float) -> str:
    hours, rest = divmod(round(seconds), 3600)
    return f"{hours}:{rest // 60:02}:{rest % 60:02}" if hours else f"{rest // 60}:{rest % 60:02}"


def sum_snapshots(snapshots: Sequence[Snapshot]) -> Snapshot:
    """Return the figures of several engines as one; None for what is unknown."""
    figures: dict[str, Any] = {}
    for name in (field.name for field in fields(Snapshot)):
        values = [getattr(snapshot, name) for snapshot in snapshots]
        known = [value for value in values if value is not None]
        if name == "batch":
            figures[name] = "; ".join(word for word in known if word)
            continue
        longest = name in {"sleeping_s", "oldest_s", "eta_s", "ledger_s"}
        together = max(known, default=0) if longest else sum(known)
        # Money is unknown if no engine knows a price; any other figure, if one engine does not know it.
        # An engine that paid nothing yet has no dollars: they are unknown only if all are. Any other gap hides the sum.
        unknown = not known if name.startswith("dollars") else len(known) < len(values)
        figures[name] = None if unknown else together
    return Snapshot(**figures)


@dataclass(frozen=True, slots=True)
class BatchWait:
    """One wait at the Batch API: for what, since when, and for how many requests."""

    words: str
    since: float
    requests: int


class Counters:
    """What an engine counts while it runs."""

    def __init__(self) -> None:
        self.total: int | None = 0
        self.done = self.from_ledger = self.completions = self.failures = 0
        self.prompt_tokens = self.completion_tokens = 0
        self.dollars: float | None = None
        self.failed_attempts: Counter[str] = Counter()
        """Attempts that failed, by class."""
        self.batches: dict[str, BatchWait] = {}
        """By our id of the batch."""
        self._seconds: deque[tuple[int, int]] = deque(maxlen=RATE_WINDOW_S + 1)
        self._began: float | None = None

    def expect(self, count: int | None) -> None:
        """Add a stream's length; one unknown length makes the total unknown."""
        self.total = None if self.total is None or count is None else self.total + count

    def count_completion(self, now: float, prompt_tokens: int, completion_tokens: int, dollars: float | None) -> None:
        """Count a completion that this process paid for."""
        self.completions += 1
        self.count_tokens(prompt_tokens, completion_tokens, dollars)
        self._began = now if self._began is None else self._began
        # One entry per second, so that memory and the sum stay small at thousands of answers per second.
        second = int(now)
        if self._seconds and self._seconds[-1][0] == second:
            self._seconds[-1] = (second, self._seconds[-1][1] + 1)
        else:
            self._seconds.append((second, 1))

    def count_tokens(self, prompt_tokens: int, completion_tokens: int, dollars: float | None) -> None:
        """Count tokens that were billed, for a completion or a failure."""
        self.prompt_tokens += prompt_tokens
        self.completion_tokens += completion_tokens
        if dollars is not None:
            self.dollars = (self.dollars or 0.0) + dollars

    def rate(self, now: float) -> float:
        """Return completions per second."""
        if self._began is None:
            return 0.0
        recent = sum(count for second, count in self._seconds if second > now - RATE_WINDOW_S)
        # In the first half minute by the time that has passed, else a run would seem slow at its start.
        return recent / max(1.0, min(RATE_WINDOW_S, now - self._began))

    def eta(self, now: float) -> float | None:
        """Return the seconds until all is done, at the present rate."""
        rate = self.rate(now)
        return None if self.total is None or rate <= 0 else max(0, self.total - self.done) / rate

    def forecast(self) -> float | None:
        """Return the money for all requests at the mean so far."""
        if self.total is None or self.dollars is None or self.completions == 0:
            return None
        return self.dollars + max(0, self.total - self.done) * self.dollars / self.completions

    def snapshot(self, now: float, limiters: Sequence[Limiter], unfinished: Sequence[float]) -> Snapshot:
        """Return the figures; ``unfinished`` are the times when pending requests were created."""
        in_flight = sum(limiter.in_flight for limiter in limiters)
        batch = ""
        if self.batches:
            oldest = min(self.batches.values(), key=lambda wait: wait.since)
            others = f" and {len(self.batches) - 1} more" if len(self.batches) > 1 else ""
            batch = f"{oldest.words} for {_duration(now - oldest.since)}{others}"
        return Snapshot(
            total=self.total,
            done=self.done,
            from_ledger=self.from_ledger,
            completions=self.completions,
            failures=self.failures,
            in_flight=in_flight,
            waiting=max(0, len(unfinished) - in_flight),
            window=sum(limiter.window for limiter in limiters),
            rate=self.rate(now),
            sleeping_s=max([0.0, *(limiter.paused_until - now for limiter in limiters)]),
            oldest_s=now - min(unfinished, default=now),
            r429=self.failed_attempts["rate_limit"],
            r5xx=self.failed_attempts["server_error"] + self.failed_attempts["overload"],
            lost=self.failed_attempts["connection"] + self.failed_attempts["deadline"],
            prompt_tokens=self.prompt_tokens,
            completion_tokens=self.completion_tokens,
            dollars=self.dollars,
            dollars_forecast=self.forecast(),
            eta_s=self.eta(now),
            submitted=sum(wait.requests for wait in self.batches.values()),
            batch=batch,
        )


def describe_submitted(now: Snapshot) -> str:
    """Describe what an interrupted command leaves at the endpoint; empty if nothing is submitted."""
    if not now.submitted:
        return ""
    return f"{now.submitted:,} requests are submitted in batches ({now.batch}); the same command collects them"


def describe_remaining(requests: int, tokens: float, dollars: float | None) -> str:
    """Describe what is not paid yet, and how to go on."""
    price = "" if dollars is None else f" and {money(dollars)}"
    return (
        f"{requests:,} requests remain, about {tokens:,.0f} tokens{price}. Raise the budget and run again: nothing "
        "paid is paid twice"
    )
