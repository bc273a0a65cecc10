"""Anthropic's Messages API beside the chat completions that the engine speaks: both directions, as plain values.

A request is written in the chat API's form up to here, and an answer is read in it from here on: so keys, the ledger,
the budget and the classes of failures are the same for both. Nothing here raises for what an endpoint sends; a reply of
another shape is handed on as it is, and `responses` refuses it.

https://platform.claude.com/docs/en/api/messages, /build-with-claude/prompt-caching, /build-with-claude/batch-processing
"""

import json
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import Any

from lema_core.llm.parameters import CAP, LONG_CAP

UNCAPPED_TOKENS = 4096
"""``max_tokens`` of a request without a cap: the API requires one, and every model takes this many."""
REMEMBERED = 4096
"""Beginnings of conversations that are remembered, to know which of them repeat."""
_FINISH = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "refusal": "content_filter",
}
_SYSTEM = frozenset({"system", "developer"})
_NOT_WITH_THINKING = frozenset({"temperature", "top_k"})
"""Parameters that the API refuses beside thinking."""


class PromptCache:
    """Marks the part of a request that earlier ones began with (``cache_control``): it is read from the cache then.

    What was not sent before is not marked, because writing into the cache costs a quarter more than not using it. The
    last message is never marked: samples of one question are under way together, before any of them is in the cache.
    """

    def __init__(self) -> None:
        self._seen: OrderedDict[bytes, None] = OrderedDict()

    def count_repeated(self, messages: Sequence[Mapping[str, Any]]) -> int:
        """Return how many of the first messages began an earlier request; remember this one."""
        digest, repeated = blake2b(digest_size=16), 0
        for number, message in enumerate(messages[:-1], 1):
            digest.update(json.dumps(message, sort_keys=True).encode())
            key = digest.digest()
            if key in self._seen:
                repeated = number
                self._seen.move_to_end(key)
            else:
                self._seen[key] = None
        while len(self._seen) > REMEMBERED:
            self._seen.popitem(last=False)
        return repeated


def messages_body(body: Mapping[str, Any], cache: PromptCache | None = None) -> dict[str, Any]:
    """Return a chat completion's body in the form of the Messages API; its own fields pass as they are."""
    chat = [dict(message) for message in body["messages"]]
    if cache is not None and (repeated := cache.count_repeated(chat)):
        chat[repeated - 1]["content"] = _marked(chat[repeated - 1]["content"])
    sent = {name: value for name, value in body.items() if name not in {"messages", CAP, LONG_CAP, "stop"}}
    sent[CAP] = body.get(CAP) or body.get(LONG_CAP) or UNCAPPED_TOKENS
    if stop := body.get("stop"):
        sent["stop_sequences"] = [stop] if isinstance(stop, str) else list(stop)
    system = [block for message in chat if message["role"] in _SYSTEM for block in _blocks(message["content"])]
    if system:
        sent["system"] = system
    sent["messages"] = [message for message in chat if message["role"] not in _SYSTEM]
    thinking = body.get("thinking")
    if isinstance(thinking, Mapping) and thinking.get("type") != "disabled":
        sent = {name: value for name, value in sent.items() if name not in _NOT_WITH_THINKING}
    return sent


def _blocks(content: Any) -> list[Any]:
    return [{"type": "text", "text": content}] if isinstance(content, str) else list(content)


def _marked(content: Any) -> list[Any]:
    *first, last = _blocks(content)
    return [*first, {**last, "cache_control": {"type": "ephemeral"}}]


def completion_of(message: Any) -> Any:
    """Return a message of the API as a chat completion; anything else as it is."""
    if not isinstance(message, dict) or not isinstance(message.get("content"), list):
        return message
    blocks = [block for block in message["content"] if isinstance(block, dict)]
    texts = [block["text"] for block in blocks if block.get("type") == "text" and isinstance(block.get("text"), str)]
    thoughts = [block.get("thinking") for block in blocks if block.get("type") == "thinking"]
    reason = message.get("stop_reason")
    finish = _FINISH.get(reason, reason) if isinstance(reason, str) else reason
    answer = {
        "role": "assistant",
        "content": "".join(texts),
        "reasoning_content": "\n".join(thought for thought in thoughts if isinstance(thought, str)),
    }
    completion: dict[str, Any] = {"choices": [{"index": 0, "message": answer, "finish_reason": finish}]}
    return completion | {name: message[name] for name in ("id", "model", "usage") if name in message}


def result_row(row: Any) -> Any:
    """Return a row of a message batch's results in the form of the Batch API; anything else as it is."""
    result = row.get("result") if isinstance(row, dict) else None
    if not isinstance(result, dict):
        return row
    kind = result.get("type")
    named = {"custom_id": row.get("custom_id")}
    if kind == "succeeded":
        return {**named, "response": {"status_code": 200, "body": completion_of(result.get("message"))}}
    if kind in {"expired", "canceled"}:
        code = "batch_expired" if kind == "expired" else "batch_cancelled"
        return {**named, "error": {"code": code, "message": f"the batch {kind} before this request"}}
    error = result.get("error")
    inner = error.get("error") if isinstance(error, dict) else None
    return {**named, "error": inner or error or kind}


def batch_reply(batch: Any) -> Any:
    """Return a message batch in the form of the Batch API; anything else as it is.

    Its results name every request with what became of it, so a batch that has ended is a completed one.
    """
    if not isinstance(batch, dict) or "processing_status" not in batch:
        return batch
    status, given = batch["processing_status"], batch.get("request_counts")
    counts = given if isinstance(given, dict) else {}
    has_ended = status == "ended"
    known = [count for count in counts.values() if isinstance(count, int) and not isinstance(count, bool)]
    return {
        "id": batch.get("id"),
        "status": "completed" if has_ended else status,
        "output_file_id": batch.get("id") if has_ended else None,
        "request_counts": {
            "total": sum(known) if counts else None,
            "completed": counts.get("succeeded"),
            "failed": counts.get("errored"),
        },
    }
