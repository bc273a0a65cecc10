"""The step checker: which equations in a step's text are arithmetically false.

It proves, it does not guess: an equation is reported only where every reading of it (percent as a fraction or as a
number, a result rounded to the digits written, a running chain such as ``3 + 4 = 7 * 2 = 14``) is false over exact
rationals. What it cannot read (unknowns, functions, prose between the numbers) it leaves alone. No eval; time is
linear in the text.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import pairwise
from math import floor

from lema_core.answers.formulas import formulas
from lema_core.step_checker.equations import Side, chains
from lema_core.step_checker.tokens import Implied, Percent, Token, evaluate

ROUNDED_DECIMALS = 3
"""Decimals from which on a number in a computation may be a rounded one: ``1.414`` is, the 1.25 of a price is not."""
FLOAT_DECIMALS = 12
"""Decimals beyond which a number was printed by a program: its last ones are not exact."""
MAX_STEP_CHARS = 20_000
"""Only this much of a step is read."""


@dataclass(frozen=True, slots=True)
class FalseEquation:
    """One link ``left = right`` of a step whose two sides differ."""

    text: str
    """The link as written."""
    computed: Fraction
    """The true value of the left side."""
    claimed: Fraction
    """The value of the right side."""
    start: int
    end: int
    """Where the link stands in the step's text."""
    claimed_start: int
    claimed_end: int
    """Where the right side stands."""


_CONVERTIBLE = frozenset(
    [
        "cent", "dollar", "penny", "pennie", "nickel", "dime", "quarter", "second", "minute", "hour", "day",
        "week", "month", "year", "inch", "inche", "foot", "feet", "yard", "mile", "mm", "cm", "m", "km",
        "meter", "metre", "centimeter", "millimeter", "kilometer", "ounce", "pound", "ton", "g", "kg", "gram",
        "kilogram", "ml", "l", "liter", "litre", "gallon", "quart", "pint", "cup", "dozen", "pair", "hundred",
        "thousand", "million", "billion", "percent", "degree", "half", "halve", "decade", "century", "am", "pm",
        "min", "hr", "sec", "lb", "oz", "ft", "in", "hrs", "mins", "k",
    ]
)  # fmt: skip
_DIMENSIONS = (
    frozenset(["second", "minute", "hour", "day", "week", "month", "year", "decade", "century", "min", "hr", "sec",
        "hrs", "mins"]),
    frozenset(["inch", "inche", "foot", "feet", "yard", "mile", "mm", "cm", "m", "km", "meter", "metre", "centimeter",
        "millimeter", "kilometer", "ft", "in"]),
    frozenset(["ounce", "pound", "ton", "g", "kg", "gram", "kilogram", "lb", "oz"]),
    frozenset(["ml", "l", "liter", "litre", "gallon", "quart", "pint", "cup"]),
)  # fmt: skip
"""Units of one kind: a side with two of them converts, ``1 minute / 60 seconds = 1``."""
_COUNTED = frozenset(["dozen", "hundred", "thousand", "million", "billion", "trillion", "gross", "k"])
"""Numbers written as units: beside another unit, or none, they are factors that are not computed here."""
_CLOCK = frozenset(["am", "pm", "o'clock", "o’clock"])
_COINS = frozenset(["cent", "penny", "pennie", "nickel", "dime", "quarter"])
_OTHER_BASE = re.compile(
    r"\bin\s+base\b|\bbase[- ]\$?(?:two|three|five|eight|twelve|sixteen)\b|\bbase-\$?[0-9]|\bbinary\b|\bhexadecimal\b"
    r"|[0-9]_\{?[0-9]",
    re.IGNORECASE,
)
"""A step that counts in another base is not read."""
_REMAINDER = re.compile(
    r"[^.;\n=]{0,60}?\b(?:with|and|leaving|leaves|remainder|R)\b[^.;\n=]{0,60}?(?:\b(?:left|leftover|remain(?:s|ing|der)?|over|extra|spare)\b|(?<=R)\s?[0-9])",
    re.DOTALL,
)
_ROUNDING = re.compile(r"round|approx|about|nearest|whole|around|roughly|almost|≈|remainder|left ?over", re.IGNORECASE)


