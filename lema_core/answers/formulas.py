r"""Formulas between dollars in a sentence: ``$3$ or $5$`` is one answer of two parts, not the first of them."""

import re

FORMULA = re.compile(r"\$\$([^$]+)\$\$|(?<!\\)\$((?:\\.|[^$\\])+)\$|\\\[(.+?)\\\]|\\\((.+?)\\\)", re.DOTALL)
_LIST = re.compile(r"\s*(?:[,;&]|,?\s*\b(?:and|or)\b)\s*")
_OPERATOR = re.compile(r"\s*(?:[-+*/–]|\bto\b)\s*")
_SCALE = re.compile(r"\s*(?:hundred|thousand|million|billion|trillion|dozen)\b")
_ALSO = re.compile(r"\s*(?:,\s*|,?\s*\b(?:or|and|to)\s+|[-+*/–]\s*)-?[0-9][0-9./]*")


def content(formula: re.Match[str]) -> str:
    """Return what stands between the delimiters."""
    return next(group for group in formula.groups() if group is not None)


def leading_formula(text: str) -> str | None:
    """Return the formula that a text begins with and those joined to it; None: it begins with none."""
    found = FORMULA.match(text)
    if found is None:
        return None
    value, end = content(found), found.end()
    while (following := FORMULA.search(text, end)) is not None:
        gap = text[end : following.start()]
        if _LIST.fullmatch(gap):
            value += ", " + content(following)
        elif _OPERATOR.fullmatch(gap):
            value += gap + content(following)
        else:
            break
        end = following.end()
    for pattern in (_ALSO, _SCALE):
        more = pattern.match(text, end)
        if more:
            value, end = value + more.group(), more.end()
    return value
