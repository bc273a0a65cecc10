"""What a step computes: its equations as operands, operators and value, over exact rationals.

Reads the same tokens as the step checker. A GSM8K calculator mark (``<<3*4=12>>``) counts before the prose around it.
What cannot be read as arithmetic is left out; nothing is ever evaluated as code.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import lru_cache

from lema_core.step_checker.tokens import Token, tokenize

MAX_STEP_CHARS = 4_000
"""Only this much of a step is read: a degenerate answer may repeat itself without end."""
MAX_TOKENS = 40
MAX_BITS = 512

_MARK = re.compile(r"<<([^<>\n]*)>>")
_WORDS_OF = {
    "0": "zero none",
    "1": "one single once",
    "2": "two twice double doubled couple pair both",
    "3": "three thrice triple",
    "4": "four quadruple",
    "7": "seven",
    "12": "twelve dozen",
    "100": "hundred",
    "1000": "thousand",
    "1/2": "half halves",
    "1/3": "third",
    "1/4": "quarter fourth",
    "1/5": "fifth",
}
_PLAIN_WORDS = "five six - eight nine ten eleven - thirteen fourteen fifteen sixteen seventeen eighteen nineteen twenty"
_TENS = "twenty thirty forty fifty - seventy eighty ninety"
_NUMBER_WORDS = (
    {word: Fraction(value) for value, words in _WORDS_OF.items() for word in words.split()}
    | {word: Fraction(value) for value, word in enumerate(_PLAIN_WORDS.split(), 5) if word != "-"}
    | {word: Fraction(10 * value) for value, word in enumerate(_TENS.split(), 2) if word != "-"}
)
_IMPLIED = {
    word: Fraction(value)
    for value, words in {
        "7": "week weekly",
        "12": "year month",
        "24": "day",
        "52": "year",
        "60": "hour minute",
        "100": "percent",
    }.items()
    for word in words.split()
}
"""Numbers that a unit brings along: everybody may use them, though nobody has given them."""
_LEVEL = {"+": 1, "-": 1, "*": 2, "/": 2, "of": 2, "^": 3}


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


def key(value: Fraction) -> int:
    """Return what two values share that are the same up to rounding to cents."""
    return round(value * 100)


def keys(values: Iterable[Fraction]) -> set[int]:
    """Return the keys of several values."""
    return {key(value) for value in values}


def equations(step: str) -> list[Equation]:
    """Return the equations of a step, in order; the calculator's where the step has its marks."""
    step = step[:MAX_STEP_CHARS]
    marks = _MARK.findall(step)
    found = [equation for mark in marks for equation in _in_prose(mark)]
    return found or _in_prose(_MARK.sub("", step))


def numbers(text: str) -> list[Fraction]:
    """Return the numbers of a text as digits, in order."""
    return [token.value for token in _tokens(_MARK.sub("", text[:MAX_STEP_CHARS])) if token.kind == "num"]


def given_numbers(text: str) -> set[int]:
    """Return the keys of all numbers a text gives, in digits or words (``half``, ``a dozen``)."""
    return keys([*numbers(text), *(_NUMBER_WORDS[word] for word in _words(text) if word in _NUMBER_WORDS)])


def known_numbers(text: str) -> set[int]:
    """Return the keys of the numbers a text gives and of those that its units bring along (``per week``)."""
    implied = {"%": Fraction(100)} | _IMPLIED
    return given_numbers(text) | keys(
        implied[word] for word in [*_words(text), *re.findall("%", text)] if word in implied
    )


def _words(text: str) -> list[str]:
    words = re.findall(r"[a-z]+", text.lower())
    return [*words, *(word[:-1] for word in words if word.endswith("s"))]


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
        if token.kind not in {"num", "op", "(", ")"} or _starts_anew(token, taken):
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


def _starts_anew(token: Token, taken: Sequence[Token]) -> bool:
    operand_after = bool(taken) and taken[0].kind in {"num", "("}
    return operand_after and token.kind in {"num", ")"}


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
    evaluated = _evaluate(left)
    if evaluated is None:
        return None
    computed, postfix = evaluated
    start = left[0].start - text[: left[0].start].endswith("$")
    written = _spaced(_MARK.sub("", text[start : right.end]))
    span = (right.start, right.end)
    return Equation(written, operands, operators, right.value, computed, postfix, span)


def _spaced(equation: str) -> str:
    """Return the equation with single spaces, also around its signs: ``3*4=12`` reads ``3 * 4 = 12``."""
    return " ".join(re.sub(r"(?<=[\d)%])([-+*/=])(?=[\d($])", r" \1 ", equation).split())


class _Stack:
    """Operator precedence over exact values; keeps the postfix order."""

    def __init__(self) -> None:
        self.values: list[Fraction] = []
        self.operators: list[str] = []
        self.postfix: list[int | str] = []

    def push(self, value: Fraction, index: int) -> None:
        self.values.append(value)
        self.postfix.append(index)

    def reduce(self, level: int) -> bool:
        """Apply the waiting operators that bind at least as tightly; False where that is impossible."""
        while self.operators and self.operators[-1] != "(" and _LEVEL[self.operators[-1]] >= level:
            operator, right, left = self.operators.pop(), self.values.pop(), self.values.pop()
            result = apply(operator, left, right)
            if result is None:
                return False
            self.values.append(result)
            self.postfix.append(operator)
        return True


def _evaluate(tokens: Sequence[Token]) -> tuple[Fraction, tuple[int | str, ...]] | None:
    """Return the value of an expression and its postfix order; None if it is not well formed."""
    stack = _Stack()
    operand_next, count = True, 0
    for token in tokens:
        if token.kind == "num" and operand_next:
            stack.push(token.value / 100 if token.percent else token.value, count)
            operand_next, count = False, count + 1
        elif token.kind == "(" and operand_next:
            stack.operators.append("(")
        elif token.kind == ")" and not operand_next:
            if not stack.reduce(0) or not stack.operators:
                return None
            stack.operators.pop()
        elif token.kind == "op" and not operand_next and token.text in _LEVEL:
            if not stack.reduce(_LEVEL[token.text]):
                return None
            stack.operators.append(token.text)
            operand_next = True
        elif not (token.kind == "op" and token.text == "+"):
            return None
    complete = not operand_next and stack.reduce(0) and not stack.operators
    return (stack.values[0], tuple(stack.postfix)) if complete else None


def apply(operator: str, left: Fraction, right: Fraction) -> Fraction | None:
    """Return ``left operator right``; None where it is undefined or too big to be worth it."""
    result: Fraction | None = None
    if operator in {"*", "of"}:
        result = left * right
    elif operator == "+":
        result = left + right
    elif operator == "-":
        result = left - right
    elif operator == "/" and right:
        result = left / right
    elif operator == "^" and right.denominator == 1 and 0 <= right <= 8:
        result = left ** int(right)
    bits = 0 if result is None else max(result.numerator.bit_length(), result.denominator.bit_length())
    return result if bits <= MAX_BITS else None
