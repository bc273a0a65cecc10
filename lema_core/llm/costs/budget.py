"""A hard limit on what a run may pay, in money and in tokens, over all shards, processes and both transports.

Every request reserves the most it may cost before it is sent, and is settled by its usage. A request that does not fit
waits while others may turn out cheaper than reserved. When nothing is reserved any more, the run stops.

The process spends credit that the ledger granted it (`lema_core.llm.ledger.credit`), so the limit holds across
processes. ``_free`` is granted credit that is neither spent nor reserved.
"""

import asyncio
import math
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, Protocol, TypeVar

from lema_core.errors import BudgetExceededError
from lema_core.llm.costs.prices import money
from lema_core.llm.ledger.credit import Amount, Budget, CreditGrant, limits_of

T = TypeVar("T")

POLL_S = 0.25
"""How often to ask whether another process has returned credit."""


class CreditSource(Protocol):
    """Where a process gets credit from: the ledger."""

    async def request_credit(self, lacking: Amount) -> CreditGrant:
        """Add at least ``lacking`` to our credit line, or nothing."""

    def extend_credit(self, amount: Amount) -> None:
        """Add to our credit line without asking: a request cost more than was reserved."""

    async def return_credit(self, spare: Amount, unaccounted: Amount) -> None:
        """Return spare credit, and keep out of reach what may have been billed without an answer."""


