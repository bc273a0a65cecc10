import asyncio
import gc
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lema_core.errors import AuthenticationError, BudgetExceededError, ConfigError, EndpointError
from lema_core.llm import Budget, Completion, CompletionRequest, EndpointSpec, Engine, Failure, Price, Sampling
from lema_core.llm.ledger.ledger import Ledger
from lema_core.llm.ledger.store import LedgerStore, unpack
from lema_core.llm.limits.retry import RetryState
from lema_core.llm.settings import EngineSettings


def answer(text="The answer is 42.", finish="stop", tokens=10):
    message = {"role": "assistant", "content": text}
    usage = {"prompt_tokens": 20, "completion_tokens": tokens}
    return {"model": "fake-1", "choices": [{"message": message, "finish_reason": finish}], "usage": usage}


def content(body) -> str:
    return body["messages"][-1]["content"]


async def buy(ledger, spec, requests, budget=None, run="test", **settings):
    async with Engine.open(str(ledger), budget, run, EngineSettings(**settings)) as engine:
        outcomes = [outcome async for outcome in engine.stream(spec, requests)]
        return outcomes, engine.snapshot()


@pytest.fixture
def ledger(tmp_path: Path) -> Path:
    return tmp_path / "ledger.sqlite"


async def test_outcomes_come_in_order_and_only_once_are_paid(fake, spec, ask, ledger) -> None:
    fake.decide = lambda body, _tries: (200, answer(content(body).upper()), {})
    first, _ = await buy(ledger, spec, ask(700))
    assert [one.text for one in first] == [f"QUESTION {index}" for index in range(700)]
    again, snapshot = await buy(ledger, spec, ask(700))
    assert again == first
    assert (fake.hits, snapshot.from_ledger, snapshot.completions) == (700, 700, 0)


async def test_a_finished_run_needs_no_endpoint(spec, ask, ledger, fake) -> None:
    await buy(ledger, spec, ask(3))
    dead = spec.model_copy(update={"base_url": "http://127.0.0.1:9/v1"})
    outcomes, _ = await buy(ledger, dead, ask(3))
    assert all(isinstance(one, Completion) for one in outcomes)


async def test_one_more_row_shuffled_rows_and_another_identity(fake, spec, ask, ledger) -> None:
    await buy(ledger, spec, ask(200))
    await buy(ledger, spec, ask(201)[::-1])
    assert fake.hits == 201
    neutral = Sampling.from_params({"user": "somebody", "n": 1})
    await buy(ledger, spec, [CompletionRequest(one.messages, neutral) for one in ask(200)])
    assert fake.hits == 201
    await buy(ledger, spec.model_copy(update={"identity": "other"}), ask(10))
    assert fake.hits == 211


async def test_identical_requests_in_flight_are_sent_once_over_all_streams(fake, spec, ask, ledger) -> None:
    fake.latency = 0.05
    async with Engine.open(ledger=str(ledger)) as engine:

        async def shard() -> list[str]:
            return [one.text async for one in engine.stream(spec, ask(20) * 5)]

        shards = await asyncio.gather(*(shard() for _ in range(8)))
    assert fake.hits == 20
    assert all(len(shard) == 100 for shard in shards)


async def test_samples_of_one_request_are_bought_apart(fake, spec, ledger) -> None:
    one = ({"role": "user", "content": "x"},)
    await buy(ledger, spec, [CompletionRequest(one, Sampling(seed=3), index) for index in range(4)])
    assert sorted(body["seed"] for body in fake.bodies) == [3, 4, 5, 6]


async def test_a_prompt_that_always_fails_is_one_row_and_the_next_run_tries_only_it(fake, spec, ask, ledger) -> None:
    fake.decide = lambda body, _tries: (500, {"error": {"message": "boom"}}, {}) if content(body)[-1] == "7" else None
    outcomes, snapshot = await buy(ledger, spec, ask(50))
    failed = [one for one in outcomes if isinstance(one, Failure)]
    assert [one.reason for one in failed] == ["server_error"] * 5
    assert failed[0].detail == "HTTP 500: boom"
    assert failed[0].attempts == 5
    assert (snapshot.failures, snapshot.r5xx) == (5, 25)
    fake.decide = lambda _body, _tries: None
    hits = fake.hits
    outcomes, _ = await buy(ledger, spec, ask(50))
    assert fake.hits == hits + 5
    assert all(isinstance(one, Completion) for one in outcomes)


