"""Whether two answers are the same, in layers: each decides or passes on.

1. string: the same normal form.  2. number: exact fractions over a strict grammar.  3. structure: typed answers whose
parts are compared by value.  4. symbolic: latex2sympy2_extended and sympy.  5. math_verify.  The last two run in worker
processes that can be killed.  What no layer decides is unknown.
"""

import re
from fractions import Fraction
from functools import lru_cache

from lema_core.answers.choice import match_choice
from lema_core.answers.compare import compare
from lema_core.answers.lexer import to_ascii, tokens_of
from lema_core.answers.limits import not_an_answer
from lema_core.answers.scorers import is_scorer, match_with
from lema_core.answers.structure import parse_answer
from lema_core.answers.types import MAX_ANSWER_CHARS, Family, Match
from lema_core.answers.workers import Workers, shared_workers

CACHE = 1 << 17
"""Pairs remembered: solutions to one question repeat a handful of answers."""

MAX_DIGITS = 300
_DURATION = re.compile(
    r"([0-9]{1,6})\s?(?:hours?|hrs?|h),?\s?(?:and\s)?([0-9]{1,6})\s?(?:minutes?|mins?|m)", re.IGNORECASE
)

_PLAIN = re.compile(r"[-+]?\$?(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]{1,300})(?:\.[0-9]{0,300})?|[-+]?\.[0-9]{1,300}")


def match(
    gold: str,
    pred: str,
    family: Family = "latex",
    candidates: tuple[str, ...] | None = None,
    *,
    workers: Workers | None = None,
) -> Match:
    """Compare a final answer with the gold answer of its question. ``gold`` comes first.

    ``candidates`` are the texts of the choices in the family "choice". ``workers`` run the two heavy layers; the
    process's shared ones are started when the first pair needs them.
    """
    if is_scorer(family):
        return match_with(family, gold, pred)
    if family == "choice":
        return match_choice(gold, pred, candidates or ())
    if family == "text":
        equal = " ".join(gold.split()).casefold() == " ".join(pred.split()).casefold()
        return Match("equal" if equal else "different", "string", "the texts are compared without case and spacing")
    quick = match_light(gold, pred)
    return quick if quick is not None else _heavy(gold, pred, workers or shared_workers())


@lru_cache(maxsize=CACHE)
def match_light(gold: str, pred: str) -> Match | None:
    """Compare by the layers that run in this process; None where they cannot tell."""
    if gold == pred and gold.strip():
        return Match("equal", "string", "the same text")
    if len(gold) > MAX_ANSWER_CHARS or len(pred) > MAX_ANSWER_CHARS:
        return Match("unknown", "limits", f"an answer of more than {MAX_ANSWER_CHARS} characters is not compared")
    left, right = _plain(gold), _plain(pred)
    if left is not None and right is not None:
        return Match("equal" if left == right else "different", "number", f"{left} against {right}")
    if not gold.strip() or not pred.strip():
        return Match("different", "string", "an empty answer equals nothing")
    for side in (gold, pred):
        reason = not_an_answer(to_ascii(side))
        if reason is not None:
            return Match("unknown", "limits", f"{side[:80]!r}: {reason}")
    return _durations(gold, pred) or _typed(gold, pred)


def _plain(text: str) -> Fraction | int | None:
    """Read a plain decimal number, as nearly every answer of a word problem is one."""
    if text.isascii() and text.isdigit() and len(text) <= MAX_DIGITS:
        return int(text)
    stripped = text.strip().rstrip(".")
    if not _PLAIN.fullmatch(stripped):
        return None
    plain = stripped.replace(",", "").replace("$", "")
    return Fraction(plain) if "." in plain else int(plain)


def _durations(gold: str, pred: str) -> Match | None:
    """``2 hours 30 minutes`` is 150 and 2.5, as the question may have asked for either."""
    spans = [_DURATION.fullmatch(side.strip()) for side in (gold, pred)]
    if spans == [None, None]:
        return None
    minutes = [int(span[1]) * 60 + int(span[2]) if span else None for span in spans]
    numbers = [_plain(gold), _plain(pred)]
    if None not in minutes:
        same = minutes[0] == minutes[1]
    else:
        total, number = (minutes[0], numbers[1]) if spans[0] else (minutes[1], numbers[0])
        if total is None or number is None:
            return None
        same = number in {total, Fraction(total, 60)}
    return Match("equal" if same else "different", "structure", "a duration in hours and minutes")


def _typed(gold: str, pred: str) -> Match | None:
    if tokens_of(gold) == tokens_of(pred) and tokens_of(gold):
        return Match("equal", "string", "the same normal form: " + " ".join(tokens_of(gold))[:200])
    left, right = parse_answer(gold), parse_answer(pred)
    same = compare(left, right)
    if same is None:
        return None
    layer = "number" if left.kind == right.kind == "value" else "structure"
    return Match("equal" if same else "different", layer, f"{left.kind} against {right.kind}")


@lru_cache(maxsize=CACHE)
def _heavy(gold: str, pred: str, workers: Workers) -> Match:
    return workers.match(to_ascii(gold), to_ascii(pred))
