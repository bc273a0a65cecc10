"""The ledger's bill against the vendors' own, over HTTP and in batches, and the budget that rests on it."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from batching import batched
from vendor_usage import ANTHROPIC_LAYER_BESIDE, DEEPSEEK, GEMINI, OPENAI, XAI

from lema_core.errors import BudgetExceededError
from lema_core.llm import Budget, Completion, EndpointSpec, Engine, Price
from lema_core.llm.costs.forecast import forecast
from lema_core.llm.ledger.store import LedgerStore
from lema_core.llm.simulated import Reply, batches

# Dollars for a million tokens, and what one answer of the recorded body costs by the vendor's own rules.
BILLS = {
    "openai": (OPENAI, (0.25, 0.025, 0.25, 2.0), 93 * 0.25 + 1024 * 0.025 + 446 * 2.0),
    "anthropic": (ANTHROPIC_LAYER_BESIDE, (3.0, 0.3, 3.75, 15.0), 93 * 3 + 1024 * 0.3 + 200 * 3.75 + 446 * 15),
    "gemini": (GEMINI, (0.3, 0.03, 0.3, 2.5), 12 * 0.3 + (60 + 960) * 2.5),
    "xai": (XAI, (3.0, 0.75, 3.0, 15.0), 936 * 3 + 64 * 0.75 + (50 + 450) * 15),
    "deepseek": (DEEPSEEK, (0.28, 0.028, 0.28, 0.42), 168 * 0.28 + 832 * 0.028 + 500 * 0.42),
}


def price(of: tuple[float, float, float, float]) -> Price:
    fresh, cached, written, output = of
    return Price(
        input_per_million=fresh,
        cached_input_per_million=cached,
        cache_write_per_million=written,
        output_per_million=output,
    )


def answers_with(usage: Any) -> Any:
    choice = {"index": 0, "message": {"role": "assistant", "content": "The answer is 42."}, "finish_reason": "stop"}
    return lambda _body, _tries: (200, {"model": "m", "choices": [choice], "usage": usage}, {})


async def buy(ledger: str, spec: EndpointSpec, requests: Any, budget: Budget | None = None) -> list[Any]:
    async with Engine.open(ledger=ledger, budget=budget, run="r") as engine:
        return [outcome async for outcome in engine.stream(spec, requests)]


@pytest.mark.parametrize("vendor", BILLS)
async def test_the_ledger_has_the_vendors_bill_to_the_cent(fake, spec, ask, ledger: str, vendor: str) -> None:
    usage, prices, micros = BILLS[vendor]
    fake.decide = answers_with(usage)
    priced = spec.model_copy(update={"price": price(prices)})
    outcomes = await buy(ledger, priced, ask(40))
    store = LedgerStore(ledger)
    assert store.spent("r")[0] == pytest.approx(40 * micros / 1e6, rel=1e-9)
    (outcome, *_) = outcomes
    assert isinstance(outcome, Completion)
    details = {name: usage.get(name, {}) for name in ("prompt_tokens_details", "completion_tokens_details")}
    cached = details["prompt_tokens_details"].get("cached_tokens", usage.get("cache_read_input_tokens", 0))
    reasoning = details["completion_tokens_details"].get("reasoning_tokens", 0)
    assert (outcome.cached_tokens, outcome.reasoning_tokens) == (cached, reasoning)
    assert store.detail_totals("run").get("r", (0, 0)) == (40 * cached, 40 * reasoning)
    # What is still to be asked is forecast at the share that came from the cache.
    found = forecast(store, priced, ask(60))
    assert found.dollars is not None
    assert found.dollars.low <= 20 * micros / 1e6 * 1.01
    assert found.dollars.high >= 20 * micros / 1e6 * 0.99


async def test_a_batch_has_the_discount_on_cached_tokens_too(endpoint, ask, ledger: str, monkeypatch) -> None:
    usage, prices, micros = BILLS["openai"]
    answer = batches.answer_request

    def answer_with_usage(*args: Any) -> Reply:
        reply = answer(*args)
        assert isinstance(reply.body, dict)
        return replace(reply, body=reply.body | {"usage": usage})

    monkeypatch.setattr(batches, "answer_request", answer_with_usage)
    outcomes = await buy(ledger, batched(endpoint, price=price(prices)), ask(5))
    assert all(isinstance(outcome, Completion) and outcome.cached_tokens == 1024 for outcome in outcomes)
    assert LedgerStore(ledger).spent("r")[0] == pytest.approx(5 * micros / 2e6)


async def test_reasoning_beside_the_completion_does_not_pass_the_budget(fake, spec, ask, ledger: str) -> None:
    fake.decide = answers_with(XAI)
    slow = spec.model_copy(update={"price": Price(input_per_million=1, output_per_million=10), "concurrency": 1})
    with pytest.raises(BudgetExceededError):
        await buy(ledger, slow, ask(30, max_tokens=64), Budget(dollars=0.05))
    # $0.006 an answer. One more may be in flight when the first bill arrives: its cap left thinking out.
    assert 0.006 < LedgerStore(ledger).spent("r")[0] <= 0.05 + 0.006


@pytest.mark.parametrize("free", [Price(input_per_million=0, output_per_million=0), None], ids=["free", "unknown"])
async def test_a_limit_of_tokens_holds_where_nothing_costs_money(fake, spec, ask, ledger: str, free) -> None:
    fake.decide = answers_with(XAI)
    one = spec.model_copy(update={"price": free, "concurrency": 1})
    with pytest.raises(BudgetExceededError, match="of 12,000 tokens are used"):
        await buy(ledger, one, ask(30, max_tokens=64), Budget(tokens=12_000))
    assert LedgerStore(ledger).spent("r")[1] <= 12_000 + 1500


async def test_refused_requests_cost_nothing_and_are_counted(fake, spec, ask, ledger: str) -> None:
    def decide(body: dict[str, Any], _tries: int) -> Any:
        refused = (400, {"error": {"message": "no such field"}}, {})
        return refused if body["messages"][0]["content"] == "question 3" else answers_with(OPENAI)(body, 0)

    fake.decide = decide
    await buy(ledger, spec.model_copy(update={"price": price(BILLS["openai"][1])}), ask(5))
    store = LedgerStore(ledger)
    ((_, completions, failed, prompt, _, cost),) = store.totals("run")
    assert (completions, failed, prompt) == (4, 1, 4 * 1117)
    assert cost == pytest.approx(4 * BILLS["openai"][2] / 1e6)


async def test_a_truncated_first_answer_keeps_its_reasoning_in_the_totals(fake, spec, ask, ledger: str) -> None:
    def decide(body: dict[str, Any], tries: int) -> Any:
        status, content, headers = answers_with(OPENAI)(body, tries)
        choice = content["choices"][0] | ({} if tries else {"finish_reason": "length"})
        return status, content | {"choices": [choice]}, headers

    fake.decide = decide
    await buy(ledger, spec, ask(1, max_tokens=446))
    store = LedgerStore(ledger)
    assert store.detail_totals("endpoint") == {spec.identity or "fake": (2 * 1024, 2 * 384)}


async def test_the_ledger_in_json(lema_ledger, fake, spec, ask, ledger: str) -> None:
    fake.decide = answers_with(OPENAI)
    await buy(ledger, spec.model_copy(update={"price": price(BILLS["openai"][1])}), ask(2))
    shown = json.loads(lema_ledger("--ledger", ledger, "--json"))
    assert sorted(shown) == ["day", "endpoint", "run"]
    assert shown["run"] == [
        {
            "run": "r",
            "completions": 2,
            "failed_attempts": 0,
            "prompt_tokens": 2 * 1117,
            "cached_tokens": 2048,
            "completion_tokens": 892,
            "reasoning_tokens": 768,
            "cost": pytest.approx(2 * BILLS["openai"][2] / 1e6),
        }
    ]


@pytest.fixture
def lema_ledger() -> Any:
    from typer.testing import CliRunner

    from flows.cli.ledger import ledger_app

    def call(*words: str) -> str:
        ended = CliRunner().invoke(ledger_app, list(words))
        assert ended.exit_code == 0, ended.output
        return ended.stdout

    return call


def test_a_price_in_a_run_file_may_name_the_cache(tmp_path: Path) -> None:
    spec = EndpointSpec.model_validate(
        {
            "model": "m",
            "base_url": "http://127.0.0.1:1/v1",
            "price": {"input_per_million": 2, "output_per_million": 4, "cached_input_per_million": 0.2},
        }
    )
    assert spec.price is not None
    assert spec.price.cached_input_per_million == 0.2
