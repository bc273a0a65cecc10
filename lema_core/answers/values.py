"""Compare two expression trees by their values: exact fractions where they suffice, 50 digits elsewhere.

Rational expressions are evaluated exactly at rational points, so two that agree at all of them are the same function
(Schwartz, Zippel); the others agree to 40 digits or not at all. Every operation is bounded before it runs: exponents,
factorials and the size of numbers.
"""

import math
import operator
import zlib
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from fractions import Fraction
from functools import lru_cache
from typing import Any

from lema_core.answers.expressions import Node

Number = Any
"""Fraction, or an mpmath number where the value is irrational."""

DIGITS = 50
AGREEMENT = 40
"""Digits that must agree; the rest may be lost in the arithmetic."""
FINE_DIGITS = 300
"""Digits of a second try where a sum cancels: what is still nothing then is 0."""
MAX_BITS = 60_000
MAX_FACTORIAL = 3_000
MAX_EXPONENT = 10_000
POINTS = (1, 2, -1)
"""Two points of positive unknowns and one of negative ones, which tells |x| from x."""


class _NoValueError(Exception):
    """The expression has no value here, or one that is too big to compute; never leaves this module."""


class _CancelledError(Exception):
    """A sum lost all its digits; more digits can tell; never leaves this module."""


def same_value(left: Node, right: Node) -> bool | None:
    """Return whether two expressions are equal as functions of their unknowns; None where that cannot be computed."""
    seen: list[bool] = []
    for point in POINTS if has_unknowns(left) or has_unknowns(right) else POINTS[:1]:
        values = value_at(left, point), value_at(right, point)
        if values[0] is None or values[1] is None:
            continue
        seen.append(_agree(values[0], values[1]))
    if not seen:
        return None
    if all(seen):
        return True if len(seen) == len(POINTS) or not has_unknowns(left) or len(seen) > 1 else None
    # Equal for positive unknowns only: sqrt(x^2) against x. Which domain is meant is not ours to decide.
    return None if len(seen) == len(POINTS) and all(seen[:-1]) else False


def constant_ratio(left: Node, right: Node) -> bool | None:
    """Return whether left / right is one non-zero constant: then ``left = 0`` and ``right = 0`` are one equation."""
    ratios = []
    for point in (1, 2, 3, 4):
        values = value_at(left, point), value_at(right, point)
        if None in values or not values[0] or not values[1]:
            return None
        ratios.append(values[0] / values[1])
    return all(_agree(ratio, ratios[0]) for ratio in ratios)


@lru_cache(maxsize=32_768)
def value_at(node: Node, point: int = 1) -> Number | None:
    """Return the value where each unknown has a fixed value made from its name and ``point``; None: no value."""
    try:
        try:
            return _value(node, point)
        except _CancelledError:
            return _fine_value(node, point)
    except (_NoValueError, ZeroDivisionError, OverflowError, ValueError, TypeError, RecursionError):
        return None


def _fine_value(node: Node, point: int) -> Number:
    fine = _FINE.set(True)
    try:
        return _value(node, point)
    finally:
        _FINE.reset(fine)


@lru_cache(maxsize=32_768)
def has_unknowns(node: Node) -> bool:
    """Whether the expression depends on anything but numbers, i and e."""
    return (
        node.op == "apply"
        or (node.op == "var" and node.name not in {"i", "e"})
        or any(has_unknowns(arg) for arg in node.args)
    )


def _agree(left: Number, right: Number) -> bool:
    if isinstance(left, Fraction) and isinstance(right, Fraction):
        return left == right
    mp = _mp()
    a, b = _big(left), _big(right)
    scale = max(abs(a), abs(b))
    return bool(abs(a - b) <= scale * mp.mpf(10) ** -AGREEMENT)


_FINE: ContextVar[bool] = ContextVar("_FINE", default=False)
"""Not the precision of one shared context, as answers are compared in several threads."""


def _mp() -> Any:
    return _context(FINE_DIGITS if _FINE.get() else DIGITS)


@lru_cache(maxsize=2)
def _context(digits: int) -> Any:
    from mpmath import mp  # type: ignore[import-untyped]

    context = mp.clone()
    context.dps = digits
    return context


def _settled(value: Number, size: Number) -> Number:
    """Return a value made from parts of ``size``; where nothing is left of them it is 0 once enough digits say so."""
    lost = DIGITS - AGREEMENT
    if abs(value) > size * _mp().mpf(10) ** (lost - _mp().dps):
        return value
    if not _FINE.get():
        raise _CancelledError
    return Fraction(0)


def _big(value: Number) -> Number:
    if isinstance(value, Fraction):
        return _mp().mpf(value.numerator) / value.denominator
    return value


