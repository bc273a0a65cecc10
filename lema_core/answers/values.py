"""Compare two expression trees as functions of their unknowns.

Rational expressions are evaluated exactly at rational points, so two that agree at all of them are the same function
(Schwartz, Zippel); the others agree in as many digits as their size asks for, or not at all. ``sampling.py`` chooses
the points, ``evaluation.py`` computes there.
"""

import math
from collections.abc import Callable
from fractions import Fraction
from functools import lru_cache

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
from lema_core.answers.sampling import Sample, generic_point, integer_unknowns, operations, samples, unknowns

_ROOTS = frozenset(["root", "pow"])
MAX_EXACT_BITS = 4_096
MAX_EXACT_EXPONENT = 64
_KINKS = frozenset(["abs", "sgn", "max", "min"])


def same_value(left: Node, right: Node) -> bool | None:
    """Return whether two expressions are equal as functions of their unknowns; None where that cannot be computed."""
    if left == right:
        return None if _never_has_value(left) else True
    exact = rational(left), rational(right)
    return _by_evaluation(left, right) if None in exact else exact[0] == exact[1]


def _by_evaluation(left: Node, right: Node) -> bool | None:
    work = Work()
    try:
        if not unknowns(left) and not unknowns(right):
            return agree(left, right, {}, work, real=False)
        if "i" in operations(left) | operations(right):
            return _everywhere(left, right, work)
        return _on_the_reals(left, right, work)
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


def _never_has_value(node: Node) -> bool:
    return not unknowns(node) and value_of(node) is None


def _on_the_reals(left: Node, right: Node, work: Work) -> bool | None:
    """Compare where both sides are real. A domain that only a logarithm makes larger is no difference."""
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


def _vote(left: Node, right: Node, sample: Sample, work: Work) -> str:
    try:
        same = agree(left, right, sample.point, work, real=True)
    except NotRealError:
        return _outside_a_domain(left, right, sample, work)
    except NoValueError:
        return ""
    return "same" if same else "different" if sample.decisive else "doubtful"


def _outside_a_domain(left: Node, right: Node, sample: Sample, work: Work) -> str:
    r"""Where one side only is real: no vote on ``2\ln a`` and ``\ln a^2``, a doubt on ``\ln a`` and ``\ln |a|``."""
    ends = [_end_of_domain(side, sample, work) for side in (left, right)]
    if "" not in ends or ends == ["", ""]:
        return ""
    if not _ROOTS & set(ends):
        return "doubtful" if bool(_KINKS & operations(left)) != bool(_KINKS & operations(right)) else ""
    try:
        return "" if agree(left, right, sample.point, work, real=False) else "doubtful"
    except NoValueError:
        return ""


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
    votes = []
    whole = integer_unknowns(left) | integer_unknowns(right)
    for sign, salt in ((1, "1"), (1, "2"), (-1, "3")):
        try:
            point = {name: sign * value for name, value in generic_point(names, salt).items()}
            point |= {name: Fraction(sign * (2 + int(salt) + index)) for index, name in enumerate(sorted(whole))}
            votes.append(agree(left, right, point, work, real=False))
        except NoValueError:
            continue
    if not votes or (len(votes) == 1 and votes[0]):
        return None
    return True if all(votes) else None if all(votes[:-1]) else False


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
