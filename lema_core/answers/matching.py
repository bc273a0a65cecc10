"""Whether two answers are the same, in layers: each decides or leaves it to the next.

1. string: the same normal form.  2. number: exact fractions over a strict grammar.  3. structure: typed answers whose
parts are compared by value.  4. symbolic: latex2sympy2_extended and sympy.  5. math_verify.  The last two run in worker
processes that can be killed.  What no layer decides is unknown.
"""

import re
from fractions import Fraction
from functools import lru_cache

from lema_core.answers.choice import match_choice
from lema_core.answers.compare import compare
from lema_core.answers.lexer import not_an_answer, to_ascii, tokens_of
from lema_core.answers.lexicon import ENGLISH
from lema_core.answers.results import (
    DEFAULT_POLICY,
    MAX_ANSWER_CHARS,
    Family,
    Match,
    MatchPolicy,
    is_scorer,
    match_with,
)
from lema_core.answers.structure import parse_answer
from lema_core.answers.typed_answers import Answer
from lema_core.answers.worker_pool import Workers, shared_workers
from lema_core.errors import LemaError

CACHE = 1 << 17
"""Pairs remembered: solutions to one question repeat a handful of answers."""

MAX_DIGITS = 300
_DURATION = re.compile(
    r"([0-9]{1,6})\s?(?:hours?|hrs?|h),?\s?(?:and\s)?([0-9]{1,6})\s?(?:minutes?|mins?|m)", re.IGNORECASE
)

_HOURS = re.compile(r"([0-9]{1,6}(?:\.[0-9]{1,6})?)\s?(hours?|hrs?|h|minutes?|mins?)", re.IGNORECASE)
_PLAIN = re.compile(r"[-+]?\$?(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]{1,300})(?:\.[0-9]{0,300})?|[-+]?\.[0-9]{1,300}")


def match(
    gold: str,
    pred: str,
    family: Family = "latex",
    candidates: tuple[str, ...] | None = None,
    *,
    workers: Workers | None = None,
    policy: MatchPolicy = DEFAULT_POLICY,
) -> Match:
    """Compare a final answer with the gold answer of its question. ``gold`` comes first.

    ``candidates`` are the texts of the choices in the family "choice". ``workers`` run the two heavy layers; the
    process's shared ones are started when the first pair needs them. ``policy`` says what two answers may differ in.
    Nothing raises because of a pair: what cannot be computed is unknown, in the layer "error".
    """
    try:
        if is_scorer(family):
            return match_with(family, gold, pred)
        if family == "choice":
            return match_choice(gold, pred, candidates or ())
        if family == "text":
            equal = " ".join(gold.split()).casefold() == " ".join(pred.split()).casefold()
            return Match("equal" if equal else "different", "string", "the texts are compared without case and spacing")
        quick = match_light(gold, pred, None if policy is DEFAULT_POLICY else policy)
        return quick if quick is not None else _match_symbolically(gold, pred, workers or shared_workers())
    except LemaError:
        raise
    except Exception as error:  # noqa: BLE001 no pair may take its file, vote or shard with it
        return Match("unknown", "error", f"the pair could not be compared: {type(error).__name__}: {error}"[:200])


@lru_cache(maxsize=CACHE)
def match_light(gold: str, pred: str, policy: MatchPolicy | None = None) -> Match | None:
    """Compare by the layers that run in this process; None where they cannot decide. No policy is the default one."""
    if gold == pred and gold.strip():
        return Match("equal", "string", "the same text")
    if len(gold) > MAX_ANSWER_CHARS or len(pred) > MAX_ANSWER_CHARS:
        return Match("unknown", "limits", f"an answer of more than {MAX_ANSWER_CHARS} characters is not compared")
    numbers = _plain(gold), _plain(pred)
    if None not in numbers:
        equal = numbers[0] == numbers[1]
        return Match("equal" if equal else "different", "number", f"{numbers[0]} against {numbers[1]}")
    if not gold.strip() or not pred.strip():
        return Match("different", "string", "an empty answer equals nothing")
    for side in (gold, pred):
        reason = not_an_answer(to_ascii(side))
        if reason is not None:
            return Match("unknown", "limits", f"{side[:80]!r}: {reason}")
    spans = _durations(gold, pred)
    if spans is not None:
        return spans
    if tokens_of(gold) == tokens_of(pred) and tokens_of(gold):
        return Match("equal", "string", "the same normal form: " + " ".join(tokens_of(gold))[:200])
    left, right = parse_answer(gold), parse_answer(pred)
    if {left.kind, right.kind} == {"text", "list"} and _same_letters(left, right):
        return Match("equal", "structure", "the same letters")
    compared = compare(left, right, policy or DEFAULT_POLICY)
    # "xy" lexes as a word; only after the comparison as words failed is it read as x times y
    if compared is not True and _as_products(gold, pred, left, right):
        return Match("equal", "number", "products of unknowns")
    if compared is None:
        # sympy drops units and what is counted ("5 apples", "5 pears"): it would call these equal
        settled = {left.kind, right.kind} & _NOT_SYMBOLIC or (_says_of_what(left) and _says_of_what(right))
        return Match("unknown", "structure", f"{left.kind} against {right.kind}") if settled else None
    layer = "number" if left.kind == right.kind == "value" else "structure"
    return Match("equal" if compared else "different", layer, f"{left.kind} against {right.kind}")


