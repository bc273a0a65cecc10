"""The equations in a step's prose: which token runs are expressions, which sign joins them, and what they compute.

Words after a number are its unit, other words end an expression, and an expression that touches an unknown or a word
such as "twice" is none that can be computed. A GSM8K calculator mark (``<<3*4=12>>``) counts before the prose around
it. What cannot be read as arithmetic is left out.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import lru_cache

from lema_core.step_checker.tokens import Limits, Token, evaluate, tokenize

MAX_UNIT_WORDS = 4
_BREAKING = frozenset(
    [
        "and", "so", "is", "are", "was", "were", "then", "has", "have", "had", "if", "to", "which", "that",
        "thus", "therefore", "because", "since", "but", "or", "means", "gives", "get", "gets", "makes", "make",
        "equals", "will", "would", "for", "in", "on", "with", "at", "as", "when", "while", "after", "before",
        "from", "plus", "minus",
    ]
)  # fmt: skip
_TAINTING = frozenset(
    [
        "of", "half", "twice", "double", "triple", "thrice", "times", "plus", "minus", "by", "sum", "less",
        "more", "than", "third", "quarter", "multiplied", "divided", "another", "subtract", "add",
        "subtracting", "adding", "squared", "cubed", "per", "root", "over", "remainder", "mod", "modulo", "log",
        "ln", "sin", "cos", "tan", "factorial",
    ]
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Side:
    """One side of an equation: an arithmetic expression of the text that can be computed."""

    tokens: tuple[Token, ...]
    units: frozenset[str]
    bullet: bool = False
    """Its leading minus may be a dash or a list mark."""
    uniform: bool = False
    """Each of its numbers carries its unit."""


def chains(text: str) -> Iterator[list[Side | None]]:
    """Yield the sides of each run of equations; None stands for a side that cannot be computed."""
    for segment in _segments(tokenize(text)):
        chain: list[Side | None] = []
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
        # A line that ends with a sign goes on in the next one; a dash may be the writer's
        last = segment[-1][-1] if segment[-1] else None
        continued = follows == "=" or (last is not None and last.kind == "op" and last.text in {"+", "*", "/"})
        if token.kind == "cut" and token.text.startswith("\n") and continued:
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


def _runs(side: Sequence[Token]) -> list[Side | None]:
    """Cut one side at its prose into expressions; None for one that touches something unknown."""
    runs: list[Side | None] = []
    current: list[Token] = []
    units: list[list[str]] = []
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
            units.append(words)
        else:
            if current or tainted:
                runs.append(None if tainted else _side(current, units, dash=True))
            current, units = [], []
            if runs and after is None and words[-1] not in _BREAKING and _BREAKING.intersection(words):
                runs.append(None)  # "x = 7/2 and ab = 1": the words name what the next equation is about
            is_function = after is not None and after.kind == "(" and after.start == side[index - 1].end
            tainted = words[-1].rstrip("_0123456789") in _TAINTING or is_function
    if current or tainted or not runs:
        runs.append(None if tainted else _side(current, units, dash=bool(runs)))
    return runs


def _words(side: Sequence[Token], index: int) -> tuple[list[str], int]:
    """Return the run of words at an index and the index behind it."""
    words = []
    while index < len(side):
        token = side[index]
        # "miles/hour" and "5-day": the sign belongs to the words
        slash = token.kind == "op" and token.text in "/-" and index + 1 < len(side) and side[index + 1].kind == "word"
        if token.kind != "word" and not slash:
            break
        words.append(token.text.lower())
        index += 1
    # The power of a unit goes with it: ``440\text{ cm}^2``
    if index < len(side) and side[index].text == "^":
        if [token.kind for token in side[index + 1 : index + 4]] == ["(", "num", ")"]:
            index += 4
        elif index + 1 < len(side) and side[index + 1].kind == "num":
            index += 2
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
    if words == ["in"]:
        return True  # inches
    return not _BREAKING.intersection(words) and words[-1] not in _TAINTING


def _side(tokens: list[Token], units: list[list[str]], *, dash: bool) -> Side | None:
    """Build a side from a clean run; a trailing dash that belongs to the prose is dropped."""
    if tokens and dash and tokens[-1].kind == "op" and tokens[-1].text == "-":
        tokens = tokens[:-1]
    if not tokens or (tokens[0].kind == "op" and tokens[0].text not in {"+", "-"}):
        return None
    bullet = tokens[0].kind == "op" and len(tokens) > 1 and tokens[1].start > tokens[0].end
    if (bullet and dash) or tokens[0].text == "+":
        return None  # "24 hours in a day - 10 hours", "+ 5 = 8": the first operand stands in what is not read
    names = frozenset(unit.removesuffix("s") for words in units for unit in words)
    uniform = len(units) == sum(token.kind == "num" for token in tokens)
    return Side(tuple(tokens), names, bullet, uniform)


MAX_STEP_CHARS = 4_000
"""Only this much of a step is read: a degenerate answer may repeat itself without end."""
MAX_TOKENS = 40
LIMITS = Limits(bits=512, exponent=8)
_MARK = re.compile(r"<<([^<>\n]*)>>")
_TIGHT_SIGN = re.compile(r"(?<=[\d)%])([-+*/=])(?=[\d($])")
"""``3*4=12`` reads ``3 * 4 = 12``."""


@dataclass(frozen=True, slots=True)
class Equation:
    """One ``left = value`` of a step."""

    text: str
    """As written, calculator marks excepted."""
    operands: tuple[Fraction, ...]
    operators: tuple[str, ...]
    value: Fraction
    """The value that the step claims."""
    computed: Fraction
    """The true value of the left side."""
    postfix: tuple[int | str, ...]
    """The left side in postfix order: indices of operands, and operators."""
    span: tuple[int, int]
    """Where the claimed value stands in the text that was read."""

    @property
    def expression(self) -> str:
        """Return the left side as written."""
        return self.text.rpartition("=")[0].strip()


def equations(step: str) -> list[Equation]:
    """Return the equations of a step, in order; the calculator's where the step has its marks."""
    step = step[:MAX_STEP_CHARS]
    marks = _MARK.findall(step)
    found = [equation for mark in marks for equation in _in_prose(mark)]
    return found or _in_prose(_MARK.sub("", step))


