"""Who is paying for what right now: claims coalesce identical requests across processes that share a ledger.

A claim holds while its owner lives: on the same machine that is a process with the same id and start time, elsewhere
one that gave a sign of life in the last `LEASE_S` seconds (by wall clocks; machines that disagree by less are safe).
A process that was killed therefore blocks nobody on its own machine, and others for a minute.
"""

import os
import time
import uuid
from collections.abc import Sequence

import psutil
from pydantic import BaseModel, ConfigDict

from lema_core.chunks import chunked
from lema_core.llm.ledger.store import LOOKUP, LedgerStore, marks
from lema_core.machine import this_machine
from lema_core.processes import living

LEASE_S = 60.0
STUCK_S = 600.0
"""A process that exists but gave no sign of life for so long is stopped or stuck: others need not wait for it."""
BEAT_S = 5.0


class Owner(BaseModel):
    """What tells a process from every other."""

    model_config = ConfigDict(frozen=True)

    machine: str
    pid: int
    started: float


def owner_lives(owner: Owner, ledger: str) -> bool:
    """Tell whether a process lives: by its id on this machine, else by its last sign of life in a ledger they share."""
    if owner.machine == this_machine():
        return living(owner.pid, owner.started) is not None
    store = LedgerStore(ledger)
    try:
        sql = "SELECT MAX(beat) FROM owners WHERE machine = ? AND pid = ?"
        beat = store.database.query(sql, (owner.machine, owner.pid))[0][0]
    finally:
        store.close()
    return beat is not None and time.time() - beat < LEASE_S


class Claims:
    """The claims of one process. Uses the store's thread."""

    def __init__(self, store: LedgerStore) -> None:
        self.owner = uuid.uuid4().hex
        self._store = store
        self._machine = this_machine()
        self._pools: set[str] = set()

    def join(self) -> None:
        """Sign in, and remove what dead processes left behind."""
        with self._store.database.transaction():
            self._bury()
            self._sign_in()

    def _sign_in(self) -> None:
        database, started = self._store.database, psutil.Process().create_time()
        database.insert("owners", [(self.owner, self._machine, os.getpid(), started, time.time())])
        if self._pools:
            database.insert("pools", [(pool, self.owner) for pool in sorted(self._pools)])

    def leave(self) -> None:
        """Sign out and give up every claim."""
        with self._store.database.transaction():
            self._forget([self.owner])

    def beat(self) -> dict[str, int]:
        """Give a sign of life; return how many living processes share each of our pools."""
        database = self._store.database
        with database.transaction():
            # Others may have buried us: this machine slept, or the database was away for longer than a lease.
            self._sign_in()
            database.query("UPDATE owners SET beat = ? WHERE owner = ?", (time.time(), self.owner))
            self._bury()
            return dict(
                database.query(
                    "SELECT pool, COUNT(*) FROM pools WHERE pool IN (SELECT pool FROM pools WHERE owner = ?) "
                    "GROUP BY pool",
                    (self.owner,),
                )
            )

    def living(self) -> int:
        """Return how many other processes work with this ledger now."""
        with self._store.database.transaction():
            self._bury()
            rows = self._store.database.query("SELECT COUNT(*) FROM owners WHERE owner <> ?", (self.owner,))
        return int(rows[0][0])

    def share(self, pool: str) -> int:
        """Take part in a pool (an endpoint and key with common limits); return how many do."""
        self._pools.add(pool)
        with self._store.database.transaction():
            self._store.database.insert("pools", [(pool, self.owner)])
        return int(self._store.database.query("SELECT COUNT(*) FROM pools WHERE pool = ?", (pool,))[0][0])

    def claim(self, keys: Sequence[str]) -> set[str]:
        """Claim keys; return those that another living process is paying for already."""
        database = self._store.database
        foreign: set[str] = set()
        # In one order for all: in PostgreSQL an insert waits for another's uncommitted key; a circle is a deadlock.
        for some in chunked(sorted(keys), LOOKUP):
            with database.transaction():
                if database.insert("claims", [(key, self.owner) for key in some]) == len(some):
                    continue
                sql = f"SELECT key FROM claims WHERE owner <> ? AND key IN ({marks(len(some))})"  # noqa: S608
                foreign.update(row[0] for row in database.query(sql, [self.owner, *some]))
        return foreign

    def release(self, keys: Sequence[str]) -> None:
        """Give up claims on requests that will not be sent."""
        if not keys:
            return
        with self._store.database.transaction():
            for some in chunked(keys, LOOKUP):
                sql = f"DELETE FROM claims WHERE owner = ? AND key IN ({marks(len(some))})"  # noqa: S608
                self._store.database.query(sql, [self.owner, *some])

    def _bury(self) -> None:
        """Remove owners that are dead, with their claims, and claims of owners that nobody knows any more."""
        rows = self._store.database.query("SELECT owner, machine, pid, started, beat FROM owners")
        self._forget([row[0] for row in rows if row[0] != self.owner and not self._lives(*row[1:])])
        self._store.database.query("DELETE FROM claims WHERE owner NOT IN (SELECT owner FROM owners)")

    def _lives(self, machine: str, pid: int, started: float, beat: float) -> bool:
        silent = time.time() - beat
        if machine != self._machine or silent > STUCK_S:
            return silent < LEASE_S
        return living(pid, started) is not None

    def _forget(self, owners: Sequence[str]) -> None:
        for table in ("claims", "pools", "credit", "owners"):
            self._store.database.many(f"DELETE FROM {table} WHERE owner = ?", [(owner,) for owner in owners])  # noqa: S608
