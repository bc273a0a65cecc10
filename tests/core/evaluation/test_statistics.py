from functools import cache

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from lema_core.errors import DataError
from lema_core.evaluation import statistics


def outcomes(both, only_reference, only_arm, neither):
    """Right/wrong lists of a 2x2 table: (reference, arm)."""
    cells = [(True, True)] * both + [(True, False)] * only_reference
    cells += [(False, True)] * only_arm + [(False, False)] * neither
    return [a for a, _ in cells], [b for _, b in cells]


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    # Newcombe, Statistics in Medicine 17 (1998) 857-872, table I, method 3.
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0000, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_gives_newcombes_published_intervals(successes, n, low, high):
    found = statistics.wilson(successes, n)
    assert (found.low, found.high) == pytest.approx((low, high), abs=5e-5)
    assert found.value == successes / n


@pytest.mark.parametrize(
    ("table", "low", "high"),
    # Fagerland, Lydersen, Laake, Statistics in Medicine 33 (2014): Bentur 2009 and Cavo 2012, Tango's interval.
    [((1, 7, 1, 12), -0.517, -0.026), ((59, 16, 6, 80), -0.124, -0.005)],
)
def test_the_paired_interval_gives_published_values(table, low, high):
    found = statistics.paired_difference(*outcomes(*table))
    assert (found.low, found.high) == pytest.approx((low, high), abs=6e-4)


def test_mcnemar_is_the_exact_binomial_test_on_the_disagreements():
    found = statistics.paired_difference(*outcomes(59, 16, 6, 80))
    assert found.p_value == pytest.approx(stats.binomtest(6, 22, 0.5).pvalue)
    assert (found.only_reference, found.only_arm, found.n) == (16, 6, 161)


@given(st.tuples(*[st.integers(0, 40)] * 4).filter(lambda t: sum(t) > 0))
def test_the_paired_interval_holds_its_value_and_turns_its_sign_with_the_arms(table):
    reference, arm = outcomes(*table)
    there, back = statistics.paired_difference(reference, arm), statistics.paired_difference(arm, reference)
    assert -1 <= there.low <= there.value <= there.high <= 1
    assert (back.low, back.high) == pytest.approx((-there.high, -there.low), abs=1e-9)
    assert back.p_value == pytest.approx(there.p_value)


@cache
def tango(gained, lost, n):
    found = statistics.paired_difference(*outcomes(0, lost, gained, n - gained - lost))
    return found.low, found.high


@pytest.mark.parametrize("n", [60, 120, 500, 2000])
@pytest.mark.parametrize(
    ("reference", "arm", "correlation"), [(0.03, 0.34, 0.05), (0.2, 0.25, 0.3), (0.5, 0.5, 0.4), (0.8, 0.83, 0.6)]
)
def test_the_paired_95_percent_interval_covers_93_to_97_percent(n, reference, arm, correlation):
    spread = (reference * (1 - reference) * arm * (1 - arm)) ** 0.5
    both = min(reference, arm, reference * arm + correlation * spread)
    shares = [both, reference - both, arm - both, 1 - reference - arm + both]
    tables = np.random.default_rng(7).multinomial(n, shares, size=4000)
    covered = [low <= arm - reference <= high for low, high in (tango(int(t[2]), int(t[1]), n) for t in tables)]
    assert 0.93 <= np.mean(covered) <= 0.97


def test_the_bootstrap_of_one_run_agrees_with_the_score_interval_and_repeats_itself():
    reference, arm = outcomes(100, 20, 60, 120)
    boot = statistics.paired_bootstrap(reference, arm)
    score = statistics.paired_difference(reference, arm)
    assert (boot.value, boot.low, boot.high) == pytest.approx((score.value, score.low, score.high), abs=0.01)
    assert boot == statistics.paired_bootstrap(reference, arm)


def test_holm_gives_the_textbook_adjustment():
    # Holm 1979's rule on (0.01, 0.04, 0.03): 3 * 0.01, 2 * 0.03, then the running maximum.
    assert statistics.adjust_by_holm({"a": 0.01, "b": 0.04, "c": 0.03}) == pytest.approx(
        {"a": 0.03, "b": 0.06, "c": 0.06}
    )
    assert statistics.adjust_by_holm({}) == {}


def test_the_minimal_difference_is_found_with_the_promised_power():
    n, discordant = 300, 0.25
    difference = statistics.minimal_detectable_difference(n, discordant)
    gained = (discordant + difference) / 2
    tables = np.random.default_rng(3).multinomial(n, [gained, discordant - gained, 1 - discordant], size=4000)
    z = (tables[:, 0] - tables[:, 1]) / np.sqrt(tables[:, 0] + tables[:, 1])
    assert np.mean(np.abs(z) > 1.96) == pytest.approx(0.8, abs=0.025)


def test_too_few_items_can_show_no_difference_at_all():
    assert statistics.minimal_detectable_difference(20, 1 / 20) == float("inf")


def test_a_majority_counts_its_answers_and_a_tie_its_right_share():
    two_spellings_of_one_right_answer = [("4", True), ("5", False), ("8/2", True)]
    assert statistics.majority_credit(two_spellings_of_one_right_answer) == 1
    assert statistics.majority_credit([("5", False), ("5", False), ("4", True)]) == 0
    assert statistics.majority_credit([("5", False), ("4", True), (None, False)]) == 0.5
    assert statistics.majority_credit([(None, False), (None, False)]) == 0


def test_delta_ppl_summarises_pairs():
    found = statistics.perplexity_gap([3.0, 2.5, 4.0, 2.0], [2.0, 2.0, 2.0, 2.5])
    assert (found.value, found.median, found.share_positive, found.n) == (0.75, 0.75, 0.75, 4)
    assert found.low < found.value < found.high
    with pytest.raises(DataError, match="finite"):
        statistics.perplexity_gap([float("inf")], [1.0])


def test_kappa_of_the_textbook_table():
    # Fleiss, Levin, Paik, Statistical Methods for Rates and Proportions (2003), table 18.1: kappa 0.68.
    table = {("p", "p"): 75, ("p", "n"): 1, ("p", "o"): 4, ("n", "p"): 5, ("n", "n"): 4, ("n", "o"): 1, ("o", "o"): 10}
    first = [a for (a, _), count in table.items() for _ in range(count)]
    second = [b for (_, b), count in table.items() for _ in range(count)]
    found = statistics.rater_agreement(first, second)
    assert found.value == pytest.approx(0.68, abs=0.005)
    assert found.share_equal == pytest.approx(0.89)
    assert found.low == pytest.approx(0.68 - 1.96 * 0.087, abs=0.01)


def test_kappa_of_raters_who_never_vary_is_undefined_not_one():
    found = statistics.rater_agreement(["good"] * 5, ["good"] * 5)
    assert np.isnan(found.value)
    assert found.share_equal == 1


@pytest.mark.parametrize(
    "call",
    [
        lambda: statistics.wilson(3, 2),
        lambda: statistics.wilson(0, 0),
        lambda: statistics.paired_difference([True], [True, False]),
        lambda: statistics.paired_bootstrap([1, 0], [1, 0, 1]),
        lambda: statistics.paired_bootstrap([[1, 0]] * 2, [[1, 0]] * 2),
        lambda: statistics.minimal_detectable_difference(10, 0.0),
        lambda: statistics.perplexity_gap([], []),
        lambda: statistics.rater_agreement([], []),
    ],
)
def test_input_without_an_answer_is_refused(call):
    with pytest.raises(DataError):
        call()
