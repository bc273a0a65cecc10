r"""Typed answers: the one type they have, the splitting of tokens they are built with, and forms that stand for others.

Forms that stand for others: an inequality for its interval, words for the empty set or all real numbers, a date for a
day, a remark such as ``k \in \mathbb{Z}`` for nothing of the answer itself.
"""

import re
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from typing import Literal

from lema_core.answers.expressions import Node, Tokens

Kind = Literal[
    "value", "list", "set", "tuple", "union", "matrix", "piecewise", "relation", "ratio", "range", "based", "date",
    "text", "raw",
]  # fmt: skip
"""
value       an expression (``node``), perhaps with a unit
list        answers beside each other: order does not matter
set         the same in braces
tuple       brackets with order; a pair in round or square brackets is an interval too
union       intervals joined by a union sign
matrix      rows of items
piecewise   cases: values and the condition of each, in turn
relation    an equation or inequality: ``items`` around ``signs``
ratio       ``a:b:c``, among them clock times
range       ``10-12``
based       digits in a base
date        year, month and day, as far as they are said
text        words
raw         nothing we can type: only the parsers behind can read it
"""
OPENING = frozenset(["(", "[", "{", "\\{", "beginmatrix", "begindet", "begincases"])
CLOSING = frozenset([")", "]", "}", "\\}", "endmatrix", "enddet", "endcases"])
_FLIP = {"<": ">", ">": "<", "<=": ">=", ">=": "<=", "!=": "!=", "=": "="}
_UPWARDS, _DOWNWARDS = frozenset([">", ">="]), frozenset(["<", "<="])
_NO = frozenset(["'no", "'none"])
_NOUNS = frozenset(["'solution", "'solutions", "'root", "'roots"])
_SORTS = frozenset(
    [
        "'real", "'reals", "'integer", "'integers", "'rational", "'complex", "'natural", "'positive", "'negative",
        "'whole",
    ]
)  # fmt: skip
_EMPTY_FILLERS = frozenset(
    [
        "'there", "'are", "'is", "'exist", "'exists", "'has", "'have", "'the", "'equation", "'equations", "'system",
        "'such", "'any", "'it", "'answer", "'in", "&and",
    ]
)  # fmt: skip
_UNDEFINED = frozenset(
    [
        ("'dne",), ("'undefined",), ("'does", "'not", "'exist"), ("'not", "'defined"), ("'is", "'undefined"),
        ("'is", "'not", "'defined"), ("'doesn", "prime", "t", "'exist"), ("'doesn", "'exist"),
    ]
)  # fmt: skip
_REALS = frozenset(
    [
        ("mathbb", "{", "R", "}"), ("mathbb", "R"), ("R",), ("'all", "'real", "'numbers"), ("'all", "'reals"),
        ("'any", "'real", "'number"),
        ("'every", "'real", "'number"), ("'all", "'real", "'values"), ("'the", "'real", "'numbers"), ("'reals",),
        ("'real", "'numbers"), ("'all", "'real", "x"), ("'all", "'real", "'numbers", "x"),
    ]
)  # fmt: skip
_DIGIT_SETS = frozenset(["Z", "N"])
_SETS_OF_NUMBERS = _DIGIT_SETS | {"R", "C", "Q"}
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_MONTH = (
    r"(?P<month>jan(?:uary)?|feb(?:ruary)?|mar(?:ch)?|apr(?:il)?|may|june?|july?|aug(?:ust)?|sept?(?:ember)?|oct(?:ober)?|"
    r"nov(?:ember)?|dec(?:ember)?)\.?"
)
_DATES = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        r"(?P<y>[0-9]{4})(?P<s>[-/.])(?P<m>[0-9]{1,2})(?P=s)(?P<d>[0-9]{1,2})(?:T[0-9:.]+Z?)?",
        r"(?P<a>[0-9]{1,2})(?P<s>[-/.])(?P<b>[0-9]{1,2})(?P=s)(?P<y>[0-9]{4})",
        r"(?P<y>[0-9]{4})\s?年\s?(?P<m>[0-9]{1,2})\s?月(?:\s?(?P<d>[0-9]{1,2})\s?[日号])?",
        rf"(?:(?:mon|tues|wednes|thurs|fri|satur|sun)day,?\s)?{_MONTH}\s(?P<d>[0-9]{{1,2}})(?:st|nd|rd|th)?(?:,?\s(?P<y>[0-9]{{4}}))?",
        rf"(?P<d>[0-9]{{1,2}})(?:st|nd|rd|th)?\s(?:of\s)?{_MONTH}(?:,?\s(?P<y>[0-9]{{4}}))?",
        rf"{_MONTH},?\s(?P<y>[0-9]{{4}})",
        r"(?P<y>[0-9]{4})-(?P<m>[0-9]{2})",
    )
)
_MAY_BE_DATE = re.compile(
    r"[0-9]{4}\s?[-/.年][0-9\s]|[0-9][-/.][0-9]{4}|jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec", re.IGNORECASE
)
_SPAN = re.compile(r"[0-9]{4}-[0-9]{2}")
_DECORATION = re.compile(r"\\text\s*\{([^{}]*)\}|[$]")
MAX_DATE_CHARS = 60


