"""What may reach the symbolic layers: short, shallow, and without numbers that explode when computed."""

import re

MAX_CHARS = 500
MAX_DEPTH = 20
_LONG_NUMBER = re.compile(r"[0-9]{60,}")
_BIG_EXPONENT = re.compile(r"(?:\^|\*\*)\s*\{?\s*[-+(]?\s*[0-9]{5,}")
_FACTORIALS = re.compile(r"[0-9]{4,}\s*[)}]*\s*!|!\s*[)}]*\s*!")
_TOWER = re.compile(r"(?:\^|\*\*)[^-+=,;&]{0,40}(?:\^|\*\*)[^-+=,;&]{0,40}(?:\^|\*\*)")


def too_heavy(answer: str) -> str | None:
    """Return why an answer must not be handed to a computer algebra system, or None where it may be."""
    if len(answer) > MAX_CHARS:
        return f"{len(answer)} characters; at most {MAX_CHARS} are computed with"
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
    ):
        if pattern.search(answer):
            return reason
    return None
