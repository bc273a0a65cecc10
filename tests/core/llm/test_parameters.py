"""Request parameters of a run file: what reaches the body and the headers, what is identity, what is refused."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from lema_core.errors import ConfigError
from lema_core.llm import CompletionRequest, EndpointSpec, Engine, Sampling, request_key
from lema_core.llm.requests import Resolver
from lema_core.run.files import read_run_file
from lema_core.run.plan import planned_stages

SMOKE = Path(__file__).resolve().parents[3] / "deployments" / "runs" / "smoke.toml"
HELLO = ({"role": "user", "content": "hello 1"},)


def key(endpoint: dict[str, object], stage: dict[str, object] | None = None, **fields) -> str:
    spec = EndpointSpec(model="m", params=endpoint)
    request = CompletionRequest(HELLO, Sampling(params=stage or {}, **fields))
    return request_key("m", Resolver(spec.params)(request))


def identities(*settings: str) -> dict[str, str]:
    plan = planned_stages(read_run_file(SMOKE, ["evolution={endpoint='reference'}", *settings]), "root")
    return {stage.name: stage.ref.fingerprint for stage in plan}


async def test_parameters_of_endpoint_and_stage_reach_the_body(fake, spec, ledger) -> None:
    params = {
        "reasoning_effort": "low",
        "verbosity": "low",
        "extra_body": {"chat_template_kwargs": {"enable_thinking": False}},
        "temperature": "omit",
        "max_completion_tokens": 4096,
        "headers": {"X-Title": "lema"},
    }
    spec = EndpointSpec.model_validate(spec.model_dump() | {"params": params})
    sampling = Sampling(temperature=0.7, max_tokens=64, seed=3, params={"reasoning_effort": "high", "top_k": 5})
    async with Engine.open(ledger=ledger) as engine:
        await engine.complete(spec, CompletionRequest(HELLO, sampling, 2))
    body = fake.bodies[0]
    assert {name: body[name] for name in body.keys() - {"model", "messages"}} == {
        "reasoning_effort": "high",
        "verbosity": "low",
        "chat_template_kwargs": {"enable_thinking": False},
        "max_completion_tokens": 4096,
        "seed": 5,
        "top_k": 5,
    }
    assert fake.headers[0]["X-Title"] == "lema"


@pytest.mark.parametrize(
    ("endpoint", "stage"),
    [
        ({"max_completion_tokens": 9}, {}),
        ({"max_tokens": 9}, {}),
        ({}, {"max_completion_tokens": 9}),
        ({"temperature": 0.7}, {}),
        ({"headers": {"X-Title": "a"}}, {"headers": {"X-Other": "b"}}),
        ({"user": "me", "n": 1}, {}),
        ({"temperature": 1, "reasoning_effort": "low"}, {"temperature": 0.7, "reasoning_effort": "omit"}),
    ],
)
def test_another_spelling_of_the_same_request_has_its_key(endpoint, stage) -> None:
    plain = request_key("m", CompletionRequest(HELLO, Sampling(temperature=0.7, max_tokens=9)))
    assert key(endpoint, stage, temperature=0.7, max_tokens=9) == plain


def test_what_changes_the_answer_changes_the_key() -> None:
    changes: list[dict[str, object]] = [
        {},
        {"temperature": "omit"},
        {"temperature": 1},
        {"max_tokens": 8},
        {"reasoning_effort": "low"},
        {"reasoning_effort": "high"},
        {"chat_template_kwargs": {"enable_thinking": False}},
        {"stop": ["\n"]},
    ]
    keys = {key(change, temperature=0.7, max_tokens=9) for change in changes}
    assert len(keys) == len(changes)
    assert {key({}, change, temperature=0.7, max_tokens=9) for change in changes} == keys


def test_an_artifact_is_named_by_what_is_asked() -> None:
    plain = identities()
    for same in (
        "endpoints.reference.params={max_completion_tokens=1024, headers={X-Title='lema'}}",
        "corrections.params={max_completion_tokens=1024}",
        "endpoints.reference.rename={max_tokens='max_completion_tokens'}",
    ):
        found = identities(same)
        assert found["corrections"] == plain["corrections"], same
    for other, changed in (
        ("endpoints.reference.params={temperature='omit'}", "corrections"),
        ("corrections.params={reasoning_effort='low'}", "corrections"),
        ("students=[{endpoint='student', samples=2, max_tokens=128, params={seed='omit'}}]", "reasoning_paths"),
        ("evaluation.params={chat_template_kwargs={enable_thinking=false}}", "evaluation: base"),
        ("evolution.params={top_p=0.9}", "evolution_created centric"),
    ):
        found = identities(other)
        names = {name for name in plain if name.startswith(changed.split()[0].rstrip(":"))}
        assert any(found[name] != plain[name] for name in names), (other, names)
        assert found["questions"] == plain["questions"]


@pytest.mark.parametrize(
    ("params", "words"),
    [
        ({"headers": {"Authorization": "Bearer x"}}, "api_key_env"),
        ({"headers": {"x-api-key": "x"}}, "api_key_env"),
        ({"extra_headers": {"Cookie": "x"}}, "api_key_env"),
        ({"headers": {"Host": "x"}}, "set by the engine"),
        ({"headers": {"X-A": "a\r\nB: c"}}, "printable"),
        ({"headers": {"X A": "a"}}, "no name"),
        ({"max_tokens": "omit"}, "cannot be left out"),
        ({"max_tokens": 5, "max_completion_tokens": 5}, "not both"),
        ({"temperature": 1, "extra_body": {"temperature": 0}}, "twice"),
        ({"temperature": "warm"}, "number"),
        ({"top_k": float("nan")}, "JSON"),
        ({"stream": True}, "stream"),
        ({"messages": []}, "the engine sets them"),
    ],
)
def test_what_cannot_be_sent_is_refused_before_anything_is(params, words) -> None:
    with pytest.raises(ValidationError, match=words):
        EndpointSpec(model="m", params=params)


def test_tries_may_differ_by_a_temperature_in_params() -> None:
    with pytest.raises(ConfigError, match="raise temperature"):
        read_run_file(SMOKE, ["corrections.tries=2"])
    for temperature in ("1", "'omit'"):
        read_run_file(SMOKE, ["corrections.tries=2", f"corrections.params={{temperature={temperature}}}"])


def test_a_run_file_names_the_place_of_a_wrong_parameter() -> None:
    with pytest.raises(ConfigError, match=r"endpoints\.reference\.params.*api_key_env"):
        read_run_file(SMOKE, ["endpoints.reference.params={headers={Authorization='x'}}"])
