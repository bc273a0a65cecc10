"""The policies on numbers: percent, angles, rounding, names, ratios and clock times. docs/answers.md states them."""

from fractions import Fraction

from lema_core.answers.expressions import Node
from lema_core.answers.values import has_unknowns, same_value, value_at

MIN_ROUNDED_DIGITS = 5
"""Significant digits from which on a decimal may stand for the irrational number or fraction it is rounded from."""


def same_number(gold: Node, pred: Node) -> bool | None:
    """Return whether two expressions are the same answer: equal by value, or by one of the policies."""
    if "const" in {gold.op, pred.op} and (value_at(gold) is None or value_at(pred) is None):
        return None if value_at(gold) is value_at(pred) else False
    same = same_value(gold, pred)
    return _percent(gold, pred) or same_angle(gold, pred) or _rounded(gold, pred) if same is False else same


def _without(node: Node, sign: str) -> Node | None:
    """Return the expression without its percent or degree sign, None where it has none."""
    if node.op == "neg":
        inner = _without(node.args[0], sign)
        return None if inner is None else Node("neg", (inner,))
    return node.args[0] if node.op == sign else None


def _percent(gold: Node, pred: Node) -> bool:
    """A percent sign on one side only: 50 % is 0.5, and it is the answer 50 where percent was asked for."""
    left, right = _without(gold, "percent"), _without(pred, "percent")
    if (left is None) == (right is None):
        return False
    return same_value(left or gold, right or pred) is True


def same_angle(gold: Node, pred: Node) -> bool:
    """120° is 2π/3 where only one side is in degrees."""
    left, right = _without(gold, "deg"), _without(pred, "deg")
    if (left is None) == (right is None) or not _mentions_pi(gold if left is None else pred):
        return False
    half_turn = Node("div", (Node("const", name="pi"), Node("num", value=Fraction(180))))
    sides = [side if bare is None else Node("mul", (bare, half_turn)) for side, bare in ((gold, left), (pred, right))]
    return same_value(*sides) is True


def _mentions_pi(node: Node) -> bool:
    return (node.op == "const" and node.name == "pi") or any(_mentions_pi(arg) for arg in node.args)


def _rounded(gold: Node, pred: Node) -> bool:
    """Whether one side is a long decimal and the exact rounding of the other, which has no finite decimal form."""
    for decimal, exact in ((gold, pred), (pred, gold)):
        sign, number = (-1, decimal.args[0]) if decimal.op == "neg" else (1, decimal)
        if number.op != "num" or number.name != ".":
            continue
        value = value_at(exact)
        if value is None or exact.op == "num" or has_unknowns(exact) or isinstance(value, complex):
            return False
        return _is_rounding(sign * number.value, value)
    return False


def _is_rounding(decimal: Fraction, exact: object) -> bool:
    places = 0
    while (decimal * 10**places).denominator != 1:
        places += 1
    if len(str(abs(int(decimal * 10**places)))) < MIN_ROUNDED_DIGITS:
        return False
    if isinstance(exact, Fraction) and _is_finite_decimal(exact):
        return False
    try:
        return abs(float(exact - decimal)) < 10.0**-places  # type: ignore[operator]
    except (TypeError, OverflowError):
        return False


def _is_finite_decimal(number: Fraction) -> bool:
    denominator = number.denominator
    for prime in (2, 5):
        while denominator % prime == 0:
            denominator //= prime
    return denominator == 1
