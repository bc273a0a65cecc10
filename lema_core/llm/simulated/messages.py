"""The simulated endpoint's other form: Anthropic's Messages API and its Message Batches.

The same models answer. What the API is strict about is refused here as there: a missing ``max_tokens``, fields that it
does not have, a system message among the others. A marked beginning (``cache_control``) is read from a cache the second
time. The texts of refusals are our own.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from time import monotonic
from typing import Any

from lema_core.llm.simulated.batches import BatchError
from lema_core.llm.simulated.chat import Faults, Kind, Reply, Stats, answer_request, draw, request_hash
from lema_core.llm.simulated.models import Models, count_tokens

Json = dict[str, Any]
FIELDS = frozenset(
    {
        "model", "messages", "max_tokens", "system", "temperature", "top_p", "top_k", "stop_sequences", "metadata",
        "service_tier", "thinking", "output_config", "cache_control", "stream", "tools", "tool_choice",
    }
)  # fmt: skip
MAX_REQUESTS = 100_000
_STATUS: dict[Kind, int] = {"rate_limit": 429, "server_error": 500, "overload": 529}
_KINDS = {400: "invalid_request_error", 401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error",
          529: "overloaded_error"}  # fmt: skip


def messages_error(status: int, message: str) -> Json:
    """Return an error in the API's form."""
    return {"type": "error", "error": {"type": _KINDS.get(status, "api_error"), "message": message}}


def failure(kind: Kind) -> Reply:
    """Return the reply to an attempt that a fault hits."""
    status = _STATUS[kind]
    return Reply(status, messages_error(status, f"injected: {kind}"))


@dataclass(slots=True)
class MessagesApi:
    """The models behind the Messages API, its prompt cache and its batches, in memory."""

    models: Models
    stats: Stats
    faults: Faults
    cached: set[bytes] = field(default_factory=set)
    batches: dict[str, Json] = field(default_factory=dict)
    _results: dict[str, bytes] = field(default_factory=dict)

    def answer(self, key: bytes, body: Any) -> Reply:
        """Answer a request whose attempt did not fail; what is answered with 200 counts as paid."""
        fault = _find_fault(body)
        if fault:
            self.stats.counts["bad_request"] += 1
            return Reply(400, messages_error(400, fault))
        system = "".join(block["text"] for block in _blocks(body.get("system", [])))
        chat = [{"role": "system", "content": system}] if system else []
        chat += [{"role": said["role"], "content": _text(said["content"])} for said in body["messages"]]
        asked = {name: body[name] for name in ("model", "max_tokens", "temperature") if name in body}
        reply = answer_request(self.models, self.faults, self.stats, key, asked | {"messages": chat})
        said: Any = reply.body
        if reply.status != 200:
            return Reply(reply.status, messages_error(reply.status, said["error"]["message"]))
        return Reply(200, self._message(key, body, said))

    def _message(self, key: bytes, body: Mapping[str, Any], completion: Json) -> Json:
        choice, usage = completion["choices"][0], completion["usage"]
        content: list[Json] = [{"type": "text", "text": choice["message"]["content"]}]
        thinking = body.get("thinking") or {}
        if thinking.get("type", "disabled") != "disabled":
            content.insert(0, {"type": "thinking", "thinking": "Let me count again.", "signature": key.hex()})
        marked, digest = _marked_part(body)
        read = marked if digest in self.cached else 0
        if marked:
            self.cached.add(digest)
        return {
            "id": f"msg_{key.hex()}",
            "type": "message",
            "role": "assistant",
            "model": body["model"],
            "content": content,
            "stop_reason": "max_tokens" if choice["finish_reason"] == "length" else "end_turn",
            "stop_sequence": None,
            "usage": {
                "input_tokens": max(0, usage["prompt_tokens"] - marked),
                "cache_creation_input_tokens": marked - read,
                "cache_read_input_tokens": read,
                "output_tokens": usage["completion_tokens"],
            },
        }

    def create(self, body: Any) -> Json:
        """Take a batch in.

        Raises:
            BatchError: the body does not say what is needed.
        """
        requests = body.get("requests") if isinstance(body, dict) else None
        if not isinstance(requests, list) or not 0 < len(requests) <= MAX_REQUESTS:
            raise BatchError(400, f"requests: a list of 1 to {MAX_REQUESTS} requests is required")
        names = [request.get("custom_id") for request in requests]
        if len(set(names)) < len(names):
            raise BatchError(400, "requests: each custom_id must be unique")
        batch_id = f"msgbatch_{len(self.batches) + 1:06d}"
        counts = {"processing": len(requests), "succeeded": 0, "errored": 0, "canceled": 0, "expired": 0}
        self.batches[batch_id] = {
            "id": batch_id,
            "type": "message_batch",
            "processing_status": "in_progress",
            "request_counts": counts,
            "created_at": datetime.now(UTC).isoformat(),
            "results_url": None,
            "requests": requests,
            "ready_at": monotonic() + self.faults.batch_delay_s,
        }
        return self.get(batch_id)

    def get(self, batch_id: str) -> Json:
        """Return a batch as it stands, after working it off if its delay is over.

        Raises:
            BatchError: there is none of this id.
        """
        if batch_id not in self.batches:
            raise BatchError(404, f"there is no batch {batch_id!r}")
        batch = self.batches[batch_id]
        if batch["processing_status"] != "ended" and monotonic() >= batch["ready_at"]:
            self._process(batch)
        return {name: value for name, value in batch.items() if name not in {"ready_at", "requests"}}

    def page(self, after: str | None, limit: int) -> Json:
        """Return batches newest first, as the API lists them."""
        ids = sorted(self.batches, reverse=True)
        start = ids.index(after) + 1 if after in self.batches else 0
        chosen = ids[start : start + limit]
        return {
            "data": [self.get(batch_id) for batch_id in chosen],
            "has_more": start + limit < len(ids),
            "first_id": chosen[0] if chosen else None,
            "last_id": chosen[-1] if chosen else None,
        }

    def cancel(self, batch_id: str) -> Json:
        """Stop a batch that has not ended: what it did not answer is canceled."""
        if self.get(batch_id)["processing_status"] != "ended":
            self._process(self.batches[batch_id], unanswered="canceled", answered=0)
        return self.get(batch_id)

    def results(self, batch_id: str) -> bytes:
        """Return the results of a batch that has ended, as JSON lines.

        Raises:
            BatchError: it has not ended, or does not exist.
        """
        self.get(batch_id)
        if batch_id not in self._results:
            raise BatchError(404, f"the batch {batch_id} has no results yet")
        return self._results[batch_id]

    def _process(self, batch: Json, unanswered: str = "expired", answered: int | None = None) -> None:
        requests = batch["requests"]
        if answered is None:
            expires = draw(self.faults, f"expiry {batch['id']}", b"") < self.faults.batch_expiry
            answered = len(requests) // 2 if expires else len(requests)
        rows = [
            {
                "custom_id": request["custom_id"],
                "result": self._result(request["params"]) if place < answered else {"type": unanswered},
            }
            for place, request in enumerate(requests)
        ]
        counts = batch["request_counts"]
        counts["processing"] = 0
        for row in rows:
            counts[row["result"]["type"]] += 1
        batch["processing_status"] = "ended"
        batch["results_url"] = f"/v1/messages/batches/{batch['id']}/results"
        self._results[batch["id"]] = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()

    def _result(self, params: Any) -> Json:
        key = request_hash(json.dumps(params, sort_keys=True).encode())
        attempt = self.stats.attempt(key)
        share = self.faults.batch_failure if attempt < self.faults.failures_in_a_row else 0.0
        if draw(self.faults, "batch_failure", key, attempt) < share:
            return {"type": "errored", "error": messages_error(500, "injected")}
        reply = self.answer(key, params)
        if reply.status == 200:
            return {"type": "succeeded", "message": reply.body}
        return {"type": "errored", "error": reply.body}


