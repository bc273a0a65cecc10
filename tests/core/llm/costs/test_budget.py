"""One budget for many processes: each has a connection and a line of credit of its own, on one ledger."""

import asyncio
import os
from collections.abc import Awaitable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import until

from lema_core.errors import BudgetExceededError
from lema_core.llm import Budget, Completion, Engine, Price
from lema_core.llm.costs.budget import BudgetGuard
from lema_core.llm.ledger.claims import Claims
from lema_core.llm.ledger.credit import Amount, CreditGrant, CreditLine
from lema_core.llm.ledger.store import CompletionEntry, LedgerStore
from lema_core.system.processes import this_machine

LIMIT = 100
moves = st.lists(
    st.tuples(st.integers(0, 2), st.sampled_from(["draw", "pay", "give_back", "lose"]), st.integers(1, 60)), max_size=40
)


def paid(number: int, tokens: int) -> CompletionEntry:
    return CompletionEntry("e", "{}", Completion(f"k{number}", "", "stop", 0, tokens, "m"), None)


@settings(max_examples=60)
@given(moves)
def test_payments_and_lines_together_never_pass_the_limit(tmp_path_factory, steps) -> None:
    store = LedgerStore(str(tmp_path_factory.mktemp("budget") / "ledger.sqlite"))
    lenders = [CreditLine(store, "r", f"owner {i}", Budget(tokens=LIMIT)) for i in range(3)]
    lines = [0.0] * 3
    for number, (who, move, size) in enumerate(steps):
        credit, amount = lenders[who], min(float(size), lines[who])
        if move == "draw":
            grant = credit.request(Amount(tokens=size))
            assert grant.granted.tokens >= size or grant.granted == Amount()
            lines[who] += grant.granted.tokens
        elif move == "pay":
            entries = [paid(number, int(amount))]
            store.commit(entries, "r", credit.write_charges)
            credit.apply_charges(entries)
            lines[who] -= int(amount)
        else:
            spare, lost = Amount(tokens=amount), Amount()
            credit.return_credit(*((spare, lost) if move == "give_back" else (lost, spare)))
            lines[who] -= amount
        spent = store.spent("r")[1]
        lost = sum(row[0] for row in store.database.query("SELECT lost_tokens FROM credit"))
        held = dict(store.database.query("SELECT owner, tokens FROM credit"))
        assert [held[f"owner {i}"] for i in range(3)] == lines
        assert spent + lost + sum(lines) <= LIMIT


async def test_engines_on_one_ledger_spend_the_budget_and_no_more(fake, spec, ask, tmp_path) -> None:
    fake.latency = 0.01
    priced = spec.model_copy(update={"price": Price(input_per_million=1e6, output_per_million=1e6), "concurrency": 4})
    ledger = str(tmp_path / "ledger.sqlite")

    async def one(start: int) -> str:
        async with Engine.open(ledger=ledger, budget=Budget(dollars=3000), run="r") as engine:
            try:
                async for _ in engine.stream(priced, ask(100, start, max_tokens=10)):
                    pass
            except BudgetExceededError as error:
                return str(error)
        return ""

    told = await asyncio.gather(*(one(1000 * number) for number in range(1, 6)))
    assert all("of $3,000.00 are spent" in text for text in told)
    # An answer costs 30 dollars, and at first more is set aside for one.
    assert 2900 <= 30 * fake.hits <= 3000
    assert LedgerStore(ledger).spent("r")[0] == 30 * fake.hits


async def test_what_a_killed_process_held_is_free_again(fake, spec, ask, tmp_path) -> None:
    ledger = str(tmp_path / "ledger.sqlite")
    store = LedgerStore(ledger)
    # Signed in like a process that never got to sign out: its number belongs to one that started at another time.
    store.database.query("INSERT INTO owners VALUES (?,?,?,?,?)", ("dead", this_machine(), os.getpid(), 1.0, 1.0))
    assert CreditLine(store, "r", "dead", Budget(tokens=600)).request(Amount(tokens=600)).granted.tokens == 600
    async with Engine.open(ledger=ledger, budget=Budget(tokens=600), run="r") as engine:
        outcomes = [one async for one in engine.stream(spec, ask(10, max_tokens=10))]
    assert len(outcomes) == fake.hits == 10


async def test_an_answer_that_may_have_been_paid_counts_while_the_process_lives(fake, spec, ask, tmp_path) -> None:
    fake.decide = lambda _body, tries: (200, "no JSON", {}) if tries == 0 else None
    ledger = str(tmp_path / "ledger.sqlite")
    async with (
        Engine.open(ledger=ledger, budget=Budget(tokens=1500), run="r") as first,
        Engine.open(ledger=ledger, budget=Budget(tokens=1500), run="r") as second,
    ):
        await first.complete(spec, ask(1, max_tokens=10)[0])
        left = 0
        try:
            async for _ in second.stream(spec, ask(100, 10, max_tokens=10)):
                left += 1
        except BudgetExceededError:
            pass
    assert 30 * (left + 1) < 1500 - 30, "something is kept back for what was assumed"