def false_equations(text: str) -> list[FalseEquation]:
    """Return the false equations of a step, in the order of the text; an empty list proves nothing.

    ``text`` is one step in prose, plain or LaTeX. Sums, differences, products, quotients, powers, brackets, percent,
    money, mixed numbers, units after numbers and chains of equals signs are understood.
    """
    text = text[:MAX_STEP_CHARS]
    if "=" not in text or _OTHER_BASE.search(text):
        return []
    # A step that speaks of rounding anywhere may state a result off by less than 1
    loose = bool(_ROUNDING.search(text))
    found = []
    for chain in chains(text):
        for left, right in pairwise(chain):
            if left is None or right is None or not _checkable(text, left, right):
                continue
            if _leaves_remainder(text, left, right):
                continue
            difference = _difference(left, right, loose)
            if difference is not None:
                start, end, claimed_start = left.tokens[0].start, right.tokens[-1].end, right.tokens[0].start
                found.append(FalseEquation(text[start:end], *difference, start, end, claimed_start, end))
    return found


def _leaves_remainder(text: str, left: Side, right: Side) -> bool:
    """Whether a quotient without its fraction is said to leave something: "10 / 3 = 3 with 1 left"."""
    if len(right.tokens) != 1 or not any(token.text in {"/", "÷"} for token in left.tokens):
        return False
    computed = _value(left.tokens)
    whole = computed is not None and floor(computed) == right.tokens[0].value
    return whole and _REMAINDER.match(text, right.tokens[-1].end) is not None


def _checkable(text: str, left: Side, right: Side) -> bool:
    if not any(token.kind == "op" or token.product is not None for token in left.tokens[1:]) and (
        left.tokens[0].product is None
    ):
        return False  # "60 minutes = 1 hour" converts, "x = 5" defines: nothing is computed
    if [token.text for token in left.tokens] == [token.text for token in right.tokens[: len(left.tokens)]]:
        return False  # "Ann ate 1/6 = 1/6 * 12 = 2 slices" names a share, then computes it
    if _scales(text, left, right) or _defines(text, left, right):
        return False
    return (
        left.units == right.units or not (left.units | right.units) & _CONVERTIBLE or not (left.units and right.units)
    )


def _defines(text: str, left: Side, right: Side) -> bool:
    r"""Whether a sign is used as defined by the question: ``$2 * 6 = 2^6 + 6^2$``, ``(3) x (5) = (3 + 5)^2``."""
    operators = [token for token in left.tokens if token.kind == "op"]
    stars = all(text[token.start : token.end] in {"*", "x"} for token in operators)
    others = {token.text for token in right.tokens[1:] if token.kind == "op"} - {"*"}
    if not stars or not others or not ("^" in others or "$" in text or "\\" in text):
        return False
    numbers = {token.value for token in left.tokens if token.kind == "num"}
    if not numbers <= {token.value for token in right.tokens if token.kind == "num"}:
        return False
    start, end = left.tokens[0].start, right.tokens[-1].end
    return "^" in others or any(formula.start <= end and start <= formula.end for formula in formulas(text))


def _scales(text: str, left: Side, right: Side) -> bool:
    """Whether the link counts in two scales: ``3 ft + 6 in = 42``, ``3 dozen + 4 = 40``, ``11 + 3 = 2 PM``."""
    units = left.units | right.units
    sums = [side for side in (left, right) if any(token.text in {"+", "-"} for token in side.tokens[1:])]
    if units & _CLOCK or (units & _COUNTED and (left.units != right.units or not all(side.uniform for side in sums))):
        return True
    written = text[max(0, left.tokens[0].start - 2) : right.tokens[-1].end + 1]
    if (units & _COINS or "¢" in written) and re.search(r"[$£€]", written):
        return True
    if any(len(side.units & units_of_one) > 1 for side in (left, right) for units_of_one in _DIMENSIONS):
        return True
    return any(len(side.units & _CONVERTIBLE) > 1 for side in sums)


def _difference(left: Side, right: Side, loose: bool) -> tuple[Fraction, Fraction] | None:
    """Return the two values where every reading of the link is false, else None."""
    # "3/24 = 1/8 of 2 feet" claims an eighth, whatever it is of
    at = next((index for index, token in enumerate(right.tokens) if token.text == "of"), None)
    share = None if at is None else _value(right.tokens[:at])
    shares = () if share is None else (share,)
    first: tuple[Fraction, Fraction] | None = None
    for computed in _readings(left):
        for claimed in (*_readings(right), *shares):
            if computed is None or claimed is None:
                return None
            head = right.tokens[0]
            runs_on = len(right.tokens) > 1 and head.kind == "num"  # 3 + 4 = 7 * 2 = 14 takes the 7 up
            runs_on = runs_on and _agree(computed, head.value, right, loose=False)
            if runs_on or _agree(computed, claimed, right, loose):
                return None
            first = first or (computed, claimed)
    if first is None or _agree_as_thousands(left, right) or _agree_as_rounded(left, right, *first):
        return None
    return first


