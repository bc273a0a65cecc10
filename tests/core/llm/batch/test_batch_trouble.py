"""Batches lost, refused, stalled, cut off, or asked for over HTTP: nothing is paid twice, nothing waits for ever."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from batching import QUICK, answered, batched, buy, let_end, submitted

from lema_core.errors import AuthenticationError, EndpointError
from lema_core.llm import Budget, Completion, EndpointSpec, Engine, Failure, request_key
from lema_core.llm.batch.api import BatchApi
from lema_core.llm.batch.records import Batch, BatchLine, BatchRecords, forget_batch, has_open_batches
from lema_core.llm.batch.replies import BatchReply
from lema_core.llm.batch.result_rows import RowContent, classify_row
from lema_core.llm.client import Client
from lema_core.llm.costs.forecast import pilot
from lema_core.llm.ledger.credit import Amount, CreditLine
from lema_core.llm.ledger.ledger import Ledger
from lema_core.llm.ledger.store import CompletionEntry, LedgerStore
from lema_core.llm.requests import canonical_request, key_json
from lema_core.llm.settings import EngineSettings
from lema_core.llm.simulated import Faults, SimulatedEndpoint
from lema_core.llm.simulated.batches import BatchError, Batches


def states(ledger: str) -> list[str]:
    return [row[0] for row in LedgerStore(ledger).database.query("SELECT state FROM batches ORDER BY state")]


def failures(ledger: str) -> dict[str, int]:
    return dict(LedgerStore(ledger).database.query("SELECT reason, SUM(count) FROM failures GROUP BY reason"))


def paid(endpoint) -> int:
    """Return what the endpoint billed, at PRICE."""
    report = endpoint.stats.report()
    return report["prompt_tokens"] + report["completion_tokens"]


def spoil(monkeypatch, change: Callable[[dict[str, Any], dict[str, Any]], None]) -> None:
    """Let ``change`` see each request's body and change its row before it is written."""
    line = Batches._answer_line

    def spoil_text(self, text, *, expired):
        row, _ = line(self, text, expired=expired)
        change(json.loads(text)["body"], row)
        return row, classify_row(row) is RowContent.ANSWERED

    monkeypatch.setattr(Batches, "_answer_line", spoil_text)


async def test_what_a_batch_owes_is_not_bought_over_http(endpoint, ask, ledger) -> None:
    endpoint.faults = Faults(batch_delay_s=3600)
    await buy(ledger, batched(endpoint, wait_for_batch=False), ask(6))
    spec = batched(endpoint, transport="http")
    async with Engine.open(ledger=ledger, run="batch") as opened:
        found = await pilot(opened, spec, ask(6), 6, 3)
    assert [one.reason for one in found if isinstance(one, Failure)] == ["pending"] * 3
    assert endpoint.stats.report()["distinct"] == 0
    let_end(endpoint)
    assert answered(await buy(ledger, spec, ask(8)), 8)
    assert submitted(endpoint) == [6]
    assert endpoint.stats.report()["paid_twice"] == 0
    assert LedgerStore(ledger).spent("batch")[1] == paid(endpoint)


async def test_an_answer_that_was_bought_elsewhere_meanwhile_is_a_duplicate_with_its_cost(
    endpoint, ask, ledger
) -> None:
    endpoint.faults = Faults(batch_delay_s=3600)
    later = batched(endpoint, wait_for_batch=False)
    await buy(ledger, later, ask(2))
    first = ask(2)[0]
    other = Completion(request_key("fixed", first), "x", "stop", 1, 1, "fixed")
    LedgerStore(ledger).commit(
        [CompletionEntry("fixed", key_json(canonical_request("fixed", first)), other, 2.0)], "batch"
    )
    let_end(endpoint)
    assert (await buy(ledger, later, ask(2)))[0] == other
    assert failures(ledger) == {"duplicate": 1}
    assert LedgerStore(ledger).spent("batch")[1] == paid(endpoint) + 2
    assert states(ledger) == ["collected"]


