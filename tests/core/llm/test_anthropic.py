"""Claude natively: the Messages API and Message Batches behind the same engine, against a server of ours."""

import asyncio
import json
from collections import Counter

import pytest
from support import until

pytest.importorskip("anthropic")

from lema_core.errors import AuthenticationError, BudgetExceededError, EndpointError, MissingDependencyError
from lema_core.llm import Budget, Completion, CompletionRequest, EndpointSpec, Engine, Price, Sampling, request_key
from lema_core.llm.client import open_client
from lema_core.llm.messages import PromptCache, completion_of, messages_body, result_row
from lema_core.llm.responses import AttemptError
from lema_core.llm.settings import EngineSettings
from lema_core.llm.simulated import Faults, Reply, SimulatedEndpoint
from lema_core.llm.simulated.messages import MessagesApi, messages_error

SETTINGS = EngineSettings(preflight_waits_s=(), retry_wait_s=0.01, backoff_s=0.02, batch_gather_s=0.01)
PRICE = Price(input_per_million=1, output_per_million=10)


@pytest.fixture
async def claude():
    async with SimulatedEndpoint() as endpoint:
        endpoint.key = "sk-ant-api03-0123456789abcdef"
        yield endpoint


@pytest.fixture
def spec(claude, monkeypatch) -> EndpointSpec:
    monkeypatch.setenv("CLAUDE_KEY", claude.key)
    fields = {"model": "fixed", "base_url": claude.url, "api": "anthropic", "api_key_env": "CLAUDE_KEY"}
    return EndpointSpec(**fields, concurrency=8, batch_poll_s=0.02, price=PRICE)


def asked(count: int, system: str = "Solve it.", **sampling) -> list[CompletionRequest]:
    sampling = {"max_tokens": 50, "temperature": 0.7} | sampling
    return [
        CompletionRequest(
            ({"role": "system", "content": system}, {"role": "user", "content": f"What is {number} plus two?"}),
            Sampling.from_params(sampling),
        )
        for number in range(count)
    ]


async def answers(spec, requests, ledger, budget=None) -> list:
    async with asyncio.timeout(60), Engine.open(ledger, budget, settings=SETTINGS) as engine:
        return [outcome async for outcome in engine.stream(spec, requests)]


def bodies(claude) -> list[dict]:
    """Let the endpoint keep what it is sent."""
    kept: list[dict] = []
    claude.respond = lambda request: kept.append(request.body)
    return kept


async def test_the_same_requests_have_the_same_keys_and_answers_in_both_forms(claude, spec, ledger, tmp_path) -> None:
    native = await answers(spec, asked(20), ledger)
    assert all(isinstance(outcome, Completion) for outcome in native)
    assert [outcome.key for outcome in native] == [request_key("fixed", request) for request in asked(20)]
    claude.key = None
    openai = spec.model_copy(update={"api": "openai"})
    other = await answers(openai, asked(20), str(tmp_path / "other.sqlite"))
    assert [(one.text, one.finish_reason) for one in other] == [(one.text, one.finish_reason) for one in native]
    before = claude.stats.counts["hits"]
    assert await answers(openai, asked(20), ledger) == native, "where and how is not what"
    assert claude.stats.counts["hits"] == before


@pytest.mark.parametrize("ends", ["", "/v1", "/v1/"])
async def test_a_base_url_may_be_the_sdks_or_ours(claude, spec, ledger, ends) -> None:
    url = claude.url.removesuffix("/v1") + ends
    assert isinstance((await answers(spec.model_copy(update={"base_url": url}), asked(1), ledger))[0], Completion)


async def test_a_request_is_written_in_the_apis_form(claude, spec, ledger) -> None:
    kept = bodies(claude)
    await answers(spec, asked(1, stop=["\n\n"], seed=7, presence_penalty=1), ledger)
    (body,) = kept
    assert body == {
        "model": "fixed",
        "max_tokens": 50,
        "temperature": 0.7,
        "stop_sequences": ["\n\n"],
        "system": [{"type": "text", "text": "Solve it."}],
        "messages": [{"role": "user", "content": "What is 0 plus two?"}],
    }


