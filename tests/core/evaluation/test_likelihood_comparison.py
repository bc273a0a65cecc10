"""Likelihoods of gold solutions compared: by question and seed, in nats per token."""

import random

import pytest

from lema_core.errors import DataError
from lema_core.evaluation.likelihood import compare_likelihoods


def _run(shift: float, seed: int, items: int = 200) -> dict[str, tuple[float, int]]:
    """Return solutions of ten tokens whose own difficulty is the same in every run."""
    hard, noise = random.Random("items"), random.Random(f"{shift} {seed}")  # noqa: S311
    return {f"q{n}": (10 * (hard.uniform(0, 3) + shift + noise.gauss(0, 0.02)), 10) for n in range(items)}


def test_a_difference_is_paired_by_question_and_seed():
    runs = {"cot": {s: _run(0, s) for s in range(4)}, "lema": {s: _run(-0.05, s) for s in range(4)}}
    cot, lema = compare_likelihoods(runs, "cot")
    assert cot.difference is None
    assert (lema.seeds, lema.items, lema.pairs) == (4, 200, 4)
    # The questions differ by up to three nats, and the pairs by 0.02: unpaired, 0.05 would be lost.
    assert lema.difference.value == pytest.approx(-0.05, abs=0.01)
    assert lema.difference.high < 0
    assert lema.shown


def test_one_seed_speaks_of_two_models_and_shows_nothing_of_arms():
    _, lema = compare_likelihoods({"cot": {0: _run(0, 0)}, "lema": {0: _run(-0.05, 0)}}, "cot")
    assert lema.difference.high < 0
    assert not lema.shown


def test_nats_are_over_tokens_of_all_solutions():
    (only,) = compare_likelihoods({"cot": {0: {"a": (4.0, 2), "b": (6.0, 8)}}}, "cot")
    assert only.nats == pytest.approx(10 / 10)


def test_differences_may_be_larger_than_one():
    _, worse = compare_likelihoods(
        {"a": {s: _run(0, s) for s in range(3)}, "b": {s: _run(4, s) for s in range(3)}}, "a"
    )
    assert worse.difference.low > 3.5
    assert worse.difference.high > 3.9


def test_only_common_questions_are_compared():
    one, other = _run(0, 0), _run(-0.05, 0)
    del other["q7"]
    assert [row.items for row in compare_likelihoods({"a": {0: one}, "b": {0: other}}, "a")] == [199, 199]
    with pytest.raises(DataError, match="no question in common"):
        compare_likelihoods({"a": {0: {"x": (1.0, 1)}}, "b": {0: {"y": (1.0, 1)}}}, "a")
