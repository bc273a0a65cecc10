"""The results of a batch that ended: every answer is committed, and what remains to be done is summarized."""

import asyncio
import json
import logging
from collections import Counter
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Literal

from lema_core.errors import LemaError
from lema_core.llm.batch.records import Batch, BatchRecords
from lema_core.llm.batch.replies import words
from lema_core.llm.batch.result_rows import ResultFiles, RowContent, classify_row, response_body
from lema_core.llm.costs.prices import prompt_chars
from lema_core.llm.endpoints import EndpointSpec
from lema_core.llm.ledger.credit import Amount
from lema_core.llm.limits.retry import MAX_ATTEMPTS
from lema_core.llm.requests import CompletionRequest, Failure, Outcome, stored_request
from lema_core.llm.responses import AttemptError, ChatResponse, error_from_code, error_from_status, parse_completion
from lema_core.llm.transport import EndpointContext, PendingRequest, truncation_of
from lema_core.system.chunking import chunked

MAX_BATCHES = 5
"""In how many batches a request is submitted before it becomes a failure, unless `MAX_ATTEMPTS` is lower."""
CHUNK = 256
"""Rows that are read from disk and committed at a time."""

Missing = Literal["unknown", "expired", "dropped"]
"""What happened to requests that no row names. ``unknown``: nothing is said about them, so they may be billed.
``expired``, ``dropped``: the batch as a whole ended before them, and they are to be submitted again."""

_log = logging.getLogger(__name__)


class UnreadRowError(Exception):
    """A row names its request, and what it says about it cannot be read."""


class CancelledRowError(Exception):
    """A row says that the batch was cancelled before its request."""


@dataclass(slots=True)
class BatchSummary:
    """What remains to be done for a batch that ended."""

    truncated: dict[str, ChatResponse] = field(default_factory=dict)
    """Paid responses that are to be asked for once more, with a larger cap."""
    unanswered: set[str] = field(default_factory=set)
    """Keys that the endpoint says it did not process: their batch lines are removed."""
    unpaid: set[str] = field(default_factory=set)
    """Keys that no stream asks for this time and that cost nothing."""
    unread: set[str] = field(default_factory=set)
    """Keys about which nothing is known: they may be billed."""
    cancelled: set[str] = field(default_factory=set)
    """Keys that were not processed because the batch was cancelled."""
    served: bool = False
    """Some request of the batch was answered."""
    fatal: LemaError | None = None
    """No other request can succeed either."""


