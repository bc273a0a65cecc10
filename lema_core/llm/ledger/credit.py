"""A run's budget over several processes: each has a credit line, granted out of what is left.

The ledger stores for each process how much more it may commit. A credit line grows in a transaction that reads what
the run has paid and what the other lines hold; it shrinks in the transaction that commits an answer. So payments and
credit lines together never exceed the budget, whichever process dies when. The credit of a dead process is free again
once its owner is removed (`Claims`).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from lema_core.llm.ledger.database import Database
from lema_core.llm.ledger.store import OPEN_BATCH, CompletionEntry, Entry, LedgerStore

_COLUMNS = ("dollars", "tokens", "lost_dollars", "lost_tokens")
GRANT_SHARE = 8
"""A grant is this part of what is left: requests for credit are few, and most is left for others."""
ROUNDING = 1e-9
"""Sums of floats miss a limit by less than this, in dollars or tokens."""


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
        return Amount(self.dollars + other.dollars, self.tokens + other.tokens)

    def __sub__(self, other: "Amount") -> "Amount":
        return Amount(self.dollars - other.dollars, self.tokens - other.tokens)

    def within(self, limit: "Amount") -> bool:
        """Return whether neither money nor tokens exceed the limit's."""
        return self.dollars <= limit.dollars + ROUNDING and self.tokens <= limit.tokens + ROUNDING


def limits_of(budget: Budget) -> Amount:
    """Return the limits as an amount, infinite without a limit."""
    return Amount(*(math.inf if limit is None else float(limit) for limit in (budget.dollars, budget.tokens)))


@dataclass(frozen=True, slots=True)
class CreditGrant:
    """The result of a request for credit."""

    granted: Amount
    spent: Amount
    """Committed by all processes of the run."""
    others_hold_credit: bool
    """Whether another process has credit: what it does not use comes back."""
    in_batches: Amount = Amount()
    """What batches under way may cost beyond all credit lines. What they do not use comes back at their collection."""
    unaccounted: Amount = Amount()
    """What may have been billed without an answer."""


