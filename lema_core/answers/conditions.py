r"""Equations, inequalities and their combinations as conditions on unknowns: equal if the same points satisfy them.

``|x| < 3`` is ``-3 < x < 3``, ``x^2+y^2 = 9`` is ``\sqrt{x^2+y^2} = 3``, ``y = 2\sqrt{x}`` is not ``y^2 = 4x``. For
each unknown in turn the others are fixed; both conditions are tested at the roots of all their sides' differences,
between them and beyond them. A point at which a side has no real value is not compared.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise

from lema_core.answers.evaluation import NoValueError, Number, Work, context, evaluate
from lema_core.answers.expressions import Node, parse_expression
from lema_core.answers.sampling import Values, between, degree_in, generic_point, operations, roots_of, unknowns, zeros
from lema_core.answers.typed_answers import Answer
from lema_core.answers.values import constant_ratio

MAX_UNKNOWNS = 4
MAX_LEAVES = 24
WORK = 120_000
_JOINED = {"&and": "and", "land": "and", "&or": "or", "lor": "or"}


@dataclass(frozen=True, slots=True)
class Condition:
    """A comparison of two sides, or several conditions joined by "and" or "or"."""

    op: str
    parts: tuple["Condition", ...] = ()
    sides: tuple[Node, ...] = ()


def same_condition(gold: Answer, pred: Answer) -> bool | None:
    """Return whether two answers, of which one at least is an equation or inequality, are one condition."""
    names = _names(gold) | _names(pred)
    if not names or len(names) > MAX_UNKNOWNS:
        return None
    only = next(iter(names)) if len(names) == 1 else None
    readings = [_readings(answer, only) for answer in (gold, pred)]
    leaves = [leaf for side in readings for reading in side for leaf in _leaves(reading)]
    if (
        not all(readings)
        or len(leaves) > MAX_LEAVES
        or any("i" in operations(side) for leaf in leaves for side in leaf.sides)
    ):
        return None
    try:
        chosen = []
        for side in readings:
            work = Work(WORK)
            # Of two readings the first counts if some point satisfies it
            first = len(side) == 1 or any(_holds(side[0], point, work) for point in _points((side[0],), work))
            chosen.append(side[0] if first else side[-1])
        return _same(*chosen)
    except NoValueError:  # the work is used up
        return None


def _names(answer: Answer) -> frozenset[str]:
    named = parse_expression(answer.name) if answer.name else None
    own = [node for node in (answer.node, named) if node is not None]
    return frozenset().union(*map(unknowns, own), *map(_names, answer.items))


def _readings(answer: Answer, only: str | None) -> list[Condition]:
    """Return what a list of conditions may mean: ``x > 1, x < 3`` joins by "and", ``x < 1, x > 3`` by "or"."""
    listed = answer.kind == "list" and _connective(answer) is None
    listed = listed and all(item.kind == "relation" and set(item.signs) != {"="} for item in answer.items)
    connectives = ("and", "or") if listed else (_connective(answer) or "or",)
    return [condition for word in connectives if (condition := _condition(answer, only, word)) is not None]


def _connective(answer: Answer) -> str | None:
    words = {_JOINED[lexeme] for lexeme in answer.tokens if lexeme in _JOINED}
    return words.pop() if len(words) == 1 else None


def _condition(answer: Answer, only: str | None, word: str) -> Condition | None:
    if answer.kind == "relation":
        return _chain([item.node for item in answer.items], answer.signs)
    if answer.kind == "value" and answer.name:
        return _chain([parse_expression(answer.name), answer.node], ("=",))
    if answer.kind == "list":
        nested = any(item.kind == "list" for item in answer.items)
        mixed = len({_JOINED[lexeme] for lexeme in answer.tokens if lexeme in _JOINED}) > 1 and not nested
        parts = [_condition(item, only, _connective(item) or "or") for item in answer.items]
        return None if mixed else _joined(word, parts)
    return None if only is None else _membership(answer, Node("var", name=only))


def _membership(answer: Answer, unknown: Node) -> Condition | None:
    """Return the condition that an unknown is in a set, interval or union, or is a value."""
    if answer.kind in {"union", "set"}:
        return _joined("or", [_membership(item, unknown) for item in answer.items])
    if answer.kind == "tuple":
        if len(answer.items) != 2 or len(answer.brackets) != 2:
            return None
        leaves: list[Condition | None] = []
        for item, bracket, signs in zip(answer.items, answer.brackets, (("<", "<="), (">", ">=")), strict=True):
            if "inf" not in item.tokens:
                sides = None if item.node is None else (item.node, unknown)
                leaves.append(sides and Condition(signs[bracket in {"[", "]"}], sides=sides))
        return _joined("and", leaves) if leaves else None
    return _chain([unknown, answer.node], ("=",)) if answer.kind == "value" else None


def _joined(word: str, parts: list[Condition | None]) -> Condition | None:
    known = tuple(part for part in parts if part is not None)
    return Condition(word, known) if known and len(known) == len(parts) else None


def _chain(nodes: list[Node | None], signs: tuple[str, ...]) -> Condition | None:
    known = [node for node in nodes if node is not None]
    if len(known) != len(nodes):
        return None
    leaves = [Condition(sign, sides=sides) for sign, sides in zip(signs, pairwise(known), strict=True)]
    return leaves[0] if len(leaves) == 1 else Condition("and", tuple(leaves))


def _leaves(condition: Condition) -> Iterator[Condition]:
    if condition.sides:
        yield condition
    for part in condition.parts:
        yield from _leaves(part)


def _same(left: Condition, right: Condition) -> bool | None:
    work, held, compared = Work(WORK), 0, 0
    for point in _points((left, right), work):
        truths = _holds(left, point, work), _holds(right, point, work)
        if None in truths:
            continue
        if truths[0] != truths[1]:
            return False
        compared += 1
        held += truths[0] is True
    return True if held and compared > held and work.left > 0 else None


def _points(conditions: tuple[Condition, ...], work: Work) -> Iterator[Values]:
    """Yield the roots of all sides' differences along each unknown, and a point in every gap between them."""
    leaves = list(dict.fromkeys(leaf for condition in conditions for leaf in _leaves(condition)))
    differences = list(dict.fromkeys(Node("add", (leaf.sides[0], Node("neg", (leaf.sides[1],)))) for leaf in leaves))
    names = sorted(frozenset().union(*map(unknowns, differences)))
    for salt, scale in (("1", 1), ("2", -1), ("3", 5), ("4", 0.25)) if len(names) > 1 else (("1", 1),):
        for name in names:
            others = {other: _scaled(value, scale, other) for other, value in generic_point(names, salt).items()}
            breaks: set[float] = set()
            for node in differences:
                work.spend(50)
                breaks.update(zeros(node, name, others, work))
                for root in _exact_roots(node, name, others, work):
                    breaks.add(float(root))
                    yield {**others, name: root}
            for value in between(breaks):
                yield {**others, name: value}


