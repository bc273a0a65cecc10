"""Reads what a batch answered: books every answer, settles the flights, and says what is to be asked again."""

import asyncio
import json
import logging
from collections import Counter
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Literal

from lema_core.errors import LemaError
from lema_core.llm.batch.records import Batch, BatchBook
from lema_core.llm.batch.replies import words
from lema_core.llm.batch.results import ResultFiles, Says, body_of, what_says
from lema_core.llm.costs.token_estimates import prompt_chars
from lema_core.llm.http_transport import Desk
from lema_core.llm.ledger.credit import Amount
from lema_core.llm.limits.retry import TRIES
from lema_core.llm.pending import Flight
from lema_core.llm.requests import CompletionRequest, Failure, FailureReason, Outcome, stored_request
from lema_core.llm.responses import Answer, AttemptError, answer_of, error_named, status_error
from lema_core.system.chunking import chunked

ROUNDS = 5
"""In how many batches an id is submitted before it becomes a failure, where `TRIES` does not say less."""


CHUNK = 256
"""Rows that are read from disk, and booked, at a time."""

Missing = Literal["owed", "expired", "dropped"]
"""What becomes of requests that no row speaks of. ``owed``: nothing was said about them, so they may be paid for.
``expired``, ``dropped``: the batch as a whole ended before them; they are to be asked for again."""

_log = logging.getLogger(__name__)


class UnreadRowError(Exception):
    """A row names its request, and what it says about it cannot be read."""


class CancelledRowError(Exception):
    """A row says that the batch was cancelled before its request."""


@dataclass(slots=True)
class Harvest:
    """What a batch that ended left to do."""

    cut_off: dict[str, Answer] = field(default_factory=dict)
    """Paid answers that are to be asked for once more, with a larger cap."""
    unanswered: set[str] = field(default_factory=set)
    """Keys of which the endpoint says that they were not carried out: the batch owes them no more."""
    unpaid: set[str] = field(default_factory=set)
    """Keys that nobody asks for this time and that cost nothing."""
    unread: set[str] = field(default_factory=set)
    """Keys of which nothing is known: they may be paid for."""
    cancelled: set[str] = field(default_factory=set)
    """Keys that were not carried out because the batch was cancelled."""
    served: bool = False
    """Some request of the batch was answered."""
    fatal: LemaError | None = None
    """No other request can succeed either."""


