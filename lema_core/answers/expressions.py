r"""A strict grammar of algebraic expressions over the lexer's tokens: text in, a small tree out, or nothing.

It covers what final answers are made of (numbers, unknowns, ``+ - * / ^``, fractions, roots, powers, factorials,
binomials, absolute values, common functions). What it does not cover it refuses; the later layers have real parsers.
Depth and length are bounded, so hostile nesting is refused and cannot exhaust the stack.

A function is applied before its value is raised: ``\sin(x)^2`` is ``\sin^2 x``, with round, square or upright brackets
around the argument. Without brackets the power belongs to the argument, as it is printed: ``\sin x^2`` is
``\sin(x^2)``. ``\sin^{-1} x`` is the inverse function, ``\sin(x)^{-1}`` the reciprocal.
"""

from dataclasses import dataclass, field
from fractions import Fraction
from functools import lru_cache

Tokens = tuple[str, ...]
MAX_TOKENS = 600
MAX_DEPTH = 40
MAX_NUMBER_DIGITS = 400
MAX_POSTFIX = 3

UNARY = frozenset(
    [
        "sin", "cos", "tan", "cot", "sec", "csc", "asin", "acos", "atan", "acot", "asec", "acsc", "sinh", "cosh",
        "tanh", "coth", "sech", "csch", "asinh", "acosh", "atanh", "acoth", "asech", "acsch", "ln", "log", "exp", "sgn",
    ]
)  # fmt: skip
SEVERAL = frozenset(["max", "min", "gcd", "lcm"])
"""Functions of several arguments in brackets."""
CONSTANTS = frozenset(["pi", "inf"])
GREEK = frozenset(
    [
        "alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta", "iota", "kappa", "lambda", "mu",
        "nu", "xi", "rho", "sigma", "tau", "upsilon", "phi", "chi", "psi", "omega", "Gamma", "Delta", "Theta",
        "Lambda", "Xi", "Sigma", "Phi", "Psi", "Omega", "ell",
    ]
)  # fmt: skip
_CLOSING = {"(": ")", "[": "]", "{": "}", "\\{": "\\}"}
_STARTS = (
    frozenset(["(", "[", "{", "frac", "sqrt", "binom", "lceil", "lfloor", "overline"])
    | UNARY
    | SEVERAL
    | frozenset(["floor", "ceil", "abs"])
    | CONSTANTS
    | GREEK
)
MAX_ARGUMENTS = 16
MAX_PERIOD = 60


@dataclass(frozen=True, slots=True)
class Node:
    """One node of an expression tree; ``op`` is num, var, call:NAME or an operator."""

    op: str
    args: tuple["Node", ...] = ()
    value: Fraction = Fraction(0)
    name: str = ""
    _hash: int = field(init=False, repr=False, compare=False, default=0)
    """Computed once: the caches of a comparison look a tree up hundreds of times."""

    def __post_init__(self) -> None:
        number = self.value.numerator, self.value.denominator  # Fraction's own hash computes an inverse modulo a prime
        object.__setattr__(self, "_hash", hash((self.op, self.args, number, self.name)))

    def __hash__(self) -> int:
        return self._hash


ONE = Node("num", value=Fraction(1))


class _NotAnExpressionError(Exception):
    """The tokens are outside the grammar; never leaves this module."""


@lru_cache(maxsize=32_768)
def parse_expression(tokens: Tokens) -> Node | None:
    """Return the tree of an expression, or None where the tokens are not exactly one expression of the grammar."""
    if not tokens or len(tokens) > MAX_TOKENS:
        return None
    parser = _Parser(tokens)
    try:
        node = parser.choice(0)
    except (_NotAnExpressionError, RecursionError):
        return None
    return node if parser.at == len(tokens) else None


