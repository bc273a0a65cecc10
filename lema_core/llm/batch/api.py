"""The calls of the Batch API: each has a deadline, is tried again if that may help, and keeps the key out of errors."""

import asyncio
import contextlib
import io
import json
import logging
import random
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, Final, Literal, TypeVar

import aiohttp
from tenacity import AsyncRetrying, retry_if_exception, stop_after_attempt, stop_after_delay, stop_all

from lema_core.errors import AuthenticationError, EndpointError, LemaError
from lema_core.llm.batch.replies import METADATA, BatchReply, ListPage, words
from lema_core.llm.batch.result_rows import PIECE_BYTES, SHOWN, ResultFiles, free_bytes, saved_files, scratch_file
from lema_core.llm.bounded_http import segment
from lema_core.llm.client import Client
from lema_core.llm.responses import AttemptError
from lema_core.llm.settings import BatchSettings
from lema_core.system.redaction import one_line

T = TypeVar("T")

CHAT: Final = "/v1/chat/completions"
PAGE = 100
REPLY_BYTES = 8 * 10**6
"""Of a batch's description, or of a page of the list: 100 batches have some 100 KB."""
LINES_IN_TIME = 1000
"""Answers that a download may have in the time of one attempt; a larger file gets more time."""
LONGEST_PAUSE_S = 20.0
TOO_LARGE = 413
MOST_ANONYMOUS = 20
"""Batches that are looked up one by one, because the list does not say whose they are."""

_log = logging.getLogger(__name__)


class CallError(Exception):
    """A call of the Batch API failed. ``status`` is 0 where no reply came, or none that can be read."""

    def __init__(self, status: int, error: AttemptError, said: str = "") -> None:
        super().__init__(f"HTTP {status}: {error.detail}")
        self.status = status
        self.said = said
        """The endpoint's words with their code."""
        self.error = error

    @property
    def transient(self) -> bool:
        """Return whether the same call may succeed later."""
        return self.status in {0, 408, 409, 425, 429} or (self.status >= 500 and self.status != 501)

    @property
    def doing(self) -> Literal["done?", "not done?", "not now", "no"]:
        """Return what the failure of a call says about whether it was carried out.

        ``done?``: nothing was said about it. ``not done?``: an error was, after which it may be done all the same.
        """
        # Nothing was sent, or the endpoint says that it is too busy to carry it out.
        if self.error.not_sent or self.status in {429, 503, 529}:
            return "not now"
        # A proxy gave up waiting; the server behind it may have gone on.
        if self.status == 0 or self.status in {504, 524}:
            return "done?"
        return "not done?" if self.transient else "no"


@dataclass(slots=True)
class SearchResult:
    """What the endpoint's list says about a batch that may exist."""

    remote: str | None = None
    """The endpoint's name for it; None: it is not in the list."""
    doubts: list[str] = field(default_factory=list)
    """Why it may exist although the list does not show it."""


@dataclass(frozen=True, slots=True)
class Creation:
    """What became of a new batch: the endpoint's name for it, or the error with which the endpoint refused it."""

    remote: str
    error: LemaError | None = None
    said: str = ""


