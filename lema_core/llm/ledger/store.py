"""The ledger's tables and the statements on them, synchronous. `Ledger` is the asynchronous layer above.

Completions and failures are kept apart: failures are counted, with their reason and what was paid for them, and are
never served as answers. Answers are stored as bytes, because PostgreSQL's text refuses NUL and models write it.
"""

import datetime as dt
import json
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, Literal

from lema_core.errors import LedgerError
from lema_core.llm.ledger.database import Database, connect
from lema_core.llm.requests import Completion
from lema_core.llm.settings import DEFAULTS
from lema_core.system.chunking import chunked
from lema_core.thinking import separate

# For both databases. An existing table is left as it is: a changed one needs another name. A process of an older
# version writes rows of all columns that it knows, which SQLite refuses for a table that has grown. So what came later
# has a table of its own, with a row only where it says something.
SCHEMA = """
CREATE TABLE IF NOT EXISTS completions (
    key TEXT PRIMARY KEY, endpoint TEXT NOT NULL, request BYTEA NOT NULL, answer BYTEA NOT NULL,
    finish_reason TEXT NOT NULL, prompt_tokens BIGINT NOT NULL, completion_tokens BIGINT NOT NULL, model TEXT NOT NULL,
    cost DOUBLE PRECISION, run TEXT NOT NULL, day TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS completions_totals
    ON completions (run, endpoint, day, prompt_tokens, completion_tokens, cost);
CREATE TABLE IF NOT EXISTS completion_details (
    key TEXT PRIMARY KEY, thinking BYTEA NOT NULL, cached_tokens BIGINT NOT NULL, reasoning_tokens BIGINT NOT NULL,
    cache_write_tokens BIGINT NOT NULL);
CREATE TABLE IF NOT EXISTS failures (
    key TEXT NOT NULL, run TEXT NOT NULL, day TEXT NOT NULL, reason TEXT NOT NULL, endpoint TEXT NOT NULL,
    request BYTEA NOT NULL, detail TEXT NOT NULL, count BIGINT NOT NULL, prompt_tokens BIGINT NOT NULL,
    completion_tokens BIGINT NOT NULL, cost DOUBLE PRECISION, PRIMARY KEY (key, run, day, reason));
CREATE TABLE IF NOT EXISTS failure_details (
    key TEXT NOT NULL, run TEXT NOT NULL, day TEXT NOT NULL, reason TEXT NOT NULL, endpoint TEXT NOT NULL,
    cached_tokens BIGINT NOT NULL, reasoning_tokens BIGINT NOT NULL, PRIMARY KEY (key, run, day, reason));
CREATE TABLE IF NOT EXISTS owners (
    owner TEXT PRIMARY KEY, machine TEXT NOT NULL, pid BIGINT NOT NULL, started DOUBLE PRECISION NOT NULL,
    beat DOUBLE PRECISION NOT NULL);
CREATE TABLE IF NOT EXISTS claims (key TEXT PRIMARY KEY, owner TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS claims_by_owner ON claims (owner);
CREATE TABLE IF NOT EXISTS pools (pool TEXT NOT NULL, owner TEXT NOT NULL, PRIMARY KEY (pool, owner));
CREATE TABLE IF NOT EXISTS credit (
    owner TEXT PRIMARY KEY, run TEXT NOT NULL, dollars DOUBLE PRECISION NOT NULL, tokens DOUBLE PRECISION NOT NULL,
    lost_dollars DOUBLE PRECISION NOT NULL, lost_tokens DOUBLE PRECISION NOT NULL);
CREATE TABLE IF NOT EXISTS batches (
    id TEXT PRIMARY KEY, endpoint TEXT NOT NULL, run TEXT NOT NULL, owner TEXT NOT NULL, remote TEXT,
    state TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS batch_places (batch TEXT PRIMARY KEY, place TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS batch_creations (
    batch TEXT PRIMARY KEY, input_file TEXT NOT NULL, asked_at DOUBLE PRECISION NOT NULL);
CREATE TABLE IF NOT EXISTS batch_lines (
    batch TEXT NOT NULL, key TEXT NOT NULL, request BYTEA NOT NULL, tries BIGINT NOT NULL, first TEXT,
    dollars DOUBLE PRECISION NOT NULL, tokens DOUBLE PRECISION NOT NULL, PRIMARY KEY (batch, key));
CREATE INDEX IF NOT EXISTS batch_lines_by_key ON batch_lines (key);
CREATE TABLE IF NOT EXISTS learned_rules (
    endpoint TEXT NOT NULL, place TEXT NOT NULL, field TEXT NOT NULL, new_name TEXT NOT NULL, words TEXT NOT NULL,
    day TEXT NOT NULL, PRIMARY KEY (endpoint, place, field))
"""

