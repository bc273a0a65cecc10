"""The Batch API behind the same interface: half the price, answers within a day.

The intent to submit is committed before the call, under an id that travels as the batch's metadata: after a crash the
batch is found again, whatever the crash interrupted. Only ids without an answer are submitted again. A batch that ended
is booked as a whole, also for requests that nobody asks for this time.
"""

import asyncio
import uuid
from collections import deque
from collections.abc import Sequence
from contextlib import suppress

from lema_core.errors import BudgetExceededError, EndpointError, LemaError
from lema_core.llm.batch.api import QUEUE_FULL, BatchApi, Standing, line_of
from lema_core.llm.batch.book import Batch, BatchBook, Line
from lema_core.llm.batch.reading import BatchReader, Harvest
from lema_core.llm.budget import POLL_S
from lema_core.llm.buyer import Desk, cap_of, larger_cap
from lema_core.llm.client import Client
from lema_core.llm.endpoints import EndpointSpec
from lema_core.llm.flight import Flight
from lema_core.llm.ledger.credit import Amount
from lema_core.llm.requests import Failure

MOST_LIVE = 1000
"""Batches under way at a time; the API takes 2,000 an hour."""
MOST_BYTES = 190 * 10**6
"""Of a batch's file; the API takes 200 MB."""
LONGEST_PAUSE_S = 1800.0


class BatchBuyer:
    """One purchase from one endpoint by the batch transport."""

    def __init__(self, desk: Desk, client: Client) -> None:
        self._desk = desk
        self._spec = desk.spec
        self._api = BatchApi(client, desk.spec.attempt_timeout_s)
        self._book = BatchBook(desk.ledger, desk.spec.identity)
        self._place = _place(desk.spec)
        self._open: dict[str, Flight] = {}
        self._reader = BatchReader(desk, self._book, self._open, self._api.where)
        self._live: list[Batch] = []
        self._size = desk.spec.batch_size
        self._most_live = MOST_LIVE
        self._refusals = 0
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
                if not self._spec.wait_for_batch and (self._live or being_made):
                    await self._postpone(being_made)
                elif self._open:
                    # Without a batch under way it waits for the budget, for another's batch, or for nothing.
                    await asyncio.sleep(self._spec.batch_poll_s if self._live else POLL_S)
        finally:
            self._reader.tell()
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
        for key, flight in self._open.items():
            said = "submitted; a later run collects the answer" if key in under_way else "the budget has no room now"
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
        for batch in await self._book.under_way(loose) if loose else ():
            if batch.in_hand:
                being_made |= batch.lines.keys()
            elif await self._known(batch) and batch.lines.keys() & self._open.keys():
                self._live.append(batch)
        return being_made

    async def _known(self, batch: Batch) -> bool:
        """Tell whether the endpoint has a batch, which an earlier process may have left before it heard its name."""
        if batch.remote is None:
            batch.remote = await self._api.search(batch.id)
            if batch.remote is None:
                await self._lost(batch)
                return False
            await self._book.submitted(batch)
        return True

    async def _lost(self, batch: Batch) -> None:
        """Close a batch that never came to be; one that did, here or elsewhere, may be billed: somebody must say so."""
        # Where all that is missing is a longer answer than one that is there, nothing is bought again.
        bought_again = batch.remote is not None and any(line.first is None for line in batch.lines.values())
        if bought_again or batch.place not in {"", self._place}:
            if batch.lines.keys() & self._open.keys():
                raise EndpointError(_elsewhere(batch, self._api.where))
            return
        await self._over(batch, "lost")

    async def _over(self, batch: Batch, state: str) -> None:
        await self._reader.let_firsts_stand(batch)
        await self._book.close(batch, state)
        self._reader.free(batch)

    async def _submit(self, being_made: set[str]) -> None:
        """Submit what fits the budget."""
        loose = deque(self._loose(being_made) if self._clock() >= self._full_until else [])
        while loose and len(self._live) < self._most_live:
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
            if written and size > MOST_BYTES:
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
        batch.remote = await self._api.create(batch.id, (written[key] for key in batch.lines))
        await self._book.submitted(batch)

    async def _collect(self) -> None:
        """Take what ended batches answer."""
        refused: list[int] = []
        for batch in list(self._live):
            standing = await self._standing(batch)
            if standing is None:
                await self._lost(batch)
            elif not standing.ended:
                continue
            elif standing.status == "failed":
                await self._refused(batch, standing)
                refused.append(len(batch.lines))
            else:
                await self._take(batch)
                self._made_room()
            self._live.remove(batch)
            self._reader.tell()
        if refused:
            self._wait_for_room(min(refused))

    async def _standing(self, batch: Batch) -> Standing | None:
        found = await self._api.standing(str(batch.remote))
        if found is not None:
            return found
        known = await self._api.search(batch.id)
        if known is None:
            return None
        batch.remote = known
        return await self._api.standing(known)

    async def _refused(self, batch: Batch, standing: Standing) -> None:
        await self._over(batch, "failed")
        if QUEUE_FULL not in standing.errors:
            raise EndpointError(f"{self._api.where} refused the batch {batch.remote}: {standing.errors}")

    def _wait_for_room(self, refused: int) -> None:
        """Wait until what fills the endpoint's queue is done: our own batches, else others', with smaller batches."""
        self._most_live = max(1, len(self._live))
        if not self._live:
            self._size = max(1, refused // 2)
            self._refusals += 1
            pause = self._spec.batch_poll_s * 2.0 ** min(self._refusals, 20)
            self._full_until = self._clock() + (min(LONGEST_PAUSE_S, pause) if self._spec.wait_for_batch else 0.0)

    def _made_room(self) -> None:
        self._refusals = 0
        self._size = min(2 * self._size, self._spec.batch_size)
        self._most_live = min(self._most_live + 1, MOST_LIVE)

    async def _take(self, batch: Batch) -> None:
        results = await self._api.results(str(batch.remote))
        harvest = await self._reader.read(batch, results)
        await self._ask_again(batch, harvest)
        # After the commits: a crash in between collects again and loses nothing.
        await self._book.collected(batch, harvest.unanswered, harvest.unpaid)
        if harvest.fatal is not None:
            raise harvest.fatal
        if results.torn:
            raise EndpointError(_torn(batch, self._api.where))
        self._reader.free(batch)

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


def _torn(batch: Batch, where: str) -> str:
    return (
        f"the result files of the batch {batch.remote} of {where} hold less than the answers that it says it has. "
        f"What could be read is kept, and the next run reads them again. {_give_up(batch)}"
    )


def _give_up(batch: Batch) -> str:
    return f"To give it up, and pay again for what is missing: lema ledger forget-batch {batch.id}"
