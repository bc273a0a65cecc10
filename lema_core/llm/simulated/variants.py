"""New questions made from known ones: other numbers, other names, the rationale computed again.

Nothing is remembered: from the text of a variant alone, its skeleton (numbers and names masked) finds the question it
came from, and the differences give its rationale. So a restarted server still knows every variant it ever made.
"""

import random
import re
from collections.abc import Iterable
from fractions import Fraction
from typing import TypeVar

from lema_core.llm.simulated.rewriting import numbers_of, rewrite, substitute
from lema_core.reference_corrector import Problem
from lema_core.reference_corrector.repair import plain
from lema_core.steps import render_path, split_path

T = TypeVar("T")

LEAD_IN = "Here is a related question. "
"""Stands before a variant of a question that has no numbers to change."""
TRIES = 12
_NUMBER = re.compile(r"\d+(?:,\d{3})*(?:\.\d+)?")
_CAPITAL = re.compile(r"\b[A-Z][a-z]+\b")
_NAME = re.compile(r"(?<=[a-z,] )[A-Z][a-z]{2,}\b")
_NO_NAMES = frozenset(
    re.findall(
        r"\w+",
        "Monday Tuesday Wednesday Thursday Friday Saturday Sunday January February March April May June July August "
        "September October November December How What Christmas Easter Halloween English Spanish French",
    )
)
_POOL = tuple(
    re.findall(r"\w+", "Alba Bruno Carla Dario Edith Felix Greta Hugo Irma Jonas Kira Lukas Mara Nils Olga Petra")
)


def vary(problem: Problem, rng: random.Random) -> str:
    """Return the text of a new question like this one."""
    for _ in range(TRIES):
        numbers = _new_numbers(problem.question, rng)
        text = _renamed(substitute(problem.question, numbers), rng)
        if numbers and _answer(problem, numbers) is not None:
            return text
    return LEAD_IN + problem.question


def _new_numbers(text: str, rng: random.Random) -> dict[Fraction, Fraction]:
    distinct = [number for number in dict.fromkeys(numbers_of(text)) if number.denominator == 1 and number > 1]
    return {number: _changed(number, rng) for number in distinct}


def _changed(number: Fraction, rng: random.Random) -> Fraction:
    if number <= 20:
        return Fraction(rng.choice([n for n in range(max(2, int(number) - 3), int(number) + 6) if n != number]))
    return number * rng.choice((2, 3, 4)) if number % 2 else number * rng.choice((Fraction(1, 2), 2, 3))


def _renamed(text: str, rng: random.Random) -> str:
    names = [name for name in dict.fromkeys(_NAME.findall(text)) if name not in _NO_NAMES]
    drawn = dict(zip(names, rng.sample(_POOL, min(len(names), len(_POOL))), strict=False))
    return _CAPITAL.sub(lambda found: drawn.get(found[0], found[0]), text)


def _answer(problem: Problem, numbers: dict[Fraction, Fraction]) -> tuple[list[str], str] | None:
    """Return the rationale's steps and the answer for other numbers, None where they do not work out."""
    worked = split_path(problem.rationale).steps if problem.rationale else ()
    if not worked or numbers_of(worked[-1])[-1:] != numbers_of(problem.gold):
        return None
    steps = rewrite(worked, {number: number for number in numbers_of(problem.question)} | numbers)
    arrived = numbers_of(steps[-1])[-1] if steps else Fraction(0)
    return (steps, plain(arrived)) if steps and arrived > 0 else None


class Skeletons:
    """Known questions by their skeleton."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self._known: dict[str, Problem] = {}
        for problem in problems:
            self._known.setdefault(_skeleton(problem.question), problem)

    def derive(self, question: str) -> Problem | None:
        """Return a variant with its rationale and gold answer, None if no known question has its skeleton."""
        text = question.strip().removeprefix(LEAD_IN)
        source = self._known.get(_skeleton(text))
        if source is None:
            return None
        numbers = _differences(numbers_of(source.question), numbers_of(text))
        names = _differences(_CAPITAL.findall(source.question), _CAPITAL.findall(text))
        if not numbers:
            return Problem(question, source.gold, _named(source.rationale, names), source.candidates)
        worked = _answer(source, numbers)
        if worked is None:
            return None
        steps, gold = worked
        return Problem(question, gold, _named(render_path(steps, f"The answer is {gold}."), names), source.candidates)


def _differences(old: list[T], new: list[T]) -> dict[T, T]:
    return {before: after for before, after in zip(old, new, strict=False) if before != after}


def _named(rationale: str | None, names: dict[str, str]) -> str | None:
    return rationale and _CAPITAL.sub(lambda found: names.get(found[0], found[0]), rationale)


def _skeleton(text: str) -> str:
    return " ".join(_CAPITAL.sub("@", _NUMBER.sub("#", text)).split()).casefold()
