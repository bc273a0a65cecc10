"""Requests in an endpoint's own spelling: known rules, refusals that are followed once, and what is never done."""

import asyncio
import logging
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lema_core.errors import EndpointError
from lema_core.llm import Completion, CompletionRequest, EndpointSpec, Engine, Failure, Sampling
from lema_core.llm.adaptation import Remedy, Spelling, find_remedies, place_of
from lema_core.llm.responses import AttemptError, error_from_status
from lema_core.llm.rules import FAMILIES, MESSAGES, RULES, detect_family
from lema_core.llm.settings import EngineSettings
from lema_core.llm.simulated import RULE_SETS, Reply, SimulatedEndpoint

SAMPLING = Sampling(temperature=0.7, top_p=0.9, max_tokens=256, stop=("\n\n",), seed=1)
ANSWER = {"choices": [{"message": {"role": "assistant", "content": "42"}}]}
SENT = {"model": "m", "messages": [], "temperature": 0.7, "top_p": 0.9, "max_tokens": 256, "stop": ["x"], "seed": 1}


def questions(count: int, start: int = 0) -> list[CompletionRequest]:
    return [
        CompletionRequest(({"role": "user", "content": f"question {index}"},), SAMPLING)
        for index in range(start, start + count)
    ]


async def outcomes(spec, requests, ledger) -> list[Completion]:
    async with asyncio.timeout(60), Engine.open(ledger=ledger) as engine:
        return [outcome async for outcome in engine.stream(spec, requests)]


@pytest.mark.parametrize("rules", RULE_SETS)
async def test_an_unknown_model_of_each_vendor_refuses_once(rules, ledger, caplog) -> None:
    async with SimulatedEndpoint(rules=rules) as endpoint:
        spec = EndpointSpec(model="fixed", base_url=endpoint.url, concurrency=32)
        found = await outcomes(spec, questions(100), ledger)
        assert all(isinstance(one, Completion) for one in found)
        refused = endpoint.stats.counts["bad_request"]
        assert refused <= 1
        assert sum("refused a request" in record.message for record in caplog.records) == refused
        # Another process knows it, from the ledger.
        endpoint.stats.reset()
        await outcomes(spec, questions(20, 100), ledger)
        assert endpoint.stats.counts["bad_request"] == 0
        # What was paid is served under the same keys.
        endpoint.stats.reset()
        assert await outcomes(spec, questions(120), ledger)
        assert endpoint.stats.counts["hits"] == 0


@pytest.mark.parametrize("rules", RULE_SETS)
async def test_a_named_family_is_never_refused(rules, ledger) -> None:
    async with SimulatedEndpoint(rules=rules) as endpoint:
        spec = EndpointSpec(model="fixed", base_url=endpoint.url, rules=rules)
        found = await outcomes(spec, questions(40), ledger)
        assert all(isinstance(one, Completion) for one in found)
        assert endpoint.stats.counts["bad_request"] == 0


async def test_a_batch_that_is_refused_is_submitted_again_in_the_new_spelling(ledger) -> None:
    async with SimulatedEndpoint(rules="openai-reasoning") as endpoint:
        spec = EndpointSpec(model="fixed", base_url=endpoint.url, transport="batch", batch_poll_s=0.02)
        found = await outcomes(spec, questions(12), ledger)
        assert all(isinstance(one, Completion) for one in found)
        assert endpoint.stats.counts["bad_request"] == 12
        assert len(endpoint.batches.batches) == 2


async def test_a_batch_that_is_refused_whatever_it_holds_ends(ledger, monkeypatch) -> None:
    said = {"error": {"message": "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead."}}
    monkeypatch.setattr("lema_core.llm.simulated.vendors.refuse", lambda _rules, _body: (400, said))
    async with SimulatedEndpoint(rules="openai-reasoning") as endpoint:
        spec = EndpointSpec(model="fixed", base_url=endpoint.url, transport="batch", batch_poll_s=0.02)
        async with asyncio.timeout(60), Engine.open(ledger=ledger) as engine:
            found = [outcome async for outcome in engine.stream(spec, questions(6))]
        assert all(isinstance(one, Failure) and "max_completion_tokens" in one.detail for one in found)
        assert len(endpoint.batches.batches) <= 5
        assert endpoint.stats.counts["ok"] == 0


