r"""Whether two values are one answer: as functions of their unknowns, by a policy on numbers, or as families.

Functions: rational expressions are evaluated exactly at rational points, so two that agree at all of them are the same
function (Schwartz, Zippel); the others agree in as many digits as their size asks for, or not at all. ``sampling.py``
chooses the points, ``evaluation.py`` computes there.

Policies: percent, angles and rounding; docs/answers.md states them.

Families: answers with a letter that may have any name, ``\frac{\pi}{6} + 2n\pi`` for all integers n, ``x^2 + C``. The
letter is one if the answer says so (``k \in \mathbb{Z}``), if an integer letter counts periods of π or degrees, or if a
C is added. Two families over the integers are equal if they are the same set of numbers.
"""

import math
from collections.abc import Callable
from fractions import Fraction
from functools import lru_cache
from typing import Any

from lema_core.answers.evaluation import (
    NotRealError,
    NoValueError,
    Number,
    Work,
    agree,
    divide,
    evaluate,
    generic,
    same_numbers,
)
from lema_core.answers.expressions import Node
from lema_core.answers.sampling import (
    INTEGER_LETTERS,
    Sample,
    degree_in,
    generic_point,
    integer_unknowns,
    operations,
    samples,
    unknowns,
)
from lema_core.answers.typed_answers import Answer

_ROOTS = frozenset(["root", "pow"])
MAX_EXACT_BITS = 4_096
MAX_EXACT_EXPONENT = 64
_KINKS = frozenset(["abs", "sgn", "max", "min"])
MIN_ROUNDED_DIGITS = 5
"""Significant digits from which on a decimal may stand for the irrational number or fraction it is rounded from."""
_CONSTANTS = frozenset(["C", "c", "C_1", "c_1", "C_0", "c_0", "K", "const"])
_RIVALS = frozenset("abAB")
"""Letters beside which a c is one more side or coefficient."""


def same_value(left: Node, right: Node) -> bool | None:
    """Return whether two expressions are equal as functions of their unknowns; None where that cannot be computed."""
    if left == right:
        return None if not unknowns(left) and value_of(left) is None else True
    exact = rational(left), rational(right)
    if None not in exact:
        return exact[0] == exact[1]
    work = Work()
    try:
        if not unknowns(left) and not unknowns(right):
            return agree(left, right, {}, work, real=False)
        if "i" in operations(left) | operations(right):
            return _everywhere(left, right, work)
        # Only where both sides are real: a domain that a logarithm makes larger is no difference
        agreed, doubtful = 0, False
        for sample in samples(left, right, work):
            vote = _vote(left, right, sample, work)
            if vote == "different":
                return False
            agreed += vote == "same"
            doubtful |= vote == "doubtful"
        if work.left < 0 or doubtful:
            return None
        return True if agreed > 1 else _everywhere(left, right, work) if not agreed else None
    except NoValueError:
        return None


@lru_cache(maxsize=32_768)
def rational(node: Node) -> Fraction | None:
    """Return the value of a fraction, product or sum of plain numbers; None: it is none of these, or too long."""
    if node.op == "num":
        return node.value
    if node.op not in _EXACT:
        return None
    values = [rational(arg) for arg in node.args]
    known = [value for value in values if value is not None]
    bits = sum(value.denominator.bit_length() + value.numerator.bit_length() for value in known)
    if len(known) != len(values) or bits > MAX_EXACT_BITS:
        return None
    return _EXACT[node.op](known)


def _exact_power(values: list[Fraction]) -> Fraction | None:
    base, exponent = values
    return base ** int(exponent) if exponent.denominator == 1 and 0 <= exponent <= MAX_EXACT_EXPONENT else None


def _vote(left: Node, right: Node, sample: Sample, work: Work) -> str:
    try:
        same = agree(left, right, sample.point, work, real=True)
    except NotRealError:
        # Where one side only is real: no vote on ``2\ln a`` and ``\ln a^2``, a doubt on ``\ln a`` and ``\ln |a|``
        ends = [_end_of_domain(side, sample, work) for side in (left, right)]
        if "" not in ends or ends == ["", ""]:
            return ""
        if not _ROOTS & set(ends):
            return "doubtful" if bool(_KINKS & operations(left)) != bool(_KINKS & operations(right)) else ""
        try:
            return "" if agree(left, right, sample.point, work, real=False) else "doubtful"
        except NoValueError:
            return ""
    except NoValueError:
        return ""
    return "same" if same else "different" if sample.decisive else "doubtful"


def _end_of_domain(node: Node, sample: Sample, work: Work) -> str | None:
    """Return "" where the expression is real at a point, else the operation that is not; None: it has no value."""
    try:
        evaluate(node, sample.point, work, real=True)
    except NotRealError as error:
        return error.by
    except NoValueError:
        return None
    return ""


def _everywhere(left: Node, right: Node, work: Work) -> bool | None:
    """Compare by principal values, as complex expressions are."""
    names = sorted(unknowns(left) | unknowns(right))
    agreements = []
    whole = integer_unknowns(left) | integer_unknowns(right)
    for sign, salt in ((1, "1"), (1, "2"), (-1, "3")):
        try:
            point = {name: sign * value for name, value in generic_point(names, salt).items()}
            point |= {name: Fraction(sign * (2 + int(salt) + index)) for index, name in enumerate(sorted(whole))}
            agreements.append(agree(left, right, point, work, real=False))
        except NoValueError:
            continue
    if not agreements or (len(agreements) == 1 and agreements[0]):
        return None
    return True if all(agreements) else None if all(agreements[:-1]) else False


