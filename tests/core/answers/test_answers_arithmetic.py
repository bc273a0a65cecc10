"""The step checker: it proves equations false and leaves alone what it cannot read."""

import time
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lema_core.answers import false_equations


@pytest.mark.parametrize(
    ("text", "equation", "computed", "claimed"),
    [
        ("3 + 4 = 8", "3 + 4 = 8", 7, 8),
        ("He eats 2, so 7 - 2 = 4 are left.", "7 - 2 = 4", 5, 4),
        ("$5 * 3 = $16.", "5 * 3 = $16", 15, 16),
        ("20% of 50 = 11", "20% of 50 = 11", 10, 11),
        ("100% - 20% = 81%", "100% - 20% = 81%", Fraction(4, 5), Fraction(81, 100)),
        ("3 apples + 4 apples = 8 apples", "3 apples + 4 apples = 8", 7, 8),
        (r"\frac{1}{2} \times 1500 = 751", r"\frac{1}{2} \times 1500 = 751", 750, 751),
        ("1,200 + 300 = 1,400", "1,200 + 300 = 1,400", 1500, 1400),
        ("(2 + 3) * 4 = 24", "(2 + 3) * 4 = 24", 20, 24),
        ("3 million + 4 million = 8 million", "3 million + 4 million = 8", 7, 8),
        ("2 * 3 dozen = 7 dozen", "2 * 3 dozen = 7", 6, 7),
        ("6 in + 4 in = 11 in", "6 in + 4 in = 11", 10, 11),
        ("30 min + 5 = 36", "30 min + 5 = 36", 35, 36),
        ("1/3 = 35%", "1/3 = 35%", Fraction(1, 3), Fraction(35, 100)),
        ("2^3^2 = 64", "2^3^2 = 64", 512, 64),
        ("2^3 = 9", "2^3 = 9", 8, 9),
        ("1 1/2 + 1 = 3", "1 1/2 + 1 = 3", Fraction(5, 2), 3),
        ("3 + 4 = 7 + 2 = 10", "7 + 2 = 10", 9, 10),
        ("7 - -7 * 4 = 7 - 28", "7 - -7 * 4 = 7 - 28", 35, -21),
    ],
)
def test_false_equations_are_found(text, equation, computed, claimed):
    [found] = false_equations(text)
    assert (found.text, found.computed, found.claimed) == (equation, computed, claimed)
    assert text[found.start : found.end] == equation
    assert text[found.claimed_start : found.claimed_end] == equation[found.claimed_start - found.start :]


@pytest.mark.parametrize(
    "text",
    [
        "3 + 4 = 7 * 2 = 14",
        "10 / 3 = 3.33",
        "x + 3 + 4 = 10",
        "2x + 3 = 9",
        "200 + 10% = 220",
        "1/3 * 18 = 6 and 0.33 * 18 = 6",
        "7.5 / 1/2 = 15",
        "60 minutes = 1 hour",
        "2 * 30 minutes = 1 hour",
        "3 hours/day * 3 days = 9 hours per week",
        "24 hours in a day - 10 hours of sleep = 14",
        "He ate 1/6 = 1/6 * 12 = 2 slices",
        "2*3=<<2*3=6>>6",
        "5 * 3 ≈ 16",
        "25/100 = 25%",
        "In 2020, 3 + 4 = 7",
        "- 3 + 4 = 7",
        "10 / 3 = 3 remainder 1",
        "10 / 3 = 3 with 1 left over",
        "10 / 3 = 3 R 1",
        "7 + 10 mod 3 = 8",
        "10 mod 3 + 4 = 5",
        "3 dozen + 4 = 40",
        "2 * 3 dozen = 72",
        "5 million + 3 million = 8,000,000",
        "50 cents + 50 cents = $1",
        "$1 + 50 cents = $1.50",
        "3 ft + 6 in = 42 in",
        "3 ft + 6 in = 42",
        "1/3 = 33%",
        "2/3 * 100 = 66.7%",
        "2^3^2 = 512",
        "11 + 3 = 2 PM",
        "11 + 3 = 2:00",
        "log 100 + 1 = 3",
        "log_2(8) + 1 = 4",
        "max(7) + 1 = 8, floor(2.5) + 1 = 3",
        "",
    ],
)
def test_what_is_true_or_unreadable_is_left_alone(text):
    assert false_equations(text) == []


terms = st.lists(st.tuples(st.sampled_from("+-*"), st.integers(0, 99)), min_size=1, max_size=6)


@given(st.integers(0, 99), terms, st.integers(-3, 3))
@settings(max_examples=300, deadline=None)
def test_an_equation_is_reported_exactly_when_it_is_false(first, rest, off):
    expression = str(first) + "".join(f" {sign} {number}" for sign, number in rest)
    products = [[Fraction(first)]]
    for sign, number in rest:
        if sign == "*":
            products[-1].append(Fraction(number))
        else:
            products.append([Fraction(-number if sign == "-" else number)])
    value = Fraction(0)
    for factors in products:
        product = Fraction(1)
        for factor in factors:
            product *= factor
        value += product
    found = false_equations(f"So {expression} = {value + off} apples.")
    assert bool(found) == (off != 0)
    if found:
        assert found[0].computed == value


@given(st.text(max_size=300))
@settings(max_examples=300, deadline=None)
def test_no_text_raises(text):
    false_equations(text)
    false_equations(text + " = " + text)


@pytest.mark.parametrize(
    "piece", ["1 = 2 ", "(", "3 ", "1+", "\\frac{1}{", "<<", "a ", "= ", "1 (2 = ) ", "9^9^", "% of "]
)
def test_time_is_linear(piece):
    def seconds(length):
        text = (piece * length)[:length] + " 1 + 1 = 3"
        start = time.perf_counter()
        false_equations(text)
        return time.perf_counter() - start

    seconds(1000)
    small, large = min(seconds(2_500) for _ in range(3)), min(seconds(20_000) for _ in range(3))
    assert large < max(0.05, 24 * small)  # quadratic time would be 64-fold
