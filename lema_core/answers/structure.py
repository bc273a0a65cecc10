"""What kind of thing an answer is: a number, a tuple, a set, an interval, a matrix, an equation, a clock time, a text.

``parse_answer`` gives every answer one type; ``compare.py`` compares types. Types are what keeps 10:30 from being 10,
``25_6`` from being ``25_7`` and ``(0,1]`` from being ``(0,1)``.
"""

from dataclasses import replace
from functools import lru_cache
from itertools import product
from math import prod

from lema_core.answers.expressions import MAX_TOKENS, Node, Tokens, parse_expression
from lema_core.answers.lexer import to_ascii, tokens_of
from lema_core.answers.lexicon import FILLERS, GENERIC_LABELS, NEGATIONS, QUALIFIERS, SCALES, UNIT_NAMES, UNITS
from lema_core.answers.typed_answers import (
    CLOSING,
    OPENING,
    Answer,
    as_interval,
    canonical,
    closes_at_end,
    date_of,
    split_top,
    strip_remarks,
)
from lema_core.answers.values import has_unknowns

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
MAX_TIME_DIGITS = 6
_HALVES = {"'am": "'am", "'pm": "'pm", "'noon": "'pm", "'midnight": "'am"}
_NO_THINGS = FILLERS | QUALIFIERS | SCALES.keys()
_SCALED = {"'" + word + plural: factor for word, factor in SCALES.items() for plural in ("", "s")}


@lru_cache(maxsize=32_768)
def parse_answer(text: str, *, letters: bool = False) -> Answer:
    """Return the typed form of an answer as written; ``letters`` reads a short word as a product of unknowns."""
    date = date_of(to_ascii(text).strip())
    if date is not None:
        return date
    tokens = (
        tokens_of(text, letters=True) if letters else tokens_of(text)
    )  # the lexer's cache has the two under two keys
    if tokens[:1] == ("{",) and tokens.count("{") > tokens.count("}"):
        tokens = tokens[1:]  # a box that was never closed
    remarks = strip_remarks(tokens)
    answer = _list(remarks.tokens, 0)
    return with_integers(answer, remarks.integers) if remarks.integers else answer


def with_integers(answer: Answer, integers: Tokens) -> Answer:
    """Return an answer whose parts know which of their letters are integers."""
    return replace(answer, integers=integers, items=tuple(with_integers(item, integers) for item in answer.items))


def _list(tokens: Tokens, depth: int) -> Answer:
    if depth > MAX_NESTING or len(tokens) > MAX_TOKENS or not tokens:
        return Answer("raw", tokens)
    if "row" in tokens or "&" in tokens:
        # ``x = 1 \\ y = 2`` lists two answers; a row that begins with a sign goes on with the one before
        cells = [[*split_top(row, {"&"})] for row in split_top(tokens, {"row"})]
        rows = [tuple(lexeme for cell in row for lexeme in cell) for row in cells]
        listed: list[str] = []
        for row in (row[:-1] if row[-1:] in {(",",), (".",), (";",)} else row for row in rows):
            listed += [*([";"] if listed and row and row[0] not in _COMPARISONS else []), *row]
        tokens = tuple(listed)
    # "x = 1 \\lor x = 2" lists two answers; "p \\lor q" is a formula of logic
    clauses = split_top(tokens, _LOGIC) if _LOGIC.intersection(tokens) else []
    lists = bool(clauses) and all(_RELATIONS.intersection(clause) for clause in clauses)
    parts = [part for part in split_top(tokens, _SEPARATORS | _LOGIC if lists else _SEPARATORS) if part]
    if len(parts) > MAX_ITEMS:
        return Answer("raw", tokens)
    if len(parts) <= 1:
        return _signed_pair(parts[0] if parts else tokens, depth)
    if ":" not in tokens and all(_is_prose(part) for part in parts):
        return Answer("text", tuple(lexeme for lexeme in tokens if lexeme not in _SEPARATORS))
    items: list[Answer] = []
    for part in parts:
        item = _signed_pair(part, depth + 1)
        # "(x > 1 and x < 2)" is one of the two conditions of "(x > 1 and x < 2) or x > 5"
        is_condition = any(inner.kind == "relation" for inner in item.items)
        items.extend(item.items if item.kind == "list" and not is_condition else [item])
    return Answer("list", tokens, items=tuple(items))


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
        parts = split_top(tokens, _COMPARISONS)
        signs: list[str] = []
        nesting = 0
        for lexeme in tokens:
            nesting += (lexeme in OPENING) - (lexeme in CLOSING)
            if nesting == 0 and lexeme in _COMPARISONS:
                signs.append(lexeme)
        if "approx" in signs:
            # ``x \approx 3.2`` is 3.2 with a name; after ``x = \sqrt{2}`` it is only the rounded form of that
            cut = signs.index("approx")
            if cut == 0 and len(parts[0]) and _is_name(parts[0]):
                return replace(_item(parts[1], depth + 1), name=parts[0])
            before = tokens[: len(tokens) - sum(map(len, parts[cut + 1 :])) - len(signs[cut:])]
            if not before or not parts[-1]:
                return Answer("raw", tokens)
            return replace(_item(before, depth + 1), rounded=_item(parts[-1], depth + 1))
        if any(not part for part in parts):
            return Answer("raw", tokens)
        if set(signs) == {"="}:
            return _equation(tokens, parts, depth)
        items = tuple(_item(part, depth + 1) for part in parts)
        return Answer("relation", tokens, items=items, signs=tuple(signs))
    answer = (
        (
            _union(tokens, depth)
            or _bracketed(tokens, depth)
            or _matrix(tokens, depth)
            or _cases(tokens, depth)
            or _typed_number(tokens)
            or _share(tokens)
            or _quantity(tokens)
        )
        if tokens
        else None
    )
    if answer is not None:
        return answer
    if not _is_prose(tokens):
        return Answer("raw", tokens)
    marks = {"(", ")", "{", "}", ".", "-", "!", "?"}
    words = tuple(lexeme for lexeme in tokens if lexeme not in marks)
    return Answer("text", tokens[:1] * (tokens[0] == "-") + words)


