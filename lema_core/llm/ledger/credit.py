"""A run's budget, shared by all processes that work on it: each draws a line of credit from what is left.

The ledger holds for each process how much more it may commit. A line grows in a transaction that sees what the run has
paid and what the others hold; it shrinks in the transaction that commits an answer. So payments and lines together
never exceed the budget, whoever dies when. What a dead process held is free once its owner is buried (``Claims``).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from lema_core.llm.ledger.database import Database
from lema_core.llm.ledger.store import OPEN, Entry, LedgerStore, Paid

_COLUMNS = ("dollars", "tokens", "lost_dollars", "lost_tokens")
SHARE = 8
"""The part of what is left that is drawn at once: few draws, and most is left for others."""
ROUNDING = 1e-9
"""Sums in floating point miss a limit by less than this, in dollars or tokens."""


@dataclass(frozen=True, slots=True)
class Budget:
    """Limits over the whole run, earlier and other processes included. None: no limit of this kind."""

    dollars: float | None = None
    tokens: int | None = None


@dataclass(frozen=True, slots=True)
class Amount:
    """Money and tokens."""

    dollars: float = 0.0
    tokens: float = 0.0

    def __add__(self, other: "Amount") -> "Amount":
        """Return the sum."""
        return Amount(self.dollars + other.dollars, self.tokens + other.tokens)

    def __sub__(self, other: "Amount") -> "Amount":
        """Return the difference."""
        return Amount(self.dollars - other.dollars, self.tokens - other.tokens)

    def within(self, limit: "Amount") -> bool:
        """Tell whether neither money nor tokens are more than the limit's."""
        return self.dollars <= limit.dollars + ROUNDING and self.tokens <= limit.tokens + ROUNDING


def limit_of(budget: Budget) -> Amount:
    """Return the limits as an amount; infinite where there is none."""
    return Amount(*(math.inf if limit is None else float(limit) for limit in (budget.dollars, budget.tokens)))


@dataclass(frozen=True, slots=True)
class Draw:
    """What came of an attempt to draw."""

    granted: Amount
    spent: Amount
    """Committed by all processes of the run."""
    others: bool
    """Whether another process holds a line: what it does not use comes back."""
    batches: Amount = Amount()
    """What batches under way may cost that no line holds: what they do not use comes back when they are collected."""
    lost: Amount = Amount()
    """What may have been paid without an answer."""


