"""The simulated endpoint's HTTP server (aiohttp, loopback only)."""

import asyncio
import hmac
import json
import os
import secrets
import signal
import sys
import threading
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Self

from aiohttp import web
from pydantic import ValidationError

from lema_core.errors import ConfigError, EndpointError
from lema_core.llm.simulated.batches import BatchError, Batches
from lema_core.llm.simulated.chat import (
    ChatRequest,
    Faults,
    Kind,
    Reply,
    Respond,
    Stats,
    TokenBucket,
    answer_request,
    draw_failure,
    draw_latency,
    error_body,
    request_hash,
)
from lema_core.llm.simulated.messages import MessagesApi, failure, messages_error
from lema_core.llm.simulated.models import Library, Models
from lema_core.llm.simulated.vendors import RuleSet
from lema_core.llm.usage import parse_count
from lema_core.records import Question
from lema_core.system.loopback import RequestFilter

HOST = "127.0.0.1"
MAX_BODY = 512 * 2**20
"""The Batch API's own limit is 200 MB a file."""
_MESSAGE_BATCHES = "/v1/messages/batches"
_STATUS: dict[Kind, int] = {"rate_limit": 429, "server_error": 500, "overload": 503}


class SimulatedEndpoint:
    """An OpenAI-compatible endpoint in this process, which speaks Anthropic's Messages API as well.

    ``async with SimulatedEndpoint(Library.read(["questions.jsonl"])) as endpoint:`` and use ``endpoint.url``; port 0
    takes a free one. From code that is not async: ``with SimulatedEndpoint(...).in_thread() as endpoint:``.
    ``rules`` refuses and ignores what a vendor does (`vendors`).
    ``respond`` decides single answers: ``lambda request: Reply(429) if request.attempt == 0 else None``.
    """

    stop_wait_s = 1.0
    """How long stopping waits for requests in flight."""

    def __init__(
        self,
        library: Library | Iterable[Question] = (),
        *,
        faults: Faults | None = None,
        seed: int = 0,
        error_rate: float = 0.5,
        port: int = 0,
        respond: Respond | None = None,
        rules: RuleSet | None = None,
    ) -> None:
        self.models = Models(library if isinstance(library, Library) else Library.of(library), seed, error_rate)
        self.stats = Stats()
        self.port = port
        self.respond = respond
        self.key: str | None = None
        """Where set, a request without it is refused (401)."""
        self.control_token: str | None = None
        """Where set, POST /reset and POST /faults without it are refused (401)."""
        self.batches = Batches(self.models, self.stats, faults or Faults(), rules)
        self.messages = MessagesApi(self.models, self.stats, faults or Faults())
        self._bucket: TokenBucket | None = None
        self._runner: web.AppRunner | None = None
        self.faults = faults or Faults()

    @property
    def url(self) -> str:
        """Return the base URL to give to a client, which ends in ``/v1``."""
        return f"http://{HOST}:{self.port}/v1"

    @property
    def faults(self) -> Faults:
        """Return what goes wrong at present; assigning changes it at once."""
        return self.batches.faults

    @faults.setter
    def faults(self, faults: Faults) -> None:
        self.batches.faults = self.messages.faults = faults
        self._bucket = TokenBucket.full(faults.requests_per_second) if faults.requests_per_second else None
        self._slots = asyncio.Semaphore(faults.slots or sys.maxsize)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self) -> None:
        """Listen.

        Raises:
            EndpointError: the port is taken.
        """
        application = web.Application(client_max_size=MAX_BODY, middlewares=[_refuse_other_origins])
        application.add_routes(
            [
                web.post("/v1/chat/completions", self._chat),
                web.post("/v1/messages", self._chat),
                web.post(_MESSAGE_BATCHES, _json_route(lambda _, body: self.messages.create(json.loads(body)))),
                web.get(
                    _MESSAGE_BATCHES,
                    _json_route(
                        lambda request, _: self.messages.page(
                            request.query.get("after_id"), int(request.query.get("limit", "20"))
                        )
                    ),
                ),
                web.get(
                    f"{_MESSAGE_BATCHES}/{{id}}",
                    _json_route(lambda request, _: self.messages.get(request.match_info["id"])),
                ),
                web.post(
                    f"{_MESSAGE_BATCHES}/{{id}}/cancel",
                    _json_route(lambda request, _: self.messages.cancel(request.match_info["id"])),
                ),
                web.get(f"{_MESSAGE_BATCHES}/{{id}}/results", self._message_results),
                web.get("/v1/models", self._models),
                web.post("/v1/files", self._upload),
                web.get(
                    "/v1/files/{id}", _json_route(lambda request, _: self.batches.file(request.match_info["id"])[0])
                ),
                web.get("/v1/files/{id}/content", self._file_content),
                web.post("/v1/batches", _json_route(lambda _, body: self.batches.create(json.loads(body)))),
                web.get(
                    "/v1/batches",
                    _json_route(
                        lambda request, _: self.batches.page(
                            request.query.get("after"), int(request.query.get("limit", "20"))
                        )
                    ),
                ),
                web.get("/v1/batches/{id}", _json_route(lambda request, _: self.batches.get(request.match_info["id"]))),
                web.post(
                    "/v1/batches/{id}/cancel",
                    _json_route(lambda request, _: self.batches.cancel(request.match_info["id"])),
                ),
                web.get("/health", _json_route(lambda *_: {"status": "ok"})),
                web.get(
                    "/stats", _json_route(lambda request, _: self.stats.report(payments="payments" in request.query))
                ),
                web.post("/reset", self._reset),
                web.post("/faults", self._set_faults),
            ]
        )
        self._runner = web.AppRunner(
            application, access_log=None, handle_signals=False, shutdown_timeout=self.stop_wait_s
        )
        await self._runner.setup()
        site = web.TCPSite(self._runner, HOST, self.port, backlog=4096)
        try:
            await site.start()
        except OSError as error:
            await self._runner.cleanup()
            raise EndpointError(
                f"cannot listen on {HOST}:{self.port} ({error.strerror}): choose another port"
            ) from error
        self.port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        """Stop listening; requests in flight get `stop_wait_s` to end."""
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    @contextmanager
    def in_thread(self) -> Iterator[Self]:
        """Run in a thread with an event loop of its own, for callers that are not async."""
        loop = asyncio.new_event_loop()
        thread = threading.Thread(target=loop.run_forever, name="simulated-endpoint", daemon=True)
        thread.start()
        # The result is awaited, so the port is known, or its error raised, before the block begins.
        try:
            asyncio.run_coroutine_threadsafe(self.start(), loop).result()
            yield self
        finally:
            asyncio.run_coroutine_threadsafe(self.stop(), loop).result()
            loop.call_soon_threadsafe(loop.stop)
            thread.join()
            loop.close()

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        try:
            content = await request.read()
        except ConnectionResetError:
            # Killed in the middle of its request; aiohttp would print a traceback.
            return web.Response(status=400)
        as_messages = request.path.endswith("/messages")
        given = request.headers.get("x-api-key" if as_messages else "Authorization")
        if self.key is not None and given != (self.key if as_messages else f"Bearer {self.key}"):
            body = (
                messages_error(401, "the key is wrong") if as_messages else {"error": {"message": "the key is wrong"}}
            )
            return web.json_response(body, status=401)
        if as_messages and "anthropic-version" not in request.headers:
            return web.json_response(messages_error(400, "anthropic-version: header is required"), status=400)
        key = request_hash(content)
        stats, faults = self.stats, self.faults
        attempt = stats.arrive(key)
        try:
            if self._bucket is not None and not self._bucket.admits():
                # A request that was turned away at the door has not been tried.
                stats.attempts[key] = attempt
                return self._fail("rate_limit", as_messages=as_messages)
            # Also without a latency: requests that arrive together are counted before the first is answered.
            async with self._slots:
                await asyncio.sleep(draw_latency(faults, key, attempt))
            if self.respond is not None:
                reply = self.respond(ChatRequest(json.loads(content), attempt, request.headers))
                if reply is not None:
                    return await self._send(request, key, reply)
            kind = draw_failure(faults, key, attempt)
            # The hook comes first: what a test decides, no drawn fault may change.
            if kind in _STATUS:
                return self._fail(kind, as_messages=as_messages)
            return await self._answer(request, key, content, kind)
        finally:
            stats.in_flight -= 1

    async def _send(self, request: web.Request, key: bytes, reply: Reply) -> web.StreamResponse:
        """Send what the hook decided; a reply with status 200 counts as paid."""
        await asyncio.sleep(reply.delay_s)
        if reply.status == 0 and request.transport is not None:
            request.transport.abort()
            return web.Response()
        if reply.status == 200:
            usage = reply.body.get("usage") if isinstance(reply.body, dict) else None
            # A hook may play an endpoint that writes anything there.
            usage = usage if isinstance(usage, dict) else {}
            prompt, completion = (parse_count(usage.get(name)) or 0 for name in ("prompt_tokens", "completion_tokens"))
            self.stats.pay(key, prompt, completion)
        return _json(reply, dict(reply.headers))

    def _fail(self, kind: Kind, *, as_messages: bool) -> web.Response:
        status = _STATUS[kind]
        self.stats.counts["r429" if status == 429 else "r5xx"] += 1
        code = "rate_limit_exceeded" if status == 429 else kind
        headers = {"Retry-After": f"{self.faults.retry_after_s:g}"} if status in {429, 503} else {}
        if as_messages:
            return _json(failure(kind), headers)
        return _json(Reply(status, error_body(f"injected: {kind}", code, code)), self._limits() | headers)

    async def _answer(self, request: web.Request, key: bytes, content: bytes, kind: Kind | None) -> web.StreamResponse:
        try:
            body = json.loads(content)
        except ValueError:
            body = None
        if kind == "silence":
            # Until the client hangs up.
            while request.transport is not None and not request.transport.is_closing():  # noqa: ASYNC110 - no event
                await asyncio.sleep(0.05)
            return web.Response(status=408)
        if kind == "bad_gateway":
            self.stats.counts["r5xx"] += 1
            return web.Response(status=502, text="<html>502 Bad Gateway</html>", content_type="text/html")
        if kind == "cut_connection":
            self.stats.counts["cut"] += 1
            # Promise a body, send a part of it and hang up.
            response = web.StreamResponse(headers={"Content-Type": "application/json", "Content-Length": "1000"})
            await response.prepare(request)
            await response.write(b'{"id": "chatcmpl-cut", "choices": [')
            if request.transport is not None:
                request.transport.close()
            return response
        if kind == "malformed_body":
            self.stats.counts["malformed"] += 1
            return web.Response(body=b'{"id": "chatcmpl-broken", "choices": [{"mess', content_type="application/json")
        if request.path.endswith("/messages"):
            return _json(self.messages.answer(key, body), {})
        return _json(
            answer_request(self.models, self.faults, self.stats, key, body, self.batches.rules), self._limits()
        )

    def _limits(self) -> dict[str, str]:
        if self._bucket is None:
            return {}
        per_minute, left = int(self._bucket.rate * 60), int(self._bucket.left)
        return {"x-ratelimit-limit-requests": str(per_minute), "x-ratelimit-remaining-requests": str(left)}

    async def _models(self, _: web.Request) -> web.Response:
        return web.json_response(self.models.describe())

    async def _upload(self, request: web.Request) -> web.Response:
        form = await request.post()
        file = form.get("file")
        if not isinstance(file, web.FileField):
            return web.json_response(error_body("the form has no `file`", "invalid_request_error"), status=400)
        purpose = str(form.get("purpose", "batch"))
        return web.json_response(self.batches.add_file(file.file.read(), file.filename, purpose))

    async def _message_results(self, request: web.Request) -> web.Response:
        try:
            content = self.messages.results(request.match_info["id"])
            return web.Response(body=content, content_type="application/x-jsonl")
        except BatchError as error:
            return web.json_response(messages_error(error.status, str(error)), status=error.status)

    async def _file_content(self, request: web.Request) -> web.Response:
        try:
            return web.Response(body=self.batches.file(request.match_info["id"])[1])
        except BatchError as error:
            return web.json_response(error_body(str(error), "invalid_request_error"), status=error.status)

    def _deny_control(self, request: web.Request) -> web.Response | None:
        """Return the refusal of a control request without the token."""
        given = request.headers.get("Authorization", "").encode("utf-8", "surrogateescape")
        if self.control_token is None or hmac.compare_digest(given, f"Bearer {self.control_token}".encode()):
            return None
        said = "this needs the control token that the server's start printed, as Authorization: Bearer TOKEN"
        return web.json_response(error_body(said, "invalid_request_error", "control_token"), status=401)

    async def _reset(self, request: web.Request) -> web.Response:
        if denial := self._deny_control(request):
            return denial
        self.stats.reset()
        return web.json_response({"status": "ok"})

    async def _set_faults(self, request: web.Request) -> web.Response:
        if denial := self._deny_control(request):
            return denial
        try:
            self.faults = Faults.model_validate(await request.json())
        except (ValidationError, ValueError) as error:
            return web.json_response(error_body(str(error), "invalid_request_error"), status=400)
        return web.json_response(self.faults.model_dump())


