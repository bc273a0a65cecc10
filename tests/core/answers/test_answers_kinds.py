"""Kinds of pairs on which answer checkers are known to fail, each with many variations: ``kinds.jsonl``.

No pair may raise, be compared differently the other way round, or take long.
"""

import json
import time
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lema_core.answers import MatchPolicy, match
from lema_core.answers.compare import compare
from lema_core.answers.matching import match_light
from lema_core.answers.structure import parse_answer

CASES = [json.loads(line) for line in (Path(__file__).parent / "kinds.jsonl").read_text("utf-8").splitlines()]
KINDS = sorted({case["kind"] for case in CASES})
SECONDS = 1.0
"""CPU time of one comparison in this process, of a machine that is slower than ours too."""


@pytest.mark.parametrize("kind", KINDS)
def test_every_pair_of_a_kind_is_decided_as_it_should_be_both_ways(kind):
    wrong = []
    for case in CASES:
        if case["kind"] == kind:
            pairs = (case["gold"], case["pred"]), (case["pred"], case["gold"])
            outcomes = [match(*pair).outcome for pair in pairs]
            if outcomes != [case["outcome"]] * 2:
                wrong.append((*pairs[0], outcomes, case["outcome"]))
    assert not wrong


digits = st.sampled_from(
    ["0", "1", "2", "3", "-1", "1/2", "0.5", "10^{20}", "e", "i", r"\pi", "7!", r"30^\circ", r"50\%"]
)
unknown = st.sampled_from(["x", "y", "z", "n", "k", "a", "C", "x_1", r"\theta"])
COMPOSED = (
    "{0}+{1}", "{0}-{1}", "({0})({1})", r"\frac{{{0}}}{{{1}}}", r"\sqrt{{{0}}}", r"\sqrt[3]{{{0}}}", "({0})^{{{1}}}",
    "|{0}|", r"\sin({0})", r"\ln({0})", r"\arctan({0})", r"\tanh({0})", r"\log_{{{0}}}({1})", r"\lfloor {0}\rfloor",
    r"\lceil {0}\rceil", r"\binom{{{0}}}{{{1}}}", "({0})!", r"\max({0},{1})", r"\gcd({0},{1})", r"{0} \bmod {1}",
    "f({0})",
)  # fmt: skip
expressions = st.recursive(
    digits | unknown,
    lambda inner: st.tuples(st.sampled_from(COMPOSED), inner, inner).map(lambda parts: parts[0].format(*parts[1:])),
    max_leaves=6,
)
SIGNS = ("=", "<", ">", r"\le ", r"\ge ", r"\ne ", r"\approx ")
relations = st.tuples(expressions, st.sampled_from(SIGNS), expressions).map("".join)
parts = expressions | relations
answers = st.one_of(
    expressions,
    relations,
    st.tuples(
        st.sampled_from(
            [
                "{0}, {1}", "({0},{1})", "[{0},{1})", r"\{{{0},{1}\}}", "{0} or {1}", "{0} and {1}", "x={0}\ny={1}",
                r"\begin{{cases}}{0}\\{1}\end{{cases}}", r"\begin{{cases}}{0} & x>0\\{1} & x<0\end{{cases}}",
                r"\begin{{pmatrix}}{0}&{1}\\{1}&{0}\end{{pmatrix}}", r"({0},1) \cup [{1},3]", "{0} cm, {1} dollars",
                r"x \in {0}, {1} \in \mathbb{{Z}}", "[[{0},{1}],[{1},{0}]]", "{0}:{1}", "{0} apples",
                r"{0} \approx {1}",
            ]
        ),
        parts,
        parts,
    ).map(lambda made: made[0].format(*made[1:])),
)  # fmt: skip


@given(answers, answers)
@settings(max_examples=50, deadline=None)
def test_no_pair_raises_and_the_order_of_a_pair_does_not_matter(gold, pred):
    start = time.process_time()
    typed = parse_answer(gold), parse_answer(pred)
    first, second = compare(*typed), compare(*typed[::-1])
    assert first is second
    assert time.process_time() - start < 3 * SECONDS
    assert compare(typed[0], typed[0]) is not False


@given(expressions)
@settings(max_examples=50, deadline=None)
def test_a_changed_expression_never_equals_the_one_it_was(expression):
    for changed in ("({})+1", "({})+10^{{-45}}", "({})-i"):
        outcome = match_light(expression, changed.format(expression))
        assert outcome is None or outcome.outcome != "equal"


@given(st.integers(-(10**6), 10**6), st.integers(1, 60), st.integers(-20, 20))
@settings(max_examples=25, deadline=None)
def test_a_kink_is_seen_wherever_it_is(place, divisor, slope):
    kink = Fraction(place, divisor)
    shifted = f"x-({kink})"
    line = f"{slope or 1}x"
    assert match(f"|{shifted}|+{line}", f"{shifted}+{line}").outcome == "different"
    assert match(f"|{shifted}|+{line}", f"({kink})-x+{line}").outcome == "different"
    assert match(f"|{shifted}|+{line}", rf"\sqrt{{({shifted})^2}}+{line}").outcome == "equal"