class CreditLine:
    """One process's credit. Uses the ledger's thread. What it writes is absolute, so writing it twice is harmless."""

    def __init__(self, store: LedgerStore, run: str, owner: str, budget: Budget) -> None:
        self._store, self._run, self._owner, self._budget = store, run, owner, budget
        self._run_row = _run_row(run)
        # Two sums, because each has one writer: grants and charges the ledger's thread, extensions the event loop's.
        self._granted = self._extended = Amount()
        self._unaccounted = Amount()
        self.re_register()

    def re_register(self) -> None:
        """Insert the line if it is missing: at first, and after others took this process for dead."""
        row = (self._owner, self._run, *_values(self._open), *_values(self._unaccounted))
        with self._store.database.transaction():
            self._store.database.insert("credit", [(self._run_row, self._run, *[0.0] * 4), row])

    @property
    def _open(self) -> Amount:
        return self._granted + self._extended

    def extend(self, amount: Amount) -> None:
        """Add to the line without asking: a request cost more than was reserved for it.

        Called in the event loop's thread. The next commit writes it.
        """
        self._extended += amount

    def request(self, lacking: Amount) -> CreditGrant:
        """Add at least ``lacking`` to the line, or nothing."""
        database = self._store.database
        with database.transaction():
            # A row lock: one grant per run at a time, while PostgreSQL lets other transactions read.
            database.query("UPDATE credit SET tokens = 0 WHERE owner = ?", (self._run_row,))
            # Read in the order money moves (credit, batches, spent): a concurrent move is then counted twice, never
            # missed.
            (in_credit, unaccounted), in_batches = self._read_others(), self._read_batches()
            spent = Amount(*self._store.spent(self._run))
            taken = spent + in_credit + unaccounted + in_batches + self._open + self._unaccounted
            granted = _grant_size(lacking, limits_of(self._budget) - taken)
            self._write(self._open + granted, self._unaccounted)
        self._granted += granted
        # Sums of floats leave a trace after everything was returned.
        others_hold_credit = not in_credit.within(Amount(1e-6, 0.5))
        return CreditGrant(granted, spent, others_hold_credit, in_batches, unaccounted + self._unaccounted)

    def return_credit(self, spare: Amount, unaccounted: Amount, work: Callable[[], None] | None = None) -> None:
        """Shorten the line by what is spare, and by what may have been billed without an answer.

        The latter stays out of every process's reach, also after this one has ended. ``work`` is done in the same
        transaction.
        """
        with self._store.database.transaction():
            self._write(self._open - spare - unaccounted, self._unaccounted + unaccounted)
            if work:
                work()
        self._granted -= spare + unaccounted
        self._unaccounted += unaccounted

    def write_charges(self, entries: Sequence[Entry]) -> None:
        """Shorten the stored line by the cost of entries, inside the transaction that commits them."""
        self._write(self._open - _cost(entries), self._unaccounted)

    def apply_charges(self, entries: Sequence[Entry]) -> None:
        """Shorten the line in memory, after this transaction has succeeded."""
        self._granted -= _cost(entries)

    def _read_others(self) -> tuple[Amount, Amount]:
        """Return the credit of the other lines, and what they are unaccounted for."""
        sums = ", ".join(f"COALESCE(SUM({column}), 0)" for column in _COLUMNS)
        sql = f"SELECT {sums} FROM credit WHERE run = ? AND owner <> ?"  # noqa: S608
        dollars, tokens, *unaccounted = map(float, self._store.database.query(sql, (self._run, self._owner))[0])
        return Amount(dollars, tokens), Amount(*unaccounted)

    def _read_batches(self) -> Amount:
        """Return what batch lines may still cost whose process has ended or released them: no credit line has it."""
        sql = (
            "SELECT COALESCE(SUM(dollars), 0), COALESCE(SUM(tokens), 0) FROM batch_lines JOIN batches ON batch = id "  # noqa: S608
            f"WHERE run = ? AND {OPEN_BATCH} AND owner NOT IN (SELECT owner FROM owners)"
        )
        return Amount(*map(float, self._store.database.query(sql, (self._run,))[0]))

    def _write(self, credit: Amount, unaccounted: Amount) -> None:
        # Negative by rounding only, and a table of zeros is easier to read.
        values = (max(0.0, credit.dollars), max(0.0, credit.tokens), *_values(unaccounted), self._owner)
        self._store.database.query(f"UPDATE credit SET {' = ?, '.join(_COLUMNS)} = ? WHERE owner = ?", values)  # noqa: S608


def keep_unaccounted(database: Database, owner: str) -> None:
    """Add what a process may have been billed without an answer to its run's own row, before its line is removed.

    Inside the transaction that removes the line. A process that is removed by mistake, and comes back, is counted
    twice: keeping the limit matters more than the last of the budget.
    """
    sql = "SELECT run, lost_dollars, lost_tokens FROM credit WHERE owner = ? AND lost_tokens + lost_dollars > 0"
    for run, dollars, tokens in database.query(sql, (owner,)):
        database.query(
            "UPDATE credit SET lost_dollars = lost_dollars + ?, lost_tokens = lost_tokens + ? WHERE owner = ?",
            (dollars, tokens, _run_row(run)),
        )


def _run_row(run: str) -> str:
    """Return the name of the row that is the run's: its lock, and what ended processes are unaccounted for."""
    return f"run {run}"


def _values(amount: Amount) -> tuple[float, float]:
    return amount.dollars, amount.tokens


def _grant_size(lacking: Amount, left: Amount) -> Amount:
    """Return a share of what is left, or what is lacking if that is more; nothing if that is more than is left."""
    if not lacking.within(left):
        return Amount()
    # Without a limit of a kind nothing is granted: the guard's free amount of it is infinite already.
    pairs = ((lacking.dollars, left.dollars), (lacking.tokens, left.tokens))
    return Amount(*(0.0 if math.isinf(limit) else max(need, limit / GRANT_SHARE) for need, limit in pairs))


def _cost(entries: Sequence[Entry]) -> Amount:
    dollars = tokens = 0.0
    for entry in entries:
        usage = entry.completion if isinstance(entry, CompletionEntry) else entry
        dollars += entry.cost or 0.0
        tokens += usage.prompt_tokens + usage.completion_tokens
    return Amount(dollars, tokens)
