"""What the simulated endpoint counts: hits, what was paid and paid twice, faults, requests in flight."""

from collections import Counter
from dataclasses import dataclass, field
from time import monotonic
from typing import Any


@dataclass(slots=True)
class Stats:
    """Counters since the start or the last reset. A request is told apart by the hash of its body."""

    counts: Counter[str] = field(default_factory=Counter)
    in_flight: int = 0
    max_in_flight: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    paid: dict[bytes, int] = field(default_factory=dict)
    attempts: dict[bytes, int] = field(default_factory=dict)
    first: float | None = None
    last: float = 0.0

    def arrive(self, key: bytes) -> int:
        """Count an attempt at a request; return how many came before it."""
        self.last = monotonic()
        if self.first is None:
            self.first = self.last
        self.counts["hits"] += 1
        self.in_flight += 1
        self.max_in_flight = max(self.max_in_flight, self.in_flight)
        return self.attempt(key)

    def attempt(self, key: bytes) -> int:
        """Return the number of earlier attempts at a request, and count this one."""
        before = self.attempts.get(key, 0)
        self.attempts[key] = before + 1
        return before

    def pay(self, key: bytes, prompt_tokens: int, completion_tokens: int) -> None:
        """Count an answer that a real endpoint would have charged for."""
        self.counts["ok"] += 1
        self.paid[key] = self.paid.get(key, 0) + 1
        self.prompt_tokens += prompt_tokens
        self.completion_tokens += completion_tokens

    def report(self, *, payments: bool = False) -> dict[str, Any]:
        """Return the figures as JSON; ``payments`` adds how often each request was paid, by its hash."""
        figures: dict[str, Any] = dict.fromkeys(("hits", "ok", "r429", "r5xx", "bad_request", "cut", "malformed"), 0)
        figures |= self.counts
        figures |= {
            "in_flight": self.in_flight,
            "max_in_flight": self.max_in_flight,
            "distinct": len(self.paid),
            "paid_twice": sum(times - 1 for times in self.paid.values()),
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "wall_s": self.last - self.first if self.first is not None else 0.0,
        }
        if payments:
            figures["payments"] = {key.hex(): times for key, times in self.paid.items()}
        return figures

    def reset(self) -> None:
        """Start counting anew; requests in flight stay in flight."""
        fresh = Stats(in_flight=self.in_flight, max_in_flight=self.in_flight)
        for name in self.__slots__:
            setattr(self, name, getattr(fresh, name))