@dataclass(frozen=True, slots=True)
class Answer:
    """A typed answer. Equal fields mean equal answers; unequal ones need a comparison."""

    kind: Kind
    tokens: Tokens
    node: Node | None = None
    unit: str = ""
    items: tuple["Answer", ...] = ()
    brackets: str = ""
    """The two brackets of a tuple; rows x columns of a matrix; "clock" for a ratio that may be a time."""
    signs: tuple[str, ...] = ()
    name: Tokens = ()
    """What it is said to be the value of: the x of ``x = 5``."""
    note: Tokens = ()
    """Words behind a number that are no unit: profit, north, odd; ``in`` for an interval that is said to be one."""
    things: Tokens = ()
    """Other words behind a number: what is counted."""
    integers: Tokens = ()
    r"""Letters that are said to be integers: ``k`` of ``k\pi, k \in \mathbb{Z}``."""
    rounded: "Answer | None" = None
    r"""What an answer says it is about: the 1.41 of ``\sqrt{2} \approx 1.41``."""


def split_top(tokens: Tokens, separators: AbstractSet[str]) -> list[Tokens]:
    """Split at separators outside all brackets."""
    parts: list[Tokens] = []
    start = depth = 0
    for index, lexeme in enumerate(tokens):
        if lexeme in OPENING:
            depth += 1
        elif lexeme in CLOSING:
            depth -= 1
        elif depth == 0 and lexeme in separators:
            parts.append(tokens[start:index])
            start = index + 1
    parts.append(tokens[start:])
    return parts


def closes_at_end(tokens: Tokens) -> bool:
    """Whether the bracket that opens the tokens is closed by the last of them."""
    depth = 0
    for index, lexeme in enumerate(tokens):
        depth += (lexeme in OPENING) - (lexeme in CLOSING)
        if depth == 0:
            return index == len(tokens) - 1
    return False


def as_interval(relation: Answer) -> Answer | None:
    """Return ``3 < x <= 4`` as the half-open interval (3, 4], ``x >= 2`` as [2, oo); None where it is none."""
    items, signs = relation.items, relation.signs
    if len(signs) == 1 and set(signs) <= _UPWARDS | _DOWNWARDS:
        relation = relation if _is_unknown(items[0]) else flip(relation)
        (name, bound), (sign,) = relation.items, relation.signs
        if not _is_unknown(name):
            return None
        if sign in _UPWARDS:
            ends, brackets = (bound, Answer("raw", ("inf",))), "[)" if sign == ">=" else "()"
        else:
            ends, brackets = (Answer("raw", ("-", "inf")), bound), "(]" if sign == "<=" else "()"
        return Answer("tuple", relation.tokens, items=ends, brackets=brackets, name=name.tokens)
    if len(signs) != 2 or not _is_unknown(items[1]):
        return None
    if set(signs) <= _UPWARDS:
        relation = flip(relation)
    if not set(relation.signs) <= _DOWNWARDS:
        return None
    low, name, high = relation.items
    brackets = ("[" if relation.signs[0] == "<=" else "(") + ("]" if relation.signs[1] == "<=" else ")")
    return Answer("tuple", relation.tokens, items=(low, high), brackets=brackets, name=name.tokens)


def _is_unknown(side: Answer) -> bool:
    return side.node is not None and side.node.op == "var"


def flip(relation: Answer) -> Answer:
    """Return the relation read from right to left."""
    return replace(relation, items=relation.items[::-1], signs=tuple(_FLIP[sign] for sign in relation.signs[::-1]))


@dataclass(frozen=True, slots=True)
class Remarks:
    """An answer without the remarks on its letters, and the letters that they call integers."""

    tokens: Tokens
    integers: Tokens = ()


def canonical(answer: Answer) -> Answer:
    """Return the set or word that an answer in words or signs stands for; any other answer as it is."""
    if answer.tokens in _REALS and not answer.name:
        ends = Answer("raw", ("-", "inf")), Answer("raw", ("inf",))
        return Answer("tuple", answer.tokens, items=ends, brackets="()", note=("in",))
    if answer.tokens in {("emptyset",), ("{", "}"), ("\\{", "\\}")}:
        return Answer("set", ("emptyset",))
    if answer.kind != "text":
        return answer
    if answer.tokens in _UNDEFINED:
        return Answer("text", ("'undefined",))
    said = [word for word in answer.tokens if word not in _EMPTY_FILLERS]
    if said[:1] and said[0] in _NO and set(said[1:]) <= _NOUNS | _SORTS and (_NOUNS & set(said) or said == ["'none"]):
        sorts = tuple(word.rstrip("s") for word in said if word in _SORTS)
        return Answer("set", ("emptyset",), note=sorts, things=("'no", "'solution"))
    return answer