def constant_ratio(left: Node, right: Node) -> bool | None:
    """Return whether left / right is one non-zero constant: then ``left = 0`` and ``right = 0`` are one equation."""
    names, work = sorted(unknowns(left) | unknowns(right)), Work()
    ratios: list[Number] = []
    try:
        for salt in ("1", "2", "3", "4"):
            point = generic_point(names, salt)
            value = evaluate(left, point, work)
            if not value:
                return None
            ratios.append(divide(value, evaluate(right, point, work)))
        return all(same_numbers(ratio, ratios[0]) for ratio in ratios)
    except NoValueError:
        return None


@lru_cache(maxsize=32_768)
def value_of(node: Node) -> Number | None:
    """Return the value of an expression, with a fixed value for each unknown; None: it has none."""
    try:
        return evaluate(node, {name: generic(name) for name in unknowns(node)})
    except NoValueError:
        return None


def has_unknowns(node: Node) -> bool:
    """Whether the expression depends on anything but numbers, i and e."""
    return bool(unknowns(node)) or "apply" in operations(node)


_EXACT: dict[str, Callable[[list[Fraction]], Fraction | None]] = {
    "neg": lambda values: -values[0], "add": lambda values: sum(values, start=Fraction(0)),
    "mul": lambda values: math.prod(values, start=Fraction(1)), "percent": lambda values: values[0] / 100,
    "div": lambda values: values[0] / values[1] if values[1] else None, "pow": _exact_power,
}  # fmt: skip


def same_number(gold: Node, pred: Node) -> bool | None:
    """Return whether two expressions are the same answer: equal by value, or by one of the policies."""
    if "const" in {gold.op, pred.op} and (value_of(gold) is None or value_of(pred) is None):
        return None if value_of(gold) is value_of(pred) else False
    same = same_value(gold, pred)
    if same is not False:
        return same
    return _percent(gold, pred) or same_angle(gold, pred) or _is_rounded(gold, pred) or _is_rounded(pred, gold)


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


def _is_rounded(decimal: Node, exact: Node) -> bool:
    """Whether one side is a long decimal and the exact rounding of the other, which has no finite decimal form."""
    written, value = _decimal(decimal), _real(exact)
    if written is None or value is None or exact.op == "num":
        return False
    places = _places(written)
    if len(str(abs(int(written * 10**places)))) < MIN_ROUNDED_DIGITS:
        return False
    rest = value.denominator if isinstance(value, Fraction) else 0
    for prime in (2, 5):
        while rest and rest % prime == 0:
            rest //= prime
    return rest != 1 and _is_near(written, value, places)


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


def same_family(gold: Answer, pred: Answer) -> bool:
    """Return whether two values are equal up to the name of a constant, or as sets over the integers."""
    if gold.node is None or pred.node is None:
        return False
    if _same_up_to_constant(gold.node, pred.node):
        return True
    left, right = _family(gold), _family(pred)
    if left is None or right is None:
        return False
    try:
        if not {*_letters(gold), *_letters(pred)} - {left[2], right[2]}:
            steps = divide(left[1], right[1])
            shift = divide(-right[0] + left[0], left[1])
            return _near(steps) in {1, -1} and _near(shift) is not None
        return same_value(_renamed(_node(gold), left[2], right[2]), _node(pred)) is True
    except NoValueError:
        return False


def _same_up_to_constant(gold: Node, pred: Node) -> bool:
    names = unknowns(gold), unknowns(pred)
    own = names[0] - names[1], names[1] - names[0]
    if any(len(side) != 1 or not side <= _CONSTANTS for side in own) or (names[0] | names[1]) & _RIVALS:
        return False
    (left,), (right,) = own
    if not (_is_added(gold, left) and _is_added(pred, right)):
        return False
    return same_value(_renamed(gold, left, right), pred) is True


def _is_added(node: Node, name: str) -> bool:
    """Whether a name is a term of a sum and stands nowhere else."""
    terms = node.args if node.op == "add" else (node,)
    return [term for term in terms if name in unknowns(term)] == [Node("var", name=name)]


def _near(value: Number) -> int | None:
    """Return the integer that a value is; None: it is none."""
    if isinstance(value, Fraction):
        return value.numerator if value.denominator == 1 else None
    try:
        nearest = round(float(value))
        return nearest if abs(value - nearest) < 1e-30 else None
    except (TypeError, ValueError, OverflowError):
        return None


def _family(answer: Answer) -> tuple[Number, Number, str] | None:
    """Return start, step and letter of ``start + step * letter``; None: the answer is no such family."""
    node = _node(answer)
    letters = [name for name in _letters(answer) if name in answer.integers or name in INTEGER_LETTERS]
    if len(letters) != 1 or degree_in(node, letters[0]) != 1:
        return None
    terms = node.args if node.op == "add" else (node,)
    periods = any(unknowns(term) == {letters[0]} and {"const", "deg"} & operations(term) for term in terms)
    if letters[0] not in answer.integers and not periods:
        return None
    try:
        start, first = (evaluate(node, {letters[0]: Fraction(at)}) for at in (0, 1))
        step = -start + first
    except (NoValueError, TypeError):
        return None
    return (start, step, letters[0]) if step else None


def _letters(answer: Answer) -> list[str]:
    return sorted(unknowns(_node(answer)))


def _node(answer: Answer) -> Node:
    return answer.node or Node("num")


def _renamed(node: Node, name: str, other: str) -> Node:
    if node.op == "var":
        return Node("var", name=other) if node.name == name else node
    args = tuple(_renamed(arg, name, other) for arg in node.args)
    return Node(node.op, args, node.value, node.name)