class _Parser:
    def __init__(self, tokens: Tokens) -> None:
        self.tokens = tokens
        self.at = 0
        self.bars = 0

    def peek(self, ahead: int = 0) -> str:
        index = self.at + ahead
        return self.tokens[index] if index < len(self.tokens) else ""

    def take(self, expected: str | None = None) -> str:
        lexeme = self.peek()
        if not lexeme or (expected is not None and lexeme != expected):
            raise _NotAnExpressionError
        self.at += 1
        return lexeme

    def choice(self, depth: int) -> Node:
        r"""A sum, or ``n \choose k`` of two of them."""
        top = self.sum(depth)
        if self.peek() != "choose":
            return top
        self.take()
        return Node("binom", (top, self.sum(depth)))

    def sum(self, depth: int) -> Node:
        if depth > MAX_DEPTH:
            raise _NotAnExpressionError
        terms = [self.signed(depth)]
        while self.peek() in {"+", "-"}:
            sign = self.take()
            term = self.signed(depth)
            terms.append(term if sign == "+" else Node("neg", (term,)))
        return terms[0] if len(terms) == 1 else Node("add", tuple(terms))

    def signed(self, depth: int) -> Node:
        negative = False
        while self.peek() in {"+", "-"}:
            negative ^= self.take() == "-"
        product = self.product(depth)
        return Node("neg", (product,)) if negative else product

    def product(self, depth: int) -> Node:
        # Flat, not nested: a product of hundreds of factors must not be hundreds of levels deep.
        factors = [self.power(depth)]
        while True:
            lexeme = self.peek()
            if lexeme in {"*", "/"}:
                self.take()
                negative = False
                while self.peek() in {"+", "-"}:
                    negative ^= self.take() == "-"
                right = self.power(depth)
                right = Node("neg", (right,)) if negative else right
                factors.append(right if lexeme == "*" else Node("div", (ONE, right)))
            elif lexeme == "bmod":
                self.take()
                factors = [Node("mod", (_product(factors), self.power(depth)))]
            elif self.starts_factor():
                self.juxtapose(factors, depth)
            else:
                return _product(factors)

    def juxtapose(self, factors: list[Node], depth: int) -> None:
        r"""``2x`` and ``2^4 3^2`` multiply, ``1 \frac{1}{2}`` and ``1 1/2`` add, ``2 3`` is no expression."""
        before, lexeme, last = self.tokens[self.at - 1], self.peek(), factors[-1]
        if lexeme[0].isdigit() and last.op != "pow":
            factors[-1] = self.mixed(last, before)
            return
        right = self.power(depth)
        fraction = right.op == "div" and all(arg.op == "num" and arg.value.denominator == 1 for arg in right.args)
        if lexeme == "frac" and before.isdigit() and last.op == "num" and fraction:
            factors[-1] = Node("add", (last, right))
        else:
            factors.append(right)

    def mixed(self, whole: Node, before: str) -> Node:
        if not (whole.op == "num" and before.isdigit() and self.peek(1) == "/" and self.peek(2).isdigit()):
            raise _NotAnExpressionError
        top, bottom = int(self.take()), int((self.take(), self.take())[1])
        if not 0 < top < bottom:
            raise _NotAnExpressionError
        return Node("num", value=whole.value + Fraction(top, bottom))

    def starts_factor(self) -> bool:
        lexeme = self.peek()
        if lexeme == "|":
            return self.bars == 0
        return bool(lexeme) and (lexeme in _STARTS or lexeme[0].isdigit() or (len(lexeme) == 1 and lexeme.isalpha()))

    def power(self, depth: int) -> Node:
        node = self.postfix(self.atom(depth + 1))
        if self.peek() == "^":
            self.take()
            node = self.postfix(Node("pow", (node, self.exponent(depth + 1))))
        return node

    def exponent(self, depth: int) -> Node:
        negative = False
        while self.peek() in {"+", "-"}:
            negative ^= self.take() == "-"
        exponent = self.power(depth) if self.peek() != "{" else self.group("{", depth)
        return Node("neg", (exponent,)) if negative else exponent

    def postfix(self, node: Node) -> Node:
        for _ in range(MAX_POSTFIX):
            if self.peek() not in {"!", "deg", "%"}:
                break
            lexeme = self.take()
            if lexeme == "deg" and self.peek() == "{":
                self.take()
                self.take("}")
            node = {"!": Node("factorial", (node,)), "deg": Node("deg", (node,)), "%": Node("percent", (node,))}[lexeme]
        return node

    def group(self, opening: str, depth: int) -> Node:
        self.take(opening)
        bars, self.bars = self.bars, 0
        node = self.choice(depth + 1)
        self.bars = bars
        self.take(_CLOSING[opening])
        return node

    def arguments(self, depth: int) -> tuple[Node, ...]:
        """Return the arguments of ``max(a, b)``, in round brackets or braces."""
        opening = self.peek()
        if opening not in {"(", "\\{", "{"}:
            raise _NotAnExpressionError
        self.take()
        bars, self.bars = self.bars, 0
        found = [self.sum(depth + 1)]
        while self.peek() == "," and len(found) < MAX_ARGUMENTS:
            self.take()
            found.append(self.sum(depth + 1))
        self.bars = bars
        self.take(_CLOSING[opening])
        return tuple(found)

    def argument(self, depth: int) -> Node:
        r"""A macro's argument: a group, or one lexeme as in ``\\sqrt2``."""
        if self.peek() == "{":
            return self.group("{", depth)
        return self.atom(depth + 1)

    def atom(self, depth: int) -> Node:
        lexeme = self.peek()
        if depth > MAX_DEPTH or not lexeme:
            raise _NotAnExpressionError
        if lexeme[0].isdigit() or (lexeme[0] == "." and lexeme != "."):
            return self.number()
        if lexeme in {"(", "[", "{"}:
            return self.group(lexeme, depth)
        if lexeme in CONSTANTS:
            return Node("const", name=self.take())
        if lexeme in GREEK or (len(lexeme) == 1 and lexeme.isalpha()):
            return self.variable(depth)
        return self.function(depth) if lexeme in UNARY else self.macro(lexeme, depth)

    def macro(self, lexeme: str, depth: int) -> Node:
        if lexeme in SEVERAL or (lexeme == "binom" and self.peek(1) == "("):
            self.take()
            found = self.arguments(depth)
            if len(found) < 2 or (lexeme == "binom" and len(found) > 2):
                raise _NotAnExpressionError
            return Node(lexeme, found)
        if lexeme in {"frac", "binom"}:
            self.take()
            return Node("div" if lexeme == "frac" else "binom", (self.argument(depth), self.argument(depth)))
        if lexeme == "sqrt":
            return self.root(depth)
        if lexeme == "|":
            return self.absolute(depth)
        if lexeme in {"floor", "ceil", "abs"} and self.peek(1) == "(":
            self.take()
            return Node(lexeme, (self.group("(", depth),))
        if lexeme not in {"lceil", "lfloor"}:
            raise _NotAnExpressionError
        self.take()
        inner = self.sum(depth + 1)
        self.take("r" + lexeme[1:])
        return Node(lexeme[1:], (inner,))

    def number(self) -> Node:
        lexeme = self.take()
        if len(lexeme) > MAX_NUMBER_DIGITS:
            raise _NotAnExpressionError
        following = self.peek()
        if lexeme.isdigit() and following != "_":
            return Node("num", value=Fraction(int(lexeme)))
        if following == "_":
            raise _NotAnExpressionError  # a number in another base is no decimal number
        if PERIOD in lexeme:
            # ``0.1(6`` is exactly a sixth
            fixed, _, period = lexeme.partition(PERIOD)
            if len(period) > MAX_PERIOD:
                raise _NotAnExpressionError
            shift = len(fixed.partition(".")[2])
            value = Fraction(fixed + "0") + Fraction(int(period), (10 ** len(period) - 1) * 10**shift)
            return Node("num", value=value, name="repeating")
        if following == "dots" and "." in lexeme:
            self.take()
            return Node("num", value=Fraction(lexeme), name=".")
        return Node("num", value=Fraction(lexeme), name="." if "." in lexeme else "")

    def root(self, depth: int) -> Node:
        self.take("sqrt")
        index = Node("num", value=Fraction(2))
        if self.peek() == "[":
            index = self.group("[", depth)
        return Node("root", (self.argument(depth), index))

    def function(self, depth: int) -> Node:
        name = self.take()
        base = exponent = None
        for _ in range(2):
            if self.peek() == "_" and name == "log":
                self.take()
                base = self.argument(depth)
            elif self.peek() == "^":
                self.take()
                exponent = self.exponent(depth + 1)
        argument = self.function_argument(depth)
        if exponent is not None and exponent == Node("neg", (ONE,)) and "a" + name in UNARY:
            name, exponent = "a" + name, None
        node = Node("call", (argument, base) if base else (argument,), name=name)
        return Node("pow", (node, exponent)) if exponent is not None else node

    def function_argument(self, depth: int) -> Node:
        r"""``\sin(x)`` takes what is in brackets, ``\sin 2x`` takes 2x, ``\sin x \cos x`` takes x."""
        if self.peek() in {"(", "[", "|"} or (self.peek() == "{" and self.is_bracketed_group()):
            argument = self.atom(depth + 1)
            return self.postfix(argument) if self.peek() == "deg" else argument
        if self.peek() == "{":
            return self.power(depth)
        node = self.power(depth)
        factors = [node]
        while self.peek() not in UNARY and self.peek() not in {"(", "|"} and self.starts_factor():
            self.juxtapose(factors, depth)
        return _product(factors)

    def is_bracketed_group(self) -> bool:
        r"""``{\left(x\right)}``: braces around brackets and nothing else."""
        inner = self.peek(1)
        if inner not in {"(", "["}:
            return False
        depth, at = 0, self.at + 1
        while at < len(self.tokens):
            depth += (self.tokens[at] in {"(", "["}) - (self.tokens[at] in {")", "]"})
            at += 1
            if depth == 0:
                break
        return at < len(self.tokens) and self.tokens[at] == "}"

    def absolute(self, depth: int) -> Node:
        self.take("|")
        self.bars += 1
        inner = self.sum(depth + 1)
        self.bars -= 1
        self.take("|")
        return Node("abs", (inner,))

    def variable(self, depth: int) -> Node:
        name = self.take()
        while self.peek() in {"_", "prime"}:
            name += self.take()
            if name.endswith("_"):
                name += self.subscript()
        # f(x) is an unknown value of f: equal where the arguments are.
        if name in {"f", "g", "h"} and self.peek() == "(":
            return Node("apply", (self.group("(", depth),), name=name)
        return Node("var", name=name)

    def subscript(self) -> str:
        if self.peek() != "{":
            return self.take()
        start, depth = self.at, 0
        while True:
            lexeme = self.take()
            depth += (lexeme == "{") - (lexeme == "}")
            if depth == 0:
                return "".join(self.tokens[start + 1 : self.at - 1])


PERIOD = "("
"""What separates the period of a repeating decimal from the digits before it, within one token: ``0.1(6``."""


def _product(factors: list[Node]) -> Node:
    return factors[0] if len(factors) == 1 else Node("mul", tuple(factors))
