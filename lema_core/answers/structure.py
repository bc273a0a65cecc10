"""What kind of thing an answer is: a number, a tuple, a set, an interval, a matrix, an equation, a clock time, a text.

``parse_answer`` gives every answer one type; ``compare.py`` compares types. Types are what keeps 10:30 from being 10,
``25_6`` from being ``25_7`` and ``(0,1]`` from being ``(0,1)``.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from math import prod

from lema_core.answers.expressions import MAX_TOKENS, Node, Tokens, parse_expression
from lema_core.answers.lexer import tokens_of
from lema_core.answers.lexicon import UNIT_NAMES, UNITS

MAX_ITEMS = 64
MAX_NESTING = 6

Kind = str
"""
value       an expression (``node``), perhaps with a unit
list        answers beside each other: order does not matter
set         the same in braces
tuple       brackets with order; a pair in round or square brackets is an interval too
union       intervals joined by a union sign
matrix      rows of items
relation    an equation or inequality: ``items`` around ``signs``
clock       hours, minutes, seconds
ratio       ``a:b:c``
range       ``10-12``
based       digits in a base
text        words
raw         nothing we can type: only the parsers behind can read it
"""


@dataclass(frozen=True, slots=True)
class Answer:
    """A typed answer. Equal fields mean equal answers; unequal ones need a comparison."""

    kind: Kind
    tokens: Tokens
    node: Node | None = None
    unit: str = ""
    items: tuple["Answer", ...] = ()
    brackets: str = ""
    """The two brackets of a tuple; rows x columns of a matrix; the digits of a clock time."""
    signs: tuple[str, ...] = ()
    name: str = ""
    """What it is said to be the value of: the x of ``x = 5``."""


_RELATIONS = frozenset(["=", "<", ">", "<=", ">=", "!="])
_COMPARISONS = _RELATIONS | {"approx"}
_ORDINALS = frozenset(["'th", "'st", "'nd", "'rd"])
MAX_SIGN_CHOICES = 16
_OPEN, _CLOSE = (
    frozenset(["(", "[", "{", "\\{", "beginmatrix", "begindet"]),
    frozenset([")", "]", "}", "\\}", "endmatrix", "enddet"]),
)
_SEPARATORS = frozenset([",", ";", "&and", "&or"])


@lru_cache(maxsize=32_768)
def parse_answer(text: str) -> Answer:
    """Return the typed form of an answer as written."""
    tokens = tokens_of(text)
    if tokens[:1] == ("{",) and tokens.count("{") > tokens.count("}"):
        tokens = tokens[1:]  # a box that was never closed
    return _list(tokens, 0)


def _list(tokens: Tokens, depth: int) -> Answer:
    if depth > MAX_NESTING or len(tokens) > MAX_TOKENS or not tokens:
        return Answer("raw", tokens)
    parts = [part for part in split_top(tokens, _SEPARATORS) if part]
    if len(parts) > MAX_ITEMS:
        return Answer("raw", tokens)
    if len(parts) <= 1:
        return _signed_pair(parts[0] if parts else tokens, depth)
    if ":" not in tokens and all(_is_prose(part) for part in parts):
        return Answer("text", tuple(lexeme for lexeme in tokens if lexeme not in _SEPARATORS))
    items: list[Answer] = []
    for part in parts:
        item = _signed_pair(part, depth + 1)
        items.extend(item.items if item.kind == "list" else [item])
    return Answer("list", tokens, items=tuple(items))


def _signed_pair(tokens: Tokens, depth: int) -> Answer:
    r"""``1 \\pm \\sqrt{2}`` is the two answers."""
    if ("pm" not in tokens and "mp" not in tokens) or (tokens[0] in {"\\{", "("} and _closes_at_end(tokens)):
        return _item(tokens, depth)
    plus = tuple({"pm": "+", "mp": "-"}.get(lexeme, lexeme) for lexeme in tokens)
    minus = tuple({"pm": "-", "mp": "+"}.get(lexeme, lexeme) for lexeme in tokens)
    return Answer("list", tokens, items=(_item(plus, depth + 1), _item(minus, depth + 1)))


def _item(tokens: Tokens, depth: int) -> Answer:
    if depth > MAX_NESTING or not tokens:
        return Answer("raw", tokens)
    if "in" in tokens[1:] and split_top(tokens, {"in"})[1:]:
        name, _, member = _partition(tokens, "in")
        if _is_name(name):
            return _item(member, depth + 1)
    if tokens[-4:-2] == ("^", "{") and tokens[-2] in _ORDINALS:
        return _item(tokens[:-4], depth + 1)
    if _COMPARISONS.intersection(tokens) and len(split_top(tokens, _COMPARISONS)) > 1:
        return _relation(tokens, depth)
    if ":" in tokens and _is_prose(tokens[: tokens.index(":")]):
        return _item(tokens[tokens.index(":") + 1 :], depth + 1)  # "Maximum: 3"
    for build in (_union, _bracketed, _matrix, _typed_number, _quantity):
        answer = build(tokens, depth)
        if answer is not None:
            return answer
    if _is_prose(tokens):
        return Answer("text", _words(tokens))
    return Answer("raw", tokens)


def split_top(tokens: Sequence[str], separators: frozenset[str] | set[str]) -> list[Tokens]:
    """Split at separators outside all brackets."""
    parts: list[Tokens] = []
    start = depth = 0
    for index, lexeme in enumerate(tokens):
        if lexeme in _OPEN:
            depth += 1
        elif lexeme in _CLOSE:
            depth -= 1
        elif depth == 0 and lexeme in separators:
            parts.append(tuple(tokens[start:index]))
            start = index + 1
    parts.append(tuple(tokens[start:]))
    return parts


def _partition(tokens: Tokens, lexeme: str) -> tuple[Tokens, str, Tokens]:
    index = tokens.index(lexeme)
    return tokens[:index], lexeme, tokens[index + 1 :]


def _is_name(tokens: Tokens) -> bool:
    """An unknown, perhaps with index or argument, or a phrase that names a quantity."""
    if not tokens:
        return False
    node = parse_expression(tokens)
    if node is None:
        return _is_prose(tokens) or tokens[0] in {"angle", "triangle"} or _is_application(tokens)
    named_absolute = node.op == "abs" and all(lexeme.isalpha() for lexeme in tokens[1:-1])
    product = node.op == "mul" and len(tokens) <= 4 and all(len(lexeme) == 1 and lexeme.isupper() for lexeme in tokens)
    return node.op == "var" or named_absolute or product or _is_application(tokens)


def _is_application(tokens: Tokens) -> bool:
    """``T(10)`` or ``f^{-1}(x)``: a letter, perhaps an exponent, and one bracket to the end."""
    head = tokens[0]
    if len(head) != 1 or not head.isalpha() or tokens[-1] != ")":
        return False
    rest = tokens[1:]
    return len(rest) > 2 and rest[0] == "(" and _closes_at_end(rest)


def _closes_at_end(tokens: Tokens) -> bool:
    depth = 0
    for index, lexeme in enumerate(tokens):
        depth += (lexeme in _OPEN) - (lexeme in _CLOSE)
        if depth == 0:
            return index == len(tokens) - 1
    return False


def _relation(tokens: Tokens, depth: int) -> Answer:
    parts = split_top(tokens, _COMPARISONS)
    signs = tuple(sign for sign in _top_signs(tokens))
    if "approx" in signs:  # what follows is only the rounded form of what stands before
        cut = signs.index("approx")
        parts, signs = parts[: cut + 1], signs[:cut]
    if not signs:
        return _item(parts[0], depth + 1)
    if any(not part for part in parts):
        return Answer("raw", tokens)
    if set(signs) == {"="}:
        return _equation(tokens, parts, depth)
    items = tuple(_item(part, depth + 1) for part in parts)
    return Answer("relation", tokens, items=items, signs=signs)


def _equation(tokens: Tokens, parts: list[Tokens], depth: int) -> Answer:
    """``x = 5`` is 5 with a name; ``a = b = 5`` is its last side; an equation between expressions stays one."""
    if _is_name(parts[0]) or _is_tuple_of_names(parts[0]) or _is_ratio_of_names(parts[0]):
        last = _item(parts[-1], depth + 1)
        name = "".join(parts[0])
        return Answer(last.kind, last.tokens, last.node, last.unit, last.items, last.brackets, last.signs, name)
    if len(parts) == 2 and _is_name(parts[1]) and parse_expression(parts[1]) is not None:
        value = _item(parts[0], depth + 1)
        if value.kind == "value" and value.node is not None and value.node.op == "num":
            return Answer(value.kind, value.tokens, value.node, value.unit, name="".join(parts[1]))
    items = tuple(_item(part, depth + 1) for part in parts)
    return Answer("relation", tokens, items=items, signs=("=",) * (len(parts) - 1))


def _is_tuple_of_names(tokens: Tokens) -> bool:
    if tokens[0] not in {"(", "["} or not _closes_at_end(tokens):
        return False
    return all(_is_name(part) for part in split_top(tokens[1:-1], {",", ";"}) if part)


def _is_ratio_of_names(tokens: Tokens) -> bool:
    parts = split_top(tokens, {":"})
    return len(parts) > 1 and all(_is_name(part) for part in parts)


def _top_signs(tokens: Tokens) -> list[str]:
    signs, depth = [], 0
    for lexeme in tokens:
        depth += (lexeme in _OPEN) - (lexeme in _CLOSE)
        if depth == 0 and lexeme in _COMPARISONS:
            signs.append(lexeme)
    return signs


def _union(tokens: Tokens, depth: int) -> Answer | None:
    # "(-1,0) ∪ (2,3)": the brackets of half-open intervals do not pair, so depth cannot be trusted here.
    if "cup" not in tokens:
        return None
    parts, start = [], 0
    for index, lexeme in enumerate((*tokens, "cup")):
        if lexeme == "cup":
            parts.append(tokens[start:index])
            start = index + 1
    items = tuple(_item(part, depth + 1) for part in parts)
    return Answer("union", tokens, items=items) if all(item.kind in {"tuple", "set"} for item in items) else None


def _bracketed(tokens: Tokens, depth: int) -> Answer | None:
    opening, closing = tokens[0], tokens[-1]
    if opening == "\\{" and closing == "\\}":
        return _set(tokens, depth)
    if opening == "{" and closing == "}" and _closes_at_end(tokens):
        return _list(tokens[1:-1], depth + 1)
    if opening not in {"(", "["} or closing not in {")", "]"} or len(tokens) < 3 or not _closes_at_end(tokens):
        return None
    parts = split_top(tokens[1:-1], {",", ";"})
    if len(parts) == 1:
        inner = _list(parts[0], depth + 1)
        if inner.kind == "value" and inner.node is None:
            return inner
        return inner if opening + closing in {"()", "[]"} else None
    if any(not part for part in parts) or len(parts) > MAX_ITEMS:
        return Answer("raw", tokens)
    items = [_signed_pair(part, depth + 1) for part in parts]
    choices = [item.items if item.kind == "list" and {"pm", "mp"} & set(item.tokens) else (item,) for item in items]
    if prod(map(len, choices)) > MAX_SIGN_CHOICES:
        return Answer("raw", tokens)
    tuples = [Answer("tuple", tokens, items=chosen, brackets=opening + closing) for chosen in product(*choices)]
    return tuples[0] if len(tuples) == 1 else Answer("list", tokens, items=tuple(tuples))


def _set(tokens: Tokens, depth: int) -> Answer | None:
    inner = tokens[1:-1]
    bars = split_top(inner, {"|", ":"})
    if len(bars) == 2 and _is_name(bars[0]):
        return _item(bars[1], depth + 1)  # {x | x < 3} is its condition
    listed = _list(inner, depth + 1) if inner else Answer("list", tokens)
    items = listed.items if listed.kind == "list" else (listed,)
    return Answer("set", tokens, items=items)


def _matrix(tokens: Tokens, depth: int) -> Answer | None:
    if tokens[0] != "beginmatrix" or tokens[-1] != "endmatrix" or not _closes_at_end(tokens):
        return None
    rows = [split_top(row, {"&"}) for row in split_top(tokens[1:-1], {"row"}) if row]
    if not rows or len({len(row) for row in rows}) != 1:
        return Answer("raw", tokens)
    items = tuple(_item(cell, depth + 1) for row in rows for cell in row)
    return Answer("matrix", tokens, items=items, brackets=f"{len(rows)}x{len(rows[0])}")


def _typed_number(tokens: Tokens, depth: int) -> Answer | None:
    """Clock times, ratios, ranges and numbers in a base: digits with a sign between that is no arithmetic."""
    if ":" in tokens:
        parts = split_top(tokens, {":"})
        half = tokens[-1] if tokens[-1] in {"'am", "'pm"} else ""
        if half:
            parts[-1] = parts[-1][:-1]
        items = tuple(_item(part, depth + 1) for part in parts)
        if len(parts) < 2 or any(item.kind != "value" for item in items):
            return None
        flat = [part[0] if len(part) == 1 and part[0].isdigit() else "" for part in parts]
        clock = len(parts) <= 3 and all(flat) and int(flat[0][:6]) <= 24 and all(int(m[:6]) < 60 for m in flat[1:])
        return Answer("ratio", tokens, items=items, brackets="clock" if clock else "", unit=half)
    if len(tokens) == 3 and tokens[1] == "-" and tokens[0].isdigit() and tokens[2].isdigit():
        if (len(tokens[0]), tokens[0]) < (len(tokens[2]), tokens[2]):
            return Answer("range", tokens)
    if len(tokens) >= 3 and tokens[0].isdigit() and tokens[1] == "_":
        base = tuple(lexeme for lexeme in tokens[2:] if lexeme not in {"{", "}"})
        return Answer("based", (tokens[0], "_", *base))
    return None


def _quantity(tokens: Tokens, depth: int) -> Answer | None:
    """An expression, perhaps with words behind it that are its unit."""
    end = len(tokens)
    while end > 0 and _is_unit_token(tokens, end):
        end -= 1
    start = 0
    if end == len(tokens) or end > 0:
        while start < end and tokens[start] == "angle":
            return None
        node = parse_expression(tokens[start:end])
        if node is not None:
            return Answer("value", tokens[start:end], node, _unit_name(tokens[end:]))
    return None


def _is_unit_token(tokens: Tokens, end: int) -> bool:
    lexeme = tokens[end - 1]
    if lexeme.startswith("'"):
        return True
    # the exponent of a unit, and the slash of one: cm^2, miles/hour
    if end >= 3 and lexeme in {"2", "3"} and tokens[end - 2] == "^" and tokens[end - 3].startswith("'"):
        return True
    if end >= 2 and lexeme == "^" and tokens[end - 2].startswith("'"):
        return True
    if lexeme in {"}", "{"} and end >= 3:
        return any(tokens[index].startswith("'") for index in range(max(0, end - 5), end))
    return lexeme == "/" and end < len(tokens) and tokens[end].startswith("'")


def _unit_name(tokens: Tokens) -> str:
    names = [UNIT_NAMES.get(lexeme[1:], lexeme[1:]) for lexeme in tokens if lexeme.startswith("'")]
    power = "2" if "2" in tokens or {"square", "sq", "squared"} & set(names) else ""
    power = "3" if "3" in tokens or {"cubic", "cu", "cubed"} & set(names) else power
    known = [name for name in names if name in UNIT_NAMES.values()]
    return known[0] + power if len(known) == 1 and "/" not in tokens and "per" not in names else ""


def _is_prose(tokens: Tokens) -> bool:
    """Words, perhaps with single letters, brackets and numbers among them."""
    if len(tokens) == 1 and tokens[0].isalpha() and len(tokens[0]) == 1:
        return False
    return bool(tokens) and any(lexeme.startswith("'") for lexeme in tokens) and tokens[0] not in UNITS


def _words(tokens: Tokens) -> Tokens:
    return tuple(lexeme for lexeme in tokens if lexeme not in {"(", ")", "{", "}", ".", "-", "!", "?"})