@pytest.mark.parametrize(
    ("status", "body", "reason", "attempts"),
    [
        (400, {"error": {"message": "too long", "code": "context_length_exceeded"}}, "bad_request", 1),
        (400, {"error": {"message": "no", "code": "content_filter"}}, "content_filter", 1),
        (200, answer(finish="content_filter"), "content_filter", 1),
        (200, "<html>", "malformed", 3),
        (200, {"choices": []}, "malformed", 3),
        (200, "[" * 50_000, "malformed", 3),
        (400, "[" * 50_000, "bad_request", 1),
        (200, answer(text=None), "malformed", 3),
        (0, {}, "connection", 8),
    ],
)
async def test_each_class_of_failure(fake, spec, ask, ledger, status, body, reason, attempts) -> None:
    fake.decide = lambda _body, _tries: (status, body, {})
    outcomes, _ = await buy(ledger, spec, ask(1), retry_wait_s=0.0, backoff_s=0.001)
    assert [(one.reason, one.attempts) for one in outcomes] == [(reason, attempts)]


async def test_what_was_paid_for_a_failure_is_in_the_totals(fake, spec, ask, ledger) -> None:
    fake.decide = lambda _body, _tries: (200, answer(finish="content_filter"), {})
    await buy(ledger, spec, ask(2))
    assert LedgerStore(str(ledger)).totals("run") == [("test", 0, 2, 40, 20, None)]


async def test_a_deadline_per_attempt(fake, spec, ask, ledger) -> None:
    fake.latency = 5
    outcomes, _ = await buy(ledger, spec.model_copy(update={"attempt_timeout_s": 0.05}), ask(1))
    assert outcomes[0].reason == "deadline"


async def test_a_deadline_per_request(fake, spec, ask, ledger) -> None:
    fake.decide = lambda _body, _tries: (429, {"error": {"message": "slow down"}}, {"Retry-After": "0.1"})
    outcomes, _ = await buy(ledger, spec.model_copy(update={"request_timeout_s": 0.5}), ask(1))
    assert outcomes[0].reason in {"rate_limit", "deadline"}


async def test_a_lost_connection_is_tried_again(fake, spec, ask, ledger) -> None:
    fake.decide = lambda _body, tries: (0, {}, {}) if tries == 0 else None
    outcomes, snapshot = await buy(ledger, spec, ask(20))
    assert all(isinstance(one, Completion) for one in outcomes)
    assert snapshot.lost == 20


async def test_an_answer_cut_off_is_asked_for_once_more_with_a_larger_cap(fake, spec, ask, ledger) -> None:
    fake.decide = lambda body, _tries: (
        200,
        answer(finish="length") if body["max_tokens"] < 20 else answer("whole"),
        {},
    )
    outcomes, _ = await buy(ledger, spec, ask(1, max_tokens=10))
    assert (outcomes[0].text, outcomes[0].finish_reason) == ("whole", "stop")
    assert [body["max_tokens"] for body in fake.bodies] == [10, 20]
    await buy(ledger, spec, ask(1, max_tokens=10))
    assert fake.hits == 2


async def test_a_second_cut_off_is_the_last(fake, spec, ask, ledger) -> None:
    fake.decide = lambda _body, _tries: (200, answer(finish="length"), {})
    outcomes, _ = await buy(ledger, spec, ask(1, max_tokens=10))
    assert (outcomes[0].finish_reason, fake.hits) == ("length", 2)


async def test_a_larger_cap_that_is_refused_does_not_lose_the_first_answer(fake, spec, ask, ledger) -> None:
    fake.decide = lambda body, _tries: (
        (200, answer("cut", finish="length"), {})
        if body["max_tokens"] == 10
        else (400, {"error": {"message": "x"}}, {})
    )
    outcomes, _ = await buy(ledger, spec, ask(1, max_tokens=10))
    assert (outcomes[0].text, outcomes[0].finish_reason) == ("cut", "length")


