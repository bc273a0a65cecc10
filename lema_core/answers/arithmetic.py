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

from lema_core.answers.arithmetic_tokens import Token, tokenize

MAX_BITS = 2048
"""Numerators and denominators beyond this are given up: exact arithmetic must stay cheap."""
MAX_EXPONENT = 32
MAX_STEP_CHARS = 20_000
"""Only this much of a step is read."""
MAX_UNIT_WORDS = 4


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


@dataclass(frozen=True, slots=True)
class _Side:
    """One side of an equation: an arithmetic expression of the text that can be computed."""

    tokens: tuple[Token, ...]
    units: frozenset[str]
    bullet: bool = False
    """Its leading minus may be a dash or a list mark."""


_PRECEDENCE = {"+": 1, "-": 1, "*": 2, "/": 2, "of": 3, "÷": 3, "neg": 4, "^": 5}
_BREAKING = frozenset(
    ["and", "so", "is", "are", "was", "were", "then", "has", "have", "had", "if", "to", "which", "that", "thus", "therefore", "because", "since", "but", "or", "means", "gives", "get", "gets", "makes", "make", "equals", "will", "would", "for", "in", "on", "with", "at", "as", "when", "while", "after", "before", "from", "plus", "minus"]
)
_TAINTING = frozenset(
    ["of", "half", "twice", "double", "triple", "thrice", "times", "plus", "minus", "by", "sum", "less", "more", "than", "third", "quarter", "multiplied", "divided", "another", "subtract", "add", "subtracting", "adding", "squared", "cubed", "per", "root", "over"]
)
_CONVERTIBLE = frozenset(
    ["cent", "dollar", "penny", "pennie", "nickel", "dime", "quarter", "second", "minute", "hour", "day", "week", "month", "year", "inch", "inche", "foot", "feet", "yard", "mile", "mm", "cm", "m", "km", "meter", "metre", "centimeter", "millimeter", "kilometer", "ounce", "pound", "ton", "g", "kg", "gram", "kilogram", "ml", "l", "liter", "litre", "gallon", "quart", "pint", "cup", "dozen", "pair", "hundred", "thousand", "million", "billion", "percent", "degree", "half", "halve", "decade", "century", "am", "pm", "min", "hr", "sec", "lb", "oz", "ft", "in", "hrs", "mins", "k"]
)
_ROUNDING = re.compile(r"round|approx|about|nearest|whole|around|roughly|almost|≈", re.IGNORECASE)


def false_equations(text: str) -> list[FalseEquation]:
    """Return the false equations of a step, in the order of the text; an empty list proves nothing.

    ``text`` is one step in prose, plain or LaTeX. Sums, differences, products, quotients, powers, brackets, percent,
    money, mixed numbers, units after numbers and chains of equals signs are understood.
    """
    text = text[:MAX_STEP_CHARS]
    if "=" not in text:
        return []
    loose = bool(_ROUNDING.search(text))
    found = []
    for chain in _chains(tokenize(text)):
        for left, right in pairwise(chain):
            if left is None or right is None or not _checkable(left, right):
                continue
            difference = _difference(left, right, loose)
            if difference is not None:
                found.append(_report(text, left, right, *difference))
    return found


def _report(text: str, left: _Side, right: _Side, computed: Fraction, claimed: Fraction) -> FalseEquation:
    start, end = left.tokens[0].start, right.tokens[-1].end
    return FalseEquation(text[start:end], computed, claimed, start, end, right.tokens[0].start, end)


def _chains(tokens: Sequence[Token]) -> Iterator[list[_Side | None]]:
    """Yield the sides of each run of equations; None stands for a side that cannot be computed."""
    for segment in _segments(tokens):
        chain: list[_Side | None] = []
        for index, side in enumerate(segment):
            first, last = index == 0, index == len(segment) - 1
            runs = _runs(side)
            if len(runs) == 1 or not runs:
                chain.append(runs[0] if runs else None)
                continue
            # Prose inside: what stands before it ends this chain, what stands after it begins the next one.
            if not first:
                chain.append(runs[0])
                yield chain
            chain = [] if last else [runs[-1]]
        yield chain


def _segments(tokens: Sequence[Token]) -> Iterator[list[list[Token]]]:
    """Split at cuts, then at equals signs; an approximate sign ends the chain, for it claims nothing exact."""
    segment: list[list[Token]] = [[]]
    for position, token in enumerate(tokens):
        follows = tokens[position + 1].kind if position + 1 < len(tokens) else ""
        if token.kind == "cut" and token.text.startswith("\n") and follows == "=":
            continue
        if token.kind in {"cut", "approx"}:
            if len(segment) > 1:
                yield segment
            segment = [[]]
        elif token.kind == "=":
            segment.append([])
        else:
            segment[-1].append(token)
    if len(segment) > 1:
        yield segment


