"""Worked solutions with other numbers: substitute some, compute again whatever depends on them."""

import re
from collections.abc import Mapping, Sequence
from fractions import Fraction

from lema_core.reference_corrector.repair import plain
from lema_core.step_checker.equations import Equation, equations

_NUMBER = re.compile(r"(?<![\w.,])\d{1,3}(?:,\d{3})+(?:\.\d+)?|(?<![\d.,])\d+(?:\.\d+)?")
LARGEST = 10**9


def numbers_of(text: str) -> list[Fraction]:
    """Return the numbers a text has in digits, in order."""
    return [_value(found) for found in _NUMBER.findall(text)]


def substitute(text: str, mapping: Mapping[Fraction, Fraction]) -> str:
    """Replace every number of the text that the mapping names."""

    def replaced(found: re.Match[str]) -> str:
        value = _value(found[0])
        return plain(mapping[value]) if value in mapping else found[0]

    return _NUMBER.sub(replaced, text) if mapping else text


def rewrite(steps: Sequence[str], mapping: Mapping[Fraction, Fraction]) -> list[str] | None:
    """Return the steps with the numbers replaced and every result computed again.

    Results that changed are replaced in the later steps as well. None where that leads to numbers that are not
    sensible (negative, endless decimals), where a step cannot be read any more, or where one number of the steps would
    have to become two (a given 4 and a computed 4): nobody can say which of them a later step means.
    """
    known = dict(mapping)
    rewritten = []
    for step in steps:
        text = _recomputed(step, known)
        if text is None:
            return None
        rewritten.append(text)
    return rewritten


def _recomputed(step: str, known: dict[Fraction, Fraction]) -> str | None:
    text = substitute(step, known)
    before = equations(step)
    for index, was in enumerate(before):
        after = equations(text)
        if len(after) != len(before):
            return None
        now = after[index]
        if was.computed != was.value:
            continue  # rounded or wrong from the beginning: leave it to its author
        if not sensible(now.computed) or known.setdefault(was.value, now.computed) != now.computed:
            return None
        text = with_result(text, now, now.computed)
    return text


def with_result(text: str, equation: Equation, result: Fraction) -> str:
    """Return the text with another result of an equation, also where the text mentions it afterwards."""
    start, end = equation.span
    return text[:start] + plain(result) + substitute(text[end:], {equation.value: result})


def sensible(value: Fraction) -> bool:
    """Whether a word problem could have this number: not negative, not huge, at most two decimals."""
    return 0 <= value <= LARGEST and (value * 100).denominator == 1


def _value(digits: str) -> Fraction:
    return Fraction(digits.replace(",", ""))
