"""What a step computes: its equations as operands, operators and value, over exact rationals.

Reads the same tokens as the step checker. A GSM8K calculator mark (``<<3*4=12>>``) counts before the prose around it.
What cannot be read as arithmetic is left out; nothing is ever evaluated as code.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import lru_cache

from lema_core.step_checker.evaluate import Limits, evaluate
from lema_core.step_checker.tokens import Token, tokenize

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
            index = _before_words(tokens, index)
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
        sign = _sign(taken)
        if sign is None:
            return None
        taken = sign
    return taken if any(token.kind == "op" for token in taken) else None


def _before_words(tokens: Sequence[Token], index: int) -> int:
    """Return the index before a run of words; the slash of ``miles/hour`` belongs to the words."""
    while index >= 0:
        slash = tokens[index].kind == "op" and tokens[index].text in "/-" and tokens[index + 1].kind == "word"
        if tokens[index].kind != "word" and not slash:
            break
        index -= 1
    return index


def _sign(taken: list[Token]) -> list[Token] | None:
    """Read a leading minus as the first number's sign; any other operator there lacks an operand we can read."""
    minus, number = taken[0], taken[1] if len(taken) > 1 else None
    if minus.text != "-" or number is None or number.kind != "num":
        return None
    if minus.end != number.start:
        return taken[1:]
    return [replace(number, value=-number.value, start=minus.start), *taken[2:]]


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
