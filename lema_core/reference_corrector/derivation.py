"""What each equation of a path or rationale is a computation *of*: compared by identity, not by value.

Small numbers meet by chance: 8 + 10 and 8 - 5 + 10 + 5 are both 18. So every equation is evaluated a second time, with
a residue in the place of each number of the question (Schwartz and Zippel's identity test, modulo a prime): equations
with one residue are one computation, in whatever order or grouping. In one reading 2 stays 2, so that ``3 + 3`` is
``2 * 3``. A computation that is a part of one of the rationale's (some terms of a sum, some factors of a product, also
where the product is multiplied out) is recognised by its terms.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from hashlib import blake2b

from lema_core.reference_corrector.reading import Step
from lema_core.step_checker.equations import Equation

PRIME = 2**61 - 1
MAX_TERMS = 12
"""A longer sum is taken as one number."""
MAX_NODES = 40
"""Equations of one path that are read; a degenerate answer may repeat itself without end."""
Product = tuple[tuple[Fraction, int], ...]
"""Numbers with their exponents, in order; a division has the exponent -1."""
Terms = Mapping[Product, Fraction]
"""Products with their coefficients."""


def key(value: Fraction) -> int:
    """Return what two values share that are the same up to rounding to cents."""
    return round(value * 100)


def keys(values: Iterable[Fraction]) -> set[int]:
    """Return the keys of several values."""
    return {key(value) for value in values}


@dataclass(frozen=True, slots=True)
class Node:
    """One equation with what it computes from the question's numbers."""

    step: int
    """0-based."""
    equation: Equation
    residues: tuple[int | None, ...]
    """One for each reading; None where it divides by zero."""
    terms: Terms
    sources: tuple[int, ...]
    """Indices of the earlier equations whose values it uses."""
    leaves: frozenset[int]
    """Keys of the question's numbers that it starts from, 1 and 2 excepted."""

    @property
    def value(self) -> int:
        """Return the key of its true value."""
        return key(self.equation.computed)

    def same_as(self, other: "Node") -> bool:
        """Return whether both are one computation in some reading of their numbers."""
        return bool(set(self.residues) & set(other.residues) - {None})

    @property
    def undoes(self) -> bool:
        """Return whether it takes an earlier one back to a number of the question: 18 - 10, where 18 is 8 + 10."""
        (product, share), *others = self.terms.items()
        return bool(self.sources) and not others and share == 1 and sum(abs(power) for _, power in product) <= 1

    def arrives_at(self, right: "Node") -> bool:
        """Return whether it computes what the rationale does, from all of its numbers.

        In 8 - 5 + 10 + 5 two numbers of the question cancel each other; 8 + 10 leaves both out.
        """
        return self.same_as(right) and self.leaves >= right.leaves


def derive(steps: Iterable[Step], given: frozenset[int]) -> tuple[Node, ...]:
    """Return the equations of a path or rationale in order; ``given`` has the keys of the question's numbers."""
    nodes: list[Node] = []
    by_value: dict[int, list[int]] = {}
    percentages: set[int] = set()
    for number, step in enumerate(steps):
        for equation in step.equations:
            if len(nodes) == MAX_NODES:
                return tuple(nodes)
            computed = _resolve(equation, by_value, percentages, given, computed_first=True)
            stated = _resolve(equation, by_value, percentages, given, computed_first=False)
            residues = tuple(
                _residue(equation, sources, nodes, given, 2 * order + fixed, fixed=bool(fixed))
                for order, sources in enumerate((computed, stated))
                for fixed in (0, 1)
            )
            terms = _terms(equation, computed, nodes, given)
            sources = tuple(source for source in computed if source is not None)
            nodes.append(Node(number, equation, residues, terms, sources, _leaves(equation, computed, nodes, given)))
            if equation.text.endswith("%"):
                percentages.add(len(nodes) - 1)
            for value in {key(equation.value), key(equation.computed)}:
                by_value.setdefault(value, []).append(len(nodes) - 1)
    return tuple(nodes)


def _resolve(
    equation: Equation,
    by_value: dict[int, list[int]],
    percentages: set[int],
    given: frozenset[int],
    *,
    computed_first: bool,
) -> list[int | None]:
    """Return for each operand the earlier equation that it comes from, or None for a number of its own.

    An equation is used once: in ``4 + 4`` the second 4 is an earlier other 4, or the question's.
    """
    sources: list[int | None] = []
    for operand in equation.operands:
        number = key(operand)
        computed = by_value.get(number, ())
        if not computed and number not in given and 0 < operand < 2:
            computed = [node for node in by_value.get(key(operand * 100), ()) if node in percentages]
        fresh = next((node for node in reversed(computed) if node not in sources), None)
        if number in given and (not computed_first or fresh is None):
            sources.append(None)
        else:
            sources.append(fresh if fresh is not None else (computed[-1] if computed else None))
    return sources


def _leaves(equation: Equation, sources: list[int | None], nodes: list[Node], given: frozenset[int]) -> frozenset[int]:
    leaves: set[int] = set()
    for operand, source in zip(equation.operands, sources, strict=True):
        if source is not None:
            leaves |= nodes[source].leaves
        elif (percent := percentage_of(operand, given)) is not None:
            leaves.add(percent[2])
        elif key(operand) in given and abs(operand) > 2:
            leaves.add(key(operand))
    return frozenset(leaves)


