"""Equations and inequalities: as intervals, turned round, and compared up to a constant factor."""

from dataclasses import replace

from lema_core.answers.expressions import Node
from lema_core.answers.typed import Answer
from lema_core.answers.values import constant_ratio, value_at

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
    """Compare two equations up to a constant factor: ``2x = 4y`` is ``x - 2y = 0``; None: not computable."""
    left, right = _difference(gold), _difference(pred)
    return None if left is None or right is None else constant_ratio(left, right)


def same_inequality(gold: Answer, pred: Answer) -> bool | None:
    """Compare two inequalities up to a constant factor, whose sign turns them round."""
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
