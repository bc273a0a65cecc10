"""What a gold rationale establishes: its steps with their values, and the numbers that a sound path may use."""

import re
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

from lema_core.reference_corrector.derivation import Node, derive, key, keys
from lema_core.reference_corrector.reading import Step, read_steps
from lema_core.step_checker.equations import numbers

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
_UNKNOWN = re.compile(
    r"\b(?:let|assume)\b|(?<![A-Za-z'’])[b-hj-wyzB-HJ-WYZ](?![A-Za-z'’.])|\d[a-zA-Z]\b\s*[=+*/-]", re.IGNORECASE
)


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
    nodes: tuple[Node, ...]
    """The rationale's equations with what they compute."""
    mentioned: frozenset[int]
    """Keys of every number that occurs in the rationale."""

    @property
    def known(self) -> frozenset[int]:
        """Return the keys of the numbers that a sound step may state without computing them."""
        return self.given | self.mentioned | {0, 100}

    @property
    def algebraic(self) -> bool:
        """Whether the rationale works with an unknown, so that its steps depend on each other beyond their numbers."""
        return any(_UNKNOWN.search(step.text) for step in self.steps)


@lru_cache(maxsize=512)
def analyze(question: str, rationale: str, gold: str) -> GoldRationale:
    """Return what question, gold rationale and gold answer establish."""
    steps = read_steps(rationale)
    sound: set[int] = keys(numbers(gold))
    mentioned: set[int] = keys(numbers(gold))
    for step in steps:
        mentioned |= known_numbers(step.text)
        for equation in step.equations:
            sound.add(key(equation.value))
            mentioned |= keys([equation.value, *equation.operands])
        if not step.equations and step.value is not None:
            sound.add(key(step.value))
    given, stated = frozenset(known_numbers(question)), frozenset(given_numbers(question))
    return GoldRationale(given, stated, steps, frozenset(sound), derive(steps, given), frozenset(mentioned))
