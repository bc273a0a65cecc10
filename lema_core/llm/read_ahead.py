"""How far one stream reads ahead of its first unfinished request: so many requests, and so many characters of them."""

import math
from collections import deque
from collections.abc import Iterable, Iterator

from lema_core.llm.costs.token_estimates import prompt_chars
from lema_core.llm.endpoints import EndpointSpec
from lema_core.llm.pending import Flight
from lema_core.llm.requests import CompletionRequest

CHUNK = 256
"""Requests in one look-up."""
CHUNK_CHARS = 4 * 2**20
"""A look-up of requests with long prompts takes fewer."""
WINDOW = 1024
"""Requests between the first unfinished one and the last one read; four times the concurrency where that is more."""
WINDOW_CHARS = 64 * 2**20
"""With so many characters of prompts in the window, only as many requests are read as the concurrency needs."""
BATCH_WINDOW = 200_000
"""With the batch transport so many are submitted before the first answer; memory follows."""


def chunks(requests: Iterable[CompletionRequest]) -> Iterator[list[CompletionRequest]]:
    """Yield requests in lists for one look-up each, in order."""
    chunk: list[CompletionRequest] = []
    chars = 0
    for request in requests:
        chunk.append(request)
        chars += prompt_chars(request)
        if len(chunk) == CHUNK or chars >= CHUNK_CHARS:
            yield chunk
            chunk, chars = [], 0
    if chunk:
        yield chunk


class Window:
    """A stream's flights, the oldest first."""

    def __init__(self, spec: EndpointSpec) -> None:
        batch = spec.transport == "batch"
        self.flights: deque[Flight] = deque()
        self._most = BATCH_WINDOW if batch else max(WINDOW, 4 * spec.concurrency)
        # Batches that wait for each other would take days.
        self._most_chars = math.inf if batch else WINDOW_CHARS
        self._needed = spec.concurrency
        self._chars = 0

    def has_room(self) -> bool:
        """Say whether one more look-up's requests may be read."""
        count = len(self.flights)
        return not count or (count <= self._most - CHUNK and (self._chars < self._most_chars or count < self._needed))

    def append(self, flight: Flight) -> None:
        """Add the flight of the request that was read last."""
        self.flights.append(flight)
        self._chars += flight.chars

    def popleft(self) -> Flight:
        """Remove and return the oldest flight."""
        flight = self.flights.popleft()
        self._chars -= flight.chars
        return flight
