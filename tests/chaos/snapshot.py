"""What a finished run left: its Parquet parts, its completions, and what the endpoint was paid for."""

import contextlib
import hashlib
import sqlite3
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq

from lema_core.llm.simulated.chat import Stats
from lema_core.training.program import CLOCK_FIELDS

FAULT_COUNTS = ("r429", "r5xx", "cut", "malformed")
_HELD = "SELECT key, answer, finish_reason, prompt_tokens, completion_tokens, model FROM completions"


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """A run's results, comparable byte by byte."""

    parts: dict[str, str]
    """The hash of every Parquet part by its place under the store; of a training's figures what no clock measured."""
    completions: frozenset[str]
    """The hashes of what the ledger holds, but for when and for whom it was paid."""
    sound: bool
    """SQLite finds no damage in the ledger."""
    disk_bytes: int
    ledger_bytes: int
    requests: frozenset[bytes]
    """The distinct requests that were paid."""
    paid: int
    faults: dict[str, int]

    @property
    def paid_twice(self) -> int:
        """Return how many payments were for something that had been paid before."""
        return self.paid - len(self.requests)


def take_snapshot(root: Path, stats: Stats) -> Snapshot:
    """Read what a run left under its root."""
    ledger = root / "ledger.sqlite"
    store = root / "store"
    with contextlib.closing(sqlite3.connect(ledger)) as database:
        sound = database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        held = frozenset(hashlib.sha256(repr(row).encode()).hexdigest() for row in database.execute(_HELD))
    return Snapshot(
        parts={str(path.relative_to(store)): content_hash(path) for path in sorted(store.rglob("*.parquet"))},
        completions=held,
        sound=sound,
        disk_bytes=sum(path.stat().st_size for path in root.rglob("*") if path.is_file()),
        ledger_bytes=ledger.stat().st_size,
        requests=frozenset(stats.paid),
        paid=sum(stats.paid.values()),
        faults={name: stats.counts[name] for name in FAULT_COUNTS},
    )


def content_hash(path: Path) -> str:
    """Return the hash of a Parquet part's bytes; with columns that a clock has measured, of the others' rows."""
    names = pq.read_schema(path).names
    if set(CLOCK_FIELDS).isdisjoint(names):
        return hashlib.sha256(path.read_bytes()).hexdigest()
    rows = pq.read_table(path, columns=[name for name in names if name not in CLOCK_FIELDS]).to_pylist()
    return hashlib.sha256(repr(rows).encode()).hexdigest()
