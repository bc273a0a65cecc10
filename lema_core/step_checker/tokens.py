"""Tokens of the arithmetic in a step's prose, and the exact value of an expression in tokens.

Tokens are numbers, operators, brackets, equals signs, words and boundaries. One pass with one regular expression whose
branches cannot backtrack into each other, one pass to match brackets: time is linear in the text. Plain text, LaTeX and
GSM8K's ``<<3*4=12>>`` marks are known; the marks are skipped: the calculator wrote what stands in them, not the model.

A value is computed by operator precedence with two explicit stacks: no recursion, whatever the nesting, and no eval. A
calculation whose numbers grow beyond its limits is given up.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import accumulate
from typing import Literal

MAX_DIGITS = 40
"""Longer numbers are taken as unknowns: no word problem needs them, and huge integers cost time."""


@dataclass(frozen=True, slots=True)
class Token:
    """One lexical unit of a step, with its place in the text."""

    kind: str
    """num, op, (, ), =, approx, word, var (something we cannot compute with), cut (the end of a formula)."""
    start: int
    end: int
    text: str = ""
    value: Fraction = Fraction(0)
    decimals: int = 0
    """Digits after the point, as written: the precision that the writer claims."""
    percent: bool = False
    product: Fraction | None = None
    r"""The other reading of ``2\\frac{1}{3}``: two times a third."""


_LEXER = re.compile(
    r"""(?P<mark><<[^<>]*>>)
    |(?P<clock>[0-9]{1,2}:[0-9]{2}(?![0-9]))
    |(?P<ratio>(?<=[0-9)}]):(?=[0-9.({\\])|(?<=[0-9)}])[ ]:[ ](?=[0-9({\\]))
    |(?P<mixed>[0-9]{1,4}(?:[ ]|[ ]and[ ]\$?)[0-9]{1,3}/[0-9]{1,4}(?![0-9/.]))
    |(?P<mixedfrac>(?<![0-9.,])[0-9]{1,4}[ ]?\\[dtc]?frac\s?(?:\{[0-9]{1,3}\}\s?\{[0-9]{1,4}\}|[0-9][0-9](?![0-9])))
    |(?P<num>(?:[0-9]{1,3}(?:(?:,|\{,\}|,\\!)[0-9]{3})+(?![0-9])|[0-9]+)(?:\.[0-9]+)?|\.[0-9]+)
    |(?P<shortfrac>\\[dt]?frac\s?[0-9][0-9])
    |(?P<latex>\\[A-Za-z]+|\\.)
    |(?P<word>[^\W\d_][\w'’]*)
    |(?P<cut>\n+|[;:?]|[.,](?=\s|$)|(?:=>|->|→|!=|≠|<=|>=|[<>≤≥]))
    |(?P<eq>==|=|≈|≃|≅|~=)
    |(?P<op>\*\*|[-+*/^×·⋅∙∗÷−–])
    |(?P<open>[(\[{])
    |(?P<close>[)\]}])
    |(?P<percent>%)
    |(?P<skip>[\s$£€¢&~'"“”`]+)
    |(?P<other>.)""",
    re.VERBOSE | re.DOTALL,
)
_TEXT_COMMAND = re.compile(r"\\(?:text[a-z]{0,6}|mbox|mathrm|mathit|rm)\s?$")
TEXT_BRACE = "text{"
"""The text of a brace that holds words, not a formula."""
_MIXED_PARTS = re.compile(r"([0-9]+)[^0-9]+([0-9](?=[0-9]$)|[0-9]+)[^0-9]*([0-9]+)")
_PLAIN_KINDS = {"open": "(", "close": ")", "cut": "cut", "other": "var", "clock": "var", "ratio": "var"}
_OPERATORS = {"×": "*", "·": "*", "⋅": "*", "∙": "*", "∗": "*", "÷": "/", "−": "-", "–": "-", "**": "^"}
_LATEX_OPERATORS = {"times": "*", "cdot": "*", "div": "/"}
_LATEX_SPACE = {
    "left", "right", "text", "textrm", "textit", "mathit", "rm", "mathrm", "textbf", "mathbf", "mbox", "boxed", "quad",
    "qquad", "displaystyle", "big",
    "Big", "bigl", "bigr", "hspace", ",", ";", "!", " ", ":", "$",
}  # fmt: skip
_TOUCHING_UNITS = frozenset(
    [
        "cm", "mm", "km", "kg", "mg", "ml", "lb", "lbs", "oz", "ft", "in", "hr", "hrs", "min", "mins", "sec",
        "secs", "am", "pm", "mph", "cents", "k",
    ]
)  # fmt: skip
_LETTER_WORDS = "gmLlshkKaI"
"""Letters that may be words or units; every other one alone is an unknown."""
_BEHIND_LETTER = re.compile(
    r"[ $]{0,3}(?:(?P<application>(?:\\left\s?|\\bigl?\s?)?\()|[-+*/^_=<>≤≥)}\]&≈·×]"
    r"|\\(?:cdot|times|div|frac|leq?|geq?|approx|right|\)|\]|\\)|[$,.]?\s*$)"
)
_WORD_OPERATORS = {"plus": "+", "minus": "-", "times": "*"}


def tokenize(text: str) -> list[Token]:
    """Return the tokens of a step's text; brackets that hold no formula have become words or cuts."""
    tokens: list[Token] = []
    for match in _LEXER.finditer(text):
        token = _token(match, tokens)
        if token is not None:
            tokens.append(token)
    # ``\frac{a}{b}`` becomes ``((a)/(b))``; what is not of this shape becomes an unknown
    tokens = _classify_brackets(tokens)
    result: list[Token] = []
    waiting: list[list[int]] = []  # for each open \frac: [bracket depth outside it, arguments closed]
    depth = 0
    for index, token in enumerate(tokens):
        if token.kind == "frac":
            if index + 1 < len(tokens) and tokens[index + 1].kind == "(":
                waiting.append([depth, 0])
                result.append(Token("(", token.start, token.start))
            else:
                result.append(Token("var", token.start, token.end, token.text))
            continue
        result.append(token)
        depth += (token.kind == "(") - (token.kind == ")")
        while token.kind == ")" and waiting and waiting[-1][0] == depth:
            waiting[-1][1] += 1
            if waiting[-1][1] == 2:
                waiting.pop()
                result.append(Token(")", token.end, token.end))
                continue
            if index + 1 < len(tokens) and tokens[index + 1].kind == "(":
                result.append(Token("op", token.end, token.end, "/"))
            break
    return result


def _token(match: re.Match[str], before: list[Token]) -> Token | None:
    kind, text, (start, end) = match.lastgroup or "other", match.group(), match.span()
    plain = _PLAIN_KINDS.get(kind)
    if plain is not None:
        says = text == "{" and _TEXT_COMMAND.search(match.string, max(0, start - 12), start)
        return Token(plain, start, end, TEXT_BRACE if says else text)
    if kind in {"num", "mixed", "shortfrac", "mixedfrac"}:
        if end - start > MAX_DIGITS:
            return Token("var", start, end, text)
        if kind in {"mixed", "mixedfrac"}:
            # ``2 1/3`` is seven thirds; so is ``2\frac{1}{3}``, which may also be a product
            whole, top, bottom = (int(part) for part in _MIXED_PARTS.match(text).groups())  # type: ignore[union-attr]
            if not bottom or (kind == "mixed" and not 0 < top < bottom):
                return Token("var", start, end, text)
            part = Fraction(top, bottom)
            if kind == "mixed":
                return Token("num", start, end, text, whole + part)
            return Token("num", start, end, text, whole + part if 0 < part < 1 else whole * part, product=whole * part)
        if kind == "shortfrac":
            top, bottom = int(text[-2]), int(text[-1])
            return Token("num", start, end, text, Fraction(top, bottom)) if bottom else Token("var", start, end, text)
        if len(text) > 2 and text[0] == "0" and text.isdigit():
            return Token("var", start, end, text)  # 0730 is a time or a code
        digits = text.replace("{,}", "").replace(",\\!", "").replace(",", "")
        return Token("num", start, end, text, Fraction(digits), len(digits.partition(".")[2]))
    if kind == "eq":
        return Token("=" if text in {"=", "=="} else "approx", start, end, text)
    if kind == "latex":
        return _latex(text[1:], before, start, end)
    if kind in {"word", "op"}:
        return _word(match, before) if kind == "word" else _operator(match, before)
    return _percent(before, start, end) if kind == "percent" else None


def _percent(before: list[Token], start: int, end: int) -> Token | None:
    if before and before[-1].kind == "num":
        before[-1] = replace(before[-1], percent=True, end=end)
        return None
    return Token("var", start, end, "%")


def _latex(name: str, before: list[Token], start: int, end: int) -> Token | None:
    if name in _LATEX_OPERATORS:
        return Token("op", start, end, _LATEX_OPERATORS[name])
    if name == "%":
        return _percent(before, start, end)
    if name in {"approx", "simeq"}:
        return Token("approx", start, end, name)
    if name in {"frac", "dfrac", "tfrac"}:
        return Token("frac", start, end, name)
    if name in _LATEX_SPACE:
        return None
    return Token("cut" if name in "()[]\\" or name in {"implies", "Rightarrow"} else "var", start, end, name)


def _word(match: re.Match[str], before: list[Token]) -> Token:
    text, start, end = match.group(), match.start(), match.end()
    following = match.string[end : end + 3].lstrip(" $\\")[:1]
    after_operand = bool(before) and before[-1].kind in {"num", ")", "word"}
    if after_operand and following and following in "0123456789.(":
        if text in {"x", "X"}:
            return Token("op", start, end, "*")
        if text.lower() in _WORD_OPERATORS:
            return Token("op", start, end, _WORD_OPERATORS[text.lower()])
    # In "2x", "5s" and "1st" the letters are no unit; in "5cm" and "3 m" they are.
    touching = bool(before) and before[-1].kind in {"num", ")"} and before[-1].end == start
    if (touching and text.lower() not in _TOUCHING_UNITS) or (len(text) == 1 and text not in _LETTER_WORDS):
        return Token("var", start, end, text)
    if len(text) == 1 and (behind := _BEHIND_LETTER.match(match.string, end)) is not None:
        # An unknown or a function: "a + 3 = 5", "g(2)"; "a dozen" and "5 m" are words
        is_unit = bool(before) and before[-1].kind in {"num", ")"} and text not in "aI"
        if not is_unit or behind["application"] is not None:
            return Token("var", start, end, text)
    return Token("word", start, end, text)


def _operator(match: re.Match[str], before: list[Token]) -> Token | None:
    text, start, end = match.group(), match.start(), match.end()
    following = match.string[end : end + 1]
    previous = match.string[start - 1 : start]
    if text.startswith("*"):
        # Markdown: **bold** and *italics* hug the words, and stand where an operand is missing.
        operand = bool(before) and before[-1].kind in {"num", ")", "word"}
        hugs = previous.isspace() != following.isspace() or not previous or not following
        if not operand or (text == "**" and (hugs or not (following.isdigit() or following in "(-"))):
            return None
    return Token("op", start, end, _OPERATORS.get(text, text))


def _classify_brackets(tokens: list[Token]) -> list[Token]:
    """Turn brackets around prose into one word, and brackets around an equation or a list into cuts."""
    partner: dict[int, int] = {}
    stack: list[int] = []
    equations: set[int] = set()
    for index, token in enumerate(tokens):
        if token.kind == "(":
            stack.append(index)
        elif token.kind == ")" and stack:
            opening = stack.pop()
            partner[opening], partner[index] = index, opening
            if opening in equations and stack:
                equations.add(stack[-1])
        elif token.kind in {"=", "approx", "cut"} and stack:
            equations.add(stack[-1])
    numbers = [0, *accumulate(token.kind in {"num", "var"} for token in tokens)]
    result: list[Token] = []
    index = 0
    while index < len(tokens):
        token, other = tokens[index], partner.get(index)
        if token.kind in "()" and (other is None or min(index, other) in equations):
            # "$100+($100*(1/10) = 110": what stands in front of a bracket that is not closed is part of the sum
            broken = other is None and token.kind == "(" and bool(result) and result[-1].kind == "op"
            result.append(Token("var" if broken else "cut", token.start, token.end, token.text))
        elif token.kind == "(" and other is not None and numbers[other] == numbers[index]:
            result.extend(_words_in(tokens, index, other, partner, result[-1] if result else None))
            index = other
        else:
            result.append(token)
        index += 1
    return result


def _words_in(
    tokens: list[Token], opening: int, closing: int, partner: dict[int, int], before: Token | None
) -> Iterator[Token]:
    r"""Yield what stands for brackets without a number: the words of ``\\text{...}``, a remark, or an unknown.

    ".1(number of minutes)" is a product, and so is ``{AB}`` in a formula.
    """
    token = tokens[opening]
    if token.text == TEXT_BRACE:
        yield from (inner for inner in tokens[opening + 1 : closing] if inner.kind == "word")
        return
    touches = before is not None and before.kind in {"num", ")"} and before.end == token.start
    # ``(\text{arc } ABC)`` names a part of the formula; ``(\text{light blue})`` is a remark
    index, says, names = opening + 1, False, False
    while index < closing:
        if tokens[index].text == TEXT_BRACE and index in partner:
            says, index = True, partner[index]
        else:
            names = names or tokens[index].kind == "word"
        index += 1
    unknown = touches or token.text == "{" or (says and names)
    yield Token("var" if unknown else "word", token.start, tokens[closing].end, "(...)")


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
