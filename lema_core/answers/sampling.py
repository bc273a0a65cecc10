r"""Where two expressions are compared: points on both sides of every place at which one of them changes its form.

Three generic points separate two rational or analytic functions. They do not separate ``|x-200|`` from ``200-x``, nor
``\lceil n/2\rceil`` from ``\lfloor n/2\rfloor+1``. So the arguments of absolute values, roots, logarithms, maxima
and floors of both expressions are solved for each unknown, and points are taken between their zeros.

Unknowns are real. A letter from i to n is an integer where it stands in an exponent, a factorial, a binomial, a floor
or beside π in a trigonometric function.
"""

import math
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from itertools import pairwise

from lema_core.answers.evaluation import NoValueError, Number, Work, context, evaluate, generic
from lema_core.answers.expressions import ONE, Node

INTEGER_LETTERS = frozenset("jklmnKLMN") | {"ell"}
MAX_DEGREE = 8
MAX_BREAKS = 16
MAX_PERIOD = 400
BISECTIONS = 40
INTEGERS = (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 23, 36, 50, 97, 100, 144)
LOW_INTEGERS = (0, -1, -2, -3, -4)
_GRID = tuple(sign * 0.05 * 1.8**step for sign in (-1, 1) for step in range(30))
_ROUNDED = frozenset(["floor", "ceil", "mod"])
_WHOLE = _ROUNDED | {"factorial", "binom", "gcd", "lcm"}
_TRIGONOMETRIC = frozenset(["sin", "cos", "tan", "cot", "sec", "csc"])
_UNIT_DOMAIN = frozenset(["asin", "acos", "atanh", "acosh", "asec", "acsc", "acoth", "asech"])

Values = dict[str, Number]


@dataclass(frozen=True, slots=True)
class Sample:
    """A point, and whether a difference there is a difference of the expressions."""

    point: Values
    decisive: bool = True
    """False for an integer unknown at or below 0, where ``n`` may not be meant to go."""


@lru_cache(maxsize=32_768)
def unknowns(node: Node) -> frozenset[str]:
    """Return the names that an expression depends on; i and e are numbers."""
    own = {node.name} if node.op == "var" and node.name not in {"i", "e"} else set()
    return frozenset(own).union(*(unknowns(arg) for arg in node.args))


@lru_cache(maxsize=32_768)
def operations(node: Node) -> frozenset[str]:
    """Return the operations and functions of an expression, and "i" for the imaginary unit."""
    own = {node.name if node.op == "call" else "i" if (node.op, node.name) == ("var", "i") else node.op}
    return frozenset(own).union(*(operations(arg) for arg in node.args))


def samples(left: Node, right: Node, work: Work) -> Iterator[Sample]:
    """Yield the points at which to compare two expressions with unknowns; generic ones first."""
    names = sorted(unknowns(left) | unknowns(right))
    whole = integer_unknowns(left) | integer_unknowns(right)
    real = [name for name in names if name not in whole]
    if whole:
        yield from _integer_samples(sorted(whole), real, [*_rounded(left), *_rounded(right)], work)
    else:
        yield Sample(generic_point(names, "1"))
        yield Sample(generic_point(names, "2"))
        yield Sample({name: -value for name, value in generic_point(names, "3").items()})
    conditions = [*dict.fromkeys([*_conditions(left), *_conditions(right)])]
    jumps = [] if whole else [*dict.fromkeys([*_rounded(left), *_rounded(right)])]
    if conditions or jumps:
        for name in real:
            yield from _along(name, names, whole, conditions, jumps, work)
    raised = (_exponents(left) | _exponents(right)) - whole
    for one, other in ((Fraction(2), Fraction(1, 2)), (Fraction(1, 2), Fraction(2))) if raised else ():
        values = {name: (one, other)[index % 2] for index, name in enumerate(sorted(raised))}
        yield Sample({name: values.get(name, -value) for name, value in generic_point(names, "5").items()})


