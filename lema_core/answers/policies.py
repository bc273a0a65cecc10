"""The policies on numbers: percent, angles, rounding, names, ratios and clock times. docs/answers.md states them."""

from fractions import Fraction
from typing import Any

from lema_core.answers.expressions import Node
from lema_core.answers.typed_answers import Answer
from lema_core.answers.values import has_unknowns, same_value, value_of

MIN_ROUNDED_DIGITS = 5
"""Significant digits from which on a decimal may stand for the irrational number or fraction it is rounded from."""


def same_number(gold: Node, pred: Node) -> bool | None:
    """Return whether two expressions are the same answer: equal by value, or by one of the policies."""
    if "const" in {gold.op, pred.op} and (value_of(gold) is None or value_of(pred) is None):
        return None if value_of(gold) is value_of(pred) else False
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
    return _is_rounded(gold, pred) or _is_rounded(pred, gold)


def _is_rounded(decimal: Node, exact: Node) -> bool:
    written, value = _decimal(decimal), _real(exact)
    if written is None or value is None or exact.op == "num":
        return False
    places = _places(written)
    if len(str(abs(int(written * 10**places)))) < MIN_ROUNDED_DIGITS:
        return False
    return not (isinstance(value, Fraction) and _is_finite_decimal(value)) and _is_near(written, value, places)


def is_rounding_of(rounded: Answer, exact: Answer) -> bool:
    r"""Whether the 1.41 of ``\sqrt{2} \approx 1.41`` is right in its last digit."""
    written = _decimal(rounded.node) if rounded.node is not None else None
    value = _real(exact.node) if exact.node is not None else None
    return written is not None and value is not None and _is_near(written, value, _places(written))


def _decimal(node: Node) -> Fraction | None:
    sign, number = (-1, node.args[0]) if node.op == "neg" else (1, node)
    return sign * number.value if number.op == "num" and number.name == "." else None


def _real(node: Node) -> Any:
    """Return the value of a real number without unknowns, else None."""
    value = None if has_unknowns(node) else value_of(node)
    return value if isinstance(value, Fraction) or hasattr(value, "exp") else None


def _places(decimal: Fraction) -> int:
    places = 0
    while (decimal * 10**places).denominator != 1:
        places += 1
    return places


def _is_near(decimal: Fraction, exact: Any, places: int) -> bool:
    """Whether a decimal is the exact number rounded to its last place, or cut off there."""
    try:
        missing = float(exact - decimal) * 10.0**places
    except OverflowError:
        return False
    return abs(missing) <= 0.5000001 or (0 <= (missing if decimal >= 0 else -missing) < 1)


def _is_finite_decimal(number: Fraction) -> bool:
    denominator = number.denominator
    for prime in (2, 5):
        while denominator % prime == 0:
            denominator //= prime
    return denominator == 1
