"""What is compared at all, and what may reach the symbolic layers.

A computer algebra system gets what is short and shallow and holds no number that explodes when it is computed.
"""

import re

MAX_CHARS = 500
MAX_DEPTH = 20
_LONG_NUMBER = re.compile(r"[0-9]{60,}")
_BIG_EXPONENT = re.compile(r"(?:\^|\*\*)\s*\{?\s*[-+(]?\s*[0-9]{5,}")
_FACTORIALS = re.compile(r"[0-9]{4,}\s*[)}]*\s*!|!\s*[)}]*\s*!")
_BIG_RANGE = re.compile(
    r"\\(?:prod|sum|int)\b.{0,500}?[0-9]{4}|binom\s*\{\s*[0-9]{5}|!.{0,500}?\\prod|\\prod.{0,500}?!", re.DOTALL
)
_BASED = re.compile(r"[0-9]\s*_\s*\{?\s*[0-9]")
_SIGNS = re.compile(r"\\pm|\\mp|[±∓]")
MAX_SIGNS = 6
_CONTROL = re.compile(r"[\x00-\x08\x0e-\x1f\x7f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_CODE = re.compile(
    r"__[a-z]|\b(?:exec|eval|getattr|globals|subprocess|compile|print|open|system|popen)\s*\(|"
    r"\bimport\s+[a-z]|\blambda\s+\w*\s*:|[^\W\d]\d*+\.[a-z]++\(|\bos\.[a-z]|<script|/bin/",
    re.IGNORECASE,
)
_TOWER = re.compile(r"(?:\^|\*\*)[^-+=,;&]{0,40}(?:\^|\*\*)[^-+=,;&]{0,40}(?:\^|\*\*)")


def not_an_answer(answer: str) -> str | None:
    """Return why a text is refused as an answer whatever stands in it, or None; ``answer`` is in its ASCII form."""
    if _CONTROL.search(answer):
        return "it holds control characters or broken Unicode"
    if _CODE.search(answer):
        return "it reads like program code"
    return None


def too_heavy(answer: str) -> str | None:
    """Return why an answer must not be handed to a computer algebra system, or None where it may be."""
    if len(answer) > MAX_CHARS:
        return f"{len(answer)} characters; at most {MAX_CHARS} are computed with"
    if len(_SIGNS.findall(answer)) > MAX_SIGNS:
        return f"more than {MAX_SIGNS} signs ±"
    depth = deepest = 0
    for character in answer:
        depth += (character in "([{") - (character in ")]}")
        deepest = max(deepest, depth)
    if deepest > MAX_DEPTH:
        return f"brackets nested {deepest} deep; at most {MAX_DEPTH} are computed with"
    for pattern, reason in (
        (_LONG_NUMBER, "a number of 60 digits or more"),
        (_BIG_EXPONENT, "an exponent of five digits or more"),
        (_FACTORIALS, "a factorial of a factorial or of a number of four digits"),
        (_TOWER, "a tower of powers"),
        (_BASED, "a number in a base, which the parsers read as a decimal number"),
        (_BIG_RANGE, "a sum, product, integral or binomial over large numbers"),
    ):
        if pattern.search(answer):
            return reason
    return None
