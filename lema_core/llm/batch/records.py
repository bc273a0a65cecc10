"""What the ledger stores of batches: their state, and one line per request without a committed result.

Each line has the request's upper bound of cost, and is removed with the commit that settles it. So a batch that is
collected in parts, by several processes or never, counts in the budget for what its open requests may cost.
"""

import json
import time
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from lema_core.errors import LedgerError
from lema_core.llm.ledger.credit import Amount
from lema_core.llm.ledger.ledger import Ledger
from lema_core.llm.ledger.store import LOOKUP, OPEN_BATCH, LedgerStore, pack, placeholders, unpack
from lema_core.llm.responses import ChatResponse
from lema_core.system.chunking import chunked

NOTHING = Amount()


@dataclass(frozen=True, slots=True)
class BatchLine:
    """One request of a batch without a committed result."""

    tries: int = 1
    """In how many batches the request has been, this one included."""
    first: ChatResponse | None = None
    """A paid response that was truncated: this is the second try, with a larger cap."""
    upper_bound: Amount = NOTHING
    """What it may cost, the first response included."""


@dataclass(slots=True)
class Batch:
    """A batch that the endpoint may have."""

    id: str
    submitted_to: str
    """The URL and the name of the key that it was submitted with."""
    remote: str | None = None
    """The endpoint's name for it."""
    input_file: str = ""
    """The endpoint's name for the uploaded requests."""
    asked_at: float | None = None
    """When its creation was requested (seconds since 1970). 0: never; None: older versions did not store it."""
    is_being_created: bool = False
    """Not submitted yet, and its process is alive: it may be creating it at this moment."""
    lines: dict[str, BatchLine] = field(default_factory=dict)
    reserved: dict[str, Amount] = field(default_factory=dict)
    """What this process has reserved in its budget, by key."""
    seen_at: float = field(default_factory=time.time)
    """When this process first saw it."""

    def age_s(self) -> float:
        """Return the seconds since its creation was requested, as far as that is known."""
        return max(0.0, time.time() - (self.asked_at or self.seen_at))


