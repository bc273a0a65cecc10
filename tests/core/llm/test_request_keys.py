import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from lema_core.errors import UnstableValueError
from lema_core.llm import CompletionRequest, EndpointSpec, Sampling, request_key

HELLO = ({"role": "user", "content": "hello"},)


def key(params: dict[str, object] | None = None, messages=HELLO, identity="m", index=0) -> str:
    return request_key(identity, CompletionRequest(messages, Sampling.from_params(params or {}), index))


def test_a_key_stays_what_it_was() -> None:
    # Another key would make every user pay for everything again.
    assert key({"temperature": 0.7, "max_tokens": 100}) == "745de6ddeeb6b5b3d64830e69e666ca2"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({}, {"n": 1}),
        ({}, {"temperature": None}),
        ({}, {"user": "me"}),
        ({}, {"presence_penalty": 0.0}),
        ({}, {"logit_bias": {}}),
        ({}, {"stop": []}),
        ({"temperature": 1}, {"temperature": 1.0}),
        ({"stop": "a"}, {"stop": ["a"]}),
        ({"max_tokens": 5}, {"max_completion_tokens": 5}),
        ({"top_k": 5, "min_p": 0.1}, {"min_p": 0.1, "top_k": 5}),
    ],
)
def test_what_cannot_change_the_answer_does_not_enter(one, other) -> None:
    assert key(one) == key(other)


@pytest.mark.parametrize(
    "params",
    [{"temperature": 0}, {"top_p": 1.0}, {"max_tokens": 5}, {"seed": 0}, {"top_k": 3}, {"stop": ["a"]}],
)
def test_what_can_change_the_answer_enters(params) -> None:
    assert key(params) != key()


def test_identity_messages_and_sample_index_enter() -> None:
    keys = [key(), key(identity="n"), key(index=1), key(messages=({"role": "system", "content": "hello"},))]
    assert len(set(keys)) == 4


@given(st.dictionaries(st.text(), st.text()))
def test_the_order_of_fields_does_not_enter(message) -> None:
    turned = dict(reversed(message.items()))
    assert key(messages=(message,)) == key(messages=(json.loads(json.dumps(turned)),))


@given(st.text(), st.text())
def test_different_texts_have_different_keys(one, other) -> None:
    same = key(messages=({"role": "user", "content": one},)) == key(messages=({"role": "user", "content": other},))
    assert same == (one == other)


def test_url_port_and_limits_do_not_enter() -> None:
    one = EndpointSpec(model="m", base_url="http://127.0.0.1:1/v1")
    other = EndpointSpec(model="m", base_url="http://127.0.0.1:2/v1", concurrency=3, api_key_env="KEY")
    assert one.identity == other.identity == "m"


def test_values_without_stable_json_are_refused() -> None:
    with pytest.raises(UnstableValueError, match="plain JSON"):
        key(messages=({"role": "user", "content": float("nan")},))


@pytest.mark.parametrize(
    "params",
    [
        *({"n": 2}, {"stream": True}, {"model": "x"}, {"temperature": -1}, {"max_tokens": 0}),
        *({"max_completion_tokens": cap} for cap in ("256", 0, 2.5, True)),
        {"max_tokens": 5, "max_completion_tokens": 5},
    ],
)
def test_parameters_the_engine_cannot_honour_are_refused(params) -> None:
    with pytest.raises(ValidationError):
        Sampling.from_params(params)


def test_samples_of_one_request_get_different_seeds() -> None:
    sampling = Sampling(seed=5)
    assert [sampling.body(index)["seed"] for index in range(3)] == [5, 6, 7]
