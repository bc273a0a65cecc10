"""Requests between the moment a stream reads them and their outcome, and how far a stream reads ahead."""

import asyncio
import math
from collections import deque
from collections.abc import Iterable, Iterator

from lema_core.llm.costs.token_estimates import prompt_chars
from lema_core.llm.endpoints import EndpointSpec
from lema_core.llm.requests import CompletionRequest, Outcome
from lema_core.llm.settings import EngineSettings


class PendingRequest:
    """One request without an outcome yet, shared by every stream of the process that asks for it."""

    __slots__ = (
        "_future",
        "chars",
        "created_at",
        "error",
        "identity",
        "is_sent",
        "key",
        "outcome",
        "request",
        "task",
        "waiters",
    )

    def __init__(self, key: str, request: CompletionRequest, identity: str, created_at: float) -> None:
        self.key = key
        self.request = request
        self.chars = prompt_chars(request)
        self.identity = identity
        """The identity of its endpoint."""
        self.created_at = created_at
        self.waiters = 1
        self.is_sent = False
        """An attempt is on its way to the endpoint. It will be billed, so the request is not cancelled now."""
        self.task: asyncio.Task[None] | None = None
        self.outcome: Outcome | None = None
        self.error: BaseException | None = None
        # Created only when a stream has to wait: most requests of a repeated run are answered from the ledger.
        self._future: asyncio.Future[None] | None = None

    @property
    def done(self) -> bool:
        """Return whether the outcome, or the error, is known."""
        return self.outcome is not None or self.error is not None

    def resolve(self, outcome: Outcome | None = None, error: BaseException | None = None) -> None:
        """Set the outcome or the error; calls after the first one change nothing."""
        # The poller, a failing endpoint and the transport may all want to; the first is right.
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
            # Several streams may wait for one future; cancelling one of them must not cancel it for the others.
            await asyncio.shield(self._future)
        if self.error is not None:
            raise self.error
        if self.outcome is None:
            raise RuntimeError("a pending request is done without an outcome")
        return self.outcome


class ReadAhead:
    """The pending requests of one stream, oldest first. It bounds their number and the characters of their prompts."""

    def __init__(self, spec: EndpointSpec, settings: EngineSettings) -> None:
        is_batch = spec.transport == "batch"
        self.pending: deque[PendingRequest] = deque()
        self._chunk = settings.lookup_requests
        self._max_requests = settings.batch_read_ahead if is_batch else max(settings.read_ahead, 4 * spec.concurrency)
        # Batches are not split by characters: batches that wait for each other take a day each.
        self._max_chars = math.inf if is_batch else settings.read_ahead_chars
        self._min_requests = spec.concurrency
        self._chars = 0

    def can_read(self) -> bool:
        """Return whether the stream may read the requests of one more look-up."""
        count = len(self.pending)
        if count == 0:
            return True
        # Long prompts must not leave the endpoint idle: as many as may be in flight are read whatever their length.
        return count <= self._max_requests - self._chunk and (
            self._chars < self._max_chars or count < self._min_requests
        )

    def append(self, pending: PendingRequest) -> None:
        """Add the request that the stream read last."""
        self.pending.append(pending)
        self._chars += pending.chars

    def popleft(self) -> PendingRequest:
        """Remove and return the oldest request."""
        pending = self.pending.popleft()
        self._chars -= pending.chars
        return pending


def lookup_chunks(requests: Iterable[CompletionRequest], settings: EngineSettings) -> Iterator[list[CompletionRequest]]:
    """Yield requests in lists for one look-up each, in order."""
    chunk: list[CompletionRequest] = []
    chars = 0
    for request in requests:
        chunk.append(request)
        chars += prompt_chars(request)
        if len(chunk) == settings.lookup_requests or chars >= settings.lookup_chars:
            yield chunk
            chunk, chars = [], 0
    if chunk:
        yield chunk
