"""Who is paying for what right now: claims coalesce identical requests across processes that share a ledger.

A claim holds while its owner lives. On the same machine /proc alone says whether it does
(``lema_core.system.processes``): no step of the wall clock makes a living process dead, or a dead one alive. On another
machine an owner lives while it gives signs of life: one that changes none within ``LEASE_S`` by our own monotonic clock
is dead. Only the first sight of an owner has nothing but the sign's age by the wall clock, which on PostgreSQL is the
server's for everybody; a sign further in the future than ``LEASE_S`` is dead as well. A process that was killed
therefore blocks nobody on its own machine, and others for a minute.
"""

import math
import time
import uuid
from collections.abc import Sequence

from lema_core.llm.ledger.credit import keep_lost
from lema_core.llm.ledger.store import LOOKUP, LedgerStore, marks
from lema_core.system.chunking import chunked
from lema_core.system.processes import ProcessIdentity, is_alive, this_process

LEASE_S = 60.0
STUCK_S = 600.0
"""A process of this machine that exists and gives no sign of life for this long is stopped: nobody waits for it."""
BEAT_S = 5.0


def owner_lives(owner: ProcessIdentity, ledger: str) -> bool:
    """Return whether a process lives: by /proc on this machine, else by its last sign of life in the ledger."""
    if (here := is_alive(owner)) is not None:
        return here
    store = LedgerStore(ledger)
    try:
        sql = "SELECT MAX(beat) FROM owners WHERE machine = ? AND pid = ?"
        beat = store.database.query(sql, (owner.machine, owner.pid))[0][0]
        return beat is not None and _fresh(store.database.clock() - beat)
    finally:
        store.close()


def _fresh(age: float) -> bool:
    """Return whether a sign of life of that age, by the wall clock, is one: clocks that disagree by less are safe."""
    return abs(age) < LEASE_S


class Claims:
    """The claims of one process. Uses the store's thread."""

    def __init__(self, store: LedgerStore) -> None:
        self.owner = uuid.uuid4().hex
        self._store = store
        self._process = this_process()
        self._pools: set[str] = set()
        self._signs: dict[str, tuple[float, float]] = {}
        """By owner: its last sign of life, and since when by our monotonic clock we have known no newer one."""
        self._looked = time.monotonic()

    def join(self) -> None:
        """Sign in, and remove what dead processes left behind."""
        with self._store.database.transaction():
            self._bury()
            self._sign_in()

    def _sign_in(self) -> None:
        database, process = self._store.database, self._process
        database.insert("owners", [(self.owner, process.machine, process.pid, process.started, database.clock())])
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
            database.query("UPDATE owners SET beat = ? WHERE owner = ?", (database.clock(), self.owner))
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
        sql = "SELECT owner, machine, pid, started, beat FROM owners WHERE owner <> ?"
        signs, dead, now = dict[str, tuple[float, float]](), list[str](), time.monotonic()
        # After this process was suspended, or the database away, an unchanged sign says nothing: count anew.
        looked_away = now - self._looked > LEASE_S / 2
        for owner, machine, pid, started, beat in self._store.database.query(sql, (self.owner,)):
            here = is_alive(ProcessIdentity(machine=machine, pid=pid, started=started))
            known, since = self._signs.get(owner, (None, now))
            if known is None and here is None:
                age = self._store.database.clock() - beat
                since = now - max(0.0, age) if _fresh(age) else -math.inf
            elif known != beat or looked_away:
                since = now
            signs[owner] = (beat, since)
            if here is False or now - since >= (STUCK_S if here else LEASE_S):
                dead.append(owner)
        self._signs, self._looked = signs, now
        self._forget(dead)
        self._store.database.query("DELETE FROM claims WHERE owner NOT IN (SELECT owner FROM owners)")

    def _forget(self, owners: Sequence[str]) -> None:
        for owner in owners:
            keep_lost(self._store.database, owner)
        for table in ("claims", "pools", "credit", "owners"):
            self._store.database.many(f"DELETE FROM {table} WHERE owner = ?", [(owner,) for owner in owners])  # noqa: S608
