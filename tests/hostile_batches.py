"""A Batch API that a test makes misbehave in one way: a real HTTP server that counts what it would bill."""

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

Json = dict[str, Any]
CUT = object()
"""Sent instead of a reply: the connection is closed."""
SILENT = object()
"""Sent instead of a reply: nothing, until the client gives up."""


@dataclass
class Status:
    """A status with a body and headers, without doing anything."""

    status: int
    body: Any = None
    headers: dict[str, str] = field(default_factory=dict)


@dataclass
class Raw:
    """Bytes that are sent as they are, instead of an HTTP response; ``endless`` repeats the last part."""

    head: bytes
    endless: bytes = b""


@dataclass
class Behaviour:
    """How an endpoint differs from a good one. Each hook gets the server, what it would do, and the call's number."""

    before: dict[str, Callable[["Hostile", int], Any]] = field(default_factory=dict)
    """By call: something that is sent instead of doing anything; None: go on."""
    reply: dict[str, Callable[["Hostile", Any, int], Any]] = field(default_factory=dict)
    """By call: what is sent instead of the reply, after all was done."""
    row: Callable[[Json, int], Any] = lambda row, _index: row
    """Changes a row of the results; None leaves it out."""
    text: Callable[[bytes], bytes] = lambda text: text
    """Changes the output file."""
    errors: Callable[[Json, int], bool] = lambda _row, _index: False
    """Says which rows go into the error file."""
    status: str = "completed"
    said: Callable[[int], bool] = lambda _index: False
    """Says of which requests of a batch the endpoint said that it did not carry them out."""


class Hostile:
    """One endpoint. ``billed`` counts, by request, in how many batches it was without a word that it was not done."""

    def __init__(self, behaviour: Behaviour) -> None:
        self.behaviour = behaviour
        self.url = ""
        self.files: dict[str, bytes] = {}
        self.batches: dict[str, Json] = {}
        self.billed: Counter[str] = Counter()
        self.calls: Counter[str] = Counter()
        self.reached: Callable[[str], bool] = lambda _moment: False
        """Called at each moment of a call; true: the connection is closed there."""

    async def serve(self, request: web.Request) -> web.StreamResponse:
        call, work = self._route(request)
        self.calls[call] += 1
        number = self.calls[call]
        if self.reached(f"{call} arrived"):
            return await self._send(request, CUT)
        instead = self.behaviour.before.get(call, lambda *_: None)(self, number)
        if instead is not None:
            return await self._send(request, instead)
        done = await work(request)
        if self.reached(f"{call} done"):
            return await self._send(request, CUT)
        if call in self.behaviour.reply:
            done = self.behaviour.reply[call](self, done, number)
        return await self._send(request, done)

    def _route(self, request: web.Request) -> tuple[str, Any]:
        parts = request.path.removeprefix("/v1/").split("/")
        if parts[0] == "files":
            return ("upload", self._upload) if request.method == "POST" else ("file", self._file)
        if parts[0] == "batches":
            if request.method == "POST":
                return "create", self._create
            return ("list", self._list) if len(parts) == 1 else ("get", self._get)
        return "models", self._models

    async def _models(self, _request: web.Request) -> Json:
        return {"object": "list", "data": []}

    async def _upload(self, request: web.Request) -> Json:
        form = await request.post()
        field = form["file"]
        assert isinstance(field, web.FileField)
        file_id = f"file-{len(self.files) + 1}"
        self.files[file_id] = field.file.read()
        return {"id": file_id, "object": "file"}

    async def _create(self, request: web.Request) -> Json:
        return self.make(await request.json())

    def make(self, body: Json) -> Json:
        """Make a batch, and do all its work."""
        name = f"batch_{len(self.batches) + 1}"
        names = [json.loads(line)["custom_id"] for line in self.files[body["input_file_id"]].splitlines()]
        self.billed.update(one for index, one in enumerate(names) if not self.behaviour.said(index))
        rows = [(index, _row(one)) for index, one in enumerate(names)]
        kept = [(index, self.behaviour.row(row, index)) for index, row in rows]
        good = [row for index, row in kept if row is not None and not self.behaviour.errors(row, index)]
        bad = [row for index, row in kept if row is not None and self.behaviour.errors(row, index)]
        self.files[f"{name}-out"] = self.behaviour.text(_lines(good))
        self.files[f"{name}-err"] = _lines(bad)
        self.batches[name] = {
            "id": name,
            "object": "batch",
            "status": self.behaviour.status,
            "errors": None,
            "input_file_id": body["input_file_id"],
            "output_file_id": f"{name}-out" if good else None,
            "error_file_id": f"{name}-err" if bad else None,
            "metadata": body["metadata"],
            "request_counts": {"total": len(names), "completed": len(good), "failed": len(bad)},
            "created_at": 1,
        }
        return self.batches[name] | {"status": "validating"}

    async def _list(self, request: web.Request) -> Json:
        names = list(self.batches)[::-1]
        after = request.query.get("after")
        names = names[names.index(after) + 1 :] if after in names else names
        return {"object": "list", "data": [self.batches[name] for name in names], "has_more": False}

    async def _get(self, request: web.Request) -> Any:
        name = request.path.split("/")[-1]
        return dict(self.batches[name]) if name in self.batches else 404

    async def _file(self, request: web.Request) -> Any:
        return self.files.get(request.path.split("/")[-2], 404)

    async def _send(self, request: web.Request, what: Any) -> web.StreamResponse:
        if isinstance(what, web.StreamResponse):
            return what
        transport = request.transport
        assert transport is not None
        if isinstance(what, int) and not isinstance(what, bool):
            return web.json_response({"error": {"message": f"refused with {what}"}}, status=what)
        if isinstance(what, Status):
            return web.json_response(what.body, status=what.status, headers=what.headers)
        if isinstance(what, bytes):
            return web.Response(body=what)
        if what is SILENT:
            await asyncio.sleep(30)
        if isinstance(what, Raw):
            transport.write(what.head)
            while what.endless and not transport.is_closing():
                if transport.get_write_buffer_size() < 2**21:
                    transport.write(what.endless)
                await asyncio.sleep(0)
        if what in (CUT, SILENT) or isinstance(what, Raw):
            await asyncio.sleep(0)
            transport.abort() if what is CUT else transport.close()
            return web.Response()
        return web.json_response(what)


def _row(name: str) -> Json:
    body = {
        "model": "fake-1",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "42"}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 20, "completion_tokens": 10},
    }
    return {"id": f"r-{name}", "custom_id": name, "response": {"status_code": 200, "body": body}, "error": None}


def _lines(rows: list[Any]) -> bytes:
    return "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows).encode()


@asynccontextmanager
async def serving(behaviour: Behaviour) -> AsyncIterator[Hostile]:
    """Run an endpoint on a free port of the loopback interface."""
    endpoint = Hostile(behaviour)
    app = web.Application(client_max_size=2**26)
    app.router.add_route("*", "/{path:.*}", endpoint.serve)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    endpoint.url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
    try:
        yield endpoint
    finally:
        await runner.cleanup()