async def test_others_do_not_wait_long_for_a_first_request_that_hangs(fake, spec, ledger) -> None:
    fake.decide = lambda body, _tries: (
        Reply(200, ANSWER, delay_s=3.0) if body["messages"][0]["content"] == "question 0" else None
    )
    settings = EngineSettings(first_reply_s=0.2)
    async with asyncio.timeout(60), Engine.open(ledger=ledger, settings=settings) as engine:
        stream = engine.stream(spec, questions(12))
        started = asyncio.get_running_loop().time()
        found = [await anext(stream)]
        assert fake.hits == 12
        found += [outcome async for outcome in stream]
        assert asyncio.get_running_loop().time() - started < 20
    assert all(isinstance(one, Completion) for one in found)


async def test_rules_none_follows_nothing(ledger) -> None:
    async with SimulatedEndpoint(rules="openai-reasoning") as endpoint:
        spec = EndpointSpec(model="fixed", base_url=endpoint.url, rules="none", concurrency=4)
        with pytest.raises(EndpointError, match="max_completion_tokens"):
            await outcomes(spec, questions(100), ledger)
        assert endpoint.stats.counts["ok"] == 0


async def test_a_rename_of_the_run_file_goes_before_the_table(fake, ledger) -> None:
    spec = EndpointSpec(
        model="gpt-6-luna", base_url=fake.url, rename={"max_tokens": "max_new_tokens", "temperature": "temperature"}
    )
    await outcomes(spec, questions(1), ledger)
    body = fake.bodies[0]
    assert (body["max_new_tokens"], body["temperature"]) == (256, 0.7)
    assert not {"max_tokens", "max_completion_tokens", "top_p", "stop"} & body.keys()


async def test_an_endpoint_that_refuses_whatever_it_is_sent_drives_no_loop(fake, spec, ledger) -> None:
    def refuse(body, _tries):
        names = sorted(body.keys() - {"model", "messages"})
        return 400, {"error": {"message": f"Unsupported parameter: '{names[0]}' is not supported"}}, {}

    fake.decide = refuse
    with pytest.raises(EndpointError):
        await outcomes(spec, questions(200), ledger)
    # Each field once by the first request; then the endpoint counts as refusing everything.
    assert fake.hits <= len(SENT) + 2 * spec.concurrency + 8
    # The cap was never left out: the budget rests on it.
    assert all({"max_tokens", "max_completion_tokens"} & body.keys() for body in fake.bodies)


async def test_a_field_that_was_taken_before_is_not_left_out(fake, spec, ledger) -> None:
    fake.decide = lambda body, _tries: (
        (400, {"error": {"message": "'stop' is not supported for this prompt"}}, {})
        if body["messages"][0]["content"] == "question 50"
        else None
    )
    await outcomes(spec, questions(60), ledger)
    assert all("stop" in body for body in fake.bodies)


@pytest.mark.parametrize(
    ("status", "error", "wanted"),
    [
        (
            400,
            {
                "error": {
                    "message": "Unsupported parameter: 'max_tokens' is not supported with this model. Use "
                    "'max_completion_tokens' instead.",
                    "param": "max_tokens",
                }
            },
            [Remedy("max_tokens", "max_completion_tokens")],
        ),
        (
            400,
            {
                "error": {
                    "message": "Unsupported value: 'temperature' does not support 0.7 with this model. "
                    "Only the default (1) value is supported.",
                    "param": "temperature",
                }
            },
            [Remedy("temperature")],
        ),
        (400, {"error": {"message": "'top_p' is not supported"}}, [Remedy("top_p")]),
        (400, {"error": {"message": "stop is not supported with this model"}}, [Remedy("stop")]),
        (400, {"error": {"message": "`temperature` is deprecated for this model."}}, [Remedy("temperature")]),
        (
            400,
            {"error": {"message": "`temperature` and `top_p` cannot both be specified for this model."}},
            [Remedy("top_p")],
        ),
        (
            400,
            [{"error": {"code": 400, "message": 'Invalid JSON payload. Unknown name "seed": Cannot find field.'}}],
            [Remedy("seed")],
        ),
        (
            422,
            {"detail": [{"type": "extra_forbidden", "loc": ["body", "seed"], "msg": "Extra inputs are not permitted"}]},
            [Remedy("seed")],
        ),
        (400, {"error": {"message": "Unrecognized request argument supplied: seed"}}, [Remedy("seed")]),
        (400, {"error": "Model grok-4 does not support parameter stop."}, [Remedy("stop")]),
        (400, {"error": "Argument not supported on this model: seed"}, [Remedy("seed")]),
        (400, {"error": {"message": "`temperature` may only be set to 1 here"}}, [Remedy("temperature")]),
        (400, {"error": {"message": "The value of `top_p` must be unset."}}, [Remedy("top_p")]),
        (
            400,
            {"error": {"message": "temperature, top_p and top_k are not supported by this model"}},
            [Remedy("temperature"), Remedy("top_p")],
        ),
        # No remedy: a value, a prompt, words of English, a field that was not sent.
        (400, {"error": {"message": "max_tokens is too large: 256. This model supports at most 128."}}, []),
        (400, {"error": {"message": "This model's maximum context length is 10 tokens"}}, []),
        (400, {"error": {"message": "please stop: images are not supported, seed banks neither"}}, []),
        (400, {"error": {"message": "'logprobs' is not supported"}}, []),
        (400, {"error": {"message": "'messages' must not be empty, 'model' is not supported"}}, []),
        (400, {"error": {"message": "Thinking level MEDIUM is not supported for this model."}}, []),
    ],
)  # fmt: skip
def test_a_refusal_is_read_in_its_own_words(status, error, wanted) -> None:
    import json

    found = error_from_status(status, {}, json.dumps(error).encode(), "m")
    assert find_remedies(found.detail, found.params, SENT) == wanted


