"""One chat request from body to reply, by HTTP or as a line of a batch: the faults drawn for it, and what is counted.

Faults are drawn by hashes, so that a run can be repeated exactly.
"""

import json
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from time import monotonic
from typing import Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field

from lema_core.llm.simulated import vendors
from lema_core.llm.simulated.models import Models, UnknownModelError, UnknownQuestionError, count_tokens
from lema_core.llm.simulated.vendors import RuleSet

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
    slots: int = Field(0, ge=0)
    """Chat requests answered at a time; further ones wait for their turn, as before a full batch. 0: any number."""
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
    """Failed attempts after which a request succeeds: a client that retries always ends."""
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
    """The most requests in unfinished batches; a further batch fails, as if too many tokens waited. 0: any."""


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


def draw(faults: Faults, name: str, key: bytes, attempt: int = 0) -> float:
    """Return a number in [0, 1) that depends on nothing but the arguments."""
    digest = blake2b(b"%d|%s|%d|" % (faults.seed, name.encode(), attempt) + key, digest_size=7).digest()
    return int.from_bytes(digest) / 2**56


_BY_ATTEMPT: tuple[Kind, ...] = get_args(Kind)


def draw_failure(faults: Faults, key: bytes, attempt: int) -> Kind | None:
    """Return how this attempt (from 0) at the request fails, or None."""
    # Drawn per attempt, so a retry may fare better; bounded, so every client that retries ends.
    if attempt >= faults.failures_in_a_row:
        return None
    shares = [(kind, getattr(faults, kind)) for kind in _BY_ATTEMPT]
    return next((kind for kind, share in shares if share and draw(faults, kind, key, attempt) < share), None)


def draw_latency(faults: Faults, key: bytes, attempt: int) -> float:
    """Return the seconds this attempt takes."""
    if not faults.latency_spread:
        return faults.latency_s
    return faults.latency_s * (1 + faults.latency_spread * (2 * draw(faults, "latency", key, attempt) - 1))


def spoil_text(faults: Faults, key: bytes, text: str) -> tuple[str, str]:
    """Return (text, finish_reason) of an answer after the faults that concern its text."""
    if faults.malformed_text and draw(faults, "malformed_text", key) < faults.malformed_text:
        text = text.replace("Explanation:", "").replace("Correct Solution:", "").replace("The answer is", "")
    if faults.cut_off and draw(faults, "cut_off", key) < faults.cut_off:
        words = text.split(" ")
        return " ".join(words[: max(1, len(words) // 2)]), "length"
    return text, "stop"


@dataclass(slots=True)
class Stats:
    """Counters since the start or the last reset. Requests are distinguished by the hash of their body."""

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
        # In place: the server and the batches refer to this object.
        fresh = Stats(in_flight=self.in_flight, max_in_flight=self.in_flight)
        for name in self.__slots__:
            setattr(self, name, getattr(fresh, name))


_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


def request_hash(content: bytes) -> bytes:
    """Return the hash that distinguishes requests: of the body as it came."""
    return blake2b(content, digest_size=8).digest()


def error_body(message: str, kind: str, code: str | None = None) -> dict[str, Any]:
    """Return an error in OpenAI's form."""
    return {"error": {"message": message, "type": kind, "param": None, "code": code}}


@dataclass(frozen=True, slots=True)
class Reply:
    """What the endpoint sends back. A dictionary is sent as JSON, a text as it is."""

    status: int
    """HTTP status; 0 cuts the connection without a reply."""
    body: dict[str, Any] | list[Any] | str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    delay_s: float = 0.0
    """Seconds before it is sent, beside the latency of the faults."""

    @property
    def content(self) -> bytes:
        """Return the body as bytes."""
        text = self.body if isinstance(self.body, str) else _encode(self.body)
        return text.encode("utf-8", "surrogatepass")


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """A chat request, as the `respond` hook of an endpoint receives it."""

    body: dict[str, Any]
    attempt: int
    """How many times the same body was sent before."""
    headers: Mapping[str, str]


Respond = Callable[[ChatRequest], Reply | None]
"""A hook that decides an answer; None: the simulated models answer."""


def answer_request(
    models: Models, faults: Faults, stats: Stats, key: bytes, body: Any, rules: RuleSet | None = None
) -> Reply:
    """Answer a chat request whose attempt did not fail; a request that cannot be answered gets a 4xx.

    What is answered with 200 counts as paid.
    """
    # In the order of a real server: a malformed body is refused before a model sees it.
    fault = _find_fault(body)
    if fault:
        return _refuse(stats, 400, fault, "invalid_request_error")
    if refusal := vendors.refuse(rules, body):
        stats.counts["bad_request"] += 1
        return Reply(*refusal)
    seen = {name: value for name, value in body.items() if name not in vendors.ignored(rules)}
    if faults.always_failing and draw(faults, "always_failing", key) < faults.always_failing:
        stats.counts["r5xx"] += 1
        return Reply(500, error_body("this prompt always fails here", "server_error"))
    try:
        text = models.answer(seen)
    except UnknownModelError as error:
        return _refuse(stats, 404, str(error), "model_not_found")
    except UnknownQuestionError as error:
        return _refuse(stats, 400, str(error), "unknown_question")
    text, finish = spoil_text(faults, key, text)
    return Reply(200, _chat_completion(stats, key, seen, text, finish, rules))


def _find_fault(body: Any) -> str | None:
    if not isinstance(body, Mapping):
        return "the body must be a JSON object"
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages or not all(isinstance(message, Mapping) for message in messages):
        return "`messages` must be a list of messages, at least one"
    if body.get("stream") or body.get("n") not in {None, 1}:
        return "stream and n > 1 are not simulated"
    if not isinstance(body.get("seed"), int | None):
        return "`seed` must be a whole number"
    return None


def _refuse(stats: Stats, status: int, message: str, code: str) -> Reply:
    stats.counts["bad_request"] += 1
    return Reply(status, error_body(message, "invalid_request_error", code))


def _cut_at_cap(text: str, finish: str, cap: int | None) -> tuple[str, str]:
    """Cut a text at the request's own cap, as a real endpoint does."""
    if cap is None or count_tokens(text) <= cap:
        return text, finish
    # An eighth less each time: word by word, long answers would take quadratic time.
    words = text.split(" ")
    while words and count_tokens(" ".join(words)) > cap:
        words = words[: max(0, len(words) - 1 - len(words) // 8)]
    return " ".join(words), "length"


def _chat_completion(
    stats: Stats, key: bytes, body: Mapping[str, Any], text: str, finish: str, rules: RuleSet | None
) -> dict[str, Any]:
    given = body.get("max_completion_tokens") or body.get("max_tokens")
    cap = given if isinstance(given, int) else None
    # Thinking comes first and uses up the cap: an answer may be cut before it begins.
    thinking, ended = _cut_at_cap(vendors.thinking_of(rules, body), "stop", cap)
    if ended == "length":
        text, finish = "", ended
    else:
        text, finish = _cut_at_cap(text, finish, None if cap is None else cap - count_tokens(thinking))
    prompt = sum(count_tokens(str(message.get("content", ""))) for message in body["messages"])
    usage = vendors.usage_of(rules, prompt, thinking, text)
    stats.pay(key, prompt, usage["total_tokens"] - prompt)
    message = vendors.message_of(rules, body, thinking, text, answered=ended != "length")
    return {
        "id": f"chatcmpl-{key.hex()}",
        "object": "chat.completion",
        "created": 0,
        "model": body["model"],
        "choices": [{"index": 0, "message": message, "finish_reason": finish}],
        "usage": usage,
    }
