"""The calls of the Batch API: each with a deadline, again where that may help, and no key in any of their errors."""

import asyncio
import functools
import json
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

import openai
from openai.types import Batch
from tenacity import (
    AsyncRetrying,
    RetryCallState,
    retry_if_exception,
    retry_if_result,
    stop_after_attempt,
    stop_after_delay,
    stop_all,
    wait_random_exponential,
)

from lema_core.errors import EndpointError
from lema_core.llm.client import Client
from lema_core.llm.headers import retry_after
from lema_core.llm.outage import UNREACHABLE_S

T = TypeVar("T")

CHAT: Final = "/v1/chat/completions"
ENDED = frozenset({"completed", "expired", "cancelled", "failed"})
METADATA = "lema_batch"
QUEUE_FULL = "token_limit_exceeded"
"""The code of a batch that failed because too many tokens of the account wait in batches already."""
ATTEMPTS = 8
"""At least so many, and for `UNREACHABLE_S` at the least."""


@dataclass(frozen=True, slots=True)
class Standing:
    """How a batch stands at the endpoint."""

    status: str
    errors: str
    files: tuple[str, ...]
    completed: int
    """How many requests it says it answered; 0 where it does not say."""

    @property
    def ended(self) -> bool:
        """Tell whether nothing more will come."""
        return self.status in ENDED


@dataclass(slots=True)
class Results:
    """What the result files of a batch hold."""

    rows: dict[str, dict[str, Any]] = field(default_factory=dict)
    """By request; of two rows the one with an answer, which is paid."""
    answers: int = 0
    gone: bool = False
    """The endpoint does not know one of the files any more."""
    torn: bool = False
    """A line is no row, or there are fewer answers than the batch says."""

    def add(self, row: Any) -> None:
        """Take a row in."""
        name = row.get("custom_id", 0) if isinstance(row, dict) else 0
        # A line that the endpoint itself could not read has null for its name.
        self.torn |= name == 0
        good = name != 0 and is_answer(row)
        self.answers += good
        if isinstance(name, str) and (good or not is_answer(self.rows.get(name, {}))):
            self.rows[name] = row


