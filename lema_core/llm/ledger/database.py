"""Two SQL databases behind one small face: SQLite in WAL mode (a path) and PostgreSQL (a URL).

SQL is written once, with ``?`` for values. A connection belongs to the thread that uses it.
"""

import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from tenacity import Retrying, retry_if_exception, stop_after_delay, wait_random

from lema_core.errors import LedgerError, MissingDependencyError
from lema_core.llm.settings import DEFAULTS
from lema_core.system.files import make_private_file, restrict_file
from lema_core.system.packages import install_command
from lema_core.system.urls import Url, postgres_url

BUSY_MS = 120_000
"""With 24 writers SQLite's lock is handed out unfairly; a commit takes milliseconds, so minutes mean a stuck disk."""

Row = Sequence[Any]


class Database(Protocol):
    """What the ledger needs of a database."""

    where: str

    def transaction(self) -> Any:
        """Return a context manager: everything in it is committed, or nothing.

        Raises:
            LedgerError: the database did not take it.
        """

    def query(self, sql: str, values: Row = ()) -> list[tuple[Any, ...]]:
        """Run one statement and return its rows.

        Raises:
            LedgerError: the database did not take it.
        """

    def many(self, sql: str, rows: Sequence[Row]) -> None:
        """Run one statement for each row."""

    def insert(self, table: str, rows: Sequence[Row]) -> int:
        """Insert rows into all columns of a table, leaving rows with a known key as they are; return how many are new.

        One statement: while the event loop is busy, every statement of the ledger's thread waits for the interpreter.
        """

    def is_lost(self) -> bool:
        """Return whether the connection is gone, which a file's never is."""

    def is_conflict(self) -> bool:
        """Return whether the last error was a deadlock, or the like: the same again may succeed."""

    def reconnect(self) -> None:
        """Connect anew.

        Raises:
            LedgerError: the server does not answer.
        """

    def clock(self) -> float:
        """Return the time in seconds since 1970 by one clock for all that share the database: a server's own."""

    def backup(self, path: Path) -> None:
        """Write a consistent copy of the whole database to a new local file while others use it.

        Raises:
            LedgerError: it cannot be copied, or the database has its own program for that.
        """

    def close(self) -> None:
        """Close the connection."""


def is_postgres(url: str) -> bool:
    """Return whether the ledger's place is a PostgreSQL URL rather than a file.

    Raises:
        ConfigError: it is a URL of another kind, is malformed, or holds a password.
    """
    return postgres_url(url) is not None


def connect(url: str, schema: Sequence[str], checkpoint_s: float = DEFAULTS.checkpoint_s) -> Database:
    """Open the database and create what is missing in it; ``checkpoint_s`` as in `EngineSettings`.

    Raises:
        ConfigError: the URL cannot be used; see ``is_postgres``.
        LedgerError: it cannot be opened, or is no ledger.
        MissingDependencyError: a PostgreSQL URL without psycopg.
    """
    server = postgres_url(url)
    return _Sqlite(Path(url), schema, checkpoint_s) if server is None else _Postgres(server, schema)


class _Sqlite:
    """A file, shared by the processes of one machine."""

    def __init__(self, path: Path, schema: Sequence[str], checkpoint_s: float) -> None:
        self.where = str(path)
        self._checkpoint_s = checkpoint_s
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            # Prompts and answers: its owner's alone. SQLite gives new -wal and -shm the rights of the file.
            make_private_file(path)
            for beside in ("-wal", "-shm"):
                restrict_file(path.with_name(path.name + beside))
            self._connection = sqlite3.connect(
                path, timeout=BUSY_MS / 1000, isolation_level=None, check_same_thread=False, cached_statements=64
            )
            # Switching to WAL ignores the busy timeout: processes that start together must try again.
            for attempt in Retrying(
                retry=retry_if_exception(_is_busy), stop=stop_after_delay(60), wait=wait_random(0.01, 0.2), reraise=True
            ):
                with attempt:
                    self._connection.execute("PRAGMA journal_mode=WAL")
            # FULL: a completion that was paid for survives a power cut, not only a kill. Commits are grouped.
            self._connection.execute("PRAGMA synchronous=FULL")
        except (OSError, ValueError, sqlite3.Error) as error:
            raise LedgerError(
                f"cannot open the ledger {path}: {error}. It must be a SQLite file that LeMa wrote, on a local "
                "disk that can be written"
            ) from None

        self._checkpointed = time.monotonic()
        with self.transaction():
            for statement in schema:
                self._connection.execute(statement.replace("BYTEA", "BLOB"))

    @contextmanager
    def transaction(self) -> Iterator[None]:
        try:
            # IMMEDIATE: a read that becomes a write later would fail instead of waiting its turn.
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield
            except BaseException:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise
            self._connection.execute("COMMIT")
        except sqlite3.Error as error:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            raise LedgerError(_write_error(self.where, error)) from None
        if time.monotonic() - self._checkpointed > self._checkpoint_s:
            self._checkpoint()

    def _checkpoint(self) -> None:
        """Move the write-ahead log into the file; what would disturb another connection stays in it."""
        with suppress(sqlite3.Error):
            self._connection.execute("PRAGMA wal_checkpoint(PASSIVE)")
        self._checkpointed = time.monotonic()

    def query(self, sql: str, values: Row = ()) -> list[tuple[Any, ...]]:
        try:
            return self._connection.execute(sql, values).fetchall()
        except (sqlite3.Error, UnicodeError, OverflowError) as error:
            raise LedgerError(_write_error(self.where, error)) from None

    def many(self, sql: str, rows: Sequence[Row]) -> None:
        self._connection.executemany(sql, rows)

    def insert(self, table: str, rows: Sequence[Row]) -> int:
        return self._connection.execute(_insert(table, rows), [value for row in rows for value in row]).rowcount

    def is_lost(self) -> bool:
        return False

    def is_conflict(self) -> bool:
        return False

    def reconnect(self) -> None:
        """Do nothing: a file stays open."""

    def clock(self) -> float:
        return time.time()

    def backup(self, path: Path) -> None:
        try:
            make_private_file(path)
            with closing(sqlite3.connect(path)) as copy:
                self._connection.backup(copy)
                (found,) = copy.execute("PRAGMA quick_check(1)").fetchone()
        except sqlite3.Error as error:
            raise LedgerError(f"the ledger {self.where} cannot be copied: {error}") from None
        if found != "ok":
            raise LedgerError(
                f"the ledger {self.where} is damaged ({found}): no backup of it was made, and earlier ones are kept. "
                "Copy its files aside, then try `sqlite3 LEDGER .recover`"
            )

    def close(self) -> None:
        self._checkpoint()
        self._connection.close()