By = Literal["run", "endpoint", "day"]
OPEN_BATCH = "state IN ('intended', 'submitted')"
"""The condition of a batch that may still answer."""
LOOKUP = 500
"""Keys in one SELECT."""

_ADD_FAILURE = (
    "INSERT INTO failures (key, run, day, reason, endpoint, request, detail, count, prompt_tokens, completion_tokens, "
    "cost) VALUES (?,?,?,?,?,?,?,?,?,?,?) ON CONFLICT (key, run, day, reason) DO UPDATE SET "
    "count = failures.count + excluded.count, detail = excluded.detail, "
    "prompt_tokens = failures.prompt_tokens + excluded.prompt_tokens, "
    "completion_tokens = failures.completion_tokens + excluded.completion_tokens, "
    "cost = COALESCE(failures.cost + excluded.cost, failures.cost, excluded.cost)"
)
_ADD_DETAILS = (
    "INSERT INTO failure_details VALUES (?,?,?,?,?,?,?) ON CONFLICT (key, run, day, reason) DO UPDATE SET "
    "cached_tokens = failure_details.cached_tokens + excluded.cached_tokens, "
    "reasoning_tokens = failure_details.reasoning_tokens + excluded.reasoning_tokens"
)
_FIELDS = (
    "completions.key, answer, finish_reason, prompt_tokens, completion_tokens, model, thinking, cached_tokens, "
    "reasoning_tokens, cache_write_tokens"
)
_COMPLETIONS = "completions LEFT JOIN completion_details ON completion_details.key = completions.key"


@dataclass(frozen=True, slots=True)
class CompletionEntry:
    """A completion to be committed, with its request and its cost (None: no price known)."""

    endpoint: str
    request: str
    completion: Completion
    cost: float | None
    batch: str = ""
    """Our id of the batch whose line this settles: committed once, whichever process collects the batch."""


@dataclass(frozen=True, slots=True)
class FailureEntry:
    """Failed attempts; some of them are billed all the same."""

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
    """False: the request is tried again and keeps its claim."""
    batch: str = ""
    details: tuple[int, int] = (0, 0)
    """Cached tokens, of the prompt's, and reasoning tokens, of the completion's."""


Entry = CompletionEntry | FailureEntry


def placeholders(count: int) -> str:
    """Return ``?,?,?`` for a statement with ``count`` values."""
    return ",".join("?" * count)


