r"""Formulas between delimiters in a sentence: ``$3$ or $5$`` is one answer of two parts, not the first of them."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

_OPENING = re.compile(r"\$\$(?=[^$])|(?<!\\)\$(?=[^$])|\\[\[(]")
_DISPLAY_END = re.compile(r"[^$]++(\$\$)?+")
_INLINE_END = re.compile(r"(?:\\.|[^$\\])++(\$)?+", re.DOTALL)
_LIST = re.compile(r"\s*(?:[,;&]|,?\s*\b(?:and|or)\b)\s*")
_OPERATOR = re.compile(r"\s*(?:[-+*/–]|\bto\b)\s*")
_SCALE = re.compile(r"\s*(?:hundred|thousand|million|billion|trillion|dozen)\b")
_ALSO = re.compile(r"\s*(?:,\s*|,?\s*\b(?:or|and|to)\s+|[-+*/–]\s*)-?[0-9][0-9./]*")


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