class BatchReader:
    """Books the answers of batches. ``flights`` are those that wait; whoever is settled leaves them."""

    def __init__(self, desk: Desk, book: BatchBook, flights: dict[str, Flight], where: str) -> None:
        self._desk = desk
        self._book = book
        self._flights = flights
        self._where = where
        self._told: list[tuple[Flight, Outcome]] = []
        self.tries: Counter[str] = Counter()
        """In how many batches each key has been without an answer."""

    async def read(self, batch: Batch, files: ResultFiles, missing: Missing) -> Harvest:
        """Book what the files of an ended batch say; ``missing``: what becomes of requests that they say nothing about.

        Raises:
            LedgerError: an answer cannot be committed.
        """
        harvest = Harvest(served=files.answers() > 0)
        for keys in chunked(files.told(), CHUNK):
            rows = await asyncio.to_thread(files.load, keys)
            flights = await self._flights_of(batch, rows)
            # Together: the ledger groups their commits.
            await asyncio.gather(*(self._land(batch, flight, rows[flight.key], harvest) for flight in flights))
            for flight in flights:
                if flight.key in files.doubled:
                    await self._count_others(flight, await asyncio.to_thread(files.others, flight.key))
        if files.doubled:
            _log.warning(
                "the batch %s of %s answers %d requests more than once; the first answer is kept",
                batch.remote,
                self._where,
                len(files.doubled),
            )
        for keys in chunked(sorted({*files.missing(), *harvest.unread}), CHUNK):
            await self._miss(batch, keys, missing, harvest)
        return harvest

    async def _flights_of(self, batch: Batch, keys: Collection[str]) -> list[Flight]:
        """Return the flights that wait for some keys, and new ones for those that nobody asks for this time."""
        asked = [self._flights[key] for key in keys if key in self._flights]
        others = [key for key in keys if key not in self._flights]
        stored = await self._book.requests(batch, others) if others else {}
        return asked + [self._stranger(key, request) for key, request in stored.items()]

    async def _land(self, batch: Batch, flight: Flight, row: dict[str, Any], harvest: Harvest) -> None:
        key, waited_for = flight.key, flight.key in self._flights
        try:
            answer = _answer_in(row, flight.request, self._where)
        except UnreadRowError:
            harvest.unread.add(key)
        except CancelledRowError:
            harvest.cancelled.add(key)
            await self._drop(batch, [flight], harvest)
        except AttemptError as error:
            await self._failed(batch, flight, error, harvest)
        else:
            if not self._again(batch, flight, answer):
                await self.keep(batch, flight, answer)
            elif waited_for:
                harvest.cut_off[key] = answer

    async def _failed(self, batch: Batch, flight: Flight, error: AttemptError, harvest: Harvest) -> None:
        if flight.key in self._flights:
            self._desk.counters.ends[error.reason] += 1
            await self._missed(batch, flight, error, harvest)
        # What nobody asks for this time is left to whoever does.
        elif error.paid is None and not error.maybe_paid and batch.lines[flight.key].first is None:
            harvest.unpaid.add(flight.key)

    async def _miss(self, batch: Batch, keys: Sequence[str], missing: Missing, harvest: Harvest) -> None:
        """Deal with keys that no row speaks of."""
        harvest.unread.difference_update(keys)
        # Others, by now, may have been settled by another process.
        flights = await self._flights_of(batch, keys)
        if missing == "owed":
            harvest.unread.update(flight.key for flight in flights)
            # A second try that came to nothing known costs no second payment: its first answer is kept.
            firsts = [flight for flight in flights if batch.lines[flight.key].first is not None]
            await asyncio.gather(*(self._let_stand(batch, flight) for flight in firsts))
            harvest.unread.difference_update(flight.key for flight in firsts)
            return
        if missing == "dropped":
            harvest.cancelled.update(flight.key for flight in flights)
            await self._drop(batch, flights, harvest)
            return
        expired = AttemptError("expired", "the batch expired before this request was answered")
        await asyncio.gather(*(self._failed(batch, flight, expired, harvest) for flight in flights))

    async def _drop(self, batch: Batch, flights: Sequence[Flight], harvest: Harvest) -> None:
        """The batch owes these no more: they were not carried out, and that says nothing about them."""
        for flight in flights:
            if batch.lines[flight.key].first is not None:
                await self._let_stand(batch, flight)
            else:
                self.pay(batch, flight.key, Amount())
                harvest.unanswered.add(flight.key)

    async def _count_others(self, flight: Flight, rows: Sequence[dict[str, Any]]) -> None:
        """Count what further answers to the same request cost."""
        for row in rows:
            with suppress(AttemptError, UnreadRowError, CancelledRowError):
                other = _answer_in(row, flight.request, self._where)
                self._desk.account.pay(self.cost(other))
                detail = "the batch answers this request more than once"
                await self._desk.miss(flight, "duplicate", 1, detail, paid=other)

    def _again(self, batch: Batch, flight: Flight, answer: Answer) -> bool:
        wanted = self._desk.spec.length_retry_factor is not None and batch.lines[flight.key].first is None
        return wanted and answer.finish_reason == "length"

    async def keep(self, batch: Batch, flight: Flight, answer: Answer) -> None:
        """Commit an answer, with the one it was to better."""
        desk, first = self._desk, batch.lines[flight.key].first
        used = self.cost(answer)
        booked: list[Any] = [desk.keep(flight, answer, batch.id)]
        if first is not None:
            used += self.cost(first)
            detail = f"cut off after {first.completion_tokens} tokens; asked again in a batch"
            booked.append(desk.miss(flight, "length", 1, detail, paid=first))
        await self._settled(batch, flight, booked, used)

    async def _settled(self, batch: Batch, flight: Flight, booked: list[Any], used: Amount) -> None:
        # Before the commit, which shortens the line of credit: in between money counts twice rather than not at all.
        self.pay(batch, flight.key, used)
        # Started together, so that one commit has them all.
        self._told.append((flight, (await asyncio.gather(*booked))[0]))
        self._flights.pop(flight.key, None)

    async def _missed(self, batch: Batch, flight: Flight, error: AttemptError, harvest: Harvest) -> None:
        key, line = flight.key, batch.lines[flight.key]
        if line.first is not None:
            await self._let_stand(batch, flight, error)
            return
        if error.fatal is not None and not (error.doubtful and harvest.served):
            harvest.fatal = error.fatal
            harvest.unanswered.add(key)
            return
        final = line.tries >= _most_tries(error.reason)
        self._pay_for(batch, key, error)
        await self._own_up(flight, error, final=final, batch=batch.id)
        self.tries[key] = line.tries
        if final:
            self._desk.usability.words[error.reason] = error.detail
            self._told.append((flight, Failure(key, error.reason, error.detail, line.tries)))
            del self._flights[key]

    async def _own_up(self, flight: Flight, error: AttemptError, *, final: bool = False, batch: str = "") -> None:
        await self._desk.miss(flight, error.reason, 1, error.detail, paid=error.paid, final=final, batch=batch)

    def _pay_for(self, batch: Batch, key: str, error: AttemptError) -> None:
        if error.paid is not None:
            self.pay(batch, key, self.cost(error.paid))
        elif error.maybe_paid:
            # The endpoint may have billed it all; a hard limit must assume so.
            self.pay(batch, key, batch.held.get(key, batch.lines[key].share), lost=True)
        else:
            self.pay(batch, key, Amount())

    async def let_firsts_stand(self, batch: Batch) -> None:
        """Keep the answers that a batch was to better, which came to nothing."""
        waiting = {key for key, line in batch.lines.items() if line.first is not None}
        stored = await self._book.requests(batch, waiting - self._flights.keys())
        flights = [self._flights[key] for key in waiting & self._flights.keys()]
        flights += [self._stranger(key, request) for key, request in stored.items()]
        await asyncio.gather(*(self._let_stand(batch, flight) for flight in flights))

    async def _let_stand(self, batch: Batch, flight: Flight, error: AttemptError | None = None) -> None:
        first = batch.lines[flight.key].first
        if first is None:
            raise RuntimeError(f"batch {batch.id} has no first answer for {flight.key}")
        booked: list[Any] = [self._desk.keep(flight, first, batch.id)]
        used = self.cost(first)
        if error is not None:
            used += self.cost(error.paid) if error.paid else Amount()
            booked.append(self._own_up(flight, error))
        await self._settled(batch, flight, booked, used)

    def tell(self) -> None:
        """Settle the flights whose outcome is booked: only now, because who has all outcomes may end the process."""
        for flight, outcome in self._told:
            flight.settle(outcome)
        self._told.clear()

    def cost(self, answer: Answer) -> Amount:
        """Return what an answer cost."""
        return self._desk.amount(answer.prompt_tokens, answer.completion_tokens)

    def pay(self, batch: Batch, key: str, used: Amount, *, lost: bool = False) -> None:
        """Give back what was set aside for a line, here or by an earlier process, and pay what was used."""
        held = batch.held.pop(key, None)
        if held is None:
            self._desk.account.pay(used)
        else:
            self._desk.account.settle(held, used, lost=lost)

    def free(self, batch: Batch) -> None:
        """Give back all that this process has set aside for a batch."""
        for key in list(batch.held):
            self.pay(batch, key, Amount())

    def hand_over(self, batch: Batch) -> None:
        """Leave what this process has set aside for a batch to its lines in the ledger."""
        while batch.held:
            batch.held.popitem()
            self._desk.account.hand_over()

    def _stranger(self, key: str, canonical: dict[str, Any]) -> Flight:
        return Flight(key, stored_request(canonical), self._desk.spec.identity, 0.0)