async def test_a_batch_that_the_endpoint_forgot_is_submitted_again_only_when_somebody_gives_it_up(
    endpoint, ask, ledger
) -> None:
    endpoint.faults = Faults(batch_delay_s=3600)
    await buy(ledger, batched(endpoint, wait_for_batch=False), ask(3))
    # As for a key of another project.
    theirs, endpoint.faults = dict(endpoint.batches.batches), Faults()
    endpoint.batches.batches.clear()
    ((name,),) = LedgerStore(ledger).database.query("SELECT id FROM batches")
    with pytest.raises(EndpointError, match=f"does not know it.*forget-batch {name}"):
        await buy(ledger, batched(endpoint), ask(3))
    assert submitted(endpoint) == []
    assert states(ledger) == ["submitted"]
    assert theirs
    forget_batch(LedgerStore(ledger), name)
    assert answered(await buy(ledger, batched(endpoint), ask(3)), 3)
    assert states(ledger) == ["collected", "forgotten"]


async def test_a_result_file_that_is_gone_ends_the_run_and_is_paid_again_only_when_given_up(
    endpoint, ask, ledger, monkeypatch
) -> None:
    file = Batches.file

    def gone(self, file_id):
        described, content = file(self, file_id)
        if described["filename"] == "batch-000001_output.jsonl":
            raise BatchError(404, "expired")
        return described, content

    monkeypatch.setattr(Batches, "file", gone)
    for _ in range(2):
        with pytest.raises(EndpointError, match=r"nothing could be read for 3 of its 3 requests.*forget-batch"):
            await buy(ledger, batched(endpoint), ask(3, max_tokens=200), Budget(dollars=1e6))
        assert submitted(endpoint) == [3]
        assert CreditLine(LedgerStore(ledger), "batch", "me", Budget(dollars=1))._read_batches().dollars > 30
    ((name,),) = LedgerStore(ledger).database.query("SELECT id FROM batches")
    forget_batch(LedgerStore(ledger), name)
    assert answered(await buy(ledger, batched(endpoint), ask(3, max_tokens=200)), 3)
    assert submitted(endpoint) == [3, 3]


async def test_another_url_does_not_pay_for_a_batch_again_unless_it_is_given_up(endpoint, ask, ledger) -> None:
    endpoint.faults = Faults(batch_delay_s=3600)
    await buy(ledger, batched(endpoint, wait_for_batch=False), ask(3))
    async with SimulatedEndpoint() as other:
        with pytest.raises(EndpointError, match=f"3 requests was submitted to {endpoint.url}.*forget-batch"):
            await buy(ledger, batched(other), ask(3))
        assert other.batches.batches == {}
        ((name,),) = LedgerStore(ledger).database.query("SELECT id FROM batches")
        assert forget_batch(LedgerStore(ledger), name) == 3
        assert answered(await buy(ledger, batched(other), ask(3)), 3)


async def test_a_batch_of_which_a_part_is_asked_for_is_booked_as_a_whole(endpoint, ask, ledger) -> None:
    later = batched(endpoint, wait_for_batch=False)
    await buy(ledger, later, ask(10), Budget(dollars=1e6))
    assert has_open_batches(LedgerStore(ledger), "batch")
    await buy(ledger, later, ask(2), Budget(dollars=1e6))
    assert states(ledger) == ["collected"]
    assert not has_open_batches(LedgerStore(ledger), "batch")
    assert LedgerStore(ledger).spent("batch")[1] == paid(endpoint)
    assert CreditLine(LedgerStore(ledger), "batch", "me", Budget(dollars=1))._read_batches() == Amount()


async def test_a_failed_request_that_nobody_asks_for_holds_no_money_and_is_tried_again(endpoint, ask, ledger) -> None:
    endpoint.faults = Faults(batch_failure=1.0, failures_in_a_row=1)
    later = batched(endpoint, wait_for_batch=False)
    await buy(ledger, later, ask(4), Budget(dollars=1e6))
    await buy(ledger, later, ask(1), Budget(dollars=1e6))
    lines = LedgerStore(ledger).database.query("SELECT batch, tries, tokens > 0 FROM batch_lines ORDER BY tries, batch")
    assert [line[1:] for line in lines] == [(1, 0)] * 3 + [(2, 1)]
    assert answered(await buy(ledger, batched(endpoint), ask(4)), 4)
    assert set(states(ledger)) == {"collected"}