_GATE = RequestFilter()


@web.middleware
async def _refuse_other_origins(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """Refuse requests of other origins' pages, and those that name another host."""
    refusal = _GATE.refusal(request.headers.items())
    if refusal is None:
        return await handler(request)
    return web.json_response(error_body(refusal.reason, "invalid_request_error"), status=refusal.status)


def _json(reply: Reply, headers: dict[str, str]) -> web.Response:
    # A hook may play an endpoint that answers with a page or a stream.
    own = any(name.lower() == "content-type" for name in headers)
    headers = headers if own else headers | {"Content-Type": "application/json"}
    return web.Response(status=reply.status, body=reply.content, headers=headers)


def _json_route(
    work: Callable[[web.Request, bytes], dict[str, Any]],
) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    """Return a handler that answers with what ``work`` makes of a request and its body, or with its `BatchError`."""

    async def handle(request: web.Request) -> web.StreamResponse:
        try:
            return web.json_response(work(request, await request.read()))
        except BatchError as error:
            return web.json_response(error_body(str(error), "invalid_request_error"), status=error.status)

    return handle


CONTROL_FROM = "LEMA_SIMULATED_TOKEN"
"""The environment variable with the token for POST /reset and POST /faults; without it a random one is made."""


def parse_faults(settings: Iterable[str]) -> Faults:
    """Return the faults that ``name=value`` settings describe.

    Raises:
        ConfigError: a setting is malformed, or no fault has its name.
    """
    values = {}
    for setting in settings:
        name, equals, value = setting.partition("=")
        if not equals:
            raise ConfigError(f"the fault {setting!r} has no value: write it as name=value, for example latency_s=0.05")
        values[name.strip()] = value.strip()
    try:
        return Faults.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise ConfigError(f"fault {place}: {first['msg']}. There are: {', '.join(Faults.model_fields)}") from error


def serve(endpoint: SimulatedEndpoint, started: Callable[[SimulatedEndpoint], None]) -> None:
    """Serve until SIGINT or SIGTERM; ``started`` is called once when the endpoint answers.

    Other users of the machine reach it, so its control routes ask for a token.
    """
    endpoint.control_token = os.environ.get(CONTROL_FROM) or secrets.token_urlsafe(16)

    async def run() -> None:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for sign in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(sign, stop.set)
        async with endpoint:
            started(endpoint)
            await stop.wait()

    asyncio.run(run())
