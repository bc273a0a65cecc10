"""Compare two typed answers: True, False, or None where this layer cannot decide.

``MatchPolicy`` holds what the caller decides; the fixed policies on numbers are in values.py, those on names, ratios
and clock times here. docs/answers.md states them.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise

from lema_core.answers.conditions import same_condition, same_equation
from lema_core.answers.evaluation import bounded_work
from lema_core.answers.expressions import GREEK, Node, Tokens, parse_expression
from lema_core.answers.lexicon import CURRENCY_UNITS, FACTORS, GENERIC_LABELS, UNIT_SYMBOLS
from lema_core.answers.results import DEFAULT_POLICY, MatchPolicy
from lema_core.answers.sampling import unknowns
from lema_core.answers.typed_answers import Answer, Kind, as_interval, flip, same_date
from lema_core.answers.values import is_rounding_of, same_angle, same_family, same_number, same_value

_INFINITE = {("inf",), ("+", "inf"), ("-", "inf")}
_WITH_ORDER = frozenset(["value", "list", "tuple", "relation", "ratio", "set"])
_LETTERS = frozenset(letter + power for letter in map(str.lower, UNIT_SYMBOLS) for power in ("", "2", "3"))
_ORDER: tuple[Kind, ...] = (
    "value", "list", "set", "tuple", "union", "matrix", "piecewise", "relation", "ratio", "range", "based", "date",
    "text", "raw",
)  # fmt: skip
_Result = bool | None


def compare(gold: Answer, pred: Answer, policy: MatchPolicy = DEFAULT_POLICY) -> bool | None:
    """Return whether two typed answers are the same; symmetric in its arguments."""
    with bounded_work():
        return _Comparison(policy).compare(_applied(gold, policy), _applied(pred, policy))


def _applied(answer: Answer, policy: MatchPolicy) -> Answer:
    """Return an answer without what the policy ignores."""
    if policy == DEFAULT_POLICY:
        return answer
    items = tuple(_applied(item, policy) for item in answer.items)
    unit, name = answer.unit, answer.name
    if (policy.units == "ignore" and unit not in CURRENCY_UNITS | {"deg", "rad"} and answer.kind == "value") or (
        policy.currencies == "ignore" and unit in CURRENCY_UNITS
    ):
        unit = ""
    if policy.names == "ignore" and name and all(lexeme.startswith("'") for lexeme in name):
        name = ()
    things = () if policy.things == "ignore" else answer.things
    return replace(answer, items=items, unit=unit, name=name, things=things)


class _Comparison:
    """The comparison of two answers and of their parts under one policy."""

    def __init__(self, policy: MatchPolicy) -> None:
        self.policy = policy

    def compare(self, gold: Answer, pred: Answer) -> _Result:
        same = self.as_stated(gold, pred)
        if same is not False:
            return same
        for stated, other in ((gold, pred), (pred, gold)):
            if stated.rounded is not None and is_rounding_of(stated.rounded, stated) and not other.rounded:
                return self.as_stated(replace(stated.rounded, name=stated.name), other)
        return same

    def as_stated(self, gold: Answer, pred: Answer) -> _Result:
        gold, pred = in_name_order(gold, pred), in_name_order(pred, gold)
        if gold.name and pred.name and gold.name != pred.name:
            # ``y = 2x`` and ``x = y/2`` are one equation; without one, two names may only be two spellings of a letter
            equation = _as_equations(gold, pred)
            renamed = same_up_to_names(gold, pred) if equation is None else same_equation(*equation)
            if renamed is not None or equation is not None:
                return renamed
        if gold.kind == pred.kind:
            same = gold.tokens == pred.tokens and gold.kind not in _WITH_ORDER
            return True if same else self.same_kind(gold, pred)
        left, right = sorted((gold, pred), key=lambda answer: _ORDER.index(answer.kind))
        return self.mixed(left, right)

    def same_kind(self, gold: Answer, pred: Answer) -> _Result:
        comparisons: Mapping[Kind, Callable[[Answer, Answer], _Result]] = {
            "value": self.values, "raw": lambda _gold, _pred: None, "list": self.unordered, "set": self.sets,
            "union": lambda gold, pred: self.in_any_order(gold.items, pred.items),
            "tuple": self.same_brackets, "matrix": self.same_brackets, "ratio": self.ratios, "relation": self.relations,
            "piecewise": self.piecewise, "text": _same_tokens, "range": _same_tokens, "based": _same_tokens,
            "date": same_date,
        }  # fmt: skip
        return comparisons[gold.kind](gold, pred)

    def mixed(self, left: Answer, right: Answer) -> _Result:
        """Compare answers of two kinds, given in the order of the kinds."""
        comparisons: Mapping[tuple[Kind, Kind], Callable[[Answer, Answer], _Result]] = {
            ("value", "relation"): self.value_relation, ("value", "ratio"): ratio_is_value,
            ("value", "based"): _value_based, ("value", "list"): self.value_items, ("value", "set"): self.value_items,
            ("list", "set"): self.list_set, ("list", "tuple"): self.list_tuple, ("set", "tuple"): self.set_tuple,
            ("list", "union"): lambda listed, union: self.union_parts(union, listed),
            ("list", "relation"): same_condition, ("tuple", "relation"): self.tuple_relation,
            ("tuple", "matrix"): self.tuple_matrix, ("union", "relation"): self.union_parts,
            ("set", "relation"): same_condition, ("set", "text"): lambda _set, _text: False,
        }  # fmt: skip
        by_kinds = comparisons.get((left.kind, right.kind))
        if by_kinds is not None:
            return by_kinds(left, right)
        if right.kind == "raw":
            return None
        if "date" in {left.kind, right.kind}:
            return None if {"text", "relation"} & {left.kind, right.kind} else False
        return None if {"relation", "piecewise"} & {left.kind, right.kind} else False

    def values(self, gold: Answer, pred: Answer) -> _Result:
        if gold.node is None or pred.node is None:
            return None
        if gold.note and pred.note and gold.note != pred.note:
            return False
        if gold.unit and pred.unit and gold.unit != pred.unit:
            return self.measures(gold, pred)
        if "percent" in {gold.node.op, pred.node.op} and (gold.unit or pred.unit):
            return False  # 20 % is no amount of money
        same = self.numbers(gold, pred)
        things = [{word.rstrip("s") for word in side.things} for side in (gold, pred)]
        counted = gold.things and pred.things and things[0].isdisjoint(things[1])
        measured = (gold.unit and pred.things) or (gold.things and pred.unit)
        if same and (counted or measured) and self.policy.things != "ignore":
            return None if self.policy.things == "unknown" else False
        return same

    def numbers(self, gold: Answer, pred: Answer) -> _Result:
        if gold.tokens == pred.tokens:
            return True
        for measured, other in ((gold, pred), (pred, gold)):
            if measured.unit in _LETTERS and not other.unit and _is_product(measured, other):
                return True
        if gold.node is None or pred.node is None:
            return None
        same = same_number(gold.node, pred.node)
        if same or not (self.policy.parameters or gold.integers or pred.integers):
            return same
        return True if same_family(gold, pred) else same

    def measures(self, gold: Answer, pred: Answer) -> _Result:
        """Compare quantities with two units: converted where both measure one thing."""
        if gold.node is None or pred.node is None:
            return None
        if {gold.unit, pred.unit} == {"deg", "rad"}:
            return same_angle(gold.node, pred.node)
        factors = _factor(gold.unit), _factor(pred.unit)
        if not self.policy.convert_units or None in factors:
            return False
        # 1 hour is 60 minutes; metres and grams measure different things
        (left, first), (right, second) = (factor or ((), Fraction(1)) for factor in factors)
        if left != right:
            return False
        sides = [
            Node("mul", (node, Node("num", value=factor))) for node, factor in ((gold.node, first), (pred.node, second))
        ]
        return same_number(sides[0], sides[1])

    def value_relation(self, value: Answer, relation: Answer) -> _Result:
        """``10^3 = 1000`` says 1000, having no unknowns; ``2x + z = 1`` is not 1; ``y = 2x`` is ``2x - y = 0``."""
        if set(relation.signs) != {"="}:
            return same_condition(value, relation) if value.name else False
        lexemes = [lexeme for item in relation.items for lexeme in item.tokens]
        if not any(part in GREEK or (len(part) == 1 and part.isalpha() and part not in "ei") for part in lexemes):
            if value.name and not value.name[0].startswith("'"):
                return False  # x = 2 is not 2 = 2
            is_of_i = "i" in relation.tokens  # an unknown, unless the equation holds: e^{i\pi} = -1
            if is_of_i and self.compare(relation.items[0], relation.items[-1]) is not True:
                return False
            return self.compare(value, relation.items[-1])
        name = parse_expression(value.name) if value.name else None
        if name is not None and value.node is not None:
            sides = Answer("value", value.name, name), replace(value, name=())
            return same_equation(Answer("relation", (), items=sides, signs=("=",)), relation)
        return False

    def value_items(self, value: Answer, other: Answer) -> _Result:
        name = parse_expression(value.name) if value.name else None
        if name is not None and name.op != "var" and other.kind == "list" and all(item.name for item in other.items):
            return same_condition(value, other)  # |x| = 2 is x = 2 or x = -2
        return self.compare(value, other.items[0]) if len(other.items) == 1 else False

    def in_order(self, gold: Sequence[Answer], pred: Sequence[Answer]) -> _Result:
        if len(gold) != len(pred):
            return False
        # One different part decides; one undecided part leaves the whole undecided
        results = [self.element(left, right) for left, right in zip(gold, pred, strict=True)]
        return False if False in results else None if None in results else True

    def element(self, gold: Answer, pred: Answer) -> _Result:
        if gold.tokens in _INFINITE or pred.tokens in _INFINITE:
            # ``\infty`` is ``+\infty``, never ``-\infty``
            return gold.tokens[-2:] == pred.tokens[-2:] or {gold.tokens, pred.tokens} == {("inf",), ("+", "inf")}
        return self.compare(gold, pred)

    def unordered(self, gold: Answer, pred: Answer) -> _Result:
        left, right = named_items(gold), named_items(pred)
        if {left.kind, right.kind} == {"tuple"}:
            return self.as_stated(left, right)
        for named, other in ((left, right), (right, left)):
            if named.kind == "tuple" and not any(item.name for item in other.items):
                # Letters have an order, "x = 1, y = 2" says "1, 2" and not "2, 1"; "Maximum: 3, minimum: 1" has none.
                by_words = named.name[0].startswith("'")
                return (self.in_any_order if by_words else self.in_order)(named.items, other.items)
        if _has_inequalities(gold) and _has_inequalities(pred):
            # "x > 1 and x < 5" is not "x > 1 or x < 5"
            if {_connective(gold), _connective(pred)} == {"and", "or"}:
                return False
            same = self.in_any_order(gold.items, pred.items)
            return same or same_condition(gold, pred)
        return self.in_any_order(left.items, right.items)

    def sets(self, gold: Answer, pred: Answer) -> _Result:
        if not gold.items and not pred.items:
            return self.empties(gold, pred)
        return self.in_any_order(self.distinct(gold.items), self.distinct(pred.items))

    def empties(self, gold: Answer, pred: Answer) -> _Result:
        """``no real solution`` is ``no solution`` and the empty set, not ``no integer solution``."""
        if gold.note and pred.note and set(gold.note) != set(pred.note):
            return False
        return self.policy.empty_in_words or bool(gold.things) == bool(pred.things)

    def distinct(self, items: Sequence[Answer]) -> list[Answer]:
        found: list[Answer] = []
        for item in items:
            if not any(self.element(item, other) for other in found):
                found.append(item)
        return found

    def list_set(self, listed: Answer, written: Answer) -> _Result:
        return self.in_any_order(listed.items, self.distinct(written.items))

    def list_tuple(self, listed: Answer, point: Answer) -> _Result:
        """A point may lose its brackets, and a list of three or more may stand in square ones; an interval may not."""
        named = named_items(listed)
        if named.kind == "tuple":
            return self.as_stated(named, replace(point, name=point.name or named.name)) if _is_point(point) else False
        if _has_inequalities(listed):
            return same_condition(listed, point)
        if not _is_point(point) or _connective(listed) == "or" or "&or" in listed.tokens or "lor" in listed.tokens:
            return False
        return self.in_order(listed.items, point.items)

    def set_tuple(self, written: Answer, point: Answer) -> _Result:
        """``{x = 1, y = 2}`` is the point (1, 2); a set without names is none."""
        named = named_items(written)
        return self.list_tuple(replace(written, kind="list"), point) if named.kind == "tuple" else False

    def in_any_order(self, gold: Sequence[Answer], pred: Sequence[Answer]) -> _Result:
        """Match the items of two lists; greedy is enough, for equality is an equivalence on them."""
        if len(gold) != len(pred):
            return False
        results = [[self.element(item, other) for other in pred] for item in gold]
        if any(set(row) <= {False} for row in (*results, *zip(*results, strict=True))):
            return False  # an item that none of the other side's can be
        free = set(range(len(pred)))
        doubtful = False
        for row in results:
            partner = next((index for index in sorted(free) if row[index]), None)
            doubtful |= partner is None and any(row[index] is None for index in free)
            if partner is None and not any(row[index] is None for index in free):
                return False
            free.discard(-1 if partner is None else partner)
        return None if doubtful else True

    def same_brackets(self, gold: Answer, pred: Answer) -> _Result:
        """The same tuple with the same brackets, or the same matrix of the same shape."""
        return self.in_order(gold.items, pred.items) if gold.brackets == pred.brackets else False

    def tuple_matrix(self, point: Answer, matrix: Answer) -> _Result:
        """``[[1,2],[3,4]]`` is a matrix; a point is one of a single row or column."""
        if point.items and all(item.kind == "tuple" for item in point.items):
            shape = f"{len(point.items)}x{len(point.items[0].items)}"
            cells = [cell for row in point.items for cell in row.items]
            regular = all(len(row.items) == len(point.items[0].items) for row in point.items)
            return self.in_order(cells, matrix.items) if regular and shape == matrix.brackets else False
        return self.in_order(point.items, matrix.items) if "1" in matrix.brackets.split("x") else False

    def piecewise(self, gold: Answer, pred: Answer) -> _Result:
        """The same cases in any order; other conditions may still divide the line in another way."""
        same = self.in_any_order(gold.items, pred.items)
        if same is not False or len(gold.items) != len(pred.items):
            return same or None
        conditions = [[case.items[1] for case in side.items] for side in (gold, pred)]
        return False if self.in_any_order(*conditions) is True else None

    def ratios(self, gold: Answer, pred: Answer) -> _Result:
        if len(gold.items) != len(pred.items):
            longer, shorter = sorted((gold, pred), key=lambda answer: -len(answer.items))
            zero = longer.items[-1].tokens in {("0",), ("00",)}
            return bool(
                longer.brackets and shorter.brackets and zero and self.in_order(longer.items[:-1], shorter.items)
            )
        if gold.brackets and pred.brackets and (is_time(gold) or is_time(pred)):
            halves = {gold.unit, pred.unit}
            return self.in_order(gold.items, pred.items) if len(halves) == 1 or "" in halves else False
        return same_ratio(gold, pred)

    def tuple_relation(self, interval: Answer, relation: Answer) -> _Result:
        other = as_interval(relation)
        same = None if other is None else self.compare(interval, other)
        return same_condition(interval, relation) if same is None else same

    def union_parts(self, union: Answer, other: Answer) -> _Result:
        parts = other.items if other.kind == "list" else (other,)
        intervals = [as_interval(part) if part.kind == "relation" else part for part in parts]
        known = [interval for interval in intervals if interval is not None]
        same = self.in_any_order(union.items, known) if len(known) == len(intervals) else None
        return True if same else same_condition(union, other)

    def relations(self, gold: Answer, pred: Answer) -> _Result:
        if gold.tokens == pred.tokens:
            return True
        if set(gold.signs) == set(pred.signs) == {"="} and len(gold.items) == len(pred.items) == 2:
            return same_equation(gold, pred)
        for other in (pred, flip(pred)):
            if gold.signs == other.signs and self.in_order(gold.items, other.items):
                return True
        left, right = as_interval(gold), as_interval(pred)
        if left is not None and right is not None and left.name == right.name:
            return self.compare(left, right)
        same = same_condition(gold, pred)
        return False if same is None and gold.signs == pred.signs == ("!=",) else same


def _as_equations(gold: Answer, pred: Answer) -> tuple[Answer, Answer] | None:
    """Return ``x = 2y + 1`` and ``y = (x-1)/2`` as equations; None: neither names an unknown of the other."""
    if gold.node is None or pred.node is None:
        return None
    names = parse_expression(gold.name), parse_expression(pred.name)
    if names[0] is None or names[1] is None or {names[0].op, names[1].op} != {"var"}:
        return None
    if not (unknowns(names[0]) & unknowns(pred.node) or unknowns(names[1]) & unknowns(gold.node)):
        return None
    left, right = (
        Answer("relation", (), items=(Answer("value", side.name, name), replace(side, name=())), signs=("=",))
        for side, name in ((gold, names[0]), (pred, names[1]))
    )
    return left, right


def _has_inequalities(answer: Answer) -> bool:
    return any(item.kind == "list" or (item.signs and "=" not in item.signs) for item in answer.items)


def _connective(answer: Answer) -> str:
    """Return how conditions are joined: ``x > 1 and x < 3`` is not ``x > 1 or x < 3``; "" between mere answers."""
    joined = {"&and": "and", "land": "and", "&or": "or", "lor": "or"}
    if not _has_inequalities(answer):
        return ""
    words = {joined[lexeme] for lexeme in answer.tokens if lexeme in joined}
    return words.pop() if len(words) == 1 else ""


def _is_point(point: Answer) -> bool:
    return "in" not in point.note and (point.brackets == "()" or (point.brackets == "[]" and len(point.items) > 2))


def _value_based(value: Answer, based: Answer) -> bool:
    """The base 10 may be written or not; any other base makes another number of the same digits."""
    return (
        "".join(based.tokens[based.tokens.index("_") + 1 :]) == "10"
        and value.tokens == based.tokens[: len(value.tokens)]
    )


def _is_product(measured: Answer, other: Answer) -> bool:
    """``5 m`` is the product ``5m`` too, for which of the two was meant cannot be seen."""
    if measured.node is None or other.node is None:
        return False
    letter, power = Node("var", name=measured.unit[0]), Fraction(measured.unit[1:] or 1)
    factor = Node("pow", (letter, Node("num", value=power)))
    return same_number(Node("mul", (measured.node, factor)), other.node) is True


def _factor(unit: str) -> tuple[tuple[str, ...], Fraction] | None:
    """Return what a unit measures and its size: ``km/h`` is a length by a time of 5/18; None: it is not known."""
    measures: list[str] = []
    size = Fraction(1)
    for place, part in enumerate(unit.split("/")):
        power = int(part[-1]) if part[-1:] in {"2", "3"} else 1
        known = FACTORS.get(part.rstrip("23"))
        if known is None:
            return None
        measures += [("per " if place else "") + known[0]] * power
        size *= known[1] ** (-power if place else power)
    return tuple(sorted(measures)), size


def _same_tokens(gold: Answer, pred: Answer) -> bool:
    return gold.tokens == pred.tokens


def is_time(answer: Answer) -> bool:
    """Whether a ratio is a time: 10:30 and 9:05 are, 5:8 and 10:3 are not, for minutes have two digits."""
    parts = [part for part in answer.tokens if part != ":" and not part.startswith("'")]
    return bool(answer.unit) or all(len(part) == 2 for part in parts[1:])


def ratio_is_value(value: Answer, ratio: Answer) -> bool:
    """Return whether a fraction or decimal says what a ratio says; 12:1 is not the number 12."""
    nodes = [item.node for item in ratio.items]
    if ratio.unit and ":" not in ratio.tokens:
        return value.tokens == ratio.items[0].tokens  # "3 PM" where am or pm is not said
    if len(nodes) != 2 or value.node is None or nodes[0] is None or nodes[1] is None:
        return False
    if value.tokens[0].isdigit() and "/" not in value.tokens:
        return False
    return same_value(value.node, Node("div", (nodes[0], nodes[1]))) is True


def same_ratio(gold: Answer, pred: Answer) -> bool | None:
    """Return whether two ratios of one length are proportional."""
    first, other = [item.node for item in gold.items], [item.node for item in pred.items]
    for left, right in zip(first[1:], other[1:], strict=True):
        if left is None or right is None or first[0] is None or other[0] is None:
            return None
        cross = same_value(Node("mul", (first[0], right)), Node("mul", (other[0], left)))
        if not cross:
            return cross
    return True


def same_up_to_names(gold: Answer, pred: Answer) -> bool | None:
    """Say whether two different names decide; None: they do not matter.

    Only names of one form are compared: ``AB = 5`` and ``x = 5`` may be one length under two names.
    """
    left, right = gold.name, pred.name
    if _are_words(left) and _are_words(right):
        words = [{word.removesuffix("s") for word in name if word[1:] not in GENERIC_LABELS} for name in (left, right)]
        return None if words[0] <= words[1] or words[1] <= words[0] else False
    if tuple(map(_form, left)) != tuple(map(_form, right)):
        return None
    if left[0] == right[0] and left[1] == right[1] == "(" and len(left) == 4 and left[2].islower():
        renamed = tuple(left[2] if part == right[2] else part for part in pred.tokens)
        return True if renamed == gold.tokens else None
    points = [tuple(part for part in name if part != "angle") for name in (left, right)]
    is_read_backwards = points[0] == points[1][::-1] and len(points[0]) > 1 and all(map(str.isupper, points[0]))
    return None if is_read_backwards else False


def _are_words(name: Tokens) -> bool:
    return all(lexeme.startswith("'") for lexeme in name)


def _form(lexeme: str) -> str:
    if lexeme in GREEK or (len(lexeme) == 1 and lexeme.isalpha()):
        return "letter"
    return "number" if lexeme[0].isdigit() else "word" if lexeme[0] == "'" else lexeme


def in_name_order(answer: Answer, other: Answer) -> Answer:
    """Return a tuple or ratio of named items in the order of its names: ``(y,x) = (1,2)`` is ``(x,y) = (2,1)``.

    Beside an answer without names only neighbours in the alphabet are put in order: ``(m,b)`` is meant as written.
    """
    if answer.kind not in {"tuple", "ratio", "list"} or not {",", ":", ";"} & set(answer.name):
        return answer
    names = tuple(lexeme for lexeme in answer.name if _form(lexeme) in {"letter", "word"})
    if not len(names) == len(set(names)) == len(answer.items):
        return answer
    letters = all(len(name) == 1 for name in names)
    neighbours = letters and all(ord(after) - ord(before) == 1 for before, after in pairwise(sorted(names)))
    if not (other.name or neighbours):
        return answer
    order = sorted(range(len(names)), key=names.__getitem__)
    return replace(answer, items=tuple(answer.items[index] for index in order), name=tuple(sorted(names)))


def named_items(answer: Answer) -> Answer:
    """Return a list of named items as a tuple, ``x = 1, y = 2``; else as it is.

    ``p = 5, q = 2; p = 7, q = 2`` is a list of such tuples.
    """
    letters = tuple(item.name[0] for item in answer.items if len(item.name) == 1)
    count = len(set(letters))
    if len(letters) != len(answer.items) or count < 2 or len(letters) % count:
        return answer
    rounds = [letters[start : start + count] for start in range(0, len(letters), count)]
    if any(set(names) != set(letters) for names in rounds):
        return answer
    tuples: list[Answer] = []
    for start in range(0, len(letters), count):
        items = answer.items[start : start + count]
        separated = tuple(lexeme for item in items for lexeme in (item.name[0], ","))
        bare = tuple(replace(item, name=()) for item in items)
        named = replace(answer, kind="tuple", brackets="()", items=bare, name=separated)
        tuples.append(in_name_order(named, Answer("raw", ())))
    return tuples[0] if len(tuples) == 1 else replace(answer, items=tuple(tuples), name=())
