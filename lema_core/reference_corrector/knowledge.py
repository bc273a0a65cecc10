"""What a gold rationale establishes: its steps with their values, and every value a sound path may pass through."""

import re
from dataclasses import dataclass
from fractions import Fraction

from lema_core.reference_corrector.equations import (
    MAX_TERMS,
    Equation,
    equations,
    key,
    keys,
    known_numbers,
    numbers,
    subset_sums,
)
from lema_core.steps import split_path, strip_marks

_UNKNOWN = re.compile(
    r"\b(?:let|assume)\b|(?<![A-Za-z'’])[b-hj-wyzB-HJ-WYZ](?![A-Za-z'’.])|\d[a-zA-Z]\b\s*[=+*/-]", re.IGNORECASE
)
_MAX_TERMS_SUM = 12


@dataclass(frozen=True, slots=True)
class Step:
    """One step of a path or a rationale with what it computes."""

    text: str
    """Without calculator marks."""
    equations: tuple[Equation, ...]

    @property
    def value(self) -> Fraction | None:
        """Return what the step arrives at: its last equation's value, else the last number it states."""
        if self.equations:
            return self.equations[-1].value
        stated = numbers(self.text)
        return stated[-1] if stated else None

    @property
    def values(self) -> list[Fraction]:
        """Return the values of all its equations."""
        return [equation.value for equation in self.equations]


@dataclass(frozen=True, slots=True)
class Knowledge:
    """What is known of a question: the numbers it gives and the values of its gold rationale."""

    given: frozenset[int]
    """Keys of the numbers in the question."""
    steps: tuple[Step, ...]
    """The gold rationale's steps."""
    computed: frozenset[int]
    """Keys of every value a sound path may compute: the rationale's, its parts in another order, complements."""
    mentioned: frozenset[int]
    """Keys of every number that occurs in the rationale."""

    @property
    def algebraic(self) -> bool:
        """Whether the rationale works with an unknown, so that its steps depend on each other beyond their numbers."""
        return any(_UNKNOWN.search(step.text) for step in self.steps)


def read_steps(path_text: str) -> tuple[Step, ...]:
    """Return the steps of a path or rationale with their equations."""
    return tuple(
        Step(" ".join(strip_marks(step).split()), tuple(equations(step)))
        for step in split_path(path_text, keep_marks=True).steps
    )


def know(question: str, rationale: str, gold: str) -> Knowledge:
    """Return what question, gold rationale and gold answer establish."""
    steps = read_steps(rationale)
    sound: set[int] = keys(numbers(gold))
    mentioned: set[int] = keys(numbers(gold))
    terms: dict[int, list[Fraction]] = {}
    for step in steps:
        mentioned |= known_numbers(step.text)
        for equation in step.equations:
            sound |= keys([equation.value, *equation.partial])
            mentioned |= keys([equation.value, *equation.operands])
            expanded = _terms(equation, terms)
            terms[key(equation.value)] = expanded
            sound |= keys(expanded if len(expanded) > 1 else [])
            sound |= keys(subset_sums(expanded)) | _complements(equation)
        if not step.equations and step.value is not None:
            sound.add(key(step.value))
    return Knowledge(frozenset(known_numbers(question)), steps, frozenset(sound), frozenset(mentioned))


def _terms(equation: Equation, terms: dict[int, list[Fraction]]) -> list[Fraction]:
    """Write a value as a sum over the terms of the values it is made from: ``(a + b) * c`` is ``ac + bc``.

    A path may add and multiply in another order than the rationale; the parts of such a sum are sound on the way.
    """
    signs = _signs(equation)
    if signs is not None:
        parts = [[sign * term for term in terms.get(key(operand), [operand])] for operand, sign in signs]
        summed = [term for part in parts for term in part]
        return summed if len(summed) <= MAX_TERMS else [sign * operand for operand, sign in signs][:_MAX_TERMS_SUM]
    if len(equation.operands) == 2 and equation.operators in {("*",), ("/",), ("of",)}:
        left, right = equation.operands
        divides = equation.operators == ("/",)
        if len(terms.get(key(left), [])) > 1 and right:
            return [term / right if divides else term * right for term in terms[key(left)]]
        if len(terms.get(key(right), [])) > 1 and not divides:
            return [term * left for term in terms[key(right)]]
    return [equation.value]


def _signs(equation: Equation) -> list[tuple[Fraction, int]] | None:
    if not set(equation.operators) <= {"+", "-"} or len(equation.operands) != len(equation.operators) + 1:
        return None
    signs = [1, *(1 if operator == "+" else -1 for operator in equation.operators)]
    return list(zip(equation.operands, signs, strict=True))


def _complements(equation: Equation) -> set[int]:
    """Return ``1 - p`` and ``1 + p``, also in percent and applied, for a share p that the equation takes."""
    if len(equation.operands) != 2 or equation.operators not in {("*",), ("of",)}:
        return set()
    found: set[int] = set()
    for share, whole in (equation.operands, equation.operands[::-1]):
        if 0 < share < 1:
            found |= keys([1 - share, 1 + share, 100 * (1 - share), 100 * (1 + share), 100 * share])
            found |= keys([whole * (1 - share), whole * (1 + share)])
    return found
