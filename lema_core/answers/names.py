"""What an answer is said to be the value of: ``x = 3`` is not ``y = 3``, ``f(z) = z`` is ``f(x) = x``."""

from dataclasses import replace
from itertools import pairwise

from lema_core.answers.expressions import GREEK, Tokens
from lema_core.answers.lexicon import GENERIC_LABELS
from lema_core.answers.typed_answers import Answer


def same_up_to_names(gold: Answer, pred: Answer) -> bool | None:
    """Say whether two different names decide; None: they do not matter.

    Only names of one form are compared: ``AB = 5`` and ``x = 5`` may be one length under two names.
    """
    left, right = gold.name, pred.name
    if _are_words(left) and _are_words(right):
        words = [{word.removesuffix("s") for word in name if word[1:] not in GENERIC_LABELS} for name in (left, right)]
        return None if words[0] <= words[1] or words[1] <= words[0] else False
    if tuple(map(_form, left)) != tuple(map(_form, right)):
        return None
    if left[0] == right[0] and left[1] == right[1] == "(" and len(left) == 4 and left[2].islower():
        renamed = tuple(left[2] if part == right[2] else part for part in pred.tokens)
        return True if renamed == gold.tokens else None
    points = [tuple(part for part in name if part != "angle") for name in (left, right)]
    is_read_backwards = points[0] == points[1][::-1] and len(points[0]) > 1 and all(map(str.isupper, points[0]))
    return None if is_read_backwards else False


def _are_words(name: Tokens) -> bool:
    return all(lexeme.startswith("'") for lexeme in name)


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
    """Return a list of named items as a tuple, ``x = 1, y = 2``; else as it is.

    ``p = 5, q = 2; p = 7, q = 2`` is a list of such tuples.
    """
    letters = tuple(item.name[0] for item in answer.items if len(item.name) == 1)
    count = len(set(letters))
    if len(letters) != len(answer.items) or count < 2 or len(letters) % count:
        return answer
    rounds = [letters[start : start + count] for start in range(0, len(letters), count)]
    if any(set(one) != set(letters) for one in rounds):
        return answer
    tuples = tuple(_tuple_of(answer, answer.items[start : start + count]) for start in range(0, len(letters), count))
    return tuples[0] if len(tuples) == 1 else replace(answer, items=tuples, name=())


def _tuple_of(answer: Answer, items: tuple[Answer, ...]) -> Answer:
    separated = tuple(lexeme for item in items for lexeme in (item.name[0], ","))
    bare = tuple(replace(item, name=()) for item in items)
    named = replace(answer, kind="tuple", brackets="()", items=bare, name=separated)
    return in_name_order(named, Answer("raw", ()))


def _names(answer: Answer) -> Tokens | None:
    if answer.kind not in {"tuple", "ratio", "list"} or not {",", ":", ";"} & set(answer.name):
        return None
    names = tuple(lexeme for lexeme in answer.name if _form(lexeme) in {"letter", "word"})
    return names if len(names) == len(set(names)) == len(answer.items) else None


def _are_neighbours(names: Tokens) -> bool:
    letters = sorted(names)
    return all(len(letter) == 1 for letter in letters) and all(ord(b) - ord(a) == 1 for a, b in pairwise(letters))