class BatchRecords:
    """The batches of one endpoint identity."""

    def __init__(self, ledger: Ledger, identity: str) -> None:
        self._ledger = ledger
        self._identity = identity

    async def register(self, batch: Batch, requests: dict[str, str], instead_of: str = "") -> set[str]:
        """Store a batch and its lines before any call; return the keys that it must not have.

        Those are answered, or in another batch, by now. The lines of batch ``instead_of`` are replaced.
        """

        def work() -> set[str]:
            store = self._ledger.store
            with store.database.transaction():
                # In the transaction that stores the lines: another process may have answered or submitted some.
                in_batches = store.pending_in_batches(list(batch.lines), except_batches=(batch.id, instead_of))
                taken = in_batches | store.lookup(list(batch.lines)).keys()
                # If an earlier try of this transaction arrived unnoticed, nothing changes.
                row = (batch.id, self._identity, self._ledger.run, self._ledger.claims.owner, None, "intended")
                # State 'intended': nothing was sent yet.
                store.database.insert("batches", [row])
                store.database.insert("batch_places", [(batch.id, batch.submitted_to)])
                store.database.insert("batch_creations", [(batch.id, "", 0.0)])
                rows = []
                for key, line in batch.lines.items():
                    first = None if line.first is None else _to_json(line.first)
                    bound = (line.upper_bound.dollars, line.upper_bound.tokens)
                    if key not in taken:
                        rows.append((batch.id, key, pack(requests[key]), line.tries, first, *bound))
                for some in chunked(rows, LOOKUP):
                    store.database.insert("batch_lines", some)
                _remove_lines(store, instead_of, batch.lines)
            return taken

        return await self._ledger.call(work)

    async def record_creation_call(self, batch: Batch, input_file: str) -> None:
        """Store, before the call, that the batch is being created: from here on it may exist."""
        batch.input_file, batch.asked_at = input_file, time.time()
        await self._write_creation(batch)

    async def record_refusal(self, batch: Batch) -> None:
        """Store that the endpoint says it did not create the batch."""
        batch.asked_at = 0.0
        await self._write_creation(batch)

    async def _write_creation(self, batch: Batch) -> None:
        row = (batch.input_file, batch.asked_at, batch.id)
        await self._do("UPDATE batch_creations SET input_file = ?, asked_at = ? WHERE batch = ?", [row])

    async def remote_ids(self) -> set[str]:
        """Return the endpoint's names for the open batches."""

        def work() -> set[str]:
            sql = f"SELECT remote FROM batches WHERE endpoint = ? AND {OPEN_BATCH} AND remote IS NOT NULL"  # noqa: S608
            return {row[0] for row in self._ledger.store.database.query(sql, (self._identity,))}

        return await self._ledger.call(work)

    async def record_submission(self, batch: Batch) -> None:
        """Store the endpoint's name for a batch."""
        # Only from 'intended': a batch that was given up meanwhile (`lema ledger forget-batch`) stays so.
        await self._do(
            "UPDATE batches SET remote = ?, state = 'submitted' WHERE id = ? AND state = 'intended'",
            [(batch.remote, batch.id)],
        )

    async def close(self, batch: Batch, state: str) -> None:
        """Store that a batch is closed (collected, lost or failed), and remove its lines."""

        def work() -> None:
            database = self._ledger.store.database
            with database.transaction():
                database.query("UPDATE batches SET state = ? WHERE id = ?", (state, batch.id))
                database.query("DELETE FROM batch_lines WHERE batch = ?", (batch.id,))

        await self._ledger.call(work)

    async def record_collection(self, batch: Batch, unpaid: Collection[str], others: Collection[str]) -> None:
        """Store that an ended batch was read. A batch without lines is closed.

        Args:
            batch: the batch.
            unpaid: keys that it did not process; their lines are removed.
            others: keys that cost nothing; their lines stay, for the next stream that asks, without an upper bound.
        """

        def work() -> None:
            database = self._ledger.store.database
            with database.transaction():
                _remove_lines(self._ledger.store, batch.id, unpaid)
                sql = "UPDATE batch_lines SET dollars = 0, tokens = 0 WHERE batch = ? AND key = ?"
                database.many(sql, [(batch.id, key) for key in sorted(others)])
                database.query(
                    "UPDATE batches SET state = 'collected' WHERE id = ? "
                    "AND NOT EXISTS (SELECT key FROM batch_lines WHERE batch = ?)",
                    (batch.id, batch.id),
                )

        await self._ledger.call(work)

    async def release(self, batches: Collection[Batch]) -> None:
        """Store that this process, although alive, does nothing more about some batches.

        From then on the budget reads what they may cost from their lines, and not from the process's credit line.
        """
        reserved = sum((amount for batch in batches for amount in batch.reserved.values()), NOTHING)
        rows = [(batch.id, self._ledger.claims.owner) for batch in batches]

        def work() -> None:
            # Not those that another process has taken over.
            sql = "UPDATE batches SET owner = '' WHERE id = ? AND owner = ?"
            self._ledger.store.database.many(sql, rows)

        # In one transaction: between two, the money would be counted twice, or not at all.
        await self._ledger.transfer_credit(reserved, work)

    async def find_open(self, keys: Sequence[str]) -> list[Batch]:
        """Return the open batches with some of the keys, and those whose process died while it created them."""
        return await self._ledger.call(lambda: self._find_open(keys))

    def _find_open(self, keys: Sequence[str]) -> list[Batch]:
        query = self._ledger.store.database.query
        living = {row[0] for row in query("SELECT owner FROM owners")}
        holders: set[str] = set()
        for some in chunked(keys, LOOKUP):
            sql = f"SELECT DISTINCT batch FROM batch_lines WHERE key IN ({placeholders(len(some))})"  # noqa: S608
            holders.update(row[0] for row in query(sql, some))
        sql = (
            "SELECT id, COALESCE(place, ''), remote, state, owner, COALESCE(input_file, ''), asked_at FROM batches "  # noqa: S608
            "LEFT JOIN batch_places ON batch_places.batch = id LEFT JOIN batch_creations ON batch_creations.batch = id "
            f"WHERE endpoint = ? AND {OPEN_BATCH} ORDER BY id"
        )
        # Intended by a process that is alive: it may be creating the batch at this moment.
        found = [(row, row[3] == "intended" and row[4] in living) for row in query(sql, (self._identity,))]
        batches = []
        for (batch_id, place, remote, state, _, input_file, asked_at), is_being_created in found:
            # Also those of a dead process with other keys: the next process confirms or rules out their creation.
            if batch_id not in holders and (state != "intended" or is_being_created):
                continue
            lines = {
                key: BatchLine(tries, _from_json(first) if first else None, Amount(dollars, tokens))
                for key, tries, first, dollars, tokens in query(
                    "SELECT key, tries, first, dollars, tokens FROM batch_lines WHERE batch = ?", (batch_id,)
                )
            }
            batches.append(Batch(batch_id, place, remote, input_file, asked_at, is_being_created, lines))
        return batches

    async def load_requests(self, batch: Batch, keys: Collection[str]) -> dict[str, Any]:
        """Return the stored requests of some lines."""

        def work() -> dict[str, Any]:
            found: dict[str, Any] = {}
            for some in chunked(keys, LOOKUP):
                sql = f"SELECT key, request FROM batch_lines WHERE batch = ? AND key IN ({placeholders(len(some))})"  # noqa: S608
                found.update(self._ledger.store.database.query(sql, (batch.id, *some)))
            return {key: unpack(bytes(request)) for key, request in found.items()}

        return await self._ledger.call(work)

    async def _do(self, sql: str, rows: list[tuple[Any, ...]]) -> None:
        def work() -> None:
            with self._ledger.store.database.transaction():
                self._ledger.store.database.many(sql, rows)

        await self._ledger.call(work)


