"""An endpoint that answers badly for a while: what it says it answered is read until it is there, and paid once."""

from typing import Any

import aiohttp
import pytest
from aiohttp import web
from batching import QUICK, answered, batched, buy, submitted

from lema_core.errors import EndpointError
from lema_core.llm.batch.api import BatchApi
from lema_core.llm.batch.records import has_open_batches
from lema_core.llm.client import Client
from lema_core.llm.ledger.store import LedgerStore
from lema_core.llm.simulated.batches import BatchError, Batches


def at_first(monkeypatch, name: str, change, times: int = 1) -> None:
    """Change what a method of the simulated batches returns, so many times."""
    right, left = getattr(Batches, name), [None] * times

    def wrong(self, *words):
        found = right(self, *words)
        return change(found) if left and (left.pop(), True)[1] else found

    monkeypatch.setattr(Batches, name, wrong)


def away(*_: Any) -> Any:
    raise web.HTTPServiceUnavailable


def refused(*_: Any) -> Any:
    raise BatchError(404, "not found")


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("file", lambda found: (found[0], b"<html>maintenance</html>")),
        ("file", lambda found: (found[0], b"")),
        ("file", lambda found: (found[0], found[1][: len(found[1]) // 2])),
        ("file", lambda found: (found[0], found[1][: found[1].index(b"\n") + 1])),
        ("file", refused),
        ("get", lambda found: found | {"output_file_id": None}),
    ],
    ids=["html", "empty", "cut", "short", "404", "no file yet"],
)
async def test_what_a_batch_says_it_answered_is_read_until_it_is_there(
    endpoint, ask, ledger, monkeypatch, name, change
) -> None:
    await buy(ledger, batched(endpoint, wait_for_batch=False), ask(5))
    for batch in list(endpoint.batches.batches):
        endpoint.batches.get(batch)
    at_first(monkeypatch, name, change)
    assert answered(await buy(ledger, batched(endpoint), ask(5)), 5)
    assert submitted(endpoint) == [5]


async def test_files_that_stay_short_end_the_run_and_what_they_lack_is_not_bought_again(
    endpoint, ask, ledger, monkeypatch
) -> None:
    await buy(ledger, batched(endpoint, wait_for_batch=False), ask(5))
    (batch,) = endpoint.batches.batches
    endpoint.batches.get(batch)
    with monkeypatch.context() as patch:
        at_first(patch, "file", lambda found: (found[0], b"".join(found[1].splitlines(keepends=True)[:3])), 99)
        with pytest.raises(EndpointError, match=f"{batch}.*forget-batch"):
            await buy(ledger, batched(endpoint), ask(5))
        # What could be read is kept.
        assert len(LedgerStore(ledger).database.query("SELECT key FROM completions")) == 3
        assert has_open_batches(LedgerStore(ledger), "batch")
    assert answered(await buy(ledger, batched(endpoint), ask(5)), 5)
    assert submitted(endpoint) == [5]


async def test_an_answer_is_not_replaced_by_an_error_under_the_same_id(endpoint, ask, ledger, monkeypatch) -> None:
    written = Batches._write_file

    def twice(self, lines, filename):
        gone = {"response": None, "error": {"code": "batch_expired", "message": "expired"}}
        return written(self, lines + [line | gone for line in lines], filename)

    monkeypatch.setattr(Batches, "_write_file", twice)
    assert answered(await buy(ledger, batched(endpoint), ask(5)), 5)
    assert submitted(endpoint) == [5]


async def test_a_batch_is_closed_when_its_file_is_full(endpoint, ask, ledger) -> None:
    small = QUICK.model_copy(update={"file_bytes": 1000})
    assert answered(await buy(ledger, batched(endpoint, batches=small), ask(10)), 10)
    assert sum(submitted(endpoint)) == 10
    assert len(submitted(endpoint)) > 1
    assert all(len(content) <= 1000 for told, content in endpoint.batches.files.values() if told["purpose"] == "batch")
    # One request that is larger than a file is the endpoint's to refuse.
    tiny = QUICK.model_copy(update={"file_bytes": 10})
    assert answered(await buy(ledger, batched(endpoint, batches=tiny), ask(2, 50)), 2)


async def test_a_call_that_is_refused_is_told_so(endpoint, ask, ledger, monkeypatch) -> None:
    def too_large(*_):
        raise BatchError(400, "the file is too large")

    monkeypatch.setattr(Batches, "create", too_large)
    with pytest.raises(EndpointError, match="refuses the call: HTTP 400: the file is too large"):
        await buy(ledger, batched(endpoint), ask(2))


@pytest.mark.parametrize(
    "reply",
    [
        {"text": "<html>busy</html>", "content_type": "text/html"},
        {"text": '{"object": "li', "content_type": "application/json"},
        {"text": '{"error": {"message": "busy"}}', "content_type": "application/json"},
        {"status": 503},
    ],
    ids=["html", "cut", "error", "503"],
)
async def test_a_garbled_answer_with_a_good_status_is_asked_for_again(endpoint, ask, ledger, reply, tmp_path) -> None:
    """Every call of the API is garbled once before it is answered."""
    seen: set[str] = set()

    async def garbled(request: web.Request) -> web.StreamResponse:
        what = f"{request.method} {request.path.split('/')[2:3]}"
        if what not in seen and "models" not in request.path and "content" not in request.path:
            seen.add(what)
            return web.Response(**reply)
        target = f"http://127.0.0.1:{endpoint.port}{request.path_qs}"
        headers = {"Content-Type": request.headers["Content-Type"]} if "Content-Type" in request.headers else {}
        async with session.request(request.method, target, data=await request.read(), headers=headers) as answer:
            return web.Response(body=await answer.read(), status=answer.status, content_type=answer.content_type)

    app = web.Application(client_max_size=2**24)
    app.router.add_route("*", "/{path:.*}", garbled)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    async with aiohttp.ClientSession() as session:
        url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
        assert answered(await buy(ledger, batched(endpoint, base_url=url), ask(3)), 3)
        assert submitted(endpoint) == [3]
        seen.clear()
        client = Client(batched(endpoint, base_url=url))
        sought = await BatchApi(client, 5, tmp_path, QUICK).search("nobody's", "file", set(), patiently=False)
        assert sought.remote is None
        await client.close()
    await runner.cleanup()
    assert seen == {"GET ['batches']"}


async def test_an_outage_shorter_than_the_patience_does_not_end_the_wait(endpoint, ask, ledger, monkeypatch) -> None:
    patient = QUICK.model_copy(update={"tries": 1, "unreachable_s": 5.0})
    await buy(ledger, batched(endpoint, wait_for_batch=False), ask(2))
    at_first(monkeypatch, "get", away, 3)
    assert answered(await buy(ledger, batched(endpoint, batches=patient), ask(2)), 2)
