"""What the ledger knows of batches: intended, submitted, and how they ended."""

from collections.abc import Sequence

from lema_core.llm.credit import Amount
from lema_core.llm.ledger import Ledger
from lema_core.llm.store import chunked, marks


class BatchBook:
    """The batches of one endpoint identity."""

    def __init__(self, ledger: Ledger, identity: str) -> None:
        self._ledger = ledger
        self._identity = identity

    async def intend(self, batch_id: str, keys: Sequence[str], most: Amount) -> None:
        """Write down, before any call, which keys a batch is going to hold and what it may cost."""

        def work() -> None:
            database = self._ledger.store.database
            with database.transaction():
                database.query(
                    "INSERT INTO batches (id, endpoint, run, owner, remote, state) VALUES (?,?,?,?,NULL,'intended')",
                    (batch_id, self._identity, self._ledger.run, self._ledger.claims.owner),
                )
                database.insert("batch_credit", [(batch_id, most.dollars, most.tokens)])
                rows = [(batch_id, key) for key in keys]
                database.many("INSERT INTO batch_items (batch, key) VALUES (?,?)", rows)

        await self._ledger.call(work)

    async def submitted(self, batch_id: str, remote: str) -> None:
        """Write down the endpoint's name for a batch."""
        await self._set("UPDATE batches SET remote = ?, state = 'submitted' WHERE id = ?", (remote, batch_id))

    async def close(self, batch_id: str, state: str) -> None:
        """Write down that a batch is over: collected, lost or failed."""
        await self._set("UPDATE batches SET state = ? WHERE id = ?", (state, batch_id))

    async def _set(self, sql: str, values: tuple[str, str]) -> None:
        def work() -> None:
            with self._ledger.store.database.transaction():
                self._ledger.store.database.query(sql, values)

        await self._ledger.call(work)

    async def under_way(self, keys: Sequence[str]) -> list[tuple[str, str | None, list[str]]]:
        """Return (id, remote name, keys) of the unfinished batches that hold some of the keys."""

        def work() -> list[tuple[str, str | None, list[str]]]:
            query = self._ledger.store.database.query
            found: dict[str, str | None] = {}
            for some in chunked(keys, 500):
                sql = (
                    "SELECT DISTINCT id, remote FROM batches JOIN batch_items ON batch = id WHERE endpoint = ? "  # noqa: S608
                    f"AND state IN ('intended', 'submitted') AND key IN ({marks(len(some))})"
                )
                found.update(query(sql, [self._identity, *some]))
            items = "SELECT key FROM batch_items WHERE batch = ? ORDER BY key"
            return [(one, remote, [row[0] for row in query(items, (one,))]) for one, remote in sorted(found.items())]

        return await self._ledger.call(work)