def _share(tokens: Tokens) -> Answer | None:
    """``3 out of 4`` is 3/4."""
    if tokens[1:3] != ("'out", "'of") or len(tokens) < 4:
        return None
    top, bottom = parse_expression(tokens[:1]), _quantity(tokens[3:])
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
        index = tokens.index("in")
        if _is_name(tokens[:index]):
            is_member, tokens = True, tokens[index + 1 :]
    if ":" in tokens and _is_prose(tokens[: tokens.index(":")]):
        words_before = tokens[: tokens.index(":")]
        tokens = tokens[len(words_before) + 1 :]
        label = tuple(word for word in words_before if word[0] == "'" and word[1:] not in GENERIC_LABELS)
    ordinal = tokens[-4:-2] == ("^", "{") and tokens[-2] in _ORDINALS
    return label, is_member, tokens[:-4] if ordinal else tokens


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
    return len(rest) > 2 and rest[0] == "(" and closes_at_end(rest)


def _equation(tokens: Tokens, parts: list[Tokens], depth: int) -> Answer:
    """``x = 5`` is 5 with a name; ``a = b = 5`` is its last side; an equation between expressions stays one."""
    first = parts[0]
    names = split_top(first, {":"})  # a : b = 1 : 2
    if len(names) == 1 and first[0] in {"(", "["} and closes_at_end(first):
        names = [name for name in split_top(first[1:-1], {",", ";"}) if name]  # (x, y) = (1, 2)
    if _is_name(first) or all(_is_name(name) for name in names):
        last = _item(parts[-1], depth + 1)
        return replace(last, name=parts[0])
    if len(parts) == 2 and _is_name(parts[1]) and parse_expression(parts[1]) is not None:
        value = _item(parts[0], depth + 1)
        if value.kind == "value" and value.node is not None and value.node.op == "num":
            return replace(value, name=parts[1])
    items = tuple(_item(part, depth + 1) for part in parts)
    return Answer("relation", tokens, items=items, signs=("=",) * (len(parts) - 1))


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
        inner = tokens[1:-1]
        bars = split_top(inner, {"|", ":"})
        if len(bars) == 2 and _is_name(bars[0]):
            condition = _item(bars[1], depth + 1)  # {x | x < 3} is its condition, whatever the name
            interval = as_interval(condition) if condition.kind == "relation" else None
            return condition if interval is None else replace(interval, name=())
        listed = _list(inner, depth + 1) if inner else Answer("list", tokens)
        items = listed.items if listed.kind == "list" else (listed,)
        return Answer("set", tokens, items=items)
    if len(tokens) < 3 or not closes_at_end(tokens):
        return None
    if opening + closing == "{}":
        return _list(tokens[1:-1], depth + 1)
    if opening not in {"(", "["} or closing not in {")", "]"}:
        return None
    brackets = tokens[0] + tokens[-1]
    if brackets == "[]" and ";" in tokens and "," in tokens:
        rows = split_top(tokens[1:-1], {";"})
        return _grid(tokens, [split_top(row, {","}) for row in rows], depth)
    parts = split_top(tokens[1:-1], {",", ";"})
    if len(parts) == 1:
        return _list(parts[0], depth + 1) if brackets in {"()", "[]"} else None
    if any(not part for part in parts) or len(parts) > MAX_ITEMS:
        return Answer("raw", tokens)
    members = [_signed_pair(part, depth + 1) for part in parts]
    choices = [item.items if item.kind == "list" and {"pm", "mp"} & set(item.tokens) else (item,) for item in members]
    if prod(map(len, choices)) > MAX_SIGN_CHOICES:
        return Answer("raw", tokens)
    tuples = tuple(Answer("tuple", tokens, items=chosen, brackets=brackets) for chosen in product(*choices))
    return tuples[0] if len(tuples) == 1 else Answer("list", tokens, items=tuples)


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