class BatchResultsReader:
    """Commits the results of batches. A request leaves ``pending`` once its outcome is committed."""

    def __init__(
        self, context: EndpointContext, records: BatchRecords, pending: dict[str, PendingRequest], where: str
    ) -> None:
        self._context = context
        self._records = records
        self._pending = pending
        self._where = where
        self._outcomes: list[tuple[PendingRequest, Outcome]] = []
        self.tries: Counter[str] = Counter()
        """In how many batches each key has been without an answer."""

    async def read(self, batch: Batch, files: ResultFiles, missing: Missing) -> BatchSummary:
        """Commit what the files of an ended batch say; ``missing``: what happened to requests that no row names.

        Raises:
            LedgerError: an answer cannot be committed.
        """
        summary = BatchSummary(served=files.count_answers() > 0)
        for keys in chunked(files.mentioned_keys(), CHUNK):
            # A part at a time: a file of 4 GB is never in memory as a whole.
            rows = await asyncio.to_thread(files.load, keys)
            requests = await self._requests_for(batch, rows)
            # Together: the ledger groups their commits.
            await asyncio.gather(
                *(self._record_row(batch, pending, rows[pending.key], summary) for pending in requests)
            )
            for pending in requests:
                if pending.key in files.duplicated_keys:
                    duplicates = await asyncio.to_thread(files.load_duplicates, pending.key)
                    await self._record_duplicates(pending, duplicates)
        if files.duplicated_keys:
            _log.warning(
                "the batch %s of %s answers %d requests more than once; the first answer is kept",
                batch.remote,
                self._where,
                len(files.duplicated_keys),
            )
        for keys in chunked(sorted({*files.missing_keys(), *summary.unread}), CHUNK):
            await self._record_missing(batch, keys, missing, summary)
        return summary

    async def _requests_for(self, batch: Batch, keys: Collection[str]) -> list[PendingRequest]:
        """Return the pending requests of some keys, and stored ones for those that no stream asks for this time."""
        asked = [self._pending[key] for key in keys if key in self._pending]
        others = [key for key in keys if key not in self._pending]
        stored = await self._records.load_requests(batch, others) if others else {}
        identity = self._context.spec.identity
        return asked + [
            PendingRequest(key, stored_request(canonical), identity, 0.0) for key, canonical in stored.items()
        ]

    async def _record_row(
        self, batch: Batch, pending: PendingRequest, row: dict[str, Any], summary: BatchSummary
    ) -> None:
        # Taken now: recording removes the request from `_pending`.
        key, is_requested = pending.key, pending.key in self._pending
        try:
            response = _response_in_row(row, pending.request, self._context.spec)
        except UnreadRowError:
            summary.unread.add(key)
        except CancelledRowError:
            summary.cancelled.add(key)
            await self._release_unprocessed(batch, [pending], summary)
        except AttemptError as error:
            await self._record_error(batch, pending, error, summary)
        else:
            may_retry = self._context.spec.length_retry_factor is not None and batch.lines[key].first is None
            if response.finish_reason != "length" or not may_retry:
                await self.record_response(batch, pending, response)
            # Without a stream that asks for it the line stays open: the next run that does reads the row again.
            elif is_requested:
                summary.truncated[key] = response

    async def _record_error(
        self, batch: Batch, pending: PendingRequest, error: AttemptError, summary: BatchSummary
    ) -> None:
        if pending.key in self._pending:
            self._context.counters.failed_attempts[error.reason] += 1
            await self._record_failed_attempt(batch, pending, error, summary)
        # A failure that no stream asks for this time is left to the next one that does.
        elif error.paid is None and not error.maybe_paid and batch.lines[pending.key].first is None:
            summary.unpaid.add(pending.key)

    async def _record_missing(self, batch: Batch, keys: Sequence[str], missing: Missing, summary: BatchSummary) -> None:
        """Deal with keys that no row names."""
        summary.unread.difference_update(keys)
        # Another process may have committed the rest meanwhile.
        requests = await self._requests_for(batch, keys)
        if missing == "unknown":
            summary.unread.update(pending.key for pending in requests)
            # A second try without a known result costs no second payment: its first response is kept.
            firsts = [pending for pending in requests if batch.lines[pending.key].first is not None]
            await asyncio.gather(*(self._keep_first(batch, pending) for pending in firsts))
            summary.unread.difference_update(pending.key for pending in firsts)
        elif missing == "dropped":
            summary.cancelled.update(pending.key for pending in requests)
            await self._release_unprocessed(batch, requests, summary)
        else:
            expired = AttemptError("expired", "the batch expired before this request was answered")
            await asyncio.gather(*(self._record_error(batch, pending, expired, summary) for pending in requests))

    async def _release_unprocessed(
        self, batch: Batch, requests: Sequence[PendingRequest], summary: BatchSummary
    ) -> None:
        """Take requests off the batch that were not processed, which says nothing about the requests."""
        for pending in requests:
            if batch.lines[pending.key].first is not None:
                await self._keep_first(batch, pending)
            else:
                self.settle(batch, pending.key, Amount())
                summary.unanswered.add(pending.key)

    async def _record_duplicates(self, pending: PendingRequest, rows: Sequence[dict[str, Any]]) -> None:
        """Charge and commit further answers to the same request."""
        for row in rows:
            with suppress(AttemptError, UnreadRowError, CancelledRowError):
                # Billed as well: charged without a reservation, and counted as a failure that brought nothing new.
                duplicate = _response_in_row(row, pending.request, self._context.spec)
                self._context.budget.charge(self.cost(duplicate))
                detail = "the batch answers this request more than once"
                await self._context.record_failure(pending, "duplicate", 1, detail, paid=duplicate)

    async def record_response(self, batch: Batch, pending: PendingRequest, response: ChatResponse) -> None:
        """Commit a response, together with the truncated one that it replaces."""
        context, first = self._context, batch.lines[pending.key].first
        used = self.cost(response)
        commits: list[Any] = [context.record_completion(pending, response, batch.id)]
        if first is not None:
            used += self.cost(first)
            reason = truncation_of(first)
            where = " inside its thinking" if reason == "length_thinking" else ""
            detail = f"cut off{where} after {first.completion_tokens} tokens; asked again in a batch"
            # The first response is paid too; as a failure it is in the totals and never served.
            commits.append(context.record_failure(pending, reason, 1, detail, paid=first))
        await self._commit(batch, pending, commits, used)

    async def _commit(self, batch: Batch, pending: PendingRequest, commits: list[Any], used: Amount) -> None:
        """Await the commits of a request, its outcome first, and settle its reservation."""
        # Before the commit, which shortens the credit line: in between money is counted twice, never missed.
        self.settle(batch, pending.key, used)
        # Started together, so that one transaction has them all.
        self._outcomes.append((pending, (await asyncio.gather(*commits))[0]))
        self._pending.pop(pending.key, None)

    async def _record_failed_attempt(
        self, batch: Batch, pending: PendingRequest, error: AttemptError, summary: BatchSummary
    ) -> None:
        key, line = pending.key, batch.lines[pending.key]
        body = self._context.body(pending.request)
        # What was sent is not known, as an earlier process may have submitted it: it had what the refusal names.
        adapted = await self._context.follow_refusal(error, body, self._context.spelling.before_refusals(body))
        if line.first is not None:
            await self._keep_first(batch, pending, error)
            return
        # A refusal of the prompt counts for the endpoint only if nothing in the batch was answered.
        if error.fatal is not None and not (error.fatal_unless_served and summary.served):
            summary.fatal = error.fatal
            summary.unanswered.add(key)
            return
        final = line.tries >= (MAX_BATCHES if adapted else _most_tries(error))
        if error.paid is not None:
            self.settle(batch, key, self.cost(error.paid))
        elif error.maybe_paid:
            # The endpoint may have billed the whole reservation. A hard limit has to assume so.
            self.settle(batch, key, batch.reserved.get(key, line.upper_bound), unaccounted=True)
        else:
            self.settle(batch, key, Amount())
        await self._commit_failure(pending, error, final=final, batch=batch.id)
        self.tries[key] = line.tries
        if final:
            self._context.health.last_details[error.reason] = error.detail
            self._outcomes.append((pending, Failure(key, error.reason, error.detail, line.tries)))
            del self._pending[key]

    async def _commit_failure(
        self, pending: PendingRequest, error: AttemptError, *, final: bool = False, batch: str = ""
    ) -> None:
        await self._context.record_failure(
            pending, error.reason, 1, error.detail, paid=error.paid, final=final, batch=batch
        )

    async def keep_truncated(self, batch: Batch) -> None:
        """Keep the truncated responses that a batch was to replace and did not."""
        keys = {key for key, line in batch.lines.items() if line.first is not None}
        requests = await self._requests_for(batch, keys)
        await asyncio.gather(*(self._keep_first(batch, pending) for pending in requests))

    async def _keep_first(self, batch: Batch, pending: PendingRequest, error: AttemptError | None = None) -> None:
        """Commit the truncated response of a request, whose second try ended in ``error`` or without a result."""
        first = batch.lines[pending.key].first
        if first is None:
            raise RuntimeError(f"batch {batch.id} has no first response for {pending.key}")
        commits: list[Any] = [self._context.record_completion(pending, first, batch.id)]
        used = self.cost(first)
        if error is not None:
            used += self.cost(error.paid) if error.paid else Amount()
            commits.append(self._commit_failure(pending, error))
        await self._commit(batch, pending, commits, used)

    def resolve_pending(self) -> None:
        """Resolve the requests whose outcome is committed.

        Not earlier: a caller that has all its outcomes may end the process before the batch is closed.
        """
        for pending, outcome in self._outcomes:
            pending.resolve(outcome)
        self._outcomes.clear()

    def cost(self, response: ChatResponse) -> Amount:
        """Return what a response cost."""
        return self._context.bill(response)

    def settle(self, batch: Batch, key: str, used: Amount, *, unaccounted: bool = False) -> None:
        """End the reservation of a batch line, made here or by an earlier process, and charge what was used."""
        reserved = batch.reserved.pop(key, None)
        if reserved is None:
            self._context.budget.charge(used)
        else:
            self._context.budget.settle(reserved, used, unaccounted=unaccounted)

    def release_reservations(self, batch: Batch) -> None:
        """End all reservations of this process for a batch, unused."""
        for key in list(batch.reserved):
            self.settle(batch, key, Amount())

    def transfer_reservations(self, batch: Batch) -> None:
        """Leave all reservations of this process for a batch to its lines in the ledger."""
        while batch.reserved:
            # Not returned to our credit: the line in the ledger reserves the same amount from now on.
            batch.reserved.popitem()
            self._context.budget.end_reservation()