def _answer_in(row: dict[str, Any], request: CompletionRequest, where: str) -> Answer:
    """Return the answer in a row of a batch's result files.

    Raises:
        AttemptError: the endpoint says that it failed, and how.
        CancelledRowError: the endpoint says that it was cancelled.
        UnreadRowError: the row says neither.
    """
    body, status = body_of(row)
    if what_says(row) is Says.ANSWERED or (body is not None and (status is None or status < 400)):
        try:
            return answer_of(body, prompt_chars(request), where)
        except AttemptError as error:
            if error.reason != "malformed" or error.paid is not None:
                raise
            if not row.get("error"):
                raise UnreadRowError from None
    if status is not None and status >= 400:
        raise status_error(status, {}, json.dumps(body or {"error": row.get("error")}).encode(), where)
    raise _row_error(row.get("error"), where)


def _row_error(error: Any, where: str) -> AttemptError:
    """Return what an error means that a row gives instead of a response.

    Raises:
        CancelledRowError: the endpoint says that it was cancelled.
    """
    said = words(error) or "the endpoint lists it as failed, without a word"
    code = str(error.get("code") or error.get("type") or "" if isinstance(error, dict) else error).lower()
    if "cancel" in code:
        raise CancelledRowError
    if "expired" in code:
        return AttemptError("expired", said)
    return error_named(error, said, where)


def _most_tries(reason: FailureReason) -> int:
    return min(ROUNDS, TRIES.get(reason) or ROUNDS)