def percentage_of(number: Fraction, given: frozenset[int]) -> tuple[Fraction, Fraction, int] | None:
    """Return ``(a, b, p)`` where the number is ``a + b * p / 100`` for a percentage p of the question: .8 of 20 %."""
    if key(number) in given:
        return None
    for whole, sign in ((0, 1), (1, -1), (1, 1)):
        percent = (number - whole) * sign * 100
        if percent > 0 and key(percent) in given and (whole == 0 or percent < 100):
            return Fraction(whole), Fraction(sign), key(percent)
    return None


@lru_cache(maxsize=4096)
def _symbol(number: int) -> int:
    """Return the residue that stands for a number of the question."""
    return int.from_bytes(blake2b(str(number).encode(), digest_size=8).digest()) % (PRIME - 1) + 1


def _plain(number: Fraction) -> int:
    return number.numerator * pow(number.denominator, -1, PRIME) % PRIME


def _residue(
    equation: Equation,
    sources: list[int | None],
    nodes: list[Node],
    given: frozenset[int],
    reading: int,
    *,
    fixed: bool,
) -> int | None:
    stack: list[int] = []
    for item in equation.postfix:
        if isinstance(item, int):
            source, number = sources[item], equation.operands[item]
            if source is not None:
                known = nodes[source].residues[reading]
                if known is None:
                    return None
                stack.append(known * _plain(_scale(number, nodes[source])) % PRIME)
                continue
            percent = percentage_of(number, given)
            if percent is not None:
                whole, sign, part = percent
                stack.append((_plain(whole) + _plain(sign / 100) * _symbol(part)) % PRIME)
            elif key(number) in given and not (fixed and number in {1, 2}):
                stack.append(_symbol(key(number)))
            else:
                stack.append(_plain(number))
            continue
        right, left = stack.pop(), stack.pop()
        if item == "+":
            stack.append((left + right) % PRIME)
        elif item == "-":
            stack.append((left - right) % PRIME)
        elif item in {"/", "÷"}:
            if not right:
                return None
            stack.append(left * pow(right, -1, PRIME) % PRIME)
        elif item == "^":
            return None
        else:
            stack.append(left * right % PRIME)
    return stack[0]


def _scale(operand: Fraction, source: Node) -> Fraction:
    """Return by what an operand differs from the equation it comes from: 0.95 is a hundredth of 95 %."""
    values = {key(source.equation.value), key(source.equation.computed)}
    return Fraction(1) if key(operand) in values else Fraction(1, 100)


def _terms(equation: Equation, sources: list[int | None], nodes: list[Node], given: frozenset[int]) -> Terms:
    """Return an equation multiplied out over the numbers it starts from."""
    stack: list[Terms] = []
    for item in equation.postfix:
        if isinstance(item, int):
            source, number = sources[item], equation.operands[item]
            if source is None:
                stack.append(_leaf(number, given))
            else:
                scale = _scale(number, nodes[source])
                stack.append({product: share * scale for product, share in nodes[source].terms.items()})
            continue
        right, left = stack.pop(), stack.pop()
        result: dict[Product, Fraction] = {}
        if item in {"+", "-"}:
            result.update(left)
            for product, share in right.items():
                result[product] = result.get(product, Fraction(0)) + (share if item == "+" else -share)
        elif item in {"*", "of"} and len(left) * len(right) <= MAX_TERMS:
            for one, share in left.items():
                for other, factor in right.items():
                    product = times(one, other, 1)
                    result[product] = result.get(product, Fraction(0)) + share * factor
        elif item in {"/", "÷"} and len(right) == 1:
            (divisor, factor), *_ = right.items()
            result = {times(product, divisor, -1): share / factor for product, share in left.items()}
        result = {product: share for product, share in result.items() if share}
        stack.append(result if 0 < len(result) <= MAX_TERMS else _leaf(equation.computed, given))
    return stack[0]


def _leaf(number: Fraction, given: frozenset[int]) -> Terms:
    percent = percentage_of(number, given)
    if percent is not None:
        whole, sign, part = percent
        share: Product = tuple(sorted([(Fraction(part, 100), 1), (Fraction(100), -1)]))
        return {(): whole, share: sign} if whole else {share: sign}
    if abs(number) in {0, 1}:
        return {(): number}
    if number.numerator in {1, -1}:
        return {((Fraction(number.denominator), -1),): Fraction(number.numerator)}
    if number.denominator <= 12 and number.denominator > 1 and key(Fraction(number.denominator)) in given:
        return {tuple(sorted([(Fraction(abs(number.numerator)), 1), (Fraction(number.denominator), -1)])): Fraction(1)}
    return {((abs(number), 1),): Fraction(1 if number > 0 else -1)}


def times(left: Product, right: Product, sign: int) -> Product:
    """Return the product of two products, or their quotient where ``sign`` is -1."""
    exponents = dict(left)
    for number, exponent in right:
        exponents[number] = exponents.get(number, 0) + sign * exponent
    return tuple(sorted((number, exponent) for number, exponent in exponents.items() if exponent))


def is_part_of(part: Terms, whole: Terms) -> bool:
    """Whether ``part``, times some further factors, is some of the terms of ``whole``, up to sign."""
    first, coefficient = next(iter(part.items()), ((), Fraction(0)))
    if not coefficient or len(part) > len(whole):
        return False
    for product, share in whole.items():
        ratio = share / coefficient
        if abs(ratio) != 1 or not _holds(product, first):
            continue
        rest = times(product, first, -1)
        if all(
            _holds(times(own, rest, 1), own) and whole.get(times(own, rest, 1)) == ratio * amount
            for own, amount in part.items()
        ):
            return True
    return False


def _holds(product: Product, factors: Product) -> bool:
    exponents = dict(product)
    return all(exponents.get(n, 0) * e > 0 and abs(exponents[n]) >= abs(e) for n, e in factors)
