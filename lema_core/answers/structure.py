"""What kind of thing an answer is: a number, a tuple, a set, an interval, a matrix, an equation, a clock time, a text.

``parse_answer`` gives every answer one type; ``compare.py`` compares types. Types are what keeps 10:30 from being 10,
``25_6`` from being ``25_7`` and ``(0,1]`` from being ``(0,1)``.
"""

from dataclasses import replace
from functools import lru_cache
from itertools import product
from math import prod

from lema_core.answers.expressions import MAX_TOKENS, Node, Tokens, parse_expression
from lema_core.answers.forms import canonical, date_of, without_remarks
from lema_core.answers.leaves import is_prose, quantity, typed_number, words
from lema_core.answers.lexer import to_ascii, tokens_of
from lema_core.answers.lexicon import GENERIC_LABELS
from lema_core.answers.relations import as_interval
from lema_core.answers.typed_answers import CLOSING, OPENING, Answer, closes_at_end, split_top

MAX_ITEMS = 64
MAX_NESTING = 6
_RELATIONS = frozenset(["=", "<", ">", "<=", ">=", "!="])
_COMPARISONS = _RELATIONS | {"approx"}
_ORDINALS = frozenset(["'th", "'st", "'nd", "'rd"])
MAX_SIGN_CHOICES = 16
_SEPARATORS = frozenset([",", ";", "&and", "&or"])
_LOGIC = frozenset(["land", "lor"])


_ABOUT = frozenset(["approx", "'about", "'approximately", "'roughly", "'around", "'approx", "'nearly", "'circa"])
_CASE_WORDS = frozenset(["'if", "'for", "'when", "'where", "'otherwise", "'else"])


@lru_cache(maxsize=32_768)
def parse_answer(text: str, *, letters: bool = False) -> Answer:
    """Return the typed form of an answer as written; ``letters`` reads a short word as a product of unknowns."""
    date = date_of(to_ascii(text).strip())
    if date is not None:
        return date
    tokens = tokens_of(text, letters=True) if letters else tokens_of(text)  # the lexer's cache tells the two apart
    if tokens[:1] == ("{",) and tokens.count("{") > tokens.count("}"):
        tokens = tokens[1:]  # a box that was never closed
    remarks = without_remarks(tokens)
    answer = _list(remarks.tokens, 0)
    return with_integers(answer, remarks.integers) if remarks.integers else answer


def with_integers(answer: Answer, integers: Tokens) -> Answer:
    """Return an answer whose parts know which of their letters are integers."""
    return replace(answer, integers=integers, items=tuple(with_integers(item, integers) for item in answer.items))


def _list(tokens: Tokens, depth: int) -> Answer:
    if depth > MAX_NESTING or len(tokens) > MAX_TOKENS or not tokens:
        return Answer("raw", tokens)
    tokens = _rows_as_list(tokens)
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
        items.extend(item.items if item.kind == "list" and not _is_condition(item) else [item])
    return Answer("list", tokens, items=tuple(items))


def _is_condition(listed: Answer) -> bool:
    """``(x > 1 and x < 2)`` is one of the two conditions of ``(x > 1 and x < 2) or x > 5``."""
    return any(item.kind == "relation" for item in listed.items)


def _rows_as_list(tokens: Tokens) -> Tokens:
    r"""``x = 1 \\ y = 2`` lists two answers; a row that begins with a sign goes on with the one before."""
    if "row" not in tokens and "&" not in tokens:
        return tokens
    rows = [tuple(lexeme for cell in split_top(row, {"&"}) for lexeme in cell) for row in split_top(tokens, {"row"})]
    rows = [row[:-1] if row[-1:] in {(",",), (".",), (";",)} else row for row in rows]
    result: list[str] = []
    for row in rows:
        result += [*([";"] if result and row and row[0] not in _COMPARISONS else []), *row]
    return tuple(result)


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
    label, is_member, tokens = _label(tokens)
    answer = canonical(_unlabelled(tokens, depth))
    if is_member and answer.kind in {"tuple", "union"}:
        answer = replace(answer, note=("in",))
    return replace(answer, name=label) if label and not answer.name else answer


def _unlabelled(tokens: Tokens, depth: int) -> Answer:
    while tokens and tokens[0] in _ABOUT and len(tokens) > 1:
        tokens = tokens[1:]
    if tokens and _COMPARISONS.intersection(tokens) and len(split_top(tokens, _COMPARISONS)) > 1:
        return _relation(tokens, depth)
    answer = (
        (_composite(tokens, depth) or typed_number(tokens) or _share(tokens) or quantity(tokens)) if tokens else None
    )
    if answer is not None:
        return answer
    return Answer("text", words(tokens)) if is_prose(tokens) else Answer("raw", tokens)


def _share(tokens: Tokens) -> Answer | None:
    """``3 out of 4`` is 3/4."""
    if tokens[1:3] != ("'out", "'of") or len(tokens) < 4:
        return None
    top, bottom = parse_expression(tokens[:1]), quantity(tokens[3:])
    if top is None or bottom is None or bottom.node is None or top.op != "num" or bottom.node.op != "num":
        return None
    return Answer("value", tokens, Node("div", (top, bottom.node)))


