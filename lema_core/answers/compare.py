"""Compare two typed answers: True, False, or None where this layer cannot tell.

The policies (percent, units, clock times, ratios, lists) are here and nowhere else; docs/answers.md states them.
"""

from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction

from lema_core.answers.expressions import Node
from lema_core.answers.structure import Answer
from lema_core.answers.values import constant_ratio, same_value, value_at

MIN_ROUNDED_DIGITS = 5
"""A decimal of at least so many significant digits equals the irrational number or fraction that it is the rounding of."""

_FLIP = {"<": ">", ">": "<", "<=": ">=", ">=": "<=", "!=": "!=", "=": "="}
_INFINITE = {("inf",), ("+", "inf"), ("-", "inf")}


def compare(gold: Answer, pred: Answer) -> bool | None:
    """Return whether two typed answers are the same; symmetric in its arguments."""
    if gold.kind == pred.kind == "value":
        return _values(gold, pred)
    if gold.tokens == pred.tokens and gold.kind == pred.kind and gold.kind not in {"list", "relation"}:
        return True
    if "raw" in {gold.kind, pred.kind}:
        return None
    same = _SAME_KIND.get(gold.kind) if gold.kind == pred.kind else None
    if same is not None:
        return same(gold, pred)
    left, right = sorted((gold, pred), key=lambda answer: _ORDER.index(answer.kind))
    return _mixed(left, right)


_ORDER = ["value", "list", "set", "tuple", "union", "matrix", "relation", "ratio", "range", "based", "text", "raw"]


def _mixed(left: Answer, right: Answer) -> bool | None:
    kinds = (left.kind, right.kind)
    if left.kind == "value":
        return _value_against(left, right)
    if kinds in {("list", "set"), ("set", "tuple")}:
        return _unordered(left.items, right.items) if kinds == ("list", "set") else False
    if kinds == ("list", "tuple"):
        return _ordered(left.items, right.items)
    if kinds == ("tuple", "relation"):
        interval = as_interval(right)
        return None if interval is None else compare(left, interval)
    if kinds in (("union", "relation"), ("list", "union")):
        return _union_against(left, right)
    if kinds == ("tuple", "matrix"):
        return _ordered(left.items, right.items) if "1" in right.brackets.split("x") else False
    if "relation" in kinds:
        return None
    return False


def _value_against(value: Answer, other: Answer) -> bool | None:
    if other.kind == "relation":
        return _equation_result(value, other)
    if other.kind == "ratio":
        return _ratio_value(value, other)
    if other.kind == "based":
        # The base 10 may be written or not; any other base makes another number of the same digits.
        return (
            (other.tokens[2:] == ("1", "0")
            and value.tokens == other.tokens[:1])
            or (other.tokens[2:] == ("10",)
            and value.tokens == other.tokens[:1])
        )
    if other.kind in {"list", "set"} and len(other.items) == 1:
        return compare(value, other.items[0])
    return False


def _equation_result(value: Answer, equation: Answer) -> bool | None:
    """``10^3 = 1000`` says 1000, for it has no unknowns; ``2x + z = 1`` does not say 1; ``y = 2x`` is ``2x - y = 0``."""
    if set(equation.signs) != {"="}:
        return False
    if not any(_has_letters(item) for item in equation.items[:-1]) and not _has_letters(equation.items[-1]):
        return compare(value, equation.items[-1])
    if len(value.name) == 1 and value.node is not None:
        sides = Answer("value", (value.name,), Node("var", name=value.name)), value
        return _equations(Answer("relation", (), items=sides, signs=("=",)), equation)
    return False


def _has_letters(answer: Answer) -> bool:
    return any(len(token) == 1 and token.isalpha() and token not in {"e", "i"} for token in answer.tokens)


def _values(gold: Answer, pred: Answer) -> bool | None:
    if gold.unit and pred.unit and gold.unit != pred.unit:
        return False
    if gold.name and pred.name and gold.name != pred.name:
        renamed = _same_up_to_names(gold, pred)
        if renamed is not None:
            return renamed
    if gold.tokens == pred.tokens:
        return True
    if gold.node is None or pred.node is None:
        return None
    if gold.node.op == "const" or pred.node.op == "const":
        return (
            None
            if value_at(gold.node) is None and value_at(pred.node) is None
            else same_value(gold.node, pred.node) or False
        )
    same = same_value(gold.node, pred.node)
    if same is False:
        return _percent(gold.node, pred.node) or _angles(gold.node, pred.node) or _rounded(gold.node, pred.node)
    return same


def _same_up_to_names(gold: Answer, pred: Answer) -> bool | None:
    """``f(z) = z`` is ``f(x) = x``; ``x = 3`` is not ``y = 3``; None: the names do not matter."""
    left, right = gold.name, pred.name
    if len(left) == len(right) == 1 and gold.node is not None and value_at(gold.node, 1) == value_at(gold.node, 2):
        return False
    if left[:1] == right[:1] and left[1:2] == right[1:2] == "(" and len(left) == len(right) == 4:
        renamed = tuple(left[2] if token == right[2] else token for token in pred.tokens)
        return True if renamed == gold.tokens else None
    return None


