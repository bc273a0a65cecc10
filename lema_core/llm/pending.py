"""A request on its way, shared by everybody who asked for it."""

import asyncio

from lema_core.llm.costs.token_estimates import prompt_chars
from lema_core.llm.requests import CompletionRequest, Outcome


class Flight:
    """One request between the moment it was asked for and its outcome.

    It makes a future only when somebody has to wait: most requests of a repeated run are answered from the ledger.
    """

    __slots__ = ("_future", "asked", "chars", "error", "identity", "key", "outcome", "request", "sent", "task", "users")

    def __init__(self, key: str, request: CompletionRequest, identity: str, asked: float) -> None:
        self.key = key
        self.request = request
        self.chars = prompt_chars(request)
        self.identity = identity
        """Of the endpoint it is asked from."""
        self.asked = asked
        self.users = 1
        self.sent = False
        """A request to the endpoint is out: it will be paid for, so it is never cancelled."""
        self.task: asyncio.Task[None] | None = None
        self.outcome: Outcome | None = None
        self.error: BaseException | None = None
        self._future: asyncio.Future[None] | None = None

    @property
    def done(self) -> bool:
        """Say whether the outcome, or the error, is known."""
        return self.outcome is not None or self.error is not None

    def settle(self, outcome: Outcome | None = None, error: BaseException | None = None) -> None:
        """Set the outcome or the error, once; later calls change nothing."""
        if self.done:
            return
        self.outcome, self.error = outcome, error
        if self._future is not None and not self._future.done():
            self._future.set_result(None)

    async def result(self) -> Outcome:
        """Wait for the outcome, or raise the error."""
        while not self.done:
            if self._future is None or self._future.done():
                self._future = asyncio.get_running_loop().create_future()
            await asyncio.shield(self._future)
        if self.error is not None:
            raise self.error
        if self.outcome is None:
            raise RuntimeError("a flight is done without an outcome")
        return self.outcome
