"""Anthropic's Message Batches behind the interface of `BatchApi`.

They differ in three ways. The requests travel in the call that creates the batch, not in a file. A batch has no place
for an id of ours, so one whose creation was not confirmed is known by its size and time. And the results name every
request, with what became of it.
"""

import asyncio
import json
import time
from collections.abc import Collection, Iterable
from datetime import datetime
from functools import partial
from typing import Any, BinaryIO

from lema_core.llm.batch.api import PAGE, TOO_LARGE, BatchApi, CallError, SearchResult, id_in
from lema_core.llm.batch.replies import BatchReply, parse_count
from lema_core.llm.batch.result_rows import PIECE_BYTES, scratch_file
from lema_core.llm.bounded_http import segment
from lema_core.llm.messages import batch_reply, result_row
from lema_core.llm.responses import AttemptError

BATCHES = "/messages/batches"
CLOCKS_S = 300.0
"""How far the endpoint's clock and ours may be apart."""


class MessageBatchApi(BatchApi):
    """The Message Batches of one endpoint. See `BatchApi`."""

    async def upload(self, batch_id: str, lines: Iterable[bytes]) -> str:
        """Keep the requests for the call that creates the batch; return what the batch can be known by later."""
        requests = [json.loads(line) for line in lines]
        named = [{"custom_id": line["custom_id"], "params": self._client.wire(line["body"])} for line in requests]
        # Of the batch that is created next only.
        self._payloads = {batch_id: json.dumps({"requests": named}, ensure_ascii=False).encode("utf-8", "replace")}
        return f"{len(requests)} requests at {int(time.time())}"

    async def post_creation(self, batch_id: str, input_file: str) -> str:  # noqa: ARG002
        """Make the batch; return the endpoint's name for it."""
        return await self.call("POST", BATCHES, id_in, data=self._payloads[batch_id])

    async def _search_once(self, batch_id: str, input_file: str, known: Collection[str]) -> SearchResult:  # noqa: ARG002
        """Find a batch of as many requests that was made since, and that the ledger does not know."""
        count, _, asked = input_file.partition(" requests at ")
        sought, found = SearchResult(), list[str]()
        params = {"limit": str(PAGE)}
        try:
            for _ in range(self._settings.pages):
                page = await self._retry(partial(self.call, "GET", BATCHES, _page, params=params))
                entries = [entry for entry in page["data"] if isinstance(entry, dict)]
                found += [
                    str(entry.get("id"))
                    for entry in entries
                    if entry.get("id") not in known and _may_be(entry, parse_count(count), float(asked or 0))
                ]
                last = page.get("last_id") or (entries[-1].get("id") if entries else None)
                # The newest come first: what is older than our call cannot be it.
                if page.get("has_more") is not True or not last or _created(entries[-1]) < float(asked or 0) - CLOCKS_S:
                    break
                params = {"limit": str(PAGE), "after_id": str(last)}
            else:
                sought.doubts.append(f"its list of batches has more than {self._settings.pages} pages")
        except CallError as error:
            if error.transient or error.error.fatal is not None:
                raise self._fatal_error(error) from None
            sought.doubts.append(f"its list of batches cannot be read ({error.error.detail})")
        if len(found) == 1:
            # Were it another program's, its results would name none of our requests, which ends the run.
            return SearchResult(found[0])
        if found:
            sought.doubts.append(f"it may be any of {', '.join(found[:5])}, which have as many requests")
        return sought

    async def status(self, remote: str) -> BatchReply | None:
        """Return a batch as the endpoint describes it; None if it does not know the batch."""
        try:
            return await self._retry(partial(self.call, "GET", f"{BATCHES}/{segment(remote)}", _described))
        except CallError as error:
            if error.status == 404:
                return None
            raise self._fatal_error(error) from None

    async def _download(self, file_id: str, file: BinaryIO, most: int, lines: int) -> None:
        await self.fetch_file(f"{BATCHES}/{segment(file_id)}/results", file, most, lines)
        try:
            await asyncio.to_thread(self._rewrite, file, most)
        except OSError as error:
            raise CallError(TOO_LARGE, AttemptError("malformed", f"cannot rewrite it ({error.strerror})")) from None

    def _rewrite(self, file: BinaryIO, most: int) -> None:
        """Write the rows of a file of results in the form of the Batch API; what is none stays as it is."""
        with scratch_file(self._folder) as copy:
            file.seek(0)
            while line := file.readline(most):
                copy.write(_rewritten(line))
            copy.seek(0)
            file.seek(0)
            file.truncate()
            while piece := copy.read(PIECE_BYTES):
                file.write(piece)


def _rewritten(line: bytes) -> bytes:
    try:
        row = json.loads(line.decode("utf-8", "surrogatepass"))
        return json.dumps(result_row(row), ensure_ascii=False).encode("utf-8", "surrogatepass") + b"\n"
    except (ValueError, RecursionError, MemoryError):
        return line


def _described(content: Any) -> BatchReply:
    return BatchReply.read(batch_reply(content), "status")


def _page(content: Any) -> dict[str, Any]:
    if not isinstance(content, dict) or not isinstance(content.get("data"), list):
        raise ValueError("data")  # noqa: TRY004 - as the JSON decoder does
    return content


def _may_be(entry: dict[str, Any], count: int | None, asked: float) -> bool:
    """Return whether an entry of the list may be a batch of that many requests, made at that time or later."""
    counts = entry.get("request_counts")
    known = [parse_count(value) for value in counts.values()] if isinstance(counts, dict) else []
    total = sum(value for value in known if value is not None)
    return (not known or count is None or total == count) and _created(entry) >= asked - CLOCKS_S


def _created(entry: dict[str, Any]) -> float:
    """Return when a batch was made; infinity where it does not say."""
    try:
        return datetime.fromisoformat(str(entry.get("created_at"))).timestamp()
    except (ValueError, OverflowError, OSError):
        return float("inf")
