"""A mistake beside its correction, cut into steps whose difference is marked.

The text is a model's: it is cut and compared here, never interpreted; the templates escape it.
"""

import re
from dataclasses import dataclass
from difflib import SequenceMatcher
from itertools import zip_longest

from lema_core.records import Correction
from lema_core.steps import split_path

__all__ = ["Pair", "PairRow", "Span", "StepView", "pair_of"]


@dataclass(frozen=True, slots=True)
class Span:
    """A piece of a step; ``changed`` where the other side says something else there."""

    text: str
    changed: bool


@dataclass(frozen=True, slots=True)
class StepView:
    """One line of a solution: its number (None for the answer line and for shapes without steps) and marked text."""

    number: int | None
    spans: tuple[Span, ...]
    state: str
    """same, wrong (the step that is wrong), after (what followed from it) or corrected."""

    @property
    def text(self) -> str:
        """The line without marks."""
        return "".join(span.text for span in self.spans)


@dataclass(frozen=True, slots=True)
class PairRow:
    """The lines of both sides that stand beside each other; None where one side has no more."""

    mistake: StepView | None
    correction: StepView | None


@dataclass(frozen=True, slots=True)
class Pair:
    """One correction as a reader sees it."""

    correction: Correction
    rows: tuple[PairRow, ...]


_WORD = re.compile(r"\s+|\d[\d,.]*\d|\w+|[^\w\s]")
_ALIKE = 0.5
"""Below this share of common words, marks would cover everything and say nothing."""


def pair_of(correction: Correction) -> Pair:
    """Return the correction as aligned rows: the unchanged steps, then what was wrong against what is right."""
    mistaken, corrected = split_path(correction.original), split_path(correction.spliced)
    steps = enumerate(zip_longest(mistaken.steps, corrected.steps), start=1)
    rows = [_step_row(number, left, right, correction.step) for number, (left, right) in steps]
    if mistaken.answer_line or corrected.answer_line:
        rows.append(_row(None, mistaken.answer_line, corrected.answer_line, "after"))
    return Pair(correction, tuple(rows))


def _step_row(number: int, left: str | None, right: str | None, wrong: int) -> PairRow:
    if wrong == 0:  # CommonsenseQA's shape names no step: its lines are explanations of the candidates
        return _row(None, left, right, "wrong")
    if number < wrong:
        return PairRow(_plain(number, left, "same"), _plain(number, right, "same"))
    return _row(number, left, right, "wrong" if number == wrong else "after")


def _row(number: int | None, left: str | None, right: str | None, state: str) -> PairRow:
    if left is None or right is None:
        return PairRow(_plain(number, left, state), _plain(number, right, "corrected"))
    marked_left, marked_right = _marked(left, right)
    return PairRow(StepView(number, marked_left, state), StepView(number, marked_right, "corrected"))


def _plain(number: int | None, text: str | None, state: str) -> StepView | None:
    return None if text is None else StepView(number, (Span(text, changed=False),), state)


def _marked(left: str, right: str) -> tuple[tuple[Span, ...], tuple[Span, ...]]:
    left_words, right_words = _WORD.findall(left), _WORD.findall(right)
    # Spaces would make any two sentences alike.
    said_left, said_right = ([w for w in words if not w.isspace()] for words in (left_words, right_words))
    if SequenceMatcher(a=said_left, b=said_right, autojunk=False).ratio() < _ALIKE:
        return (Span(left, changed=False),), (Span(right, changed=False),)
    matcher = SequenceMatcher(a=left_words, b=right_words, autojunk=False)
    marked: tuple[list[Span], list[Span]] = ([], [])
    for kind, left_from, left_to, right_from, right_to in matcher.get_opcodes():
        pieces = "".join(left_words[left_from:left_to]), "".join(right_words[right_from:right_to])
        for spans, piece in zip(marked, pieces, strict=True):
            if piece:
                spans.append(Span(piece, changed=kind != "equal" and not piece.isspace()))
    return tuple(marked[0]), tuple(marked[1])