def _runs(side: Sequence[Token]) -> list[_Side | None]:
    """Cut one side at its prose into expressions; None for one that touches something unknown."""
    runs: list[_Side | None] = []
    current: list[Token] = []
    units: set[str] = set()
    tainted, index = False, 0
    while index < len(side):
        token = side[index]
        if token.kind != "word":
            tainted = tainted or token.kind == "var"
            current.append(token)
            index += 1
            continue
        words, index = _words(side, index)
        after = side[index] if index < len(side) else None
        if _is_of(words, current, after):
            current.append(Token("op", token.start, token.end, "of"))
        elif _is_unit(words, current, after):
            units.update(words)
        else:
            if current or tainted:
                runs.append(None if tainted else _side(current, units, dash=True))
            current, units = [], set()
            tainted = words[-1] in _TAINTING
    if current or tainted or not runs:
        runs.append(None if tainted else _side(current, units, dash=bool(runs)))
    return runs


def _words(side: Sequence[Token], index: int) -> tuple[list[str], int]:
    words = []
    while index < len(side):
        token = side[index]
        # "miles/hour" and "5-day": the sign belongs to the words
        slash = token.kind == "op" and token.text in "/-" and index + 1 < len(side) and side[index + 1].kind == "word"
        if token.kind != "word" and not slash:
            break
        words.append(token.text.lower())
        index += 1
    return words, index


def _is_of(words: list[str], current: list[Token], after: Token | None) -> bool:
    if words != ["of"] or not current or after is None or after.kind not in {"num", "("}:
        return False
    fraction = len(current) >= 2 and current[-1].kind == "num" and current[-2].text == "/"
    return current[-1].percent or fraction or current[-1].kind == ")"


def _is_unit(words: list[str], current: list[Token], after: Token | None) -> bool:
    if not current or current[-1].kind not in {"num", ")"} or len(words) > MAX_UNIT_WORDS:
        return False
    if after is not None and after.kind not in {"op", ")"}:
        return False
    return not _BREAKING.intersection(words) and words[-1] not in _TAINTING


def _side(tokens: list[Token], units: set[str], *, dash: bool) -> _Side | None:
    """Build a side from a clean run; a trailing dash that belongs to the prose is dropped."""
    if tokens and dash and tokens[-1].kind == "op" and tokens[-1].text == "-":
        tokens = tokens[:-1]
    if not tokens or (tokens[0].kind == "op" and tokens[0].text not in {"+", "-"}):
        return None
    bullet = tokens[0].kind == "op" and len(tokens) > 1 and tokens[1].start > tokens[0].end
    if bullet and dash:
        return None  # "24 hours in a day - 10 hours": the first operand stands in the prose
    names = frozenset(unit.removesuffix("s") for unit in units)
    return _Side(tuple(tokens), names, bullet)


def _checkable(left: _Side, right: _Side) -> bool:
    if not any(token.kind == "op" for token in left.tokens[1:]):
        return False  # "60 minutes = 1 hour" converts, "x = 5" defines: nothing is computed
    if [token.text for token in left.tokens] == [token.text for token in right.tokens[: len(left.tokens)]]:
        return False  # "Ann ate 1/6 = 1/6 * 12 = 2 slices" names a share, then computes it
    return (
        left.units == right.units or not (left.units | right.units) & _CONVERTIBLE or not (left.units and right.units)
    )


def _difference(left: _Side, right: _Side, loose: bool) -> tuple[Fraction, Fraction] | None:
    """Return the two values where every reading of the link is false, else None."""
    first: tuple[Fraction, Fraction] | None = None
    for computed in _readings(left):
        for claimed in _readings(right):
            if computed is None or claimed is None:
                return None
            if _agree(computed, claimed, right, loose) or _runs_on(computed, right):
                return None
            first = first or (computed, claimed)
    return first


def _runs_on(computed: Fraction, right: _Side) -> bool:
    """Whether the right side only takes the left one's value up: ``3 + 4 = 7 * 2 = 14``."""
    head = right.tokens[0]
    return len(right.tokens) > 1 and head.kind == "num" and _agree(computed, head.value, right, loose=False)


