"""Computations as sums of products of the numbers they start from.

Two orders of one sum or product have one expansion: ``20 - 12 - 4`` and ``20 - (12 + 4)``. A step that is a running
total of the rationale's sum is no mistake, even where its value never occurs there. Products of sums are not multiplied
out: the parts of ``(20 - 5) * 3`` that this would make (``20 * 3``) are mistakes more often than detours.
"""

from collections.abc import Mapping
from fractions import Fraction

from lema_core.reference_corrector.equations import Equation, key

MAX_PRODUCTS = 12
"""A longer sum is taken as one number."""
Product = tuple[tuple[Fraction, int], ...]
"""Numbers with their exponents, in order; a division has the exponent -1."""
Expansion = Mapping[Product, Fraction]
"""Products with their coefficients."""


class Expander:
    """Expands one path's equations in order: a number that an earlier equation gave is put in as what it came from."""

    def __init__(self) -> None:
        self._known: dict[int, Expansion] = {}

    def expand(self, equation: Equation) -> Expansion:
        """Return the expansion of an equation's left side, and remember it for the value it claims."""
        stack: list[Expansion] = []
        for item in equation.postfix:
            if isinstance(item, int):
                number = equation.operands[item]
                stack.append(self._known.get(key(number), _leaf(number)))
            else:
                right, left = stack.pop(), stack.pop()
                stack.append(_combined(item, left, right) or _leaf(equation.computed))
        self._known[key(equation.value)] = stack[0]
        return stack[0]


def is_part(step: Expansion, whole: Expansion) -> bool:
    """Whether the step is the sum ``whole`` or some of its terms (a running total), up to sign.

    A part of a product is none: ``15 * 7`` of ``15 * 7 / 1.5`` is more often a forgotten factor than a first step.
    """
    first, coefficient = next(iter(step.items()), ((), Fraction(0)))
    wanted = whole.get(first)
    if not coefficient or not wanted:
        return False
    ratio = wanted / coefficient
    return abs(ratio) == 1 and all(whole.get(product) == ratio * share for product, share in step.items())


def is_factor(step: Expansion, whole: Expansion) -> bool:
    """Whether the step is a product of some factors of the product ``whole``, with nothing left to divide by."""
    if len(step) != 1 or len(whole) != 1:
        return False
    (own, share), (product, wanted) = next(iter(step.items())), next(iter(whole.items()))
    rest = _times(product, own, -1)
    return share == wanted and all(exponent > 0 and (number, exponent) in product for number, exponent in rest)


def _leaf(number: Fraction) -> Expansion:
    if number in {1, -1}:
        return {(): number}
    if number.numerator in {1, -1}:
        return {((Fraction(number.denominator), -1),): Fraction(number.numerator)}
    return {((abs(number), 1),): Fraction(1 if number > 0 else -1)}


def _combined(operator: str, left: Expansion, right: Expansion) -> Expansion | None:
    result: dict[Product, Fraction] = {}
    if operator in {"+", "-"}:
        result.update(left)
        for product, share in right.items():
            result[product] = result.get(product, Fraction(0)) + (share if operator == "+" else -share)
    elif len(left) == len(right) == 1 and operator in {"*", "of", "/"}:
        (one, share), (other, factor) = next(iter(left.items())), next(iter(right.items()))
        divides = operator == "/"
        result[_times(one, other, -1 if divides else 1)] = share / factor if divides else share * factor
    result = {product: share for product, share in result.items() if share}
    return result if 0 < len(result) <= MAX_PRODUCTS else None


def _times(left: Product, right: Product, sign: int) -> Product:
    exponents = dict(left)
    for number, exponent in right:
        exponents[number] = exponents.get(number, 0) + sign * exponent
    return tuple(sorted((number, exponent) for number, exponent in exponents.items() if exponent))