async def test_a_cut_off_answer_is_kept_when_its_second_try_is_called_off(fake, spec, ask, ledger) -> None:
    cut = answer("The answer", finish="length")
    fake.decide = lambda _body, tries: (200, cut, {}) if tries == 0 else (429, "", {"Retry-After": "30"})
    async with Engine.open(ledger=str(ledger), run="r") as engine:
        stream = asyncio.ensure_future(engine.complete(spec, ask(1, max_tokens=5)[0]))
        while fake.hits < 2:  # noqa: ASYNC110 - the fake endpoint tells by its count only
            await asyncio.sleep(0.01)
        stream.cancel()
        await asyncio.gather(stream, return_exceptions=True)
    assert LedgerStore(str(ledger)).totals()[0][1] == 1


async def test_the_deadline_of_a_request_begins_with_its_first_attempt() -> None:
    now = 0.0
    patience = RetryState(10, clock=lambda: now)
    now = 4000.0
    patience.begin_attempt()
    assert patience.remaining_s() == 10


async def test_what_broke_leaves_no_claim(fake, spec, ask, ledger) -> None:
    fake.decide = lambda _body, _tries: (401, "no", {})
    async with Engine.open(ledger=str(ledger), run="r") as engine:
        with pytest.raises(EndpointError):
            await engine.complete(spec, ask(1)[0])
        await engine._heartbeat()
        assert LedgerStore(str(ledger)).database.query("SELECT key FROM claims") == []


@pytest.mark.parametrize("status", [401, 403])
async def test_a_refused_key_stops_at_once(fake, spec, ask, ledger, status) -> None:
    fake.models_status = status
    with pytest.raises(AuthenticationError, match="refuses the key"):
        await buy(ledger, spec, ask(500))
    assert fake.hits == 0


@pytest.mark.parametrize("key", ["\u201csk-abc123\u201d", "sk-abc\n123", "sk abc123"])
async def test_a_key_that_no_header_takes_is_one_error_without_the_key(spec, ask, ledger, monkeypatch, key) -> None:
    monkeypatch.setenv("PASTED_KEY", key)
    told: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: told.append(context))
    with pytest.raises(ConfigError, match="PASTED_KEY holds characters") as caught:
        await buy(ledger, spec.model_copy(update={"api_key_env": "PASTED_KEY"}), ask(300))
    gc.collect()
    assert (told, "abc" in str(caught.value)) == ([], False)


async def test_an_unforeseen_error_is_told_to_who_waits_and_nowhere_else(spec, ask, ledger, monkeypatch) -> None:
    async def broken(*_: object) -> None:
        raise RuntimeError("a defect")

    monkeypatch.setattr("lema_core.llm.connection.EndpointConnection.transport", broken)
    told: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: told.append(context))
    with pytest.raises(RuntimeError, match="a defect"):
        await buy(ledger, spec, ask(300))
    gc.collect()
    assert told == []


async def test_a_key_that_comes_back_in_another_spelling_is_taken_out(fake, spec, ask, ledger, monkeypatch) -> None:
    monkeypatch.setenv("SLASHED_KEY", "abc/def+ghi12345")
    said = r"you sent abc\/def\u002Bghi12345"
    fake.decide = lambda body, _tries: {
        "0": (200, json.dumps(answer("TEXT")).replace("TEXT", said), {}),
        "1": (400, '{"error": {"message": "TEXT"}}'.replace("TEXT", said), {}),
        "2": (400, json.dumps({"error": {"message": f'upstream: {{"detail": "{said}"}}'}}), {}),
    }[content(body)[-1]]
    outcomes, _ = await buy(ledger, spec.model_copy(update={"api_key_env": "SLASHED_KEY"}), ask(3))
    texts = [getattr(one, "text", "") or one.detail for one in outcomes]
    assert [text.count("you sent ***") for text in texts] == [1, 1, 1]


async def test_an_unknown_model_stops_before_many_requests(fake, spec, ask, ledger) -> None:
    fake.decide = lambda _body, _tries: (404, {"error": {"message": "no model 'fake'"}}, {})
    with pytest.raises(EndpointError, match="no model 'fake'"):
        await buy(ledger, spec, ask(500))
    assert fake.hits <= 16


async def test_nobody_there_is_one_clear_error(ask, ledger) -> None:
    with pytest.raises(EndpointError, match=r"cannot reach 'm' at http://127\.0\.0\.1:9/v1"):
        await buy(
            ledger, EndpointSpec(model="m", base_url="http://127.0.0.1:9/v1"), ask(500), preflight_waits_s=(0.01,)
        )