def _agree_as_thousands(left: Side, right: Side) -> bool:
    """``1.000 + 1 = 1.001`` as it is written in Europe, where the point separates thousands."""
    tokens = (*left.tokens, *right.tokens)
    if not any(token.decimals == 3 and 1 <= token.value < 1000 for token in tokens):
        return False
    sides = [
        _value([replace(token, value=token.value * 1000) if token.decimals == 3 else token for token in side.tokens])
        for side in (left, right)
    ]
    return sides[0] is not None and sides[0] == sides[1]


def _agree_as_rounded(left: Side, right: Side, computed: Fraction, claimed: Fraction) -> bool:
    """Whether rounded numbers on the way explain the difference: ``(1.414)^2 = 2``, ``452 / 1.05^14 = 452 / 1.98``."""
    written = {token.text for token in left.tokens}
    tolerance = Fraction(0)
    for side, least in ((left, ROUNDED_DECIMALS), (right, ROUNDED_DECIMALS if len(right.tokens) == 1 else 2)):
        for index, token in enumerate(side.tokens):
            if token.decimals < least or (side is right and (token.text in written or len(side.tokens) == 1)):
                continue
            shifted = list(side.tokens)
            shifted[index] = replace(token, value=token.value + Fraction(1, 2 * 10**token.decimals))
            value, base = _value(shifted), _value(side.tokens)
            if value is None or base is None:
                return False
            tolerance += abs(value - base)
    return 0 < abs(computed - claimed) <= tolerance


def _agree(computed: Fraction, claimed: Fraction, right: Side, loose: bool) -> bool:
    if computed == claimed:
        return True
    decimals = right.tokens[0].decimals if len(right.tokens) == 1 else 0
    if len(right.tokens) == 1 and right.tokens[0].percent:
        percent = right.tokens[0].value  # 1/3 = 33% is rounded to a whole percent
        return min(abs(computed - percent), abs(100 * computed - percent)) < Fraction(1, 10**decimals)
    if decimals or loose:
        # 0.1 + 0.2 = 0.30000000000000004 was computed in binary
        return abs(computed - claimed) < Fraction(1, 10 ** min(decimals, FLOAT_DECIMALS))
    cents = {"cent", "dollar", "$"} & (right.units) and computed in {claimed * 100, claimed / 100}
    return bool(cents)


def _readings(side: Side) -> Iterator[Fraction | None]:
    yield _value(side.tokens)
    if any(token.percent for token in side.tokens):
        yield _value(side.tokens, "bare")
        yield _value(side.tokens, "relative")
    if side.bullet:
        yield _value(side.tokens[1:])
    products = [token if token.product is None else replace(token, value=token.product) for token in side.tokens]
    if products != list(side.tokens):
        yield _value(products)
    repeating = [_unrounded(token) for token in side.tokens]
    if len(repeating) > 1 and repeating != list(side.tokens):
        yield _value(repeating)
    if "/" in {token.text for token in side.tokens}:
        yield from (value for value in (_value(side.tokens, implied="of"),) if value is not None)
    # ``7.5 / 1/2`` is 15: a slash without spaces binds first
    tight = (
        tuple(
            replace(token, text="÷")
            if token.text == "/"
            and index
            and side.tokens[index - 1].end == token.start
            and side.tokens[index + 1].start == token.end
            else token
            for index, token in enumerate(side.tokens[:-1])
        )
        + side.tokens[-1:]
    )
    if tight != side.tokens:
        yield _value(tight)


def _unrounded(token: Token) -> Token:
    """Read .33, .667 and the like as the thirds, sixths, ... that people write them for."""
    if token.decimals < 2:
        return token
    near = token.value.limit_denominator(12)
    if near.denominator in {1, 2, 4, 5, 8, 10} or abs(near - token.value) >= Fraction(1, 10**token.decimals):
        return token
    return replace(token, value=near)


def _value(tokens: Sequence[Token], percent: Percent = "fraction", implied: Implied = "*") -> Fraction | None:
    evaluated = evaluate(tokens, percent, implied)
    return None if evaluated is None else evaluated[0]
