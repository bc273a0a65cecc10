"""The answers without parts: numbers with units, clock times, ratios, ranges, numbers in a base, words."""

from lema_core.answers.expressions import Tokens, parse_expression
from lema_core.answers.lexicon import UNIT_NAMES, UNITS
from lema_core.answers.typed import Answer, split_top

MAX_TIME_DIGITS = 6


def typed_number(tokens: Tokens) -> Answer | None:
    """Read digits with a sign between them that is no arithmetic: times and ratios, ranges, numbers in a base."""
    if ":" in tokens:
        return _ratio(tokens)
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
    half = tokens[-1] if tokens[-1] in {"'am", "'pm"} else ""
    parts = split_top(tokens[:-1] if half else tokens, {":"})
    nodes = [parse_expression(part) for part in parts]
    if len(parts) < 2 or None in nodes:
        return None
    items = tuple(Answer("value", part, node) for part, node in zip(parts, nodes, strict=True))
    return Answer("ratio", tokens, items=items, brackets="clock" if _may_be_time(parts) else "", unit=half)


def _may_be_time(parts: list[Tokens]) -> bool:
    digits = [part[0] for part in parts if len(part) == 1 and part[0].isdigit() and len(part[0]) <= MAX_TIME_DIGITS]
    if len(digits) != len(parts) or len(parts) > 3:
        return False
    return int(digits[0]) <= 24 and all(int(part) < 60 for part in digits[1:])


def quantity(tokens: Tokens) -> Answer | None:
    """Read an expression, perhaps with words behind it that are its unit."""
    end = len(tokens)
    while end > 0 and _is_unit(tokens, end):
        end -= 1
    node = parse_expression(tokens[:end]) if end else None
    return Answer("value", tokens[:end], node, _unit_name(tokens[end:])) if node is not None else None


def _is_unit(tokens: Tokens, end: int) -> bool:
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


def is_prose(tokens: Tokens) -> bool:
    """Whether the tokens are words, perhaps with single letters, brackets and numbers among them."""
    if len(tokens) == 1 and tokens[0].isalpha() and len(tokens[0]) == 1:
        return False
    return bool(tokens) and any(lexeme.startswith("'") for lexeme in tokens) and tokens[0] not in UNITS


def words(tokens: Tokens) -> Tokens:
    """Return a text without its punctuation."""
    marks = {"(", ")", "{", "}", ".", "-", "!", "?"}
    return tokens[:1] * (tokens[0] == "-") + tuple(lexeme for lexeme in tokens if lexeme not in marks)
