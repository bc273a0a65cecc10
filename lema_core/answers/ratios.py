"""The policies on ratios and clock times. docs/answers.md states them."""

from lema_core.answers.expressions import Node
from lema_core.answers.typed_answers import Answer
from lema_core.answers.values import same_value


def is_time(answer: Answer) -> bool:
    """Tell a time: 10:30 and 9:05 are times; 5:8 and 10:3 are ratios: minutes have two digits."""
    parts = [part for part in answer.tokens if part != ":" and not part.startswith("'")]
    return bool(answer.unit) or all(len(part) == 2 for part in parts[1:])


def ratio_is_value(value: Answer, ratio: Answer) -> bool:
    """Return whether a fraction or decimal says what a ratio says; 12:1 is not the number 12."""
    nodes = [item.node for item in ratio.items]
    if ratio.unit and ":" not in ratio.tokens:
        return value.tokens == ratio.items[0].tokens  # "3 PM" where am or pm is not said
    if len(nodes) != 2 or value.node is None or nodes[0] is None or nodes[1] is None:
        return False
    if value.tokens[0].isdigit() and "/" not in value.tokens:
        return False
    return same_value(value.node, Node("div", (nodes[0], nodes[1]))) is True


def same_ratio(gold: Answer, pred: Answer) -> bool | None:
    """Return whether two ratios of one length are proportional."""
    first, other = [item.node for item in gold.items], [item.node for item in pred.items]
    for left, right in zip(first[1:], other[1:], strict=True):
        if left is None or right is None or first[0] is None or other[0] is None:
            return None
        cross = same_value(Node("mul", (first[0], right)), Node("mul", (other[0], left)))
        if not cross:
            return cross
    return True