def _most_tries(error: AttemptError) -> int:
    """Return in how many batches a request may fail in this way."""
    if error.reason == "malformed" and error.paid is not None:
        # A file loses nothing on the way: the answer without text (a tool call, an audio) is what the model gave.
        return 1
    return min(MAX_BATCHES, MAX_ATTEMPTS.get(error.reason) or MAX_BATCHES)


def _response_in_row(row: dict[str, Any], request: CompletionRequest, endpoint: EndpointSpec) -> ChatResponse:
    """Return the response in a row of a batch's result files.

    Raises:
        AttemptError: the endpoint says that it failed, and how.
        CancelledRowError: the endpoint says that it was cancelled.
        UnreadRowError: the row says none of these.
    """
    where = endpoint.where
    body, status = response_body(row)
    if classify_row(row) is RowContent.ANSWERED or (body is not None and (status is None or status < 400)):
        try:
            return parse_completion(body, prompt_chars(request), where, endpoint.opens_thinking)
        except AttemptError as error:
            # A malformed body beside an error: the row's error says more.
            if error.reason != "malformed" or error.paid is not None:
                raise
            if not row.get("error"):
                raise UnreadRowError from None
    if status is not None and status >= 400:
        raise error_from_status(status, {}, json.dumps(body or {"error": row.get("error")}).encode(), where)
    raise _row_error(row.get("error"), where)


def _row_error(error: Any, where: str) -> AttemptError:
    """Return the error that a row has instead of a response.

    Raises:
        CancelledRowError: the endpoint says that it was cancelled.
    """
    text = words(error) or "the endpoint lists it as failed, without a word"
    code = str(error.get("code") or error.get("type") or "" if isinstance(error, dict) else error).lower()
    if "cancel" in code:
        raise CancelledRowError
    if "expired" in code:
        return AttemptError("expired", text)
    return error_from_code(error, text, where)
