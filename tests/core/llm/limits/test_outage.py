import asyncio
import sqlite3

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lema_core.errors import AuthenticationError, EndpointError
from lema_core.llm import Budget, Completion, CompletionRequest, EndpointSpec, Engine, Failure, Price, Sampling
from lema_core.llm.client import Client
from lema_core.llm.limits.health import MAX_LOSSES, MIN_LOSSES, OutageDetector
from lema_core.llm.limits.limiter import FIRST_WINDOW
from lema_core.llm.responses import AttemptError, FailureReason
from lema_core.llm.settings import DEFAULTS, EngineSettings
from lema_core.llm.simulated import Faults, Library, SimulatedEndpoint
from lema_core.reference_corrector import Problem


class Told:
    """An outage that is told of failures; requests are numbers."""

    def __init__(self, concurrency: int = 8) -> None:
        self.outage = OutageDetector("'m' at u", concurrency, 300.0)

    def lose(
        self,
        request: int,
        at: float,
        took: float = 0.01,
        reason: FailureReason = "connection",
        *,
        not_sent: bool = False,
    ) -> AttemptError:
        error = AttemptError(reason, "lost", not_sent=not_sent)
        self.outage.record_failure(str(request), error, at - took, at)
        return error

    def lose_many(self, requests: int, at: float, reason: FailureReason = "connection") -> list[AttemptError]:
        return [self.lose(one, at + one / 1000, reason=reason) for one in range(requests)]


def test_a_refused_connection_means_away_and_two_minutes_of_them_the_end() -> None:
    told = Told()
    errors = [told.lose(0, 10.0 * index, not_sent=True) for index in range(14)]
    assert all(error.exempt for error in errors)
    assert [error.fatal is not None for error in errors] == [False] * 13 + [True]
    assert "stopped answering 130 s ago (lost)" in str(errors[-1].fatal)


def test_one_request_that_is_always_lost_is_its_own_fault() -> None:
    told = Told()
    errors = [told.lose(0, 30.0 * index, took=20) for index in range(50)]
    assert not any(error.exempt or error.fatal for error in errors)


@pytest.mark.parametrize(("concurrency", "enough"), [(1, MIN_LOSSES), (8, 8), (512, MAX_LOSSES)])
def test_as_many_requests_lost_as_may_be_in_flight_mean_away(concurrency, enough) -> None:
    errors = Told(concurrency).lose_many(enough, 0.0)
    assert [error.exempt for error in errors] == [False] * (enough - 1) + [True]


def test_two_losses_far_apart_beside_slow_answers_say_nothing() -> None:
    told = Told()
    assert not told.lose(0, 0.1).fatal
    assert not told.lose(1, 130.0, took=130).fatal


def test_all_connections_lost_at_once_after_one_long_before_is_where_the_clock_begins() -> None:
    told = Told()
    told.lose(99, 0.1)
    errors = [told.lose(one, 600.0, took=590) for one in range(64)]
    errors += [told.lose(one, 719.0) for one in range(64)]
    assert not any(error.fatal for error in errors)
    assert told.lose(0, 721.0).fatal


def test_attempts_that_began_before_it_went_away_do_not_end_the_run() -> None:
    told = Told()
    told.lose_many(8, 200.0)
    assert not any(told.lose(10 + one, 350.0, took=300).fatal for one in range(8))


def test_stale_connections_hours_later_are_another_story() -> None:
    told = Told()
    told.lose(0, 0.0, not_sent=True)
    told.lose_many(7, 0.1)
    assert not any(error.fatal for error in told.lose_many(64, 7200.0))


def test_silence_is_the_end_with_the_second_attempt() -> None:
    told = Told()
    assert not any(error.fatal for error in [told.lose(one, 300.0, 300, "deadline") for one in range(8)])
    again = [told.lose(one, 600.3, 300, "deadline") for one in range(5)]
    assert all(error.exempt for error in again)
    assert again[-1].fatal


