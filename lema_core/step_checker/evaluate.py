"""The value of an arithmetic expression in tokens, exactly: operator precedence with two explicit stacks.

No recursion, whatever the nesting, and no eval. A calculation whose numbers grow beyond its limits is given up.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

from lema_core.step_checker.tokens import Token

Percent = Literal["fraction", "bare", "relative"]
"""What 20% is: a fifth; the number 20; behind a plus or minus, a fifth of what stands before it."""
Implied = Literal["*", "of"]
"""How a product without a sign binds: as "*", or first, as "of" does, for people read 6/2(1+2) both ways."""

_PRECEDENCE = {"+": 1, "-": 1, "*": 2, "/": 2, "of": 3, "÷": 3, "neg": 4, "^": 5}
LARGEST_BASE = 10**9
"""Bases of powers beyond this are given up."""


@dataclass(frozen=True, slots=True)
class Limits:
    """How large numbers may become: exact arithmetic must stay cheap."""

    bits: int = 2048
    """Bits of a numerator or denominator."""
    exponent: int = 32


LIMITS = Limits()


def evaluate(
    tokens: Sequence[Token], percent: Percent = "fraction", implied: Implied = "*", limits: Limits = LIMITS
) -> tuple[Fraction, tuple[int | str, ...]] | None:
    """Return the value and the postfix order (indices of the numbers, and operators); None without a value.

    There is none where the tokens are not one expression, divide by zero, or exceed the limits.
    """
    calculation = _Calculation(percent, implied, limits)
    if not all(calculation.take(token) for token in tokens) or not calculation.ends():
        return None
    return calculation.values[0][0], tuple(calculation.postfix)


class _Calculation:
    """The stacks of one evaluation. Each method returns False where the expression is malformed or is given up."""

    def __init__(self, percent: Percent, implied: Implied, limits: Limits) -> None:
        self.percent, self.implied, self.limits = percent, implied, limits
        self.values: list[tuple[Fraction, bool]] = []
        """Each value, and whether it was written as a percentage."""
        self.operators: list[str] = []
        self.postfix: list[int | str] = []
        self.numbers = 0
        self.operand_next = True
        self.previous_end = -1

    def take(self, token: Token) -> bool:
        taken = self.take_operand(token) if token.kind in {"num", "("} else self.take_operator(token)
        self.previous_end = token.end
        return taken

    def take_operand(self, token: Token) -> bool:
        if token.kind == "(":
            implied = not self.operand_next
            if implied and (token.start != self.previous_end or not self.apply(_PRECEDENCE[self.implied])):
                return False
            self.operators.extend([self.implied, "("] if implied else ["("])
            self.operand_next = True
            return True
        if not self.operand_next:
            return False
        number = token.value / 100 if token.percent and self.percent != "bare" else token.value
        self.values.append((number, token.percent))
        self.postfix.append(self.numbers)
        self.numbers += 1
        self.operand_next = False
        return True

    def take_operator(self, token: Token) -> bool:
        if self.operand_next:
            self.operators.extend(["neg"] if token.text == "-" else [])
            return token.kind == "op" and token.text in {"+", "-"}
        if token.kind == ")":
            return self.apply(0) and bool(self.operators) and self.operators.pop() == "("
        # 2^3^2 is 2^9: a power leaves the powers before it waiting
        if token.kind != "op" or not self.apply(_PRECEDENCE[token.text] + (token.text == "^")):
            return False
        self.operators.append(token.text)
        self.operand_next = True
        return True

    def ends(self) -> bool:
        return not self.operand_next and self.apply(0) and not self.operators

    def apply(self, precedence: int) -> bool:
        """Apply the waiting operators that bind at least as tightly."""
        while self.operators and self.operators[-1] != "(" and _PRECEDENCE[self.operators[-1]] >= precedence:
            operator = self.operators.pop()
            self.postfix.append(operator)
            if operator == "neg":
                self.values[-1] = (-self.values[-1][0], self.values[-1][1])
                continue
            (right, is_percent), (left, _) = self.values.pop(), self.values.pop()
            if is_percent and self.percent == "relative" and operator in "+-":
                right *= left
            if operator == "^" and self.operators[-1:] == ["neg"]:
                return False  # -2^2 is read both ways by people: no value
            result = _combine(operator, left, right, self.limits)
            if result is None:
                return False
            self.values.append((result, False))
        return True


def _combine(operator: str, left: Fraction, right: Fraction, limits: Limits) -> Fraction | None:
    """Return ``left operator right``; None where it is undefined or exceeds the limits."""
    result: Fraction
    if operator == "+":
        result = left + right
    elif operator == "-":
        result = left - right
    elif operator in {"/", "÷"}:
        if not right:
            return None
        result = left / right
    elif operator == "^":
        if right.denominator != 1 or not 0 <= right <= limits.exponent or abs(left.numerator) > LARGEST_BASE:
            return None
        result = left ** int(right)
    else:
        result = left * right
    return result if max(result.numerator.bit_length(), result.denominator.bit_length()) <= limits.bits else None
