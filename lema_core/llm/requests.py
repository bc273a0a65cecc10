"""Completion requests, their keys, and their outcomes: the input and output of the request engine.

A request's *key* is a hash of everything that can change the answer (endpoint identity, messages, sampling parameters,
sample index) and of nothing else: not the URL, the port, the API key, the order of fields or how a number is spelled.
"""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, field_validator, model_validator

from lema_core.errors import ConfigError, UnstableValueError
from lema_core.llm.parameters import CAP, HEADERS, LONG_CAP, MANAGED, check_headers, layered

KEY_HEX = 32
"""128 bits of SHA-256."""

NEUTRAL: Mapping[str, Any] = {"n": 1, "presence_penalty": 0, "frequency_penalty": 0, "logit_bias": {}, "stream": False}
"""Values that every endpoint uses when the parameter is absent. ``temperature`` and ``top_p`` are not among them: vLLM
reads their defaults from the model's generation_config."""

WITHOUT_EFFECT = frozenset(
    {"user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key", "stream_options"}
)
"""Parameters that are sent but cannot change the answer, so they are not part of the key."""

Message = Mapping[str, Any]
"""One chat message: ``{"role": ..., "content": ...}``."""


class Sampling(BaseModel):
    """How an answer is drawn. Fields that are None are not sent and not part of the key."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    temperature: float | None = Field(None, ge=0)
    top_p: float | None = Field(None, gt=0, le=1)
    max_tokens: int | None = Field(None, ge=1)
    stop: tuple[str, ...] | None = None
    seed: int | None = None
    """Sent as ``seed + sample_index``, so that the samples of one request differ where the endpoint honours seeds."""
    extra: dict[str, JsonValue] = Field(default_factory=dict)
    """Any other parameter of the chat completions API, sent as it is."""
    params: dict[str, JsonValue] = Field(default_factory=dict)
    """Parameters that stand above all the others, and above the endpoint's: those of a stage of a run file."""
    headers: dict[str, str] = Field(default_factory=dict)
    """HTTP headers of the request. They are not part of the key."""

    @field_validator("stop", mode="before")
    @classmethod
    def _one_stop_is_a_tuple(cls, value: object) -> object:
        return (value,) if isinstance(value, str) else (value or None)

    @field_validator("extra")
    @classmethod
    def _extra_is_ours_to_send(cls, value: dict[str, JsonValue]) -> dict[str, JsonValue]:
        if wrong := sorted(MANAGED & value.keys()):
            raise ValueError(f"{wrong} cannot be sampling parameters: the engine sets them")
        if value.get("n", 1) != 1 or value.get("stream"):
            raise ValueError("n > 1 and stream are not supported: ask for samples with sample_index 0, 1, ...")
        cap = value.get(LONG_CAP)
        if cap is not None and (not isinstance(cap, int) or isinstance(cap, bool) or cap < 1):
            raise ValueError(f"{LONG_CAP} must be a whole number of at least 1, found {cap!r}")
        return value

    @field_validator("headers")
    @classmethod
    def _headers_are_no_keys(cls, value: dict[str, str]) -> dict[str, str]:
        return dict(check_headers(value))

    @model_validator(mode="after")
    def _one_cap(self) -> "Sampling":
        if self.max_tokens is not None and self.extra.get(LONG_CAP) is not None:
            raise ValueError(f"give max_tokens or {LONG_CAP}, not both: they are two names of one limit")
        return self

    @property
    def cap(self) -> int | None:
        """Return the most tokens that an answer may have, under whichever name it was given."""
        body = self.body()
        cap: int | None = body.get(LONG_CAP) or body.get(CAP)
        return cap

    @classmethod
    def from_params(cls, params: Mapping[str, Any]) -> "Sampling":
        """Return the sampling for API parameters as they are written in a request's JSON."""
        own = {name: value for name, value in params.items() if name in _API_FIELDS}
        return cls(**own, extra={name: value for name, value in params.items() if name not in own})

    def resolved(self, endpoint: Mapping[str, Any]) -> "Sampling":
        """Return the sampling with an endpoint's parameters above its own fields, and its ``params`` above both.

        Raises:
            ValueError: a parameter has a value of the wrong type.
        """
        if not endpoint and not self.params:
            return self
        found = Sampling.from_params(layered(self._fields(), endpoint, self.params))
        # Kept, so that resolving once more changes nothing.
        return found.model_copy(update={"params": self.params})

    def _fields(self) -> dict[str, Any]:
        fields: dict[str, Any] = dict(self.extra)
        for name in ("temperature", "top_p", "max_tokens", "seed"):
            value = getattr(self, name)
            if value is not None:
                fields[name] = value
        if self.stop is not None:
            fields["stop"] = list(self.stop)
        if self.headers:
            fields[HEADERS] = dict(self.headers)
        return fields

    def body(self, sample_index: int = 0) -> dict[str, Any]:
        """Return the API parameters to send for one sample."""
        body = self._fields()
        if self.params:
            body = layered(body, self.params)
        body.pop(HEADERS, None)
        if "seed" in body:
            body["seed"] += sample_index
        return body


