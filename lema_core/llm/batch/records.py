"""What the ledger knows of batches: intended, submitted, how they ended, and what each still owes.

A batch owes a line for each of its requests until that is settled; with the line goes what the budget had set aside for
it. So a batch that is collected in parts, by several processes or not at all never counts for more than it may cost.
"""

import json
import time
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from lema_core.errors import LedgerError
from lema_core.llm.ledger.credit import Amount
from lema_core.llm.ledger.ledger import Ledger
from lema_core.llm.ledger.store import LOOKUP, OPEN, LedgerStore, marks, pack, unpack
from lema_core.llm.responses import Answer
from lema_core.system.chunking import chunked

NOTHING = Amount()


@dataclass(frozen=True, slots=True)
class Line:
    """What a batch owes for one request."""

    tries: int = 1
    """In how many batches the request has been, this one included."""
    first: Answer | None = None
    """A paid answer that was cut off: this is the second try, with a larger cap."""
    share: Amount = NOTHING
    """What it may cost, the first answer included."""


@dataclass(slots=True)
class Batch:
    """A batch the endpoint may know."""

    id: str
    place: str
    """The URL and the name of the key that it was submitted with."""
    remote: str | None = None
    """The endpoint's name for it."""
    input_file: str = ""
    """The endpoint's name for the uploaded requests."""
    asked_at: float | None = None
    """When its creation was asked for (seconds since 1970). 0: never; None: older versions did not write it down."""
    in_hand: bool = False
    """Not submitted yet, and its process lives: it may be creating it at this moment."""
    lines: dict[str, Line] = field(default_factory=dict)
    held: dict[str, Amount] = field(default_factory=dict)
    """What this process's budget has set aside for it."""
    seen_at: float = field(default_factory=time.time)
    """When this process first saw it."""

    def age_s(self) -> float:
        """Return the seconds since the endpoint was asked to make it, as far as that is known."""
        return max(0.0, time.time() - (self.asked_at or self.seen_at))


