import random
from typing import Any

import pytest

from lema_core.llm import (
    Budget,
    Completion,
    CompletionRequest,
    EndpointSpec,
    Engine,
    Price,
    Sampling,
    request_key,
)
from lema_core.llm.costs.forecast import forecast, forecast_unwritten, pilot
from lema_core.llm.costs.prices import cost_of, price_of
from lema_core.llm.ledger.store import CompletionEntry, LedgerStore
from lema_core.llm.requests import canonical_request, key_json

SPEC = EndpointSpec(
    model="m", base_url="http://127.0.0.1:9/v1", price=Price(input_per_million=1, output_per_million=10)
)


def fill(store, requests, draw) -> int:
    entries, total = [], 0
    for request in requests:
        tokens = draw()
        total += tokens
        prompt = len(request.messages[0]["content"]) // 2
        completion = Completion(request_key("m", request), "x", "stop", prompt, tokens, "m")
        entries.append(CompletionEntry("m", key_json(canonical_request("m", request)), completion, None))
    store.commit(entries, "earlier")
    return total


@pytest.mark.parametrize("cap", [{"max_tokens": 50}, {"extra": {"max_completion_tokens": 50}}])
def test_without_history_the_bounds_are_the_caps(ask, tmp_path, cap) -> None:
    store = LedgerStore(str(tmp_path / "l"))
    found = forecast(store, SPEC, ask(100, **cap) * 2)
    assert (found.requests, found.distinct, found.stored, found.to_send) == (200, 100, 0, 100)
    assert (found.completion_tokens.low, found.completion_tokens.high) == (100, 5000)
    assert "no earlier" in found.output_basis


def test_what_the_ledger_holds_costs_nothing(ask, tmp_path) -> None:
    store = LedgerStore(str(tmp_path / "l"))
    fill(store, ask(60), lambda: 10)
    found = forecast(store, SPEC, ask(60))
    assert (found.stored, found.to_send) == (60, 0)
    assert found.dollars is not None
    assert found.dollars.high == 0


def test_a_tokenizer_counts_exactly(ask, tmp_path) -> None:
    found = forecast(LedgerStore(str(tmp_path / "l")), SPEC, ask(7), lambda messages: 3 * len(messages))
    assert (found.prompt_tokens.low, found.prompt_tokens.high) == (21, 21)


def test_the_interval_covers_what_it_promises(ask, tmp_path) -> None:
    draws = random.Random(5)  # noqa: S311
    covered = 0
    for trial in range(60):
        store = LedgerStore(str(tmp_path / f"l{trial}"))
        fill(store, ask(30), lambda: round(draws.gauss(200, 60)))
        found = forecast(store, SPEC, ask(100, start=30))
        truth = sum(round(draws.gauss(200, 60)) for _ in range(100))
        covered += found.completion_tokens.low <= truth <= found.completion_tokens.high
        prompt = sum(len(one.messages[0]["content"]) // 2 for one in ask(100, start=30))
        assert found.prompt_tokens.low * 0.95 <= prompt <= found.prompt_tokens.high * 1.05
        store.close()
    assert covered >= 0.88 * 60


def test_money_follows_tokens_and_the_batch_price(ask, tmp_path) -> None:
    store = LedgerStore(str(tmp_path / "l"))
    found = forecast_unwritten(store, SPEC, requests=10, chars=400, max_tokens=100)
    assert found.dollars is not None
    assert found.dollars.high == pytest.approx((10 * 200 * 1 + 10 * 100 * 10) / 1e6)
    half = forecast_unwritten(store, SPEC.model_copy(update={"transport": "batch"}), 10, 400, 100)
    assert half.dollars is not None
    assert half.dollars.likely == pytest.approx(found.dollars.likely / 2)


def test_an_unknown_price_is_no_error_without_a_budget_in_money(ask, tmp_path) -> None:
    unknown = SPEC.model_copy(update={"price": None})
    assert forecast(LedgerStore(str(tmp_path / "l")), unknown, ask(3)).dollars is None


def test_listed_prices_are_found_by_url_and_model() -> None:
    listed = EndpointSpec(model="gpt-4o-mini", base_url="https://api.openai.com/v1")
    price = price_of(listed)
    assert price is not None
    assert cost_of(listed, price, 1e6, 0) == pytest.approx(price.input_per_million)
    assert 0 < price.input_per_million < price.output_per_million
    assert price_of(EndpointSpec(model="gpt-4o-mini", base_url="http://127.0.0.1:8000/v1")) is None


async def test_a_pilot_is_bought_once(fake, spec, ask, tmp_path) -> None:
    ledger = str(tmp_path / "l")
    async with Engine.open(ledger=ledger, budget=Budget()) as engine:
        assert len(await pilot(engine, spec, ask(100), total=100, size=10)) == 10
        await pilot(engine, spec, ask(100), total=100, size=10)
    found = forecast(LedgerStore(ledger), spec, ask(100))
    assert (found.stored, fake.hits) == (10, 10)
    assert "10 earlier" in found.output_basis


def test_answers_to_requests_of_another_kind_say_nothing(tmp_path) -> None:
    def asked(start: str, count: int, **sampling: Any) -> list[CompletionRequest]:
        texts = [f"{start}. Question {number}" for number in range(count)]
        return [CompletionRequest(({"role": "user", "content": text},), Sampling(**sampling)) for text in texts]

    store = LedgerStore(str(tmp_path / "l"))
    fill(store, asked("Solve step by step", 60, max_tokens=900), lambda: 100)
    fill(store, asked("Name the wrong step", 40, max_tokens=900), lambda: 600)
    fill(store, asked("Solve step by step", 20, max_tokens=500), lambda: 333)

    def likely(requests: list[CompletionRequest]) -> tuple[float, str]:
        found = forecast(store, SPEC, requests)
        return found.completion_tokens.likely / found.to_send, found.output_basis

    assert likely(asked("Solve step by step", 90, max_tokens=900)) == (
        100,
        "100 ± 0 tokens an answer, as in 60 earlier ones",
    )
    assert likely(asked("Name the wrong step", 90, max_tokens=900))[0] == 600
    assert "no earlier answers" in likely(asked("Write a question", 90, max_tokens=900))[1]
    # What cannot be written yet has only its cap to go by.
    assert "20 earlier" in forecast_unwritten(store, SPEC, 10, 100, 500).output_basis
