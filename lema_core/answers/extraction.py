r"""Find the final answer in a solution: value, none, ambiguous or refused.

Cues: ``#### 18``, ``\boxed{18}``, ``A: 18``, ``the answer is 18`` (any case, markdown around it). The last cue that
holds an answer wins; a second question run on after the first answer is cut off. Without a cue there is no answer: a
number that merely stands last in a text is none, unless the caller asks for it (``loose``).
"""

import re
from functools import lru_cache

from lema_core.answers.boxes import boxed
from lema_core.answers.choice import choose
from lema_core.answers.formulas import FORMULA, content, leading_formula
from lema_core.answers.lexer import to_ascii
from lema_core.answers.limits import not_an_answer
from lema_core.answers.phrases import denied
from lema_core.answers.quantity import only_quantity
from lema_core.answers.scorers import extract_with, is_scorer
from lema_core.answers.types import MAX_ANSWER_CHARS, MAX_TEXT_CHARS, Extraction, Family

MAX_CUES = 50
"""Only so many of the last cues are looked at: a text with more is degenerate."""

_SIMPLE_TAIL = re.compile(r"\s*\$?(-?[0-9]+(?:,[0-9]{3})*(?:\.[0-9]+)?)\s*")
_RUN_ON = re.compile(
    r"^[ \t]*(?:#{1,4}[ \t]+(?!\d)(?:Question|Problem|Instruction|Input)"
    r"|(?:\*\*)?(?:Question|Problem|Q|Instruction|Human|User)(?:[ ]\d+)?(?:\*\*)?:"
    r"|<\|im_(?:start|end)\|>|<\|eot_id\|>|</s>|```)",
    re.MULTILINE | re.IGNORECASE,
)
_CUE = re.compile(
    r"(?P<hashes>####)"
    r"|(?P<boxed>\\(?:boxed|fbox|beginboxed)(?=[ {]))"
    r"|(?P<answer>\banswers?\b[ *_]{0,4}(?:to (?:the|this) (?:question|problem)[ ]?)?"
    r"(?:(?:is|are|would be|will be|should be|must be|equals)\b|:|=|(?=\s*(?:\\[\[(]|\$)))"
    r"[ :*_]{0,6})"
    r"|(?P<letter>^[ \t]*(?:\*\*)?A(?:\*\*)?:(?:\*\*)?)"
    r"|(?P<corrected>^[ \t]*(?:\*\*)?Corrected Answer(?:\*\*)?:(?:\*\*)?)",
    re.MULTILINE | re.IGNORECASE,
)
_RESULT = re.compile(r"(?P<answer>\bresults?\b[ *_]{0,4}(?:(?:is|are|equals)\b|:|=)[ :*_]{0,6})", re.IGNORECASE)
_SENTENCE = re.compile(
    r"(?<![0-9])(?<!\bSt)(?<!\bMt)(?<!\bDr)(?<!\bMr)(?<!\bMrs)(?<!\.[A-Z])\.(?=\s|$)|(?<=[0-9])\.(?=\s+[A-Z*]|\s*$)|\n"
)
_CONCLUDES = re.compile(r"\s*(?:Therefore|Thus|Hence|So|Consequently|In conclusion)\b", re.IGNORECASE)
_PREDICATES = re.compile(r"(?<![\\\w])(?:is|are|equals|at)\s+(?=[$\\0-9-])")
_SENTENCES = re.compile(r"(?<=[.!?:\]])\s+(?=[A-Z])|\n\s*\n|<\|")
_TRAILER = re.compile(
    r"[,;]?\s+(?:because|since|as (?:it|we|they|the)|which|so that|if we|I hope|given that|by the|where)\b.*",
    re.DOTALL | re.IGNORECASE,
)
_NUMBER = re.compile(r"(?<![\w.])-?(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)(?:\.[0-9]+)?(?:/[0-9]+)?%?(?![\w])")
_PREDICATE = re.compile(r"^(?:The|Its|This|That|So|Thus|Hence|Therefore)\b.*\b(?:is|are|equals)\s+(?=\S)", re.DOTALL)
_DECORATION = ' \t\r\n*_`"“”:'