def pack(text: str) -> bytes:
    """Compress a request: prompts repeat their examples. Level 1 takes about 20 microseconds."""
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
    # No row of details means that there is nothing to say beyond the defaults.
    thinking, *details = ("", 0, 0, 0) if row[6] is None else (answer_text(row[0], row[6]), *row[7:10])
    # SQLite keeps a text in a column of numbers, and gives it back as a text.
    if any(type(count) is not int for count in (row[3], row[4], *details)) or not isinstance(row[2], str):
        raise LedgerError(f"the ledger's row with the key {row[0]!r} holds no completion: {DAMAGED}")
    if not thinking:
        # Older versions stored the text with its thinking.
        thinking, text, _ = separate(text)
    return Completion(row[0], text, row[2], row[3], row[4], row[5], thinking, *details)


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

    def __init__(self, url: str, checkpoint_s: float = DEFAULTS.checkpoint_s) -> None:
        self.database: Database = connect(url, SCHEMA.strip().split(";"), checkpoint_s)

    def lookup(self, keys: Sequence[str]) -> dict[str, Completion]:
        """Return the stored completions of some keys."""
        stored: dict[str, Completion] = {}
        for some in chunked(keys, LOOKUP):
            sql = f"SELECT {_FIELDS} FROM {_COMPLETIONS} WHERE completions.key IN ({placeholders(len(some))})"  # noqa: S608
            rows = self.database.query(sql, some)
            stored.update((row[0], _completion(row)) for row in rows)
        return stored

    def learned_rules(self, endpoint: str, place: str) -> list[tuple[str, str, str]]:
        """Return what an endpoint's refusals taught: (field, its new name or nothing, the endpoint's words)."""
        sql = "SELECT field, new_name, words FROM learned_rules WHERE endpoint = ? AND place = ? ORDER BY day, field"
        return [(str(row[0]), str(row[1]), str(row[2])) for row in self.database.query(sql, (endpoint, place))]

    def learn_rules(self, endpoint: str, place: str, rows: Sequence[tuple[str, str, str]]) -> None:
        """Remember what a refusal taught; what is known of a field stays."""
        day = today()
        with self.database.transaction():
            self.database.insert("learned_rules", [(endpoint, place, *row, day) for row in rows])

    def pending_in_batches(self, keys: Sequence[str], except_batches: tuple[str, str] = ("", "")) -> set[str]:
        """Return the keys that open batches, two excepted, will answer: they are billed, or will be."""
        keys_in_batches: set[str] = set()
        for some in chunked(keys, LOOKUP):
            sql = (
                f"SELECT key FROM batch_lines JOIN batches ON batch = id WHERE {OPEN_BATCH} AND id NOT IN (?, ?) "  # noqa: S608
                f"AND key IN ({placeholders(len(some))})"
            )
            keys_in_batches.update(row[0] for row in self.database.query(sql, [*except_batches, *some]))
        return keys_in_batches

    def commit(
        self,
        entries: Sequence[Entry],
        run: str,
        work: Callable[[Sequence[Entry]], None] | None = None,
        *,
        is_retry: bool = False,
    ) -> list[Completion | None]:
        """Commit entries in one transaction; return for each completion the one that the ledger now has.

        If another process committed the same key first, its completion stays and ours is counted as a failure
        ``duplicate`` with its cost: totals state what was paid, not what was useful. An entry of a batch line that is
        gone was committed by the process that removed the line, and is skipped.

        Args:
            entries: completions and failures.
            run: the run that pays.
            work: done in the same transaction.
            is_retry: an earlier try of this commit may have arrived, so an equal stored completion is ours.
        """
        day = today()
        with self.database.transaction():
            # Every process commits in the same order: in PostgreSQL a row waits for another's uncommitted one, and two
            # processes that wait for each other are a deadlock.
            fresh, before = self._not_booked(sorted(entries, key=_key))
            paid = [entry for entry in fresh if isinstance(entry, CompletionEntry)]
            missed = [entry for entry in fresh if isinstance(entry, FailureEntry)]
            theirs = self._insert(paid, run, day, is_retry=is_retry)
            # Both processes paid: the second payment stays in the totals, as a failure of its own class.
            for entry in paid:
                if (ours := entry.completion).key in theirs:
                    tokens = (ours.prompt_tokens, ours.completion_tokens)
                    detail = "another process committed this request first"
                    counts = (ours.cached_tokens, ours.reasoning_tokens)
                    missed.append(
                        FailureEntry(
                            entry.endpoint,
                            entry.request,
                            ours.key,
                            "duplicate",
                            detail,
                            1,
                            *tokens,
                            entry.cost,
                            details=counts,
                        )
                    )
            missed.sort(key=_key)
            if missed:
                self.database.many(_ADD_FAILURE, [_failure_row(entry, run, day) for entry in missed])
            details = [entry for entry in missed if any(entry.details)]
            rows = [(entry.key, run, day, entry.reason, entry.endpoint, *entry.details) for entry in details]
            if rows:
                self.database.many(_ADD_DETAILS, rows)
            # With the commit, not after it: in between another process could claim the key and pay again.
            done = [_key(entry) for entry in fresh if isinstance(entry, CompletionEntry) or entry.final]
            for keys in chunked(done, LOOKUP):
                self.database.query(f"DELETE FROM claims WHERE key IN ({placeholders(len(keys))})", keys)  # noqa: S608
            # Inside: the credit line and the spent money change together, or neither does.
            if work:
                work(entries)
            theirs |= before
        return [
            theirs.get(entry.completion.key, entry.completion) if isinstance(entry, CompletionEntry) else None
            for entry in entries
        ]

    def _not_booked(self, entries: Sequence[Entry]) -> tuple[list[Entry], dict[str, Completion]]:
        """Return the entries that are not committed yet, and the completions of those whose batch line is gone."""
        # Of several processes that collect a batch, only the one that deletes the line gets the row, and commits.
        sql = "DELETE FROM batch_lines WHERE batch = ? AND key = ? RETURNING key"
        late = [entry for entry in entries if entry.batch and not self.database.query(sql, (entry.batch, _key(entry)))]
        stored = self.lookup([_key(entry) for entry in late])
        # A line may also be gone because the user gave the batch up: its late answer is new then, and committed.
        booked = {id(entry) for entry in late if isinstance(entry, FailureEntry) or _key(entry) in stored}
        return [entry for entry in entries if id(entry) not in booked], stored

    def _insert(
        self, entries: Sequence[CompletionEntry], run: str, day: str, *, is_retry: bool
    ) -> dict[str, Completion]:
        """Insert completions; return those that were stored before and are not ours."""
        ours = {entry.completion.key: entry.completion for entry in entries}
        stored = self.lookup(list(ours))
        # Nobody knows whether the first try arrived: an equal answer is ours, and paid once.
        if is_retry:
            stored = {key: theirs for key, theirs in stored.items() if theirs != ours[key]}
        fresh = [entry for entry in entries if entry.completion.key not in stored]
        # Rows with a known key are skipped and not counted, so a short count means that another process was faster.
        for some in chunked(fresh, LOOKUP):
            if self.database.insert("completions", [_completion_row(entry, run, day) for entry in some]) < len(some):
                # PostgreSQL only: another process committed between our look-up and our insert. What differs is theirs.
                now = self.lookup([entry.completion.key for entry in some])
                stored |= {key: theirs for key, theirs in now.items() if _is_other(theirs, ours[key])}
            # After the comparison: details of ours must never stand beside an answer of theirs.
            added = [entry.completion for entry in some if entry.completion.key not in stored]
            self.insert_details([(row.key, row.thinking, *_detail_counts(row)) for row in added])
        return stored

    def insert_details(self, rows: Sequence[tuple[str, str, int, int, int]]) -> None:
        """Insert (key, thinking, cached, reasoning, cache write tokens) of completions, where they say anything."""
        telling = [(row[0], row[1].encode("utf-8", "surrogatepass"), *row[2:]) for row in rows if any(row[1:])]
        for some in chunked(telling, LOOKUP):
            self.database.insert("completion_details", some)

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

    def detail_totals(self, by: By = "run") -> dict[str, tuple[int, int]]:
        """Return (cached, reasoning tokens) by group; they are part of the prompt and completion tokens of `totals`."""
        rows = self.database.query(
            f"SELECT {by}, SUM(cached), SUM(thought) FROM ("  # noqa: S608
            f"SELECT {by}, cached_tokens AS cached, reasoning_tokens AS thought FROM completion_details "
            "JOIN completions ON completions.key = completion_details.key "
            f"UNION ALL SELECT {by}, cached_tokens, reasoning_tokens FROM failure_details) AS details "
            f"GROUP BY {by}"
        )
        return {str(row[0]): (int(row[1]), int(row[2])) for row in rows}

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

    def sample(self, endpoint: str) -> Iterator[tuple[bytes, int, int, int]]:
        """Yield (packed request, prompt, completion, cached tokens) of an endpoint's completions in the keys' order.

        Keys are hashes, so the first ones are a random sample.
        """
        # By key instead of OFFSET: each page is one look-up in the index.
        last = ""
        while rows := self.database.query(
            "SELECT completions.key, request, prompt_tokens, completion_tokens, COALESCE(cached_tokens, 0) "  # noqa: S608
            f"FROM {_COMPLETIONS} WHERE endpoint = ? AND completions.key > ? ORDER BY completions.key LIMIT ?",
            (endpoint, last, LOOKUP),
        ):
            yield from ((bytes(row[1]), int(row[2]), int(row[3]), int(row[4])) for row in rows)
            last = rows[-1][0]

    def close(self) -> None:
        """Close the database."""
        self.database.close()


def _key(entry: Entry) -> str:
    return entry.completion.key if isinstance(entry, CompletionEntry) else entry.key


def _is_other(theirs: Completion, ours: Completion) -> bool:
    """Return whether a stored completion is another process's; ours may be stored without its details yet."""
    plain: dict[str, Any] = dict.fromkeys(("cached_tokens", "reasoning_tokens", "cache_write_tokens"), 0)
    plain["thinking"] = ""
    return theirs != ours and replace(theirs, **plain) != replace(ours, **plain)


def _detail_counts(completion: Completion) -> tuple[int, int, int]:
    return completion.cached_tokens, completion.reasoning_tokens, completion.cache_write_tokens


def _completion_row(entry: CompletionEntry, run: str, day: str) -> tuple[Any, ...]:
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


def _failure_row(entry: FailureEntry, run: str, day: str) -> tuple[Any, ...]:
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
