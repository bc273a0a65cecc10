"""A mistake beside its correction, cut into steps whose difference is marked.

The text is a model's: it is cut and compared here, never interpreted; the templates escape it.
"""

import re
from collections import Counter
from dataclasses import dataclass
from difflib import SequenceMatcher
from itertools import zip_longest

from lema_core.records import Correction
from lema_core.steps import split_path

__all__ = ["AlignedPair", "AlignedRow", "Span", "StepView", "align_correction"]


@dataclass(frozen=True, slots=True)
class Span:
    """A piece of a step; ``changed`` where the other side differs."""

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
class AlignedRow:
    """One row of the two sides; None where a side has no more lines."""

    mistake: StepView | None
    correction: StepView | None


@dataclass(frozen=True, slots=True)
class AlignedPair:
    """One correction as a reader sees it."""

    correction: Correction
    rows: tuple[AlignedRow, ...]


_WORD = re.compile(r"\d[\d,.]*\d|\w+|[^\w\s]")
_ALIKE = 0.5
"""Below this share of common words, marks would cover everything."""
_MAX_WORK = 600_000
"""Comparisons of words for one correction, at most some 50 ms: SequenceMatcher takes cubic time on repeated words, a
minute for 1,000 of them. Two lines of 60 English words take 13,000; what does not fit stays unmarked."""


def align_correction(correction: Correction) -> AlignedPair:
    """Return the correction as aligned rows: the unchanged steps, then what was wrong against what is right."""
    mistaken, corrected = split_path(correction.original), split_path(correction.spliced)
    steps = enumerate(zip_longest(mistaken.steps, corrected.steps), start=1)
    marker = _Marker()
    rows = [_step_row(marker, number, left, right, correction.step) for number, (left, right) in steps]
    if mistaken.answer_line or corrected.answer_line:
        rows.append(_row(marker, None, mistaken.answer_line, corrected.answer_line, "after"))
    return AlignedPair(correction, tuple(rows))


def _step_row(marker: "_Marker", number: int, left: str | None, right: str | None, wrong: int) -> AlignedRow:
    if wrong == 0:  # CommonsenseQA's shape names no step: its lines are explanations of the candidates
        return _row(marker, None, left, right, "wrong")
    if number < wrong:
        return AlignedRow(_plain(number, left, "same"), _plain(number, right, "same"))
    return _row(marker, number, left, right, "wrong" if number == wrong else "after")


def _row(marker: "_Marker", number: int | None, left: str | None, right: str | None, state: str) -> AlignedRow:
    if left is None or right is None:
        return AlignedRow(_plain(number, left, state), _plain(number, right, "corrected"))
    marked_left, marked_right = marker.mark(left, right)
    return AlignedRow(StepView(number, marked_left, state), StepView(number, marked_right, "corrected"))


def _plain(number: int | None, text: str | None, state: str) -> StepView | None:
    return None if text is None else StepView(number, (Span(text, changed=False),), state)


class _Marker:
    """Marks where two lines differ, as long as the work for one correction lasts."""

    def __init__(self) -> None:
        self._work_left = _MAX_WORK

    def mark(self, left: str, right: str) -> tuple[tuple[Span, ...], tuple[Span, ...]]:
        """Return both lines as spans."""
        words = [list(_WORD.finditer(line)) for line in (left, right)]
        said = [[word.group() for word in line] for line in words]
        work = _work(*said)
        if work > self._work_left:
            return (Span(left, changed=False),), (Span(right, changed=False),)
        self._work_left -= work
        matcher = SequenceMatcher(a=said[0], b=said[1], autojunk=False)
        if matcher.ratio() < _ALIKE:
            return (Span(left, changed=False),), (Span(right, changed=False),)
        changes = [opcode[1:] for opcode in matcher.get_opcodes() if opcode[0] != "equal"]
        return (
            _spans(left, words[0], [(start, stop) for start, stop, _, _ in changes]),
            _spans(right, words[1], [(start, stop) for _, _, start, stop in changes]),
        )


def _work(left: list[str], right: list[str]) -> int:
    """Return the most that SequenceMatcher does: per match, one look at every word and every pair of equal words."""
    count = Counter(right)
    equal_pairs = sum(count[word] for word in left)
    return min(equal_pairs, len(left), len(right)) * (len(left) + equal_pairs)


def _spans(line: str, words: list[re.Match[str]], changes: list[tuple[int, int]]) -> tuple[Span, ...]:
    spans, at = [], 0
    for start, stop in changes:
        if start < stop:
            first, last = words[start].start(), words[stop - 1].end()
            spans += [Span(line[at:first], changed=False), Span(line[first:last], changed=True)]
            at = last
    return tuple(span for span in (*spans, Span(line[at:], changed=False)) if span.text)
