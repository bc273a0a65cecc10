"""Claims and leases: identical requests of several processes that share a ledger are paid for once.

A claim is valid while its owner is alive. On the same machine /proc alone decides that (`lema_core.system.processes`):
no step of the wall clock makes a living process dead, or a dead one alive. On another machine an owner is alive while
it sends heartbeats: one whose heartbeat does not change within `LEASE_S` by our own monotonic clock is dead. Only when
an owner is first seen does the age of its heartbeat by the wall clock decide, which on PostgreSQL is the server's for
all; a heartbeat further in the future than `LEASE_S` is dead as well. So a killed process blocks no other on its own
machine, and processes on other machines for a minute.
"""

import math
import time
import uuid
from collections.abc import Sequence

from lema_core.llm.ledger.credit import keep_unaccounted
from lema_core.llm.ledger.store import LOOKUP, LedgerStore, placeholders
from lema_core.system.chunking import chunked
from lema_core.system.processes import ProcessIdentity, is_alive, this_process

LEASE_S = 60.0
STUCK_S = 600.0
"""A process of this machine that exists and sends no heartbeat for this long is stopped: no process waits for it."""


def owner_is_alive(owner: ProcessIdentity, ledger: str) -> bool:
    """Return whether a process is alive: by /proc on this machine, else by its last heartbeat in the ledger."""
    if (here := is_alive(owner)) is not None:
        return here
    store = LedgerStore(ledger)
    try:
        sql = "SELECT MAX(beat) FROM owners WHERE machine = ? AND pid = ?"
        beat = store.database.query(sql, (owner.machine, owner.pid))[0][0]
        return beat is not None and _is_fresh(store.database.clock() - beat)
    finally:
        store.close()


def _is_fresh(age: float) -> bool:
    """Return whether a heartbeat of this age, by the wall clock, counts: clocks may disagree by less than a lease."""
    return abs(age) < LEASE_S


class Claims:
    """The claims of one process. Uses the store's thread."""

    def __init__(self, store: LedgerStore) -> None:
        self.owner = uuid.uuid4().hex
        self._store = store
        self._process = this_process()
        self._pools: set[str] = set()
        self._last_seen: dict[str, tuple[float, float]] = {}
        """By owner: its last heartbeat, and since when by our monotonic clock no newer one has come."""
        self._checked_at = time.monotonic()

    def register(self) -> None:
        """Enter this process, and remove what dead ones left behind."""
        with self._store.database.transaction():
            self._remove_dead_owners()
            self._register_self()

    def _register_self(self) -> None:
        database, process = self._store.database, self._process
        database.insert("owners", [(self.owner, process.machine, process.pid, process.started, database.clock())])
        if self._pools:
            database.insert("pools", [(pool, self.owner) for pool in sorted(self._pools)])

    def unregister(self) -> None:
        """Remove this process with all its claims."""
        with self._store.database.transaction():
            self._remove_owners([self.owner])

    def heartbeat(self) -> dict[str, int]:
        """Renew our lease; return how many living processes share each of our pools."""
        database = self._store.database
        with database.transaction():
            # Another process may have removed us as dead, e.g. after suspend or a database outage longer than a lease.
            self._register_self()
            database.query("UPDATE owners SET beat = ? WHERE owner = ?", (database.clock(), self.owner))
            self._remove_dead_owners()
            return dict(
                database.query(
                    "SELECT pool, COUNT(*) FROM pools WHERE pool IN (SELECT pool FROM pools WHERE owner = ?) "
                    "GROUP BY pool",
                    (self.owner,),
                )
            )

    def alive(self) -> int:
        """Return how many other processes use this ledger now."""
        with self._store.database.transaction():
            self._remove_dead_owners()
            rows = self._store.database.query("SELECT COUNT(*) FROM owners WHERE owner <> ?", (self.owner,))
        return int(rows[0][0])

    def join_pool(self, pool: str) -> int:
        """Join a pool (an endpoint and key with common rate limits); return how many processes share it."""
        self._pools.add(pool)
        with self._store.database.transaction():
            self._store.database.insert("pools", [(pool, self.owner)])
        return int(self._store.database.query("SELECT COUNT(*) FROM pools WHERE pool = ?", (pool,))[0][0])

    def claim(self, keys: Sequence[str]) -> set[str]:
        """Claim keys; return those that another living process is paying for already."""
        database = self._store.database
        foreign: set[str] = set()
        # Every process claims in the same order: in PostgreSQL an insert waits for another process's uncommitted key,
        # and two that wait for each other are a deadlock.
        for some in chunked(sorted(keys), LOOKUP):
            with database.transaction():
                # All rows are new: no other owner claims any of these keys, and no query is needed.
                if database.insert("claims", [(key, self.owner) for key in some]) == len(some):
                    continue
                sql = f"SELECT key FROM claims WHERE owner <> ? AND key IN ({placeholders(len(some))})"  # noqa: S608
                foreign.update(row[0] for row in database.query(sql, [self.owner, *some]))
        return foreign

    def release(self, keys: Sequence[str]) -> None:
        """Release claims on requests that will not be sent."""
        if not keys:
            return
        with self._store.database.transaction():
            # Only our own: after we were taken for dead, another process may have claimed a key.
            for some in chunked(keys, LOOKUP):
                sql = f"DELETE FROM claims WHERE owner = ? AND key IN ({placeholders(len(some))})"  # noqa: S608
                self._store.database.query(sql, [self.owner, *some])

    def _remove_dead_owners(self) -> None:
        """Remove dead owners with their claims, and claims whose owner is not entered any more."""
        sql = "SELECT owner, machine, pid, started, beat FROM owners WHERE owner <> ?"
        last_seen, dead, now = dict[str, tuple[float, float]](), list[str](), time.monotonic()
        # After this process was suspended, or the database away, an unchanged heartbeat says nothing: count anew.
        was_away = now - self._checked_at > LEASE_S / 2
        for owner, machine, pid, started, beat in self._store.database.query(sql, (self.owner,)):
            is_here = is_alive(ProcessIdentity(machine=machine, pid=pid, started=started))
            known, since = self._last_seen.get(owner, (None, now))
            if known is None and is_here is None:
                age = self._store.database.clock() - beat
                since = now - max(0.0, age) if _is_fresh(age) else -math.inf
            elif known != beat or was_away:
                since = now
            last_seen[owner] = (beat, since)
            # None: on another machine, where only heartbeats count.
            if is_here is False or now - since >= (STUCK_S if is_here else LEASE_S):
                dead.append(owner)
        self._last_seen, self._checked_at = last_seen, now
        self._remove_owners(dead)
        self._store.database.query("DELETE FROM claims WHERE owner NOT IN (SELECT owner FROM owners)")

    def _remove_owners(self, owners: Sequence[str]) -> None:
        # Before the credit is deleted: what may have been billed without an answer outlives its process.
        for owner in owners:
            keep_unaccounted(self._store.database, owner)
        for table in ("claims", "pools", "credit", "owners"):
            self._store.database.many(f"DELETE FROM {table} WHERE owner = ?", [(owner,) for owner in owners])  # noqa: S608
