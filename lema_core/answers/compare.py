"""Compare two typed answers: True, False, or None where this layer cannot tell. The policies are in policies.py."""

from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction

from lema_core.answers.expressions import GREEK, Node
from lema_core.answers.lexicon import UNIT_SYMBOLS
from lema_core.answers.names import in_name_order, named_items, same_up_to_names
from lema_core.answers.policies import same_angle, same_number
from lema_core.answers.ratios import is_time, ratio_is_value, same_ratio
from lema_core.answers.relations import as_interval, flipped, same_equation, same_inequality
from lema_core.answers.typed import Answer, Kind

_INFINITE = {("inf",), ("+", "inf"), ("-", "inf")}
_WITH_ORDER = frozenset(["list", "tuple", "relation", "ratio"])
_LETTERS = frozenset(letter + power for letter in map(str.lower, UNIT_SYMBOLS) for power in ("", "2", "3"))
_ORDER: tuple[Kind, ...] = (
    "value", "list", "set", "tuple", "union", "matrix", "relation", "ratio", "range", "based", "text", "raw",
)  # fmt: skip


def compare(gold: Answer, pred: Answer) -> bool | None:
    """Return whether two typed answers are the same; symmetric in its arguments."""
    gold, pred = in_name_order(gold, pred), in_name_order(pred, gold)
    if gold.name and pred.name and gold.name != pred.name:
        renamed = same_up_to_names(gold, pred)
        if renamed is not None:
            return renamed
    if gold.kind == pred.kind == "value":
        return _values(gold, pred)
    if gold.tokens == pred.tokens and gold.kind == pred.kind and gold.kind not in _WITH_ORDER:
        return True
    if "raw" in {gold.kind, pred.kind}:
        return None
    if gold.kind == pred.kind:
        return _SAME_KIND[gold.kind](gold, pred)
    left, right = sorted((gold, pred), key=lambda answer: _ORDER.index(answer.kind))
    return _mixed(left, right)


def _mixed(left: Answer, right: Answer) -> bool | None:
    """Compare answers of two kinds, given in the order of the kinds."""
    by_kinds = _MIXED.get((left.kind, right.kind))
    if by_kinds is not None:
        return by_kinds(left, right)
    return None if "relation" in {left.kind, right.kind} else False


def _value_relation(value: Answer, relation: Answer) -> bool | None:
    """``10^3 = 1000`` says 1000, having no unknowns; ``2x + z = 1`` does not say 1; ``y = 2x`` is ``2x - y = 0``."""
    if set(relation.signs) != {"="}:
        return False
    if not any(_has_letters(item) for item in relation.items):
        is_of_i = "i" in relation.tokens  # an unknown, unless the equation holds: e^{i\pi} = -1
        if is_of_i and compare(relation.items[0], relation.items[-1]) is not True:
            return False
        return compare(value, relation.items[-1])
    if len(value.name) == 1 and value.node is not None:
        sides = Answer("value", value.name, Node("var", name=value.name[0])), value
        return same_equation(Answer("relation", (), items=sides, signs=("=",)), relation)
    return False


def _has_letters(answer: Answer) -> bool:
    return any(
        (len(part) == 1 and part.isalpha() and part not in {"e", "i"}) or part in GREEK for part in answer.tokens
    )


def _value_based(value: Answer, based: Answer) -> bool:
    """The base 10 may be written or not; any other base makes another number of the same digits."""
    return (
        "".join(based.tokens[based.tokens.index("_") + 1 :]) == "10"
        and value.tokens == based.tokens[: len(value.tokens)]
    )


def _value_items(value: Answer, other: Answer) -> bool | None:
    return compare(value, other.items[0]) if len(other.items) == 1 else False


def _values(gold: Answer, pred: Answer) -> bool | None:
    if gold.node is None or pred.node is None:
        return None
    if gold.note and pred.note and gold.note != pred.note:
        return False
    if gold.unit and pred.unit and gold.unit != pred.unit:
        return {gold.unit, pred.unit} == {"deg", "rad"} and same_angle(gold.node, pred.node)
    if gold.tokens == pred.tokens:
        return True
    for measured, other in ((gold, pred), (pred, gold)):
        if measured.unit in _LETTERS and not other.unit and _is_product(measured, other):
            return True
    return same_number(gold.node, pred.node)


def _is_product(measured: Answer, other: Answer) -> bool:
    """``5 m`` is the product ``5m`` too, for which of the two was meant cannot be seen."""
    if measured.node is None or other.node is None:
        return False
    letter, power = Node("var", name=measured.unit[0]), Fraction(measured.unit[1:] or 1)
    factor = Node("pow", (letter, Node("num", value=power)))
    return same_number(Node("mul", (measured.node, factor)), other.node) is True


def _ordered(gold: Answer, pred: Answer) -> bool | None:
    return _in_order(gold.items, pred.items)


