r"""Which side of an equation is the answer: of ``m+n = 200+56 = 256`` it is 256."""

import re

_OTHER_RELATION = re.compile(
    r"[<>≤≥≠!:]=|[<>≤≥≠,;&?≈]|\\(?:neq?|leq?|geq?|lt|gt|in|approx|equiv|begin|pm)\b|\\\\|\b(?:and|or)\b"
)
_CONSTANT = re.compile(
    r"\s*+\$?+\s*+[-+]?(?:[0-9][0-9.,]*+|\\[dt]?frac\{-?[0-9]+\}\{[0-9]+\}|[0-9]+/[0-9]+)?(?:\\sqrt\{[0-9]+\}|\\pi)?"
    r"(?:\s?\\?%|\s[a-z]{1,12}){0,2}+\s*+\$?+\s*+\.?"
)
_COMPUTES = re.compile(r"[0-9)}]\s*(?:[-+*/^×÷]|\\times|\\cdot|\\div)")
_COMMAND = re.compile(r"\\(?:times|cdot|div|d?frac|sqrt|left|right|pi)")


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
