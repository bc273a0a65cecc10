"""What kind of thing an answer is: a number, a tuple, a set, an interval, a matrix, an equation, a clock time, a text.

``parse_answer`` gives every answer one type; ``compare.py`` compares types. Types are what keeps 10:30 from being 10,
``25_6`` from being ``25_7`` and ``(0,1]`` from being ``(0,1)``.
"""

from dataclasses import replace
from functools import lru_cache
from itertools import product
from math import prod

from lema_core.answers.expressions import MAX_TOKENS, Tokens, parse_expression
from lema_core.answers.leaves import is_prose, quantity, typed_number, words
from lema_core.answers.lexer import tokens_of
from lema_core.answers.relations import as_interval
from lema_core.answers.typed import CLOSING, OPENING, Answer, closes_at_end, split_top

MAX_ITEMS = 64
MAX_NESTING = 6
_RELATIONS = frozenset(["=", "<", ">", "<=", ">=", "!="])
_COMPARISONS = _RELATIONS | {"approx"}
_ORDINALS = frozenset(["'th", "'st", "'nd", "'rd"])
MAX_SIGN_CHOICES = 16
_SEPARATORS = frozenset([",", ";", "&and", "&or"])
_LOGIC = frozenset(["land", "lor"])


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
    parts = [part for part in split_top(tokens, _separators(tokens)) if part]
    if len(parts) > MAX_ITEMS:
        return Answer("raw", tokens)
    if len(parts) <= 1:
        return _signed_pair(parts[0] if parts else tokens, depth)
    if ":" not in tokens and all(is_prose(part) for part in parts):
        return Answer("text", tuple(lexeme for lexeme in tokens if lexeme not in _SEPARATORS))
    items: list[Answer] = []
    for part in parts:
        item = _signed_pair(part, depth + 1)
        items.extend(item.items if item.kind == "list" else [item])
    return Answer("list", tokens, items=tuple(items))


def _separators(tokens: Tokens) -> frozenset[str]:
    r"""``x = 1 \lor x = 2`` lists two answers; ``p \lor q`` is a formula of logic."""
    parts = split_top(tokens, _LOGIC) if _LOGIC.intersection(tokens) else []
    listed = bool(parts) and all(_RELATIONS.intersection(part) for part in parts)
    return _SEPARATORS | _LOGIC if listed else _SEPARATORS


def _signed_pair(tokens: Tokens, depth: int) -> Answer:
    r"""``1 \\pm \\sqrt{2}`` is the two answers."""
    if ("pm" not in tokens and "mp" not in tokens) or (tokens[0] in {"\\{", "("} and closes_at_end(tokens)):
        return _item(tokens, depth)
    plus = tuple({"pm": "+", "mp": "-"}.get(lexeme, lexeme) for lexeme in tokens)
    minus = tuple({"pm": "-", "mp": "+"}.get(lexeme, lexeme) for lexeme in tokens)
    return Answer("list", tokens, items=(_item(plus, depth + 1), _item(minus, depth + 1)))


def _item(tokens: Tokens, depth: int) -> Answer:
    if depth > MAX_NESTING or not tokens:
        return Answer("raw", tokens)
    tokens = _without_label(tokens)
    if tokens and _COMPARISONS.intersection(tokens) and len(split_top(tokens, _COMPARISONS)) > 1:
        return _relation(tokens, depth)
    answer = (_composite(tokens, depth) or typed_number(tokens) or quantity(tokens)) if tokens else None
    if answer is not None:
        return answer
    return Answer("text", words(tokens)) if is_prose(tokens) else Answer("raw", tokens)


def _without_label(tokens: Tokens) -> Tokens:
    r"""Drop what only says what the answer is of: the x of ``x \in [1,2]``, ``Maximum:``, the ``th`` of ``12^{th}``."""
    if "in" in tokens[1:] and split_top(tokens, {"in"})[1:]:
        name, _, member = _partition(tokens, "in")
        tokens = member if _is_name(name) else tokens
    if ":" in tokens and is_prose(tokens[: tokens.index(":")]):
        tokens = tokens[tokens.index(":") + 1 :]
    return tokens[:-4] if tokens[-4:-2] == ("^", "{") and tokens[-2] in _ORDINALS else tokens


def _composite(tokens: Tokens, depth: int) -> Answer | None:
    return _union(tokens, depth) or _bracketed(tokens, depth) or _matrix(tokens, depth)


def _partition(tokens: Tokens, lexeme: str) -> tuple[Tokens, str, Tokens]:
    index = tokens.index(lexeme)
    return tokens[:index], lexeme, tokens[index + 1 :]