def numbers(text: str) -> list[Fraction]:
    """Return the numbers of a text as digits, in order."""
    return [token.value for token in _tokens(_MARK.sub("", text[:MAX_STEP_CHARS])) if token.kind == "num"]


@lru_cache(maxsize=1024)
def _tokens(text: str) -> tuple[Token, ...]:
    """Return a step's tokens; the same step is looked at from several sides."""
    return tuple(tokenize(text))


def _in_prose(text: str) -> list[Equation]:
    tokens = _tokens(text)
    found = []
    for index, token in enumerate(tokens):
        if token.kind != "=":
            continue
        left, right = _left_of(tokens, index), _claimed(tokens, index)
        if left is not None and right is not None and (equation := _equation(text, left, right)) is not None:
            found.append(equation)
    return found


def _left_of(tokens: Sequence[Token], equals: int) -> list[Token] | None:
    """Return the arithmetic that ends at the equals sign, its unit words dropped."""
    taken: list[Token] = []
    index = equals - 1
    while index >= 0 and len(taken) < MAX_TOKENS:
        token = tokens[index]
        if token.kind == "word":
            # "3 apples + 4 apples =": words are units where a number stands before and an operator after them
            # Go back over the whole run of words; the slash of ``miles/hour`` belongs to it
            while index >= 0:
                slash = tokens[index].kind == "op" and tokens[index].text in "/-" and tokens[index + 1].kind == "word"
                if tokens[index].kind != "word" and not slash:
                    break
                index -= 1
            joins = not taken or taken[0].kind in {"op", ")"}
            if not joins or index < 0 or tokens[index].kind not in {"num", ")"}:
                break
            continue
        starts_anew = bool(taken) and taken[0].kind in {"num", "("} and token.kind in {"num", ")"}
        if token.kind not in {"num", "op", "(", ")"} or starts_anew:
            break
        taken.insert(0, token)
        index -= 1
    if taken and taken[0].kind == "op":
        minus, number = taken[0], taken[1] if len(taken) > 1 else None
        if minus.text != "-" or number is None or number.kind != "num":
            sign = None
        elif minus.end != number.start:
            sign = taken[1:]
        else:
            sign = [replace(number, value=-number.value, start=minus.start), *taken[2:]]
        if sign is None:
            return None
        taken = sign
    return taken if any(token.kind == "op" for token in taken) else None


def _claimed(tokens: Sequence[Token], equals: int) -> Token | None:
    """Return the number right after the equals sign, unless an expression begins there."""
    after = tokens[equals + 1 : equals + 4]
    sign = bool(after) and after[0].kind == "op" and after[0].text == "-"
    after = after[1:] if sign else after
    if not after or after[0].kind != "num":
        return None
    head = after[0]
    value = -head.value if sign else head.value
    return replace(head, value=value)


def _equation(text: str, left: list[Token], right: Token) -> Equation | None:
    if right.percent and all(token.percent for token in left if token.kind == "num"):
        left = [replace(token, percent=False) for token in left]  # 100% - 60% = 40%
    operands = tuple(token.value / 100 if token.percent else token.value for token in left if token.kind == "num")
    operators = tuple(token.text for token in left if token.kind == "op")
    evaluated = evaluate(left, limits=LIMITS)
    if evaluated is None or "neg" in evaluated[1]:
        return None  # a sign within an expression is not read
    computed, postfix = evaluated
    start = left[0].start - text[: left[0].start].endswith("$")
    written = _TIGHT_SIGN.sub(r" \1 ", _MARK.sub("", text[start : right.end]))
    span = (right.start, right.end)
    return Equation(" ".join(written.split()), operands, operators, right.value, computed, postfix, span)