def _percent(gold: Node, pred: Node) -> bool:
    """A percent sign on one side only: 50 % is 0.5, and it is the answer 50 where percent was asked for."""
    if (gold.op == "percent") == (pred.op == "percent"):
        return False
    with_sign, without = (gold, pred) if gold.op == "percent" else (pred, gold)
    return same_value(with_sign.args[0], without) is True


def _angles(gold: Node, pred: Node) -> bool:
    """120° is 2π/3 where only one side is in degrees."""
    if (gold.op == "deg") == (pred.op == "deg"):
        return False
    degrees, radians = (gold, pred) if gold.op == "deg" else (pred, gold)
    if not _mentions_pi(radians):
        return False
    half_turn = Node("div", (Node("const", name="pi"), Node("num", value=Fraction(180))))
    return same_value(Node("mul", (degrees.args[0], half_turn)), radians) is True


def _mentions_pi(node: Node) -> bool:
    return (node.op == "const" and node.name == "pi") or any(_mentions_pi(arg) for arg in node.args)


def _rounded(gold: Node, pred: Node) -> bool:
    """Whether one side is a long decimal and the exact rounding of the other, which has no finite decimal form."""
    for decimal, exact in ((gold, pred), (pred, gold)):
        sign, number = (-1, decimal.args[0]) if decimal.op == "neg" else (1, decimal)
        if number.op != "num" or number.name != ".":
            continue
        value = value_at(exact)
        if value is None or exact.op == "num" or not exact.args or isinstance(value, complex):
            return False
        return _is_rounding(sign * number.value, value)
    return False


def _is_rounding(decimal: Fraction, exact: object) -> bool:
    places = 0
    while (decimal * 10**places).denominator != 1:
        places += 1
    if len(str(abs(int(decimal * 10**places)))) < MIN_ROUNDED_DIGITS:
        return False
    if isinstance(exact, Fraction) and set(_prime_factors(exact.denominator)) <= {2, 5}:
        return False
    try:
        return abs(float(exact - decimal)) < 10.0**-places  # type: ignore[operator]
    except (TypeError, OverflowError):
        return False


def _prime_factors(number: int) -> set[int]:
    for prime in (2, 5):
        while number % prime == 0:
            number //= prime
    return {number} if number > 1 else set()


def _ordered(gold: Sequence[Answer], pred: Sequence[Answer]) -> bool | None:
    if len(gold) != len(pred):
        return False
    results = [_element(left, right) for left, right in zip(gold, pred, strict=True)]
    return False if False in results else None if None in results else True


def _element(gold: Answer, pred: Answer) -> bool | None:
    if gold.tokens in _INFINITE or pred.tokens in _INFINITE:
        return gold.tokens[-2:] == pred.tokens[-2:] or {gold.tokens, pred.tokens} == {("inf",), ("+", "inf")}
    return compare(gold, pred)


def _unordered(gold: Sequence[Answer], pred: Sequence[Answer]) -> bool | None:
    """Match the items of two lists in any order; greedy is enough, for equality is an equivalence on them."""
    if len(gold) != len(pred):
        return False
    left = list(pred)
    doubtful = False
    for item in gold:
        results = [_element(item, other) for other in left]
        if True in results:
            left.pop(results.index(True))
        elif None in results:
            doubtful = True
        else:
            return False
    return None if doubtful else True


def _tuples(gold: Answer, pred: Answer) -> bool | None:
    if gold.brackets != pred.brackets:
        return False
    return _ordered(gold.items, pred.items)


def _matrices(gold: Answer, pred: Answer) -> bool | None:
    return False if gold.brackets != pred.brackets else _ordered(gold.items, pred.items)


def _ratios(gold: Answer, pred: Answer) -> bool | None:
    if len(gold.items) != len(pred.items):
        longer, shorter = sorted((gold, pred), key=lambda answer: -len(answer.items))
        zero = longer.items[-1].tokens in {("0",), ("00",)}
        return bool(longer.brackets and shorter.brackets and zero and _ordered(longer.items[:-1], shorter.items))
    if gold.brackets and pred.brackets and (_clock_like(gold) or _clock_like(pred)):
        halves = {gold.unit, pred.unit}
        return _ordered(gold.items, pred.items) if len(halves) == 1 or "" in halves else False
    first, other = [item.node for item in gold.items], [item.node for item in pred.items]
    for left, right in zip(first[1:], other[1:], strict=True):
        if left is None or right is None or first[0] is None or other[0] is None:
            return None
        cross = same_value(Node("mul", (first[0], right)), Node("mul", (other[0], left)))
        if not cross:
            return cross
    return True


def _clock_like(answer: Answer) -> bool:
    """10:30 and 9:05 are times; 5:8 and 10:3 are ratios: minutes have two digits."""
    parts = [token for token in answer.tokens if token != ":" and not token.startswith("'")]
    return bool(answer.unit) or all(len(part) == 2 for part in parts[1:])


