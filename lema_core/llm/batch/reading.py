"""Reads what a batch answered: books every answer, settles the flights, and says what is to be asked again."""

import asyncio
import json
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from lema_core.errors import LemaError
from lema_core.llm.answers import Answer, AttemptError, answer_of, status_error
from lema_core.llm.batch.api import Results
from lema_core.llm.batch.book import Batch, BatchBook
from lema_core.llm.buyer import Desk
from lema_core.llm.flight import Flight
from lema_core.llm.ledger.credit import Amount
from lema_core.llm.requests import CompletionRequest, Failure, FailureReason, Outcome, stored_request
from lema_core.llm.retries import TRIES
from lema_core.llm.sizes import prompt_chars

ROUNDS = 5
"""In how many batches an id is submitted before it becomes a failure, where `TRIES` does not say less."""


@dataclass(slots=True)
class Harvest:
    """What a batch that ended left to do."""

    cut_off: dict[str, Answer] = field(default_factory=dict)
    """Paid answers that are to be asked for once more, with a larger cap."""
    unanswered: set[str] = field(default_factory=set)
    """Keys whose rows say nothing about them: they are submitted again when the endpoint is well."""
    unpaid: set[str] = field(default_factory=set)
    """Keys that nobody asks for this time and that cost nothing."""
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

    async def read(self, batch: Batch, results: Results) -> Harvest:
        """Book an ended batch's rows; lines of which torn files say nothing are left as they are.

        Raises:
            LedgerError: an answer cannot be committed.
        """
        harvest = Harvest()
        told = batch.lines.keys() & results.rows.keys() if results.torn else set(batch.lines)
        asked = [flight for key, flight in self._flights.items() if key in told]
        # Together: the ledger groups their commits.
        await asyncio.gather(*(self._land(batch, flight, results, harvest) for flight in asked))
        others = told - {flight.key for flight in asked}
        stored = await self._book.requests(batch, others)
        flights = [self._stranger(key, request) for key, request in stored.items()]
        await asyncio.gather(*(self._land_stranger(batch, flight, results, harvest) for flight in flights))
        return harvest

    async def _land(self, batch: Batch, flight: Flight, results: Results, harvest: Harvest) -> None:
        try:
            answer = self._answer(flight, results)
        except AttemptError as error:
            self._desk.counters.ends[error.reason] += 1
            await self._missed(batch, flight, error, harvest)
            return
        if self._again(batch, flight, answer):
            harvest.cut_off[flight.key] = answer
        else:
            await self.keep(batch, flight, answer)

    def _again(self, batch: Batch, flight: Flight, answer: Answer) -> bool:
        wanted = self._desk.spec.length_retry_factor is not None and batch.lines[flight.key].first is None
        return wanted and answer.finish_reason == "length"

    async def _land_stranger(self, batch: Batch, flight: Flight, results: Results, harvest: Harvest) -> None:
        """Book a good answer; anything else is left to whoever asks for it."""
        try:
            answer = self._answer(flight, results)
        except AttemptError as error:
            if error.paid is None and not error.maybe_paid and batch.lines[flight.key].first is None:
                harvest.unpaid.add(flight.key)
            return
        if batch.lines[flight.key].first is None and not self._again(batch, flight, answer):
            await self.keep(batch, flight, answer)

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
        if error.fatal is not None:
            harvest.fatal = error.fatal
            harvest.unanswered.add(key)
            return
        final = line.tries >= _most_tries(error.reason)
        self._pay_for(batch, key, error)
        await self._own_up(flight, error, final=final, batch=batch.id)
        self.tries[key] = line.tries
        if final:
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

    def _answer(self, flight: Flight, results: Results) -> Answer:
        row = results.rows.get(flight.key)
        if row is not None:
            return _answer_in(row, flight.request, self._where)
        if results.gone:
            raise AttemptError("deadline", "the file that may hold the answer is gone", maybe_paid=True)
        raise AttemptError("deadline", "the batch ended without an answer")


def _answer_in(row: dict[str, Any], request: CompletionRequest, where: str) -> Answer:
    """Return the answer in a row of a batch's result files.

    Raises:
        AttemptError: it holds none.
    """
    given = row.get("response")
    response: dict[str, Any] = given if isinstance(given, dict) else {}
    status = response.get("status_code")
    if status == 200:
        return answer_of(response.get("body"), prompt_chars(request))
    complaint = json.dumps(response.get("body") or {"error": row.get("error") or {"message": "no response"}})
    raise status_error(status if isinstance(status, int) and status else 500, {}, complaint.encode(), where)


def _most_tries(reason: FailureReason) -> int:
    return min(ROUNDS, TRIES.get(reason) or ROUNDS)