def _is_busy(error: BaseException) -> bool:
    return isinstance(error, sqlite3.OperationalError) and "locked" in str(error)


def _write_error(where: str, error: Exception) -> str:
    return (
        f"the ledger {where} cannot be used: {error}. Completions committed so far are kept; free the disk or repair "
        "the file, then run again"
    )


_COLLISIONS = frozenset({"40001", "40P01"})


class _Postgres:
    """A server, shared by several machines."""

    _state: str | None = None
    """The SQLSTATE of the last error."""

    def __init__(self, url: Url, schema: Sequence[str]) -> None:
        try:
            import psycopg
        except ImportError:
            raise MissingDependencyError(
                f"a ledger in PostgreSQL needs psycopg: run `{install_command('postgres')}`"
            ) from None
        self._error = psycopg.Error
        self._connect = partial(psycopg.connect, url.text, autocommit=True, connect_timeout=15)
        self.where = url.shown
        try:
            self._connection = self._connect()
            with self.transaction():
                # Two processes that create the same table at once collide in the catalogue: one at a time.
                self._connection.execute("SELECT pg_advisory_xact_lock(7021)")
                for statement in schema:
                    self._connection.execute(statement.encode())
        except psycopg.Error as error:
            raise LedgerError(f"cannot open the ledger {self.where}: {str(error).strip()}") from None

    @contextmanager
    def transaction(self) -> Iterator[None]:
        try:
            with self._connection.transaction():
                yield
        except self._error as error:
            raise self._to_ledger_error(error) from None

    def query(self, sql: str, values: Row = ()) -> list[tuple[Any, ...]]:
        try:
            cursor = self._connection.execute(_percent(sql), values)
        except self._error as error:
            raise self._to_ledger_error(error) from None
        except (UnicodeError, OverflowError) as error:
            raise LedgerError(_write_error(self.where, error)) from None
        return cursor.fetchall() if cursor.description else []

    def many(self, sql: str, rows: Sequence[Row]) -> None:
        with self._connection.cursor() as cursor:
            cursor.executemany(_percent(sql), rows)

    def insert(self, table: str, rows: Sequence[Row]) -> int:
        values = [value for row in rows for value in row]
        return self._connection.execute(_percent(_insert(table, rows)), values).rowcount

    def _to_ledger_error(self, error: Any) -> LedgerError:
        self._state = error.sqlstate
        return LedgerError(_write_error(self.where, error))

    def is_lost(self) -> bool:
        return bool(self._connection.closed)

    def is_conflict(self) -> bool:
        return self._state in _COLLISIONS

    def reconnect(self) -> None:
        try:
            self._connection = self._connect()
        except self._error as error:
            raise LedgerError(f"cannot open the ledger {self.where}: {str(error).strip()}") from None

    def clock(self) -> float:
        return float(self.query("SELECT EXTRACT(EPOCH FROM clock_timestamp())")[0][0])

    def backup(self, path: Path) -> None:
        raise LedgerError(
            f"the ledger {self.where} is in PostgreSQL, whose own program copies it: pg_dump --format=custom "
            f"--file={path} with the ledger's URL; pg_restore brings it back"
        )

    def close(self) -> None:
        self._connection.close()


def _insert(table: str, rows: Sequence[Row]) -> str:
    one = f"({','.join('?' * len(rows[0]))})"
    return f"INSERT INTO {table} VALUES {','.join([one] * len(rows))} ON CONFLICT DO NOTHING"  # noqa: S608


def _percent(sql: str) -> bytes:
    return sql.replace("?", "%s").encode()
