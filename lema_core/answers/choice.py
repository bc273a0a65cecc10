r"""Multiple choice: which candidate an answer names, by its letter or its text; none or several is an answer too.

It abstains where the published evaluator guesses: an answer that names no candidate is not the nearest one. Several
letters (``B, D``) are an answer only where the gold answer has several.
"""

import re
from collections.abc import Sequence
from functools import lru_cache

from lema_core.answers.results import Extraction, Match

_LETTER = re.compile(
    r"""[(\[<{]?\s*([A-Za-z])\s*(?:[).:\]>}]|$
    |(?-i:(?<=[A-Z]))(?:[,;!?]|\s[-–—]+\s|\s*—|(?=\s*\()|(?=\s+(?:is|was|because|since|would|seems|for|as)\b)|(?=[\u3400-\u9fff])))\s*""",
    re.VERBOSE,
)
_SPACES = re.compile(r"[\s_]+")
_EDGES = " \t\n.,;:!?\"'`*()[]{}$"
_REFUSALS = re.compile(
    r"\b(?:none of|neither|cannot|not|no (?:answer|correct|candidate)|except|but|hardly|unlikely|wrong|incorrect)\b"
    r"|n't\b",
    re.IGNORECASE,
)
_FONT = re.compile(
    r"\\+(?:text[a-z]{0,6}|math[a-z]{1,4}|boldsymbol|bf|rm|operatorname|mbox|emph|underline|boxed|fbox)\s{0,3}\{([^{}]*)\}"
)
_SIGNS = re.compile(r"\\[()\[\], ~;!]|\$")
MAX_FONTS = 3
"""Font commands nested in each other that are taken off."""
_LABEL = re.compile(r"\s*(?:option|choice)\s+(?=\(?[A-Za-z]\b)", re.IGNORECASE)
_CONTRAST = re.compile(r",\s*(?:and\s+)?not\s+(?:the\s+)?[\w() ]+[.\s]*$", re.IGNORECASE)
_NOT_LETTERS = re.compile(
    r"""[,;.—–-]?\s*(?:and\s+|but\s+|it\s+)?
    (?:\bnot|\bcannot\ be|(?:can['’]?t|isn['’]?t|wouldn['’]?t)\s*(?:be)?|\brather\ than|\binstead\ of|\bunlike
    |\bneither|而?不是)\s*(?:the\s+|options?\s+|choices?\s+)?\(?(?-i:[A-Z])\b\)?(?:\s*(?:,|or|and|nor|/|和|或)\s*\(?(?-i:[A-Z])\b\)?)*[.\s]*$""",
    re.VERBOSE | re.IGNORECASE,
)
"""Letters that are only ruled out: "D, it can't be A or B"."""
_JUDGED = re.compile(
    r"""(?<![A-Za-z])\(?(?P<letter>[A-Z])\)?[.:]?\s+(?:is|was|seems|looks|would\ be|must\ be)
    (?P<denied>\s+(?:\w+ly\s+)?not|n['’]t)?\s+(?:the\s+|a\s+)?(?:\w+\s+){0,2}?
    (?P<verdict>correct|right|true|best|answer|wrong|incorrect|false|unlikely|implausible)\b""",
    re.VERBOSE,
)
_LETTERS = re.compile(r"[A-Z]{2,8}")
_SEPARATOR = re.compile(r"\s*(?:[,;&+/、，]|\band\b)\s*(?:\band\b\s*)?", re.IGNORECASE)
_LONE_LETTER = re.compile(r"\(?\s*([A-Za-z])\s*[).:]?")
_FURTHER = re.compile(r"\(([A-Za-z])\)|\b([A-Z])(?=[).:]|$)")
_JOINED = re.compile(r"\b(?:or|and)\b|/", re.IGNORECASE)
_LABELLED = re.compile(r"([A-H])\s(?!.*\b(?:or|and)\b)", re.DOTALL)
_UNKNOWN_TEXTS = tuple(f"\x00{chr(letter)}" for letter in range(ord("A"), ord("Z") + 1))
"""Stand for the texts of candidates that were not given: no answer holds them, so only letters choose one."""
MAX_CHOICE_CHARS = 500