def _typed_number(tokens: Tokens) -> Answer | None:
    """Read digits with a sign between them that is no arithmetic: times and ratios, ranges, numbers in a base."""
    if ":" in tokens:
        return _ratio(tokens)
    if len(tokens) == 2 and tokens[1] in _HALVES and tokens[0].isdigit():
        full = _ratio((tokens[0], ":", "00", tokens[1]))  # "3 PM" and "12 noon" are full hours
        return replace(full, tokens=tokens, brackets="clock") if full else None
    if len(tokens) == 3 and tokens[1] == "-" and tokens[0].isdigit() and tokens[2].isdigit():
        if (len(tokens[0]), tokens[0]) < (len(tokens[2]), tokens[2]):
            return Answer("range", tokens)
        return None
    sign, digits = (tokens[:1], tokens[1:]) if tokens[0] == "-" else ((), tokens)
    if len(digits) >= 3 and digits[0][0].isdigit() and digits[1] == "_":
        base = tuple(part for part in digits[2:] if part not in {"{", "}"})
        return Answer("based", (*sign, digits[0], "_", *base))
    return None


def _ratio(tokens: Tokens) -> Answer | None:
    half = _HALVES.get(tokens[-1], "")
    parts = split_top(tokens[:-1] if half else tokens, {":"})
    nodes = [parse_expression(part) for part in parts]
    if len(parts) < 2 or None in nodes:
        return None
    items = tuple(Answer("value", part, node) for part, node in zip(parts, nodes, strict=True))
    digits = [part[0] for part in parts if len(part) == 1 and part[0].isdigit() and len(part[0]) <= MAX_TIME_DIGITS]
    may_be_time = len(digits) == len(parts) <= 3 and int(digits[0]) <= 24 and all(int(part) < 60 for part in digits[1:])
    return Answer("ratio", tokens, items=items, brackets="clock" if may_be_time else "", unit=half)


def _quantity(tokens: Tokens) -> Answer | None:
    """Read an expression, perhaps with words behind it that are its scale or unit."""
    end = len(tokens)
    while end > 0 and _is_unit(tokens, end):
        end -= 1
    node = _percentage(tokens[:end]) or parse_expression(tokens[:end]) if end else None
    if node is None:
        return None
    if end == len(tokens):
        return Answer("value", tokens, node, "deg" * (node.op == "deg"))
    behind = [lexeme[1:] for lexeme in tokens[end:] if lexeme.startswith("'")]
    if NEGATIONS.intersection(behind) or (has_unknowns(node) and not UNITS.issuperset(behind) and behind[0] != "for"):
        return None
    while end < len(tokens) and tokens[end] in _SCALED:
        node = Node("mul", (node, Node("num", value=_SCALED[tokens[end]])))
        end += 1
    # The scale that the unit names, with its power and what it is per ("m2", "mi/h"); "" for other words
    units = [_one_unit(part) for part in split_top(tokens[end:], {"/", "'per"})]
    unit = "/".join(units) if units[0] else ""
    if unit == "deg" and node.op != "deg":
        node = Node("deg", (node,))
    note = tuple(word for word in behind if word in QUALIFIERS)
    things = () if unit else tuple(word for word in behind if word not in _NO_THINGS)
    return Answer("value", tokens[:end], node, unit or "deg" * (node.op == "deg"), note=note, things=things)


def _percentage(tokens: Tokens) -> Node | None:
    """``1/2%`` is half a percent: the sign is of the whole fraction or mixed number before it."""
    if tokens[-1] != "%" or "/" not in tokens or any(lexeme in {"+", "(", "{", "%"} for lexeme in tokens[:-1]):
        return None
    inner = parse_expression(tokens[:-1])
    return None if inner is None or has_unknowns(inner) else Node("percent", (inner,))


def _is_unit(tokens: Tokens, end: int) -> bool:
    lexeme = tokens[end - 1]
    if lexeme.startswith("'"):
        return lexeme[1:].isalpha()
    # the exponent of a unit, and the slash of one: cm^2, miles/hour
    if lexeme in {"2", "3"}:
        before = tokens[: end - 2] if tokens[end - 2] == "{" else tokens[: end - 1]
        return before[-1:] == ("^",) and before[-2:][0].startswith("'")
    if end >= 2 and lexeme == "^" and tokens[end - 2].startswith("'"):
        return True
    if lexeme in {"}", "{"} and end >= 3:
        return any(tokens[index].startswith("'") for index in range(max(0, end - 5), end))
    return lexeme == "/" and end < len(tokens) and tokens[end].startswith("'")


def _one_unit(tokens: Tokens) -> str:
    names = [UNIT_NAMES.get(lexeme[1:], lexeme[1:]) for lexeme in tokens if lexeme.startswith("'")]
    power = "2" if "2" in tokens or {"square", "sq", "squared"} & set(names) else ""
    power = "3" if "3" in tokens or {"cubic", "cu", "cubed"} & set(names) else power
    known = [name for name in names if name in UNIT_NAMES]
    known = [name for name in known if name != "deg"] if len(known) > 1 else known
    return known[0] + power if len(known) == 1 else ""


def _is_prose(tokens: Tokens) -> bool:
    """Whether the tokens are words, perhaps with single letters, brackets and numbers among them."""
    if len(tokens) == 1 and tokens[0].isalpha() and len(tokens[0]) == 1:
        return False
    return any(lexeme.startswith("'") for lexeme in tokens)