async def test_a_batch_that_never_came_to_be_holds_no_money_for_ever(endpoint, ask, ledger) -> None:
    book = await Ledger.open(ledger, "batch")
    gone = Batch("gone", endpoint.url, lines={"a key of another day": BatchLine(upper_bound=Amount(500.0, 500.0))})
    await BatchRecords(book, "fixed").register(gone, {"a key of another day": "{}"})
    await book.close()
    await buy(ledger, batched(endpoint), ask(2, max_tokens=20), Budget(dollars=600))
    assert states(ledger) == ["collected", "lost"]
    assert CreditLine(LedgerStore(ledger), "batch", "me", Budget(dollars=1))._read_batches() == Amount()


@pytest.mark.parametrize("wait", [True, False])
async def test_what_was_cut_off_is_asked_once_more_with_a_larger_cap(endpoint, ask, ledger, wait) -> None:
    spec = batched(endpoint, wait_for_batch=wait)
    for _ in range(3):
        outcomes = await buy(ledger, spec, ask(3, max_tokens=3))
    assert submitted(endpoint) == [3, 3]
    assert [one.completion_tokens > 3 for one in outcomes] == [True] * 3
    assert failures(ledger) == {"length": 3}
    assert LedgerStore(ledger).spent("batch")[1] == paid(endpoint)
    assert set(states(ledger)) == {"collected"}


@pytest.mark.parametrize("wait", [True, False])
async def test_the_first_answer_stands_where_the_larger_cap_is_refused(
    endpoint, ask, ledger, monkeypatch, wait
) -> None:
    def refuse(body, row) -> None:
        if body["max_tokens"] > 3:
            row["response"] = {"status_code": 400, "body": {"error": {"message": "max_tokens is too large"}}}

    spoil(monkeypatch, refuse)
    for _ in range(3):
        outcomes = await buy(ledger, batched(endpoint, wait_for_batch=wait), ask(2, max_tokens=3))
    assert [one.finish_reason for one in outcomes] == ["length"] * 2
    assert submitted(endpoint) == [2, 2]
    assert set(states(ledger)) == {"collected"}


async def test_the_first_answer_stands_where_the_second_batch_is_lost(endpoint, ask, ledger) -> None:
    later = batched(endpoint, wait_for_batch=False)
    await buy(ledger, later, ask(2, max_tokens=3))
    await buy(ledger, later, ask(1, max_tokens=3))
    second = list(endpoint.batches.batches)[-1]
    del endpoint.batches.batches[second]
    outcomes = await buy(ledger, batched(endpoint), ask(1, max_tokens=3))
    assert [one.finish_reason for one in outcomes] == ["length"]
    assert submitted(endpoint) == [2]