class BatchApi:
    """The Batch API of one endpoint. ``folder`` takes result files while they are read.

    Raises:
        EndpointError: from every method, when the endpoint refuses, or does not answer in several tries.
    """

    def __init__(self, client: Client, timeout_s: float, folder: Path, settings: BatchSettings) -> None:
        self._client = client
        self._timeout_s = timeout_s
        self._folder = folder
        self._settings = settings
        self.where = client.where

    async def upload(self, batch_id: str, lines: Iterable[bytes]) -> str:
        """Upload requests, see `request_line`; return the endpoint's name for the file."""
        content = b"".join(lines)

        async def upload() -> str:
            form = aiohttp.FormData({"purpose": "batch"})
            form.add_field("file", io.BytesIO(content), filename=f"{batch_id}.jsonl", content_type="application/jsonl")
            return await self.call("POST", "/files", id_in, data=form)

        try:
            return await self._retry(upload)
        except CallError as error:
            raise self._fatal_error(error) from None

    async def create(self, batch_id: str, input_file: str, known: Collection[str]) -> Creation:
        """Make a batch of an uploaded file.

        A call that failed may have made the batch all the same, and a second one would be paid too: so it is looked for
        before the call is made again, after a failure that leaves that open for as long as the list may lag.
        ``known`` are batches that the list should show, if it can be relied on.

        Raises:
            EndpointError: it may exist, and the list cannot say; or the endpoint was away for too long.
        """
        clock, settings = asyncio.get_running_loop().time, self._settings
        until, tries = clock() + settings.unreachable_s, 0
        while True:
            tries += 1
            try:
                return Creation(await self.post_creation(batch_id, input_file))
            except CallError as error:
                failed = error
            # The order is what keeps a batch from being paid twice: look for it, believe a refusal only if it is not in
            # the list, and create it again only if the list can be relied on.
            open_question = failed.doing in {"done?", "not done?"}
            sought = await self._search_after(failed, batch_id, input_file, known)
            if sought.remote is not None:
                return Creation(sought.remote)
            if failed.doing == "no":
                return Creation("", self._fatal_error(failed), failed.said)
            if open_question and sought.doubts:
                raise EndpointError(self.doubt_message(batch_id, f"{failed.error.detail}; {'; '.join(sought.doubts)}"))
            if open_question:
                _log.warning(
                    "%s: no confirmation of the batch %s (%s). It was looked for during %g s and is not in the "
                    "endpoint's list, so it is created again from the file %s. Should the endpoint show two batches "
                    "with this id, one of them is not needed",
                    self.where, batch_id, failed.error.detail, settings.listing_s, input_file,
                )  # fmt: skip
            if clock() > until and (open_question or tries >= settings.tries):
                raise self._fatal_error(failed)
            await asyncio.sleep(self._pause_s(failed, tries))

    async def post_creation(self, batch_id: str, input_file: str) -> str:
        """Call once to make a batch of an uploaded file; return the endpoint's name for it.

        Raises:
            CallError: it failed, and may have made the batch all the same.
        """
        body: dict[str, Any] = {"input_file_id": input_file, "endpoint": CHAT, "completion_window": "24h"}
        body["metadata"] = {METADATA: batch_id}
        return await self.call("POST", "/batches", id_in, data=json.dumps(body).encode())

    async def _search_after(
        self, failed: CallError, batch_id: str, input_file: str, known: Collection[str]
    ) -> SearchResult:
        """Look for a batch after a call to create it failed, as long as the failure leaves open whether it was made."""
        if failed.doing in {"done?", "not done?"}:
            return await self.search(batch_id, input_file, known, patiently=True)
        try:
            return await self.search(batch_id, input_file, known, patiently=False)
        except EndpointError:
            # It says that it did not make the batch, and is too busy for a list.
            return SearchResult()

    def doubt_message(self, batch_id: str, why: str) -> str:
        """Say that a batch may exist, why that is not known, and what to do."""
        return (
            f"whether {self.where} has the batch {batch_id} is not known ({why}). It may be billed, so nothing is "
            "submitted again; the next run looks for it again. To give it up, and pay for its requests again: "
            f"lema ledger forget-batch {batch_id}"
        )

    async def search(self, batch_id: str, input_file: str, known: Collection[str], *, patiently: bool) -> SearchResult:
        """Find a batch whose creation was not confirmed, by its metadata or by the file that it was made from.

        ``patiently``: read the list several times, because it may lag behind.
        """
        settings, sought = self._settings, SearchResult()
        for wait in settings.waits(settings.listing_s, settings.listings) if patiently else [0.0]:
            await asyncio.sleep(wait)
            sought = await self._search_once(batch_id, input_file, known)
            if sought.remote is not None:
                break
        return sought

    async def _search_once(self, batch_id: str, input_file: str, known: Collection[str]) -> SearchResult:
        sought, listed = SearchResult(), dict[str, bool]()
        try:
            async with contextlib.aclosing(self._pages(sought)) as pages:
                async for page in pages:
                    listed |= {batch.id: batch.anonymous for batch in page.batches}
                    # A file may be used twice: by its file alone no batch is taken that is known already.
                    mine = [
                        batch.id
                        for batch in page.batches
                        if batch.holds(batch_id, "" if batch.id in known else input_file)
                    ]
                    if mine:
                        return SearchResult(mine[0])
        except CallError as error:
            # An endpoint without a list is one thing; one that is away, or refuses the key, may answer the next run.
            if error.transient or isinstance(error.error.fatal, AuthenticationError):
                raise self._fatal_error(error) from None
            sought.doubts.append(f"its list of batches cannot be read ({error.error.detail})")
            return sought
        # Endpoints may drop metadata from the list, and show them when asked for one batch.
        anonymous = [remote for remote, unnamed in listed.items() if unnamed and remote not in known]
        for remote in anonymous[:MOST_ANONYMOUS] if input_file else ():
            found = await self.status(remote)
            if found is not None and found.holds(batch_id, input_file):
                return SearchResult(remote)
            if found is not None and found.anonymous:
                sought.doubts.append(f"it does not say whose batch {remote} is")
        # Its absence says something only if the list shows what certainly exists.
        if known and listed.keys().isdisjoint(known):
            sought.doubts.append("its list does not show batches that exist either")
        return sought

    async def _pages(self, sought: SearchResult) -> AsyncGenerator[ListPage]:
        """Yield the pages of the list until one brings nothing new; add to ``sought`` where there may be more."""
        seen, params = set[str](), {"limit": str(PAGE)}
        for _ in range(self._settings.pages):
            page = await self._retry(partial(self.call, "GET", "/batches", ListPage.of, params=params))
            yield page
            if page.unread:
                sought.doubts.append(f"{page.unread} entries of its list of batches cannot be read")
            fresh = {batch.id for batch in page.batches} - seen
            if page.more and not fresh:
                sought.doubts.append("its list of batches repeats itself")
            if not page.more or not fresh:
                return
            seen |= fresh
            params = {"limit": str(PAGE), "after": page.batches[-1].id}
        sought.doubts.append(f"its list of batches has more than {self._settings.pages} pages")

    async def status(self, remote: str) -> BatchReply | None:
        """Return a batch as the endpoint describes it; None if it does not know the batch."""
        read = partial(BatchReply.read, needed="status")
        try:
            return await self._retry(partial(self.call, "GET", f"/batches/{segment(remote)}", read))
        except CallError as error:
            if error.status == 404:
                return None
            raise self._fatal_error(error) from None

    async def results(
        self, batch_id: str, remote: str, reply: BatchReply, names: Collection[str]
    ) -> tuple[BatchReply, ResultFiles] | None:
        """Return an ended batch and what its files say; read them again for a while if they lack a request.

        None: a later look says that it has not ended. The caller closes the files.
        """
        settings, files = self._settings, None
        for wait in settings.waits(settings.reading_s, settings.readings):
            if files is not None:
                try:
                    await asyncio.sleep(wait)
                    reply = await self.status(remote) or reply
                except EndpointError:
                    # The endpoint went away: what was read so far is committed.
                    break
                except BaseException:
                    files.close()
                    raise
                files.close()
                if not reply.has_ended:
                    return None
            files, final = await self._read_files(batch_id, reply, names)
            if final or not files.missing_keys():
                break
        return (reply, files) if files is not None else None

    async def _read_files(self, batch_id: str, reply: BatchReply, names: Collection[str]) -> tuple[ResultFiles, bool]:
        """Return what a batch's files say, and whether reading them again is useless."""
        settings, final = self._settings, False
        files = ResultFiles(names, self._client.redact, settings.row_bytes)
        try:
            for file_id, errors in sorted(reply.files.items(), key=lambda item: item[1]):
                # Files of answers come first: errors for requests that are answered need no download.
                if not files.missing_keys():
                    break
                final |= await self._add_file(files, file_id, names, errors=errors)
            if files.missing_keys() and (files.unread or not reply.files):
                for path in saved_files(self._folder, batch_id):
                    await asyncio.to_thread(files.add, str(path), path.open("rb"), errors=False)
        except BaseException:
            files.close()
            raise
        return files, final

    async def _add_file(self, files: ResultFiles, file_id: str, names: Collection[str], *, errors: bool) -> bool:
        """Download a file and index it; return whether trying that again is useless."""
        settings = self._settings
        most = free_bytes(self._folder, min(settings.result_bytes, (len(names) + 1) * settings.row_bytes))
        scratch, final = scratch_file(self._folder), False
        try:
            await self._retry(partial(self._download, file_id, scratch, most, len(names)))
        except CallError as error:
            if isinstance(error.error.fatal, AuthenticationError):
                scratch.close()
                raise error.error.fatal from None
            files.unread.append(f"the file {file_id} cannot be fetched: {error.error.detail}")
            # A file that was refused, or tried for long enough, is not tried again; one that does not exist yet is.
            final = error.status != 404
        # Also a file that broke off: what arrived is paid.
        await asyncio.to_thread(files.add, f"the file {file_id}", scratch, errors=errors)
        return final

    async def _download(self, file_id: str, file: BinaryIO, most: int, lines: int) -> None:
        await self.fetch_file(f"/files/{segment(file_id)}/content", file, most, lines)

    async def fetch_file(self, path: str, file: BinaryIO, most: int, lines: int) -> None:
        """Write what a GET gives into a file, with as many answers as ``lines``.

        Raises:
            CallError: not all of it came.
        """
        # From the beginning: an earlier try may have left a part.
        file.seek(0)
        file.truncate()
        seconds = self._timeout_s * (1 + lines / LINES_IN_TIME)
        try:
            reply = await self._client.download(path, file, most=most, seconds=seconds)
        except AttemptError as error:
            # A file that is too large will be too large the next time as well.
            raise CallError(TOO_LARGE if file.tell() > most - PIECE_BYTES else 0, error) from None
        if not reply.is_success:
            raise CallError(reply.status, self._client.error_of(reply))

    async def call(
        self,
        method: str,
        path: str,
        read: Callable[[Any], T],
        *,
        data: bytes | aiohttp.FormData | None = None,
        params: Mapping[str, str] | None = None,
    ) -> T:
        """Call once; return what the reply holds.

        Raises:
            CallError: no reply, an error, or something else than the Batch API describes.
        """
        try:
            reply = await self._client.send(
                method, path, data=data, params=params, most=REPLY_BYTES, seconds=self._timeout_s
            )
        except AttemptError as error:
            raise CallError(0, error) from None
        if not reply.is_success:
            raise CallError(reply.status, self._client.error_of(reply), _error_words(reply.content))
        try:
            return read(json.loads(reply.content))
        except (ValueError, RecursionError, MemoryError):
            start = one_line(reply.content[:SHOWN].decode("utf-8", "replace"))
            said = "what comes with status 200 is cut off, or not what the Batch API describes"
            raise CallError(0, AttemptError("malformed", f"{said}: {start!r}")) from None

    async def _retry(self, call: Callable[[], Awaitable[T]]) -> T:
        """Call, again where that may help.

        Raises:
            CallError: that of the last try.
        """
        retrying = AsyncRetrying(
            retry=retry_if_exception(lambda error: isinstance(error, CallError) and error.transient),
            stop=stop_all(stop_after_attempt(self._settings.tries), stop_after_delay(self._settings.unreachable_s)),
            wait=lambda call: self._pause_s(call.outcome.exception() if call.outcome else None, call.attempt_number),
            reraise=True,
        )
        return await retrying(call)

    def _pause_s(self, error: BaseException | None, tries: int) -> float:
        # Not all clients at the same moment; never longer than the patience of a call, whatever Retry-After says.
        asked = error.error.retry_after if isinstance(error, CallError) else None
        longest = min(LONGEST_PAUSE_S, 0.2 * 2.0 ** min(tries - 1, 20))
        return max(min(asked or 0.0, self._settings.unreachable_s), random.uniform(0, longest))  # noqa: S311

    def _fatal_error(self, error: CallError) -> LemaError:
        does = "does not answer" if error.transient else "refuses the call"
        return error.error.fatal or EndpointError(f"the batch API of {self.where} {does}: {error.error.detail}")


def request_line(name: str, body: dict[str, Any]) -> bytes:
    """Return a request as a line of the file to upload."""
    line = json.dumps({"custom_id": name, "method": "POST", "url": CHAT, "body": body}, ensure_ascii=False)
    return line.encode("utf-8", "replace") + b"\n"


def id_in(content: Any) -> str:
    """Return the id that a reply has.

    Raises:
        ValueError: it has none.
    """
    name = BatchReply.read(content, "id").id
    if not name:
        raise ValueError("id")
    return name


def _error_words(content: bytes) -> str:
    try:
        found = json.loads(content)
    except (ValueError, RecursionError, MemoryError):
        return ""
    return words(found.get("error") if isinstance(found, dict) else found)
