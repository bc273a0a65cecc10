"""The ledger's tables and the statements on them, synchronous. `Ledger` is its asynchronous face.

Completions and failures are kept apart: what failed is counted, with its reason and whatever was paid for it, and is
never served as an answer. Answers are stored as bytes, because PostgreSQL's text refuses NUL and models write it.
"""

import datetime as dt
import json
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal

from lema_core.errors import LedgerError
from lema_core.llm.ledger.database import Database, connect
from lema_core.llm.ledger.schema import SCHEMA
from lema_core.llm.requests import Completion
from lema_core.system.chunking import chunked

By = Literal["run", "endpoint", "day"]
OPEN = "state IN ('intended', 'submitted')"
"""Said of a batch that may still answer."""
LOOKUP = 500
"""Keys in one SELECT."""

_COUNT = (
    "INSERT INTO failures (key, run, day, reason, endpoint, request, detail, count, prompt_tokens, completion_tokens, "
    "cost) VALUES (?,?,?,?,?,?,?,?,?,?,?) ON CONFLICT (key, run, day, reason) DO UPDATE SET "
    "count = failures.count + excluded.count, detail = excluded.detail, "
    "prompt_tokens = failures.prompt_tokens + excluded.prompt_tokens, "
    "completion_tokens = failures.completion_tokens + excluded.completion_tokens, "
    "cost = COALESCE(failures.cost + excluded.cost, failures.cost, excluded.cost)"
)
_FIELDS = "key, answer, finish_reason, prompt_tokens, completion_tokens, model"


@dataclass(frozen=True, slots=True)
class Paid:
    """A completion to be committed, with what was asked and what it cost (None: no price known)."""

    endpoint: str
    request: str
    completion: Completion
    cost: float | None
    batch: str = ""
    """The batch whose line this settles: booked once, whoever collects the batch."""


@dataclass(frozen=True, slots=True)
class Missed:
    """Attempts that gave no completion; some of them are paid for all the same."""

    endpoint: str
    request: str
    key: str
    reason: str
    detail: str
    count: int = 1
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: float | None = None
    final: bool = True
    """False: the request goes on and keeps its claim."""
    batch: str = ""


Entry = Paid | Missed


def marks(count: int) -> str:
    """Return ``?,?,?`` for a statement with ``count`` values."""
    return ",".join("?" * count)


def pack(text: str) -> bytes:
    """Compress a request: prompts repeat their exemplars. Level 1 takes about 20 microseconds."""
    return zlib.compress(text.encode("utf-8", "surrogatepass"), 1)


def unpack(data: bytes) -> Any:
    """Return a stored request as the structure it was made from.

    Raises:
        LedgerError: the bytes are not what ``pack`` made.
    """
    try:
        return json.loads(zlib.decompress(data).decode("utf-8", "surrogatepass"))
    except (TypeError, ValueError, RecursionError, zlib.error) as error:
        raise LedgerError(f"the ledger holds a request that cannot be read ({error}): {DAMAGED}") from None


DAMAGED = "it was damaged, or another program wrote into it. Restore a backup (`lema ledger backup` makes one)"


def today() -> str:
    """Return the UTC day, as totals are grouped."""
    return dt.datetime.now(dt.UTC).date().isoformat()


def _completion(row: Sequence[Any]) -> Completion:
    text = answer_text(row[0], row[1])
    # SQLite keeps a text in a column of numbers, and gives it back as a text.
    if type(row[3]) is not int or type(row[4]) is not int or not isinstance(row[2], str):
        raise LedgerError(f"the ledger's row with the key {row[0]!r} holds no completion: {DAMAGED}")
    return Completion(row[0], text, row[2], row[3], row[4], row[5])


def answer_text(key: str, answer: object) -> str:
    """Return a stored answer.

    Raises:
        LedgerError: it is no text.
    """
    if isinstance(answer, bytes | memoryview):
        with suppress(UnicodeError):
            return bytes(answer).decode("utf-8", "surrogatepass")
    raise LedgerError(f"the ledger's row with the key {key!r} holds no answer: {DAMAGED}")


