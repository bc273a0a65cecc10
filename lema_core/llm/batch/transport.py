"""The batch transport: half the price, answers within a day.

A batch is committed to the ledger before the call that submits it, under an id that travels in its metadata: after a
crash it is found again, whatever the crash interrupted. Only requests without an answer are submitted again. A batch
that ended is committed as a whole, also for requests that no stream asks for this time.
"""

import asyncio
import logging
import uuid
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from lema_core.errors import BudgetExceededError, EndpointError, LemaError
from lema_core.llm.batch.api import BatchApi, request_line
from lema_core.llm.batch.message_batches import MessageBatchApi
from lema_core.llm.batch.records import Batch, BatchLine, BatchRecords
from lema_core.llm.batch.replies import QUEUE_FULL, BatchReply
from lema_core.llm.batch.result_rows import ResultFiles, results_folder, saved_files
from lema_core.llm.batch.results import BatchResultsReader, BatchSummary, Missing
from lema_core.llm.client import Client
from lema_core.llm.costs.budget import POLL_S
from lema_core.llm.endpoints import EndpointSpec
from lema_core.llm.ledger.credit import Amount
from lema_core.llm.progress import BatchWait
from lema_core.llm.requests import Failure
from lema_core.llm.transport import EndpointContext, PendingRequest, cap_of, larger_cap

QUEUE = "queue"
"""The entry of the endpoint's full queue among the batches in `Counters`."""

_log = logging.getLogger(__name__)


