"""What an answer is said to be the value of: ``x = 3`` is not ``y = 3``, ``f(z) = z`` is ``f(x) = x``."""

from dataclasses import replace
from itertools import pairwise

from lema_core.answers.expressions import GREEK, Tokens
from lema_core.answers.typed import Answer


def same_up_to_names(gold: Answer, pred: Answer) -> bool | None:
    """Say whether two different names decide; None: they do not matter.

    Only names of one form are compared: ``AB = 5`` and ``x = 5`` may be one length under two names.
    """
    left, right = gold.name, pred.name
    if tuple(map(_form, left)) != tuple(map(_form, right)):
        return None
    if left[0] == right[0] and left[1] == right[1] == "(" and len(left) == 4 and left[2].islower():
        renamed = tuple(left[2] if part == right[2] else part for part in pred.tokens)
        return True if renamed == gold.tokens else None
    points = [tuple(part for part in name if part != "angle") for name in (left, right)]
    is_read_backwards = points[0] == points[1][::-1] and len(points[0]) > 1 and all(map(str.isupper, points[0]))
    return None if is_read_backwards else False


def _form(lexeme: str) -> str:
    if lexeme in GREEK or (len(lexeme) == 1 and lexeme.isalpha()):
        return "letter"
    return "number" if lexeme[0].isdigit() else "word" if lexeme[0] == "'" else lexeme


def in_name_order(answer: Answer, other: Answer) -> Answer:
    """Return a tuple or ratio of named items in the order of its names: ``(y,x) = (1,2)`` is ``(x,y) = (2,1)``.

    Beside an answer without names only neighbours in the alphabet are put in order: ``(m,b)`` is meant as written.
    """
    names = _names(answer)
    if names is None or not (other.name or _are_neighbours(names)):
        return answer
    order = sorted(range(len(names)), key=names.__getitem__)
    return replace(answer, items=tuple(answer.items[index] for index in order), name=tuple(sorted(names)))


def named_items(answer: Answer) -> Answer:
    """Return a list of which each item has another letter as name as a tuple, ``x = 1, y = 2``; else as it is."""
    letters = tuple(item.name[0] for item in answer.items if len(item.name) == 1)
    if len(letters) != len(answer.items) or len(set(letters)) != len(letters) or len(letters) < 2:
        return answer
    separated = tuple(lexeme for letter in letters for lexeme in (letter, ","))
    return in_name_order(replace(answer, name=separated), Answer("raw", ()))


def _names(answer: Answer) -> Tokens | None:
    if answer.kind not in {"tuple", "ratio", "list"} or not {",", ":", ";"} & set(answer.name):
        return None
    names = tuple(lexeme for lexeme in answer.name if _form(lexeme) == "letter")
    return names if len(names) == len(set(names)) == len(answer.items) else None


def _are_neighbours(names: Tokens) -> bool:
    letters = sorted(names)
    return all(len(letter) == 1 for letter in letters) and all(ord(b) - ord(a) == 1 for a, b in pairwise(letters))
