"""What a gold rationale establishes: its steps with their values, and every value a sound path may pass through.

Values are compared up to rounding to cents (``key``). Computations are compared as sums of products of the numbers they
start from: two orders of one sum or product have one expansion, ``20 - 12 - 4`` and ``20 - (12 + 4)``. A step that is a
running total of the rationale's sum is no mistake, even where its value never occurs there. Products of sums are not
multiplied out: the parts of ``(20 - 5) * 3`` that this would make (``20 * 3``) are mistakes more often than detours.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

from lema_core.step_checker.equations import Equation, equations, numbers
from lema_core.steps import split_path, strip_marks

_WORDS_OF = {
    "0": "zero none",
    "1": "one single once",
    "2": "two twice double doubled couple pair both",
    "3": "three thrice triple",
    "4": "four quadruple",
    "7": "seven",
    "12": "twelve dozen",
    "100": "hundred",
    "1000": "thousand",
    "1/2": "half halves",
    "1/3": "third",
    "1/4": "quarter fourth",
    "1/5": "fifth",
}
_PLAIN_WORDS = "five six - eight nine ten eleven - thirteen fourteen fifteen sixteen seventeen eighteen nineteen twenty"
_TENS = "twenty thirty forty fifty - seventy eighty ninety"
_NUMBER_WORDS = (
    {word: Fraction(value) for value, words in _WORDS_OF.items() for word in words.split()}
    | {word: Fraction(value) for value, word in enumerate(_PLAIN_WORDS.split(), 5) if word != "-"}
    | {word: Fraction(10 * value) for value, word in enumerate(_TENS.split(), 2) if word != "-"}
)
_IMPLIED = {
    word: Fraction(value)
    for value, words in {
        "7": "week weekly",
        "12": "year month",
        "24": "day",
        "52": "year",
        "60": "hour minute",
        "100": "percent",
    }.items()
    for word in words.split()
}
"""Numbers that a unit brings along: any solution may use them, although no question states them."""
MAX_PRODUCTS = 12
"""A longer sum is taken as one number."""
Product = tuple[tuple[Fraction, int], ...]
"""Numbers with their exponents, in order; a division has the exponent -1."""
Expansion = Mapping[Product, Fraction]
"""Products with their coefficients."""
_UNKNOWN = re.compile(
    r"\b(?:let|assume)\b|(?<![A-Za-z'’])[b-hj-wyzB-HJ-WYZ](?![A-Za-z'’.])|\d[a-zA-Z]\b\s*[=+*/-]", re.IGNORECASE
)
_SIGNS = {"plus": "+", "minus": "-", "times": "*", "multiplied": "*", "divided": "/", "equals": "=", "equal": "="}
_SPELLED = re.compile(
    r"(?<=[\d%)])\s+(plus|minus|times|multiplied by|divided by|equals|equal to)\s+(?=[\d$(])", re.IGNORECASE
)


def key(value: Fraction) -> int:
    """Return what two values share that are the same up to rounding to cents."""
    return round(value * 100)


def keys(values: Iterable[Fraction]) -> set[int]:
    """Return the keys of several values."""
    return {key(value) for value in values}


def given_numbers(text: str) -> set[int]:
    """Return the keys of all numbers a text gives, in digits or words (``half``, ``a dozen``)."""
    return keys([*numbers(text), *(_NUMBER_WORDS[word] for word in _words(text) if word in _NUMBER_WORDS)])


def known_numbers(text: str) -> set[int]:
    """Return the keys of the numbers a text gives and of those that its units bring along (``per week``)."""
    implied = {"%": Fraction(100)} | _IMPLIED
    return given_numbers(text) | keys(
        implied[word] for word in [*_words(text), *re.findall("%", text)] if word in implied
    )


def _words(text: str) -> list[str]:
    words = re.findall(r"[a-z]+", text.lower())
    return [*words, *(word[:-1] for word in words if word.endswith("s"))]


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
                result: dict[Product, Fraction] = {}
                if item in {"+", "-"}:
                    result.update(left)
                    for product, share in right.items():
                        result[product] = result.get(product, Fraction(0)) + (share if item == "+" else -share)
                elif len(left) == len(right) == 1 and item in {"*", "of", "/"}:
                    (one, share), (other, factor) = next(iter(left.items())), next(iter(right.items()))
                    divides = item == "/"
                    result[_times(one, other, -1 if divides else 1)] = share / factor if divides else share * factor
                result = {product: share for product, share in result.items() if share}
                stack.append((result if 0 < len(result) <= MAX_PRODUCTS else None) or _leaf(equation.computed))
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


def _times(left: Product, right: Product, sign: int) -> Product:
    exponents = dict(left)
    for number, exponent in right:
        exponents[number] = exponents.get(number, 0) + sign * exponent
    return tuple(sorted((number, exponent) for number, exponent in exponents.items() if exponent))


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
class GoldRationale:
    """What is known of a question: the numbers it gives and the values of its gold rationale."""

    given: frozenset[int]
    """Keys of the numbers in the question."""
    stated: frozenset[int]
    """Of these, the ones that stand there as numbers; the others come with units, as 60 with hours."""
    steps: tuple[Step, ...]
    """The gold rationale's steps."""
    computed: frozenset[int]
    """Keys of the values that the rationale computes."""
    expansions: tuple[Expansion, ...]
    """The rationale's equations, expanded."""
    mentioned: frozenset[int]
    """Keys of every number that occurs in the rationale."""

    @property
    def algebraic(self) -> bool:
        """Whether the rationale works with an unknown, so that its steps depend on each other beyond their numbers."""
        return any(_UNKNOWN.search(step.text) for step in self.steps)


def read_steps(path_text: str) -> tuple[Step, ...]:
    """Return the steps of a path or rationale with their equations."""
    return tuple(
        Step(" ".join(strip_marks(step).split()), tuple(equations(_SPELLED.sub(_in_signs, step))))
        for step in split_path(path_text, keep_marks=True).steps
    )


def _in_signs(spelled: re.Match[str]) -> str:
    """Write a spelled-out operation as a sign: ``9 plus 3 equals 12``."""
    return f" {_SIGNS[spelled[1].lower().split()[0]]} "


@lru_cache(maxsize=512)
def analyze(question: str, rationale: str, gold: str) -> GoldRationale:
    """Return what question, gold rationale and gold answer establish."""
    steps = read_steps(rationale)
    sound: set[int] = keys(numbers(gold))
    mentioned: set[int] = keys(numbers(gold))
    expander, expansions = Expander(), []
    for step in steps:
        mentioned |= known_numbers(step.text)
        for equation in step.equations:
            sound.add(key(equation.value))
            expansions.append(expander.expand(equation))
            mentioned |= keys([equation.value, *equation.operands])
        if not step.equations and step.value is not None:
            sound.add(key(step.value))
    given, stated = frozenset(known_numbers(question)), frozenset(given_numbers(question))
    return GoldRationale(given, stated, steps, frozenset(sound), tuple(expansions), frozenset(mentioned))