@pytest.mark.parametrize("end", ["leaves", "dies"])
async def test_what_may_have_been_billed_counts_when_its_process_has_ended(fake, spec, ask, tmp_path, end) -> None:
    ledger, budget = str(tmp_path / "ledger.sqlite"), Budget(tokens=1500)
    fake.decide = lambda _body, tries: (200, "no JSON", {}) if tries == 0 else None
    async with Engine.open(ledger=ledger, budget=budget, run="r") as engine:
        await engine.complete(spec, ask(1, max_tokens=10)[0])
        await engine._heartbeat()
        store = LedgerStore(ledger)
        if end == "dies":
            store.database.query("UPDATE owners SET started = started - 1")
            Claims(store).register()
            assert len(store.database.query("SELECT owner FROM owners")) == 1
        assert store.database.query("SELECT SUM(lost_tokens) > 0 FROM credit") == [(1,)]
    lost = store.database.query("SELECT owner, lost_tokens FROM credit")
    assert [owner for owner, _ in lost] == ["run r"]
    assert lost[0][1] > 10
    grant = CreditLine(store, "r", "next", budget).request(Amount(tokens=1500 - 30 - lost[0][1] + 1))
    assert (grant.granted, grant.unaccounted.tokens, grant.others_hold_credit) == (Amount(), lost[0][1], False)
    assert CreditLine(store, "another run", "next", budget).request(Amount(tokens=1500)).granted.tokens == 1500


async def test_what_is_given_up_while_it_is_out_may_have_been_billed(fake, spec, ask, tmp_path) -> None:
    fake.latency, ledger = 60, str(tmp_path / "ledger.sqlite")

    async def work() -> None:
        async with Engine.open(ledger=ledger, budget=Budget(tokens=5000), run="r") as engine:
            async for _ in engine.stream(spec, ask(4, max_tokens=10)):
                pass

    task = asyncio.create_task(work())
    await asyncio.to_thread(until, "four requests are out", lambda: fake.in_flight == 4)
    task.cancel()
    await asyncio.sleep(0.2)
    assert not task.done(), "what is out is waited for"
    task.cancel()
    await asyncio.wait([task], timeout=10)
    assert task.cancelled()
    ((owner, lost),) = LedgerStore(ledger).database.query("SELECT owner, lost_tokens FROM credit")
    assert owner == "run r"
    assert lost >= 4 * 10


async def test_a_process_that_was_taken_for_dead_comes_back_with_its_line(fake, spec, ask, tmp_path) -> None:
    ledger = str(tmp_path / "ledger.sqlite")
    async with Engine.open(ledger=ledger, budget=Budget(tokens=600), run="r") as engine:
        await engine.complete(spec, ask(1, max_tokens=10)[0])
        store = LedgerStore(ledger)
        (signed_in,) = store.database.query("SELECT owner FROM owners")
        Claims(store)._remove_owners(signed_in)
        await engine._heartbeat()
        assert store.database.query("SELECT owner FROM owners") == [signed_in]
        assert store.database.query("SELECT owner FROM pools") == [signed_in]
        assert signed_in in store.database.query("SELECT owner FROM credit")


async def test_what_is_drawn_is_booked_when_the_request_that_drew_it_is_called_off() -> None:
    class Slow:
        def __init__(self) -> None:
            self.drawn, self.begun, self.go_on = 0.0, asyncio.Event(), asyncio.Event()

        async def work(self) -> None:
            self.begun.set()
            await self.go_on.wait()

        async def request_credit(self, lacking: Amount) -> CreditGrant:
            await self.work()
            self.drawn += lacking.tokens
            return CreditGrant(lacking, Amount(), others_hold_credit=False)

        def extend_credit(self, amount: Amount) -> None: ...

        async def return_credit(self, spare: Amount, unaccounted: Amount) -> None:
            await self.work()
            self.drawn -= spare.tokens + unaccounted.tokens

        async def call_off(self, asked: Awaitable[object]) -> None:
            """Cancel what was asked for in the middle of our work, and then end the work."""
            self.begun.clear()
            self.go_on.clear()
            asking = asyncio.ensure_future(asked)
            await self.begun.wait()
            asking.cancel()
            await asyncio.wait([asking])
            self.go_on.set()
            await asyncio.gather(*guard._transfers)

    lender = Slow()
    guard = BudgetGuard(Budget(tokens=LIMIT), lender)
    await lender.call_off(guard.reserve(Amount(tokens=10)))
    assert (guard._free.tokens, lender.drawn) == (10, 10)
    await lender.call_off(guard.return_idle_credit())
    assert (guard._free.tokens, lender.drawn) == (0, 0)