async def test_thinking_is_a_field_of_its_own_and_takes_the_temperature_away(claude, spec, ledger) -> None:
    kept = bodies(claude)
    thinking = {"type": "enabled", "budget_tokens": 1024}
    (answer,) = await answers(spec, asked(1, max_tokens=2048, thinking=thinking), ledger)
    assert answer.thinking == "Let me count again."
    assert "count again" not in answer.text
    assert kept[0]["thinking"] == thinking
    assert "temperature" not in kept[0]


async def test_without_a_cap_one_is_sent(claude, spec, ledger) -> None:
    kept = bodies(claude)
    await answers(spec, asked(1, max_tokens=None), ledger)
    assert kept[0]["max_tokens"] == 4096


async def test_what_all_requests_begin_with_is_marked_for_the_cache_and_paid_as_cached(claude, spec, ledger) -> None:
    kept = bodies(claude)
    serial = spec.model_copy(update={"concurrency": 1})
    found = await answers(serial, asked(5, system="A long list of rules. " * 50), ledger)
    marked = [bool(body["system"][-1].get("cache_control")) for body in kept]
    assert marked == [False, True, True, True, True], "nothing is written that may not be read again"
    tokens = Counter(bool(outcome.cached_tokens) for outcome in found)
    assert tokens == {False: 2, True: 3}
    # The cached part is a part of the prompt, wherever the usage counts it.
    assert len({outcome.prompt_tokens for outcome in found}) == 1


