"""The ledger as the engine sees it: a completion is committed before anyone sees it.

Every statement runs in one thread of its own. Commits are grouped: what arrives within `GATHER_S`, or while a commit
runs, shares the next one. A kill loses at most what was in flight and these milliseconds.
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
from lema_core.llm.ledger.credit import Amount, Budget, Credit, Draw
from lema_core.llm.ledger.store import Entry, LedgerStore
from lema_core.llm.requests import Completion

T = TypeVar("T")
Queued = tuple[Entry, asyncio.Future[Completion | None]]

GATHER_S = 0.004
OUTAGE_S = 120.0
"""How long a database may be away (a restart, a failover) before a run gives up."""
RETRY_S = 0.5


class Ledger:
    """One process's connection to the ledger, for one event loop."""

    def __init__(self, run: str) -> None:
        self.run = run
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="lema-ledger")
        self._queue: list[Queued] = []
        self._flusher: asyncio.Task[None] | None = None
        self.store: LedgerStore
        self.claims: Claims
        self._credit: Credit | None = None
        self._working_since: float | None = None

    @classmethod
    async def open(cls, url: str, run: str, budget: Budget | None = None) -> "Ledger":
        """Open the ledger at a path or PostgreSQL URL and sign in; a budget is shared through it.

        Raises:
            LedgerError: it cannot be opened.
        """
        ledger = cls(run)
        try:
            ledger.store = await asyncio.get_running_loop().run_in_executor(ledger._thread, LedgerStore, url)
            ledger.claims = Claims(ledger.store)
            await ledger.call(ledger.claims.join)
            if budget not in {None, Budget()}:
                ledger._credit = await ledger.call(lambda: Credit(ledger.store, run, ledger.claims.owner, budget))
        except BaseException:
            ledger._thread.shutdown(wait=False)
            raise
        return ledger

    async def call(self, work: Callable[[], T]) -> T:
        """Run something on the store in the ledger's thread; where the database goes away for a while, again.

        What is run must bear being run twice: whether a commit arrived before the connection was lost, nobody knows.
        """
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._patiently, work)

    def busy_s(self) -> float:
        """Return the seconds that the present statement has taken; another program may hold the database's lock."""
        since = self._working_since
        return 0.0 if since is None else time.monotonic() - since

    def _patiently(self, work: Callable[[], T]) -> T:
        self._working_since = time.monotonic()
        try:
            return self._until_done(work)
        finally:
            self._working_since = None

    def _until_done(self, work: Callable[[], T]) -> T:
        deadline = time.monotonic() + OUTAGE_S
        while True:
            try:
                return work()
            except LedgerError:
                # Answers that are paid wait here for their commit: to give up at once would be to pay for them again.
                database = self.store.database
                if not (database.lost() or database.collided()) or time.monotonic() > deadline:
                    raise
            time.sleep(RETRY_S)
            if self.store.database.lost():
                with suppress(LedgerError):
                    self.store.database.reopen()

    async def lookup(self, keys: Sequence[str]) -> dict[str, Completion]:
        """Return the completions held for some keys."""
        return await self.call(lambda: self.store.lookup(keys))

    async def reserve(self, keys: Sequence[str]) -> tuple[dict[str, Completion], set[str]]:
        """Look keys up and claim those that are not held; return (held, claimed by another living process)."""

        def work() -> tuple[dict[str, Completion], set[str]]:
            held = self.store.lookup(keys)
            missing = [key for key in keys if key not in held]
            if not missing:
                return held, set()
            foreign = self.claims.claim(missing)
            # Between the look-up and the claim another process may have committed and let go.
            late = self.store.lookup(missing)
            if ours := [key for key in late if key not in foreign]:
                self.claims.release(ours)
            return held | late, foreign - late.keys()

        return await self.call(work)

    async def owed(self, keys: Collection[str]) -> set[str]:
        """Return the keys that batches under way owe; see ``LedgerStore.owed``."""
        return await self.call(lambda: self.store.owed(list(keys))) if keys else set()

    def beat(self) -> dict[str, int]:
        """Give a sign of life; see ``Claims.beat``. To be run by ``call``."""
        shares = self.claims.beat()
        if self._credit:
            self._credit.renew()
        return shares

    async def draw(self, lacking: Amount) -> Draw:
        """Draw on the run's budget; see ``Credit.draw``. A ledger that was opened without a budget lends nothing."""
        credit = self._credit
        # What is paid and not yet handed to the thread would be missing in what the budget's end tells.
        if waiting := [future for _, future in self._queue]:
            await asyncio.wait(waiting)
        return await self.call(lambda: credit.draw(lacking)) if credit else Draw(Amount(), Amount(), others=False)

    def overdraw(self, amount: Amount) -> None:
        """Take note that we pay more than was set aside; see ``Credit.overdraw``."""
        if self._credit:
            self._credit.overdraw(amount)

    async def give_back(self, spare: Amount, lost: Amount) -> None:
        """Return what was drawn and is not needed; see ``Credit.give_back``."""
        if credit := self._credit:
            await self.call(lambda: credit.give_back(spare, lost))

    async def hand_over(self, held: Amount, work: Callable[[], None]) -> None:
        """Do what makes others answer for an amount, and take it off our line in the same transaction."""
        credit, database = self._credit, self.store.database

        def alone() -> None:
            with database.transaction():
                work()

        await self.call(lambda: credit.give_back(held, Amount(), work) if credit else alone())

    def record(self, entry: Entry) -> "asyncio.Future[Completion | None]":
        """Queue an entry; the future is done once it is committed and gives the completion that stands.

        The future raises LedgerError where the database refuses.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Completion | None] = loop.create_future()
        self._queue.append((entry, future))
        if self._flusher is None or self._flusher.done():
            self._flusher = loop.create_task(self._flush())
        return future

    async def _flush(self) -> None:
        while self._queue:
            await asyncio.sleep(GATHER_S)
            group, self._queue = self._queue, []
            await self._settle(group)

    async def _settle(self, group: Sequence[Queued]) -> None:
        """Commit a group and tell whoever waits for it."""
        entries, tries = [entry for entry, _ in group], count()
        try:
            results = await self.call(lambda: self._commit(entries, again=next(tries) > 0))
        except Exception as error:  # noqa: BLE001 - a commit that fails in any way must not leave others waiting
            if len(group) > 1 and not isinstance(error, LemaError):
                # What the database's driver cannot take in one entry must not cost the others their commit.
                for one in group:
                    await self._settle([one])
                return
            for _, future in group:
                if not future.done():
                    future.set_exception(error)
            return
        for (_, future), result in zip(group, results, strict=True):
            if not future.done():
                future.set_result(result)

    def _commit(self, entries: Sequence[Entry], *, again: bool) -> list[Completion | None]:
        if self._credit is None:
            return self.store.commit(entries, self.run, again=again)
        results = self.store.commit(entries, self.run, self._credit.write_committed, again=again)
        self._credit.committed(entries)
        return results

    async def close(self) -> None:
        """Commit what is queued, sign out and close the database."""
        if self._flusher is not None:
            await self._flusher
        try:
            await self.call(self.claims.leave)
        finally:
            await self.call(self.store.close)
            self._thread.shutdown(wait=False)