def _to_json(response: ChatResponse) -> str:
    """Return a response as a batch line stores it."""
    # What older versions do not know is left out where it says nothing: they may read the line as well.
    plain, values = ChatResponse("", "", 0, 0, ""), asdict(response)
    added = ("thinking", "cached_tokens", "reasoning_tokens", "cache_write_tokens")
    return json.dumps(
        {name: value for name, value in values.items() if name not in added or value != getattr(plain, name)}
    )


def _from_json(text: str) -> ChatResponse:
    """Return a stored response; what a newer version stored besides is left out."""
    values = json.loads(text)
    return ChatResponse(**{item.name: values[item.name] for item in fields(ChatResponse) if item.name in values})


def _remove_lines(store: LedgerStore, batch_id: str, keys: Collection[str]) -> None:
    store.database.many(
        "DELETE FROM batch_lines WHERE batch = ? AND key = ?", [(batch_id, key) for key in sorted(keys)]
    )


def has_open_batches(store: LedgerStore, run: str) -> bool:
    """Return whether a run has open batches that may still be billed."""
    sql = f"SELECT COUNT(*) FROM batch_lines JOIN batches ON batch = id WHERE {OPEN_BATCH} AND run = ? AND tokens > 0"  # noqa: S608
    return bool(store.database.query(sql, (run,))[0][0])


def forget_batch(store: LedgerStore, batch_id: str) -> int:
    """Give up an open batch; return how many requests it had. The next run pays for them again.

    Raises:
        LedgerError: no open batch has this id.
    """
    with store.database.transaction():
        sql = f"UPDATE batches SET state = 'forgotten' WHERE id = ? AND {OPEN_BATCH} RETURNING id"  # noqa: S608
        if not store.database.query(sql, (batch_id,)):
            raise LedgerError(f"no batch {batch_id!r} is under way in {store.database.where}")
        return len(store.database.query("DELETE FROM batch_lines WHERE batch = ? RETURNING key", (batch_id,)))
