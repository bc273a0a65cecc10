"""The answers without parts: numbers with units, clock times, ratios, ranges, numbers in a base, words."""

from lema_core.answers.expressions import Node, Tokens, parse_expression
from lema_core.answers.lexicon import FILLERS, NEGATIONS, QUALIFIERS, SCALES, UNIT_NAMES, UNITS
from lema_core.answers.typed_answers import Answer, split_top
from lema_core.answers.values import has_unknowns

MAX_TIME_DIGITS = 6
_HALVES = {"'am": "'am", "'pm": "'pm", "'noon": "'pm", "'midnight": "'am"}
_NO_THINGS = FILLERS | QUALIFIERS | SCALES.keys()
_SCALED = {"'" + word + plural: factor for word, factor in SCALES.items() for plural in ("", "s")}


def typed_number(tokens: Tokens) -> Answer | None:
    """Read digits with a sign between them that is no arithmetic: times and ratios, ranges, numbers in a base."""
    if ":" in tokens:
        return _ratio(tokens)
    if len(tokens) == 2 and tokens[1] in _HALVES and tokens[0].isdigit():
        return _hour(tokens)
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
    return Answer("ratio", tokens, items=items, brackets="clock" if _may_be_time(parts) else "", unit=half)


def _hour(tokens: Tokens) -> Answer | None:
    """``3 PM`` and ``12 noon`` are full hours."""
    full = _ratio((tokens[0], ":", "00", tokens[1]))
    return Answer("ratio", tokens, items=full.items, brackets="clock", unit=full.unit) if full else None


def _may_be_time(parts: list[Tokens]) -> bool:
    digits = [part[0] for part in parts if len(part) == 1 and part[0].isdigit() and len(part[0]) <= MAX_TIME_DIGITS]
    if len(digits) != len(parts) or len(parts) > 3:
        return False
    return int(digits[0]) <= 24 and all(int(part) < 60 for part in digits[1:])


def quantity(tokens: Tokens) -> Answer | None:
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
    unit = _unit_name(tokens[end:])
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


def _unit_name(tokens: Tokens) -> str:
    """Return the scale that a unit names, with its power and what it is per: ``m2``, ``mi/h``; "" for other words."""
    parts = [_one_unit(part) for part in split_top(tokens, {"/", "'per"})]
    return "/".join(parts) if parts[0] else ""


def _one_unit(tokens: Tokens) -> str:
    names = [UNIT_NAMES.get(lexeme[1:], lexeme[1:]) for lexeme in tokens if lexeme.startswith("'")]
    power = "2" if "2" in tokens or {"square", "sq", "squared"} & set(names) else ""
    power = "3" if "3" in tokens or {"cubic", "cu", "cubed"} & set(names) else power
    known = [name for name in names if name in UNIT_NAMES]
    known = [name for name in known if name != "deg"] if len(known) > 1 else known
    return known[0] + power if len(known) == 1 else ""


def is_prose(tokens: Tokens) -> bool:
    """Whether the tokens are words, perhaps with single letters, brackets and numbers among them."""
    if len(tokens) == 1 and tokens[0].isalpha() and len(tokens[0]) == 1:
        return False
    return any(lexeme.startswith("'") for lexeme in tokens)


def words(tokens: Tokens) -> Tokens:
    """Return a text without its punctuation."""
    marks = {"(", ")", "{", "}", ".", "-", "!", "?"}
    return tokens[:1] * (tokens[0] == "-") + tuple(lexeme for lexeme in tokens if lexeme not in marks)