CALL = [{"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}]


@pytest.mark.parametrize("message", [{"content": None}, {"content": None, "tool_calls": CALL}, {"content": 7}])
async def test_a_billed_answer_without_text_is_paid_once_and_recorded(
    endpoint, ask, ledger, monkeypatch, message
) -> None:
    spoil(monkeypatch, lambda _, row: row["response"]["body"]["choices"][0]["message"].update(message))
    outcomes = await buy(ledger, batched(endpoint), ask(2))
    assert [(one.reason, one.attempts) for one in outcomes if isinstance(one, Failure)] == [("malformed", 1)] * 2
    assert all("not text" in one.detail for one in outcomes)
    assert submitted(endpoint) == [2]
    assert LedgerStore(ledger).spent("batch")[1] == paid(endpoint)


async def test_rows_that_no_request_could_better_end_the_run_and_are_tried_again(
    endpoint, ask, ledger, monkeypatch
) -> None:
    spoil(monkeypatch, lambda _, row: row.update(response={"status_code": 401, "body": {"error": {"message": "key"}}}))
    with pytest.raises(AuthenticationError):
        await buy(ledger, batched(endpoint), ask(3))
    assert failures(ledger) == {}
    monkeypatch.undo()
    assert answered(await buy(ledger, batched(endpoint), ask(3)), 3)


async def test_a_request_that_always_fails_is_given_up_also_by_processes_that_do_not_wait(
    endpoint, ask, ledger
) -> None:
    endpoint.faults = Faults(always_failing=1.0)
    for _ in range(6):
        outcomes = await buy(ledger, batched(endpoint, wait_for_batch=False), ask(1))
    assert [(one.reason, one.attempts) for one in outcomes if isinstance(one, Failure)] == [("server_error", 5)]
    assert submitted(endpoint) == [1] * 5


async def test_a_batch_without_a_word_on_a_request_ends_the_run_with_the_names_that_came(
    endpoint, ask, ledger, monkeypatch
) -> None:
    spoil(monkeypatch, lambda _, row: row.update(custom_id="nobody's"))
    for _ in range(2):
        with pytest.raises(EndpointError, match=r"1 rows are for none of its requests.*nobody's.*forget-batch"):
            await buy(ledger, batched(endpoint), ask(1))
    assert submitted(endpoint) == [1]
    assert failures(ledger) == {}
    assert LedgerStore(ledger).database.query("SELECT key FROM claims") == []


async def test_every_call_has_a_deadline(tmp_path) -> None:
    async def stalled(_request: web.Request) -> web.Response:
        await asyncio.sleep(3600)
        raise AssertionError

    hasty = QUICK.model_copy(update={"unreachable_s": 0.1, "listing_s": 0.1, "reading_s": 0.1})
    reply = BatchReply(id="r", status="completed", output_file_id=("f",))
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", stalled)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    client = Client(EndpointSpec(model="m", base_url=f"http://127.0.0.1:{runner.addresses[0][1]}/v1"))
    api = BatchApi(client, 0.05, tmp_path, hasty)
    search = api.search("b", "f", set(), patiently=False)
    for call in (search, api.upload("b", [b"{}"]), api.create("b", "f", set()), api.status("r")):
        with pytest.raises(EndpointError, match="does not answer"):
            await call
    (_, files) = await api.results("b", "r", reply, {"k"}) or (None, None)
    assert files is not None
    assert "the file f cannot be fetched" in files.unread[0]
    files.close()
    await client.close()
    await runner.cleanup()


@pytest.mark.parametrize("wait", [True, False])
async def test_a_full_queue_is_waited_for_with_smaller_batches(endpoint, ask, ledger, wait) -> None:
    endpoint.faults = Faults(batch_queue=10, batch_delay_s=0.05 if wait else 3600)
    spec = batched(endpoint, wait_for_batch=wait)
    for _ in range(1 if wait else 12):
        outcomes = await buy(ledger, spec, ask(16))
        let_end(endpoint)
    assert answered(outcomes, 16)
    assert endpoint.stats.report()["paid_twice"] == 0


async def test_beyond_the_window_batches_stay_large(endpoint, ask, ledger) -> None:
    await buy(ledger, batched(endpoint), ask(4096), settings=EngineSettings(batch_read_ahead=512))
    assert sum(submitted(endpoint)) == 4096
    assert len(submitted(endpoint)) <= 9


async def test_shards_that_start_together_share_a_batch(endpoint, ask, ledger) -> None:
    start = asyncio.Barrier(6)
    async with Engine.open(ledger=ledger, run="batch") as opened:

        async def shard(number: int) -> None:
            await start.wait()
            assert [one async for one in opened.stream(batched(endpoint, batch_poll_s=0.3), ask(5, 5 * number))]

        await asyncio.gather(*(shard(number) for number in range(6)))
    assert submitted(endpoint) == [30]


async def test_batches_in_postgresql(endpoint, ask, postgres) -> None:
    ledger = postgres.url("postgres")
    # First answers, second tries, a failed round, strangers' lines: every statement, in the other database.
    endpoint.faults = Faults(batch_failure=0.5, failures_in_a_row=1)
    later = batched(endpoint, wait_for_batch=False)
    await buy(ledger, later, ask(8, max_tokens=3), Budget(dollars=1e6))
    assert has_open_batches(LedgerStore(ledger), "batch")
    await buy(ledger, later, ask(2, max_tokens=3), Budget(dollars=1e6))
    for _ in range(5):
        outcomes = await buy(ledger, later, ask(8, max_tokens=3), Budget(dollars=1e6))
    assert answered(outcomes, 8)
    assert not has_open_batches(LedgerStore(ledger), "batch")
    assert LedgerStore(ledger).spent("batch")[1] == paid(endpoint)


async def test_a_row_of_success_without_an_answer_ends_the_run_and_holds_what_it_may_have_cost(
    endpoint, ask, ledger, monkeypatch
) -> None:
    spoil(monkeypatch, lambda _, row: row["response"].update(body={"odd": 1}))
    for _ in range(2):
        with pytest.raises(EndpointError, match="forget-batch"):
            await buy(ledger, batched(endpoint), ask(1, max_tokens=10), Budget(dollars=1e6))
    assert submitted(endpoint) == [1]
    assert CreditLine(LedgerStore(ledger), "batch", "me", Budget(dollars=1))._read_batches().dollars > 30


async def test_writing_an_intent_twice_is_writing_it_once(ledger) -> None:
    opened = await Ledger.open(ledger, "batch")
    batch = Batch("b", "http://there/v1", lines={"k": BatchLine(upper_bound=Amount(1.0, 2.0))})
    assert [await BatchRecords(opened, "fixed").register(batch, {"k": "{}"}) for _ in range(2)] == [set(), set()]
    ((count,),) = opened.store.database.query("SELECT COUNT(*) FROM batch_lines")
    assert count == 1
    await opened.close()


async def test_a_batch_that_is_being_created_is_not_taken_for_lost(endpoint, ask, ledger, monkeypatch) -> None:
    upload, find_open = BatchApi.upload, BatchRecords.find_open
    called, go, looks = asyncio.Event(), asyncio.Event(), asyncio.Queue()

    async def slow(self, batch_id, lines) -> str:
        called.set()
        await go.wait()
        return await upload(self, batch_id, lines)

    async def looking(self, keys) -> list[Batch]:
        looks.put_nowait(None)
        return await find_open(self, keys)

    monkeypatch.setattr(BatchApi, "upload", slow)
    monkeypatch.setattr(BatchRecords, "find_open", looking)
    async with Engine.open(ledger=ledger, run="batch") as opened:

        async def all_of(requests) -> list[Any]:
            return [one async for one in opened.stream(batched(endpoint), requests)]

        left = asyncio.create_task(all_of(ask(3)))
        await called.wait()
        left.cancel()
        await asyncio.gather(left, return_exceptions=True)
        again = asyncio.create_task(all_of(ask(3)))
        # The first buyer's look, the second's, and its next one: by then it has judged what it saw.
        for _ in range(3):
            await looks.get()
        assert states(ledger) == ["intended"]
        go.set()
        assert answered(await again, 3)
    assert submitted(endpoint) == [3]


async def test_a_key_that_the_endpoint_echoes_is_kept_nowhere(endpoint, ask, ledger, monkeypatch, tmp_path) -> None:
    key = "sk-planted-0123456789"
    monkeypatch.setenv("PLANTED", key)
    spoil(monkeypatch, lambda _, row: row.update(response={"status_code": 400, "body": {"error": {"message": key}}}))
    spec = batched(endpoint, api_key_env="PLANTED")
    (outcome,) = await buy(ledger, spec, ask(1))
    assert isinstance(outcome, Failure)
    assert outcome.detail == "HTTP 400: ***"

    def refused(self, lines):
        return {"object": "list", "data": [{"code": "invalid", "message": f"not for {key}"}]}

    monkeypatch.setattr(Batches, "_refuse_if_full", refused)
    with pytest.raises(EndpointError, match=r"invalid: not for \*\*\*"):
        await buy(ledger, spec, ask(1, 7))
    for file in filter(Path.is_file, tmp_path.rglob("*")):
        assert key.encode() not in file.read_bytes()