async def test_a_server_without_a_model_list_passes(fake, spec, ask, ledger) -> None:
    fake.models_status = 404
    outcomes, _ = await buy(ledger, spec, ask(1))
    assert isinstance(outcomes[0], Completion)


async def test_retry_after_is_honoured(fake, spec, ask, ledger) -> None:
    fake.decide = lambda _body, tries: (429, {"error": {"message": "x"}}, {"Retry-After": "0.3"}) if not tries else None
    loop = asyncio.get_running_loop()
    start = loop.time()
    outcomes, snapshot = await buy(ledger, spec, ask(1))
    assert isinstance(outcomes[0], Completion)
    assert loop.time() - start >= 0.3
    assert snapshot.r429 == 1


async def test_a_budget_stops_cleanly_and_a_larger_one_goes_on(fake, spec, ask, ledger) -> None:
    fake.latency = 0.01
    priced = spec.model_copy(update={"price": Price(input_per_million=1e6, output_per_million=1e6)})
    with pytest.raises(BudgetExceededError) as caught:
        await buy(ledger, priced, ask(100, max_tokens=10), Budget(dollars=1000), "r")
    # Each answer costs 30 dollars; none was lost and the limit was not passed.
    store = LedgerStore(str(ledger))
    money, tokens = store.spent("r")
    assert money <= 1000
    assert fake.hits == tokens / 30 >= 30
    left = 100 - fake.hits
    told = re.search(rf"; {left} requests remain, about ([\d,]+) tokens and \$([\d,.]+)\.", str(caught.value))
    assert told, (left, str(caught.value))
    # By this endpoint's answers so far, which were all alike; prompts differ by a digit.
    assert [float(one.replace(",", "")) for one in told.groups()] == pytest.approx([30 * left] * 2, rel=0.05)
    await buy(ledger, priced, ask(100, max_tokens=10), Budget(dollars=4000), "r")
    assert fake.hits == 100


async def test_a_budget_in_tokens_needs_no_price(fake, spec, ask, ledger) -> None:
    with pytest.raises(BudgetExceededError, match="tokens"):
        await buy(ledger, spec, ask(100, max_tokens=10), Budget(tokens=500))
    assert 10 <= fake.hits <= 500 / 30


async def test_a_budget_in_money_without_a_price_is_an_error(spec, ask, ledger) -> None:
    from lema_core.errors import ConfigError

    with pytest.raises(ConfigError, match="price"):
        await buy(ledger, spec, ask(1), Budget(dollars=1))


async def test_leaving_a_stream_early_keeps_what_was_paid(fake, spec, ask, ledger) -> None:
    fake.latency = 0.05
    async with Engine.open(ledger=str(ledger)) as engine:
        async for _ in engine.stream(spec, ask(500)):
            break
    assert fake.hits < 500
    assert len(LedgerStore(str(ledger)).totals()) == 1
    assert LedgerStore(str(ledger)).totals()[0][1] == fake.hits


async def test_concurrency_is_never_passed(fake, spec, ask, ledger) -> None:
    fake.latency = 0.01
    await buy(ledger, spec.model_copy(update={"concurrency": 5}), ask(100))
    assert fake.most_in_flight <= 5


async def test_text_that_no_file_format_takes_is_made_harmless(fake, spec, ask, ledger) -> None:
    fake.decide = lambda _body, _tries: (200, '{"choices":[{"message":{"content":"a\\ud83d\\u0000b"}}]}', {})
    outcomes, _ = await buy(ledger, spec, ask(1))
    assert outcomes[0].text == "a?\0b"
    assert (await buy(ledger, spec, ask(1)))[0] == outcomes


async def test_an_endpoint_that_goes_away_ends_the_run_and_keeps_what_was_paid(fake, spec, ask, ledger):
    fake.decide = lambda _body, _tries: (0, {}, {}) if fake.hits > 20 else None
    with pytest.raises(EndpointError, match="stopped answering"):
        await buy(ledger, spec, ask(200), unreachable_s=0.3)
    answered = fake.paid
    fake.decide = lambda _body, _tries: None
    outcomes, snapshot = await buy(ledger, spec, ask(200))
    assert all(isinstance(one, Completion) for one in outcomes)
    assert snapshot.from_ledger == answered > 0


