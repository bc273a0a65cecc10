"""Whether an endpoint can be used at all, by a simulated clock: sequences of what came back, and the end expected."""

from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lema_core.errors import AuthenticationError, EndpointError
from lema_core.llm.limits.health import FIRST_REFUSALS, EndpointHealth, no_answer_message
from lema_core.llm.limits.retry import BACKPRESSURE, MAX_ATTEMPTS
from lema_core.llm.requests import FailureReason
from lema_core.llm.responses import AttemptError
from lema_core.llm.settings import DEFAULTS


@dataclass
class World:
    """An endpoint that is asked one request after the other, as its limiter and the table of retries have it."""

    concurrency: int = 8
    request_timeout_s: float = 3600.0
    patience_s: float = 600.0
    now: float = 1000.0
    in_flight: int = 0

    def __post_init__(self) -> None:
        self.health = EndpointHealth("'m' at u", self.concurrency, 300.0, self.request_timeout_s, self.patience_s)

    def attempt(self, key: str, error: AttemptError, pause: float = 0.0, took: float = 0.01, *, last: bool = True):
        """Let an attempt fail; return the error that ends the run, if it does."""
        started, self.now = self.now, self.now + took
        self.health.record_failure(key, error, started, self.now)
        self.health.record_pause(error, self.now, self.now + pause)
        if last and (error.fatal is None or error.fatal_unless_served):
            self.health.record_final_failure(key, error, started, self.now, self.in_flight)
        self.now += pause
        return error.fatal

    def answer(self) -> None:
        self.now += 0.01
        self.health.record_success(self.now)


def error_of(reason: FailureReason, detail: str = "HTTP 400: no", **more: Any) -> AttemptError:
    return AttemptError(reason, detail, **more)


def access(status: int) -> AttemptError:
    kind = AuthenticationError if status == 403 else EndpointError
    reason = "content_filter" if status == 403 else "bad_request"
    return error_of(reason, f"HTTP {status}: no", fatal=kind(f"refused ({status})"), fatal_unless_served=True)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: error_of("bad_request", "HTTP 400: Unsupported parameter: 'seed'"), "Unsupported parameter: 'seed'"),
        (lambda: error_of("bad_request", "HTTP 400: API key not valid"), "API key not valid"),
        (lambda: error_of("bad_request", "HTTP 405: Method Not Allowed"), "405"),
        (lambda: error_of("malformed", "the answer is no JSON: '<html>'"), "usually ends in /v1"),
        (lambda: access(404), "refused (404)"),
        (lambda: access(403), "refused (403)"),
    ],
)
def test_the_first_requests_all_refused_end_the_run_with_the_endpoints_words(make, says) -> None:
    world = World()
    ends = [world.attempt(str(one), make()) for one in range(FIRST_REFUSALS)]
    assert [end is not None for end in ends] == [False] * (FIRST_REFUSALS - 1) + [True]
    assert says in str(ends[-1])


def test_mixed_refusals_count_together_and_the_sentence_has_each() -> None:
    world = World()
    made = [error_of("bad_request", "HTTP 400: x") if one % 2 else error_of("malformed", "html") for one in range(8)]
    end = [world.attempt(str(one), error) for one, error in enumerate(made)][-1]
    assert "4 bad_request (HTTP 400: x)" in str(end)
    assert "4 malformed (html)" in str(end)


def test_a_large_file_takes_more_refusals() -> None:
    world = World()
    for _ in range(1000):
        world.health.record_request()
    ends = [world.attempt(str(one), error_of("bad_request")) for one in range(20)]
    assert [end is None for end in ends] == [True] * 19 + [False]


@pytest.mark.parametrize("before", [0, 3, 7])
def test_one_answer_anywhere_among_the_first_saves_the_run(before) -> None:
    world = World()
    assert not any(world.attempt(str(one), error_of("bad_request")) for one in range(before))
    world.answer()
    assert not any(world.attempt(f"later {one}", error_of("bad_request")) for one in range(500))


def test_an_answer_that_the_ledger_holds_does_as_well() -> None:
    world = World()
    world.health.record_stored_answer()
    assert not any(world.attempt(str(one), error_of("bad_request")) for one in range(50))
    assert not any(world.attempt(f"403 {one}", access(403)) for one in range(7))


def test_requests_in_flight_may_fare_better_and_nothing_new_is_sent_before() -> None:
    world = World(in_flight=5)
    assert not any(world.attempt(str(one), error_of("bad_request")) for one in range(20))
    assert world.health.suspended
    world.answer()
    assert not world.health.suspended


def test_the_last_one_in_flight_decides() -> None:
    world = World(in_flight=1)
    assert not any(world.attempt(str(one), error_of("bad_request")) for one in range(20))
    world.in_flight = 0
    assert world.attempt("the last", error_of("bad_request"))


@pytest.mark.parametrize(
    "error",
    [
        ("bad_request", "HTTP 400: This model's maximum context length is 4096 tokens"),
        ("bad_request", "HTTP 400: prompt is too long: 210000 tokens > 200000 maximum"),
        ("bad_request", "the messages hold half a surrogate pair: not valid Unicode"),
        ("content_filter", "HTTP 400: filtered"),
    ],
)
def test_a_prompts_own_fault_says_nothing_of_the_others(error) -> None:
    world = World()
    assert not any(world.attempt(str(one), error_of(*error)) for one in range(100))


