"""The ledger as the engine uses it: a completion is committed before any stream yields it.

Every statement runs in one thread of its own. Commits are grouped: entries that arrive within `GATHER_S`, or while a
commit runs, share the next one. A kill loses at most what was in flight and these milliseconds.
"""

import asyncio
import time
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import count
from typing import TypeVar

from lema_core.errors import LedgerError, LemaError
from lema_core.llm.ledger.claims import Claims
from lema_core.llm.ledger.credit import Amount, Budget, CreditGrant, CreditLine
from lema_core.llm.ledger.store import Entry, LedgerStore
from lema_core.llm.requests import Completion
from lema_core.llm.settings import DEFAULTS, EngineSettings

T = TypeVar("T")
Queued = tuple[Entry, asyncio.Future[Completion | None]]

GATHER_S = 0.004
OUTAGE_S = 120.0
"""How long a database may be away (a restart, a failover) before the run ends."""
RETRY_S = 0.5


class Ledger:
    """One process's connection to the ledger, for one event loop."""

    def __init__(self, run: str) -> None:
        self.run = run
        # One thread, so that statements keep their order and the connection has one user.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="lema-ledger")
        self._queue: list[Queued] = []
        self._flusher: asyncio.Task[None] | None = None
        self.store: LedgerStore
        self.claims: Claims
        self._credit: CreditLine | None = None
        self._working_since: float | None = None

    @classmethod
    async def open(
        cls, url: str, run: str, budget: Budget | None = None, settings: EngineSettings = DEFAULTS
    ) -> "Ledger":
        """Open the ledger at a path or PostgreSQL URL and enter this process; a budget is shared through it.

        Raises:
            LedgerError: it cannot be opened.
        """
        ledger = cls(run)
        try:
            ledger.store = await asyncio.get_running_loop().run_in_executor(
                ledger._thread, LedgerStore, url, settings.checkpoint_s
            )
            ledger.claims = Claims(ledger.store)
            await ledger.call(ledger.claims.register)
            if budget not in {None, Budget()}:
                ledger._credit = await ledger.call(lambda: CreditLine(ledger.store, run, ledger.claims.owner, budget))
        except BaseException:
            ledger._thread.shutdown(wait=False)
            raise
        return ledger

    async def call(self, work: Callable[[], T]) -> T:
        """Run ``work`` in the ledger's thread, and again when the database was away for a while.

        Running it twice must be harmless: if the connection is lost, its commit may or may not have arrived.
        """
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._run_with_retries, work)

    def busy_s(self) -> float:
        """Return how long the present statement has taken; another program may have locked the database."""
        since = self._working_since
        return 0.0 if since is None else time.monotonic() - since

    def _run_with_retries(self, work: Callable[[], T]) -> T:
        self._working_since = time.monotonic()
        try:
            deadline = self._working_since + OUTAGE_S
            while True:
                try:
                    return work()
                except LedgerError:
                    # Paid answers wait here for their commit: giving up at once would mean paying for them again.
                    database = self.store.database
                    if not (database.is_lost() or database.is_conflict()) or time.monotonic() > deadline:
                        raise
                time.sleep(RETRY_S)
                if self.store.database.is_lost():
                    with suppress(LedgerError):
                        self.store.database.reconnect()
        finally:
            self._working_since = None

    async def lookup(self, keys: Sequence[str]) -> dict[str, Completion]:
        """Return the stored completions of some keys."""
        return await self.call(lambda: self.store.lookup(keys))

    async def look_up_and_claim(self, keys: Sequence[str]) -> tuple[dict[str, Completion], set[str]]:
        """Look keys up and claim the missing ones; return (stored, claimed by another living process)."""

        def work() -> tuple[dict[str, Completion], set[str]]:
            stored = self.store.lookup(keys)
            missing = [key for key in keys if key not in stored]
            if not missing:
                return stored, set()
            claimed_elsewhere = self.claims.claim(missing)
            # Between the look-up and the claim another process may have committed a key and released its claim.
            late = self.store.lookup(missing)
            if ours := [key for key in late if key not in claimed_elsewhere]:
                self.claims.release(ours)
            return stored | late, claimed_elsewhere - late.keys()

        return await self.call(work)

    async def pending_in_batches(self, keys: Collection[str]) -> set[str]:
        """Return the keys that open batches will answer; see ``LedgerStore.pending_in_batches``."""
        return await self.call(lambda: self.store.pending_in_batches(list(keys))) if keys else set()

    def heartbeat(self) -> dict[str, int]:
        """Renew our lease and credit line; see ``Claims.heartbeat``. To be run by ``call``."""
        shares = self.claims.heartbeat()
        if self._credit:
            self._credit.re_register()
        return shares

    async def request_credit(self, lacking: Amount) -> CreditGrant:
        """Request credit from the run's budget, see ``CreditLine.request``; nothing if the ledger has no budget."""
        credit = self._credit
        # Entries that are queued and not yet committed would be missing in the message of an exhausted budget.
        if waiting := [future for _, future in self._queue]:
            await asyncio.wait(waiting)
        if credit is None:
            return CreditGrant(Amount(), Amount(), others_hold_credit=False)
        return await self.call(lambda: credit.request(lacking))

    def extend_credit(self, amount: Amount) -> None:
        """Add to our credit line without asking; see ``CreditLine.extend``."""
        if self._credit:
            self._credit.extend(amount)

    async def return_credit(self, spare: Amount, unaccounted: Amount) -> None:
        """Return credit that is not needed; see ``CreditLine.return_credit``."""
        if credit := self._credit:
            await self.call(lambda: credit.return_credit(spare, unaccounted))

    async def transfer_credit(self, amount: Amount, work: Callable[[], None]) -> None:
        """Do ``work``, which transfers an amount to another owner, and take it off our line in the same transaction."""
        credit, database = self._credit, self.store.database

        def without_budget() -> None:
            with database.transaction():
                work()

        await self.call(lambda: credit.return_credit(amount, Amount(), work) if credit else without_budget())

    def record(self, entry: Entry) -> "asyncio.Future[Completion | None]":
        """Queue an entry; the future is done once it is committed, with the completion that the ledger now has.

        The future raises LedgerError if the database refuses.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Completion | None] = loop.create_future()
        self._queue.append((entry, future))
        if self._flusher is None or self._flusher.done():
            self._flusher = loop.create_task(self._flush())
        return future

    async def _flush(self) -> None:
        while self._queue:
            # Each transaction waits for the disk, so one for many entries. What arrives later is in the next group.
            await asyncio.sleep(GATHER_S)
            group, self._queue = self._queue, []
            await self._commit_group(group)

    async def _commit_group(self, group: Sequence[Queued]) -> None:
        """Commit a group of entries and resolve their futures."""
        entries, attempts = [entry for entry, _ in group], count()
        try:
            results = await self.call(lambda: self._commit(entries, is_retry=next(attempts) > 0))
        except Exception as error:  # noqa: BLE001 - a commit that fails in any way must not leave others waiting
            if len(group) > 1 and not isinstance(error, LemaError):
                # One entry that the database's driver cannot take must not cost the others their commit.
                for queued in group:
                    await self._commit_group([queued])
                return
            for _, future in group:
                if not future.done():
                    future.set_exception(error)
            return
        # A future may be cancelled with its waiter; its entry is committed all the same.
        for (_, future), result in zip(group, results, strict=True):
            if not future.done():
                future.set_result(result)

    def _commit(self, entries: Sequence[Entry], *, is_retry: bool) -> list[Completion | None]:
        if self._credit is None:
            return self.store.commit(entries, self.run, is_retry=is_retry)
        # The stored line shrinks inside the transaction, the one in memory only after it: a failed commit is run again.
        results = self.store.commit(entries, self.run, self._credit.write_charges, is_retry=is_retry)
        self._credit.apply_charges(entries)
        return results

    async def close(self) -> None:
        """Commit what is queued, remove this process and close the database."""
        if self._flusher is not None:
            await self._flusher
        try:
            # After the last commit: entries that another process could claim are stored by now.
            await self.call(self.claims.unregister)
        finally:
            await self.call(self.store.close)
            self._thread.shutdown(wait=False)
