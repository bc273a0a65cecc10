import pytest
from batching import answered, batched, buy, let_end, submitted

from lema_core.errors import BudgetExceededError, EndpointError
from lema_core.llm import Budget, Completion, Engine, Failure, Price
from lema_core.llm.batch.api import BatchApi, Creation
from lema_core.llm.ledger.store import LedgerStore
from lema_core.llm.simulated import Faults


async def test_the_same_answers_as_over_http(endpoint, ask, ledger, tmp_path) -> None:
    by_batch = await buy(ledger, batched(endpoint), ask(30))
    by_http = await buy(str(tmp_path / "other"), batched(endpoint, transport="http"), ask(30))
    assert by_batch == by_http
    assert submitted(endpoint) == [30]
    assert await buy(ledger, batched(endpoint), ask(30)) == by_batch
    assert submitted(endpoint) == [30]


async def test_batches_have_a_largest_size(endpoint, ask, ledger) -> None:
    await buy(ledger, batched(endpoint, batch_size=12), ask(30))
    assert submitted(endpoint) == [12, 12, 6]


async def test_expiry_submits_only_the_missing_ids_again(endpoint, ask, ledger) -> None:
    endpoint.faults = Faults(batch_expiry=1.0)
    outcomes = await buy(ledger, batched(endpoint), ask(16))
    answers = [one for one in outcomes if isinstance(one, Completion)]
    assert submitted(endpoint) == [16, 8, 4, 2, 1]
    assert [one.reason for one in outcomes if isinstance(one, Failure)] == ["expired"]
    assert endpoint.stats.report()["paid_twice"] == 0
    assert len(answers) == endpoint.stats.report()["distinct"]


async def test_partial_failure_submits_only_the_failed_ids_again(endpoint, ask, ledger) -> None:
    endpoint.faults = Faults(batch_failure=0.5)
    assert answered(await buy(ledger, batched(endpoint), ask(40)), 40)
    counts = submitted(endpoint)
    assert counts[0] == 40
    assert counts[1] < 40
    assert endpoint.stats.report()["paid_twice"] == 0


async def test_submit_now_and_collect_later(endpoint, ask, ledger) -> None:
    endpoint.faults = Faults(batch_delay_s=3600)
    later = batched(endpoint, wait_for_batch=False)
    first = await buy(ledger, later, ask(5))
    assert [one.reason for one in first if isinstance(one, Failure)] == ["pending"] * 5
    assert [one.reason for one in await buy(ledger, later, ask(5)) if isinstance(one, Failure)] == ["pending"] * 5
    let_end(endpoint)
    assert answered(await buy(ledger, later, ask(5)), 5)
    assert submitted(endpoint) == [5]
    # Not ready is not failed.
    assert LedgerStore(ledger).totals()[0][2] == 0


async def test_answers_nobody_asked_for_this_time_are_not_lost(endpoint, ask, ledger) -> None:
    later = batched(endpoint, wait_for_batch=False)
    endpoint.faults = Faults(batch_delay_s=3600)
    await buy(ledger, later, ask(10))
    let_end(endpoint)
    assert answered(await buy(ledger, later, ask(4)), 4)
    assert answered(await buy(ledger, later, ask(10)), 10)
    assert submitted(endpoint) == [10]


@pytest.mark.parametrize("moment", ["before the upload", "before the creation", "after the creation"])
async def test_after_a_crash_the_batch_is_found_again(endpoint, ask, ledger, monkeypatch, moment) -> None:
    class Crash(BaseException):
        pass

    upload, create = BatchApi.upload, BatchApi.create

    async def uploading(self, *words) -> str:
        if moment == "before the upload":
            raise Crash
        return await upload(self, *words)

    async def creating(self, *words) -> Creation:
        if moment == "after the creation":
            await create(self, *words)
        raise Crash

    monkeypatch.setattr(BatchApi, "upload", uploading)
    monkeypatch.setattr(BatchApi, "create", creating)
    with pytest.raises(Crash):
        await buy(ledger, batched(endpoint), ask(6))
    monkeypatch.undo()
    assert answered(await buy(ledger, batched(endpoint), ask(6)), 6)
    assert submitted(endpoint) == [6]
    assert endpoint.stats.report()["paid_twice"] == 0


async def test_a_budget_holds_over_batches(endpoint, ask, ledger) -> None:
    priced = batched(endpoint, price=Price(input_per_million=1e6, output_per_million=1e6, batch_factor=1))
    with pytest.raises(BudgetExceededError, match="remain"):
        await buy(ledger, priced, ask(50, max_tokens=10), Budget(dollars=200))
    store = LedgerStore(ledger)
    money, _ = store.spent("batch")
    assert 0 < money <= 200
    await buy(ledger, priced, ask(50, max_tokens=10), Budget(dollars=1e6))
    assert endpoint.stats.report()["paid_twice"] == 0


async def test_a_budget_holds_over_processes_that_submit_and_end(endpoint, ask, ledger) -> None:
    endpoint.faults = Faults(batch_delay_s=3600)
    price = Price(input_per_million=1e6, output_per_million=1e6, batch_factor=1)
    later, budget = batched(endpoint, price=price, wait_for_batch=False), Budget(dollars=500)
    told = [one.detail for one in await buy(ledger, later, ask(50, max_tokens=10), budget)]
    (first,) = submitted(endpoint)
    assert told.count("submitted; a later run collects the answer") == first
    assert told.count("the budget has no room now") == 50 - first
    # Nobody has answered yet: what is under way must not be spent again by the next processes.
    for _ in range(3):
        await buy(ledger, later, ask(50, max_tokens=10), budget)
    assert submitted(endpoint) == [first]
    let_end(endpoint)
    await buy(ledger, later, ask(50, max_tokens=10), budget)
    assert LedgerStore(ledger).spent("batch")[0] <= 500


async def test_a_refused_batch_gives_back_what_it_held(endpoint, ask, ledger, monkeypatch) -> None:
    async def refused(*_):
        raise EndpointError("no")

    monkeypatch.setattr(BatchApi, "upload", refused)
    price = Price(input_per_million=1e6, output_per_million=1e6)
    spec, budget = batched(endpoint, price=price), Budget(dollars=1000)
    async with Engine.open(ledger=ledger, budget=budget, run="batch") as engine:
        with pytest.raises(EndpointError):
            await engine.complete(spec, ask(1, max_tokens=10)[0])
        assert engine._budget._reservations == 0


async def test_half_the_price(endpoint, ask, ledger, tmp_path) -> None:
    price = Price(input_per_million=1e6, output_per_million=1e6)
    await buy(ledger, batched(endpoint, price=price), ask(5))
    other = str(tmp_path / "other")
    await buy(other, batched(endpoint, price=price, transport="http"), ask(5))
    assert LedgerStore(ledger).spent("batch")[0] == pytest.approx(LedgerStore(other).spent("batch")[0] / 2)
