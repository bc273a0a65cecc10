"""The one type that typed answers have, and the bracket-aware splitting of tokens they are built with."""

from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Literal

from lema_core.answers.expressions import Node, Tokens

Kind = Literal[
    "value", "list", "set", "tuple", "union", "matrix", "piecewise", "relation", "ratio", "range", "based", "date",
    "text", "raw",
]  # fmt: skip
"""
value       an expression (``node``), perhaps with a unit
list        answers beside each other: order does not matter
set         the same in braces
tuple       brackets with order; a pair in round or square brackets is an interval too
union       intervals joined by a union sign
matrix      rows of items
piecewise   cases: values and the condition of each, in turn
relation    an equation or inequality: ``items`` around ``signs``
ratio       ``a:b:c``, among them clock times
range       ``10-12``
based       digits in a base
date        year, month and day, as far as they are said
text        words
raw         nothing we can type: only the parsers behind can read it
"""
OPENING = frozenset(["(", "[", "{", "\\{", "beginmatrix", "begindet", "begincases"])
CLOSING = frozenset([")", "]", "}", "\\}", "endmatrix", "enddet", "endcases"])


@dataclass(frozen=True, slots=True)
class Answer:
    """A typed answer. Equal fields mean equal answers; unequal ones need a comparison."""

    kind: Kind
    tokens: Tokens
    node: Node | None = None
    unit: str = ""
    items: tuple["Answer", ...] = ()
    brackets: str = ""
    """The two brackets of a tuple; rows x columns of a matrix; "clock" for a ratio that may be a time."""
    signs: tuple[str, ...] = ()
    name: Tokens = ()
    """What it is said to be the value of: the x of ``x = 5``."""
    note: Tokens = ()
    """Words behind a number that are no unit: profit, north, odd; ``in`` for an interval that is said to be one."""
    things: Tokens = ()
    """Other words behind a number: what is counted."""
    integers: Tokens = ()
    r"""Letters that are said to be integers: ``k`` of ``k\pi, k \in \mathbb{Z}``."""
    rounded: "Answer | None" = None
    r"""What an answer says it is about: the 1.41 of ``\sqrt{2} \approx 1.41``."""


def split_top(tokens: Tokens, separators: AbstractSet[str]) -> list[Tokens]:
    """Split at separators outside all brackets."""
    parts: list[Tokens] = []
    start = depth = 0
    for index, lexeme in enumerate(tokens):
        if lexeme in OPENING:
            depth += 1
        elif lexeme in CLOSING:
            depth -= 1
        elif depth == 0 and lexeme in separators:
            parts.append(tokens[start:index])
            start = index + 1
    parts.append(tokens[start:])
    return parts


def closes_at_end(tokens: Tokens) -> bool:
    """Whether the bracket that opens the tokens is closed by the last of them."""
    depth = 0
    for index, lexeme in enumerate(tokens):
        depth += (lexeme in OPENING) - (lexeme in CLOSING)
        if depth == 0:
            return index == len(tokens) - 1
    return False
