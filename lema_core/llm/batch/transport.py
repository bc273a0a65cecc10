"""The Batch API behind the same interface: half the price, answers within a day.

The intent to submit is committed before the call, under an id that travels as the batch's metadata: after a crash the
batch is found again, whatever the crash interrupted. Only ids without an answer are submitted again. A batch that ended
is booked as a whole, also for requests that nobody asks for this time.
"""

import asyncio
import logging
import uuid
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from lema_core.errors import BudgetExceededError, EndpointError, LemaError
from lema_core.llm.batch.api import BatchApi, line_of
from lema_core.llm.batch.reading import BatchReader, Harvest, Missing
from lema_core.llm.batch.records import Batch, BatchBook, Line
from lema_core.llm.batch.replies import QUEUE_FULL, BatchReply
from lema_core.llm.batch.results import ResultFiles, kept_files, results_folder
from lema_core.llm.client import Client
from lema_core.llm.costs.budget import POLL_S
from lema_core.llm.endpoints import EndpointSpec
from lema_core.llm.http_transport import Desk, cap_of, larger_cap
from lema_core.llm.ledger.credit import Amount
from lema_core.llm.pending import Flight
from lema_core.llm.progress import BatchWait
from lema_core.llm.requests import Failure

QUEUE = "queue"
"""Stands for the endpoint's full queue where the batches are listed that are waited for."""

_log = logging.getLogger(__name__)