async def test_what_no_database_takes_is_cleaned_and_costs_no_other_answer(fake, spec, ask, ledger) -> None:
    odd: dict[str, Any] = {
        "0": (400, {"error": {"message": "cut \ud83d here\0"}}, {}),
        "1": (200, answer(finish="st\ud83dop\0") | {"model": "m\ud83d\0"}, {}),
        "2": (200, answer() | {"usage": {"prompt_tokens": 2**80, "completion_tokens": -1}}, {}),
    }
    fake.decide = lambda body, _tries: odd.get(content(body)[-1])
    async with asyncio.timeout(20):
        outcomes, _ = await buy(ledger, spec, ask(10))
    assert [type(one) for one in outcomes] == [Failure] + [Completion] * 9
    assert outcomes[0].detail == "HTTP 400: cut ? here\ufffd"
    assert (outcomes[1].finish_reason, outcomes[1].model) == ("st?op\ufffd", "m?\ufffd")
    assert (outcomes[2].prompt_tokens, outcomes[2].completion_tokens) == (3, 5)


async def test_an_entry_that_cannot_be_committed_is_an_error_and_the_others_are_committed(
    fake, spec, ask, ledger, monkeypatch
) -> None:
    fake.latency = 0.05
    commit = LedgerStore.commit

    def picky(self: LedgerStore, entries: Any, *more: Any, **named: Any) -> Any:
        if any("question 3" in entry.request for entry in entries):
            raise OverflowError("too large")
        return commit(self, entries, *more, **named)

    monkeypatch.setattr(LedgerStore, "commit", picky)
    async with asyncio.timeout(20):
        with pytest.raises(OverflowError):
            await buy(ledger, spec, ask(8))
    assert LedgerStore(str(ledger)).totals()[0][1] == 7


async def test_signs_of_life_go_on_while_the_last_answers_are_awaited(fake, spec, ask, ledger, monkeypatch) -> None:
    beats: list[bool] = []
    beat = Ledger.heartbeat
    monkeypatch.setattr(Ledger, "heartbeat", lambda self: beats.append(left.is_set()) or beat(self))
    fake.latency, left = 0.4, asyncio.Event()
    async with Engine.open(str(ledger), settings=EngineSettings(heartbeat_s=0.02)) as engine:
        stream = asyncio.ensure_future(engine.complete(spec, ask(1)[0]))
        while not fake.hits:  # noqa: ASYNC110 - the fake endpoint tells by its count only
            await asyncio.sleep(0.01)
        stream.cancel()
        left.set()
    assert any(beats), "another machine would take this process for dead and buy again what it waits for"
    assert LedgerStore(str(ledger)).totals()[0][1] == 1


async def test_a_request_that_waits_too_long_for_another_try_ends_and_slows_nobody_down(
    fake, spec, ask, ledger
) -> None:
    fake.decide = lambda _body, _tries: (429, "", {})
    impatient = spec.model_copy(update={"request_timeout_s": 0.6})
    async with asyncio.timeout(5), Engine.open(ledger=str(ledger)) as engine:
        outcome = await engine.complete(impatient, ask(1)[0])
        (queue,) = engine._queues.values()
    assert (outcome.reason, outcome.attempts) == ("rate_limit", fake.hits)
    assert queue.replicas[0].limiter._streak == fake.hits, "what was never sent says nothing about the endpoint"
    assert queue.replicas[0].limiter.in_flight == 0


async def test_a_second_try_that_was_never_sent_is_called_off(fake, spec, ask, ledger) -> None:
    async with Engine.open(ledger=str(ledger), run="r") as engine:

        def cut_and_pause(_body: Any, _tries: int) -> Any:
            (queue,) = engine._queues.values()
            queue.replicas[0].limiter.paused_until = asyncio.get_running_loop().time() + 60
            return 200, answer("The answer", finish="length"), {}

        fake.decide = cut_and_pause
        stream = asyncio.ensure_future(engine.complete(spec, ask(1, max_tokens=5)[0]))
        while not fake.paid:  # noqa: ASYNC110 - the fake endpoint tells by its count only
            await asyncio.sleep(0.01)
        while next(iter(engine._pending.values())).is_sent:  # noqa: ASYNC110 - a pending request signals in no other way
            await asyncio.sleep(0.01)
        stream.cancel()
        async with asyncio.timeout(5):
            await engine._close()
    assert fake.hits == 1
    assert LedgerStore(str(ledger)).totals()[0][1] == 1