class LedgerStore:
    """The ledger's tables in one database. Not thread-safe: one thread uses one store.

    Raises:
        LedgerError: from every method, when the database refuses.
    """

    def __init__(self, url: str) -> None:
        self.database: Database = connect(url, SCHEMA.strip().split(";"))

    def lookup(self, keys: Sequence[str]) -> dict[str, Completion]:
        """Return the completions that are held for some keys."""
        held: dict[str, Completion] = {}
        for some in chunked(keys, LOOKUP):
            rows = self.database.query(f"SELECT {_FIELDS} FROM completions WHERE key IN ({marks(len(some))})", some)  # noqa: S608
            held.update((row[0], _completion(row)) for row in rows)
        return held

    def owed(self, keys: Sequence[str], besides: tuple[str, str] = ("", "")) -> set[str]:
        """Return the keys that open batches owe, besides two: they are paid for, or will be."""
        owed: set[str] = set()
        for some in chunked(keys, LOOKUP):
            sql = (
                f"SELECT key FROM batch_lines JOIN batches ON batch = id WHERE {OPEN} AND id NOT IN (?, ?) "  # noqa: S608
                f"AND key IN ({marks(len(some))})"
            )
            owed.update(row[0] for row in self.database.query(sql, [*besides, *some]))
        return owed

    def commit(
        self,
        entries: Sequence[Entry],
        run: str,
        also: Callable[[Sequence[Entry]], None] | None = None,
        *,
        again: bool = False,
    ) -> list[Completion | None]:
        """Commit entries in one transaction; return for each the completion as the ledger now holds it.

        Where another process committed the same key first, its completion stands and ours is counted as a failure
        ``duplicate`` with its cost: totals tell what was paid, not what was useful.
        ``also`` is done in the same transaction. ``again``: nobody knows whether an earlier try of this commit arrived,
        so an equal completion that is there is taken for ours. A line that its batch does not owe any more is booked.
        """
        day = today()
        with self.database.transaction():
            # In one order for all: in PostgreSQL a row waits for another's uncommitted one; a circle is a deadlock.
            fresh, before = self._fresh(sorted(entries, key=_key))
            paid = [entry for entry in fresh if isinstance(entry, Paid)]
            missed = [entry for entry in fresh if isinstance(entry, Missed)]
            theirs = self._insert([_paid_row(entry, run, day) for entry in paid], again=again)
            missed += [_as_duplicate(entry) for entry in paid if entry.completion.key in theirs]
            if missed:
                self.database.many(_COUNT, [_missed_row(entry, run, day) for entry in sorted(missed, key=_key)])
            done = [_key(entry) for entry in fresh if isinstance(entry, Paid) or entry.final]
            for keys in chunked(done, LOOKUP):
                self.database.query(f"DELETE FROM claims WHERE key IN ({marks(len(keys))})", keys)  # noqa: S608
            if also:
                also(entries)
            theirs |= before
        return [
            theirs.get(entry.completion.key, entry.completion) if isinstance(entry, Paid) else None for entry in entries
        ]

    def _fresh(self, entries: Sequence[Entry]) -> tuple[list[Entry], dict[str, Completion]]:
        """Return what is not booked yet, and the completions of the rest: lines that their batch owes no more."""
        late = [entry for entry in entries if entry.batch and not self._struck(entry)]
        held = self.lookup([_key(entry) for entry in late])
        booked = {id(entry) for entry in late if isinstance(entry, Missed) or _key(entry) in held}
        return [entry for entry in entries if id(entry) not in booked], held

    def _struck(self, entry: Entry) -> bool:
        """Strike out the line of a batch that an entry settles; tell whether it was owed."""
        sql = "DELETE FROM batch_lines WHERE batch = ? AND key = ? RETURNING key"
        return bool(self.database.query(sql, (entry.batch, _key(entry))))

    def _insert(self, rows: Sequence[Sequence[Any]], *, again: bool) -> dict[str, Completion]:
        """Insert completions; return those that the ledger held already."""
        held = self.lookup([row[0] for row in rows])
        if again:
            ours = {row[0]: _completion((row[0], *row[3:8])) for row in rows}
            held = {key: there for key, there in held.items() if there != ours[key]}
        fresh = [row for row in rows if row[0] not in held]
        for some in chunked(fresh, LOOKUP):
            if self.database.insert("completions", some) < len(some):
                # PostgreSQL only: somebody committed between our look and our insert. What differs was theirs.
                now = self.lookup([row[0] for row in some])
                held |= {row[0]: now[row[0]] for row in some if _completion((row[0], *row[3:8])) != now[row[0]]}
        return held

    def requests(self, key: str) -> list[tuple[Any, ...]]:
        """Return what is known of a key prefix: (key, table, endpoint, request, reason, detail, count)."""
        found = [
            (row[0], "completion", row[1], unpack(row[2]), row[3], bytes(row[4]).decode("utf-8", "replace"), 1)
            for row in self.database.query(
                "SELECT key, endpoint, request, finish_reason, answer FROM completions WHERE key LIKE ? LIMIT 20",
                (f"{key}%",),
            )
        ]
        return found + [
            (row[0], "failure", row[1], unpack(row[2]), row[3], row[4], row[5])
            for row in self.database.query(
                "SELECT key, endpoint, request, reason, detail, count FROM failures WHERE key LIKE ? LIMIT 20",
                (f"{key}%",),
            )
        ]

    def totals(self, by: By = "run") -> list[tuple[Any, ...]]:
        """Return rows of (group, completions, failed attempts, prompt tokens, completion tokens, money)."""
        return self.database.query(
            f"SELECT {by}, SUM(good), SUM(bad), SUM(p), SUM(c), SUM(cost) FROM ("  # noqa: S608
            f"SELECT {by}, 1 AS good, 0 AS bad, prompt_tokens AS p, completion_tokens AS c, cost FROM completions "
            f"UNION ALL SELECT {by}, 0, count, prompt_tokens, completion_tokens, cost FROM failures) AS paid "
            f"GROUP BY {by} ORDER BY {by}"
        )

    def bill(self, run: str) -> tuple[int, int, float | None, list[tuple[str, int, int, float | None]]]:
        """Return what a run has paid: (answers, their tokens, their money, billed attempts that gave none).

        Each of the last is (reason, attempts, tokens, money); money is None where no price is known.
        """
        answers, tokens, cost = self.database.query(
            "SELECT COUNT(*), COALESCE(SUM(prompt_tokens + completion_tokens), 0), SUM(cost) FROM completions "
            "WHERE run = ?",
            (run,),
        )[0]
        failed = self.database.query(
            "SELECT reason, SUM(count), SUM(prompt_tokens + completion_tokens), SUM(cost) FROM failures "
            "WHERE run = ? AND prompt_tokens + completion_tokens > 0 GROUP BY reason ORDER BY reason",
            (run,),
        )
        return int(answers), int(tokens), cost, [(row[0], int(row[1]), int(row[2]), row[3]) for row in failed]

    def spent(self, run: str) -> tuple[float, int]:
        """Return (money, tokens) that a run has paid so far, in this and earlier processes."""
        row = self.database.query(
            "SELECT COALESCE(SUM(cost), 0), COALESCE(SUM(tokens), 0) FROM ("
            "SELECT cost, prompt_tokens + completion_tokens AS tokens FROM completions WHERE run = ? "
            "UNION ALL SELECT cost, prompt_tokens + completion_tokens FROM failures WHERE run = ?) AS paid",
            (run, run),
        )[0]
        return float(row[0]), int(row[1])

    def sample(self, endpoint: str) -> Iterator[tuple[bytes, int, int]]:
        """Yield (packed request, prompt tokens, completion tokens) of an endpoint's completions in the keys' order.

        Keys are hashes, so the first ones are a random sample.
        """
        last = ""
        while rows := self.database.query(
            "SELECT key, request, prompt_tokens, completion_tokens FROM completions WHERE endpoint = ? AND key > ? "
            "ORDER BY key LIMIT ?",
            (endpoint, last, LOOKUP),
        ):
            yield from ((bytes(row[1]), int(row[2]), int(row[3])) for row in rows)
            last = rows[-1][0]

    def close(self) -> None:
        """Close the database."""
        self.database.close()


def _key(entry: Entry) -> str:
    return entry.completion.key if isinstance(entry, Paid) else entry.key


def _paid_row(entry: Paid, run: str, day: str) -> tuple[Any, ...]:
    one = entry.completion
    return (
        one.key,
        entry.endpoint,
        pack(entry.request),
        one.text.encode("utf-8", "surrogatepass"),
        one.finish_reason,
        one.prompt_tokens,
        one.completion_tokens,
        one.model,
        entry.cost,
        run,
        day,
    )


def _missed_row(entry: Missed, run: str, day: str) -> tuple[Any, ...]:
    return (
        entry.key,
        run,
        day,
        entry.reason,
        entry.endpoint,
        pack(entry.request),
        entry.detail,
        entry.count,
        entry.prompt_tokens,
        entry.completion_tokens,
        entry.cost,
    )


def _as_duplicate(entry: Paid) -> Missed:
    one = entry.completion
    detail = "another process committed this request first"
    tokens = (one.prompt_tokens, one.completion_tokens)
    return Missed(entry.endpoint, entry.request, one.key, "duplicate", detail, 1, *tokens, entry.cost)