@lru_cache(maxsize=8192)
def _fold(text: str) -> str:
    return _SPACES.sub(" ", text).strip(_EDGES).casefold()


def choose(answer: str, candidates: tuple[str, ...]) -> Extraction:
    """Return the candidate's text that ``answer`` names; none or ambiguous where it names no or several candidates."""
    answer = _plain(answer)
    folded = _fold(answer)
    for candidate in candidates:
        if folded and _fold(candidate) == folded:
            return Extraction("value", candidate, "text")
    several = _several(answer, candidates)
    if several:
        detail = f"{answer[:80]!r} names several candidates"
        return Extraction("ambiguous", detail=detail, alternative=", ".join(several))
    called = _judged(answer, candidates)
    if called is not None:
        return called
    answer = _NOT_LETTERS.sub("", answer)
    folded = _fold(answer)
    lettered, named = _by_letter(answer, candidates), _named(folded, candidates)
    if lettered is not None and named and lettered not in named:
        return Extraction("ambiguous", detail=f"the letter says {lettered!r}, the text says {named[0]!r}")
    if lettered is not None:
        # The letter counts, unless what follows takes it back or names another candidate
        letters = {(found[1] or found[2]).upper() for found in _FURTHER.finditer(answer)}
        others = {candidates[at] for letter in letters if (at := ord(letter) - ord("A")) < len(candidates)} - {lettered}
        if others or (len(named) > 1 and _JOINED.search(folded)):
            return Extraction("ambiguous", detail=f"{answer[:80]!r} names several candidates")
        if _rejects(folded, candidates):
            return Extraction("none", detail=f"{answer[:80]!r} takes its letter back")
        return Extraction("value", lettered, "letter")
    if not named or _rejects(folded, named):
        return Extraction("none", detail=f"{answer[:80]!r} names no candidate")
    if len(named) > 1:
        return Extraction("ambiguous", detail=f"{answer[:80]!r} names {len(named)} candidates")
    return Extraction("value", named[0], "text")


def is_candidate(text: str, candidates: tuple[str, ...] | None) -> bool:
    """Whether a text is one of the candidates, word for word, as "below" may be."""
    return candidates is not None and _fold(text) in {_fold(candidate) for candidate in candidates}


def _plain(answer: str) -> str:
    r"""Return an answer without fonts, delimiters, its label and what it rules out: ``\\textbf{(B)}`` is ``(B)``."""
    answer = " ".join(answer[:MAX_CHOICE_CHARS].split())
    for _ in range(MAX_FONTS if "\\" in answer else 0):
        answer = _FONT.sub(r"\1", answer)
    return _CONTRAST.sub("", _LABEL.sub("", _SIGNS.sub("", answer).strip(" *_\t\n")))


def _judged(answer: str, candidates: tuple[str, ...]) -> Extraction | None:
    """Return the letter that is called correct where others are called wrong: "A is wrong, B is correct"."""
    right: set[str] = set()
    for found in _JUDGED.finditer(answer):
        good = found["verdict"] in {"correct", "right", "true", "best", "answer"}
        if good and not found["denied"]:
            right.add(found["letter"])
    if not right:
        return None
    if len(right) > 1 or ord(max(right)) - ord("A") >= len(candidates):
        return Extraction("ambiguous", detail=f"{answer[:80]!r} calls several candidates correct")
    return Extraction("value", candidates[ord(right.pop()) - ord("A")], "letter")


def _several(answer: str, candidates: tuple[str, ...]) -> tuple[str, ...]:
    """Return the letters of an answer that names two or more candidates: ``BD``, ``(B) and (D)``; else none."""
    plain = answer.strip(_EDGES)
    count = len(candidates) or 26
    if _LETTERS.fullmatch(plain):
        letters = set(plain)
        valid = len(letters) == len(plain) and all(ord(letter) - ord("A") < count for letter in letters)
        return tuple(sorted(letters)) if valid else ()
    pieces = [piece for piece in _SEPARATOR.split(plain) if piece.strip()]
    if not 2 <= len(pieces) <= 26:
        return ()
    named = {_piece(piece, candidates, count) for piece in pieces}
    return tuple(sorted(named)) if len(named) > 1 and "" not in named else ()


