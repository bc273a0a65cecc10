r"""The LaTeX of a solution: formulas between delimiters, boxes, and the side of an equation that is the answer.

``$3$ or $5$`` is one answer of two parts, not the first of them; ``\boxed{1}, \boxed{2}`` are one answer together; of
``m+n = 200+56 = 256`` the answer is 256.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from lema_core.answers.results import Family

_OPENING = re.compile(r"\$\$(?=[^$])|(?<!\\)\$(?=[^$])|\\[\[(]")
_DISPLAY_END = re.compile(r"[^$]++(\$\$)?+")
_INLINE_END = re.compile(r"(?:\\.|[^$\\])++(\$)?+", re.DOTALL)
_LIST = re.compile(r"\s*(?:[,;&]|,?\s*\b(?:and|or)\b)\s*")
_OPERATOR = re.compile(r"\s*(?:[-+*/–]|\bto\b)\s*")
_SCALE = re.compile(r"\s*(?:hundred|thousand|million|billion|trillion|dozen)\b")
_ALSO = re.compile(r"\s*(?:,\s*|,?\s*\b(?:or|and|to)\s+|[-+*/–]\s*)-?[0-9][0-9./]*")
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
_OTHER_RELATION = re.compile(
    r"[<>≤≥≠!:]=|[<>≤≥≠,;&?≈]|\\(?:neq?|leq?|geq?|lt|gt|in|approx|equiv|begin|pm)\b|\\\\|\b(?:and|or)\b"
)
_CONSTANT = re.compile(
    r"\s*+\$?+\s*+[-+]?(?:[0-9][0-9.,]*+|\\[dt]?frac\{-?[0-9]+\}\{[0-9]+\}|[0-9]+/[0-9]+)?(?:\\sqrt\{[0-9]+\}|\\pi)?"
    r"(?:\s?\\?%|\s[a-z]{1,12}){0,2}+\s*+\$?+\s*+\.?"
)
_COMPUTES = re.compile(r"[0-9)}]\s*(?:[-+*/^×÷]|\\times|\\cdot|\\div)")
_COMMAND = re.compile(r"\\(?:times|cdot|div|d?frac|sqrt|left|right|pi)")


@dataclass(frozen=True, slots=True)
class Formula:
    """One formula of a text: what stands between its delimiters, and its place with them."""

    content: str
    start: int
    end: int


def formulas(text: str, start: int = 0) -> Iterator[Formula]:
    r"""Yield the formulas from ``start`` on: ``$$...$$``, ``$...$``, ``\[...\]``, ``\(...\)``.

    The time is linear: a closing delimiter that was not found once is not searched again.
    """
    missing: set[str] = set()
    at = start
    while (opening := _OPENING.search(text, at)) is not None:
        found = _closed(text, opening, missing)
        if found is None:
            at = opening.start() + 1
        else:
            yield found
            at = found.end


def _closed(text: str, opening: re.Match[str], missing: set[str]) -> Formula | None:
    sign, first = opening.group(), opening.end()
    if sign[0] == "$":
        body = (_DISPLAY_END if sign == "$$" else _INLINE_END).match(text, first)
        if body is None or body[1] is None:
            return None
        return Formula(text[first : body.start(1)], opening.start(), body.end())
    closing = "\\]" if sign == "\\[" else "\\)"
    end = -1 if closing in missing else text.find(closing, first + 1)
    if end < 0:
        missing.add(closing)
        return None
    return Formula(text[first:end], opening.start(), end + 2)


def without_formulas(text: str) -> str:
    """Return the text with a space in the place of each formula."""
    parts, at = [], 0
    for formula in formulas(text):
        parts.append(text[at : formula.start])
        at = formula.end
    return " ".join([*parts, text[at:]])


def leading_formula(text: str) -> tuple[str, int] | None:
    """Return the formula that a text begins with and those joined to it, and where they end; None: it has none."""
    found = formulas(text)
    first = next(found, None)
    if first is None or first.start != 0:
        return None
    value, end = first.content, first.end
    for following in found:
        gap = text[end : following.start]
        if _LIST.fullmatch(gap):
            value += ", " + following.content
        elif _OPERATOR.fullmatch(gap):
            value += gap + following.content
        else:
            break
        end = following.end
    for pattern in (_ALSO, _SCALE):
        more = pattern.match(text, end)
        if more:
            value, end = value + more.group(), more.end()
    return value, end


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
            bare = _BARE_END.search(text, end + 1)
            stop = bare.start() if bare else len(text)
            found[start] = Box(text[end:stop].strip() if stop - end < 200 else None, start, stop)
        else:
            braced[text.find("{", end)] = start
    if not braced:
        return found
    # One stack closes all braces: a search per box would take quadratic time on nested ones
    found |= {start: Box(None, start, len(text)) for start in braced.values()}
    stack: list[tuple[int, int]] = []
    count = 0
    for brace in _BRACE.finditer(text, min(braced)):
        sign = brace.group()
        if sign == "{":
            stack.append((brace.start(), count))
        elif sign == "}" and stack:
            opening, before = stack.pop()
            place = braced.get(opening)
            if place is not None and count - before <= MAX_BRACES:
                found[place] = Box(text[opening + 1 : brace.start()], place, brace.end())
        else:
            continue
        count += 1
    return found


def join_boxes(text: str, last: Box, earlier: Sequence[Box], family: Family) -> tuple[str | None, str | None]:
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


def computed_side(answer: str) -> str:
    """Return the result of a computation that is written out; another answer as it is."""
    sides = _sides(answer)
    if len(sides) < 2:
        return answer
    before = _COMMAND.sub("", sides[-2])
    computed = _COMPUTES.search(sides[-2]) and not any(sign.isalpha() for sign in before)
    return sides[-1].strip(" $") if computed else answer


def stated_side(answer: str) -> str | None:
    r"""Return the constant that an answer equates with something: ``24`` of ``p(0) + p(4) = 24``, else None.

    It is another reading only: ``x + y = 6`` may be a line, or the sum that was asked for.
    """
    sides = _sides(answer)
    return sides[-1].strip(" $") if len(sides) == 2 and any(sign.isalpha() for sign in sides[0]) else None


def _sides(answer: str) -> list[str]:
    """Return the sides of a chain of equations that ends in a constant, else the answer alone."""
    if "=" not in answer or _OTHER_RELATION.search(answer):
        return [answer]
    sides = answer.split("=")
    return sides if sides[-1].strip(" $.") and _CONSTANT.fullmatch(sides[-1]) else [answer]
