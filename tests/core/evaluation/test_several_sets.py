"""Several test sets: Holm's p over all of them, an average with its interval, and questions that two sets share."""

import dataclasses
from math import sqrt

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lema_core.evaluation import statistics
from lema_core.evaluation.accuracy import compare_models
from lema_core.evaluation.several_sets import compare_on_sets, mean_of
from lema_core.evaluation.statistics import Estimate
from lema_core.records import JudgedPath

SAMPLE = JudgedPath(
    id="p", question_id="q", task="numeric", question="Q", gold="1", candidates=None, rationale=None, level=None,
    student="s", sample_index=0, text="t", finish_reason="stop", request_key="k", prompt_tokens=1, completion_tokens=1,
    verdict="wrong", answer=None, decided_by="exact",
)  # fmt: skip


def rows(test_set, right, prefix="q"):
    for number, is_right in enumerate(right):
        yield dataclasses.replace(
            SAMPLE, question_id=f"{test_set}-{number}", question=f"{prefix} number {number}?",
            verdict="right" if is_right else "wrong",
        )  # fmt: skip


def table(test_set, base, lema, prefix=None):
    return {"base": rows(test_set, base, prefix or test_set), "lema": rows(test_set, lema, prefix or test_set)}


def test_one_set_is_as_it_is_alone():
    base, lema = [True, False] * 10, [True] * 20
    found, overall = compare_on_sets({"a": table("a", base, lema)})
    assert overall is None
    assert found["a"] == compare_models(rows("a", base, "a"), {"lema": rows("a", lema, "a")})


def test_p_is_adjusted_for_the_comparisons_on_all_sets():
    sets = {
        name: table(name, [False] * lost + [True] * 20, [True] * (lost + 20)) for name, lost in (("a", 8), ("b", 6))
    }
    found, overall = compare_on_sets(sets)
    p = {name: found[name].comparisons[0].difference.p_value for name in found}
    assert found["a"].comparisons[0].holm_p == pytest.approx(2 * p["a"]), "two columns are looked at"
    assert found["b"].comparisons[0].holm_p == pytest.approx(max(p["b"], 2 * p["a"]))
    (pooled,) = overall.comparisons
    assert (pooled.only_arm, pooled.only_reference) == (14, 0)
    assert pooled.p_value == pytest.approx(2 * 0.5**14)
    assert pooled.difference.value == pytest.approx((8 / 28 + 6 / 26) / 2)


def test_each_set_counts_alike_in_the_average():
    sets = {"large": table("large", [True] * 90, [True] * 90), "small": table("small", [False] * 10, [False] * 10)}
    _, overall = compare_on_sets(sets)
    assert [score.accuracy.value for score in overall.scores] == [0.5, 0.5]
    assert overall.n == 100


def test_a_question_of_two_sets_counts_once_over_all_and_in_both_columns():
    whole = table("math", [True] * 6 + [False] * 4, [True] * 10, prefix="same")
    part = table("math500", [True] * 3, [False] * 3, prefix="SAME")
    found, overall = compare_on_sets({"math": whole, "math500": part, "other": table("other", [True], [True])})
    assert found["math500"].n == 3
    assert overall.sets == {"math": 10, "other": 1}
    assert overall.repeated == 3


def test_a_text_that_one_set_repeats_under_several_ids_counts_as_often():
    twice = [dataclasses.replace(SAMPLE, question_id=f"id-{n}", question="Same?", verdict="right") for n in range(3)]
    _, overall = compare_on_sets({"asdiv": {"base": twice}, "b": {"base": rows("b", [True], "b")}})
    assert overall.sets == {"asdiv": 3, "b": 1}
    assert overall.repeated == 0


@settings(deadline=None, max_examples=60)
@given(
    st.lists(
        st.tuples(st.floats(0, 1), st.floats(0, 0.3), st.floats(0, 0.3)).map(
            lambda x: Estimate(x[0], x[0] - x[1], x[0] + x[2])
        ),
        min_size=1,
        max_size=6,
    )
)
def test_the_interval_of_a_mean_is_no_wider_than_the_widest_and_holds_the_mean(found):
    mean = mean_of(found)
    assert mean.low <= mean.value <= mean.high
    assert mean.value == pytest.approx(sum(e.value for e in found) / len(found))
    assert mean.value - mean.low <= max(e.value - e.low for e in found) + 1e-12
    if len(found) == 1:
        assert (mean.low, mean.high) == pytest.approx((found[0].low, found[0].high))


def test_the_average_covers_what_it_claims():
    generator, hits, trials = np.random.default_rng(5), 0, 600
    truth = [(0.9, 40), (0.3, 200), (0.05, 100)]
    for _ in range(trials):
        found = mean_of([statistics.wilson(int(generator.binomial(n, p)), n) for p, n in truth])
        hits += found.low <= np.mean([p for p, _ in truth]) <= found.high
    assert hits / trials > 0.95 - 3 * sqrt(0.95 * 0.05 / trials)
