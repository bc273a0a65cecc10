"""Multiple choice: which candidate an answer names, by its letter or its text; none or several is an answer too.

It abstains where the published evaluator guessed: an answer that names no candidate is not the nearest one.
"""

import re
from collections.abc import Sequence
from functools import lru_cache

from lema_core.answers.types import Extraction, Match

_LETTER = re.compile(r"\(?\s*([A-Za-z])\s*(?:[).:]|$)\s*")
_SPACES = re.compile(r"[\s_]+")
_EDGES = " \t\n.,;:!?\"'`*()[]{}$"
_REFUSALS = re.compile(
    r"\b(?:none of|neither|cannot|not|no (?:answer|correct|candidate)|except|but|hardly|unlikely|wrong|incorrect)\b"
    r"|n't\b",
    re.IGNORECASE,
)
_TEXT = re.compile(r"\\text\s*\{([^{}]*)\}")
_LABEL = re.compile(r"\s*(?:option|choice)\s+(?=\(?[A-Za-z]\b)", re.IGNORECASE)
_CONTRAST = re.compile(r",\s*(?:and\s+)?not\s+(?:the\s+)?[\w() ]+[.\s]*$", re.IGNORECASE)
_FURTHER = re.compile(r"\(([A-Za-z])\)|\b([A-Z])(?=[).:]|$)")
_JOINED = re.compile(r"\b(?:or|and)\b|/", re.IGNORECASE)
MAX_CHOICE_CHARS = 500


@lru_cache(maxsize=8192)
def _fold(text: str) -> str:
    return _SPACES.sub(" ", text).strip(_EDGES).casefold()


def choose(answer: str, candidates: tuple[str, ...]) -> Extraction:
    """Return the candidate's text that ``answer`` names; none or ambiguous where it names no or several candidates."""
    answer = _CONTRAST.sub("", _LABEL.sub("", _TEXT.sub(r"\1", answer[:MAX_CHOICE_CHARS])))
    folded = _fold(answer)
    for candidate in candidates:
        if folded and _fold(candidate) == folded:
            return Extraction("value", candidate, "text")
    lettered, named = _by_letter(answer, candidates), _named(folded, candidates)
    if lettered is not None and named and lettered not in named:
        return Extraction("ambiguous", detail=f"the letter says {lettered!r}, the text says {named[0]!r}")
    if lettered is not None:
        return _settled(lettered, answer, folded, named, candidates)
    if not named or _rejects(folded, named):
        return Extraction("none", detail=f"{answer[:80]!r} names no candidate")
    if len(named) > 1:
        return Extraction("ambiguous", detail=f"{answer[:80]!r} names {len(named)} candidates")
    return Extraction("value", named[0], "text")


def _settled(lettered: str, answer: str, folded: str, named: list[str], candidates: tuple[str, ...]) -> Extraction:
    """Return what a leading letter chooses, unless what follows takes it back or names another one."""
    letters = {(found[1] or found[2]).upper() for found in _FURTHER.finditer(answer)}
    others = {candidates[at] for letter in letters if (at := ord(letter) - ord("A")) < len(candidates)} - {lettered}
    if others or (len(named) > 1 and _JOINED.search(folded)):
        return Extraction("ambiguous", detail=f"{answer[:80]!r} names several candidates")
    if _rejects(folded, candidates):
        return Extraction("none", detail=f"{answer[:80]!r} takes its letter back")
    return Extraction("value", lettered, "letter")


def _rejects(folded: str, named: Sequence[str]) -> bool:
    """Tell a refusal: "it is not a bank" and "neither bank nor mall" choose nothing."""
    for candidate in named:
        folded = folded.replace(_fold(candidate), " ")
    return bool(_REFUSALS.search(folded))


def _by_letter(answer: str, candidates: tuple[str, ...]) -> str | None:
    stripped = answer.strip(" \t\n*`\"'$")
    match = _LETTER.match(stripped)
    if match is None:
        return None
    bare = match.end() == len(stripped) or stripped[match.end() - 1 : match.end()] in ").: "
    index = ord(match[1].upper()) - ord("A")
    # A lone "a" at the start of a phrase is an article, not a choice.
    if match[1] == "a" and match.end() < len(stripped) and ")" not in match.group() and "." not in match.group():
        return None
    return candidates[index] if bare and index < len(candidates) else None


def _named(folded: str, candidates: tuple[str, ...]) -> list[str]:
    """Return the candidates whose text stands in the answer, without those that only stand inside a longer one."""
    spans = [(start, end, text) for text in candidates for start, end in _occurrences(folded, _fold(text))]
    named = {
        text
        for start, end, text in spans
        if not any(s <= start and end <= e and (s, e) != (start, end) for s, e, _ in spans)
    }
    return [candidate for candidate in candidates if candidate in named]


def _occurrences(folded: str, text: str) -> list[tuple[int, int]]:
    """Return where ``text`` stands as whole words."""
    found: list[tuple[int, int]] = []
    start = folded.find(text) if text else -1
    while start >= 0:
        end = start + len(text)
        if not folded[start - 1 : start].isalnum() and not folded[end : end + 1].isalnum():
            found.append((start, end))
        start = folded.find(text, end)
    return found


def match_choice(gold: str, pred: str, candidates: tuple[str, ...]) -> Match:
    """Compare two choices, each given by its text or its letter."""
    if _fold(gold) == _fold(pred) and _fold(gold):
        return Match("equal", "choice", "the same text")
    if not candidates:
        return _match_letters(gold, pred)
    left, right = choose(gold, candidates), choose(pred, candidates)
    if left.value is None or right.value is None:
        return Match("unknown" if left.value is None else "different", "choice", left.detail or right.detail)
    return Match(
        "equal" if left.value == right.value else "different", "choice", f"{left.value!r} against {right.value!r}"
    )


def _match_letters(gold: str, pred: str) -> Match:
    """Without the candidates only the letters can be compared: ``(D) Alina`` is D."""
    letters = [_leading_letter(text) for text in (gold, pred)]
    if None in letters:
        return Match("different" if None is not letters[0] else "unknown", "choice", "no letter to compare")
    return Match("equal" if letters[0] == letters[1] else "different", "choice", f"{letters[0]} against {letters[1]}")


def _leading_letter(text: str) -> str | None:
    found = re.match(r"\s*\(?([A-Z])(?:[).:\s]|$)", text)
    return found[1] if found else None