@given(st.integers(2, 60), st.integers(-90, 90), st.integers(1, 9), st.integers(-2, 2))
@settings(max_examples=25, deadline=None)
def test_a_floor_equals_a_ceiling_if_it_does_for_every_integer_of_a_period(divisor, shift, factor, moved):
    top = shift - divisor + 1 + moved
    floor = rf"\lfloor\frac{{{factor}n+({shift})}}{{{divisor}}}\rfloor"
    ceiling = rf"\lceil\frac{{{factor}n+({top})}}{{{divisor}}}\rceil"
    same = all((factor * n + shift) // divisor == -(-(factor * n + top) // divisor) for n in range(1, divisor + 1))
    assert match(floor, ceiling).outcome == ("equal" if same else "different")


@pytest.mark.parametrize("size", [30, 60, 150, 400, 900])
@pytest.mark.parametrize("big", ["e^{%d}", r"\pi^{%d}", r"(1+\sqrt2)^{%d}", r"\sqrt2\cdot 10^{%d}", r"\cosh(%d)"])
def test_one_more_than_a_huge_number_is_another_number(big, size):
    assert match_light(big % size, big % size + "+1").outcome == "different"
    assert match_light(big % size, f"1+{big % size}-1").outcome == "equal"
    assert match_light(f"({big % size})^{{-1}}+1", "1").outcome == "different"


HEAVY = {
    "equations": (", ".join(rf"x^{n}+y^{n}=\sqrt{{z+{n}}}" for n in range(1, 30)), ", ".join(["x=y"] * 29)),
    "kinks": ("+".join(f"|x-{n}y|" for n in range(90)), "+".join(f"|x-{n}y|" for n in range(89, -1, -1))),
    "floors": ("+".join(rf"\lfloor x/{n} \rfloor" for n in range(1, 90)), "90"),
    "exponentials": ("+".join(f"e^{{{n}}}" for n in range(0, 4000, 40)), "+".join(["e^{9}"] * 90)),
    "conditions": (
        " and ".join(f"x^2+y^2>{n}" for n in range(20)),
        r" and ".join(rf"x^2+y^2\ge{n}" for n in range(20)),
    ),
    "sines": (", ".join(rf"\sin({n}x)" for n in range(60)), ", ".join(rf"\cos({n}x)" for n in range(60))),
    "periods": ("0." + "12" * 300 + "...", r"0.1\dot{" * 400),
    "groups": ("1 000" * 700, "1.000" * 700),
    "rows": ("x=1\\\\" * 600, r"\begin{cases}" * 300),
    "remarks": ("x for " * 600, "a in " * 700),
}


@pytest.mark.parametrize("name", HEAVY)
def test_much_to_compare_is_bounded(name):
    gold, pred = HEAVY[name]
    for pair in ((gold, pred), (pred, gold)):
        start = time.process_time()
        match_light(*pair)
        assert time.process_time() - start < 3 * SECONDS


def test_an_error_in_a_layer_leaves_the_pair_unknown(monkeypatch):
    def fail(*_args):
        raise TypeError("a fault of ours")

    monkeypatch.setattr("lema_core.answers.matching.compare", fail)
    result = match("x+4711", "4711+x")
    assert (result.outcome, result.layer) == ("unknown", "error")
    assert "a fault of ours" in result.ground


@pytest.mark.parametrize(
    ("policy", "gold", "pred", "default", "switched"),
    [
        (MatchPolicy(units="ignore"), "5 cm", "5 m", "different", "equal"),
        (MatchPolicy(units="ignore"), "5 dollars", "5 euros", "different", "different"),
        (MatchPolicy(currencies="ignore"), "5 dollars", "5 euros", "different", "equal"),
        (MatchPolicy(currencies="ignore"), "5 cm", "5 m", "different", "different"),
        (MatchPolicy(convert_units=False), "50 cents", "0.50 dollars", "equal", "different"),
        (MatchPolicy(things="ignore"), "5 apples", "5 pears", "unknown", "equal"),
        (MatchPolicy(things="different"), "5 apples", "5 pears", "unknown", "different"),
        (MatchPolicy(names="ignore"), "Ben: 7", "Eva: 7", "different", "equal"),
        (MatchPolicy(names="ignore"), "x=7", "y=7", "different", "different"),
        (MatchPolicy(parameters=False), r"x^2+C", r"x^2+c", "equal", "different"),
        (MatchPolicy(parameters=False), r"n\pi", r"k\pi", "equal", "different"),
        (MatchPolicy(parameters=False), r"n\pi, n\in\mathbb{Z}", r"k\pi, k\in\mathbb{Z}", "equal", "equal"),
        (MatchPolicy(empty_in_words=False), "no solution", r"\emptyset", "equal", "different"),
    ],
)
def test_each_policy_is_switched_by_its_field(policy, gold, pred, default, switched):
    assert match(gold, pred).outcome == match(pred, gold).outcome == default
    assert match(gold, pred, policy=policy).outcome == match(pred, gold, policy=policy).outcome == switched
