"""What a gold rationale establishes: its steps with their values, and every value a sound path may pass through."""

import re
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

from lema_core.reference_corrector.equations import (
    Equation,
    equations,
    given_numbers,
    key,
    keys,
    known_numbers,
    numbers,
)
from lema_core.reference_corrector.expansion import Expander, Expansion
from lema_core.steps import split_path, strip_marks

_UNKNOWN = re.compile(
    r"\b(?:let|assume)\b|(?<![A-Za-z'’])[b-hj-wyzB-HJ-WYZ](?![A-Za-z'’.])|\d[a-zA-Z]\b\s*[=+*/-]", re.IGNORECASE
)


_SIGNS = {"plus": "+", "minus": "-", "times": "*", "multiplied": "*", "divided": "/", "equals": "=", "equal": "="}
_SPELLED = re.compile(
    r"(?<=[\d%)])\s+(plus|minus|times|multiplied by|divided by|equals|equal to)\s+(?=[\d$(])", re.IGNORECASE
)


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
        Step(" ".join(strip_marks(step).split()), tuple(equations(_in_signs(step))))
        for step in split_path(path_text, keep_marks=True).steps
    )


def _in_signs(step: str) -> str:
    """Write spelled-out operations with signs: ``9 plus 3 equals 12``."""
    return _SPELLED.sub(lambda found: f" {_SIGNS[found[1].lower().split()[0]]} ", step)


@lru_cache(maxsize=512)
def know(question: str, rationale: str, gold: str) -> Knowledge:
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
    return Knowledge(given, stated, steps, frozenset(sound), tuple(expansions), frozenset(mentioned))
