"""Equations and inequalities: as intervals, turned round, up to a constant factor, or by what satisfies them."""

from dataclasses import replace

from lema_core.answers.conditions import same_condition
from lema_core.answers.expressions import Node
from lema_core.answers.typed_answers import Answer
from lema_core.answers.values import constant_ratio

_FLIP = {"<": ">", ">": "<", "<=": ">=", ">=": "<=", "!=": "!=", "=": "="}
_UPWARDS, _DOWNWARDS = frozenset([">", ">="]), frozenset(["<", "<="])


def as_interval(relation: Answer) -> Answer | None:
    """Return ``3 < x <= 4`` as the half-open interval (3, 4], ``x >= 2`` as [2, oo); None where it is none."""
    items, signs = relation.items, relation.signs
    if len(signs) == 1 and set(signs) <= _UPWARDS | _DOWNWARDS:
        return _half_line(relation if _is_unknown(items[0]) else flipped(relation))
    if len(signs) != 2 or not _is_unknown(items[1]):
        return None
    if set(signs) <= _UPWARDS:
        relation = flipped(relation)
    if not set(relation.signs) <= _DOWNWARDS:
        return None
    low, name, high = relation.items
    brackets = ("[" if relation.signs[0] == "<=" else "(") + ("]" if relation.signs[1] == "<=" else ")")
    return Answer("tuple", relation.tokens, items=(low, high), brackets=brackets, name=name.tokens)


def _half_line(relation: Answer) -> Answer | None:
    (name, bound), (sign,) = relation.items, relation.signs
    if not _is_unknown(name):
        return None
    if sign in _UPWARDS:
        ends, brackets = (bound, Answer("raw", ("inf",))), "[)" if sign == ">=" else "()"
    else:
        ends, brackets = (Answer("raw", ("-", "inf")), bound), "(]" if sign == "<=" else "()"
    return Answer("tuple", relation.tokens, items=ends, brackets=brackets, name=name.tokens)


def _is_unknown(side: Answer) -> bool:
    return side.node is not None and side.node.op == "var"


def flipped(relation: Answer) -> Answer:
    """Return the relation read from right to left."""
    return replace(relation, items=relation.items[::-1], signs=tuple(_FLIP[sign] for sign in relation.signs[::-1]))


def same_equation(gold: Answer, pred: Answer) -> bool | None:
    """Compare two equations: up to a constant factor (``2x = 4y`` is ``x - 2y = 0``), else by what satisfies them."""
    left, right = _difference(gold), _difference(pred)
    if left is None or right is None:
        return None
    proportional = constant_ratio(left, right)
    if proportional:
        return True
    same = same_condition(gold, pred)
    return proportional if same is None else same


def _difference(relation: Answer) -> Node | None:
    left, right = relation.items[0].node, relation.items[-1].node
    return None if left is None or right is None else Node("add", (left, Node("neg", (right,))))