def test_one_request_alone_is_a_row_whatever_the_status() -> None:
    for error in (access(403), access(404), error_of("bad_request")):
        assert World().attempt("only", error) is None


def test_a_key_that_is_withdrawn_later_ends_the_run_and_one_blocked_prompt_does_not() -> None:
    world = World(concurrency=8)
    world.answer()
    assert world.attempt("a", access(403)) is None
    world.answer()
    assert [world.attempt(str(one), access(403)) is None for one in range(8)] == [True] * 7 + [False]


def backoff():
    """Yield the limiter's own pauses."""
    pause = 0.25
    while True:
        yield pause
        pause = min(30.0, 2 * pause)


def pushed_back(world: World, reasons, pauses, retry_after=None, limit=2000.0):
    """Push one attempt back after the other; return (the end's text, seconds) or None."""
    began = world.now
    for number, (reason, pause) in enumerate(zip(reasons, pauses, strict=False)):
        error = error_of(reason, "HTTP 429: daily quota", retry_after=retry_after)
        if end := world.attempt(str(number), error, max(pause, retry_after or 0.0), last=False):
            return str(end), world.now - began
        if world.now - began > limit:
            return None
    return None


def forever(*reasons):
    while True:
        yield from reasons


@pytest.mark.parametrize(
    "reasons", [("rate_limit",), ("overload",), ("rate_limit", "overload"), ("overload", "deadline")]
)
@pytest.mark.parametrize("retry_after", [None, 0.5, 20.0, 60.0])
def test_push_backs_in_place_of_a_first_answer_end_within_two_minutes(reasons, retry_after) -> None:
    world = World()
    text, seconds = pushed_back(world, forever(*reasons), backoff(), retry_after)
    assert "daily quota" in text
    # The pause that would have followed is in the figure.
    assert seconds <= DEFAULTS.first_answer_patience_s + max(30.0, retry_after or 0.0) + 10


def test_after_an_answer_patience_is_the_settings() -> None:
    world = World(patience_s=600)
    world.answer()
    text, seconds = pushed_back(world, forever("rate_limit"), backoff())
    assert 560 < seconds < 640
    assert "since its last answer" in text


def test_a_minutes_limit_that_lets_something_pass_never_ends_a_run() -> None:
    world = World()
    for _ in range(60):
        assert pushed_back(world, ["rate_limit"] * 6, backoff()) is None
        world.now += 30
        world.answer()


def test_push_backs_of_two_stages_hours_apart_are_not_added_up() -> None:
    world = World()
    world.answer()
    assert pushed_back(world, ["rate_limit"] * 3, backoff()) is None
    world.now += 7200
    assert pushed_back(world, ["rate_limit"] * 5, backoff()) is None


@pytest.mark.parametrize("asked", [3601.0, 86_400.0, 1e300, float("inf")])
@pytest.mark.parametrize("reason", ["rate_limit", "overload", "server_error"])
def test_a_wait_beyond_the_deadline_ends_the_run_at_once(asked, reason) -> None:
    end = World().attempt("a", error_of(reason, "HTTP 429: daily", retry_after=asked), last=False)
    assert "asks to wait until" in str(end)
    assert "daily" in str(end)


@pytest.mark.parametrize("asked", [float("nan"), -5.0, 86_400.0])
def test_an_absurd_wait_is_dropped_where_others_are_answered(asked) -> None:
    world = World()
    error = error_of("rate_limit", retry_after=asked)
    started = world.now
    world.answer()
    world.health.record_failure("a", error, started, world.now)
    assert (error.fatal, error.retry_after) == (None, None)


def test_requests_pushed_back_until_their_deadline_are_not_rejected() -> None:
    world = World(request_timeout_s=10)
    for one in range(10):
        assert not world.attempt(f"first {one}", error_of("rate_limit"), last=False)
    assert not world.attempt("first 0", error_of("rate_limit", retry_after=8), 8.8, last=False)
    expired = error_of("rate_limit", "HTTP 429: slow")
    world.health.record_final_failure("first 1", expired, 1000.0, world.now, 0)
    assert "pushed back every attempt" in str(expired.fatal)


OUTCOMES = st.sampled_from([*MAX_ATTEMPTS, "answer"])


@given(st.lists(st.tuples(OUTCOMES, st.floats(0, 40)), max_size=80))
def test_an_endpoint_that_answers_every_seventh_request_within_a_minute_is_never_given_up(events) -> None:
    world = World(concurrency=8)
    world.answer()
    for number, (kind, pause) in enumerate(events):
        if kind == "answer" or number % 3 == 2:
            world.answer()
        else:
            assert world.attempt(str(number), error_of(kind, "x"), pause, last=kind not in BACKPRESSURE) is None


def test_the_sentence_names_every_reason_with_its_count_its_words_and_a_remedy() -> None:
    text = no_answer_message(
        "'m' at u", {"bad_request": 2, "rate_limit": 1}, {"bad_request": "HTTP 404: no such model"}
    )
    assert "none of 3 requests: 2 bad_request (HTTP 404: no such model); 1 rate_limit" in text
    assert "Check the model's name" in text