class BatchBook:
    """The batches of one endpoint identity."""

    def __init__(self, ledger: Ledger, identity: str) -> None:
        self._ledger = ledger
        self._identity = identity

    async def intend(self, batch: Batch, requests: dict[str, str], instead_of: str = "") -> set[str]:
        """Write down, before any call, what a batch is going to hold; return the keys that it must not hold.

        These are answered or in another batch by now. ``instead_of`` is a batch that owes the lines no more.
        """

        def work() -> set[str]:
            store = self._ledger.store
            with store.database.transaction():
                owed = store.owed(list(batch.lines), besides=(batch.id, instead_of))
                taken = owed | store.lookup(list(batch.lines)).keys()
                # Nothing changes where a try of which nobody heard has arrived.
                row = (batch.id, self._identity, self._ledger.run, self._ledger.claims.owner, None, "intended")
                store.database.insert("batches", [row])
                store.database.insert("batch_places", [(batch.id, batch.place)])
                store.database.insert("batch_creations", [(batch.id, "", 0.0)])
                rows = [_row(batch.id, key, line, requests[key]) for key, line in batch.lines.items()]
                for some in chunked([row for row in rows if row[1] not in taken], LOOKUP):
                    store.database.insert("batch_lines", some)
                _strike(store, instead_of, batch.lines)
            return taken

        return await self._ledger.call(work)

    async def asks(self, batch: Batch, input_file: str) -> None:
        """Write down, before the call, that the endpoint is asked to make a batch: from now on it may exist."""
        batch.input_file, batch.asked_at = input_file, time.time()
        await self._asked(batch)

    async def refused(self, batch: Batch) -> None:
        """Write down that the endpoint did not make the batch, as it says itself."""
        batch.asked_at = 0.0
        await self._asked(batch)

    async def _asked(self, batch: Batch) -> None:
        row = (batch.input_file, batch.asked_at, batch.id)
        await self._do("UPDATE batch_creations SET input_file = ?, asked_at = ? WHERE batch = ?", [row])

    async def remotes(self) -> set[str]:
        """Return the endpoint's names for the batches that are known to be under way."""

        def work() -> set[str]:
            sql = f"SELECT remote FROM batches WHERE endpoint = ? AND {OPEN} AND remote IS NOT NULL"  # noqa: S608
            return {row[0] for row in self._ledger.store.database.query(sql, (self._identity,))}

        return await self._ledger.call(work)

    async def submitted(self, batch: Batch) -> None:
        """Write down the endpoint's name for a batch."""
        await self._do(
            "UPDATE batches SET remote = ?, state = 'submitted' WHERE id = ? AND state = 'intended'",
            [(batch.remote, batch.id)],
        )

    async def close(self, batch: Batch, state: str) -> None:
        """Write down that a batch is over, collected, lost or failed, and owes nothing."""

        def work() -> None:
            database = self._ledger.store.database
            with database.transaction():
                database.query("UPDATE batches SET state = ? WHERE id = ?", (state, batch.id))
                database.query("DELETE FROM batch_lines WHERE batch = ?", (batch.id,))

        await self._ledger.call(work)

    async def collected(self, batch: Batch, unpaid: Collection[str], others: Collection[str]) -> None:
        """Write down that an ended batch was read: ``unpaid`` lines are owed no more, of ``others`` no money.

        The others are for whoever asks for them. A batch that owes nothing is closed.
        """

        def work() -> None:
            database = self._ledger.store.database
            with database.transaction():
                _strike(self._ledger.store, batch.id, unpaid)
                sql = "UPDATE batch_lines SET dollars = 0, tokens = 0 WHERE batch = ? AND key = ?"
                database.many(sql, [(batch.id, key) for key in sorted(others)])
                database.query(
                    "UPDATE batches SET state = 'collected' WHERE id = ? "
                    "AND NOT EXISTS (SELECT key FROM batch_lines WHERE batch = ?)",
                    (batch.id, batch.id),
                )

        await self._ledger.call(work)

    async def let_go(self, batches: Collection[Batch]) -> None:
        """Write down that this process does nothing more about some batches, although it lives.

        From then on their lines tell the budget what they may cost, no more the process's line of credit.
        """
        held = sum((amount for batch in batches for amount in batch.held.values()), NOTHING)
        rows = [(batch.id, self._ledger.claims.owner) for batch in batches]

        def work() -> None:
            sql = "UPDATE batches SET owner = '' WHERE id = ? AND owner = ?"
            self._ledger.store.database.many(sql, rows)

        await self._ledger.hand_over(held, work)

    async def under_way(self, keys: Sequence[str]) -> list[Batch]:
        """Return the open batches that owe some of the keys, and those whose process died before it heard of them."""
        return await self._ledger.call(lambda: self._under_way(keys))

    def _under_way(self, keys: Sequence[str]) -> list[Batch]:
        query = self._ledger.store.database.query
        living = {row[0] for row in query("SELECT owner FROM owners")}
        holders: set[str] = set()
        for some in chunked(keys, LOOKUP):
            sql = f"SELECT DISTINCT batch FROM batch_lines WHERE key IN ({marks(len(some))})"  # noqa: S608
            holders.update(row[0] for row in query(sql, some))
        sql = (
            "SELECT id, COALESCE(place, ''), remote, state, owner, COALESCE(input_file, ''), asked_at FROM batches "  # noqa: S608
            "LEFT JOIN batch_places ON batch_places.batch = id LEFT JOIN batch_creations ON batch_creations.batch = id "
            f"WHERE endpoint = ? AND {OPEN} ORDER BY id"
        )
        found = [(row, row[3] == "intended" and row[4] in living) for row in query(sql, (self._identity,))]
        return [
            Batch(row[0], row[1], row[2], row[5], row[6], in_hand, self._lines(row[0]))
            for row, in_hand in found
            if row[0] in holders or (row[3] == "intended" and not in_hand)
        ]

    def _lines(self, batch_id: str) -> dict[str, Line]:
        sql = "SELECT key, tries, first, dollars, tokens FROM batch_lines WHERE batch = ?"
        return {
            row[0]: Line(row[1], Answer(**json.loads(row[2])) if row[2] else None, Amount(row[3], row[4]))
            for row in self._ledger.store.database.query(sql, (batch_id,))
        }

    async def requests(self, batch: Batch, keys: Collection[str]) -> dict[str, Any]:
        """Return what was asked under some keys, as it was stored."""

        def work() -> dict[str, Any]:
            found: dict[str, Any] = {}
            for some in chunked(keys, LOOKUP):
                sql = f"SELECT key, request FROM batch_lines WHERE batch = ? AND key IN ({marks(len(some))})"  # noqa: S608
                found.update(self._ledger.store.database.query(sql, (batch.id, *some)))
            return {key: unpack(bytes(request)) for key, request in found.items()}

        return await self._ledger.call(work)

    async def _do(self, sql: str, rows: list[tuple[Any, ...]]) -> None:
        def work() -> None:
            with self._ledger.store.database.transaction():
                self._ledger.store.database.many(sql, rows)

        await self._ledger.call(work)


def _strike(store: LedgerStore, batch_id: str, keys: Collection[str]) -> None:
    store.database.many(
        "DELETE FROM batch_lines WHERE batch = ? AND key = ?", [(batch_id, key) for key in sorted(keys)]
    )


def _row(batch_id: str, key: str, line: Line, request: str) -> tuple[Any, ...]:
    first = None if line.first is None else json.dumps(asdict(line.first))
    return (batch_id, key, pack(request), line.tries, first, line.share.dollars, line.share.tokens)


def waits_for_batches(store: LedgerStore, run: str) -> bool:
    """Tell whether batches are under way that a run has submitted."""
    sql = f"SELECT COUNT(*) FROM batch_lines JOIN batches ON batch = id WHERE {OPEN} AND run = ? AND tokens > 0"  # noqa: S608
    return bool(store.database.query(sql, (run,))[0][0])


def forget_batch(store: LedgerStore, batch_id: str) -> int:
    """Give up an open batch; return how many requests it owed. The next run buys them again.

    Raises:
        LedgerError: no open batch has this id.
    """
    with store.database.transaction():
        sql = f"UPDATE batches SET state = 'forgotten' WHERE id = ? AND {OPEN} RETURNING id"  # noqa: S608
        if not store.database.query(sql, (batch_id,)):
            raise LedgerError(f"no batch {batch_id!r} is under way in {store.database.where}")
        return len(store.database.query("DELETE FROM batch_lines WHERE batch = ? RETURNING key", (batch_id,)))