def _label(tokens: Tokens) -> tuple[Tokens, bool, Tokens]:
    r"""Return what an answer is said to be of, whether it is a set of which that is a member, and the answer itself.

    The x of ``x \in [1,2]`` and words such as "answer" are no label; ``Ben: 7`` has one. The ``th`` of ``12^{th}``
    goes.
    """
    label: Tokens = ()
    is_member = False
    if "in" in tokens[1:] and split_top(tokens, {"in"})[1:]:
        name, _, member = _partition(tokens, "in")
        if _is_name(name):
            is_member, tokens = True, member
    if ":" in tokens and is_prose(tokens[: tokens.index(":")]):
        words_before = tokens[: tokens.index(":")]
        tokens = tokens[len(words_before) + 1 :]
        label = tuple(word for word in words_before if word[0] == "'" and word[1:] not in GENERIC_LABELS)
    ordinal = tokens[-4:-2] == ("^", "{") and tokens[-2] in _ORDINALS
    return label, is_member, tokens[:-4] if ordinal else tokens


def _composite(tokens: Tokens, depth: int) -> Answer | None:
    return _union(tokens, depth) or _bracketed(tokens, depth) or _matrix(tokens, depth) or _cases(tokens, depth)


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
    if "approx" in signs:
        return _approximation(tokens, parts, signs, depth)
    if any(not part for part in parts):
        return Answer("raw", tokens)
    if set(signs) == {"="}:
        return _equation(tokens, parts, depth)
    items = tuple(_item(part, depth + 1) for part in parts)
    return Answer("relation", tokens, items=items, signs=signs)


def _approximation(tokens: Tokens, parts: list[Tokens], signs: tuple[str, ...], depth: int) -> Answer:
    r"""``x \approx 3.2`` is 3.2 with a name; after ``x = \sqrt{2}`` it is only the rounded form of that."""
    cut = signs.index("approx")
    if cut == 0 and len(parts[0]) and _is_name(parts[0]):
        return replace(_item(parts[1], depth + 1), name=parts[0])
    before = tokens[: len(tokens) - sum(map(len, parts[cut + 1 :])) - len(signs[cut:])]
    if not before or not parts[-1]:
        return Answer("raw", tokens)
    return replace(_item(before, depth + 1), rounded=_item(parts[-1], depth + 1))


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
    if brackets == "[]" and ";" in tokens and "," in tokens:
        rows = split_top(tokens[1:-1], {";"})
        return _grid(tokens, [split_top(row, {","}) for row in rows], depth)
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
    if tokens[0] in {"'matrix", "'array"} and tokens[-1] == ")" and closes_at_end(tokens[1:]):
        return _list(tokens[2:-1], depth + 1)  # sympy's and numpy's way of writing one
    if tokens[0] != "beginmatrix" or tokens[-1] != "endmatrix" or not closes_at_end(tokens):
        return None
    rows = [row for row in split_top(tokens[1:-1], {"row"}) if row]
    if rows and all(len(split_top(row, _COMPARISONS)) > 1 for row in rows):
        return _list(tuple(lexeme for row in rows for lexeme in (*row, "row")), depth + 1)  # an array of equations
    return _grid(tokens, [split_top(row, {"&"}) for row in rows], depth)


def _grid(tokens: Tokens, rows: list[list[Tokens]], depth: int) -> Answer:
    if not rows or len({len(row) for row in rows}) != 1 or len(rows) * len(rows[0]) > MAX_ITEMS:
        return Answer("raw", tokens)
    items = tuple(_item(cell, depth + 1) for row in rows for cell in row)
    return Answer("matrix", tokens, items=items, brackets=f"{len(rows)}x{len(rows[0])}")


def _cases(tokens: Tokens, depth: int) -> Answer | None:
    """A brace before rows: values and their conditions, or a system of equations."""
    if tokens[0] != "begincases" or not closes_at_end(tokens):
        return None
    rows = [row for row in split_top(tokens[1:-1], {"row"}) if row]
    split = [_case(row) for row in rows]
    if not rows or len(rows) > MAX_ITEMS:
        return Answer("raw", tokens)
    if None in split:
        return _list(tuple(lexeme for row in rows for lexeme in (*row, "row")), depth + 1)
    items = tuple(
        Answer("tuple", (), items=(_item(value, depth + 1), _list(condition, depth + 1)), brackets="case")
        for value, condition in filter(None, split)
    )
    return Answer("piecewise", tokens, items=items)


def _case(row: Tokens) -> tuple[Tokens, Tokens] | None:
    """Return value and condition of a row; None: it has no condition."""
    cells = split_top(row, {"&"})
    if len(cells) < 2 or not cells[1] or cells[1][0] in _COMPARISONS:
        joined = tuple(lexeme for cell in cells for lexeme in cell)
        at = next((index for index, lexeme in enumerate(joined) if lexeme in _CASE_WORDS), None)
        if at is None:
            cells = split_top(joined, {","})
            if len(cells) != 2 or not _COMPARISONS.intersection(cells[1]) or _COMPARISONS.intersection(cells[0]):
                return None
        else:
            cells = [joined[:at], joined[at:]]
    value = cells[0][:-1] if cells[0][-1:] == (",",) else cells[0]
    condition = tuple(lexeme for cell in cells[1:] for lexeme in cell)
    while condition and condition[0] in {"'if", "'for", "'when", "'where", ","}:
        condition = condition[1:]
    return (value, condition) if value and condition else None