def _value(node: Node, point: int) -> Number:
    if node.op == "num":
        return node.value
    if node.op == "var":
        return _unknown(node.name, point)
    if node.op == "const":
        if node.name != "pi":
            raise _NoValueError
        return +_mp().pi
    values = [_value(arg, point) for arg in node.args]
    if node.op == "apply":
        argument = values[0] if isinstance(values[0], Fraction) else _mp().nstr(values[0], AGREEMENT)
        return _unknown(f"{node.name}({argument})", point)
    return _bounded(_apply(node, values))


def _unknown(name: str, point: int) -> Number:
    if name == "i":
        return _mp().mpc(0, 1)
    if name == "e":
        return +_mp().e
    seed = zlib.crc32(f"{name}@{abs(point)}".encode("utf-8", "surrogatepass"))
    value = Fraction(seed % 8191 + 17, seed // 8191 % 1021 + 211)
    return value if point > 0 else -value


def _bounded(value: Number) -> Number:
    if isinstance(value, Fraction):
        if value.numerator.bit_length() + value.denominator.bit_length() > MAX_BITS:
            raise _NoValueError
        return value
    if not _mp().isfinite(value):
        raise _NoValueError
    return value


def _apply(node: Node, values: list[Number]) -> Number:
    one = _UNARY.get(node.op)
    if one is not None:
        return one(values[0])
    two = _BINARY.get(node.op)
    if two is not None:
        return two(values[0], values[1])
    if node.op in {"mul", "div"}:
        return _product(node.op, values)
    return _sum(values) if node.op == "add" else _call(node, values)


def _sum(values: list[Number]) -> Number:
    if all(isinstance(value, Fraction) for value in values):
        return sum(values, start=Fraction(0))
    terms = [_big(value) for value in values]
    return _settled(sum(terms), max(map(abs, terms)))


def _product(op: str, values: list[Number]) -> Number:
    if not all(isinstance(value, Fraction) for value in values):
        values = [_big(value) for value in values]
    if op == "div":
        return values[0] / values[1]
    product = values[0]
    for factor in values[1:]:
        product = _bounded(product * factor)
    return product


def _power(base: Number, exponent: Number) -> Number:
    if abs(_big(exponent)) > MAX_EXPONENT:
        raise _NoValueError
    if isinstance(base, Fraction) and isinstance(exponent, Fraction) and exponent.denominator == 1:
        bits = max(base.numerator.bit_length(), base.denominator.bit_length()) * abs(exponent.numerator)
        if bits > MAX_BITS:
            raise _NoValueError
        return base**exponent.numerator
    if base == 0:
        return Fraction(0)
    return _mp().power(_big(base), _big(exponent))


def _root(value: Number, index: Number) -> Number:
    if not isinstance(index, Fraction) or index.denominator != 1 or not 2 <= index <= 100:
        raise _NoValueError
    negative = isinstance(value, Fraction) and value < 0
    if negative and index % 2 == 1:
        return -_mp().root(_big(-value), int(index))  # the real cube root, as people mean it
    return _mp().root(_big(value), int(index))


def _factorial(value: Number) -> Number:
    if abs(_big(value)) > MAX_FACTORIAL:
        raise _NoValueError
    if isinstance(value, Fraction) and value.denominator == 1:
        if value < 0:
            raise _NoValueError
        return Fraction(_integer_factorial(int(value)))
    return _mp().gamma(_big(value) + 1)


@lru_cache(maxsize=256)
def _integer_factorial(n: int) -> int:
    return math.factorial(n)


def _ceil(value: Number) -> Number:
    return Fraction(int(_mp().ceil(_big(value))))


def _floor(value: Number) -> Number:
    return Fraction(int(_mp().floor(_big(value))))


def _binomial(top: Number, bottom: Number) -> Number:
    return _product("div", [_factorial(top), _product("mul", [_factorial(bottom), _factorial(top - bottom)])])


def _call(node: Node, values: list[Number]) -> Number:
    mp, name = _mp(), node.name
    argument = _big(values[0])
    if name == "ln":
        return _settled(mp.log(argument), 1)
    if name == "log":
        return _settled(mp.log(argument), 1) / mp.log(_big(values[1]) if len(values) > 1 else 10)
    if abs(argument) > MAX_EXPONENT:
        raise _NoValueError
    if name in _TRIGONOMETRIC and _has_degrees(node.args[0]):
        argument = argument * mp.pi / 180
    value = getattr(mp, name)(argument)
    return value if name == "exp" else _settled(value, 1)


def _has_degrees(node: Node) -> bool:
    return node.op == "deg" or any(_has_degrees(arg) for arg in node.args)


_TRIGONOMETRIC = frozenset(["sin", "cos", "tan", "cot", "sec", "csc"])
_UNARY: Mapping[str, Callable[[Number], Number]] = {
    "neg": operator.neg, "abs": abs, "deg": operator.pos, "percent": lambda value: value / 100, "factorial": _factorial,
    "ceil": _ceil, "floor": _floor,
}  # fmt: skip
_BINARY: Mapping[str, Callable[[Number, Number], Number]] = {"pow": _power, "root": _root, "binom": _binomial}