_API_FIELDS = frozenset({"temperature", "top_p", "max_tokens", "stop", "seed", HEADERS})


@dataclass(frozen=True, slots=True)
class CompletionRequest:
    """A request for one completion, from whichever endpoint it is given to."""

    messages: tuple[Message, ...]
    sampling: Sampling = field(default_factory=Sampling)
    sample_index: int = 0
    """Which of several independent samples of the same request."""


class Resolver:
    """Gives requests an endpoint's parameters. A sampling is resolved once, not once per request."""

    def __init__(self, params: Mapping[str, Any]) -> None:
        self._params = params
        self._by_sampling: dict[int, tuple[Sampling, Sampling]] = {}

    def __call__(self, request: CompletionRequest) -> CompletionRequest:
        """Return the request with the endpoint's parameters."""
        sampling = request.sampling
        if not self._params and not sampling.params:
            return request
        known = self._by_sampling.get(id(sampling))
        if known is None:
            if len(self._by_sampling) >= 1024:
                self._by_sampling.clear()
            known = self._by_sampling[id(sampling)] = (sampling, sampling.resolved(self._params))
        return replace(request, sampling=known[1])


@dataclass(frozen=True, slots=True)
class Completion:
    """What the endpoint answered, without times, so that the completions of two runs compare equal."""

    key: str
    text: str
    finish_reason: str
    """``stop``, ``length`` (cut off by its cap), ``content_filter`` or what else the endpoint said."""
    prompt_tokens: int
    completion_tokens: int
    model: str
    """The model's name as the endpoint reported it."""
    thinking: str = ""
    """What the model wrote before its answer, where the endpoint or its markup separates the two."""
    cached_tokens: int = 0
    """Of the prompt's tokens: read from the endpoint's prompt cache, which costs less."""
    reasoning_tokens: int = 0
    """Of the completion's tokens: spent on thinking."""
    cache_write_tokens: int = 0
    """Of the prompt's tokens: written into the endpoint's prompt cache, which may cost more."""


FailureReason = Literal[
    "rate_limit",
    "overload",
    "connection",
    "deadline",
    "server_error",
    "bad_request",
    "content_filter",
    "malformed",
    "expired",
    "pending",
]
"""``expired``: the batch ended before the request was answered. ``pending`` is no failure for good: the request is in a
batch that is not finished; the next run collects it."""

PROMPTS_FAULT = frozenset({"content_filter"})
"""Failures that say more of a prompt than of the endpoint. Too many of any other class mean that the endpoint does not
work, or refuses what all requests have in common."""


@dataclass(frozen=True, slots=True)
class Failure:
    """A request without an answer, as a row of data. Failures are never cached: requesting it again sends it again."""

    key: str
    reason: FailureReason
    detail: str
    attempts: int


Outcome = Completion | Failure

_encode = json.JSONEncoder(
    ensure_ascii=False, sort_keys=True, separators=(",", ":"), allow_nan=False, check_circular=False
).encode


