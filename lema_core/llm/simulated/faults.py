"""Faults on demand: which attempt fails in which way, decided by hashes, so that a run can be repeated exactly."""

from dataclasses import dataclass
from hashlib import blake2b
from time import monotonic
from typing import Literal, get_args

from pydantic import BaseModel, ConfigDict, Field

Share = float
Kind = Literal["rate_limit", "server_error", "overload", "cut_connection", "malformed_body", "bad_gateway", "silence"]


class Faults(BaseModel):
    """What goes wrong. Shares are probabilities from 0 to 1; everything is off by default."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    seed: int = 0
    """Another seed hits other requests."""
    latency_s: float = Field(0.0, ge=0, le=600)
    """Seconds until an answer."""
    latency_spread: float = Field(0.0, ge=0, le=1)
    """The latency of a request lies within this share of ``latency_s`` around it."""
    requests_per_second: float | None = Field(None, gt=0)
    """A token bucket of one second's size; beyond it 429 with Retry-After."""
    retry_after_s: float = Field(1.0, ge=0)
    rate_limit: float = Field(0.0, ge=0, le=1)
    """Share of attempts answered 429, whatever the rate."""
    server_error: float = Field(0.0, ge=0, le=1)
    """Share of attempts answered 500."""
    overload: float = Field(0.0, ge=0, le=1)
    """Share of attempts answered 503."""
    cut_connection: float = Field(0.0, ge=0, le=1)
    """Share of attempts whose connection is cut in the middle of the answer."""
    malformed_body: float = Field(0.0, ge=0, le=1)
    """Share of attempts answered 200 with broken JSON."""
    bad_gateway: float = Field(0.0, ge=0, le=1)
    """Share of attempts answered 502 with a page of HTML, as by a proxy before a server that is away."""
    silence: float = Field(0.0, ge=0, le=1)
    """Share of attempts that are accepted and never answered."""
    failures_in_a_row: int = Field(3, ge=0)
    """After so many failed attempts a request succeeds: a client that retries always ends."""
    always_failing: float = Field(0.0, ge=0, le=1)
    """Share of distinct prompts that are answered 500 whatever is tried."""
    cut_off: float = Field(0.0, ge=0, le=1)
    """Share of requests whose answer ends after half its words with finish_reason length."""
    malformed_text: float = Field(0.0, ge=0, le=1)
    """Share of requests whose answer lost its labels: a correction that cannot be parsed."""
    batch_delay_s: float = Field(0.0, ge=0)
    """Seconds until a batch is done."""
    batch_expiry: float = Field(0.0, ge=0, le=1)
    """Share of batches that expire half done."""
    batch_failure: float = Field(0.0, ge=0, le=1)
    """Share of a batch's requests that fail, up to ``failures_in_a_row`` times each."""
    batch_queue: int = Field(0, ge=0)
    """At most so many requests in unfinished batches; another batch fails as where too many tokens wait. 0: any."""


@dataclass(slots=True)
class TokenBucket:
    """Admits ``rate`` requests a second, a second's worth at once."""

    rate: float
    left: float
    at: float

    @classmethod
    def full(cls, rate: float) -> "TokenBucket":
        """Return a bucket that holds a second's worth."""
        return cls(rate, max(1.0, rate), monotonic())

    def admits(self) -> bool:
        """Take one token if there is one."""
        now = monotonic()
        self.left = min(max(1.0, self.rate), self.left + (now - self.at) * self.rate)
        self.at = now
        if self.left < 1:
            return False
        self.left -= 1
        return True


def chance(faults: Faults, name: str, key: bytes, attempt: int = 0) -> float:
    """Return a number in [0, 1) that depends on nothing but the arguments."""
    digest = blake2b(b"%d|%s|%d|" % (faults.seed, name.encode(), attempt) + key, digest_size=7).digest()
    return int.from_bytes(digest) / 2**56


_BY_ATTEMPT: tuple[Kind, ...] = get_args(Kind)


def failing(faults: Faults, key: bytes, attempt: int) -> Kind | None:
    """Return how this attempt (from 0) at the request fails, or None."""
    if attempt >= faults.failures_in_a_row:
        return None
    shares = [(kind, getattr(faults, kind)) for kind in _BY_ATTEMPT]
    return next((kind for kind, share in shares if share and chance(faults, kind, key, attempt) < share), None)


def latency(faults: Faults, key: bytes, attempt: int) -> float:
    """Return the seconds this attempt takes."""
    if not faults.latency_spread:
        return faults.latency_s
    return faults.latency_s * (1 + faults.latency_spread * (2 * chance(faults, "latency", key, attempt) - 1))


def spoiled(faults: Faults, key: bytes, text: str) -> tuple[str, str]:
    """Return (text, finish_reason) of an answer after the faults that concern its text."""
    if faults.malformed_text and chance(faults, "malformed_text", key) < faults.malformed_text:
        text = text.replace("Explanation:", "").replace("Correct Solution:", "").replace("The answer is", "")
    if faults.cut_off and chance(faults, "cut_off", key) < faults.cut_off:
        words = text.split(" ")
        return " ".join(words[: max(1, len(words) // 2)]), "length"
    return text, "stop"
