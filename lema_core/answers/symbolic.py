"""The two heavy layers: sympy over latex2sympy2_extended's trees, then Math-Verify. Runs in a worker process only.

Nothing here is bounded in time; the parent kills the process at its deadline.
"""

import re
from typing import Any

from latex2sympy2_extended import NormalizationConfig, latex2sympy
from math_verify import LatexExtractionConfig, parse, verify
from sympy import Basic, Expr, Rational, nan, simplify, zoo

from lema_core.answers.lexer import tokens_of
from lema_core.answers.results import Match

_CONFIG = NormalizationConfig(
    basic_latex=True, units=True, malformed_operators=True, nits=True, boxed="none", equations=False
)
# Only LaTeX: its reader of plain expressions hands the text to sympy's parse_expr, which evaluates code.
_READ = (LatexExtractionConfig(),)
_MISREAD = re.compile(
    r"(?<!frac)(?<![A-Za-z{]\s)[0-9]\s+[0-9]|[0-9.]['\"]|[0-9]\.[0-9]+\.[0-9]|[0-9]\s*(?:\\text\{)?\s*[Rr]\s*\}?\s*[0-9]"
)
"""Digits apart, minutes and inches, version numbers, remainders: the parsers read products and sums into them."""
_POINTS = (Rational(7, 3), Rational(19, 11), Rational(5, 13))


def match_symbolically(gold: str, pred: str) -> Match:
    """Compare two answers by computer algebra; unknown where neither layer can read both."""
    for side in (gold, pred):
        if _MISREAD.search(side):
            return Match("unknown", "symbolic", f"{side[:80]!r} is no formula that the parsers read as people do")
    tokens = [tokens_of(side) for side in (gold, pred)]
    folded = [[lexeme.casefold() for lexeme in side] for side in tokens]
    if folded[0] == folded[1] and tokens[0] != tokens[1]:
        return Match("unknown", "symbolic", "only capitals tell them apart")
    left, right = _tree(gold), _tree(pred)
    if _is_undefined(left) or _is_undefined(right):
        return Match("unknown", "symbolic", "a division by zero")
    if isinstance(left, Basic) and isinstance(right, Basic):
        same = _same(left, right)
        if same is not None:
            return Match("equal" if same else "different", "symbolic", f"{left} against {right}"[:300])
    # Unwrapped, Math-Verify fails 5.4 % of the MATH golds against themselves.
    wrapped = (text if "$" in text else f"${text}$" for text in (gold, pred))
    left, right = (parse(text, _READ, parsing_timeout=None) for text in wrapped)
    if not left or not right:
        return Match("unknown", "math_verify", "it cannot read " + ("the gold answer" if not left else "the answer"))
    if not isinstance(left[0], Basic) and not isinstance(right[0], Basic):
        return Match("unknown", "math_verify", "it reads only texts")
    equal = verify(left, right, timeout_seconds=None)
    if equal and isinstance(left[0], Expr) and isinstance(right[0], Expr) and left[0] != right[0]:
        # It compares numbers in a few digits: \arctan(10^{50}) would be \frac{\pi}{2}.
        return Match("unknown", "math_verify", f"{left[0]} and {right[0]} agree in their leading digits"[:300])
    return Match("equal" if equal else "different", "math_verify", f"{left[0]} against {right[0]}"[:300])


def _is_undefined(tree: Any) -> bool:
    return isinstance(tree, Basic) and tree.has(zoo, nan)


def _tree(text: str) -> Any:
    try:
        return latex2sympy(text.strip().strip("$"), normalization_config=_CONFIG)
    except Exception:  # noqa: BLE001 the parser raises whatever its grammar and sympy raise; unreadable is an outcome
        return None


def _same(left: Basic, right: Basic) -> bool | None:
    """Exactly first; then at rational points, which can only prove a difference."""
    if left == right:
        return True
    if not (isinstance(left, Expr) and isinstance(right, Expr)):
        return None
    difference = left - right
    symbols = sorted(difference.free_symbols, key=str)
    values = [_number(difference, dict.fromkeys(symbols, point)) for point in _POINTS[: 3 if symbols else 1]]
    if all(value is not None and abs(value) > 1e-9 for value in values):
        return False
    return True if simplify(difference) == 0 else None


def _number(expression: Expr, values: dict[Any, Any]) -> complex | None:
    points = {symbol: point + index for index, (symbol, point) in enumerate(values.items())}
    try:
        return complex(expression.subs(points).evalf(30))
    except (TypeError, ValueError, ArithmeticError):
        return None