def key_json(value: object) -> str:
    """Return JSON that is equal for equal values.

    Raises:
        UnstableValueError: the value has no stable JSON (NaN, a set, an object).
    """
    try:
        return _encode(value)
    except (TypeError, ValueError, RecursionError) as error:
        raise UnstableValueError(
            f"a request holds a value without stable JSON ({error}); use plain JSON values"
        ) from None


def refuse_constant(constant: str) -> None:
    """Refuse NaN and Infinity, which Python's JSON decoder accepts."""
    raise ValueError(f"{constant} is no number of JSON")


def _plain(value: Any) -> Any:
    """Return a value with whole floats as integers: 1.0 and 1 request the same thing."""
    if isinstance(value, float) and not isinstance(value, bool) and math.isfinite(value) and value.is_integer():
        return int(value)
    if isinstance(value, Mapping):
        return {name: _plain(item) for name, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value


def effective_params(sampling: Sampling) -> dict[str, Any]:
    """Return the parameters that enter the key: no None, no neutral default, nothing without effect."""
    params = {name: _plain(value) for name, value in sampling.body().items()}
    if sampling.cap is not None:
        params.pop(LONG_CAP, None)
        params["max_tokens"] = sampling.cap
    return {
        name: value
        for name, value in params.items()
        if value is not None and name not in WITHOUT_EFFECT and not (name in NEUTRAL and NEUTRAL[name] == value)
    }


def changed_params(sampling: Sampling, endpoint: Mapping[str, Any]) -> dict[str, Any]:
    """Return how an endpoint's and a sampling's ``params`` change what is asked, as a stage's identity holds it.

    Empty if the same is asked, be it under another spelling: then the artifact keeps its name. None: left out.
    """
    before = effective_params(sampling.model_copy(update={"params": {}}))
    after = effective_params(sampling.resolved(endpoint))
    changed = {name: after.get(name) for name in before.keys() | after.keys() if before.get(name) != after.get(name)}
    if layered({"seed": 0}, endpoint, sampling.params).get("seed") is None:
        # Where each question brings its own seed, the sampling has none to compare.
        changed["seed"] = None
    return {"params": {name: changed[name] for name in sorted(changed)}} if changed else {}


def canonical_request(identity: str, request: CompletionRequest) -> dict[str, Any]:
    """Return what goes into the key, readable."""
    return {
        "endpoint": identity,
        "messages": [dict(message) for message in request.messages],
        "params": effective_params(request.sampling),
        "sample_index": request.sample_index,
    }


def stored_request(canonical: Mapping[str, Any]) -> CompletionRequest:
    """Return a request with the key of the one that this was made from; what has no effect on the answer is lost."""
    sampling = Sampling.from_params(canonical["params"])
    return CompletionRequest(tuple(canonical["messages"]), sampling, canonical["sample_index"])


@lru_cache(maxsize=4096)
def _prefix(identity: str, params: str) -> Any:
    return hashlib.sha256(key_json([identity, params]).encode("utf-8", "surrogatepass"))


class KeyMaker:
    """Computes the keys of one endpoint identity. A sampling is made canonical once, not once per request."""

    def __init__(self, identity: str) -> None:
        if not identity:
            raise ConfigError("an endpoint needs an identity: the model's name or the hash of its weights")
        self.identity = identity
        self._by_sampling: dict[int, tuple[Sampling, Any]] = {}

    def key(self, request: CompletionRequest) -> str:
        """Return the request's key."""
        sampling = request.sampling
        # By id(): hashing a pydantic model costs more than the key itself. The stored reference keeps the id unique.
        known = self._by_sampling.get(id(sampling))
        if known is None:
            if len(self._by_sampling) >= 1024:
                self._by_sampling.clear()
            known = (sampling, _prefix(self.identity, key_json(effective_params(sampling))))
            self._by_sampling[id(sampling)] = known
        digest = known[1].copy()
        text = key_json([request.sample_index, request.messages])
        digest.update(text.encode("utf-8", "surrogatepass"))
        return str(digest.hexdigest()[:KEY_HEX])


def request_key(identity: str, request: CompletionRequest) -> str:
    """Return the ledger's key of a request to an endpoint."""
    return KeyMaker(identity).key(request)