def generic_point(names: list[str], salt: str) -> Values:
    """Return generic positive values, small enough for an exponential of an exponential."""
    return {name: generic(name, salt) for name in names}


def _along(
    name: str, names: list[str], whole: frozenset[str], conditions: list[Node], jumps: list[Node], work: Work
) -> Iterator[Sample]:
    """Yield points along one unknown: between the zeros of the conditions, at and beside the jumps."""
    for salt in ("1", "4") if len(names) > 1 else ("1",):
        sign = 1 if salt == "1" else -1
        others: Values = {
            other: Fraction(3) if other in whole else sign * value
            for other, value in generic_point(names, salt).items()
        }
        breaks = {zero for node in conditions for zero in zeros(node, name, others, work)}
        yield from (Sample({**others, name: value}) for value in between(breaks))
        for value in _beside_jumps(name, others, jumps, work):
            yield Sample({**others, name: value})


def between(breaks: set[float]) -> list[Fraction]:
    """Return a value in each gap of a set of places, and beyond both of its ends."""
    places = sorted(breaks)
    if len(places) > MAX_BREAKS:
        places = places[: MAX_BREAKS // 2] + places[-MAX_BREAKS // 2 :]
    if not places:
        return [Fraction(43, 100), Fraction(-43, 100)]
    ends = [places[0] - 0.71 - abs(places[0]) * 0.13, places[-1] + 0.71 + abs(places[-1]) * 0.13]
    gaps = [low + (high - low) * 0.4321 for low, high in pairwise(places) if high - low > 1e-7]
    return [Fraction(value).limit_denominator(10**7) for value in (*ends, *gaps)]


def _beside_jumps(name: str, others: Values, jumps: list[Node], work: Work) -> list[Fraction]:
    if not jumps:
        return []
    values = [Fraction(value, 2) for value in range(-6, 13)] + [Fraction(value, 7) for value in (-31, -9, 3, 17, 40)]
    for node in jumps:
        for level in (1, 2, 3):
            for zero in zeros(_minus(node, level), name, others, work):
                place = Fraction(zero).limit_denominator(1000)
                values += [place, place - Fraction(1, 997), place + Fraction(1, 997)]
    return values


def _integer_samples(whole: list[str], real: list[str], jumps: list[Node], work: Work) -> Iterator[Sample]:
    """Yield points at which the integer unknowns are integers: all small ones, and those beside a jump."""
    if len(whole) > 1:
        for index in range(28):
            seeds = [zlib.crc32(f"{name}@{index}".encode("utf-8", "surrogatepass")) for name in whole]
            numbers = {name: Fraction(seed % (5 + index)) for name, seed in zip(whole, seeds, strict=True)}
            yield Sample({**_signed(real, index), **numbers}, decisive=0 not in numbers.values())
        return
    name = whole[0]
    # The integers of a period of all floors: ``7n/22`` rounds up and down in 22 ways
    period = 1
    for node in dict.fromkeys(jumps):
        if degree_in(node, name) == 1:
            start, first = (evaluate(node, {**generic_point(real, "1"), name: Fraction(at)}, work) for at in (0, 1))
            step = first - start if isinstance(first, Fraction) and isinstance(start, Fraction) else Fraction(1)
            period = math.lcm(period, step.denominator) if abs(step.numerator) != 1 or step.denominator < 60 else period
    if period > MAX_PERIOD:
        raise NoValueError
    chosen = dict.fromkeys(
        [
            *INTEGERS,
            *range(1, period + 1),
            *_beside_integer_jumps(name, real, jumps, work),
            *LOW_INTEGERS,
        ]
    )
    for index, number in enumerate(chosen):
        yield Sample({**_signed(real, index), name: Fraction(number)}, decisive=number > 0)


def _signed(real: list[str], index: int) -> Values:
    """Return values of the real unknowns, of every sign in turn."""
    point = generic_point(real, str(index))
    return {name: -value if index >> place & 1 else value for place, (name, value) in enumerate(point.items())}


def _beside_integer_jumps(name: str, real: list[str], jumps: list[Node], work: Work) -> list[int]:
    found: list[int] = []
    for node in dict.fromkeys(jumps):
        for level in (1, 2, 3, 7):
            for zero in zeros(_minus(node, level), name, generic_point(real, "1"), work):
                if abs(zero) < 10**6:
                    found += range(math.floor(zero) - 1, math.ceil(zero) + 2)
    return found[:80]


def _minus(node: Node, level: int) -> Node:
    return Node("add", (node, Node("num", value=Fraction(-level))))


@lru_cache(maxsize=8_192)
def integer_unknowns(node: Node) -> frozenset[str]:
    """Return the unknowns that can only be meant as integers."""
    found = frozenset[str]().union(*(integer_unknowns(arg) for arg in node.args))
    if node.op in _WHOLE:
        found |= unknowns(node)
    elif node.op == "pow":
        found |= unknowns(node.args[1])
    elif node.op == "call" and node.name in _TRIGONOMETRIC and {"const", "deg"} & operations(node):
        found |= unknowns(node)
    return frozenset(name for name in found if name.split("_")[0] in INTEGER_LETTERS)


@lru_cache(maxsize=8_192)
def _exponents(node: Node) -> frozenset[str]:
    """Return the unknowns that stand alone, or in a product, in the exponent of something with unknowns."""
    own = unknowns(node.args[1]) if node.op == "pow" and unknowns(node.args[0]) else frozenset()
    return own.union(*(_exponents(arg) for arg in node.args))


@lru_cache(maxsize=8_192)
def _rounded(node: Node) -> tuple[Node, ...]:
    """Return the arguments of floors and ceilings; ``a mod b`` jumps where a / b is an integer."""
    own: tuple[Node, ...] = ()
    if node.op in _ROUNDED and unknowns(node):
        own = (Node("div", node.args) if node.op == "mod" else node.args[0],)
    return own + tuple(found for arg in node.args for found in _rounded(arg))


@lru_cache(maxsize=8_192)
def _conditions(node: Node) -> tuple[Node, ...]:
    """Return what changes the form of an expression, or ends its real values, where it changes its sign."""
    own: tuple[Node, ...] = ()
    if not unknowns(node):
        return own
    if node.op in {"max", "min"}:
        own = tuple(Node("add", (node.args[0], Node("neg", (other,)))) for other in node.args[1:])
    elif node.op == "call" and node.name in _UNIT_DOMAIN:
        own = tuple(Node("add", (node.args[0], end)) for end in (ONE, Node("neg", (ONE,))))
    elif node.op == "call":
        own = node.args if node.name in {"ln", "log", "sgn"} else ()
    elif node.op == "abs" or (node.op == "root" and node.args[1].value % 2 == 0):
        own = node.args[:1]
    elif node.op == "pow":
        exponent = node.args[1].args[0] if node.args[1].op == "neg" else node.args[1]
        own = () if exponent.op == "num" and exponent.value.denominator == 1 else node.args[:1]
    return tuple(part for part in own if unknowns(part)) + tuple(
        found for arg in node.args for found in _conditions(arg)
    )


def zeros(node: Node, name: str, others: Values, work: Work) -> list[float]:
    """Return about where an expression is 0 or has a pole along one unknown; all roots where it is a polynomial."""
    if name not in unknowns(node):
        return []
    if node.op == "var":
        return [0.0]
    if node.op in {"mul", "div"}:
        return [zero for arg in node.args for zero in zeros(arg, name, others, work)]
    if node.op in {"neg", "abs", "root", "pow", "deg", "percent"}:
        return zeros(node.args[0], name, others, work)
    degree = degree_in(node, name)
    if degree is not None:
        # The real parts of all roots: a double root, as under ``\sqrt{x^2-400x+40000}``, is a kink too
        try:
            return [
                round(float(context(60).re(_float(root))), 9) for root in roots_of(node, name, others, degree, work)
            ]
        except (NoValueError, ArithmeticError, ValueError, TypeError):
            return []
    point = {other: float(value) for other, value in others.items() if not isinstance(value, complex)}
    constants = sorted(_constants(node))[:MAX_BREAKS]
    places = sorted({*_GRID, *(float(value) + 0.01 for value in constants)})
    work.spend(len(places) * (1 + _size(node) // 4))
    signs = [(place, _sign(node, name, point, place)) for place in places]
    changes = [
        (low, high, before)
        for (low, before), (high, after) in pairwise(signs)
        if before is not None and after is not None and before != after
    ][:MAX_BREAKS]
    work.spend(len(changes) * BISECTIONS * (1 + _size(node) // 4))
    return [_bisected(node, name, point, (low, high), before) for low, high, before in changes]


def degree_in(node: Node, name: str) -> int | None:
    """Return a bound of the degree of a polynomial in one unknown; None: it is none, or of more than 8th degree."""
    if name not in unknowns(node):
        return 0
    if node.op == "var":
        return 1
    degrees = [degree_in(arg, name) for arg in node.args]
    if None in degrees:
        return None
    known = [degree or 0 for degree in degrees]
    total: int | None = None
    if node.op in {"neg", "percent", "deg"} or (node.op == "div" and known[1] == 0):
        total = known[0]
    elif node.op == "add":
        total = max(known)
    elif node.op == "mul":
        total = sum(known)
    elif node.op == "pow" and node.args[1].op == "num" and node.args[1].value.denominator == 1:
        total = known[0] * int(node.args[1].value)
    return total if total is not None and 0 <= total <= MAX_DEGREE else None


def coefficients(node: Node, name: str, others: Values, degree: int, work: Work) -> list[Number]:
    """Return the coefficients of a polynomial in one unknown, the constant one first, by Newton's interpolation.

    Raises:
        NoValueError: it has no value somewhere.
    """
    table = [evaluate(node, {**others, name: Fraction(at)}, work, real=True) for at in range(degree + 1)]
    mixed = [not isinstance(value, Fraction) for value in table]
    if any(mixed):
        mp = context(60)
        table = [
            mp.mpf(value.numerator) / value.denominator if isinstance(value, Fraction) else value for value in table
        ]
    for step in range(1, degree + 1):
        for at in range(degree, step - 1, -1):
            table[at] = (table[at] - table[at - 1]) / step
    result: list[Number] = [table[degree]]
    for at in range(degree - 1, -1, -1):
        shifted = [Fraction(0), *result]
        result = [-at * high + low for low, high in zip(shifted, [*result, Fraction(0)], strict=True)]
        result[0] = result[0] + table[at]
    return result


def roots_of(node: Node, name: str, others: Values, degree: int, work: Work) -> list[Number]:
    """Return all roots of a polynomial in one unknown, real and complex; rational ones of the first degree exactly."""
    parts = coefficients(node, name, others, degree, work)
    mp = context(60)
    tiny = mp.mpf(10) ** -30
    if all(isinstance(part, Fraction) for part in parts):
        parts = _square_free(parts)
    while len(parts) > 1 and abs(_float(parts[-1])) <= tiny * max(1, *(abs(_float(part)) for part in parts)):
        parts.pop()
    if len(parts) == 1:
        return []
    if len(parts) == 2:
        if all(isinstance(part, Fraction) for part in parts):
            return [-parts[0] / parts[1]]
        return [-_float(parts[0]) / _float(parts[1])]
    work.spend(3_000)
    try:
        found = mp.polyroots([_float(part) for part in reversed(parts)], maxsteps=100, extraprec=120)
    except Exception:  # noqa: BLE001 no convergence, in whatever form mpmath reports it: several roots are one
        derivative = [index * part for index, part in enumerate(parts)][1:]
        found = [-_float(derivative[0]) / _float(derivative[1])] if len(derivative) == 2 else []
    return [root.real if abs(mp.im(root)) < tiny else root for root in found]


def _square_free(parts: list[Number]) -> list[Number]:
    """Return the coefficients of a polynomial with the same roots, each once: it converges."""
    derivative = [index * part for index, part in enumerate(parts)][1:]
    divisor, rest = _stripped(parts), _stripped(derivative)
    while rest:
        divisor, rest = rest, _stripped(_divided(divisor, rest)[1])
    return _divided(_stripped(parts), divisor)[0] if len(divisor) > 1 else parts


def _stripped(parts: list[Number]) -> list[Number]:
    while parts and not parts[-1]:
        parts = parts[:-1]
    return parts


def _divided(top: list[Number], bottom: list[Number]) -> tuple[list[Number], list[Number]]:
    """Return quotient and remainder of polynomials with fractions as coefficients."""
    quotient: list[Number] = [Fraction(0)] * max(len(top) - len(bottom) + 1, 0)
    rest = list(top)
    for shift in range(len(quotient) - 1, -1, -1):
        factor = rest[shift + len(bottom) - 1] / bottom[-1]
        quotient[shift] = factor
        for index, part in enumerate(bottom):
            rest[shift + index] -= factor * part
    return quotient, rest[: len(bottom) - 1]


def _float(value: Number) -> Number:
    return context(60).mpf(value.numerator) / value.denominator if isinstance(value, Fraction) else value


@lru_cache(maxsize=8_192)
def _size(node: Node) -> int:
    return 1 + sum(map(_size, node.args))


def _constants(node: Node) -> frozenset[Fraction]:
    own = frozenset([node.value, -node.value]) if node.op == "num" and abs(node.value) < 10**9 else frozenset()
    return own.union(*(_constants(arg) for arg in node.args))


def _sign(node: Node, name: str, point: dict[str, float], place: float) -> bool | None:
    value = float_value(node, {**point, name: place})
    return None if value is None else value > 0


def _bisected(node: Node, name: str, point: dict[str, float], ends: tuple[float, float], low_sign: bool) -> float:
    low, high = ends
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        if _sign(node, name, point, middle) == low_sign:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def float_value(node: Node, point: dict[str, float]) -> float | None:
    """Return about the real value of an expression, fast, to see where it changes its sign; None: it has none."""
    try:
        value = _quick(node, point)
    except (ArithmeticError, ValueError, TypeError, KeyError, AttributeError):
        return None
    return value if math.isfinite(value) else None


def _quick(node: Node, point: dict[str, float]) -> float:
    if node.op == "num":
        return float(node.value)
    if node.op in {"var", "const"}:
        return point[node.name] if node.name in point else _QUICK_CONSTANTS[node.name]
    values = [_quick(arg, point) for arg in node.args]
    if node.op in {"add", "mul"}:
        return math.fsum(values) if node.op == "add" else math.prod(values)
    if node.op != "call":
        return float(_QUICK[node.op](*values))
    if {"deg"} & operations(node):
        raise ValueError
    if node.name == "log":
        return math.log(values[0], values[1] if len(values) > 1 else 10)
    inverse = _RECIPROCALS.get(node.name)
    if inverse is not None:
        return 1 / float(getattr(math, inverse)(values[0]))
    return float(getattr(math, {"ln": "log"}.get(node.name, node.name))(values[0]))


def _quick_root(value: float, index: float) -> float:
    if value < 0 and index % 2:
        return -float((-value) ** (1 / index))
    return math.sqrt(value) if index == 2 else float(math.pow(value, 1 / index))


_QUICK_CONSTANTS = {"e": math.e, "pi": math.pi}
_RECIPROCALS = {"cot": "tan", "sec": "cos", "csc": "sin", "coth": "tanh", "sech": "cosh", "csch": "sinh"}
_QUICK: dict[str, Callable[..., float]] = {
    "neg": lambda value: -value, "abs": abs, "div": lambda top, bottom: top / bottom, "pow": math.pow,
    "root": _quick_root,
    "percent": lambda value: value / 100, "deg": lambda value: value, "max": max, "min": min, "floor": math.floor,
    "ceil": math.ceil, "factorial": lambda value: math.gamma(value + 1),
}  # fmt: skip
