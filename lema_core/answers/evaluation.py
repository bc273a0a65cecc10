r"""Evaluate an expression tree at one point: exact fractions where they suffice, mpmath with enough digits elsewhere.

Total: whatever a tree holds, the caller gets a number or ``NoValueError``. Every operation is bounded before it runs:
exponents, factorials, the size of fractions, the digits, and the work of one comparison as a whole.

A number may hide another: ``e^{100} + 1``, ``\tanh 100`` and ``\sqrt{10^{60}+1}`` show what they are made of only with
enough digits, and a sum whose terms cancel, ``\sqrt{2}\sqrt{2} - 2``, loses those it has. Each evaluation records how
many digits were hidden or lost, so that ``agree`` can compute again with as many as the comparison needs.
"""

import math
import threading
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

from lema_core.answers.expressions import Node

Number = Any
"""Fraction, or an mpmath number where the value is irrational."""

_LOCAL = threading.local()
DIGITS = 50
SPARE = 10
"""Digits that the arithmetic itself may lose."""
MAX_DIGITS = 5_000
MAX_BITS = 60_000
MAX_FACTORIAL = 3_000
MAX_EXPONENT = 10_000
WORK = 60_000
"""Operations of one comparison of two expressions, each weighed by its digits: a tenth of a second."""
TOTAL_WORK = 150_000
"""The same for two answers with all their parts."""


class NoValueError(Exception):
    """The expression has no value at this point, or one that is too big to compute; never leaves the number layer."""


class NotRealError(NoValueError):
    """The value is not real while all unknowns are; ``by`` is the operation: "ln", "root", "pow", ..."""

    def __init__(self, by: str) -> None:
        super().__init__(by)
        self.by = by


@dataclass(slots=True)
class Work:
    """The work that a comparison may still do, in units of its operations."""

    left: int = WORK
    whole: "Work | None" = field(default_factory=lambda: getattr(_LOCAL, "whole", None))
    """What the answers that the expressions are parts of may still compute."""

    def spend(self, units: int) -> None:
        """Take units off the rest.

        Raises:
            NoValueError: nothing is left.
        """
        self.left -= units
        if self.whole is not None:
            self.whole.left -= units
            if self.whole.left < 0:
                self.left = -1
        if self.left < 0:
            raise NoValueError


@contextmanager
def bounded_work() -> Iterator[None]:
    """Bound the work of all comparisons within, in this thread."""
    outer = getattr(_LOCAL, "whole", None)
    _LOCAL.whole = outer or Work(TOTAL_WORK, None)
    try:
        yield
    finally:
        _LOCAL.whole = outer


Point = Mapping[str, Number]
"""The values of the unknowns by name."""


def agree(left: Node, right: Node, point: Point, work: Work, *, real: bool) -> bool:
    """Return whether two expressions have one value at a point.

    ``real``: where a value is not real, there is none.

    Raises:
        NoValueError: one of them has no value there.
    """
    digits = DIGITS
    while True:
        first, second = (_Evaluation(point, digits, work, real) for _ in range(2))
        values = first.of(left), second.of(right)
        lost, hidden = max(first.lost, second.lost), max(first.hidden, second.hidden)
        reliable = digits - SPARE - lost
        # Fractions are exact, unless a term was rounded to 0 on the way and only more digits can confirm that
        if all(isinstance(value, Fraction) for value in values) and (lost <= SPARE or digits > DIGITS):
            return bool(values[0] == values[1])
        if lost <= SPARE and not _same(values[0], values[1], DIGITS - 2 * SPARE):
            return False  # what differs in the leading digits needs no more of them
        if max(lost, hidden) <= SPARE:
            return _same(values[0], values[1], DIGITS - SPARE)
        if reliable >= DIGITS - SPARE + 2 * hidden + lost:
            return _same(values[0], values[1], reliable)
        digits = max(DIGITS + SPARE + 3 * max(lost, hidden), digits + DIGITS)


def evaluate(node: Node, point: Point, work: Work | None = None, *, real: bool = False) -> Number:
    """Return the value at a point, a Fraction or an mpmath number that is right to about ``DIGITS`` digits.

    Raises:
        NoValueError: there is none.
    """
    work = work or Work()
    evaluation = _Evaluation(point, DIGITS, work, real)
    value = evaluation.of(node)
    if evaluation.lost > SPARE:
        value = _Evaluation(point, DIGITS + SPARE + 2 * evaluation.lost, work, real).of(node)
    return value


def same_numbers(left: Number, right: Number) -> bool:
    """Return whether two values agree in 40 digits; exactly where both are fractions."""
    if isinstance(left, Fraction) and isinstance(right, Fraction):
        return left == right
    return _same(left, right, DIGITS - SPARE)