def test_the_longest_beginning_that_repeats_is_marked() -> None:
    cache = PromptCache()
    rules, examples = {"role": "system", "content": "s"}, [
        {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"},
    ]  # fmt: skip
    question = [{"role": "user", "content": "one"}]
    assert cache.count_repeated([rules, *examples, *question]) == 0
    assert cache.count_repeated([rules, *examples, {"role": "user", "content": "two"}]) == 3
    assert cache.count_repeated([rules, *examples, *question]) == 3, "never the question itself"
    assert cache.count_repeated([rules, *question]) == 1
    assert cache.count_repeated(question) == 0
    body = messages_body({"model": "m", "messages": [rules, *examples, *question]}, cache)
    assert body["messages"][1]["content"][0]["cache_control"] == {"type": "ephemeral"}
    assert rules == {"role": "system", "content": "s"}, "the caller's messages stay as they are"


@pytest.mark.parametrize(
    ("reason", "finish"),
    [("end_turn", "stop"), ("stop_sequence", "stop"), ("max_tokens", "length"), ("refusal", "content_filter"),
     ("model_context_window_exceeded", "length"), ("pause_turn", "pause_turn")],
)  # fmt: skip
def test_stop_reasons_have_our_names(reason, finish) -> None:
    message = {"content": [{"type": "text", "text": "4"}], "stop_reason": reason}
    assert completion_of(message)["choices"][0]["finish_reason"] == finish


async def test_a_refusal_is_the_content_filters_row_with_its_cost(claude, spec, ledger) -> None:
    message = {"content": [], "stop_reason": "refusal", "usage": {"input_tokens": 9, "output_tokens": 1}}
    claude.respond = lambda _request: Reply(200, message)
    (outcome,) = await answers(spec, asked(1), ledger)
    assert outcome.reason == "content_filter"


async def test_an_answer_that_was_cut_off_is_asked_again_with_a_larger_cap(claude, spec, ledger) -> None:
    kept = bodies(claude)
    claude.faults = Faults(cut_off=1.0)
    (outcome,) = await answers(spec, asked(1), ledger)
    assert outcome.finish_reason == "length"
    assert [body["max_tokens"] for body in kept] == [50, 100]


ERRORS = {
    "overloaded": (529, "overload", None),
    "rate": (429, "rate_limit", None),
    "api": (500, "server_error", None),
    "invalid": (400, "bad_request", None),
    "large": (413, "bad_request", None),
    "key": (401, "bad_request", AuthenticationError),
    "permission": (403, "content_filter", AuthenticationError),
    "model": (404, "bad_request", EndpointError),
}


@pytest.mark.parametrize("name", ERRORS)
async def test_errors_have_our_classes(claude, spec, name) -> None:
    status, reason, fatal = ERRORS[name]
    claude.respond = lambda _request: Reply(status, messages_error(status, "the words"), {"Retry-After": "7"})
    client = open_client(spec, SETTINGS)
    with pytest.raises(AttemptError, match="the words") as caught:
        await client.complete({"model": "fixed", "messages": [{"role": "user", "content": "q"}]}, 1, 10)
    await client.close()
    assert caught.value.reason == reason
    assert isinstance(caught.value.fatal, fatal) if fatal else caught.value.fatal is None
    if status in {429, 529}:
        assert caught.value.retry_after == 7


async def test_a_used_up_balance_ends_the_run(claude, spec, ledger) -> None:
    said = messages_error(400, "Your credit balance is too low to access the Anthropic API.")
    claude.respond = lambda _request: Reply(400, said)
    with pytest.raises(EndpointError, match="no credit left"):
        await answers(spec, asked(3), ledger)
    assert claude.stats.counts["hits"] <= 3


HOSTILE = {
    "no JSON": Reply(200, "<html>hello</html>"),
    "deep": Reply(200, "[" * 100_000),
    "a number": Reply(200, "7"),
    "content is a number": Reply(200, {"type": "message", "content": 7}),
    "blocks of all kinds": Reply(200, {"content": [7, None, {"type": 7}, {"type": "text", "text": ["x"]}]}),
    "error with status 200": Reply(200, messages_error(529, "overloaded")),
    "cut": Reply(0),
    "endless": Reply(200, "x" * 3_000_000),
}


@pytest.mark.parametrize("name", HOSTILE)
async def test_a_hostile_reply_is_a_class_of_ours_and_shows_no_key(claude, spec, ledger, name) -> None:
    reply = HOSTILE[name]
    text = reply.content.decode().replace("hello", claude.key)
    claude.respond = lambda request: Reply(reply.status, text) if request.attempt < 2 else None
    quick = spec.model_copy(update={"concurrency": 1})
    (outcome,) = await answers(quick, asked(1, temperature=None), ledger)
    assert claude.key not in repr(outcome)


@pytest.mark.parametrize(
    "name", ["no JSON", "a number", "content is a number", "error with status 200", "cut", "endless"]
)
async def test_an_unusable_reply_is_an_error_without_the_key(claude, spec, name) -> None:
    reply = HOSTILE[name]
    claude.respond = lambda _request: Reply(reply.status, reply.content.decode().replace("hello", claude.key))
    client = open_client(spec, SETTINGS)
    with pytest.raises(AttemptError) as caught:
        await client.complete({"model": "m", "messages": [{"role": "user", "content": "q"}], "max_tokens": 5}, 1, 10)
    await client.close()
    assert claude.key not in f"{caught.value} {caught.value.__context__!r} {caught.value.__cause__!r}"


async def test_rate_limits_and_overloads_lose_no_row(claude, spec, ledger) -> None:
    claude.faults = Faults(rate_limit=0.04, overload=0.04, server_error=0.1, cut_connection=0.1, retry_after_s=0.01)
    found = await answers(spec, asked(80), ledger)
    assert all(isinstance(outcome, Completion) for outcome in found)


async def test_a_budget_holds(claude, spec, ledger) -> None:
    with pytest.raises(BudgetExceededError):
        await answers(spec, asked(300), ledger, Budget(tokens=2000))
    assert claude.stats.prompt_tokens + claude.stats.completion_tokens <= 2000


async def test_several_servers_may_speak_it(claude, spec, ledger) -> None:
    async with SimulatedEndpoint() as second:
        second.key = claude.key
        both = spec.model_copy(update={"base_url": (claude.url, second.url)})
        claude.faults = second.faults = Faults(latency_s=0.02)
        assert all(isinstance(one, Completion) for one in await answers(both, asked(60), ledger))
        assert min(claude.stats.counts["ok"], second.stats.counts["ok"]) > 10


# Message batches.


async def test_a_batch_is_answered_like_single_requests_at_half_the_price(claude, spec, ledger, tmp_path) -> None:
    batched = spec.with_batches()
    found = await answers(batched, asked(30), ledger)
    assert len(claude.messages.batches) == 1
    single = await answers(spec, asked(30), str(tmp_path / "other.sqlite"))
    assert [(one.key, one.text) for one in found] == [(one.key, one.text) for one in single]
    assert await answers(batched, asked(30), ledger) == found
    assert len(claude.messages.batches) == 1
    assert claude.stats.counts["ok"] == 60


@pytest.mark.parametrize("fault", [{"batch_expiry": 0.6}, {"batch_failure": 0.5}])
async def test_expired_and_failed_requests_of_a_batch_are_submitted_again(claude, spec, ledger, fault) -> None:
    claude.faults = Faults(**fault)
    found = await answers(spec.with_batches(), asked(40), ledger)
    assert all(isinstance(outcome, Completion) for outcome in found)
    assert claude.stats.report()["paid_twice"] == 0
    assert len(claude.messages.batches) > 1


async def test_a_batch_is_collected_by_a_later_run(claude, spec, ledger) -> None:
    claude.faults = Faults(batch_delay_s=0.3)
    later = spec.with_batches().model_copy(update={"wait_for_batch": False})
    assert {outcome.reason for outcome in await answers(later, asked(5), ledger)} == {"pending"}
    await asyncio.sleep(0.4)
    assert all(isinstance(outcome, Completion) for outcome in await answers(later, asked(5), ledger))
    assert len(claude.messages.batches) == 1


async def test_a_cancelled_batch_ends_the_run_and_is_submitted_by_the_next(claude, spec, ledger) -> None:
    claude.faults = Faults(batch_delay_s=60)
    batched = spec.with_batches()
    async with asyncio.timeout(30), Engine.open(ledger, settings=SETTINGS) as engine:
        run = asyncio.ensure_future(anext(engine.stream(batched, asked(5))))
        await asyncio.to_thread(until, "a batch", lambda: claude.messages.batches, every_s=0.01)
        claude.messages.cancel("msgbatch_000001")
        with pytest.raises(EndpointError, match="cancelled at the endpoint"):
            await run
    claude.faults = Faults()
    assert all(isinstance(outcome, Completion) for outcome in await answers(batched, asked(5), ledger))


async def test_a_batch_whose_creation_was_not_confirmed_is_found_and_not_paid_twice(
    claude, spec, ledger, monkeypatch
) -> None:
    create, lost = MessagesApi.create, []

    def create_and_lose(api, body):
        described = create(api, body)
        if not lost:
            lost.append(described["id"])
            return {"broken": True}
        return described

    monkeypatch.setattr(MessagesApi, "create", create_and_lose)
    batches = spec.batches.model_copy(update={"listing_s": 0.1, "listings": 2})
    patient = spec.with_batches().model_copy(update={"batches": batches})
    assert all(isinstance(outcome, Completion) for outcome in await answers(patient, asked(7), ledger))
    assert list(claude.messages.batches) == lost


def test_rows_of_any_shape_are_passed_on() -> None:
    for row in (None, 7, [], {"custom_id": "a"}, {"custom_id": "a", "result": 7}):
        assert result_row(row) == row
    named = {"custom_id": "a", "result": {"type": "errored", "error": messages_error(400, "no")}}
    assert result_row(named)["error"]["message"] == "no"
    json.dumps(result_row({"custom_id": ["x"], "result": {"type": None, "message": 7}}))


async def test_without_the_package_it_is_an_error_before_anything_is_asked(claude, spec, ledger, monkeypatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    with pytest.raises(MissingDependencyError, match=r"\.\[anthropic\]"):
        await answers(spec, asked(3), ledger)
    assert claude.stats.counts["hits"] == 0
