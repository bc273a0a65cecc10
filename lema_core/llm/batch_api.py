"""The calls of the Batch API: each with a deadline, again where that may help, and no key in any of their errors."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import openai
from tenacity import AsyncRetrying, retry_if_exception, stop_after_attempt, wait_random_exponential

from lema_core.errors import EndpointError
from lema_core.llm.client import Client

T = TypeVar("T")

CHAT: Final = "/v1/chat/completions"
ENDED = frozenset({"completed", "expired", "cancelled", "failed"})
METADATA = "lema_batch"
QUEUE_FULL = "token_limit_exceeded"
"""The code of a batch that failed because too many tokens of the account wait in batches already."""
ATTEMPTS = 8


@dataclass(frozen=True, slots=True)
class Standing:
    """How a batch stands at the endpoint."""

    status: str
    errors: str
    files: tuple[str, ...]

    @property
    def ended(self) -> bool:
        """Tell whether nothing more will come."""
        return self.status in ENDED


class BatchApi:
    """The Batch API of one endpoint.

    Raises:
        EndpointError: from every method, when the endpoint refuses, or does not answer in several tries.
    """

    def __init__(self, client: Client, timeout_s: float) -> None:
        self._api = client.api
        self._client = client
        self._timeout_s = timeout_s
        self.where = client.where

    async def create(self, batch_id: str, bodies: Iterable[tuple[str, dict[str, Any]]]) -> str:
        """Upload requests as (id, body) and make a batch of them; return the endpoint's name for it."""
        lines = "\n".join(
            json.dumps({"custom_id": name, "method": "POST", "url": CHAT, "body": body}, ensure_ascii=False)
            for name, body in bodies
        )
        content = lines.encode("utf-8", "replace")
        upload = await self._call(lambda: self._api.files.create(file=(f"{batch_id}.jsonl", content), purpose="batch"))
        called = False

        async def create() -> str:
            nonlocal called
            # An earlier call may have reached them although no answer came back; a second batch would be paid too.
            known = await self._listed(batch_id) if called else None
            if known is not None:
                return known
            called = True
            made = await self._api.batches.create(
                input_file_id=upload.id, endpoint=CHAT, completion_window="24h", metadata={METADATA: batch_id}
            )
            return str(made.id)

        return await self._call(create)

    async def search(self, batch_id: str) -> str | None:
        """Find a batch by its metadata: its creation may have succeeded although we never heard of it."""
        return await self._call(lambda: self._listed(batch_id))

    async def _listed(self, batch_id: str) -> str | None:
        async for one in self._api.batches.list(limit=100):
            if (one.metadata or {}).get(METADATA) == batch_id:
                return one.id
        return None

    async def standing(self, remote: str) -> Standing | None:
        """Return how a batch stands; None where the endpoint does not know it."""
        found = await self._known(lambda: self._api.batches.retrieve(remote))
        if found is None:
            return None
        files = tuple(one for one in (found.output_file_id, found.error_file_id) if one)
        errors = "; ".join(f"{one.code}: {one.message}" for one in (found.errors and found.errors.data) or [])
        return Standing(found.status, self._client.redact(errors), files)

    async def rows(self, file_id: str) -> dict[str, dict[str, Any]] | None:
        """Return a result file's rows by request; None where the endpoint does not know the file any more."""
        answer = await self._known(lambda: self._api.files.content(file_id))
        return None if answer is None else dict(self._read(bytes(answer.content)))

    def _read(self, content: bytes) -> Iterator[tuple[str, dict[str, Any]]]:
        for line in content.splitlines():
            try:
                # Whole lines: an endpoint that echoes the key does so in an error that is kept.
                row = json.loads(self._client.redact(line.decode("utf-8", "surrogatepass")))
                name = row["custom_id"]
            except (ValueError, KeyError, TypeError):
                continue
            if isinstance(name, str):
                yield name, row

    async def _known(self, call: Callable[[], Awaitable[T]]) -> T | None:
        async def found() -> T | None:
            try:
                return await call()
            except openai.NotFoundError:
                return None

        return await self._call(found)

    async def _call(self, call: Callable[[], Awaitable[T]]) -> T:
        """Call the API, again where that may help."""

        async def attempt() -> T:
            async with asyncio.timeout(self._timeout_s):
                return await call()

        retrying = AsyncRetrying(
            retry=retry_if_exception(_transient),
            stop=stop_after_attempt(ATTEMPTS),
            wait=wait_random_exponential(multiplier=0.2, max=20),
            reraise=True,
        )
        try:
            return await retrying(attempt)
        except TimeoutError:
            said = f"no answer within {self._timeout_s:g} s, {ATTEMPTS} times"
            raise EndpointError(f"the batch API of {self.where} does not answer: {said}") from None
        except openai.APIError as error:
            raise self._fatal(error) from None

    def _fatal(self, error: openai.APIError) -> Exception:
        found = self._client.explain(error)
        return found.fatal or EndpointError(f"the batch API of {self.where} does not answer: {found.detail}")


def _transient(error: BaseException) -> bool:
    if isinstance(error, openai.APIStatusError):
        return error.status_code in {408, 409, 429} or error.status_code >= 500
    return isinstance(error, openai.APIConnectionError | TimeoutError)