def _is_name(tokens: Tokens) -> bool:
    """An unknown, perhaps with index or argument, or a phrase that names a quantity."""
    if not tokens:
        return False
    node = parse_expression(tokens)
    if node is None:
        return is_prose(tokens) or tokens[0] in {"angle", "triangle"} or _is_application(tokens)
    named_absolute = node.op == "abs" and all(lexeme.isalpha() for lexeme in tokens[1:-1])
    product = node.op == "mul" and len(tokens) <= 4 and all(len(lexeme) == 1 and lexeme.isupper() for lexeme in tokens)
    return node.op == "var" or named_absolute or product or _is_application(tokens)


def _is_application(tokens: Tokens) -> bool:
    """``T(10)`` or ``f^{-1}(x)``: a letter, perhaps an exponent, and one bracket to the end."""
    head = tokens[0]
    if len(head) != 1 or not head.isalpha() or tokens[-1] != ")":
        return False
    rest = tokens[1:]
    return len(rest) > 2 and rest[0] == "(" and closes_at_end(rest)


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
        return replace(last, name=parts[0])
    if len(parts) == 2 and _is_name(parts[1]) and parse_expression(parts[1]) is not None:
        value = _item(parts[0], depth + 1)
        if value.kind == "value" and value.node is not None and value.node.op == "num":
            return replace(value, name=parts[1])
    items = tuple(_item(part, depth + 1) for part in parts)
    return Answer("relation", tokens, items=items, signs=("=",) * (len(parts) - 1))


def _is_tuple_of_names(tokens: Tokens) -> bool:
    if tokens[0] not in {"(", "["} or not closes_at_end(tokens):
        return False
    return all(_is_name(part) for part in split_top(tokens[1:-1], {",", ";"}) if part)


def _is_ratio_of_names(tokens: Tokens) -> bool:
    parts = split_top(tokens, {":"})
    return len(parts) > 1 and all(_is_name(part) for part in parts)


def _top_signs(tokens: Tokens) -> list[str]:
    signs, depth = [], 0
    for lexeme in tokens:
        depth += (lexeme in OPENING) - (lexeme in CLOSING)
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
    if len(tokens) < 3 or not closes_at_end(tokens):
        return None
    if opening + closing == "{}":
        return _list(tokens[1:-1], depth + 1)
    return _tuple(tokens, depth) if opening in {"(", "["} and closing in {")", "]"} else None


def _tuple(tokens: Tokens, depth: int) -> Answer | None:
    brackets = tokens[0] + tokens[-1]
    parts = split_top(tokens[1:-1], {",", ";"})
    if len(parts) == 1:
        return _list(parts[0], depth + 1) if brackets in {"()", "[]"} else None
    if any(not part for part in parts) or len(parts) > MAX_ITEMS:
        return Answer("raw", tokens)
    items = [_signed_pair(part, depth + 1) for part in parts]
    choices = [item.items if item.kind == "list" and {"pm", "mp"} & set(item.tokens) else (item,) for item in items]
    if prod(map(len, choices)) > MAX_SIGN_CHOICES:
        return Answer("raw", tokens)
    tuples = [Answer("tuple", tokens, items=chosen, brackets=brackets) for chosen in product(*choices)]
    return tuples[0] if len(tuples) == 1 else Answer("list", tokens, items=tuple(tuples))


def _set(tokens: Tokens, depth: int) -> Answer | None:
    inner = tokens[1:-1]
    bars = split_top(inner, {"|", ":"})
    if len(bars) == 2 and _is_name(bars[0]):
        condition = _item(bars[1], depth + 1)  # {x | x < 3} is its condition, whatever the name
        interval = as_interval(condition) if condition.kind == "relation" else None
        return condition if interval is None else replace(interval, name=())
    listed = _list(inner, depth + 1) if inner else Answer("list", tokens)
    items = listed.items if listed.kind == "list" else (listed,)
    return Answer("set", tokens, items=items)


def _matrix(tokens: Tokens, depth: int) -> Answer | None:
    if tokens[0] != "beginmatrix" or tokens[-1] != "endmatrix" or not closes_at_end(tokens):
        return None
    rows = [split_top(row, {"&"}) for row in split_top(tokens[1:-1], {"row"}) if row]
    if not rows or len({len(row) for row in rows}) != 1:
        return Answer("raw", tokens)
    items = tuple(_item(cell, depth + 1) for row in rows for cell in row)
    return Answer("matrix", tokens, items=items, brackets=f"{len(rows)}x{len(rows[0])}")