def _plain(text: str) -> Fraction | int | None:
    """Read a plain decimal number, as nearly every answer of a word problem is one."""
    if text.isascii() and text.isdigit() and len(text) <= MAX_DIGITS:
        return int(text)
    stripped = text.strip().removesuffix(".")
    if not _PLAIN.fullmatch(stripped):
        return None
    plain = stripped.replace(",", "").replace("$", "")
    return Fraction(plain) if "." in plain else int(plain)


def _durations(gold: str, pred: str) -> Match | None:
    """``2 hours 30 minutes`` is 150 and 2.5, as the question may have asked for either."""
    spans = [_DURATION.fullmatch(side.strip()) for side in (gold, pred)]
    if spans == [None, None]:
        return None
    minutes: list[Fraction | int | None] = []
    for span, side in zip(spans, (gold, pred), strict=True):
        if span is not None:
            minutes.append(int(span[1]) * 60 + int(span[2]))
        elif (found := _HOURS.fullmatch(side.strip())) is not None:  # "90 minutes", "1.5 hours"
            minutes.append(Fraction(found[1]) * (60 if found[2].lower().startswith("h") else 1))
        else:
            minutes.append(None)
    numbers = [_plain(gold), _plain(pred)]
    if None not in minutes:
        same = minutes[0] == minutes[1]
    else:
        total, number = (minutes[0], numbers[1]) if minutes[0] is not None else (minutes[1], numbers[0])
        if total is None or number is None:
            return None
        same = number in {total, Fraction(total, 60)}
    return Match("equal" if same else "different", "structure", "a duration in hours and minutes")


_NOT_SYMBOLIC = frozenset(["piecewise", "date"])
"""Kinds that the symbolic layers misread."""


def _says_of_what(answer: Answer) -> bool:
    """Whether an answer names its unit or what is counted, which the symbolic layers drop."""
    return bool(answer.things or answer.unit) or any(map(_says_of_what, answer.items))


def _same_letters(left: Answer, right: Answer) -> bool:
    """``BD`` is ``B, D``: the letters of several choices, run together or listed."""
    word, listed = (left, right) if left.kind == "text" else (right, left)
    letters = [item.tokens[0].lower() for item in listed.items if len(item.tokens) == 1 and len(item.tokens[0]) == 1]
    run = list(word.tokens[0][1:]) if len(word.tokens) == 1 else []
    return len(letters) == len(listed.items) == len(set(run)) == len(run) and set(letters) == set(run) <= _CHOICES


MAX_PRODUCT = 4
_CHOICES = frozenset("abcdefghij")
_UNKNOWNS = ("abcd", "klmn", "pqrst", "uvwxyz")
"""Letters that unknowns have together."""


def _as_products(gold: str, pred: str, left: Answer, right: Answer) -> bool:
    r"""Return whether two answers are equal with a bare short word read as a product: ``xy`` is ``x \cdot y``."""
    words = [_is_short_word(text, answer) for text, answer in ((gold, left), (pred, right))]
    others = [answer.kind in {"value", "relation", "list", "tuple"} for answer in (left, right)]
    if not any(words) or not all(word or other for word, other in zip(words, others, strict=True)):
        return False
    letters = set(gold.strip().strip("$").lower())
    if all(words) and not any(letters <= set(together) for together in _UNKNOWNS):
        return False  # two words are anagrams, car and arc
    sides = [
        parse_answer(text, letters=True) if word else parse_answer(text)
        for text, word in zip((gold, pred), words, strict=True)
    ]
    return compare(sides[0], sides[1]) is True


def _is_short_word(text: str, answer: Answer) -> bool:
    """Whether an answer is one word of two to four letters that is neither English nor a name."""
    word = text.strip().strip("$")
    if answer.kind != "text" or not (word.isascii() and word.isalpha() and len(word) <= MAX_PRODUCT):
        return False
    return word.lower() not in ENGLISH and (word.islower() or word.isupper())


@lru_cache(maxsize=CACHE)
def _match_symbolically(gold: str, pred: str, workers: Workers) -> Match:
    return workers.match(to_ascii(gold), to_ascii(pred))
