"""The client of one endpoint: the `openai` SDK for chat completions, over a transport of ours that bounds replies.

The SDK makes the request. Its response models are not built (they cost half the CPU of a request) and its retries are
off. None of its exceptions leaves this module, because they contain the request's headers. Files and batches go through
`bounded_http` directly, since the SDK reads bodies whole.
"""

import asyncio
import json
import logging
import os
from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, BinaryIO

import aiohttp
import httpx2
import openai

from lema_core.errors import AuthenticationError, EndpointError
from lema_core.llm.bounded_http import BoundedSession, Reply, reply_limit
from lema_core.llm.endpoints import EndpointSpec
from lema_core.llm.responses import REDIRECTS, AttemptError, ChatResponse, error_from_status, parse_response
from lema_core.llm.settings import DEFAULTS, EngineSettings
from lema_core.system.redaction import get_redactor, one_line

_log = logging.getLogger(__name__)

MODELS_BYTES = 8 * 10**6
"""Of a list of models; a larger one counts as an answer too."""


class Client:
    """One endpoint with one key, in one event loop."""

    path = "/chat/completions"
    """Of the call that asks for an answer."""

    def __init__(self, spec: EndpointSpec, settings: EngineSettings = DEFAULTS) -> None:
        if not isinstance(spec.base_url, str):
            raise EndpointError(f"endpoint {spec.name!r} has no base_url yet: start its command with running() first")
        self._key = spec.api_key()
        self.redact = get_redactor(self._key).redact
        self._settings = settings
        self.where = spec.where
        self._opens_thinking = spec.opens_thinking
        headers = {"Accept": "application/json", "User-Agent": "lema"} | self.own_headers(self._key) | spec.headers
        root = self.root_of(spec.base_url)
        self._session = BoundedSession(root, headers, self.redact, spec.concurrency + 8, settings.connect_s)
        base = httpx2.URL(root)
        # Our session handles proxies, redirects and deadlines, and adds the query of the base URL.
        http = httpx2.AsyncClient(
            transport=_Transport(self._session, base.path), trust_env=False, follow_redirects=False, timeout=None
        )
        self._api = self.open_sdk(base.copy_with(query=None), http)

    @staticmethod
    def root_of(base_url: str) -> str:
        """Return the URL that paths go below."""
        return base_url

    @staticmethod
    def own_headers(key: str) -> dict[str, str]:
        """Return the headers that say who asks."""
        headers = {"Authorization": f"Bearer {key}"}
        for header, variable in (("OpenAI-Organization", "OPENAI_ORG_ID"), ("OpenAI-Project", "OPENAI_PROJECT_ID")):
            if value := os.environ.get(variable):
                headers[header] = value
        return headers

    def open_sdk(self, base: httpx2.URL, http: httpx2.AsyncClient) -> Any:
        """Return the SDK's client."""
        return openai.AsyncOpenAI(base_url=base, api_key=self._key, http_client=http, max_retries=0, timeout=None)

    def wire(self, body: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return a chat completion's body as it is sent."""
        return body

    def parse(self, content: bytes, prompt_chars: int) -> ChatResponse:
        """Return the answer in a response's body; see `parse_response`."""
        return parse_response(content, prompt_chars, self.where, self._opens_thinking)

    async def complete(
        self, body: Mapping[str, Any], prompt_chars: int, seconds: float, headers: Mapping[str, str] | None = None
    ) -> tuple[ChatResponse, Mapping[str, str]]:
        """Send one chat completion; return the response, which may take ``seconds``, and its headers.

        ``headers`` are sent beside those of the endpoint.

        Raises:
            AttemptError: anything else happened; its text never contains the key.
        """
        try:
            content = json.dumps(self.wire(body), ensure_ascii=False, separators=(",", ":")).encode()
        except UnicodeEncodeError:
            raise AttemptError("bad_request", "the messages hold half a surrogate pair: not valid Unicode") from None
        # The transport below the SDK finds the attempt by its task, since the SDK passes nothing of ours on.
        attempt = _Attempt(reply_limit(body, len(content)), seconds, headers or {})
        _attempt.set(attempt)
        try:
            await self._api.post(
                self.path,
                cast_to=httpx2.Response,
                content=content,
                options={"headers": {"Content-Type": "application/json"}},
            )
        except Exception as error:  # noqa: BLE001 whatever the SDK raises contains the request's headers
            failed = attempt.failed or AttemptError(
                "connection", self.redact(f"{type(error).__name__}: {error}"), maybe_paid=True
            )
        reply = attempt.reply
        if reply is None:
            # Outside of the handler, so that no traceback has the SDK's exception as the context of ours.
            raise failed
        if not reply.is_success:
            raise self.error_of(reply)
        return self.parse(self.redact(reply.content), prompt_chars), reply.headers

    async def send(
        self,
        method: str,
        path: str,
        *,
        most: int,
        seconds: float,
        data: bytes | aiohttp.FormData | None = None,
        params: Mapping[str, str] | None = None,
    ) -> Reply:
        """Send any other request; return its reply, of at most ``most`` bytes, with the key taken out.

        Raises:
            AttemptError: no whole reply came. An error status is a reply; see `error_of`.
        """
        reply = await self._session.send(method, path, most=most, seconds=seconds, data=data, params=params)
        return Reply(reply.status, reply.headers, self.redact(reply.content))

    async def download(self, path: str, file: BinaryIO, *, most: int, seconds: float) -> Reply:
        """Write what a GET gives into a file as it comes, the key not taken out; see `BoundedSession.send`."""
        reply = await self._session.send("GET", path, most=most, seconds=seconds, into=file)
        return Reply(reply.status, reply.headers, self.redact(reply.content))

    def error_of(self, reply: Reply) -> AttemptError:
        """Return what a reply with an error status means."""
        headers = {name.lower(): self.redact(value) for name, value in reply.headers.items()}
        found = error_from_status(reply.status, headers, self.redact(reply.content), self.where)
        # The server behind a proxy that gave up may have gone on, and billed it.
        found.maybe_paid = found.maybe_paid or reply.status in {504, 524}
        return found

    async def preflight(self) -> frozenset[str]:
        """Check that a server answers and accepts our key; return the models that it lists. None need be listed.

        Raises:
            AuthenticationError: the key is refused.
            UnreachableError: nothing answers, or what answers is no HTTP server.
            EndpointError: the server redirects us.
        """
        for wait in (*self._settings.preflight_waits_s, None):
            try:
                reply = await self._session.send(
                    "GET", "/models", most=MODELS_BYTES, seconds=self._settings.preflight_s
                )
            except AttemptError as error:
                if error.reason == "deadline" or error.answered:
                    return frozenset()
                if wait is None:
                    text = f"cannot reach {self.where} ({error.detail}). Is the server running, and is the URL right?"
                    if error.reason == "malformed":
                        text = (
                            f"what answers for {self.where} does not speak HTTP as an endpoint does ({error.detail}). "
                            "Look whether base_url has the right port, and http:// or https:// as the server expects"
                        )
                    raise UnreachableError(text) from None
                await asyncio.sleep(wait)
                continue
            found = None if reply.is_success else self.error_of(reply).fatal
            if found is not None and (isinstance(found, AuthenticationError) or reply.status in REDIRECTS):
                raise found
            return _model_names(reply.content) if reply.is_success else frozenset()
        raise RuntimeError("the last first contact returns or raises")

    async def is_answering(self) -> bool:
        """Return whether the server answers anything but a server error now."""
        try:
            reply = await self._session.send("GET", "/models", most=MODELS_BYTES, seconds=self._settings.preflight_s)
        except AttemptError:
            return False
        return reply.status < 500

    async def close(self) -> None:
        """Close the connections."""
        await self._api.close()
        await self._session.close()


class UnreachableError(EndpointError):
    """Nothing that speaks HTTP answers at a URL."""


def open_client(spec: EndpointSpec, settings: EngineSettings = DEFAULTS) -> Client:
    """Return the client of one server, for the API that it speaks.

    Raises:
        MissingDependencyError: the API's SDK is not installed.
        ConfigError: the key cannot be read.
    """
    if spec.api == "openai":
        return Client(spec, settings)
    from lema_core.llm.anthropic_client import AnthropicClient

    return AnthropicClient(spec, settings)


async def contact_servers(spec: EndpointSpec, clients: Mapping[str, Client]) -> dict[str, str]:
    """Make first contact with each server of an endpoint; return those that do not answer, with the reason.

    A server that lists models and not ours is only worth a warning: some list a file's path and take any name.

    Raises:
        AuthenticationError: a server refuses the key.
        EndpointError: none of them answers, or one redirects us.
    """
    results = await asyncio.gather(*(client.preflight() for client in clients.values()), return_exceptions=True)
    away: dict[str, str] = {}
    errors = [result for result in results if isinstance(result, BaseException)]
    for error in errors:
        if len(errors) == len(clients) or not isinstance(error, UnreachableError):
            raise error
    for url, result in zip(clients, results, strict=True):
        if isinstance(result, BaseException):
            away[url] = str(result)
        elif len(clients) > 1 and result and spec.model not in result:
            _log.warning(
                "%s lists other models than %r: %s. Do all servers of endpoint %r serve the same model?",
                url, spec.model, one_line(", ".join(sorted(result)[:5]), 300), spec.name,
            )  # fmt: skip
    return away


def _model_names(content: bytes) -> frozenset[str]:
    """Return the ids in a list of models; none where it is no such list."""
    try:
        listed = json.loads(content)["data"]
        return frozenset(model["id"] for model in listed if isinstance(model["id"], str))
    except (ValueError, RecursionError, MemoryError, LookupError, TypeError):
        return frozenset()


@dataclass(slots=True)
class _Attempt:
    """The limits of the request that this task sends, and its result."""

    max_bytes: int
    """Bytes that its reply may have."""
    seconds: float
    headers: Mapping[str, str]
    reply: Reply | None = None
    failed: AttemptError | None = None


_attempt: ContextVar[_Attempt] = ContextVar("attempt")


class _Transport(httpx2.AsyncBaseTransport):
    """Sends the SDK's requests through our session."""

    def __init__(self, session: BoundedSession, base_path: str) -> None:
        self._session = session
        self._base_path = base_path.rstrip("/")

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Send a request within the limits of its task, and leave the whole reply there."""
        attempt = _attempt.get()
        path = request.url.path.removeprefix(self._base_path)
        data = await request.aread()
        try:
            attempt.reply = await self._session.send(
                request.method, path, data=data, most=attempt.max_bytes, seconds=attempt.seconds,
                headers=attempt.headers,
            )  # fmt: skip
        except AttemptError as error:
            attempt.failed = error
            raise
        # Only what the SDK looks at: whether it is an error. The body's encoding, cookies and dates are not for it.
        return httpx2.Response(attempt.reply.status, content=b"", request=request)
