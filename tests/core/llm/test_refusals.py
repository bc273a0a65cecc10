"""The engine against a real server that refuses, pushes back or asks for absurd waits."""

import asyncio

import pytest

from lema_core.errors import EndpointError
from lema_core.llm import Completion, Engine, Failure
from lema_core.llm.settings import EngineSettings
from lema_core.llm.simulated import Reply


def number_of(body) -> int:
    return int(body["messages"][-1]["content"].split()[-1])


def refusing(status=400, message="Unsupported parameter: 'seed'", headers=None):
    return lambda _body, _tries: (status, {"error": {"message": message}}, headers or {})


async def ended(spec, requests, ledger, **settings) -> str:
    """Return the text of the error that ends a stream; no outcome may come before it."""
    async with asyncio.timeout(60), Engine.open(ledger, settings=EngineSettings(**settings)) as engine:
        with pytest.raises(EndpointError) as caught:
            [outcome async for outcome in engine.stream(spec, requests)]
    return str(caught.value)


@pytest.mark.parametrize(
    ("decide", "says", "most"),
    [
        (refusing(400, "API key not valid. Please pass a valid API key."), "API key not valid", 16),
        (refusing(400), "Unsupported parameter: 'seed'", 16),
        (refusing(405, "Method Not Allowed"), "Method Not Allowed", 16),
        (refusing(404, "no model 'fake'"), "no model 'fake'", 16),
        (refusing(403, "this key may not use it"), "this key may not use it", 16),
        # Each of the first wave, and the three tries of those that are given up.
        (lambda _body, _tries: (200, "<html>", {}), "usually ends in /v1", 16 + 3 * 11),
    ],
)
async def test_an_endpoint_that_refuses_all_ends_the_run_with_few_requests(
    fake, spec, ask, ledger, decide, says, most
) -> None:  # fmt: skip
    fake.decide = decide
    assert says in await ended(spec, ask(500), ledger, retry_wait_s=0.01)
    assert fake.hits <= most


async def test_quick_refusals_of_the_first_prompts_beside_slow_answers_end_nothing(fake, spec, ask, ledger) -> None:
    slow = Reply(200, {"choices": [{"message": {"role": "assistant", "content": "42"}}]}, delay_s=0.3)
    fake.decide = lambda body, _tries: refusing()(body, 0) if number_of(body) < 12 else slow
    async with Engine.open(ledger=ledger) as engine:
        outcomes = [outcome async for outcome in engine.stream(spec, ask(60))]
    assert [isinstance(one, Failure) for one in outcomes] == [True] * 12 + [False] * 48


async def test_many_refusals_in_a_row_after_an_answer_are_rows(fake, spec, ask, ledger) -> None:
    fake.decide = lambda body, _tries: refusing()(body, 0) if number_of(body) >= 20 else None
    async with Engine.open(ledger=ledger) as engine:
        outcomes = [outcome async for outcome in engine.stream(spec, ask(200))]
    assert sum(isinstance(one, Failure) for one in outcomes) == 180


@pytest.mark.parametrize("status", [400, 403, 404])
async def test_the_rows_that_failed_before_are_rows_again_in_a_new_process(fake, spec, ask, ledger, status) -> None:
    fake.decide = lambda body, _tries: refusing(status)(body, 0) if number_of(body) in (0, 1, 2, 17) else None
    for _ in range(2):
        async with Engine.open(ledger=ledger) as engine:
            outcomes = [outcome async for outcome in engine.stream(spec, ask(60))]
        assert [one for one in range(60) if isinstance(outcomes[one], Failure)] == [0, 1, 2, 17]


@pytest.mark.parametrize("headers", [{"Retry-After": "86400"}, {"retry-after-ms": "9e9"}])
@pytest.mark.parametrize("status", [429, 503])
async def test_a_wait_beyond_the_deadline_ends_the_run_and_rejects_nobody(
    fake, spec, ask, ledger, headers, status
) -> None:
    fake.decide = refusing(status, "daily quota", headers)
    text = await ended(spec, ask(64), ledger)
    assert "asks to wait until" in text
    assert "daily quota" in text


@pytest.mark.parametrize("status", [429, 503, 529])
async def test_push_backs_for_ever_end_with_the_endpoints_words(fake, spec, ask, ledger, status) -> None:
    fake.decide = refusing(status, "the quota of today is used up")
    text = await ended(spec, ask(64), ledger, first_answer_patience_s=1.0)
    assert "pushed back every attempt" in text
    assert "the quota of today is used up" in text
    assert fake.hits < 60


async def test_a_request_timeout_shorter_than_patience_rejects_nobody_either(fake, spec, ask, ledger) -> None:
    fake.decide = refusing(429, "slow down")
    text = await ended(spec.model_copy(update={"request_timeout_s": 2.0}), ask(64), ledger)
    assert "slow down" in text


async def test_a_quota_that_is_used_up_half_way_keeps_what_was_paid(fake, spec, ask, ledger) -> None:
    fake.decide = lambda body, _tries: refusing(429, "daily")(body, 0) if fake.hits > 30 else None
    patient = spec.model_copy(update={"push_back_patience_s": 2.0})
    assert "since its last answer" in await ended(patient, ask(64), ledger)
    paid = fake.paid
    fake.decide = lambda _body, _tries: None
    async with Engine.open(ledger=ledger) as engine:
        outcomes = [outcome async for outcome in engine.stream(spec, ask(64))]
        assert engine.snapshot().from_ledger == paid > 10
    assert all(isinstance(one, Completion) for one in outcomes)


async def hits_in(fake, spec, ask, ledger, headers, seconds=2.5) -> int:
    fake.hits, fake.decide = 0, refusing(429, "slow", headers)
    async with Engine.open(ledger=ledger) as engine:
        work = asyncio.gather(*(engine.complete(spec, one) for one in ask(6)), return_exceptions=True)
        await asyncio.wait([work], timeout=seconds)
        work.cancel()
        await asyncio.gather(work, return_exceptions=True)
    return fake.hits


async def test_no_number_from_outside_switches_off_our_back_off(fake, spec, ask, tmp_path) -> None:
    """Retry-After 0 gave 473 requests a second."""
    narrow = spec.model_copy(update={"concurrency": 4})
    plain = await hits_in(fake, narrow, ask, str(tmp_path / "plain"), {})
    past = "Wed, 21 Oct 2015 07:28:00 GMT"
    absurd = [{"Retry-After": one} for one in ("0", "-1", past, "nan", "x")]
    absurd += [{"retry-after-ms": one} for one in ("0", "nan", "-inf")]
    for number, headers in enumerate(absurd):
        hits = await hits_in(fake, narrow, ask, str(tmp_path / f"{number}"), headers, 1.0)
        assert hits <= plain + 4, headers