def test_server_errors_use_up_tries_and_end_the_run_only_where_nothing_else_comes() -> None:
    told = Told()
    for at in range(0, 200, 10):
        errors = told.lose_many(30, at, "server_error")
        assert not any(error.exempt for error in errors)
        assert any(error.fatal for error in errors) == (at >= DEFAULTS.unreachable_s)
    told.outage.record_success()
    assert not told.lose(0, 200.0, reason="server_error").fatal


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["connection", "deadline", "server_error", "overload", "rate_limit", "bad_request"]),
            st.integers(0, 20),
            st.floats(0, 20),
            st.floats(0, 300),
            st.booleans(),
        ),
        max_size=60,
    )
)
def test_an_answer_within_two_minutes_always_saves_the_run(failures) -> None:
    told, now, quiet = Told(), 0.0, 0.0
    for reason, request, wait, took, not_sent in failures:
        now, quiet = now + wait, quiet + wait
        if quiet > DEFAULTS.unreachable_s - 20:
            told.outage.record_success()
            quiet = 0.0
        assert told.lose(request, now, took, reason, not_sent=not_sent).fatal is None


# The engine on a real endpoint.

QUESTIONS = [f"Tom has {n} apples and gets 3 more. How many?" for n in range(300)]
STORM = Faults(bad_gateway=1.0, failures_in_a_row=10**6, latency_s=0.01)


def asked(count: int) -> list[CompletionRequest]:
    return [CompletionRequest(({"role": "user", "content": f"Question: {text}"},)) for text in QUESTIONS[:count]]


@pytest.fixture
async def endpoint():
    library = Library()
    for n, text in enumerate(QUESTIONS):
        library.add(Problem(text, str(n + 3), f"Step 1: Tom has {n} + 3 = {n + 3}.\nThe answer is {n + 3}."))
    async with SimulatedEndpoint(library, faults=Faults(latency_s=0.01)) as made:
        yield made


def spec_of(endpoint: SimulatedEndpoint, **settings) -> EndpointSpec:
    return EndpointSpec(model="simulated-teacher", base_url=endpoint.url, **settings)


async def test_seconds_of_502_lose_no_row(endpoint, tmp_path) -> None:
    async with Engine.open(ledger=str(tmp_path / "ledger.sqlite")) as engine:
        stream = engine.stream(spec_of(endpoint, concurrency=64), asked(300))
        outcomes = [await anext(stream)]
        endpoint.faults = STORM
        asyncio.get_running_loop().call_later(2, lambda: setattr(endpoint, "faults", Faults()))
        outcomes += [outcome async for outcome in stream]
        snapshot = engine.snapshot()
    assert all(isinstance(outcome, Completion) for outcome in outcomes)
    assert snapshot.lost > 64
    assert endpoint.stats.report()["paid_twice"] == 0


@pytest.mark.parametrize(
    ("faults", "told"),
    [
        ({"bad_gateway": 1.0}, "HTTP 502"),
        ({"silence": 1.0}, "no answer within 0.2 s"),
        ({"server_error": 1.0, "latency_s": 0.1}, "HTTP 500"),
    ],
)
async def test_an_endpoint_that_stays_away_behind_a_proxy_ends_the_run(endpoint, tmp_path, faults, told) -> None:
    endpoint.faults = Faults(failures_in_a_row=10**6, **faults)
    spec = spec_of(endpoint, attempt_timeout_s=0.2, concurrency=8)
    outcomes = []
    settings = EngineSettings(unreachable_s=0.3)
    async with asyncio.timeout(15), Engine.open(str(tmp_path / "ledger.sqlite"), settings=settings) as engine:
        with pytest.raises(EndpointError, match=f"stopped answering .*{told}"):
            outcomes.extend([outcome async for outcome in engine.stream(spec, asked(300))])
    assert not outcomes