async def test_failed_attempts_are_counted_once_and_by_class(fake, spec, ask, ledger) -> None:
    ends: dict[str, list[Any]] = {
        "0": [(200, answer(text=None), {})] * 3,
        "1": [(500, "", {}), (500, "", {})],
        "2": [(500, "", {}), (400, "", {})],
    }
    fake.decide = lambda body, tries: dict(enumerate(ends[content(body)[-1]])).get(tries)
    await buy(ledger, spec, ask(3))
    store = LedgerStore(str(ledger))
    found = store.database.query("SELECT request, reason, count, prompt_tokens FROM failures")
    told = {(unpack(row[0])["messages"][0]["content"][-1], row[1]): row[2:] for row in found}
    assert told == {
        ("0", "malformed"): (3, 60),
        ("1", "server_error"): (2, 0),
        ("2", "server_error"): (1, 0),
        ("2", "bad_request"): (1, 0),
    }
    assert store.totals()[0][1:3] == (1, 7)
    assert store.database.query("SELECT key FROM claims") == []


async def test_an_endpoint_that_comes_back_is_asked_again_by_the_same_engine(fake, spec, ask, ledger) -> None:
    fake.models_status = 401
    async with Engine.open(str(ledger), settings=EngineSettings(preflight_waits_s=(0.01,))) as engine:
        with pytest.raises(AuthenticationError):
            await engine.complete(spec, ask(1)[0])
        fake.models_status = 200
        assert isinstance(await engine.complete(spec, ask(1)[0]), Completion)


async def test_models_at_one_url_have_limits_of_their_own_and_one_model_the_tightest(fake, spec, ask, ledger) -> None:
    one = spec.model_copy(update={"model": "a", "identity": "a", "concurrency": 64})
    same = one.model_copy(update={"identity": "b", "concurrency": 4, "requests_per_minute": 6e5})
    other = spec.model_copy(update={"model": "c", "identity": "c", "concurrency": 8})
    async with Engine.open(ledger=str(ledger)) as engine:
        for which in (one, same, other):
            await engine.complete(which, ask(1)[0])
        limiters = {name.split()[-1]: queue.replicas[0].limiter for name, queue in engine._queues.items()}
    assert {name: (one.ceiling, one.requests_per_minute) for name, one in limiters.items()} == {
        "a": (4, 6e5),
        "c": (8, None),
    }


@pytest.mark.parametrize(("chars", "most"), [(10, 1024), (5_000, 40), (200_000, 16)])
async def test_long_prompts_are_not_read_far_ahead(spec, ledger, chars, most) -> None:
    settings = EngineSettings(read_ahead_chars=100_000, lookup_chars=100_000)
    read = given = ahead = 0

    def requests() -> Iterator[CompletionRequest]:
        nonlocal read
        for read in range(1, 1101):
            yield CompletionRequest(({"role": "user", "content": f"{read} ".ljust(chars, "x")},))

    async with Engine.open(str(ledger), settings=settings) as engine:
        async for _ in engine.stream(spec, requests()):
            ahead = max(ahead, read - given)
            given += 1
            if given == 60:
                break
    assert ahead <= most


async def test_the_figures_leave_out_servers_that_were_stopped(fake, spec, ask, ledger) -> None:
    async with Engine.open(ledger=str(ledger)) as engine:
        await engine.complete(
            spec.model_copy(update={"base_url": fake.url.replace("127.0.0.1", "localhost")}), ask(1)[0]
        )
        fake.latency = 0.2
        async for _ in engine.stream(spec, ask(40, start=1)):
            assert engine.snapshot().window == 16


async def test_a_placeholder_is_no_identity(spec, ask, ledger) -> None:
    with pytest.raises(ConfigError, match="answers_as"):
        await buy(ledger, spec.model_copy(update={"identity": "{weights}"}), ask(1))


def test_a_url_with_a_password_is_refused() -> None:
    with pytest.raises(ValueError, match="user with a password") as error:
        EndpointSpec(model="m", base_url="http://me:hunter2@somewhere/v1")
    assert "hunter2" not in str(error.value.errors(include_input=False, include_context=False))