class Credit:
    """One process's line. Uses the ledger's thread; what is written is absolute, so writing it twice does no harm."""

    def __init__(self, store: LedgerStore, run: str, owner: str, budget: Budget) -> None:
        self._store, self._run, self._owner, self._budget = store, run, owner, budget
        self._lock = _own_row(run)
        self._drawn = self._lost = Amount()
        self._overdrawn = Amount()
        self.renew()

    def renew(self) -> None:
        """Write the line where it is not there: at first, and after others took this process for dead."""
        row = (self._owner, self._run, *_values(self._open), *_values(self._lost))
        with self._store.database.transaction():
            self._store.database.insert("credit", [(self._lock, self._run, *[0.0] * 4), row])

    @property
    def _open(self) -> Amount:
        return self._drawn + self._overdrawn

    def overdraw(self, amount: Amount) -> None:
        """Make the line longer without asking: a request turned out dearer than was set aside for it.

        Called in the event loop's thread, and only there is this sum changed. The next commit writes it.
        """
        self._overdrawn += amount

    def draw(self, lacking: Amount) -> Draw:
        """Add at least ``lacking`` to the line, or nothing."""
        database = self._store.database
        with database.transaction():
            # One at a time; PostgreSQL lets other transactions read meanwhile.
            database.query("UPDATE credit SET tokens = 0 WHERE owner = ?", (self._lock,))
            # In the direction in which money moves, from lines of credit over batches to what is paid: what moves
            # between two reads is counted twice rather than not at all.
            (held, lost), batches = self._others(), self._batches()
            spent = Amount(*self._store.spent(self._run))
            left = limit_of(self._budget) - spent - held - lost - batches - self._open - self._lost
            granted = _granted(lacking, left)
            self._write(self._open + granted, self._lost)
        self._drawn += granted
        # Sums of floats leave a trace where nothing is held any more.
        others = not held.within(Amount(1e-6, 0.5))
        return Draw(granted, spent, others, batches, lost + self._lost)

    def give_back(self, spare: Amount, lost: Amount, also: Callable[[], None] | None = None) -> None:
        """Make the line shorter by what is not needed, and by what may have been paid without an answer.

        The latter stays out of everybody's reach, also when this process has ended. ``also`` is done in the same
        transaction.
        """
        with self._store.database.transaction():
            self._write(self._open - spare - lost, self._lost + lost)
            if also:
                also()
        self._drawn -= spare + lost
        self._lost += lost

    def write_committed(self, entries: Sequence[Entry]) -> None:
        """Shorten the line by what entries cost, inside the transaction that commits them."""
        self._write(self._open - _cost(entries), self._lost)

    def committed(self, entries: Sequence[Entry]) -> None:
        """Take note that this transaction has succeeded."""
        self._drawn -= _cost(entries)

    def _others(self) -> tuple[Amount, Amount]:
        """Return what the lines of the others hold, and what these have lost."""
        sums = ", ".join(f"COALESCE(SUM({column}), 0)" for column in _COLUMNS)
        sql = f"SELECT {sums} FROM credit WHERE run = ? AND owner <> ?"  # noqa: S608
        dollars, tokens, *lost = map(float, self._store.database.query(sql, (self._run, self._owner))[0])
        return Amount(dollars, tokens), Amount(*lost)

    def _batches(self) -> Amount:
        """Return what lines of batches may still cost whose process has ended or let go: no line of credit holds it."""
        sql = (
            "SELECT COALESCE(SUM(dollars), 0), COALESCE(SUM(tokens), 0) FROM batch_lines JOIN batches ON batch = id "  # noqa: S608
            f"WHERE run = ? AND {OPEN} AND owner NOT IN (SELECT owner FROM owners)"
        )
        return Amount(*map(float, self._store.database.query(sql, (self._run,))[0]))

    def _write(self, line: Amount, lost: Amount) -> None:
        # Below zero by rounding only, and a table of zeros is easier to read.
        values = (max(0.0, line.dollars), max(0.0, line.tokens), lost.dollars, lost.tokens, self._owner)
        self._store.database.query(f"UPDATE credit SET {' = ?, '.join(_COLUMNS)} = ? WHERE owner = ?", values)  # noqa: S608


def keep_lost(database: Database, owner: str) -> None:
    """Add what a process may have been billed without an answer to its run's own row, before its line is removed.

    Inside the transaction that removes it. One that was removed by mistake, and comes back, is then counted twice: a
    limit that is kept is worth more than the last of the budget.
    """
    sql = "SELECT run, lost_dollars, lost_tokens FROM credit WHERE owner = ? AND lost_tokens + lost_dollars > 0"
    for run, dollars, tokens in database.query(sql, (owner,)):
        database.query(
            "UPDATE credit SET lost_dollars = lost_dollars + ?, lost_tokens = lost_tokens + ? WHERE owner = ?",
            (dollars, tokens, _own_row(run)),
        )


def _own_row(run: str) -> str:
    """Return the name of the row that is the run's and no process's: its lock, and what ended processes have lost."""
    return f"run {run}"


def _values(amount: Amount) -> tuple[float, float]:
    return amount.dollars, amount.tokens


def _granted(lacking: Amount, left: Amount) -> Amount:
    """Return what a draw adds: a share of what is left or what is lacking if that is more; nothing without a limit."""
    if not lacking.within(left):
        return Amount()
    pairs = ((lacking.dollars, left.dollars), (lacking.tokens, left.tokens))
    return Amount(*(0.0 if math.isinf(limit) else max(need, limit / SHARE) for need, limit in pairs))


def _cost(entries: Sequence[Entry]) -> Amount:
    tokens = sum(
        one.completion.prompt_tokens + one.completion.completion_tokens
        if isinstance(one, Paid)
        else one.prompt_tokens + one.completion_tokens
        for one in entries
    )
    return Amount(sum(one.cost or 0.0 for one in entries), float(tokens))
