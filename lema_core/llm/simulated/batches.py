"""Files and batches of the simulated endpoint: OpenAI's Batch API as far as a client of it can see.

A batch is worked off when a client asks for it after its delay. On demand it expires half done, or some of its lines
fail; what was not answered stands in the error file, and only what was answered is paid.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from time import monotonic, time
from typing import Any

from lema_core.llm.simulated.chat import Faults, Stats, answer_request, draw, error_body, request_hash
from lema_core.llm.simulated.models import Models
from lema_core.llm.simulated.vendors import RuleSet

MAX_LINES = 50_000
WINDOW_S = 24 * 3600
Json = dict[str, Any]


class BatchError(Exception):
    """A file or batch request that is refused, with its status."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass(slots=True)
class Batches:
    """The files and batches of one endpoint, in memory."""

    models: Models
    stats: Stats
    faults: Faults
    rules: RuleSet | None = None
    files: dict[str, tuple[Json, bytes]] = field(default_factory=dict)
    batches: dict[str, Json] = field(default_factory=dict)

    def add_file(self, content: bytes, filename: str, purpose: str) -> Json:
        """Keep an uploaded or a written file; return its description."""
        file_id = f"file-{len(self.files) + 1:06d}"
        described = {
            "id": file_id,
            "object": "file",
            "bytes": len(content),
            "created_at": int(time()),
            "filename": filename,
            "purpose": purpose,
            "status": "processed",
        }
        self.files[file_id] = (described, content)
        return described

    def file(self, file_id: str) -> tuple[Json, bytes]:
        """Return a file's description and content.

        Raises:
            BatchError: there is none of this id.
        """
        if file_id not in self.files:
            raise BatchError(404, f"there is no file {file_id!r}")
        return self.files[file_id]

    def create(self, body: Mapping[str, Any]) -> Json:
        """Take a batch in.

        Raises:
            BatchError: the body does not say what is needed.
        """
        if body.get("endpoint") != "/v1/chat/completions":
            raise BatchError(400, "only the endpoint /v1/chat/completions is simulated")
        _, content = self.file(str(body.get("input_file_id")))
        lines = content.count(b"\n") + (not content.endswith(b"\n"))
        if lines > MAX_LINES:
            raise BatchError(400, f"a batch holds at most {MAX_LINES} requests, this one has {lines}")
        errors = self._refuse_if_full(lines)
        now = int(time())
        batch_id = f"batch-{len(self.batches) + 1:06d}"
        self.batches[batch_id] = {
            "id": batch_id,
            "object": "batch",
            "endpoint": body["endpoint"],
            "errors": errors,
            "input_file_id": body["input_file_id"],
            "completion_window": body.get("completion_window", "24h"),
            "status": "failed" if errors else "in_progress",
            "output_file_id": None,
            "error_file_id": None,
            "created_at": now,
            "in_progress_at": now,
            "expires_at": now + WINDOW_S,
            "metadata": body.get("metadata"),
            "request_counts": {"total": lines, "completed": 0, "failed": 0},
            "ready_at": monotonic() + self.faults.batch_delay_s,
        }
        return self.get(batch_id)

    def _refuse_if_full(self, lines: int) -> Json | None:
        """Return the errors of a batch that does not fit into the queue."""
        waiting = sum(
            batch["request_counts"]["total"] for batch in self.batches.values() if batch["status"] == "in_progress"
        )
        if not self.faults.batch_queue or waiting + lines <= self.faults.batch_queue:
            return None
        message = f"Enqueued token limit reached: {waiting} requests wait, at most {self.faults.batch_queue} may"
        error = {"code": "token_limit_exceeded", "message": message, "param": None, "line": None}
        return {"object": "list", "data": [error]}

    def get(self, batch_id: str) -> Json:
        """Return a batch as it stands, after working it off if its delay is over.

        Raises:
            BatchError: there is none of this id.
        """
        if batch_id not in self.batches:
            raise BatchError(404, f"there is no batch {batch_id!r}")
        batch = self.batches[batch_id]
        if batch["status"] == "in_progress" and monotonic() >= batch["ready_at"]:
            self._process(batch)
        return {name: value for name, value in batch.items() if name != "ready_at"}

    def page(self, after: str | None, limit: int) -> Json:
        """Return batches newest first, as the API lists them."""
        ids = sorted(self.batches, reverse=True)
        # An unknown `after` lists from the beginning, as a lenient server does.
        start = ids.index(after) + 1 if after in self.batches else 0
        chosen = ids[start : start + limit]
        return {
            "object": "list",
            "data": [self.get(batch_id) for batch_id in chosen],
            "first_id": chosen[0] if chosen else None,
            "last_id": chosen[-1] if chosen else None,
            "has_more": start + limit < len(ids),
        }

    def cancel(self, batch_id: str) -> Json:
        """Stop a batch that is not done yet."""
        batch = self.get(batch_id)
        if batch["status"] == "in_progress":
            self.batches[batch_id].update(status="cancelled", cancelled_at=int(time()))
        return self.get(batch_id)

    def _process(self, batch: Json) -> None:
        _, content = self.file(batch["input_file_id"])
        lines = [line for line in content.split(b"\n") if line.strip()]
        # The ordinal is part of the draw: a resubmitted batch must not expire for ever.
        expires = draw(self.faults, f"expiry {batch['id']}", request_hash(content)) < self.faults.batch_expiry
        done = len(lines) // 2 if expires else len(lines)
        # An expired batch answers its first half; what it does not answer costs nothing.
        results = [self._answer_line(line, expired=position >= done) for position, line in enumerate(lines)]
        good = [line for line, fine in results if fine]
        bad = [line for line, fine in results if not fine]
        batch["output_file_id"] = self._write_file(good, f"{batch['id']}_output.jsonl")
        batch["error_file_id"] = self._write_file(bad, f"{batch['id']}_error.jsonl")
        batch["request_counts"] = {"total": len(lines), "completed": len(good), "failed": len(bad)}
        batch["status"] = "expired" if expires else "completed"
        batch["expired_at" if expires else "completed_at"] = int(time())

    def _write_file(self, lines: list[Json], filename: str) -> str | None:
        if not lines:
            return None
        content = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        return str(self.add_file(content.encode("utf-8", "surrogatepass"), filename, "batch_output")["id"])

    def _answer_line(self, line: bytes, *, expired: bool) -> tuple[Json, bool]:
        """Return one line of the output or the error file, and whether it is an answer."""
        try:
            request = json.loads(line)
            custom_id, body = request["custom_id"], request["body"]
        except (ValueError, KeyError, TypeError):
            return _result(None, None, {"code": "invalid_request", "message": "the line is no batch request"}), False
        if expired:
            error = {"code": "batch_expired", "message": "the batch expired before this request was answered"}
            return _result(custom_id, None, error), False
        key = request_hash(json.dumps(body, sort_keys=True).encode())
        attempt = self.stats.attempt(key)
        share = self.faults.batch_failure if attempt < self.faults.failures_in_a_row else 0.0
        if draw(self.faults, "batch_failure", key, attempt) < share:
            failed = {"status_code": 500, "request_id": key.hex(), "body": error_body("injected", "server_error")}
            return _result(custom_id, failed, None), False
        reply = answer_request(self.models, self.faults, self.stats, key, body, self.rules)
        response = {"status_code": reply.status, "request_id": key.hex(), "body": reply.body}
        return _result(custom_id, response, None), reply.status == 200


def _result(custom_id: str | None, response: Json | None, error: Json | None) -> Json:
    return {"id": f"batch_req_{custom_id}", "custom_id": custom_id, "response": response, "error": error}