def divide(left: Number, right: Number) -> Number:
    """Divide numbers of either sort.

    Raises:
        NoValueError: by zero.
    """
    if not right:
        raise NoValueError
    if isinstance(left, Fraction) and isinstance(right, Fraction):
        return left / right
    return _mp_number(left, DIGITS) / _mp_number(right, DIGITS)


def _same(left: Number, right: Number, digits: int) -> bool:
    mp = context(digits + SPARE)
    a, b = _mp_number(left, digits + SPARE), _mp_number(right, digits + SPARE)
    return bool(abs(a - b) <= max(abs(a), abs(b)) * mp.mpf(10) ** -digits)


def _mp_number(value: Number, digits: int) -> Number:
    if isinstance(value, Fraction):
        return context(digits).mpf(value.numerator) / value.denominator
    return value


def context(digits: int) -> Any:
    """Return the mpmath context of this thread with a number of digits: mpmath changes a context while it computes."""
    contexts: dict[int, Any] = _LOCAL.__dict__.setdefault("contexts", {})
    if digits not in contexts:
        from mpmath import mp  # type: ignore[import-untyped]

        if len(contexts) > 64:
            contexts.clear()
        contexts[digits] = mp.clone()
        contexts[digits].dps = digits
    return contexts[digits]


@dataclass(slots=True)
class _Evaluation:
    """One evaluation of a tree, with the digits that its worst step lost and hid."""

    point: Point
    digits: int
    work: Work
    real: bool
    lost: int = 0
    hidden: int = 0
    _mp: Any = None

    def __post_init__(self) -> None:
        if self.digits > MAX_DIGITS:
            raise NoValueError
        self.work.spend(6)

    @property
    def mp(self) -> Any:
        """The mpmath context, which fractions do without."""
        if self._mp is None:
            self._mp = context(self.digits)
        return self._mp

    def of(self, node: Node) -> Number:
        try:
            return self.value(node)
        except NoValueError:
            raise
        except Exception:  # noqa: BLE001 mpmath raises whatever its functions raise; the contract is a value or none
            raise NoValueError from None

    def value(self, node: Node) -> Number:
        self.work.spend(1)
        op = node.op
        if op == "num":
            return node.value
        if op == "var":
            return self.unknown(node.name)
        if op == "const":
            if node.name != "pi":
                raise NoValueError
            return +self.mp.pi
        values = [self.value(arg) for arg in node.args]
        if op == "apply":
            argument = values[0] if isinstance(values[0], Fraction) else self.mp.nstr(values[0], 30)
            return generic(f"{node.name}({argument})")
        return self.bounded(getattr(self, "_" + op)(node, values))

    def unknown(self, name: str) -> Number:
        if name in self.point:
            return self.point[name]
        if name == "i":
            return self.mp.mpc(0, 1)
        if name == "e":
            return +self.mp.e
        return generic(name)

    def bounded(self, value: Number) -> Number:
        if isinstance(value, Fraction):
            # Fractions are exact, so a tower of powers costs bits, not digits
            bits = value.numerator.bit_length() + value.denominator.bit_length()
            if bits > MAX_BITS:
                raise NoValueError
            self.work.spend(bits >> 9)
            return value
        self.work.spend(3 + (self.digits >> 5))
        if not self.mp.isfinite(value):
            raise NoValueError
        return value

    def big(self, value: Number) -> Number:
        if not isinstance(value, Fraction):
            return value
        bits = max(value.numerator.bit_length(), value.denominator.bit_length())
        self.hidden = max(self.hidden, int(bits * 0.302))
        return self.mp.mpf(value.numerator) / value.denominator

    def real_only(self, value: Number, by: str) -> Number:
        """Return a function's value, in real mode only if it is real."""
        if self.real and isinstance(value, self.mp.mpc):
            if abs(value.imag) > abs(value) * self.mp.mpf(10) ** -(self.digits - SPARE):
                raise NotRealError(by)
            return value.real
        return value

    def settled(self, value: Number, size: Number) -> Number:
        """Record the digits that a value lost against the size of its parts; what has none left is 0."""
        # Cancellation: of 10^{50} + 1 - 10^{50} all but the last digit goes. 0.302 is log10(2), rounded up
        magnitude = self.mp.mag(size)
        gone = int((magnitude - (self.mp.mag(value) if value else magnitude - 4 * self.digits)) * 0.302)
        if gone <= self.digits - SPARE:
            self.lost = max(self.lost, gone)
            return value
        if self.digits == DIGITS:
            self.lost = max(self.lost, DIGITS)  # more digits will say whether it is nothing
        return Fraction(0)

    def _neg(self, _node: Node, values: list[Number]) -> Number:
        return -values[0]

    def _abs(self, _node: Node, values: list[Number]) -> Number:
        return abs(values[0])

    def _deg(self, _node: Node, values: list[Number]) -> Number:
        # A function of angles converts it; elsewhere 30° is the number 30
        return values[0]

    def _percent(self, _node: Node, values: list[Number]) -> Number:
        return values[0] / 100

    def _add(self, _node: Node, values: list[Number]) -> Number:
        if all(isinstance(value, Fraction) for value in values):
            return sum(values, start=Fraction(0))
        terms = [self.big(value) for value in values if value]
        sizes = [self.mp.mag(term) for term in terms]
        if not terms:
            return Fraction(0)
        self.hidden = max(self.hidden, int((max(sizes) - min(sizes)) * 0.302))
        return self.settled(sum(terms), max(map(abs, terms)))

    def _mul(self, _node: Node, values: list[Number]) -> Number:
        if any(isinstance(value, Fraction) and not value for value in values):
            return Fraction(0)
        if not all(isinstance(value, Fraction) for value in values):
            values = [self.big(value) for value in values]
        product = values[0]
        for factor in values[1:]:
            product = self.bounded(product * factor)
        return product

    def _div(self, _node: Node, values: list[Number]) -> Number:
        top, bottom = values
        if not bottom:
            raise NoValueError
        if isinstance(top, Fraction) and isinstance(bottom, Fraction):
            return top / bottom
        return self.big(top) / self.big(bottom)

    def _pow(self, _node: Node, values: list[Number]) -> Number:
        base, exponent = values
        if abs(self.big(exponent)) > MAX_EXPONENT:
            raise NoValueError
        if isinstance(exponent, Fraction) and exponent.denominator == 1:
            return self.integer_power(base, exponent.numerator)
        if not base:
            if isinstance(exponent, self.mp.mpc) or exponent < 0:
                raise NoValueError
            return Fraction(0)
        self.work.spend(self.digits >> 2)
        if self.is_negative(base) and isinstance(exponent, Fraction) and exponent.denominator % 2:
            if self.real:  # the real root, as under a root sign
                power = self.mp.power(self.big(-base), self.big(exponent))
                return -power if exponent.numerator % 2 else power
            if not self.point:
                raise NoValueError  # (-8)^{1/3}: -2 or the principal value, which cannot be seen
        return self.real_only(self.mp.power(self.big(base), self.big(exponent)), "pow")

    def integer_power(self, base: Number, exponent: int) -> Number:
        if isinstance(base, Fraction):
            if not base and exponent < 0:
                raise NoValueError
            # The size of the result is known before it is computed: 9^{9^9} must not begin
            bits = max(base.numerator.bit_length(), base.denominator.bit_length()) * abs(exponent)
            if bits > MAX_BITS:
                raise NoValueError
            return base**exponent
        return base**exponent

    def is_negative(self, value: Number) -> bool:
        return not isinstance(value, self.mp.mpc) and value < 0

    def _root(self, _node: Node, values: list[Number]) -> Number:
        value, index = values
        if not isinstance(index, Fraction) or index.denominator != 1 or not 2 <= index <= 100:
            raise NoValueError
        if isinstance(value, Fraction):
            exact = _exact_root(value, int(index))
            if exact is not None:
                return exact
        if self.is_negative(value) and index % 2 == 1:
            return -self.mp.root(self.big(-value), int(index))  # the real cube root, as people mean it
        return self.real_only(self.mp.root(self.big(value), int(index)), "root")

    def _factorial(self, _node: Node, values: list[Number]) -> Number:
        return self.factorial(values[0])

    def factorial(self, value: Number) -> Number:
        if abs(self.big(value)) > MAX_FACTORIAL:
            raise NoValueError
        if isinstance(value, Fraction) and value.denominator == 1:
            if value < 0:
                raise NoValueError
            return Fraction(math.factorial(int(value)))
        return self.mp.gamma(self.big(value) + 1)

    def _binom(self, _node: Node, values: list[Number]) -> Number:
        top, bottom = values
        if all(isinstance(value, Fraction) and value.denominator == 1 for value in values):
            if top < 0 or bottom < 0 or top > MAX_FACTORIAL:
                raise NoValueError
            return Fraction(math.comb(int(top), int(bottom)))
        return self.factorial(top) / self.big(self.factorial(bottom)) / self.big(self.factorial(top - bottom))

    def _floor(self, _node: Node, values: list[Number]) -> Number:
        return self.whole(values[0], math.floor)

    def _ceil(self, _node: Node, values: list[Number]) -> Number:
        return self.whole(values[0], math.ceil)

    def whole(self, value: Number, rounding: Callable[[Any], int]) -> Number:
        """Round; a value that is an integer to all digits is that integer."""
        if isinstance(value, Fraction):
            return Fraction(rounding(value))
        nearest = self.mp.nint(value)
        if abs(value - nearest) <= max(1, abs(value)) * self.mp.mpf(10) ** -(self.digits - SPARE):
            if self.digits == DIGITS:
                self.lost = max(self.lost, DIGITS)
                self.hidden = max(self.hidden, int(self.mp.mag(value) * 0.302))
            return Fraction(int(nearest))
        return Fraction(int((self.mp.floor if rounding is math.floor else self.mp.ceil)(value)))

    def _max(self, _node: Node, values: list[Number]) -> Number:
        return max(values, key=self.big)

    def _min(self, _node: Node, values: list[Number]) -> Number:
        return min(values, key=self.big)

    def _gcd(self, _node: Node, values: list[Number]) -> Number:
        return Fraction(math.gcd(*map(_integer, values)))

    def _lcm(self, _node: Node, values: list[Number]) -> Number:
        return Fraction(math.lcm(*map(_integer, values)))

    def _mod(self, _node: Node, values: list[Number]) -> Number:
        top, bottom = values
        if not isinstance(top, Fraction) or not isinstance(bottom, Fraction) or not bottom:
            raise NoValueError
        return top - bottom * math.floor(top / bottom)

    def _call(self, node: Node, values: list[Number]) -> Number:
        mp, name, argument = self.mp, node.name, self.big(values[0])
        self.work.spend(5 + (self.digits >> 2))
        if name in {"ln", "log"}:
            return self.logarithm(name, values)
        if name == "sgn":
            return Fraction(0) if not argument else Fraction(1 if argument > 0 else -1)
        if abs(argument) > MAX_EXPONENT and name not in _LEVELLED:
            raise NoValueError
        if name in _TRIGONOMETRIC and _has_degrees(node.args[0]):
            argument = argument * mp.pi / 180
        if name in _SATURATED:
            self.hidden = max(self.hidden, int(abs(argument) * 0.87))
        elif name in _LEVELLED:
            self.hidden = max(self.hidden, int(abs(mp.mag(argument)) * 0.604) if argument else 0)
        value = getattr(mp, name)(argument)
        if name == "exp":
            return value
        if abs(value) > mp.mpf(10) ** (self.digits - SPARE) and name in _WITH_POLES:
            raise NoValueError
        return self.settled(self.real_only(value, name), 1)

    def logarithm(self, name: str, values: list[Number]) -> Number:
        if not values[0]:
            raise NoValueError
        value = self.settled(self.real_only(self.mp.log(self.big(values[0])), "ln"), 1)
        if name == "ln":
            return value
        base = self.real_only(self.mp.log(self.big(values[1]) if len(values) > 1 else 10), "ln")
        return value if isinstance(value, Fraction) else value / base


