"""The Batch API behind the same interface: half the price, answers within a day.

The intent to submit is committed before the call, under an id that travels as the batch's metadata: after a crash the
batch is found again, whatever the crash interrupted. Only ids without an answer are submitted again.
"""

import asyncio
import json
import uuid
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import openai
from tenacity import AsyncRetrying, retry_if_exception, stop_after_attempt, wait_random_exponential

from lema_core.errors import BudgetExceededError, EndpointError
from lema_core.llm.answers import AttemptError, answer_of, status_error
from lema_core.llm.batch_book import BatchBook
from lema_core.llm.budget import POLL_S
from lema_core.llm.buyer import Desk, cap_of
from lema_core.llm.client import Client
from lema_core.llm.credit import Amount
from lema_core.llm.flight import Flight
from lema_core.llm.requests import Failure
from lema_core.llm.sizes import prompt_chars
from lema_core.llm.store import chunked

T = TypeVar("T")

ROUNDS = 5
"""How often an id is submitted before it becomes a failure."""
ENDED = frozenset({"completed", "expired", "cancelled", "failed"})
METADATA = "lema_batch"


@dataclass
class _Batch:
    """A batch the endpoint may know; ``held`` is what the budget has set aside for it."""

    id: str
    keys: list[str]
    remote: str | None = None
    held: dict[str, Amount] = field(default_factory=dict)


