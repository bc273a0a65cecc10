r"""What stands in ``\boxed{...}``: the braces that belong together, and boxes that are one answer together."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from lema_core.answers.results import Family

MAX_BRACES = 5_000
"""A box that holds more is given up."""

OPENING = re.compile(r"\\(?:boxed|fbox|beginboxed)(?=[ {])")
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)
_BARE_END = re.compile(r"[$\n]|\.(?![0-9])")
_CONNECTOR = re.compile(r"[,;+&]|\b(?:and|or)\b|quad")
_JOINED = re.compile(r"(?:[\s,;$.+\\]|\\[\])(\[]|\\quad|\\text\s*\{[^{}]{0,40}\}|\b(?:and|or)\b){0,12}")
_APPROXIMATELY = re.compile(
    r"""[\s$\\,;.()\[\]]*(?:\\?approx|\\?simeq|\\?cong|\\?thickapprox|≈|≃|≅|~)[\s$\\()\[\]]*
    |[\s$\\,;.()\[\]]*(?:or|which\ is|that\ is|i\.e\.)?,?\s*(?:approximately|about|roughly|around|nearly)
        [\s$\\()\[\]]*(?:equal\ to\s*)?[\s$\\()\[\]]*""",
    re.VERBOSE,
)
MAX_GAP = 80
"""Characters between two boxes that belong together."""


@dataclass(frozen=True, slots=True)
class Box:
    """The box of one cue: what is in it and where it ends; a box that is not closed has no content."""

    content: str | None
    start: int
    end: int


def find_boxes(text: str, places: Sequence[tuple[int, int]]) -> dict[int, Box]:
    r"""Return the boxes whose ``\boxed`` stands at ``places`` (start, end), by their starts, in one pass over the text.

    ``\boxed 5`` reaches to the end of its formula, line or sentence.
    """
    found: dict[int, Box] = {}
    braced: dict[int, int] = {}
    for start, end in places:
        if text[end : end + 1] == " " and text[end : end + 2] != " {":
            found[start] = _bare(text, start, end)
        else:
            braced[text.find("{", end)] = start
    if braced:
        found |= _braced(text, braced)
    return found


def _bare(text: str, start: int, at: int) -> Box:
    end = _BARE_END.search(text, at + 1)
    stop = end.start() if end else len(text)
    return Box(text[at:stop].strip() if stop - at < 200 else None, start, stop)


def _braced(text: str, openings: dict[int, int]) -> dict[int, Box]:
    """Close the braces at ``openings`` (brace, start of its cue) with one stack over the text."""
    found = {start: Box(None, start, len(text)) for start in openings.values()}
    stack: list[tuple[int, int]] = []
    count = 0
    for brace in _BRACE.finditer(text, min(openings)):
        sign = brace.group()
        if sign == "{":
            stack.append((brace.start(), count))
        elif sign == "}" and stack:
            opening, before = stack.pop()
            start = openings.get(opening)
            if start is not None and count - before <= MAX_BRACES:
                found[start] = Box(text[opening + 1 : brace.start()], start, brace.end())
        else:
            continue
        count += 1
    return found


def joined(text: str, last: Box, earlier: Sequence[Box], family: Family) -> tuple[str | None, str | None]:
    r"""Return the content of the last box of an answer with the boxes joined to it, and another reading of it.

    LaTeX boxes joined by commas or words are one answer of several parts. Of ``\boxed{\frac13} \approx \boxed{0.333}``
    the answer is the first, and the second is its other reading.
    """
    if last.content is None:
        return None, None
    parts, start = [last.content], last.start
    for box in reversed(earlier):
        if box.content is None or box.end > start or start - box.end > MAX_GAP:
            break
        gap = text[box.end : start]
        if _APPROXIMATELY.fullmatch(gap):
            return (box.content, last.content) if len(parts) == 1 else (_list(parts), None)
        if family != "latex" or not _JOINED.fullmatch(gap) or (gap and not _CONNECTOR.search(gap)):
            break
        parts.append(box.content)
        start = box.start
    return _list(parts), None


def _list(parts: Sequence[str]) -> str:
    return ", ".join(dict.fromkeys(reversed(parts)))
