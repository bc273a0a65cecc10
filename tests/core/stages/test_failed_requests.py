"""How many requests of a shard may fail before it is an outage and not a matter of these requests."""

import asyncio
import copy
from collections import Counter
from contextlib import nullcontext
from types import SimpleNamespace

import pytest

from lema_core.errors import RequestsFailedError
from lema_core.llm.requests import Completion, Failure
from lema_core.stages.failed_requests import check_stage, tally_outcomes


def settle(reasons: dict[str, int], good: int, max_failed: float = 0.2) -> Counter[str]:
    """Pass outcomes through `tally_outcomes` and return the part's counts."""
    outcomes = [Failure("k", reason, "", 1) for reason, count in reasons.items() for _ in range(count)]
    outcomes += [Completion("k", "t", "stop", 1, 1, "m")] * good
    part = SimpleNamespace(counts=Counter())

    async def stream():
        for one in outcomes:
            yield one

    async def through() -> None:
        passed = tally_outcomes(stream(), part, len(outcomes), max_failed)
        # As the stages do: as many as were asked, never to the end of the stream.
        for _ in outcomes:
            await anext(passed)

    asyncio.run(through())
    return part.counts


@pytest.mark.parametrize(
    ("reasons", "good", "max_failed"),
    [
        ({"server_error": 10}, 40, 0.2),
        # Too few to judge by: the whole stage is (`check_stage`).
        ({"server_error": 4}, 0, 0.2),
        ({"bad_request": 4}, 0, 0.2),
        ({"content_filter": 19}, 0, 0.2),
        ({"bad_request": 5, "malformed": 5}, 40, 0.2),
        # A prompt's own fault, as long as the filter lets some pass.
        ({"content_filter": 40}, 10, 0.2),
        ({"server_error": 50}, 0, 1.0),
        ({"bad_request": 50}, 0, 1.0),
        ({}, 5, 0.0),
    ],
)
def test_few_failures_and_those_of_the_prompts_themselves_pass(reasons, good, max_failed):
    counts = settle(reasons, good, max_failed)
    assert {name: count for name, count in counts.items() if name.startswith("failed_")} == {
        f"failed_{reason}": count for reason, count in reasons.items()
    }
    assert counts["completions"] == good


@pytest.mark.parametrize(
    ("reasons", "good", "max_failed"),
    [
        ({"deadline": 1, "server_error": 10, "malformed": 3}, 39, 0.2),
        ({"connection": 5}, 0, 0.2),
        ({"rate_limit": 1}, 99, 0.0),
        ({"overload": 100}, 0, 0.99),
        ({"bad_request": 30, "content_filter": 10, "malformed": 10}, 0, 0.2),
        ({"bad_request": 11}, 39, 0.2),
        ({"malformed": 30}, 70, 0.2),
        ({"content_filter": 20}, 0, 0.2),
    ],
)
def test_more_end_the_shard_with_their_figures_whatever_the_class(reasons, good, max_failed):
    with pytest.raises(RequestsFailedError) as raised:
        settle(reasons, good, max_failed)
    assert raised.value.reasons == reasons
    assert raised.value.requests == sum(reasons.values()) + good


@pytest.mark.parametrize(
    ("counts", "prefix", "passes"),
    [
        ({"completions": 90, "failed_bad_request": 10}, "", True),
        ({"completions": 60, "failed_bad_request": 40}, "", False),
        # Shards of four, each within its tolerance.
        ({"completions": 0, "failed_malformed": 3}, "", False),
        ({"completions": 0, "failed_content_filter": 1}, "", False),
        ({"completions": 6, "failed_server_error": 4}, "", True),
        # A second teacher that answers nothing leaves no correction.
        ({"completions": 10, "second_failed_bad_request": 3}, "second_", False),
        ({"completions": 10, "second_failed_bad_request": 3}, "", True),
        ({}, "", True),
    ],
)
def test_a_stage_is_judged_as_a_whole(counts, prefix, passes):
    with nullcontext() if passes else pytest.raises(RequestsFailedError, match="said so"):
        check_stage(counts, 0.2, prefix, {name.rpartition("failed_")[2]: "said so" for name in counts})
    check_stage(counts, 1.0, prefix, {})


def test_the_errors_of_shards_add_up_and_survive_being_copied_as_on_the_way_from_a_worker():
    one, two = (
        RequestsFailedError({"deadline": 3}, 10, 0.2),
        RequestsFailedError({"overload": 9, "deadline": 1}, 10, 0.2),
    )
    text = str(copy.copy(RequestsFailedError.combine([one, two])))
    assert text.startswith("13 of 20 requests failed (4 deadline, 9 overload), more than runtime.max_failed = 0.2")