def _ratio_value(value: Answer, ratio: Answer) -> bool | None:
    nodes = [item.node for item in ratio.items]
    if len(nodes) != 2 or value.node is None or nodes[0] is None or nodes[1] is None:
        return False
    # 12:1 is not the number 12: only a fraction or a decimal says what a ratio says.
    if value.tokens[0].isdigit() and "/" not in value.tokens:
        return False
    return same_value(value.node, Node("div", (nodes[0], nodes[1]))) is True


def as_interval(relation: Answer) -> Answer | None:
    """Return ``3 < x <= 4`` as the half-open interval (3, 4], ``x >= 2`` as [2, oo); None where it is none."""
    items, signs = relation.items, relation.signs
    if len(signs) == 1 and signs[0] in {"<", ">", "<=", ">="}:
        left, right = items
        if right.node is not None and right.node.op == "var":
            left, right, sign = right, left, _FLIP[signs[0]]
        else:
            sign = signs[0]
        if left.node is None or left.node.op != "var":
            return None
        infinite = Answer("raw", ("inf",) if sign in {">", ">="} else ("-", "inf"))
        if sign in {">", ">="}:
            return _interval(right, infinite, "[" if sign == ">=" else "(", ")", relation)
        return _interval(infinite, right, "(", "]" if sign == "<=" else ")", relation)
    if len(signs) == 2 and items[1].node is not None and items[1].node.op == "var":
        if set(signs) <= {"<", "<="}:
            return _interval(
                items[0], items[2], "[" if signs[0] == "<=" else "(", "]" if signs[1] == "<=" else ")", relation
            )
        if set(signs) <= {">", ">="}:
            return _interval(
                items[2], items[0], "[" if signs[1] == ">=" else "(", "]" if signs[0] == ">=" else ")", relation
            )
    return None


def _interval(low: Answer, high: Answer, opening: str, closing: str, source: Answer) -> Answer:
    return Answer("tuple", source.tokens, items=(low, high), brackets=opening + closing)


def _union_against(left: Answer, right: Answer) -> bool | None:
    union, other = (left, right) if left.kind == "union" else (right, left)
    parts = other.items if other.kind == "list" else (other,)
    intervals = [as_interval(part) if part.kind == "relation" else part for part in parts]
    if any(interval is None for interval in intervals):
        return None
    return _unordered(union.items, [interval for interval in intervals if interval is not None])


def _relations(gold: Answer, pred: Answer) -> bool | None:
    if gold.tokens == pred.tokens:
        return True
    if set(gold.signs) == set(pred.signs) == {"="} and len(gold.items) == len(pred.items) == 2:
        return _equations(gold, pred)
    left, right = as_interval(gold), as_interval(pred)
    if left is not None and right is not None:
        return compare(left, right)
    for other in (pred, _flipped(pred)):
        if gold.signs == other.signs:
            same = _ordered(gold.items, other.items)
            if same or (same is False and "!=" in gold.signs):
                return same
    if len(gold.signs) == len(pred.signs) == 1:
        return _inequalities(gold, pred)
    return None


def _flipped(relation: Answer) -> Answer:
    return replace(relation, items=relation.items[::-1], signs=tuple(_FLIP[sign] for sign in relation.signs[::-1]))


def _equations(gold: Answer, pred: Answer) -> bool | None:
    """Two equations are one if their sides differ by a constant factor: ``2x = 4y`` is ``x - 2y = 0``."""
    left, right = _difference(gold), _difference(pred)
    return None if left is None or right is None else constant_ratio(left, right)


def _inequalities(gold: Answer, pred: Answer) -> bool | None:
    if gold.signs[0] != pred.signs[0] and gold.signs[0] != _FLIP[pred.signs[0]]:
        return False
    left, right = _difference(gold), _difference(pred)
    if left is None or right is None:
        return None
    first, second = value_at(left), value_at(right)
    if constant_ratio(left, right) is not True or first is None or second is None:
        return None
    try:
        return bool((first / second > 0) == (gold.signs[0] == pred.signs[0]))
    except TypeError:
        return None


def _difference(relation: Answer) -> Node | None:
    left, right = relation.items[0].node, relation.items[-1].node
    return None if left is None or right is None else Node("add", (left, Node("neg", (right,))))


def _lists(gold: Answer, pred: Answer) -> bool | None:
    return _unordered(gold.items, pred.items)


def _texts(gold: Answer, pred: Answer) -> bool | None:
    return gold.tokens == pred.tokens


def _never(gold: Answer, pred: Answer) -> bool | None:
    return False  # equal tokens were answered before


_SAME_KIND = {
    "list": _lists, "set": _lists, "union": _lists, "tuple": _tuples, "matrix": _matrices, "ratio": _ratios,
    "relation": _relations, "text": _texts, "range": _never, "based": _never,
}  # fmt: skip
