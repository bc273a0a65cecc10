r"""Answers with a letter that may have any name: ``\frac{\pi}{6} + 2n\pi`` for all integers n, ``x^2 + C``.

The letter is one if the answer says so (``k \in \mathbb{Z}``), if an integer letter counts periods of π or degrees, or
if a C is added. Two families over the integers are equal if they are the same set of numbers.
"""

from fractions import Fraction

from lema_core.answers.evaluation import NoValueError, Number, divide, evaluate
from lema_core.answers.expressions import Node
from lema_core.answers.sampling import INTEGER_LETTERS, degree_in, operations, unknowns
from lema_core.answers.typed_answers import Answer
from lema_core.answers.values import same_value

_CONSTANTS = frozenset(["C", "c", "C_1", "c_1", "C_0", "c_0", "K", "const"])
_RIVALS = frozenset("abAB")
"""Letters beside which a c is one more side or coefficient."""


def same_family(gold: Answer, pred: Answer) -> bool:
    """Return whether two values are equal up to the name of a constant, or as sets over the integers."""
    if gold.node is None or pred.node is None:
        return False
    return _same_up_to_constant(gold.node, pred.node) or _same_periods(gold, pred)


def _same_up_to_constant(gold: Node, pred: Node) -> bool:
    names = unknowns(gold), unknowns(pred)
    own = names[0] - names[1], names[1] - names[0]
    if any(len(side) != 1 or not side <= _CONSTANTS for side in own) or (names[0] | names[1]) & _RIVALS:
        return False
    (left,), (right,) = own
    if not (_is_added(gold, left) and _is_added(pred, right)):
        return False
    return same_value(_renamed(gold, left, right), pred) is True


def _is_added(node: Node, name: str) -> bool:
    """Whether a name is a term of a sum and stands nowhere else."""
    terms = node.args if node.op == "add" else (node,)
    return [term for term in terms if name in unknowns(term)] == [Node("var", name=name)]


def _same_periods(gold: Answer, pred: Answer) -> bool:
    left, right = _family(gold), _family(pred)
    if left is None or right is None:
        return False
    try:
        if not {*_letters(gold), *_letters(pred)} - {left[2], right[2]}:
            steps = divide(left[1], right[1])
            shift = divide(-right[0] + left[0], left[1])
            return _near(steps) in {1, -1} and _near(shift) is not None
        return same_value(_renamed(_node(gold), left[2], right[2]), _node(pred)) is True
    except NoValueError:
        return False


def _near(value: Number) -> int | None:
    """Return the integer that a value is; None: it is none."""
    if isinstance(value, Fraction):
        return value.numerator if value.denominator == 1 else None
    try:
        nearest = round(float(value))
        return nearest if abs(value - nearest) < 1e-30 else None
    except (TypeError, ValueError, OverflowError):
        return None


def _family(answer: Answer) -> tuple[Number, Number, str] | None:
    """Return start, step and letter of ``start + step * letter``; None: the answer is no such family."""
    node = _node(answer)
    letters = [name for name in _letters(answer) if name in answer.integers or name in INTEGER_LETTERS]
    if len(letters) != 1 or degree_in(node, letters[0]) != 1:
        return None
    if letters[0] not in answer.integers and not _counts_periods(node, letters[0]):
        return None
    try:
        start, first = (evaluate(node, {letters[0]: Fraction(at)}) for at in (0, 1))
        step = -start + first
    except (NoValueError, TypeError):
        return None
    return (start, step, letters[0]) if step else None


def _counts_periods(node: Node, letter: str) -> bool:
    terms = node.args if node.op == "add" else (node,)
    return any(unknowns(term) == {letter} and {"const", "deg"} & operations(term) for term in terms)


def _letters(answer: Answer) -> list[str]:
    return sorted(unknowns(_node(answer)))


def _node(answer: Answer) -> Node:
    return answer.node or Node("num")


def _renamed(node: Node, name: str, other: str) -> Node:
    if node.op == "var":
        return Node("var", name=other) if node.name == name else node
    args = tuple(_renamed(arg, name, other) for arg in node.args)
    return Node(node.op, args, node.value, node.name)