def test_what_only_the_user_decides_is_not_touched() -> None:
    sent = SENT | {"reasoning_effort": "medium", "chat_template_kwargs": {}}
    said = "Unsupported value: 'reasoning_effort' does not support 'medium'; 'chat_template_kwargs' is not supported"
    assert find_remedies(said, (), sent) == []


def test_a_cap_goes_back_to_its_older_name_where_the_newer_is_unknown() -> None:
    sent = {"max_completion_tokens": 5}
    assert find_remedies(
        "Extra inputs are not permitted (max_completion_tokens)", ("max_completion_tokens",), sent
    ) == [Remedy("max_completion_tokens", "max_tokens")]


@given(st.lists(st.text(max_size=200), max_size=8))
def test_no_words_adapt_a_field_twice_or_lose_the_cap(words: list[str]) -> None:
    spelling = Spelling(EndpointSpec(model="m", base_url="http://127.0.0.1:1/v1"))
    spelling.remember(())
    for said in [*words, *("'max_tokens' is not supported", "'max_completion_tokens' is not supported") * 2]:
        spelling.learn(AttemptError("bad_request", said), spelling.wire(SENT))
        assert spelling.wire(SENT).keys() & {"max_tokens", "max_completion_tokens", "max_output_tokens"}


def test_reading_a_refusal_takes_linear_time() -> None:
    started = time.process_time()
    for said in ("use " * 50_000, "unsupported " + "temperature " * 50_000, "not " * 100_000, "'" * 100_000):
        error = AttemptError("bad_request", said)
        find_remedies(error.detail, (), SENT)
    assert time.process_time() - started < 5


@pytest.mark.parametrize(
    ("model", "family"),
    [
        ("gpt-6-luna", "openai-reasoning"),
        ("openai/gpt-5", "openai-reasoning"),
        ("gpt-5.6-luna", "openai-reasoning"),
        ("o3-mini", "openai-reasoning"),
        ("gpt-4.1", "none"),
        ("gpt-4o", "none"),
        ("gpt-5-chat-latest", "none"),
        ("gpt-oss-120b", "none"),
        ("claude-opus-5", "claude"),
        ("gemini-3-pro", "gemini"),
        ("Qwen/Qwen3-8B", "qwen-thinking"),
        ("Qwen/Qwen3-4B-Instruct-2507", "none"),
        ("/models/o3", "none"),
        ("reference-corrector", "none"),
    ],
)
def test_a_family_is_known_by_the_models_name(model, family) -> None:
    assert detect_family(model) == family


def test_a_command_says_which_server_it_starts() -> None:
    spec = EndpointSpec(model="any", command="llama-server -m {model} --port {port}")
    assert spec.family == "llamacpp" == spec.at("http://127.0.0.1:1/v1").family


def test_every_row_of_the_table_has_a_source_and_a_simulated_rule_set() -> None:
    assert all(rule.source and rule.why and rule.family in {*FAMILIES, MESSAGES} for rule in RULES)
    assert set(RULE_SETS) == set(FAMILIES)


def test_a_place_on_this_machine_has_no_port() -> None:
    assert place_of("http://127.0.0.1:81/v1") == place_of("http://localhost:82/v1")
    assert place_of("https://api.openai.com/v1") != place_of("https://gateway.example/v1")


def test_the_words_of_a_refusal_show_no_key(caplog) -> None:
    caplog.set_level(logging.WARNING)
    spelling = Spelling(EndpointSpec(model="m", base_url="http://127.0.0.1:1/v1"))
    spelling.learn(AttemptError("bad_request", "'stop' is not supported\x1b[2J" + "x" * 5000), SENT)
    assert "\x1b" not in caplog.text
    assert len(caplog.text) < 2000