def _agree(computed: Fraction, claimed: Fraction, right: _Side, loose: bool) -> bool:
    if computed == claimed:
        return True
    decimals = right.tokens[0].decimals if len(right.tokens) == 1 else 0
    if decimals or loose:
        return abs(computed - claimed) < Fraction(1, 10**decimals)
    cents = {"cent", "dollar", "$"} & (right.units) and computed in {claimed * 100, claimed / 100}
    return bool(cents)


def _readings(side: _Side) -> Iterator[Fraction | None]:
    yield _value(side.tokens, "fraction")
    if any(token.percent for token in side.tokens):
        yield _value(side.tokens, "bare")
        yield _value(side.tokens, "relative")
    if side.bullet:
        yield _value(side.tokens[1:], "fraction")
    repeating = [_unrounded(token) for token in side.tokens]
    if len(repeating) > 1 and repeating != list(side.tokens):
        yield _value(repeating, "fraction")
    tight = _tight_fractions(side.tokens)
    if tight != side.tokens:
        yield _value(tight, "fraction")


def _unrounded(token: Token) -> Token:
    """Read .33, .667 and the like as the thirds, sixths, ... that people write them for."""
    if token.decimals < 2:
        return token
    near = token.value.limit_denominator(12)
    if near.denominator in {1, 2, 4, 5, 8, 10} or abs(near - token.value) >= Fraction(1, 10**token.decimals):
        return token
    return replace(token, value=near)


def _tight_fractions(tokens: tuple[Token, ...]) -> tuple[Token, ...]:
    """Read ``7.5 / 1/2`` as people mean it: a slash without spaces binds first."""
    return (
        tuple(
            replace(token, text="÷")
            if token.text == "/"
            and index
            and tokens[index - 1].end == token.start
            and tokens[index + 1].start == token.end
            else token
            for index, token in enumerate(tokens[:-1])
        )
        + tokens[-1:]
    )


def _value(tokens: Sequence[Token], percent: str) -> Fraction | None:
    """Compute an expression by operator precedence with two explicit stacks: no recursion, whatever the nesting."""
    values: list[tuple[Fraction, bool]] = []
    operators: list[str] = []
    operand_next, previous_end = True, -1
    for token in tokens:
        if token.kind == "num" and operand_next:
            number = token.value if not token.percent or percent == "bare" else token.value / 100
            values.append((number, token.percent))
            operand_next = False
        elif token.kind == "(":
            if not operand_next and (token.start != previous_end or not _apply_until(values, operators, 2, percent)):
                return None
            operators.extend(["("] if operand_next else ["*", "("])
            operand_next = True
        elif token.kind == ")" and not operand_next:
            if not _apply_until(values, operators, 0, percent) or not operators:
                return None
            operators.pop()
        elif token.kind == "op" and operand_next and token.text in "+-":
            operators.extend(["neg"] if token.text == "-" else [])
        elif token.kind == "op" and not operand_next:
            if not _apply_until(values, operators, _PRECEDENCE[token.text], percent):
                return None
            operators.append(token.text)
            operand_next = True
        else:
            return None
        previous_end = token.end
    if operand_next or not _apply_until(values, operators, 0, percent) or operators:
        return None
    return values[0][0]


def _apply_until(values: list[tuple[Fraction, bool]], operators: list[str], precedence: int, percent: str) -> bool:
    """Apply the waiting operators that bind at least as tightly; False where that is impossible."""
    while operators and operators[-1] != "(" and _PRECEDENCE[operators[-1]] >= precedence:
        operator = operators.pop()
        if operator == "neg":
            values[-1] = (-values[-1][0], values[-1][1])
            continue
        (right, is_percent), (left, _) = values.pop(), values.pop()
        if is_percent and percent == "relative" and operator in "+-":
            right *= left
        result = _combine(operator, left, right, after_sign="neg" in operators[-1:])
        if result is None:
            return False
        values.append((result, False))
    return True


def _combine(operator: str, left: Fraction, right: Fraction, *, after_sign: bool) -> Fraction | None:
    result: Fraction
    if operator in {"/", "÷", "^"} and (right == 0 if operator != "^" else after_sign or _too_big(left, right)):
        return None  # -2^2 is read both ways by people: no verdict
    if operator == "+":
        result = left + right
    elif operator == "-":
        result = left - right
    elif operator in {"/", "÷"}:
        result = left / right
    elif operator == "^":
        result = left ** int(right)
    else:
        result = left * right
    return result if max(result.numerator.bit_length(), result.denominator.bit_length()) <= MAX_BITS else None


def _too_big(base: Fraction, exponent: Fraction) -> bool:
    return exponent.denominator != 1 or not 0 <= exponent <= MAX_EXPONENT or abs(base.numerator) > 10**9
