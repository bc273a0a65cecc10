import json
from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from lema_core.llm import CompletionRequest, EndpointSpec, Sampling
from lema_core.llm.simulated import ChatRequest, Faults, Reply, SimulatedEndpoint

Decision = Reply | tuple[int, dict[str, Any] | str, dict[str, str]]
"""Status (0: the connection is cut), body, headers."""


def answer(text: str = "The answer is 42.", finish: str = "stop", tokens: int = 10) -> dict[str, Any]:
    return {
        "id": "x",
        "object": "chat.completion",
        "created": 1,
        "model": "fake-1",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": finish}],
        "usage": {"prompt_tokens": 20, "completion_tokens": tokens, "total_tokens": 20 + tokens},
    }


class FakeEndpoint(SimulatedEndpoint):
    """An endpoint whose answers a test decides, by the request's body and the number of earlier attempts at it."""

    stop_wait_s = 0.1

    def __init__(self) -> None:
        super().__init__(respond=self._respond)
        self.headers: list[dict[str, str]] = []
        self.bodies: list[dict[str, Any]] = []
        self.decide: Callable[[dict[str, Any], int], Decision | None] = lambda _body, _tries: None
        self.models_status = 200
        self._tries: Counter[str] = Counter()

    def _respond(self, request: ChatRequest) -> Reply:
        body = request.body
        self.headers.append(dict(request.headers))
        self.bodies.append(body)
        # A second try with a larger cap counts as the same request.
        key = json.dumps([body["messages"], body.get("seed")])
        tries = self._tries[key]
        self._tries[key] += 1
        decided = self.decide(body, tries) or (200, answer(), {})
        return decided if isinstance(decided, Reply) else Reply(*decided)

    async def _models(self, _request: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": []}, status=self.models_status)

    @property
    def latency(self) -> float:
        return self.faults.latency_s

    @latency.setter
    def latency(self, seconds: float) -> None:
        self.faults = Faults(latency_s=seconds)

    @property
    def hits(self) -> int:
        return self.stats.counts["hits"]

    @hits.setter
    def hits(self, count: int) -> None:
        self.stats.counts["hits"] = count

    @property
    def in_flight(self) -> int:
        return self.stats.in_flight

    @property
    def most_in_flight(self) -> int:
        return self.stats.max_in_flight

    @property
    def paid(self) -> int:
        return sum(self.stats.paid.values())


@pytest.fixture
async def fake() -> AsyncIterator[FakeEndpoint]:
    async with FakeEndpoint() as endpoint:
        yield endpoint


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