def _find_fault(body: Any) -> str | None:
    """Return why the API refuses a body, None where it takes it."""
    if not isinstance(body, Mapping):
        return "the body must be a JSON object"
    for name in ("model", "messages", "max_tokens"):
        if name not in body:
            return f"{name}: Field required"
    if unknown := sorted(body.keys() - FIELDS):
        return f"{unknown[0]}: Extra inputs are not permitted"
    messages = body["messages"]
    if not isinstance(messages, list) or not messages:
        return "messages: at least one message is required"
    if any(not isinstance(said, Mapping) or said.get("role") not in {"user", "assistant"} for said in messages):
        return 'messages: the role is "user" or "assistant"; a system prompt is the parameter `system`'
    thinking = body.get("thinking") or {}
    if thinking.get("type", "disabled") != "disabled":
        if "temperature" in body:
            return "temperature: not compatible with thinking"
        if thinking.get("budget_tokens", 0) >= body["max_tokens"]:
            return "max_tokens: must be greater than thinking.budget_tokens"
    return None


def _blocks(content: Any) -> list[Any]:
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


def _text(content: Any) -> str:
    return "".join(block.get("text", "") for block in _blocks(content))


def _marked_part(body: Mapping[str, Any]) -> tuple[int, bytes]:
    """Return the tokens up to the last marked block and a hash of them; 0 without one."""
    texts, marked = list[str](), list[str]()
    for content in (body.get("system", []), *(message["content"] for message in body["messages"])):
        for block in _blocks(content):
            texts.append(block.get("text", ""))
            if "cache_control" in block:
                marked = list(texts)
    return sum(map(count_tokens, marked)), request_hash("\0".join(marked).encode())