def _in_order(gold: Sequence[Answer], pred: Sequence[Answer]) -> bool | None:
    if len(gold) != len(pred):
        return False
    results = [_element(left, right) for left, right in zip(gold, pred, strict=True)]
    return False if False in results else None if None in results else True


def _element(gold: Answer, pred: Answer) -> bool | None:
    if gold.tokens in _INFINITE or pred.tokens in _INFINITE:
        return gold.tokens[-2:] == pred.tokens[-2:] or {gold.tokens, pred.tokens} == {("inf",), ("+", "inf")}
    return compare(gold, pred)


def _unordered(gold: Answer, pred: Answer) -> bool | None:
    left, right = named_items(gold), named_items(pred)
    if bool(left.name) != bool(right.name) and not any(item.name for item in (pred if left.name else gold).items):
        return _in_order(left.items, right.items)  # "x = 1, y = 2" is "1, 2" and not "2, 1"
    if {_connective(gold), _connective(pred)} == {"and", "or"}:
        return False
    return _in_any_order(gold.items, pred.items)


def _connective(answer: Answer) -> str:
    """How conditions are joined: ``x > 1 and x < 3`` is not ``x > 1 or x < 3``; between answers it does not matter."""
    joined = {"&and": "and", "land": "and", "&or": "or", "lor": "or"}
    if not any(item.signs and "=" not in item.signs for item in answer.items):
        return ""
    words = {joined[lexeme] for lexeme in answer.tokens if lexeme in joined}
    return words.pop() if len(words) == 1 else ""


def _in_any_order(gold: Sequence[Answer], pred: Sequence[Answer]) -> bool | None:
    """Match the items of two lists; greedy is enough, for equality is an equivalence on them."""
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


def _same_brackets(gold: Answer, pred: Answer) -> bool | None:
    """The same tuple with the same brackets, or the same matrix of the same shape."""
    return _in_order(gold.items, pred.items) if gold.brackets == pred.brackets else False


def _tuple_matrix(point: Answer, matrix: Answer) -> bool | None:
    return _ordered(point, matrix) if "1" in matrix.brackets.split("x") else False


def _ratios(gold: Answer, pred: Answer) -> bool | None:
    if len(gold.items) != len(pred.items):
        longer, shorter = sorted((gold, pred), key=lambda answer: -len(answer.items))
        zero = longer.items[-1].tokens in {("0",), ("00",)}
        return bool(longer.brackets and shorter.brackets and zero and _in_order(longer.items[:-1], shorter.items))
    if gold.brackets and pred.brackets and (is_time(gold) or is_time(pred)):
        halves = {gold.unit, pred.unit}
        return _ordered(gold, pred) if len(halves) == 1 or "" in halves else False
    return same_ratio(gold, pred)


def _tuple_relation(interval: Answer, relation: Answer) -> bool | None:
    other = as_interval(relation)
    return None if other is None else compare(interval, other)


def _list_union(listed: Answer, union: Answer) -> bool | None:
    return _union_parts(union, listed.items)


def _union_relation(union: Answer, relation: Answer) -> bool | None:
    return _union_parts(union, (relation,))


def _union_parts(union: Answer, parts: Sequence[Answer]) -> bool | None:
    intervals = [as_interval(part) if part.kind == "relation" else part for part in parts]
    known = [interval for interval in intervals if interval is not None]
    return _in_any_order(union.items, known) if len(known) == len(intervals) else None


def _relations(gold: Answer, pred: Answer) -> bool | None:
    if gold.tokens == pred.tokens:
        return True
    if set(gold.signs) == set(pred.signs) == {"="} and len(gold.items) == len(pred.items) == 2:
        return same_equation(gold, pred)
    left, right = as_interval(gold), as_interval(pred)
    if left is not None and right is not None:
        return compare(left, right)
    for other in (pred, flipped(pred)):
        if gold.signs == other.signs:
            same = _ordered(gold, other)
            if same or (same is False and "!=" in gold.signs):
                return same
    return same_inequality(gold, pred) if len(gold.signs) == len(pred.signs) == 1 else None


def _texts(gold: Answer, pred: Answer) -> bool:
    return gold.tokens == pred.tokens


_Comparison = Callable[[Answer, Answer], bool | None]
_SAME_KIND: Mapping[Kind, _Comparison] = {
    "list": _unordered, "set": _unordered, "union": _unordered, "tuple": _same_brackets, "matrix": _same_brackets,
    "ratio": _ratios, "relation": _relations, "text": _texts, "range": _texts, "based": _texts,
}  # fmt: skip
_MIXED: Mapping[tuple[Kind, Kind], _Comparison] = {
    ("value", "relation"): _value_relation, ("value", "ratio"): ratio_is_value, ("value", "based"): _value_based,
    ("value", "list"): _value_items, ("value", "set"): _value_items, ("list", "set"): _unordered,
    ("list", "tuple"): _ordered, ("tuple", "relation"): _tuple_relation, ("tuple", "matrix"): _tuple_matrix,
    ("list", "union"): _list_union, ("union", "relation"): _union_relation,
}  # fmt: skip
