"""How many requests of a shard may fail before it is an outage and not a matter of these requests."""

import asyncio
import copy
from collections import Counter
from types import SimpleNamespace

import pytest

from lema_core.errors import RequestsFailedError
from lema_core.llm.requests import Completion, Failure
from lema_core.specs import Runtime
from tasks._endpoints import counted


def settle(reasons: dict[str, int], good: int, max_failed: float = 0.2) -> Counter[str]:
    """Pass outcomes through `counted` and return the part's counts."""
    outcomes = [Failure("k", reason, "", 1) for reason, count in reasons.items() for _ in range(count)]
    outcomes += [Completion("k", "t", "stop", 1, 1, "m")] * good
    part = SimpleNamespace(counts=Counter())

    async def stream():
        for one in outcomes:
            yield one

    async def through() -> None:
        runtime = Runtime(root="", ledger="", run="", max_failed=max_failed)
        passed = counted(runtime, stream(), part, len(outcomes))
        # As the stages do: as many as were asked, never to the end of the stream.
        for _ in outcomes:
            await anext(passed)

    asyncio.run(through())
    return part.counts


@pytest.mark.parametrize(
    ("reasons", "good", "max_failed"),
    [
        ({"server_error": 10}, 40, 0.2),
        ({"server_error": 4}, 0, 0.2),
        ({"bad_request": 30, "content_filter": 10, "malformed": 10}, 0, 0.2),
        ({"server_error": 50}, 0, 1.0),
        ({}, 5, 0.0),
    ],
)
def test_few_failures_and_those_of_the_requests_themselves_pass(reasons, good, max_failed):
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
    ],
)
def test_an_outage_ends_the_shard_with_its_figures(reasons, good, max_failed):
    with pytest.raises(RequestsFailedError) as raised:
        settle(reasons, good, max_failed)
    assert raised.value.reasons == {name: count for name, count in reasons.items() if name != "malformed"}
    assert raised.value.requests == sum(reasons.values()) + good


def test_the_errors_of_shards_add_up_and_survive_being_copied_as_on_the_way_from_a_worker():
    one, two = (
        RequestsFailedError({"deadline": 3}, 10, 0.2),
        RequestsFailedError({"overload": 9, "deadline": 1}, 10, 0.2),
    )
    text = str(copy.copy(RequestsFailedError.added_up([one, two])))
    assert text.startswith("13 of 20 requests failed (4 deadline, 9 overload), more than runtime.max_failed = 0.2")