def extract(
    text: str, family: Family = "numeric", candidates: tuple[str, ...] | None = None, *, loose: bool = False
) -> Extraction:
    """Return the final answer of a solution text.

    ``loose`` also takes an answer without a cue (the last formula or number), as the other checkers do; verdicts on
    training data should not need it. Nothing raises: hostile text is refused or has no answer.
    """
    if len(text) > MAX_TEXT_CHARS:
        return Extraction("refused", detail=f"{len(text)} characters; at most {MAX_TEXT_CHARS} are read")
    if is_scorer(family):
        return extract_with(family, text)
    if family == "numeric":
        quick = _simple(text)
        if quick is not None:
            return quick
    found = _by_cue(_cut_run_on(text), family, candidates)
    if found.outcome == "none" and family == "latex":
        found = _conclusion(text, found)
    if found.outcome == "none" and loose:
        return _without_cue(text, family, candidates, found)
    return found


def _conclusion(text: str, found: Extraction) -> Extraction:
    """Take what a last sentence concludes ("Therefore, the area is $75$"); "so 15 is no solution" concludes nothing."""
    last = _SENTENCES.split(text[-MAX_ANSWER_CHARS:].strip())[-1].replace("**", "")
    if not _CONCLUDES.match(last) or not_an_answer(to_ascii(last)):
        return found
    predicates = list(_PREDICATES.finditer(last))
    rest = last[predicates[-1].end() :].strip() if predicates else last
    formula = leading_formula(rest) if predicates else None
    if formula:
        return Extraction("value", formula.strip(), "conclusion")
    number = _NUMBER.match(rest) if predicates else None
    stated = only_quantity(rest, "conclusion")
    if not number or stated.value is None:
        return found
    plain = stated.value == number.group().replace(",", "")
    return Extraction("value", number.group() if plain else stated.value, "conclusion")


def read_answer(text: str, family: Family = "latex", candidates: tuple[str, ...] | None = None) -> Extraction:
    """Read a text that is either a bare answer or a whole solution, as the cases of ``lema verify`` are.

    A text with a cue is a solution; one without that is not prose is the answer itself; of prose the last formula or
    number is taken.
    """
    if len(text) > MAX_TEXT_CHARS or is_scorer(family):
        return extract(text, family, candidates)
    if _CUE.search(text):
        found = extract(text, family, candidates, loose=True)
        return found if found.outcome != "none" else _bare(text)
    if len(text) > MAX_ANSWER_CHARS or _is_sentence(text):
        found = extract(text, family, candidates, loose=True)
        return found if found.outcome != "none" else _bare(text)
    return _bare(text)


def _bare(text: str) -> Extraction:
    stripped = text.strip()
    return Extraction("value", stripped, "whole") if stripped else Extraction("none", detail="the text is empty")


def _is_sentence(text: str) -> bool:
    """Prose around a formula or a number: three plain words outside of LaTeX, and something to take from it."""
    text = text[-MAX_ANSWER_CHARS:]  # the patterns below look ahead from every opening delimiter
    outside = FORMULA.sub(" ", text)
    if not re.search(r"[0-9]|\$|\\\(|\\\[", text):
        return False
    return (
        len(re.findall(r"(?<![\\{A-Za-z])[A-Za-z]{2,}(?![A-Za-z}])", re.sub(r"\\[a-z]+\s*\{[^{}]*\}", " ", outside)))
        >= 3
    )


def _simple(text: str) -> Extraction | None:
    """Decide the common case fast: one cue, and nothing but a plain number behind it."""
    at, cue = text.rfind("####"), "####"
    start = at + 4
    if at < 0:
        at, cue = text.rfind("\nA:"), "A:"
        start = at + 3
    if at < 0:
        at, cue = text.rfind("he answer is "), "answer"
        start = at + 13
    if at < 0 or "\nQ" in text or "uestion:" in text:
        return None
    tail = text[start:] if text[-1] != "." else text[start:-1]
    number = _SIMPLE_TAIL.fullmatch(tail)
    if number and cue == "answer" and denied(text[max(0, at - 160) : at]):
        return None
    return _simple_value(number[1], cue) if number else None


@lru_cache(maxsize=1 << 16)
def _simple_value(number: str, cue: str) -> Extraction:
    return Extraction("value", number, cue)


def _cut_run_on(text: str) -> str:
    """Cut what follows the first answer where a new question, turn or block begins."""
    first = _CUE.search(text)
    if first is None:
        return text
    cut = _RUN_ON.search(text, first.end())
    while cut is not None and not text[first.end() : cut.start()].strip(_DECORATION):
        cut = _RUN_ON.search(text, cut.end())
    return text if cut is None else text[: cut.start()]


