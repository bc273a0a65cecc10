"""Tokens of the arithmetic in a step's prose: numbers, operators, brackets, equals signs, words, boundaries.

One pass with one regular expression whose branches cannot backtrack into each other, one pass to match brackets:
time is linear in the text. It knows plain text, LaTeX and GSM8K's ``<<3*4=12>>`` marks (which it skips: the
calculator wrote what stands in them, not the model).
"""

import re
from dataclasses import dataclass, replace
from fractions import Fraction

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


_LEXER = re.compile(
    r"""(?P<mark><<[^<>]*>>)
    |(?P<clock>[0-9]{1,2}:[0-9]{2}(?![0-9]))
    |(?P<mixed>[0-9]{1,4}[ ][0-9]{1,3}/[0-9]{1,4}(?![0-9/.]))
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
_PLAIN_KINDS = {"open": "(", "close": ")", "cut": "cut", "other": "var", "clock": "var"}
_OPERATORS = {"×": "*", "·": "*", "⋅": "*", "∙": "*", "∗": "*", "÷": "/", "−": "-", "–": "-", "**": "^"}
_LATEX_OPERATORS = {"times": "*", "cdot": "*", "ast": "*", "div": "/"}
_LATEX_SPACE = {
    "left", "right", "text", "mathrm", "textbf", "mathbf", "mbox", "boxed", "quad", "qquad", "displaystyle", "big",
    "Big", "bigl", "bigr", "hspace", ",", ";", "!", " ", ":", "$",
}  # fmt: skip
_TOUCHING_UNITS = frozenset(
    [
        "cm", "mm", "km", "kg", "mg", "ml", "lb", "lbs", "oz", "ft", "in", "hr", "hrs", "min", "mins", "sec",
        "secs", "am", "pm", "mph", "cents", "k",
    ]
)  # fmt: skip
_WORD_OPERATORS = {"plus": "+", "minus": "-", "times": "*"}


def tokenize(text: str) -> list[Token]:
    """Return the tokens of a step's text; brackets that hold no formula have become words or cuts."""
    tokens: list[Token] = []
    for match in _LEXER.finditer(text):
        token = _token(match, tokens)
        if token is not None:
            tokens.append(token)
    return _expand_fractions(_classify_brackets(tokens))


def _token(match: re.Match[str], before: list[Token]) -> Token | None:
    kind, text, (start, end) = match.lastgroup or "other", match.group(), match.span()
    plain = _PLAIN_KINDS.get(kind)
    if plain is not None:
        return Token(plain, start, end, text)
    if kind in {"num", "mixed", "shortfrac"}:
        return _number(kind, text, start, end)
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


def _number(kind: str, text: str, start: int, end: int) -> Token:
    if end - start > MAX_DIGITS:
        return Token("var", start, end, text)
    if kind == "mixed":
        whole, _, fraction = text.partition(" ")
        top, bottom = (int(part) for part in fraction.split("/"))
        if not 0 < top < bottom:
            return Token("var", start, end, text)
        return Token("num", start, end, text, int(whole) + Fraction(top, bottom))
    if kind == "shortfrac":
        top, bottom = int(text[-2]), int(text[-1])
        return Token("num", start, end, text, Fraction(top, bottom)) if bottom else Token("var", start, end, text)
    digits = text.replace("{,}", "").replace(",\\!", "").replace(",", "")
    return Token("num", start, end, text, Fraction(digits), len(digits.partition(".")[2]))


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
    touching = bool(before) and before[-1].kind == "num" and before[-1].end == start
    if (touching and text.lower() not in _TOUCHING_UNITS) or (len(text) == 1 and text not in "gmLlhskKaI"):
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
    numbers = [0]
    for token in tokens:
        numbers.append(numbers[-1] + (token.kind in {"num", "var"}))
    result: list[Token] = []
    index = 0
    while index < len(tokens):
        token, other = tokens[index], partner.get(index)
        if token.kind in "()" and (other is None or min(index, other) in equations):
            result.append(Token("cut", token.start, token.end, token.text))
        elif token.kind == "(" and other is not None and numbers[other] == numbers[index]:
            result.append(Token("word", token.start, tokens[other].end, "(...)"))
            index = other
        else:
            result.append(token)
        index += 1
    return result


def _expand_fractions(tokens: list[Token]) -> list[Token]:
    r"""Write ``\\frac{a}{b}`` as ``((a)/(b))``; what is not of this shape becomes an unknown."""
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
