"""A hard limit on what a run may pay, in money and in tokens, over all shards, processes and both transports.

Every request reserves the most it may cost before it is sent and is settled by its usage. A request that does not fit
waits while others may still turn out cheaper than reserved; when nothing is reserved any more, the run stops.
"""

import asyncio
import math
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, Protocol, TypeVar

from lema_core.errors import BudgetExceededError
from lema_core.llm.costs.prices import money
from lema_core.llm.ledger.credit import Amount, Budget, Draw, limit_of

T = TypeVar("T")

POLL_S = 0.25
"""How often to ask whether another process has given something back."""


class Lender(Protocol):
    """Where lines of credit come from."""

    async def draw(self, lacking: Amount) -> Draw:
        """Add at least so much to our line, or nothing."""

    def overdraw(self, amount: Amount) -> None:
        """Take note that we pay so much more than was set aside."""

    async def give_back(self, spare: Amount, lost: Amount) -> None:
        """Return what our line has too much, and say what may have been paid without an answer."""


class Account:
    """What this process may pay, has paid and has promised to pay."""

    def __init__(self, budget: Budget | None, lender: Lender | None) -> None:
        self.budget = budget or Budget()
        self._lender = lender
        # What is neither paid nor set aside. Without a limit of a kind there is enough of it.
        self._free = Amount(*(math.inf if math.isinf(limit) else 0.0 for limit in _values(limit_of(self.budget))))
        self._holders = 0
        self._lost = Amount()
        self._settled = asyncio.Event()
        self._drawing = asyncio.Lock()
        self._dry_until = 0.0
        self._transfers: set[asyncio.Task[Any]] = set()

    async def reserve(self, most: Amount) -> Amount:
        """Set aside the most that a request may cost; wait while that depends on requests in flight, anybody's.

        Raises:
            BudgetExceededError: it does not fit, and nothing is in flight any more.
            LedgerError: the ledger, which holds the budget, cannot be used.
        """
        while (held := await self.reserve_now(most)) is None:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._settled.wait(), POLL_S)
        return held

    async def reserve_now(self, most: Amount) -> Amount | None:
        """Set aside without waiting for others; None where that depends on requests in flight.

        Raises:
            BudgetExceededError: it does not fit, and nothing is in flight any more.
            LedgerError: the ledger, which holds the budget, cannot be used.
        """
        if not most.within(self._free) and not await self._drawn(most):
            return None
        self._holders += 1
        self._free -= most
        return most

    def settle(self, held: Amount, used: Amount, *, lost: bool = False) -> None:
        """Give a reservation back and pay what was used; ``lost``: nothing of it will be committed."""
        self._free += held
        self.pay(used)
        self._lost += used if lost else Amount()
        self.hand_over()

    def hand_over(self) -> None:
        """Take note that somebody else answers for a reservation from now on: it does not come back to us."""
        self._holders -= 1
        self._dry_until = 0.0
        self._settled.set()
        self._settled = asyncio.Event()

    def pay(self, used: Amount) -> None:
        """Pay for something that was never reserved: a batch that an earlier process submitted."""
        self._free -= used
        short = Amount(*(max(0.0, -one) for one in _values(self._free)))
        if self._lender is not None and short != Amount():
            self._free += short
            self._lender.overdraw(short)

    async def rest(self) -> None:
        """Let others have what we hold and do not need now; have the ledger keep what may be lost, whoever dies."""
        spare = Amount(*(0.0 if math.isinf(one) else max(0.0, one) for one in _values(self._free)))
        if self._holders:
            spare = Amount()
        if self._lender is not None and (spare, self._lost) != (Amount(), Amount()):
            lost, self._lost = self._lost, Amount()
            self._free -= spare
            await self._to_its_end(self._lender.give_back(spare, lost))

    async def _drawn(self, most: Amount) -> bool:
        """Draw until the request fits; False where others' requests, or our own, may still make room."""
        clock = asyncio.get_running_loop().time
        async with self._drawing:
            # Another waiter may have drawn meanwhile, or asked in vain a moment ago.
            while not most.within(self._free):
                if self._lender is None or clock() < self._dry_until:
                    return False
                lacking = Amount(*(max(0.0, need) for need in _values(most - self._free)))
                draw = await self._to_its_end(self._draw(self._lender, lacking))
                if draw.granted == Amount():
                    await self._dry(most, draw)
                    self._dry_until = clock() + POLL_S
            return True

    async def _draw(self, lender: Lender, lacking: Amount) -> Draw:
        draw = await lender.draw(lacking)
        self._free += draw.granted
        return draw

    async def _to_its_end(self, transfer: Coroutine[Any, Any, T]) -> T:
        """Wait for a transfer that goes on when the waiting is cancelled: both sides must book the same."""
        task = asyncio.create_task(transfer)
        self._transfers.add(task)
        task.add_done_callback(self._transfers.discard)
        return await asyncio.shield(task)

    async def _dry(self, most: Amount, draw: Draw) -> None:
        if self._holders == 0 and not draw.others:
            raise BudgetExceededError(self._text(most, draw))
        await self.rest()

    def _text(self, most: Amount, draw: Draw) -> str:
        parts, spent, lost = [], draw.spent, draw.lost + self._lost
        if self.budget.dollars is not None:
            held = _held(draw.batches.dollars, lost.dollars, money)
            parts.append(
                f"{money(spent.dollars)} of {money(self.budget.dollars)} are spent{held} and the next request may cost "
                f"{money(most.dollars)}"
            )
        if self.budget.tokens is not None:
            held = _held(draw.batches.tokens, lost.tokens, "{:,.0f}".format)
            parts.append(
                f"{spent.tokens:,.0f} of {self.budget.tokens:,} tokens are used{held} and the next request may use "
                f"{most.tokens:,.0f}"
            )
        if draw.batches.tokens > 0:
            parts.append("run again when the batches are done: what they do not use comes back")
        return f"the budget is reached: {'; '.join(parts)}"


def _held(batches: float, lost: float, write: Callable[[float], str]) -> str:
    under_way = f", {write(batches)} are held by batches under way" if batches > 0 else ""
    return under_way + (f", {write(lost)} may have been billed for answers that were lost" if lost > 0 else "")


def _values(amount: Amount) -> tuple[float, float]:
    return amount.dollars, amount.tokens
