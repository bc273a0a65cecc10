import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from lema_core.llm import CompletionRequest, EndpointSpec, Sampling
from lema_core.llm.simulated import SimulatedEndpoint

Reply = tuple[int, dict[str, Any] | str, dict[str, str]]
"""Status, body, headers."""


def answer(text: str = "The answer is 42.", finish: str = "stop", tokens: int = 10) -> dict[str, Any]:
    return {
        "id": "x",
        "object": "chat.completion",
        "created": 1,
        "model": "fake-1",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": finish}],
        "usage": {"prompt_tokens": 20, "completion_tokens": tokens, "total_tokens": 20 + tokens},
    }


class FakeEndpoint:
    """A real HTTP server on loopback whose answers a test decides; it counts what was paid for."""

    def __init__(self) -> None:
        self.paid: Counter[str] = Counter()
        self.hits = self.in_flight = self.most_in_flight = 0
        self.latency = 0.0
        self.headers: list[dict[str, str]] = []
        self.bodies: list[dict[str, Any]] = []
        self.decide: Callable[[dict[str, Any], int], Reply | None] = lambda _body, _tries: None
        self.models_status = 200
        self.url = ""
        self._tries: Counter[str] = Counter()

    async def chat(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.hits += 1
        self.headers.append(dict(request.headers))
        self.bodies.append(body)
        key = json.dumps([body["messages"], body.get("seed")])
        tries = self._tries[key]
        self._tries[key] += 1
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            await asyncio.sleep(self.latency)
        finally:
            self.in_flight -= 1
        status, reply, headers = self.decide(body, tries) or (200, answer(), {})
        if status == -1:
            assert request.transport is not None
            request.transport.abort()
            return web.Response()
        self.paid[key] += status == 200
        text = reply if isinstance(reply, str) else json.dumps(reply)
        return web.Response(text=text, status=status, headers=headers, content_type="application/json")

    async def models(self, _request: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": []}, status=self.models_status)


@pytest.fixture
async def fake() -> AsyncIterator[FakeEndpoint]:
    endpoint = FakeEndpoint()
    app = web.Application()
    app.router.add_post("/v1/chat/completions", endpoint.chat)
    app.router.add_get("/v1/models", endpoint.models)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    endpoint.url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
    yield endpoint
    await runner.cleanup()


@pytest.fixture
async def endpoint() -> AsyncIterator[SimulatedEndpoint]:
    async with SimulatedEndpoint() as simulated:
        yield simulated


@pytest.fixture
def ledger(tmp_path: Path) -> str:
    return str(tmp_path / "ledger.sqlite")


@pytest.fixture
def spec(fake: FakeEndpoint) -> EndpointSpec:
    return EndpointSpec(model="fake", base_url=fake.url, concurrency=16)


@pytest.fixture
def ask() -> Callable[..., list[CompletionRequest]]:
    def make(count: int, start: int = 0, **sampling: Any) -> list[CompletionRequest]:
        drawn = Sampling(**sampling)
        return [
            CompletionRequest(({"role": "user", "content": f"question {index}"},), drawn)
            for index in range(start, start + count)
        ]

    return make