class BatchBuyer:
    """The batch transport of one endpoint."""

    def __init__(self, desk: Desk, client: Client) -> None:
        self._desk = desk
        self._spec = desk.spec
        self._client = client
        self._book = BatchBook(desk.ledger, desk.spec.identity)

    async def buy(self, flights: Sequence[Flight]) -> None:
        """Settle every flight: from batches under way, or from new ones.

        Raises:
            EndpointError: the endpoint refuses the batch or cannot be reached.
            BudgetExceededError: not one more request fits, and no batch is under way.
        """
        open_flights = {flight.key: flight for flight in flights}
        live = await self._found_again(list(open_flights))
        rounds = dict.fromkeys(open_flights, 0)
        try:
            while True:
                under_way = {key for batch in live for key in batch.keys}
                await self._submit([one for key, one in open_flights.items() if key not in under_way], rounds, live)
                live[:] = await self._collect(live, open_flights, rounds)
                if not open_flights:
                    return
                if live and not self._spec.wait_for_batch:
                    self._postpone(live, open_flights)
                    return
                # Without a batch under way it waits for the budget, or for nothing.
                await asyncio.sleep(self._spec.batch_poll_s if live else POLL_S)
        finally:
            # What is under way will be paid, whoever collects it: it stays out of reach of the budget.
            for batch in live:
                for held in batch.held.values():
                    self._desk.account.settle(held, held, lost=True)

    def _postpone(self, live: Sequence[_Batch], open_flights: dict[str, Flight]) -> None:
        under_way = {key for batch in live for key in batch.keys}
        for key, flight in open_flights.items():
            said = "submitted; a later run collects the answer" if key in under_way else "the budget has no room now"
            flight.settle(Failure(key, "pending", said, 0))

    async def _found_again(self, keys: list[str]) -> list[_Batch]:
        """Return the batches under way that hold some of the keys, as an earlier process left them."""
        found = []
        for batch_id, remote, items in await self._book.under_way(keys):
            known = remote or await self._search(batch_id)
            if known is None:
                await self._book.close(batch_id, "lost")
                continue
            await self._book.submitted(batch_id, known)
            batch = _Batch(batch_id, items, known)
            found.append(batch)
        return found

    async def _search(self, batch_id: str) -> str | None:
        """Find a batch by its metadata: its creation may have succeeded although we never heard of it."""

        async def search() -> str | None:
            async for one in self._client.api.batches.list(limit=100):
                if (one.metadata or {}).get(METADATA) == batch_id:
                    return one.id
            return None

        return await self._call(search)

    async def _submit(self, flights: Sequence[Flight], rounds: dict[str, int], live: list[_Batch]) -> None:
        """Submit what fits the budget; each batch is added to ``live`` before anybody hears of it."""
        for some in chunked(flights, self._spec.batch_size):
            batch = _Batch(uuid.uuid4().hex, [])
            live.append(batch)
            chosen = []
            for flight in some:
                held = await self._set_aside(flight, under_way=len(live) > 1)
                if held is None:
                    break
                batch.held[flight.key] = held
                chosen.append(flight)
                rounds[flight.key] += 1
            if not chosen:
                live.remove(batch)
                break
            batch.keys = [flight.key for flight in chosen]
            await self._book.intend(batch.id, batch.keys, sum(batch.held.values(), Amount()))
            batch.remote = await self._create(batch.id, chosen)
            await self._book.submitted(batch.id, batch.remote)

    async def _set_aside(self, flight: Flight, *, under_way: bool) -> Amount | None:
        cap = cap_of(self._desk.body(flight.request))
        try:
            return await self._desk.account.reserve_now(self._desk.most(flight.request, cap))
        except BudgetExceededError:
            if not under_way:
                raise
            # What is under way may turn out cheaper, also where an earlier process set it aside.
            return None

    async def _create(self, batch_id: str, flights: Sequence[Flight]) -> str:
        lines = "\n".join(json.dumps(self._line(flight), ensure_ascii=False) for flight in flights)
        api = self._client.api
        upload = await self._call(
            lambda: api.files.create(file=(f"{batch_id}.jsonl", lines.encode("utf-8", "replace")), purpose="batch")
        )

        called = False

        async def create() -> str:
            nonlocal called
            # An earlier call may have reached them although no answer came back; a second batch would be paid too.
            known = await self._search(batch_id) if called else None
            if known is not None:
                return known
            called = True
            made = await api.batches.create(
                input_file_id=upload.id,
                endpoint="/v1/chat/completions",
                completion_window="24h",
                metadata={METADATA: batch_id},
            )
            return str(made.id)

        return await self._call(create)

    def _line(self, flight: Flight) -> dict[str, Any]:
        body = self._desk.body(flight.request)
        return {"custom_id": flight.key, "method": "POST", "url": "/v1/chat/completions", "body": body}

    async def _collect(
        self, live: Sequence[_Batch], open_flights: dict[str, Flight], rounds: dict[str, int]
    ) -> list[_Batch]:
        """Take what ended batches answer; return those that go on."""
        going_on = []
        for batch in live:
            remote = str(batch.remote)
            state = await self._call(lambda remote=remote: self._client.api.batches.retrieve(remote))  # type: ignore[misc]
            if state.status not in ENDED:
                going_on.append(batch)
                continue
            if state.status == "failed":
                await self._book.close(batch.id, "failed")
                self._free(batch)
                raise EndpointError(f"{self._client.where} refused the batch {batch.remote}: {state.errors}")
            for file_id in (state.output_file_id, state.error_file_id):
                if file_id:
                    await self._take(batch, await self._content(file_id), open_flights, rounds)
            await self._close(batch, rounds)
            self._give_up(batch, open_flights, rounds)
        return going_on

    async def _close(self, batch: _Batch, asked: Collection[str]) -> None:
        """Close a batch after its answers are committed: a crash in between collects again and loses nothing.

        It stays open while it holds paid answers that nobody asked for this time.
        """
        others = [key for key in batch.keys if key not in asked]
        if len(await self._desk.ledger.lookup(others)) == len(others):
            await self._book.close(batch.id, "collected")

    async def _content(self, file_id: str) -> bytes:
        answer = await self._call(lambda: self._client.api.files.content(file_id))
        return bytes(answer.content)

    async def _take(
        self, batch: _Batch, content: bytes, open_flights: dict[str, Flight], rounds: dict[str, int]
    ) -> None:
        landed = []
        for line in content.splitlines():
            try:
                row = json.loads(line)
                flight = open_flights.get(row["custom_id"])
            except (ValueError, KeyError, TypeError):
                continue
            if flight is not None:
                landed.append(self._land(batch, flight, row, rounds))
        # Together: the ledger groups their commits.
        for key in await asyncio.gather(*landed):
            open_flights.pop(key or "", None)

    async def _land(self, batch: _Batch, flight: Flight, row: dict[str, Any], rounds: dict[str, int]) -> str | None:
        """Commit one line of a batch's output; return the key where it is done with."""
        desk, key = self._desk, flight.key
        held = batch.held.pop(key, Amount(0.0, 0.0)) if batch.held else None
        used = Amount(0.0, 0.0)
        try:
            answer = self._answer(flight, row)
            used = desk.amount(answer.prompt_tokens, answer.completion_tokens)
            flight.settle(await desk.keep(flight, answer))
        except AttemptError as error:
            if error.paid is not None:
                used = desk.amount(error.paid.prompt_tokens, error.paid.completion_tokens)
            desk.counters.ends[error.reason] += 1
            if error.reason in {"rate_limit", "overload", "server_error"} and rounds[key] < ROUNDS:
                return None
            await desk.miss(flight, error.reason, max(1, rounds[key]), error.detail, paid=error.paid, final=True)
            flight.settle(Failure(key, error.reason, error.detail, max(1, rounds[key])))
        finally:
            if held is not None:
                desk.account.settle(held, used)
            else:
                desk.account.pay(used)
        return key

    def _answer(self, flight: Flight, row: dict[str, Any]) -> Any:
        response = row.get("response") or {}
        status = response.get("status_code", 0)
        if status == 200:
            return answer_of(response.get("body"), prompt_chars(flight.request))
        complaint = json.dumps(response.get("body") or {"error": row.get("error") or {"message": "no response"}})
        raise status_error(status or 500, {}, complaint.encode(), self._client.where)

    def _give_up(self, batch: _Batch, open_flights: dict[str, Flight], rounds: dict[str, int]) -> None:
        """Free what the batch had set aside for ids without an answer; ids that came to nothing too often fail."""
        self._free(batch)
        for key in batch.keys:
            flight = open_flights.get(key)
            if flight is not None and rounds[key] >= ROUNDS:
                flight.settle(Failure(key, "deadline", f"no answer in {ROUNDS} batches", ROUNDS))
                del open_flights[key]

    def _free(self, batch: _Batch) -> None:
        while batch.held:
            self._desk.account.settle(batch.held.popitem()[1], Amount())

    async def _call(self, call: Callable[[], Awaitable[T]]) -> T:
        """Call the API, again where that may help."""

        async def attempt() -> T:
            return await call()

        retrying = AsyncRetrying(
            retry=retry_if_exception(_transient),
            stop=stop_after_attempt(8),
            wait=wait_random_exponential(multiplier=0.2, max=20),
            reraise=True,
        )
        try:
            return await retrying(attempt)
        except openai.APIError as error:
            raise self._fatal(error) from None

    def _fatal(self, error: openai.APIError) -> Exception:
        found = self._client.explain(error)
        return found.fatal or EndpointError(f"the batch API of {self._client.where} does not answer: {found.detail}")


def _transient(error: BaseException) -> bool:
    if isinstance(error, openai.APIStatusError):
        return error.status_code in {408, 409, 429} or error.status_code >= 500
    return isinstance(error, openai.APIConnectionError)