class BatchBuyer:
    """One purchase from one endpoint by the batch transport."""

    def __init__(self, desk: Desk, client: Client) -> None:
        self._desk = desk
        self._spec = desk.spec
        self._settings = desk.spec.batches
        self._folder = results_folder(desk.ledger.store.database.where)
        self._api = BatchApi(client, desk.spec.attempt_timeout_s, self._folder, self._settings)
        self._book = BatchBook(desk.ledger, desk.spec.identity)
        self._place = _place(desk.spec)
        self._open: dict[str, Flight] = {}
        self._reader = BatchReader(desk, self._book, self._open, self._api.where)
        self._live: list[Batch] = []
        self._size = desk.spec.batch_size
        self._sought: set[str] = set()
        """Batches that were looked for and that nobody asks for."""
        self._most_live = self._settings.live
        self._refusals = 0
        self._refused_since = 0.0
        self._full = False
        """Even a batch of one request was refused, and this process does not wait for room."""
        self._full_until = 0.0
        self._clock = asyncio.get_running_loop().time

    async def buy(self, flights: Sequence[Flight]) -> None:
        """Settle every flight: from batches under way, or from new ones.

        Raises:
            EndpointError: the endpoint refuses the batch or cannot be reached.
            BudgetExceededError: not one more request fits, and no batch is under way.
        """
        self._open.update((flight.key, flight) for flight in flights)
        try:
            while self._open:
                being_made = await self._find()
                await self._collect()
                await self._submit(being_made)
                if not self._spec.wait_for_batch and (self._live or being_made or self._full):
                    await self._postpone(being_made)
                elif self._open:
                    # Without a batch under way it waits for the budget, for another's batch, or for nothing.
                    await asyncio.sleep(self._spec.batch_poll_s if self._live else POLL_S)
        finally:
            self._reader.tell()
            for key in (QUEUE, *(batch.id for batch in self._live)):
                self._desk.counters.batches.pop(key, None)
            # What is under way will be paid, whoever collects it: from now on its lines tell the budget so.
            with suppress(LemaError):
                await self._book.let_go(self._live)
            for batch in self._live:
                self._reader.hand_over(batch)

    async def _postpone(self, being_made: set[str]) -> None:
        # Whoever asks next finds what is submitted in the batches; nobody has to wait for this process to end.
        claims, keys = self._desk.ledger.claims, list(self._open)
        await self._desk.ledger.call(lambda: claims.release(keys))
        under_way = being_made | {key for batch in self._live for key in batch.lines}
        full = "the endpoint's queue is full now; a later run submits it"
        unsubmitted = full if self._refusals else "the budget has no room now"
        for key, flight in self._open.items():
            said = "submitted; a later run collects the answer" if key in under_way else unsubmitted
            flight.settle(Failure(key, "pending", said, 0))
        self._open.clear()

    def _loose(self, besides: set[str]) -> list[Flight]:
        """Return the flights that no batch carries."""
        under_way = besides | {key for batch in self._live for key in batch.lines}
        return [flight for key, flight in self._open.items() if key not in under_way]

    async def _find(self) -> set[str]:
        """Take up the batches that owe some flights; return the keys of those that are being created just now."""
        being_made: set[str] = set()
        loose = [flight.key for flight in self._loose(set())]
        found = await self._book.under_way(loose) if loose else []
        unknown = [
            batch for batch in found if not batch.in_hand and batch.remote is None and batch.id not in self._sought
        ]
        self._sought.update(batch.id for batch in unknown)
        looks = await asyncio.gather(*(self._look_for(batch) for batch in unknown), return_exceptions=True)
        for failed in looks:
            if failed is not None:
                raise failed
        for batch in found:
            if batch.in_hand:
                being_made |= batch.lines.keys()
            elif batch.remote is not None and batch.lines.keys() & self._open.keys():
                self._live.append(batch)
        return being_made

    async def _look_for(self, batch: Batch) -> None:
        """Find out whether the endpoint has a batch that an earlier process left before its creation was confirmed.

        Raises:
            EndpointError: it may have, and some of its requests are asked for.
        """
        if batch.asked_at == 0.0:
            # The endpoint was never asked to make it, or said that it did not.
            await self._over(batch, "lost")
            return
        self._show(batch, "looked for, because its creation was not confirmed,")
        try:
            sought = await self._api.search(batch.id, batch.input_file, await self._book.remotes(), patiently=True)
        finally:
            self._desk.counters.batches.pop(batch.id, None)
        if sought.remote is not None:
            batch.remote = sought.remote
            await self._book.submitted(batch)
        elif not sought.doubts:
            await self._lost(batch)
        elif batch.lines.keys() & self._open.keys():
            raise EndpointError(self._api.doubt(batch.id, "; ".join(sought.doubts)))

    async def _lost(self, batch: Batch) -> None:
        """Close a batch that never came to be; one that did, here or elsewhere, may be billed: somebody must say so."""
        # Where all that is missing is a longer answer than one that is there, nothing is bought again.
        bought_again = batch.remote is not None and any(line.first is None for line in batch.lines.values())
        if bought_again or batch.place not in {"", self._place}:
            if batch.lines.keys() & self._open.keys():
                raise EndpointError(_elsewhere(batch, self._api.where))
            return
        if batch.remote is None and batch.lines:
            _log.warning("%s", _not_confirmed(batch, self._api.where))
        await self._over(batch, "lost")

    async def _over(self, batch: Batch, state: str) -> None:
        await self._reader.let_firsts_stand(batch)
        await self._book.close(batch, state)
        self._reader.free(batch)

    async def _submit(self, being_made: set[str]) -> None:
        """Submit what fits the budget."""
        loose = deque(self._loose(being_made) if self._clock() >= self._full_until else [])
        while loose and len(self._live) < self._most_live and self._clock() >= self._full_until and not self._full:
            batch = Batch(uuid.uuid4().hex, self._place)
            written = await self._fill(batch, loose)
            if not written:
                break
            await self._send(batch, written)

    async def _fill(self, batch: Batch, loose: deque[Flight]) -> dict[str, bytes]:
        """Move flights into a batch, as many as fit it and the budget; return their lines of the file to upload."""
        written, size = dict[str, bytes](), 0
        while loose and len(written) < self._size:
            flight = loose[0]
            body = self._desk.body(flight.request)
            line = line_of(flight.key, body)
            size += len(line)
            if written and size > self._settings.file_bytes:
                break
            held = await self._set_aside(self._desk.most(flight.request, cap_of(body)))
            if held is None:
                break
            written[flight.key], batch.held[flight.key] = line, held
            batch.lines[flight.key] = Line(self._reader.tries[flight.key] + 1, None, held)
            loose.popleft()
        return written

    async def _set_aside(self, most: Amount) -> Amount | None:
        try:
            return await self._desk.account.reserve_now(most)
        except BudgetExceededError:
            if not self._live:
                raise
            # What is under way may turn out cheaper, also where an earlier process set it aside.
            return None

    async def _send(self, batch: Batch, written: dict[str, bytes], instead_of: str = "") -> None:
        """Make a batch; it is among the live ones before anybody hears of it."""
        self._live.append(batch)
        requests = {key: self._desk.canonical(self._open[key].request) for key in batch.lines}
        taken = await self._book.intend(batch, requests, instead_of)
        for key in taken:
            del batch.lines[key]
            self._reader.pay(batch, key, Amount())
        for key, there in (await self._desk.ledger.lookup(list(taken))).items():
            self._open.pop(key).settle(there)
        if not batch.lines:
            self._live.remove(batch)
            await self._book.close(batch, "lost")
            return
        input_file = await self._api.upload(batch.id, (written[key] for key in batch.lines))
        # Committed before the call: from now on a kill leaves a batch that may exist.
        await self._book.asks(batch, input_file)
        self._show(batch, "being created")
        creation = await self._api.create(batch.id, input_file, await self._book.remotes())
        if creation.refused is not None:
            self._desk.counters.batches.pop(batch.id, None)
            await self._book.refused(batch)
            await self._refused(batch, creation.said, creation.refused)
            self._live.remove(batch)
            return
        batch.remote = creation.remote
        await self._book.submitted(batch)
        self._show(batch, "submitted")

    async def _collect(self) -> None:
        """Take what ended batches answer.

        Raises:
            LemaError: what a batch says ends the run; first all others that have ended are taken.
        """
        errors: list[LemaError] = []
        for batch in list(self._live):
            reply = await self._standing(batch)
            if reply is None:
                errors += await self._gone(batch)
            elif not (reply.ended and await self._ended(batch, reply, errors)):
                self._show(batch, reply.status)
                errors += self._overdue(batch, reply)
                continue
            self._live.remove(batch)
            self._desk.counters.batches.pop(batch.id, None)
            self._reader.tell()
        for error in errors[1:]:
            _log.warning("%s", error)
        if errors:
            raise errors[0]

    async def _gone(self, batch: Batch) -> list[LemaError]:
        try:
            await self._lost(batch)
        except EndpointError as error:
            return [error]
        return []

    def _show(self, batch: Batch, status: str) -> None:
        since = self._clock() - batch.age_s()
        words = f"{batch.remote or 'a batch'} {status or 'without a status'}"
        self._desk.counters.batches[batch.id] = BatchWait(words, since, len(batch.lines))

    def _overdue(self, batch: Batch, reply: BatchReply) -> list[LemaError]:
        """Return an error for a batch that should have ended long ago."""
        if batch.age_s() <= self._settings.window_s + self._settings.margin_s:
            return []
        hours = (
            f"{batch.age_s() / 3600:.1f} h after it was submitted, its window is {self._settings.window_s / 3600:g} h"
        )
        text = (
            f"the batch {batch.remote} of {self._api.where} has not ended ({reply.described()}): {hours}. It may be "
            f"billed, so nothing is submitted again; the next run looks at it again. {_give_up(batch)}"
        )
        return [EndpointError(text)]

    async def _standing(self, batch: Batch) -> BatchReply | None:
        remote = str(batch.remote)
        settings = self._settings
        for wait in settings.waits(settings.listing_s, settings.listings):
            # A batch that was made a moment ago may be unknown for a moment.
            await asyncio.sleep(wait)
            if (found := await self._api.standing(remote)) is not None:
                return found
            sought = await self._api.search(batch.id, batch.input_file, {remote}, patiently=False)
            if sought.remote is not None:
                batch.remote = remote = sought.remote
        return None

    async def _ended(self, batch: Batch, reply: BatchReply, errors: list[LemaError]) -> bool:
        """Take what an ended batch says; say whether it is over. What ends the run goes to ``errors``."""
        completed = reply.request_counts.completed
        if reply.status == "failed" and not reply.files and not completed:
            try:
                await self._refused(batch, reply.errors)
            except EndpointError as error:
                errors.append(error)
            return True
        found = await self._api.results(batch.id, str(batch.remote), reply, batch.lines.keys())
        if found is None:
            return False
        reply, files = found
        try:
            stops = await self._take(batch, reply, files)
        finally:
            files.close()
        errors += stops
        return not stops

    async def _take(self, batch: Batch, reply: BatchReply, files: ResultFiles) -> list[LemaError]:
        """Book what the files of an ended batch say; return what ends the run."""
        total = len(batch.lines)
        harvest = await self._reader.read(batch, files, _missing(reply, files))
        await self._ask_again(batch, harvest)
        # After the commits: a crash in between collects again and loses nothing.
        await self._book.collected(batch, harvest.unanswered, harvest.unpaid)
        if harvest.unread:
            kept = await asyncio.to_thread(files.keep, self._folder, batch.id)
            text = _unread(batch, reply, files, sorted(harvest.unread), total, kept, self._api.where)
            return [harvest.fatal or EndpointError(text)]
        await asyncio.to_thread(self._discard, batch)
        self._reader.free(batch)
        self._made_room()
        if harvest.fatal is not None:
            return [harvest.fatal]
        if harvest.cancelled:
            return [EndpointError(_cancelled(batch, reply, len(harvest.cancelled), total, self._api.where))]
        return []

    def _discard(self, batch: Batch) -> None:
        for path in kept_files(self._folder, batch.id):
            path.unlink(missing_ok=True)

    async def _refused(self, batch: Batch, words: str, error: LemaError | None = None) -> None:
        """Close a batch that the endpoint did not take; wait for room where its queue is full.

        Raises:
            EndpointError: it was refused for another reason, or the queue has been full for too long.
        """
        size = len(batch.lines)
        await self._over(batch, "failed")
        if QUEUE_FULL not in words:
            raise error or EndpointError(f"{self._api.where} refused the batch {batch.remote}: {words}")
        self._wait_for_room(size, words, [other for other in self._live if other is not batch])

    def _wait_for_room(self, refused: int, words: str, others: Sequence[Batch]) -> None:
        """Wait until what fills the endpoint's queue is done: our own batches, else others', with smaller batches.

        Raises:
            EndpointError: one single request has been refused for too long, and none of ours is in the queue.
        """
        now = self._clock()
        self._refusals += 1
        self._most_live = max(1, len(others))
        if self._refusals == 1:
            self._refused_since = now
            until = "until one of ours is done" if others else f"at most {self._settings.full_s / 3600:g} h"
            _log.warning("%s: the queue of batches is full (%s). Waiting for room, %s", self._api.where, words, until)
        if others:
            return
        if refused <= 1 and now - self._refused_since > self._settings.full_s:
            hours = f"{(now - self._refused_since) / 3600:.1f} h"
            raise EndpointError(
                f"{self._api.where} refuses even a batch of one request, for {hours}, while none of ours is in its "
                f"queue: {words}. What was paid is kept; run again when the queue has room"
            )
        self._full = refused <= 1 and not self._spec.wait_for_batch
        self._size = max(1, refused // 2)
        pause = min(self._settings.pause_s, self._spec.batch_poll_s * 2.0 ** min(self._refusals, 20))
        self._full_until = now + (pause if self._spec.wait_for_batch else 0.0)
        words = f"queue full, another try every {pause:.0f} s, waited"
        self._desk.counters.batches[QUEUE] = BatchWait(words, self._refused_since, 0)

    def _made_room(self) -> None:
        self._refusals = 0
        self._desk.counters.batches.pop(QUEUE, None)
        self._size = min(2 * self._size, self._spec.batch_size)
        self._most_live = min(self._most_live + 1, self._settings.live)

    async def _ask_again(self, old: Batch, harvest: Harvest) -> None:
        """Submit what was cut off once more with a larger cap; where the budget has no room the first answer stands."""
        batch, written = Batch(uuid.uuid4().hex, self._place), dict[str, bytes]()
        for key, first in harvest.cut_off.items():
            flight = self._open[key]
            body = self._desk.body(flight.request)
            body |= larger_cap(body, first, self._spec.length_retry_factor or 1.0)
            self._reader.pay(old, key, Amount())
            most = self._desk.most(flight.request, cap_of(body)) + self._reader.cost(first)
            held = None
            with suppress(BudgetExceededError):
                held = await self._desk.account.reserve_now(most)
            if held is None:
                await self._reader.keep(old, flight, first)
            else:
                written[key], batch.held[key], batch.lines[key] = line_of(key, body), held, Line(1, first, held)
        if written:
            await self._send(batch, written, instead_of=old.id)


def _place(spec: EndpointSpec) -> str:
    # The variable's name, not the key: the place is a row in the ledger.
    return f"{spec.base_url}" + (f" with the key in {spec.api_key_env}" if spec.api_key_env else "")


def _elsewhere(batch: Batch, where: str) -> str:
    name, place = batch.remote or "its name is not known", batch.place or "this endpoint"
    return (
        f"a batch of {len(batch.lines)} requests was submitted to {place} ({name}), and {where} does not "
        "know it. To collect it, run with the base_url that it was submitted with and a key of the same project. "
        f"{_give_up(batch)}"
    )


def _not_confirmed(batch: Batch, where: str) -> str:
    return (
        f"the creation of a batch of {len(batch.lines)} requests ({batch.id}) was not confirmed by {where}, and the "
        "batch is not in its list: its requests are submitted again"
    )


def _missing(reply: BatchReply, files: ResultFiles) -> Missing:
    """Return what became of requests that no row speaks of.

    Only what the endpoint says counts. That a completed batch has no row for a request does not say that it was not
    answered, and what it says of the batch as a whole holds only where everything else of it could be read.
    """
    completed = reply.request_counts.completed
    if not files.whole or (completed is not None and completed > files.answers()):
        return "owed"
    if reply.expired:
        return "expired"
    return "owed" if reply.status == "completed" else "dropped"


def _unread(
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
        f"the batch {batch.remote} of {where} has ended ({reply.described()}), and nothing could be read for "
        f"{len(keys)} of its {total} requests ({shown}). {'. '.join([*found, ''])}They may be billed, so they are not "
        f"submitted again; the next run reads the results again. {_give_up(batch)}"
    )


def _cancelled(batch: Batch, reply: BatchReply, left: int, total: int, where: str) -> str:
    ended = "was cancelled at the endpoint" if reply.status != "failed" else "failed at the endpoint"
    why = f": {reply.errors}" if reply.errors else ""
    return (
        f"the batch {batch.remote} of {where} {ended}{why}. {total - left} of its {total} requests were carried out, "
        f"and what was answered is stored. The same command, or `lema resume`, submits the other {left} again"
    )


def _give_up(batch: Batch) -> str:
    return f"To give it up, and pay again for what is missing: lema ledger forget-batch {batch.id}"