def _piece(piece: str, candidates: tuple[str, ...], count: int) -> str:
    """Return the letter of one part of a list of choices, an empty text where it is none."""
    letter = _LONE_LETTER.fullmatch(piece.strip())
    if letter is not None:
        return letter[1].upper() if ord(letter[1].upper()) - ord("A") < count else ""
    folded = _fold(piece)
    return next((chr(ord("A") + at) for at, text in enumerate(candidates) if _fold(text) == folded), "")


def _rejects(folded: str, named: Sequence[str]) -> bool:
    """Whether an answer refuses to choose: "it is not a bank", "neither bank nor mall"."""
    for candidate in named:
        folded = folded.replace(_fold(candidate), " ")
    return bool(_REFUSALS.search(folded))


def _by_letter(answer: str, candidates: tuple[str, ...]) -> str | None:
    stripped = answer.strip(" \t\n*_`\"'“”$")
    match = _LETTER.match(stripped)
    if match is None:
        return None
    index = ord(match[1].upper()) - ord("A")
    # A lone "a" at the start of a phrase is an article, not a choice.
    if match[1] == "a" and match.end() < len(stripped) and ")" not in match.group() and "." not in match.group():
        return None
    return candidates[index] if index < len(candidates) else None


def _named(folded: str, candidates: tuple[str, ...]) -> list[str]:
    """Return the candidates whose text stands in the answer, without those that only stand inside a longer one."""
    spans: list[tuple[int, int, str]] = []
    for candidate in candidates:
        text = _fold(candidate)
        start = folded.find(text) if text else -1
        while start >= 0:
            end = start + len(text)
            if not folded[start - 1 : start].isalnum() and not folded[end : end + 1].isalnum():  # whole words
                spans.append((start, end, candidate))
            start = folded.find(text, end)
    named = {
        text
        for start, end, text in spans
        if not any(s <= start and end <= e and (s, e) != (start, end) for s, e, _ in spans)
    }
    return [candidate for candidate in candidates if candidate in named]


def match_choice(gold: str, pred: str, candidates: tuple[str, ...]) -> Match:
    """Compare two choices, each given by its text or its letter."""
    if _fold(gold) == _fold(pred) and _fold(gold):
        return Match("equal", "choice", "the same text")
    several = _several(_plain(gold), candidates) if _fold(gold) not in map(_fold, candidates) else ()
    if several:  # in any order: ``DB`` is ``B, D``
        equal = _several(_plain(pred), candidates) == several
        return Match("equal" if equal else "different", "choice", f"{', '.join(several)} against {pred[:80]!r}")
    if not candidates:  # only the letters can be compared: ``(D) Alina`` is D
        letters = [_letter(text) for text in (gold, pred)]
        if None in letters:
            return Match("unknown" if letters[0] is None else "different", "choice", "no letter to compare")
        equal = letters[0] == letters[1]
        return Match("equal" if equal else "different", "choice", f"{gold[:80]!r} against {pred[:80]!r}")
    left, right = choose(gold, candidates), choose(pred, candidates)
    if left.value is None or right.value is None:
        undecided = left.value is None or right.alternative is not None
        return Match("unknown" if undecided else "different", "choice", left.detail or right.detail)
    return Match(
        "equal" if left.value == right.value else "different", "choice", f"{left.value!r} against {right.value!r}"
    )


def _letter(answer: str) -> str | None:
    """Return the letter that an answer chooses where the candidates are not known: also ``C Cecile`` is C."""
    chosen = choose(answer, _UNKNOWN_TEXTS)
    if chosen.value is not None:
        return chosen.value[-1]
    labelled = _LABELLED.match(_plain(answer)) if chosen.outcome == "none" else None
    return labelled[1] if labelled is not None and not _rejects(_fold(answer), ()) else None
