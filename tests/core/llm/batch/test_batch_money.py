"""Batches and the budget: what is under way counts once, whoever submitted it and whoever collects it."""

import asyncio
import threading
from contextlib import suppress
from typing import Any

import pytest
from batching import answered, batched, buy, let_end

from lema_core.errors import BudgetExceededError
from lema_core.llm import Budget, Engine, Failure
from lema_core.llm.batch.records import Batch, BatchLine, BatchRecords
from lema_core.llm.ledger.credit import Amount, CreditLine
from lema_core.llm.ledger.ledger import Ledger
from lema_core.llm.ledger.store import CompletionEntry, LedgerStore
from lema_core.llm.requests import Completion
from lema_core.llm.simulated import Faults


async def drain(engine, spec, requests) -> list[Any]:
    return [outcome async for outcome in engine.stream(spec, requests)]


def owed(ledger: str) -> float:
    return LedgerStore(ledger).database.query("SELECT COALESCE(SUM(dollars), 0) FROM batch_lines")[0][0]


async def test_a_budget_holds_over_purchases_of_one_process_that_do_not_wait(endpoint, ask, ledger) -> None:
    endpoint.faults = Faults(batch_delay_s=3600)
    budget = Budget(dollars=500)
    async with Engine.open(ledger=ledger, budget=budget, run="batch") as engine:
        for start in (0, 100, 200):
            # As the settings of a sweep do: other requests, in the same engine. Nothing may be left for them.
            with suppress(BudgetExceededError):
                await drain(engine, batched(endpoint, wait_for_batch=False), ask(50, start, max_tokens=10))
            assert 0 < owed(ledger) <= 500
        assert engine._budget._reservations == 0


async def test_what_was_postponed_is_pending_for_other_processes_too(endpoint, ask, ledger) -> None:
    endpoint.faults = Faults(batch_delay_s=3600)
    async with Engine.open(ledger=ledger, run="batch") as first, Engine.open(ledger=ledger, run="batch") as second:
        await drain(first, batched(endpoint, wait_for_batch=False), ask(3))
        async with asyncio.timeout(5):
            outcomes = await drain(second, batched(endpoint, wait_for_batch=False), ask(3))
        assert [one.reason for one in outcomes if isinstance(one, Failure)] == ["pending"] * 3
        let_end(endpoint)
        async with asyncio.timeout(5):
            assert answered(await drain(second, batched(endpoint, wait_for_batch=False), ask(3)), 3)
    assert endpoint.stats.report()["paid_twice"] == 0


async def test_an_answer_that_is_collected_while_another_draws_is_counted(postgres, monkeypatch) -> None:
    url = postgres.url("postgres")
    left = await Ledger.open(url, "moving")
    batch = Batch("moved", "", lines={"moved": BatchLine(upper_bound=Amount(60.0, 60.0))})
    await BatchRecords(left, "m").register(batch, {"moved": "{}"})
    await BatchRecords(left, "m").release([batch])
    store, other = LedgerStore(url), LedgerStore(url)
    credit = CreditLine(store, "moving", "me", Budget(dollars=100))
    answer = Completion("moved", "x", "stop", 30, 30, "m")
    commits = [lambda: other.commit([CompletionEntry("m", "{}", answer, 60.0, "moved")], "moving")]

    def between(read):
        def reading(*words):
            # Whatever is read first: the answer is booked before the second read.
            found = read(*words)
            if commits:
                commits.pop()()
            return found

        return reading

    monkeypatch.setattr(store, "spent", between(store.spent))
    monkeypatch.setattr(credit, "_read_batches", between(credit._read_batches))
    assert credit.request(Amount(50.0, 0.0)).granted == Amount()
    await left.close()


async def test_two_processes_collect_one_batch_in_opposite_order(postgres) -> None:
    url, keys = postgres.url("postgres"), [f"shared {number:03}" for number in range(300)]
    left, right = await Ledger.open(url, "left"), await Ledger.open(url, "right")
    batch = Batch("shared", "", lines=dict.fromkeys(keys, BatchLine()))
    await BatchRecords(left, "m").register(batch, dict.fromkeys(keys, "{}"))

    def book(ledger: Ledger, order: list[str]) -> list[Any]:
        return [
            ledger.record(CompletionEntry("m", "{}", Completion(key, "x", "stop", 1, 1, "m"), 1.0, "shared"))
            for key in order
        ]

    booked = await asyncio.gather(*book(left, keys), *book(right, keys[::-1]))
    assert [one.key for one in booked] == keys + keys[::-1]
    assert left.store.spent("left")[1] + left.store.spent("right")[1] == 600
    for one in (left, right):
        await one.close()


async def test_a_deadlock_is_tried_again(postgres) -> None:
    both = [await Ledger.open(postgres.url("postgres"), name) for name in ("one", "two")]
    owners, meet, runs = [ledger.claims.owner for ledger in both], threading.Barrier(2), list[str]()

    def crossing(ledger: Ledger, first: str, second: str) -> Any:
        def work() -> None:
            runs.append(first)
            with ledger.store.database.transaction():
                ledger.store.database.query("UPDATE owners SET beat = beat WHERE owner = ?", (first,))
                if len(runs) <= 2:
                    meet.wait(10)
                ledger.store.database.query("UPDATE owners SET beat = beat WHERE owner = ?", (second,))

        return ledger.call(work)

    await asyncio.gather(crossing(both[0], *owners), crossing(both[1], *owners[::-1]))
    assert len(runs) == 3
    for ledger in both:
        await ledger.close()


async def test_a_budget_that_batches_hold_says_so(endpoint, ask, ledger) -> None:
    endpoint.faults = Faults(batch_delay_s=3600)
    async with Engine.open(ledger=ledger, budget=Budget(dollars=500), run="batch") as engine:
        told = await drain(engine, batched(endpoint, wait_for_batch=False), ask(50, max_tokens=10))
        left = sum("no room" in one.detail for one in told)
        assert 0 < left < 50
        held = f"{owed(ledger):,.2f}"
        with pytest.raises(BudgetExceededError) as caught:
            await drain(engine, batched(endpoint, transport="http"), ask(50, max_tokens=10)[-left:])
        assert f"$0 of $500.00 are spent, ${held} are held by batches under way and" in str(caught.value)
        assert "run again when the batches are done" in str(caught.value)
        # What a batch owes does not remain to be bought.
        connection = engine._connection_to(batched(endpoint, transport="http"))
        assert (await connection.describe_remaining(iter([ask(50, max_tokens=10)]))).startswith(
            f"{left} requests remain"
        )


async def test_processes_that_read_one_batch_count_its_answers_once(endpoint, ask, ledger) -> None:
    later = batched(endpoint, wait_for_batch=False)
    await buy(ledger, later, ask(40))
    async with Engine.open(ledger=ledger, run="batch") as left, Engine.open(ledger=ledger, run="batch") as right:
        both = await asyncio.gather(drain(left, later, ask(20)), drain(right, later, ask(20, 20)))
        assert answered(both[0] + both[1], 40)
        shown = [engine.snapshot() for engine in (left, right)]
    assert sum(one.completions for one in shown) == 40
    assert sum(one.dollars or 0 for one in shown) == pytest.approx(LedgerStore(ledger).spent("batch")[0])