def _by_cue(text: str, family: Family, candidates: tuple[str, ...] | None) -> Extraction:
    cues = list(_CUE.finditer(text))[-MAX_CUES:] or _last_result(text)
    worst = Extraction("none", detail="no answer cue" if not cues else "the cues hold no answer")
    last_boxed = True
    for cue in reversed(cues):
        kind = cue.lastgroup or ""
        if kind == "answer" and denied(text[max(0, cue.start() - 160) : cue.start()]):
            return Extraction("ambiguous", cue=kind, detail=f"{text[cue.start() :][:80]!r} is denied")
        if kind == "boxed":
            raw = boxed(text, cue, cues if last_boxed else [cue], family)
            last_boxed = False
        else:
            raw = _snippet(text, cue.end(), family)
        if raw is None:
            continue
        if len(raw) > MAX_ANSWER_CHARS:
            return Extraction(
                "refused", cue=kind, detail=f"an answer of {len(raw)} characters; at most {MAX_ANSWER_CHARS}"
            )
        reason = not_an_answer(to_ascii(raw))
        if reason is not None:
            return Extraction("refused", cue=kind, detail=f"{raw[:80]!r}: {reason}")
        found = _typed(raw, family, candidates, kind)
        if found.outcome != "none":
            return found
        worst = found if worst.detail.startswith("no") else worst
    return worst


def _last_result(text: str) -> list[re.Match[str]]:
    """A "result" is the answer only in a last sentence, for steps have results too."""
    last = list(_RESULT.finditer(text, max(0, len(text) - MAX_ANSWER_CHARS)))[-1:]
    ends = [_SENTENCE.search(text, cue.end()) for cue in last]
    return [] if any(end and text[end.end() :].strip(_DECORATION) for end in ends) else last


def _typed(raw: str, family: Family, candidates: tuple[str, ...] | None, cue: str) -> Extraction:
    raw = raw.strip()
    if not any(character.isalnum() for character in raw):
        return Extraction("none", cue=cue, detail="nothing stands behind the cue")
    if family == "numeric":
        return only_quantity(raw, cue)
    if family == "choice" and candidates:
        chosen = choose(raw, candidates)
        return Extraction(chosen.outcome, chosen.value, cue, chosen.detail)
    return Extraction("value", raw, cue)


def _snippet(text: str, start: int, family: Family) -> str | None:
    """Return what stands behind a textual cue, up to the end of its sentence."""
    rest = text[start : start + MAX_ANSWER_CHARS + 200]
    rest = rest.lstrip(_DECORATION) if family != "latex" else rest.lstrip(_DECORATION + "\n")
    if not rest:
        return None
    formula = leading_formula(rest) if family == "latex" else None
    if formula:
        return formula
    end = _SENTENCE.search(rest)
    sentence = rest[: end.start()] if end else rest
    if "\\boxed" in sentence or "\\fbox" in sentence:
        return None  # the box's own cue is in front of this one
    if family == "latex" and len(sentence) > 60:
        inner = list(FORMULA.finditer(sentence))
        if inner:
            return content(inner[-1])
    sentence = _TRAILER.sub("", " ".join(sentence.split()))
    if family == "latex":
        # "The volume of $ABCD$ is 120" says 120
        sentence = _PREDICATE.sub("", sentence)
    return sentence.strip(_DECORATION).rstrip(".,;") or None


def _without_cue(text: str, family: Family, candidates: tuple[str, ...] | None, found: Extraction) -> Extraction:
    """Take the last formula or number, or the whole of a short answer."""
    stripped = text.strip()
    if not stripped:
        return found
    if family == "numeric":
        return _last_number(stripped)
    if family == "latex" and _is_sentence(stripped):
        tails = (_last_value(sentence) for sentence in reversed(_SENTENCES.split(stripped[-MAX_ANSWER_CHARS:])))
        return next((tail for tail in tails if tail.outcome == "value"), found)
    return _typed(stripped[:MAX_ANSWER_CHARS], family, candidates, "whole")


def _last_value(sentence: str) -> Extraction:
    formulas = [content(match) for match in FORMULA.finditer(sentence)]
    return Extraction("value", formulas[-1].strip(), "formula") if formulas else _last_number(sentence)


def _last_number(text: str) -> Extraction:
    numbers = _NUMBER.findall(text[-MAX_ANSWER_CHARS:])
    if not numbers:
        return Extraction("none", detail="no cue and no number")
    return Extraction("value", numbers[-1], "last number")