async def test_refused_connections_cost_nothing(tmp_path, monkeypatch) -> None:
    async def passes(_client: Client) -> None:
        """The server went away after the first contact."""

    monkeypatch.setattr(Client, "preflight", passes)
    spec = EndpointSpec(
        model="m", base_url="http://127.0.0.1:9/v1", price=Price(input_per_million=1, output_per_million=10)
    )
    settings = EngineSettings(unreachable_s=0.5)
    ledger, budget = str(tmp_path / "ledger.sqlite"), Budget(dollars=0.1)
    async with Engine.open(ledger, budget, settings=settings) as engine:
        with pytest.raises(EndpointError, match="stopped answering"):
            await asyncio.gather(*(engine.complete(spec, one) for one in asked(30)))


@pytest.mark.parametrize("url", ["http://127.0.0.1:9/v1", "http://no-such-host.invalid/v1"])
async def test_a_connection_that_was_never_made_is_told_from_one_that_was_lost(url) -> None:
    client = Client(EndpointSpec(model="m", base_url=url))
    with pytest.raises(AttemptError) as caught:
        await client.complete({"model": "m", "messages": []}, 0, 30.0)
    await client.close()
    assert (caught.value.reason, caught.value.not_sent, caught.value.maybe_paid) == ("connection", True, False)


def by_last_digit(status: int, digit: str, message: str = "no"):
    def decide(body, _tries):
        refused = body["messages"][-1]["content"].endswith(digit)
        return (status, {"error": {"message": message}}, {}) if refused else None

    return decide


@pytest.mark.parametrize(("status", "reason"), [(403, "content_filter"), (404, "bad_request")])
async def test_a_refusal_of_one_prompt_is_a_row(fake, spec, ask, tmp_path, status, reason) -> None:
    fake.decide = by_last_digit(status, "19")
    async with Engine.open(ledger=str(tmp_path / "ledger.sqlite")) as engine:
        first = [outcome async for outcome in engine.stream(spec, ask(10))]
        outcomes = first + [outcome async for outcome in engine.stream(spec, ask(20, start=10))]
    failed = [outcome for outcome in outcomes if isinstance(outcome, Failure)]
    assert [(one.reason, one.attempts) for one in failed] == [(reason, 1)]


async def test_prompts_that_a_proxy_always_gives_up_make_nobody_else_wait(fake, spec, ask, tmp_path) -> None:
    fake.decide = by_last_digit(504, "0")
    async with asyncio.timeout(30), Engine.open(ledger=str(tmp_path / "ledger.sqlite")) as engine:
        outcomes = [outcome async for outcome in engine.stream(spec, ask(100, start=100))]
        shrunk = engine.snapshot().window
    assert sum(isinstance(outcome, Failure) for outcome in outcomes) == 10
    assert shrunk >= min(FIRST_WINDOW, spec.concurrency)


async def test_a_key_that_is_withdrawn_still_ends_the_run(fake, spec, ask, tmp_path) -> None:
    async with Engine.open(ledger=str(tmp_path / "ledger.sqlite")) as engine:
        await engine.complete(spec, ask(1)[0])
        fake.decide = lambda _body, _tries: (403, {"error": {"message": "key limit exceeded"}}, {})
        with pytest.raises(AuthenticationError, match="key limit exceeded"):
            [outcome async for outcome in engine.stream(spec, ask(200, start=10))]


async def test_moderation_is_the_content_filter_even_for_the_first_prompt(fake, spec, ask, tmp_path) -> None:
    text = "Your chosen model requires moderation and your input was flagged"
    fake.decide = lambda _body, _tries: (403, {"error": {"message": text}}, {})
    async with Engine.open(ledger=str(tmp_path / "ledger.sqlite")) as engine:
        assert (await engine.complete(spec, ask(1)[0])).reason == "content_filter"


