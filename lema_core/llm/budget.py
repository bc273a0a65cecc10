"""A hard limit on what a run may pay, in money and in tokens, over all shards and both transports.

Every request reserves the most it may cost before it is sent and is settled by its usage. A request that does not fit
waits while others may still turn out cheaper than reserved; when nothing is reserved any more, the run stops.
"""

import asyncio
from collections import deque
from dataclasses import dataclass

from lema_core.errors import BudgetExceededError


@dataclass(frozen=True, slots=True)
class Budget:
    """Limits over the whole run, earlier processes included. None: no limit of this kind."""

    dollars: float | None = None
    tokens: int | None = None


@dataclass(frozen=True, slots=True)
class Amount:
    """Money and tokens."""

    dollars: float
    tokens: float


class Account:
    """What a run has paid and has promised to pay."""

    def __init__(self, budget: Budget | None, spent: Amount) -> None:
        self.budget = budget or Budget()
        self.dollars, self.tokens = spent.dollars, spent.tokens
        self._held = Amount(0.0, 0.0)
        self._holders = 0
        self._waiters: deque[asyncio.Future[None]] = deque()

    async def reserve(self, most: Amount) -> Amount:
        """Set aside the most that a request may cost; wait while that depends on requests in flight.

        Raises:
            BudgetExceededError: it does not fit, and nothing is in flight any more.
        """
        while (held := self.reserve_now(most)) is None:
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiters.append(waiter)
            await waiter
        return held

    def reserve_now(self, most: Amount) -> Amount | None:
        """Set aside without waiting; None where it must wait for requests in flight.

        Raises:
            BudgetExceededError: it does not fit, and nothing is in flight any more.
        """
        if not self._fits(most):
            if self._holders == 0:
                raise BudgetExceededError(self._text(most))
            return None
        self._holders += 1
        self._held = Amount(self._held.dollars + most.dollars, self._held.tokens + most.tokens)
        return most

    def settle(self, held: Amount, used: Amount) -> None:
        """Give a reservation back and pay what was used."""
        self._holders -= 1
        # Sums of floats do not come back to zero by themselves.
        self._held = (
            Amount(self._held.dollars - held.dollars, self._held.tokens - held.tokens)
            if self._holders
            else Amount(0, 0)
        )
        self.pay(used)
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(None)

    def pay(self, used: Amount) -> None:
        """Pay for something that was never reserved: a batch that an earlier process submitted."""
        self.dollars += used.dollars
        self.tokens += used.tokens

    def seen(self, spent: Amount) -> None:
        """Take over what the ledger says, where other processes of the run have paid more than we know."""
        self.dollars, self.tokens = max(self.dollars, spent.dollars), max(self.tokens, spent.tokens)

    def _fits(self, most: Amount) -> bool:
        limit = self.budget
        return (limit.dollars is None or self.dollars + self._held.dollars + most.dollars <= limit.dollars) and (
            limit.tokens is None or self.tokens + self._held.tokens + most.tokens <= limit.tokens
        )

    def _text(self, most: Amount) -> str:
        parts = []
        if self.budget.dollars is not None:
            parts.append(
                f"${self.dollars:.4f} of ${self.budget.dollars:.4f} are spent and the next request may cost "
                f"${most.dollars:.4f}"
            )
        if self.budget.tokens is not None:
            parts.append(
                f"{self.tokens:,.0f} of {self.budget.tokens:,} tokens are used and the next request may use "
                f"{most.tokens:,.0f}"
            )
        return f"the budget is reached: {'; '.join(parts)}"