def _scaled(value: Number, scale: float, name: str) -> Number:
    """Return a value of another size or, by the name, of another sign."""
    if scale == -1:
        return -value if sum(map(ord, name)) % 2 else value
    return value * int(scale) if scale > 1 else value / 4 if scale < 1 else value


def _exact_roots(node: Node, name: str, others: Values, work: Work) -> list[Number]:
    """Return the real roots along one unknown, rational ones exactly, the others to 40 digits."""
    if name not in unknowns(node):
        return []
    degree = degree_in(node, name)
    mp = context(60)
    try:
        if degree is not None:
            found = roots_of(node, name, others, degree, work)
            return [root for root in found if not isinstance(root, mp.mpc)]
    except (NoValueError, ArithmeticError, ValueError, TypeError):
        return []
    starts = zeros(node, name, others, work)
    return [root for start in starts if (root := _refined(node, name, others, start, work)) is not None]


def _refined(node: Node, name: str, others: Values, start: float, work: Work) -> Number | None:
    """Return a root near a place by the secant method; None: it does not converge to one."""
    mp = context(60)
    points = [mp.mpf(start) - mp.mpf(10) ** -7, mp.mpf(start) + mp.mpf(10) ** -7]
    try:
        values = [_as_mp(evaluate(node, {**others, name: point}, work, real=True)) for point in points]
        for _ in range(12):
            if values[1] == values[0] or not values[1]:
                break
            following = points[1] - values[1] * (points[1] - points[0]) / (values[1] - values[0])
            points = [points[1], following]
            values = [values[1], _as_mp(evaluate(node, {**others, name: following}, work, real=True))]
    except (NoValueError, ArithmeticError, ValueError, TypeError):
        return None
    near = abs(points[1] - start) <= 1e-4 * max(1, abs(start))
    return points[1] if near and abs(values[1]) < mp.mpf(10) ** -35 else None


def _as_mp(value: Number) -> Number:
    return context(60).mpf(value.numerator) / value.denominator if isinstance(value, Fraction) else value


def _holds(condition: Condition, point: Mapping[str, Number], work: Work) -> bool | None:
    """Return whether a condition is true at a point; None: one of its sides has no real value there."""
    if condition.sides:
        try:
            left, right = (_as_mp(evaluate(side, point, work, real=True)) for side in condition.sides)
            difference = left - right
            if abs(difference) <= context(60).mpf(10) ** -28 * max(1, abs(left), abs(right)):
                difference = 0
            return _TESTS[condition.op](difference)
        except (NoValueError, TypeError):
            return None
    truths = [_holds(part, point, work) for part in condition.parts]
    if None in truths:
        return None
    return all(truths) if condition.op == "and" else any(truths)


_TESTS: Mapping[str, Callable[[Number], bool]] = {
    "=": lambda difference: bool(difference == 0), "!=": lambda difference: bool(difference != 0),
    "<": lambda difference: bool(difference < 0), ">": lambda difference: bool(difference > 0),
    "<=": lambda difference: bool(difference <= 0), ">=": lambda difference: bool(difference >= 0),
}  # fmt: skip


def same_equation(gold: Answer, pred: Answer) -> bool | None:
    """Compare two equations: up to a constant factor (``2x = 4y`` is ``x - 2y = 0``), else by what satisfies them."""
    left, right = _sides_difference(gold), _sides_difference(pred)
    if left is None or right is None:
        return None
    proportional = constant_ratio(left, right)
    if proportional:
        return True
    same = same_condition(gold, pred)
    return proportional if same is None else same


def _sides_difference(relation: Answer) -> Node | None:
    left, right = relation.items[0].node, relation.items[-1].node
    return None if left is None or right is None else Node("add", (left, Node("neg", (right,))))