def generic(name: str, salt: str = "") -> Fraction:
    """Return a generic value between 0.3 and 3.3, a hash of a name: no identity holds there by chance."""
    seed = zlib.crc32(f"{name}@{salt}".encode("utf-8", "surrogatepass"))
    return Fraction(seed % 997 + 101, 331)


def _integer(value: Number) -> int:
    if not isinstance(value, Fraction) or value.denominator != 1:
        raise NoValueError
    return value.numerator


def _exact_root(value: Fraction, index: int) -> Fraction | None:
    r"""Return a root that is rational, so that ``\sqrt{4}`` stays exact; None: it is none, or the number is long."""
    if value < 0 or value.numerator.bit_length() + value.denominator.bit_length() > 512:
        return None
    roots: list[int] = []
    for part in (value.numerator, value.denominator):
        root = math.isqrt(part) if index == 2 else round(part ** (1 / index)) if part.bit_length() < 50 else -1
        if root < 0 or root**index != part:
            return None
        roots.append(root)
    return Fraction(roots[0], roots[1])


def _has_degrees(node: Node) -> bool:
    return node.op == "deg" or any(_has_degrees(arg) for arg in node.args)


_TRIGONOMETRIC = frozenset(["sin", "cos", "tan", "cot", "sec", "csc"])
_SATURATED = frozenset(["sinh", "cosh", "tanh", "coth", "sech", "csch"])
"""Functions that differ from an exponential, or from 1, by an exponential of twice the argument."""
_LEVELLED = frozenset(["atan", "acot", "asec", "acsc", "acoth", "acsch", "asinh"])
"""Functions that differ from a constant or a logarithm by a power of the argument."""
_WITH_POLES = frozenset(["tan", "cot", "sec", "csc", "coth", "csch"])