def is_answer(row: dict[str, Any]) -> bool:
    """Tell whether a row of a result file is a paid answer."""
    response = row.get("response")
    return isinstance(response, dict) and response.get("status_code") == 200


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

    async def create(self, batch_id: str, lines: Iterable[bytes]) -> str:
        """Upload requests, see `line_of`, and make a batch of them; return the endpoint's name for it."""
        content = b"".join(lines)
        called = False

        async def upload() -> str:
            made = await self._api.files.create(file=(f"{batch_id}.jsonl", content), purpose="batch")
            return str(_holding(made, "id", str).id)

        async def create() -> str:
            nonlocal called
            # An earlier call may have reached them although no answer came back; a second batch would be paid too.
            known = await self._listed(batch_id) if called else None
            if known is not None:
                return known
            called = True
            made = await self._api.batches.create(
                input_file_id=file_id, endpoint=CHAT, completion_window="24h", metadata={METADATA: batch_id}
            )
            return str(_holding(made, "id", str).id)

        file_id = await self._call(upload)
        return await self._call(create)

    async def search(self, batch_id: str) -> str | None:
        """Find a batch by its metadata: its creation may have succeeded although we never heard of it."""
        return await self._call(lambda: self._listed(batch_id))

    async def _listed(self, batch_id: str) -> str | None:
        try:
            page = _holding(await self._api.batches.list(limit=100), "data", list)
        except AttributeError:
            # The library sets fields of what it takes for a page, which may be a proxy's HTML.
            raise ValueError from None
        while True:
            for one in page.data:
                if (one.metadata or {}).get(METADATA) == batch_id:
                    return one.id
            if not page.has_next_page():
                return None
            page = _holding(await page.get_next_page(), "data", list)

    async def standing(self, remote: str) -> Standing | None:
        """Return how a batch stands; None where the endpoint does not know it."""

        async def retrieve() -> Batch:
            return _holding(await self._api.batches.retrieve(remote), "status", str)

        found = await self._known(retrieve)
        if found is None:
            return None
        files = tuple(one for one in (found.output_file_id, found.error_file_id) if one)
        errors = "; ".join(f"{one.code}: {one.message}" for one in (found.errors and found.errors.data) or [])
        counts = found.request_counts
        completed = counts.completed if counts and isinstance(counts.completed, int) else 0
        return Standing(found.status, self._client.redact(errors), files, completed)

    async def results(self, remote: str) -> Results:
        """Return what an ended batch's files hold; read again where they hold less than the batch says it answered."""
        again = AsyncRetrying(
            retry=retry_if_result(lambda found: found.gone or found.torn),
            stop=stop_after_attempt(ATTEMPTS),
            wait=_backoff,
            retry_error_callback=_as_it_is,
        )
        results: Results = await again(self._results, remote)
        return results

    async def _results(self, remote: str) -> Results:
        results, standing = Results(), await self.standing(remote)
        for file_id in standing.files if standing else ():
            answer = await self._known(functools.partial(self._api.files.content, file_id))
            results.gone |= answer is None
            for line in bytes(answer.content).splitlines() if answer else ():
                if line.strip():
                    results.add(self._row(line))
        results.torn |= standing is None or (not results.gone and results.answers < standing.completed)
        return results

    def _row(self, line: bytes) -> Any:
        try:
            # Whole lines: an endpoint that echoes the key does so in an error that is kept.
            return json.loads(self._client.redact(line.decode("utf-8", "surrogatepass")))
        except (ValueError, RecursionError):
            return None

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
            stop=stop_all(stop_after_attempt(ATTEMPTS), stop_after_delay(UNREACHABLE_S)),
            wait=_wait_s,
            reraise=True,
        )
        try:
            return await retrying(attempt)
        except TimeoutError:
            said = f"no answer within {self._timeout_s:g} s, again and again"
            raise EndpointError(f"the batch API of {self.where} does not answer: {said}") from None
        except ValueError:
            said = "what comes with status 200 is cut off, or not what the Batch API describes"
            raise EndpointError(f"the batch API of {self.where} does not answer: {said}") from None
        except openai.APIError as error:
            raise self._fatal(error) from None

    def _fatal(self, error: openai.APIError) -> Exception:
        found = self._client.explain(error)
        does = "does not answer" if _transient(error) else "refuses the call"
        return found.fatal or EndpointError(f"the batch API of {self.where} {does}: {found.detail}")


def line_of(name: str, body: dict[str, Any]) -> bytes:
    """Return a request as a line of the file to upload."""
    line = json.dumps({"custom_id": name, "method": "POST", "url": CHAT, "body": body}, ensure_ascii=False)
    return line.encode("utf-8", "replace") + b"\n"


def _holding(found: T, name: str, kind: type) -> T:
    """Return what came with status 200.

    Raises:
        ValueError: it lacks a field of what the API describes: a proxy's page, or an error with a good status.
    """
    if not isinstance(getattr(found, name, None), kind):
        raise ValueError(name)  # noqa: TRY004 - as the JSON decoder does
    return found


_backoff = wait_random_exponential(multiplier=0.2, max=20)


def _wait_s(state: RetryCallState) -> float:
    error = state.outcome.exception() if state.outcome else None
    asked = retry_after(error.response.headers) if isinstance(error, openai.APIStatusError) else None
    return max(min(asked or 0.0, UNREACHABLE_S), float(_backoff(state)))


def _as_it_is(state: RetryCallState) -> Any:
    return state.outcome.result() if state.outcome else None


def _transient(error: BaseException) -> bool:
    if isinstance(error, openai.APIStatusError):
        return error.status_code in {408, 409, 429} or error.status_code >= 500
    return isinstance(error, openai.APIConnectionError | TimeoutError | ValueError)
