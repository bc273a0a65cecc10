"""One chat request from body to outcome, whichever way it came: over HTTP or as a line of a batch."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

from lema_core.llm.simulated.faults import Faults, chance, spoiled
from lema_core.llm.simulated.models import Models, UnknownModelError, UnknownQuestionError, count_tokens
from lema_core.llm.simulated.stats import Stats

_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


def request_hash(content: bytes) -> bytes:
    """Return the hash that tells requests apart: over the body as it came."""
    return blake2b(content, digest_size=8).digest()


def error_body(message: str, kind: str, code: str | None = None) -> dict[str, Any]:
    """Return an error in OpenAI's form."""
    return {"error": {"message": message, "type": kind, "param": None, "code": code}}


@dataclass(frozen=True, slots=True)
class Reply:
    """A status and a JSON body."""

    status: int
    body: dict[str, Any]

    @property
    def content(self) -> bytes:
        """Return the body as bytes."""
        return _encode(self.body).encode("utf-8", "surrogatepass")


def answer(models: Models, faults: Faults, stats: Stats, key: bytes, body: Any) -> Reply:
    """Answer a chat request whose attempt did not fail; a request that cannot be answered gets a 4xx.

    What is answered with 200 counts as paid.
    """
    fault = _unfit(body)
    if fault:
        return _refused(stats, 400, fault, "invalid_request_error")
    if faults.always_failing and chance(faults, "always_failing", key) < faults.always_failing:
        stats.counts["r5xx"] += 1
        return Reply(500, error_body("this prompt always fails here", "server_error"))
    try:
        text = models.answer(body)
    except UnknownModelError as error:
        return _refused(stats, 404, str(error), "model_not_found")
    except UnknownQuestionError as error:
        return _refused(stats, 400, str(error), "unknown_question")
    text, finish = spoiled(faults, key, text)
    return Reply(200, _completion(stats, key, body, *_capped(text, finish, body)))


def _unfit(body: Any) -> str | None:
    if not isinstance(body, Mapping):
        return "the body must be a JSON object"
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages or not all(isinstance(one, Mapping) for one in messages):
        return "`messages` must be a list of messages, at least one"
    if body.get("stream") or body.get("n") not in {None, 1}:
        return "stream and n > 1 are not simulated"
    if not isinstance(body.get("seed"), int | None):
        return "`seed` must be a whole number"
    return None


def _refused(stats: Stats, status: int, message: str, code: str) -> Reply:
    stats.counts["bad_request"] += 1
    return Reply(status, error_body(message, "invalid_request_error", code))


def _capped(text: str, finish: str, body: Mapping[str, Any]) -> tuple[str, str]:
    """Cut an answer at the request's own cap, as a real endpoint does."""
    cap = body.get("max_completion_tokens") or body.get("max_tokens")
    if not isinstance(cap, int) or count_tokens(text) <= cap:
        return text, finish
    words = text.split(" ")
    while words and count_tokens(" ".join(words)) > cap:
        words = words[: max(0, len(words) - 1 - len(words) // 8)]
    return " ".join(words), "length"


def _completion(stats: Stats, key: bytes, body: Mapping[str, Any], text: str, finish: str) -> dict[str, Any]:
    prompt = sum(count_tokens(str(message.get("content", ""))) for message in body["messages"])
    completion = count_tokens(text)
    stats.pay(key, prompt, completion)
    return {
        "id": f"chatcmpl-{key.hex()}",
        "object": "chat.completion",
        "created": 0,
        "model": body["model"],
        "choices": [
            {"index": 0, "message": {"role": "assistant", "content": text, "refusal": None}, "finish_reason": finish}
        ],
        "usage": {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion},
    }