class BudgetGuard:
    """What this process may pay, has paid and has reserved."""

    def __init__(self, budget: Budget | None, source: CreditSource | None) -> None:
        self.limits = budget or Budget()
        self._source = source
        # Infinite for a kind (money, tokens) without a limit, so every request fits.
        self._free = Amount(*(math.inf if math.isinf(limit) else 0.0 for limit in _values(limits_of(self.limits))))
        self._reservations = 0
        self._unaccounted = Amount()
        self._changed = asyncio.Event()
        self._borrowing = asyncio.Lock()
        self._exhausted_until = 0.0
        self._transfers: set[asyncio.Task[Any]] = set()

    async def reserve(self, upper_bound: Amount) -> Amount:
        """Reserve the most that a request may cost; wait while requests in flight, of any process, may make room.

        Raises:
            BudgetExceededError: it does not fit, and nothing is in flight any more.
            LedgerError: the ledger, which holds the budget, cannot be used.
        """
        while (reserved := await self.try_reserve(upper_bound)) is None:
            # The event covers our own requests; other processes are asked again after the timeout.
            with suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), POLL_S)
        return reserved

    async def try_reserve(self, upper_bound: Amount) -> Amount | None:
        """Reserve without waiting; None if requests in flight may still make room.

        Raises:
            BudgetExceededError: it does not fit, and nothing is in flight any more.
            LedgerError: the ledger, which holds the budget, cannot be used.
        """
        if not upper_bound.within(self._free) and not await self._borrow(upper_bound):
            return None
        self._reservations += 1
        self._free -= upper_bound
        return upper_bound

    async def enlarge(self, reserved: Amount, upper_bound: Amount) -> Amount | None:
        """Return a reservation that was enlarged to a new upper bound; None if it does not fit now."""
        lacking = Amount(*(max(0.0, need) for need in _values(upper_bound - reserved)))
        # It never raises: our own reservation is one that may make room.
        if not lacking.within(self._free) and not await self._borrow(lacking):
            return None
        self._free -= lacking
        return reserved + lacking

    def settle(self, reserved: Amount, used: Amount, *, unaccounted: bool = False) -> None:
        """End a reservation and charge what was used; ``unaccounted``: no commit will ever account for it."""
        self._free += reserved
        self.charge(used)
        self._unaccounted += used if unaccounted else Amount()
        self.end_reservation()

    def end_reservation(self) -> None:
        """Count one reservation less, without returning it: it was settled, or another owner has taken it over."""
        self._reservations -= 1
        self._exhausted_until = 0.0
        # A new event for each change: a waiter that comes later must not see the old one.
        self._changed.set()
        self._changed = asyncio.Event()

    def charge(self, used: Amount) -> None:
        """Charge what was never reserved here, for example a batch that an earlier process submitted."""
        self._free -= used
        short = Amount(*(max(0.0, -free) for free in _values(self._free)))
        # The endpoint has billed it already: refusing would not make it unspent, so the credit line grows instead.
        if self._source is not None and short != Amount():
            self._free += short
            self._source.extend_credit(short)

    async def return_idle_credit(self) -> None:
        """Return credit that no request of ours needs now, and have the ledger keep what is unaccounted for."""
        spare = Amount(*(0.0 if math.isinf(free) else max(0.0, free) for free in _values(self._free)))
        # While requests are reserved, the next ones will need the credit that these leave over.
        if self._reservations:
            spare = Amount()
        if self._source is not None and (spare, self._unaccounted) != (Amount(), Amount()):
            unaccounted, self._unaccounted = self._unaccounted, Amount()
            self._free -= spare
            await self._run_to_end(self._source.return_credit(spare, unaccounted))

    async def _borrow(self, upper_bound: Amount) -> bool:
        """Request credit until the request fits; return False if requests in flight may still make room."""
        clock = asyncio.get_running_loop().time
        async with self._borrowing:
            # Another waiter may have been granted enough meanwhile, or have been refused a moment ago.
            while not upper_bound.within(self._free):
                if self._source is None or clock() < self._exhausted_until:
                    return False
                lacking = Amount(*(max(0.0, need) for need in _values(upper_bound - self._free)))
                was_busy = self._reservations > 0
                grant = await self._run_to_end(self._request_credit(self._source, lacking))
                if grant.granted == Amount():
                    if was_busy and self._reservations == 0:
                        # The last ones ended while the ledger answered: what they left over may be enough.
                        continue
                    if self._reservations == 0 and not grant.others_hold_credit:
                        raise BudgetExceededError(self._describe(upper_bound, grant))
                    # Others may make room. What we hold idle is exactly what another process may lack.
                    await self.return_idle_credit()
                    self._exhausted_until = clock() + POLL_S
            return True

    async def _request_credit(self, source: CreditSource, lacking: Amount) -> CreditGrant:
        # One coroutine for both: if the waiter is cancelled in between, the ledger and this process must still agree.
        grant = await source.request_credit(lacking)
        self._free += grant.granted
        return grant

    async def _run_to_end(self, transfer: Coroutine[Any, Any, T]) -> T:
        """Await a transfer that continues if its waiter is cancelled: both sides must book the same amount."""
        task = asyncio.create_task(transfer)
        self._transfers.add(task)
        task.add_done_callback(self._transfers.discard)
        return await asyncio.shield(task)

    def _describe(self, upper_bound: Amount, grant: CreditGrant) -> str:
        """Describe for the user what was spent, what is still held back, and what the next request needs."""
        parts, spent, unaccounted = [], grant.spent, grant.unaccounted + self._unaccounted
        if self.limits.dollars is not None:
            held_back = _describe_held_back(grant.in_batches.dollars, unaccounted.dollars, money)
            parts.append(
                f"{money(spent.dollars)} of {money(self.limits.dollars)} are spent{held_back} and the next request may "
                f"cost {money(upper_bound.dollars)}"
            )
        if self.limits.tokens is not None:
            held_back = _describe_held_back(grant.in_batches.tokens, unaccounted.tokens, "{:,.0f}".format)
            parts.append(
                f"{spent.tokens:,.0f} of {self.limits.tokens:,} tokens are used{held_back} and the next request may "
                f"use {upper_bound.tokens:,.0f}"
            )
        if grant.in_batches.tokens > 0:
            parts.append("run again when the batches are done: what they do not use comes back")
        return f"the budget is reached: {'; '.join(parts)}"


def _describe_held_back(in_batches: float, unaccounted: float, write: Callable[[float], str]) -> str:
    batches = f", {write(in_batches)} are held by batches under way" if in_batches > 0 else ""
    lost = f", {write(unaccounted)} may have been billed for answers that were lost" if unaccounted > 0 else ""
    return batches + lost


def _values(amount: Amount) -> tuple[float, float]:
    return amount.dollars, amount.tokens