class BatchTransport:
    """Requests handed over together, over one or more batches of one endpoint. See `Transport` for its errors."""

    def __init__(self, context: EndpointContext, client: Client) -> None:
        self._context = context
        self._spec = context.spec
        self._settings = context.spec.batches
        self._folder = results_folder(context.ledger.store.database.where)
        api = MessageBatchApi if context.spec.api == "anthropic" else BatchApi
        self._api = api(client, context.spec.attempt_timeout_s, self._folder, self._settings)
        self._records = BatchRecords(context.ledger, context.spec.identity)
        self._submission_place = _submission_place(context.spec)
        self._pending: dict[str, PendingRequest] = {}
        self._results = BatchResultsReader(context, self._records, self._pending, self._api.where)
        self._batches: list[Batch] = []
        self._size = context.spec.batch_size
        self._sought: set[str] = set()
        """Unconfirmed batches that were looked for already."""
        self._most_batches = self._settings.live
        self._refusals = 0
        self._refused_since = 0.0
        self._full = False
        """The queue has no room for a single request, and this process does not wait for room."""
        self._full_until = 0.0
        self._clock = asyncio.get_running_loop().time

    async def complete(self, requests: Sequence[PendingRequest]) -> None:
        """Resolve every request from open batches, or from new ones.

        Raises:
            EndpointError: the endpoint refuses the batch or cannot be reached.
            BudgetExceededError: not one more request fits, and no batch is under way.
        """
        self._pending.update((pending.key, pending) for pending in requests)
        try:
            while self._pending:
                # Open batches first: what they answer is paid, and must not be submitted again.
                being_created = await self._find_batches()
                await self._collect()
                await self._submit_batches(being_created)
                if not self._spec.wait_for_batch and (self._batches or being_created or self._full):
                    await self._postpone(being_created)
                elif self._pending:
                    # Without a batch under way it waits for the budget, for another's batch, or for nothing.
                    await asyncio.sleep(self._spec.batch_poll_s if self._batches else POLL_S)
        finally:
            self._results.resolve_pending()
            for key in (QUEUE, *(batch.id for batch in self._batches)):
                self._context.counters.batches.pop(key, None)
            # Open batches will be billed, in this process or a later one: the budget now reads them from their lines.
            with suppress(LemaError):
                await self._records.release(self._batches)
            for batch in self._batches:
                self._results.transfer_reservations(batch)

    async def _postpone(self, being_created: set[str]) -> None:
        """Resolve what is left as ``pending``, for a later run."""
        # The next process finds the requests by their batch lines; it need not wait for this one to end.
        claims, keys = self._context.ledger.claims, list(self._pending)
        await self._context.ledger.call(lambda: claims.release(keys))
        under_way = being_created | {key for batch in self._batches for key in batch.lines}
        full = "the endpoint's queue is full now; a later run submits it"
        unsubmitted = full if self._refusals else "the budget has no room now"
        for key, pending in self._pending.items():
            said = "submitted; a later run collects the answer" if key in under_way else unsubmitted
            pending.resolve(Failure(key, "pending", said, 0))
        self._pending.clear()

    def _unbatched(self, besides: set[str]) -> list[PendingRequest]:
        """Return the requests that are in no batch."""
        under_way = besides | {key for batch in self._batches for key in batch.lines}
        return [pending for key, pending in self._pending.items() if key not in under_way]

    async def _find_batches(self) -> set[str]:
        """Take over the open batches of our requests; return the keys of those that are being created right now."""
        being_created: set[str] = set()
        unbatched = [pending.key for pending in self._unbatched(set())]
        found = await self._records.find_open(unbatched) if unbatched else []
        unknown = [
            batch
            for batch in found
            if not batch.is_being_created and batch.remote is None and batch.id not in self._sought
        ]
        self._sought.update(batch.id for batch in unknown)
        # All end before one error is raised: a search that was cancelled would have to be done again.
        looks = await asyncio.gather(*(self._look_for(batch) for batch in unknown), return_exceptions=True)
        for failed in looks:
            if failed is not None:
                raise failed
        for batch in found:
            if batch.is_being_created:
                being_created |= batch.lines.keys()
            elif batch.remote is not None and batch.lines.keys() & self._pending.keys():
                self._batches.append(batch)
        return being_created

    async def _look_for(self, batch: Batch) -> None:
        """Find out whether the endpoint has a batch that an earlier process left before its creation was confirmed.

        Raises:
            EndpointError: its state stays unknown, and some of its requests are ours.
        """
        if batch.asked_at == 0.0:
            # The endpoint was never asked to create it, or said that it did not.
            await self._close(batch, "lost")
            return
        self._show_progress(batch, "looked for, because its creation was not confirmed,")
        try:
            sought = await self._api.search(
                batch.id, batch.input_file, await self._records.remote_ids(), patiently=True
            )
        finally:
            self._context.counters.batches.pop(batch.id, None)
        if sought.remote is not None:
            batch.remote = sought.remote
            await self._records.record_submission(batch)
        elif not sought.doubts:
            await self._close_lost(batch)
        elif batch.lines.keys() & self._pending.keys():
            raise EndpointError(self._api.doubt_message(batch.id, "; ".join(sought.doubts)))

    async def _close_lost(self, batch: Batch) -> None:
        """Close a batch that was never created. One that was, here or elsewhere, may be billed: the user decides.

        Raises:
            EndpointError: it was, and some of its requests are ours.
        """
        # If only longer answers than the ones we have are missing, nothing would be paid again.
        paid_again = batch.remote is not None and any(line.first is None for line in batch.lines.values())
        if paid_again or batch.submitted_to not in {"", self._submission_place}:
            if batch.lines.keys() & self._pending.keys():
                name, place = batch.remote or "its name is not known", batch.submitted_to or "this endpoint"
                raise EndpointError(
                    f"a batch of {len(batch.lines)} requests was submitted to {place} ({name}), and {self._api.where} "
                    "does not know it. To collect it, run with the base_url that it was submitted with and a key of "
                    f"the same project. {_forget_hint(batch)}"
                )
            return
        if batch.remote is None and batch.lines:
            _log.warning(
                "the creation of a batch of %d requests (%s) was not confirmed by %s, and the batch is not in its "
                "list: its requests are submitted again",
                len(batch.lines),
                batch.id,
                self._api.where,
            )
        await self._close(batch, "lost")

    async def _close(self, batch: Batch, state: str) -> None:
        # In this order: first what is paid, then the lines that hold its money, then our own reservations. A crash in
        # between leaves too much reserved, never too little.
        await self._results.keep_truncated(batch)
        await self._records.close(batch, state)
        self._results.release_reservations(batch)

    async def _submit_batches(self, being_created: set[str]) -> None:
        """Submit the requests that fit the budget."""
        unbatched = deque(self._unbatched(being_created) if self._clock() >= self._full_until else [])
        while (
            unbatched
            and len(self._batches) < self._most_batches
            and self._clock() >= self._full_until
            and not self._full
        ):
            batch = Batch(uuid.uuid4().hex, self._submission_place)
            written = await self._fill_batch(batch, unbatched)
            if not written:
                break
            await self._send(batch, written)

    async def _fill_batch(self, batch: Batch, unbatched: deque[PendingRequest]) -> dict[str, bytes]:
        """Move as many requests into a batch as fit it and the budget; return their lines of the file to upload."""
        written, size = dict[str, bytes](), 0
        while unbatched and len(written) < self._size:
            pending = unbatched[0]
            body = self._context.body(pending.request)
            line = request_line(pending.key, self._context.spelling.wire(body))
            size += len(line)
            # A single request above the limit is sent all the same: the endpoint says best what is wrong with it.
            if written and size > self._settings.file_bytes:
                break
            reserved = None
            try:
                reserved = await self._context.budget.try_reserve(
                    self._context.upper_bound(pending.request, cap_of(body))
                )
            except BudgetExceededError:
                # Open batches may cost less than reserved, also those that an earlier process submitted.
                if not self._batches:
                    raise
            if reserved is None:
                break
            written[pending.key], batch.reserved[pending.key] = line, reserved
            batch.lines[pending.key] = BatchLine(self._results.tries[pending.key] + 1, None, reserved)
            unbatched.popleft()
        return written

    async def _send(self, batch: Batch, written: dict[str, bytes], instead_of: str = "") -> None:
        """Submit a batch. It is among ours before the first call, so an error anywhere still releases it."""
        self._batches.append(batch)
        requests = {key: self._context.canonical(self._pending[key].request) for key in batch.lines}
        taken = await self._records.register(batch, requests, instead_of)
        # Another process answered them, or put them into a batch, since we looked.
        for key in taken:
            del batch.lines[key]
            self._results.settle(batch, key, Amount())
        for key, there in (await self._context.ledger.lookup(list(taken))).items():
            self._pending.pop(key).resolve(there)
        if not batch.lines:
            self._batches.remove(batch)
            await self._records.close(batch, "lost")
            return
        input_file = await self._api.upload(batch.id, (written[key] for key in batch.lines))
        # Committed before the call: after a kill from here on, the batch may exist.
        await self._records.record_creation_call(batch, input_file)
        self._show_progress(batch, "being created")
        creation = await self._api.create(batch.id, input_file, await self._records.remote_ids())
        if creation.error is not None:
            # Nothing was created, so nothing will be billed: its requests may be submitted again.
            self._context.counters.batches.pop(batch.id, None)
            await self._records.record_refusal(batch)
            await self._handle_refusal(batch, creation.said, creation.error)
            self._batches.remove(batch)
            return
        batch.remote = creation.remote
        await self._records.record_submission(batch)
        self._show_progress(batch, "submitted")

    async def _collect(self) -> None:
        """Commit the results of batches that ended.

        Raises:
            LemaError: a batch ends the run; the results of all others are committed first.
        """
        errors: list[LemaError] = []
        for batch in list(self._batches):
            reply = await self._fetch_status(batch)
            if reply is None:
                # One batch that ends the run must not keep the paid results of the others from being committed.
                try:
                    await self._close_lost(batch)
                except EndpointError as lost:
                    errors.append(lost)
            elif not (reply.has_ended and await self._collect_ended(batch, reply, errors)):
                self._show_progress(batch, reply.status)
                settings, hours = self._settings, batch.age_s() / 3600
                if batch.age_s() > settings.window_s + settings.margin_s:
                    errors.append(
                        EndpointError(
                            f"the batch {batch.remote} of {self._api.where} has not ended ({reply.describe()}): "
                            f"{hours:.1f} h after it was submitted, its window is {settings.window_s / 3600:g} h. It "
                            "may be billed, so nothing is submitted again; the next run looks at it again. "
                            f"{_forget_hint(batch)}"
                        )
                    )
                # It stays among ours: the budget keeps its reservations, and nothing of it is sent again.
                continue
            self._batches.remove(batch)
            self._context.counters.batches.pop(batch.id, None)
            self._results.resolve_pending()
        # Only one error can be raised; the others are not lost.
        for error in errors[1:]:
            _log.warning("%s", error)
        if errors:
            raise errors[0]

    def _show_progress(self, batch: Batch, status: str) -> None:
        since = self._clock() - batch.age_s()
        words = f"{batch.remote or 'a batch'} {status or 'without a status'}"
        self._context.counters.batches[batch.id] = BatchWait(words, since, len(batch.lines))

    async def _fetch_status(self, batch: Batch) -> BatchReply | None:
        """Return a batch as the endpoint describes it; None if the endpoint does not know it, under any name."""
        remote = str(batch.remote)
        settings = self._settings
        for wait in settings.waits(settings.listing_s, settings.listings):
            # The endpoint may not know a batch yet that was created a moment ago.
            await asyncio.sleep(wait)
            if (found := await self._api.status(remote)) is not None:
                return found
            sought = await self._api.search(batch.id, batch.input_file, {remote}, patiently=False)
            if sought.remote is not None:
                batch.remote = remote = sought.remote
        return None

    async def _collect_ended(self, batch: Batch, reply: BatchReply, errors: list[LemaError]) -> bool:
        """Commit the results of a batch; return whether it is done. What ends the run is added to ``errors``."""
        completed = reply.request_counts.completed
        # Refused as a whole, as with a full queue: nothing was processed.
        if reply.status == "failed" and not reply.files and not completed:
            try:
                await self._handle_refusal(batch, reply.errors)
            except EndpointError as error:
                errors.append(error)
            return True
        found = await self._api.results(batch.id, str(batch.remote), reply, batch.lines.keys())
        if found is None:
            return False
        reply, files = found
        try:
            stops = await self._book_results(batch, reply, files)
        finally:
            files.close()
        errors += stops
        return not stops

    async def _book_results(self, batch: Batch, reply: BatchReply, files: ResultFiles) -> list[LemaError]:
        """Commit what the files of an ended batch say; return what ends the run."""
        total = len(batch.lines)
        summary = await self._results.read(batch, files, _classify_missing(reply, files))
        await self._submit_truncated(batch, summary)
        # After the commits: a crash in between collects the batch again and loses nothing.
        await self._records.record_collection(batch, summary.unanswered, summary.unpaid)
        if summary.unread:
            kept = await asyncio.to_thread(files.save, self._folder, batch.id)
            text = _unread_message(batch, reply, files, sorted(summary.unread), total, kept, self._api.where)
            return [summary.fatal or EndpointError(text)]
        for path in await asyncio.to_thread(saved_files, self._folder, batch.id):
            path.unlink(missing_ok=True)
        self._results.release_reservations(batch)
        # A batch that ended made room in the endpoint's queue.
        self._refusals = 0
        self._context.counters.batches.pop(QUEUE, None)
        self._size = min(2 * self._size, self._spec.batch_size)
        self._most_batches = min(self._most_batches + 1, self._settings.live)
        if summary.fatal is not None:
            return [summary.fatal]
        if summary.cancelled:
            ended = "was cancelled at the endpoint" if reply.status != "failed" else "failed at the endpoint"
            why = f": {reply.errors}" if reply.errors else ""
            left = len(summary.cancelled)
            text = (
                f"the batch {batch.remote} of {self._api.where} {ended}{why}. {total - left} of its {total} requests "
                "were carried out, and what was answered is stored. The same command, or `lema resume`, submits the "
                f"other {left} again"
            )
            return [EndpointError(text)]
        return []

    async def _handle_refusal(self, batch: Batch, words: str, error: LemaError | None = None) -> None:
        """Close a batch that the endpoint refused; wait for room if its queue is full.

        Raises:
            EndpointError: it was refused for another reason, or the queue has been full for too long.
        """
        size = len(batch.lines)
        await self._close(batch, "failed")
        if QUEUE_FULL not in words:
            raise error or EndpointError(f"{self._api.where} refused the batch {batch.remote}: {words}")
        self._wait_for_room(size, words, [other for other in self._batches if other is not batch])

    def _wait_for_room(self, size: int, words: str, others: Sequence[Batch]) -> None:
        """Wait until what fills the endpoint's queue is done: our own batches, else others', with smaller batches.

        Raises:
            EndpointError: one single request has been refused for too long, and none of ours is in the queue.
        """
        now = self._clock()
        self._refusals += 1
        self._most_batches = max(1, len(others))
        if self._refusals == 1:
            self._refused_since = now
            until = "until one of ours is done" if others else f"at most {self._settings.full_s / 3600:g} h"
            _log.warning("%s: the queue of batches is full (%s). Waiting for room, %s", self._api.where, words, until)
        if others:
            # The next one of ours that ends makes room; smaller batches would only take more turns.
            return
        if size <= 1 and now - self._refused_since > self._settings.full_s:
            hours = f"{(now - self._refused_since) / 3600:.1f} h"
            raise EndpointError(
                f"{self._api.where} refuses even a batch of one request, for {hours}, while none of ours is in its "
                f"queue: {words}. What was paid is kept; run again when the queue has room"
            )
        # Smaller and smaller batches find out how much room there is, in steps that get longer.
        self._full = size <= 1 and not self._spec.wait_for_batch
        self._size = max(1, size // 2)
        pause = min(self._settings.pause_s, self._spec.batch_poll_s * 2.0 ** min(self._refusals, 20))
        self._full_until = now + (pause if self._spec.wait_for_batch else 0.0)
        words = f"queue full, another try every {pause:.0f} s, waited"
        self._context.counters.batches[QUEUE] = BatchWait(words, self._refused_since, 0)

    async def _submit_truncated(self, old: Batch, summary: BatchSummary) -> None:
        """Submit truncated requests with a larger cap; without room in the budget the first response is kept."""
        batch, written = Batch(uuid.uuid4().hex, self._submission_place), dict[str, bytes]()
        for key, first in summary.truncated.items():
            pending = self._pending[key]
            body = self._context.body(pending.request)
            body |= larger_cap(body, first, self._spec.length_retry_factor or 1.0)
            # Given back first: the second try may need the room that the first one held.
            self._results.settle(old, key, Amount())
            most = self._context.upper_bound(pending.request, cap_of(body)) + self._results.cost(first)
            reserved = None
            with suppress(BudgetExceededError):
                reserved = await self._context.budget.try_reserve(most)
            if reserved is None:
                await self._results.record_response(old, pending, first)
            else:
                written[key], batch.reserved[key] = request_line(key, self._context.spelling.wire(body)), reserved
                batch.lines[key] = BatchLine(1, first, reserved)
        if written:
            await self._send(batch, written, instead_of=old.id)


def _submission_place(spec: EndpointSpec) -> str:
    # The variable's name, not the key: the place is a row in the ledger.
    return f"{spec.base_url}" + (f" with the key in {spec.api_key_env}" if spec.api_key_env else "")


def _classify_missing(reply: BatchReply, files: ResultFiles) -> Missing:
    """Return what happened to requests that no row names.

    Only what the endpoint says counts. A completed batch without a row for a request may have answered it all the same,
    and what it says of the batch as a whole holds only if everything else of it could be read.
    """
    completed = reply.request_counts.completed
    if not files.is_complete or (completed is not None and completed > files.count_answers()):
        return "unknown"
    if reply.has_expired:
        return "expired"
    return "unknown" if reply.status == "completed" else "dropped"


def _unread_message(
    batch: Batch,
    reply: BatchReply,
    files: ResultFiles,
    keys: Sequence[str],
    total: int,
    kept: Sequence[Path],
    where: str,
) -> str:
    found = [*files.unread, *files.unreadable]
    if len(files.unreadable) < files.unreadable_count:
        found.append(f"{files.unreadable_count} such lines in all")
    if rows := files.foreign[""]:
        names = ", ".join(repr(name) for name in files.foreign if name)
        found.append(f"{rows} rows are for none of its requests ({names or 'they name none'})")
    if kept:
        found.append(f"What could be fetched is in {', '.join(map(str, kept))}")
    shown = ", ".join(keys[:3]) + (", ..." if len(keys) > 3 else "")
    return (
        f"the batch {batch.remote} of {where} has ended ({reply.describe()}), and nothing could be read for "
        f"{len(keys)} of its {total} requests ({shown}). {'. '.join([*found, ''])}They may be billed, so they are not "
        f"submitted again; the next run reads the results again. {_forget_hint(batch)}"
    )


def _forget_hint(batch: Batch) -> str:
    return f"To give it up, and pay again for what is missing: lema ledger forget-batch {batch.id}"