async def test_the_deadline_of_a_request_ends_its_attempt(fake, spec, ask, tmp_path) -> None:
    fake.latency = 1
    impatient = spec.model_copy(update={"request_timeout_s": 0.3})
    async with asyncio.timeout(3), Engine.open(ledger=str(tmp_path / "ledger.sqlite")) as engine:
        outcome = await engine.complete(impatient, ask(1)[0])
    assert (outcome.reason, outcome.detail) == ("deadline", "no answer within 0.3 s")


async def test_thinking_that_used_up_the_cap_is_asked_for_with_a_larger_one(fake, spec, ask, tmp_path) -> None:
    def thinks(body, _tries):
        text, finish = (None, "length") if body["max_tokens"] == 100 else ("The answer is 42.", "stop")
        choice = {"message": {"role": "assistant", "content": text}, "finish_reason": finish}
        return 200, {"choices": [choice], "usage": {"prompt_tokens": 20, "completion_tokens": 100}}, {}

    fake.decide = thinks
    async with Engine.open(ledger=str(tmp_path / "ledger.sqlite")) as engine:
        outcome = await engine.complete(spec, ask(1, max_tokens=100)[0])
    assert outcome.text == "The answer is 42."
    assert [body["max_tokens"] for body in fake.bodies] == [100, 200]
    with sqlite3.connect(tmp_path / "ledger.sqlite") as ledger:
        (reason,) = ledger.execute("SELECT reason FROM failures").fetchone()
    assert reason == "length"


@pytest.mark.parametrize(
    ("first", "finish", "posts", "reasons"),
    [
        ({"content": "<think>Maybe 70"}, "length", 2, ["length_thinking"]),
        ({"content": None, "reasoning": "Maybe 70"}, "length", 2, ["length_thinking"]),
        ({"content": "<think>Maybe 70</think>The ans"}, "length", 2, ["length"]),
        ({"content": None, "reasoning": "Maybe 70"}, "stop", 1, []),
    ],
)
async def test_what_the_cap_cut_is_named_and_thinking_alone_is_paid_once(
    fake, spec, ask, tmp_path, first, finish, posts, reasons
) -> None:
    def thinks(body, _tries):
        short = body["max_tokens"] == 100
        message = {"role": "assistant", **(first if short else {"content": "<think>Sure</think>The answer is 72."})}
        choice = {"message": message, "finish_reason": finish if short else "stop"}
        return 200, {"choices": [choice], "usage": {"prompt_tokens": 20, "completion_tokens": 100}}, {}

    fake.decide = thinks
    async with Engine.open(ledger=str(tmp_path / "ledger.sqlite")) as engine:
        outcome = await engine.complete(spec, ask(1, max_tokens=100)[0])
    assert (outcome.text, outcome.thinking) == (("The answer is 72.", "Sure") if posts == 2 else ("", "Maybe 70"))
    assert len(fake.bodies) == posts
    with sqlite3.connect(tmp_path / "ledger.sqlite") as ledger:
        assert [row[0] for row in ledger.execute("SELECT reason FROM failures")] == reasons


@pytest.mark.parametrize("shape", [{"tool_calls": [{"id": "1", "type": "function"}]}, {"function_call": {"name": "f"}}])
@pytest.mark.parametrize(("temperature", "posts"), [(0.0, 1), (0.7, 2)])
async def test_a_whole_answer_without_text_is_asked_again_once_at_most(
    fake, spec, tmp_path, temperature, posts, shape
) -> None:
    message = {"role": "assistant", "content": None, **shape}
    usage = {"prompt_tokens": 20, "completion_tokens": 10}
    body = {"choices": [{"message": message, "finish_reason": "tool_calls"}], "usage": usage}
    fake.decide = lambda _body, _tries: (200, body, {})
    asked = CompletionRequest(({"role": "user", "content": "8 x 9?"},), Sampling(temperature=temperature))
    async with Engine.open(ledger=str(tmp_path / "ledger.sqlite")) as engine:
        outcome = await engine.complete(spec, asked)
    assert (outcome.reason, len(fake.bodies)) == ("malformed", posts)