def strip_remarks(tokens: Tokens) -> Remarks:
    r"""Return an answer without ``, k \in \mathbb{Z}`` and ``\text{ where } k \text{ is an integer}``."""
    if not {"in", "'for", "'where", "'integer", "'integers", "'constant"}.intersection(tokens):
        return Remarks(tokens)
    integers: list[str] = []
    if tokens[-1] == ")" and "(" in tokens and "in" in tokens:
        start = max(index for index, lexeme in enumerate(tokens) if lexeme == "(")
        inner = tokens[start + 1 : -1]
        found = _declared(inner) if start and closes_at_end(tokens[start:]) else None
        if found is not None:
            tokens, integers = tokens[:start], [*integers, *found]
    parts = split_top(tokens, {",", ";"})
    while len(parts) > 1 and (found := _declared(parts[-1])) is not None:
        tokens = tokens[: len(tokens) - len(parts.pop()) - 1]
        integers += found
    index = next((at for at, lexeme in enumerate(tokens) if at and lexeme in {"'for", "'where"}), 0)
    if index and (found := _declared(tokens[index:])) is not None:
        return Remarks(tokens[:index], (*integers, *found))
    return Remarks(tokens, tuple(integers))


def _declared(part: Tokens) -> Tokens | None:
    """Return the letters that a remark calls integers, none for a remark on constants; None: it is no such remark."""
    leads = bool(part) and part[0] in {"'for", "'where", "'with"}
    part = part[1:] if leads else part
    part = tuple(lexeme for lexeme in part if lexeme not in {"'some", "'any", "'all", "'every", "'an", "'a", ","})
    letters = tuple(lexeme for lexeme in part if len(lexeme) == 1 and lexeme.isalpha())
    if len(part) >= 3 and part[1] == "in" and len(part[0]) == 1:
        numbers = _SETS_OF_NUMBERS.intersection(part[2:])
        known = all(
            lexeme in _SETS_OF_NUMBERS | {"mathbb", "mathbf", "{", "}", "^", "+", "_", "*"} for lexeme in part[2:]
        )
        return (letters[:1] if numbers & _DIGIT_SETS else ()) if numbers and known else None
    words = {lexeme[1:] for lexeme in part if lexeme.startswith("'")}
    if len(letters) + len(words) < len(part) - 1 or not words:
        return None
    if words & {"integer", "integers"} and (letters or leads):
        return letters
    return () if words & {"constant", "constants"} and (leads or letters) else None


def date_of(text: str) -> Answer | None:
    """Read a date: ``2020-01-02``, ``1/2/2020``, ``January 2, 2020``; None: the text is none."""
    if len(text) > MAX_DATE_CHARS or not _MAY_BE_DATE.search(text):
        return None
    plain = " ".join(_DECORATION.sub(r"\1", text).split()).rstrip(".")
    for pattern in _DATES:
        found = pattern.fullmatch(plain)
        readings = _readings(found) if found else ()
        if readings:
            return Answer("date", (plain,), signs=readings)
    return Answer("range", tuple(plain.partition("-"))) if _SPAN.fullmatch(plain) else None


def _readings(found: re.Match[str]) -> tuple[str, ...]:
    """Return what a date may say, as ``year-month-day``: ``1/2/2020`` is the 2nd of January or the 1st of February."""
    parts = found.groupdict()
    if parts.get("month"):
        triples = [(parts.get("y"), str(_MONTHS.index(parts["month"][:3].lower()) + 1), parts.get("d"))]
    elif parts.get("a"):
        triples = [(parts["y"], parts["a"], parts["b"]), (parts["y"], parts["b"], parts["a"])]
    else:
        triples = [(parts["y"], parts["m"], parts.get("d"))]
    known = [
        (int(y or 0), int(m), int(d or 0)) for y, m, d in triples if 1 <= int(m) <= 12 and int(d or 1) in range(1, 32)
    ]
    return tuple(dict.fromkeys(f"{y}-{m}-{d}" for y, m, d in known))


def same_date(gold: Answer, pred: Answer) -> bool | None:
    """Return whether two dates are one day; a year or day that one side does not say is not compared."""
    pairs = [
        all(one == other or "0" in {one, other} for one, other in zip(left.split("-"), right.split("-"), strict=True))
        for left in gold.signs
        for right in pred.signs
    ]
    return all(pairs) or (None if any(pairs) else False)
