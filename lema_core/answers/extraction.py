r"""Find the final answer in a solution: value, none, ambiguous or refused.

Cues: ``#### 18``, ``\boxed{18}``, ``A: 18``, ``the answer is 18``, a heading, ``<answer>18</answer>``,
``{"answer": 18}`` and others (``cues.py``). The last cue that holds an answer wins; a second question run on after the
first answer is cut off. An answer that is denied or taken back is ambiguous; thinking is not read. Without a cue there
is no answer: a number that merely stands last in a text is none, unless the caller asks for it (``loose``).
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from lema_core.answers.choice import choose, is_candidate
from lema_core.answers.cues import (
    MAX_CUES,
    SENTENCES,
    Cue,
    conclude,
    cut_at_tag,
    find_cues,
    is_prose,
    last_number,
    last_value,
    tag_end,
)
from lema_core.answers.formulas import (
    Box,
    computed_side,
    find_boxes,
    formulas,
    join_boxes,
    leading_formula,
    stated_side,
)
from lema_core.answers.lexer import not_an_answer, to_ascii
from lema_core.answers.phrases import denies, denies_box, denies_following, denies_own_value, takes_back
from lema_core.answers.quantity import explains, only_quantity
from lema_core.answers.results import MAX_ANSWER_CHARS, MAX_TEXT_CHARS, Extraction, Family, extract_with, is_scorer
from lema_core.errors import LemaError
from lema_core.thinking import may_think, strip_thinking

_CONTROL = r"""<[|｜][A-Za-z0-9_▁/ .-]{1,40}[|｜]>|<\|?(?:start|end)_of_(?:turn|text)\|?>|</?s>|<(?:eos|bos|pad|unk)>
    |\[/?INST\]|\[(?:EOS|SEP|PAD|CLS)\]|<turn\|>"""
CONTROL_TOKEN = re.compile(_CONTROL, re.VERBOSE | re.IGNORECASE)
"""A token of a chat template in a text: the end of an answer, or the beginning of another turn."""
_FIRST_TOKENS = re.compile(
    rf"\s*+(?:(?:{_CONTROL})\s*+(?:(?:assistant|model)\b(?=\s*+(?:{_CONTROL})|[ \t]*+\n)\s*+)?+)++",
    re.VERBOSE | re.IGNORECASE,
)
_NEXT_TURN = re.compile(
    rf"(?:{_CONTROL})\s*+(?:(?:{_CONTROL})\s*+)?+(?:user|human|system)\b", re.VERBOSE | re.IGNORECASE
)
MAX_TOKENS = 50
"""Up to this many control tokens are taken off the end of a text."""
LONGEST_TOKEN = 50


def strip_end_tokens(text: str) -> str:
    """Return the text without the control tokens that it begins and ends with, up to where the user's turn follows."""
    if not any(sign in text for sign in ("<", "[")):
        return text
    first = _FIRST_TOKENS.match(text)
    start = first.end() if first else 0
    following = _NEXT_TURN.search(text, start)
    end = following.start() if following else len(text)
    for _ in range(MAX_TOKENS):
        closing = end
        while closing and text[closing - 1].isspace():
            closing -= 1
        opening = max(text.rfind(bracket, max(0, closing - LONGEST_TOKEN), closing) for bracket in "<[")
        if opening < 0 or not CONTROL_TOKEN.fullmatch(text, opening, closing):
            break
        end = opening
    return text[start:end]


_SIMPLE_TAIL = re.compile(r"\s*\$?(-?[0-9]+(?:,[0-9]{3})*(?:\.[0-9]+)?)\s*")
SIMPLE_TAIL = 64
"""Characters from the end in which the fast path looks for its cue; a longer tail takes the long way."""
_RUN_ON = re.compile(
    r"^[ \t]*(?:#{1,4}[ \t]+(?!\d)(?:Question|Problem|Instruction|Input)"
    r"|(?:\*\*)?(?:Question|Problem|Q|Instruction|Human|User)(?:[ ]\d+)?(?:\*\*)?:"
    r"|```)",
    re.MULTILINE | re.IGNORECASE,
)
_RESULT = re.compile(r"(?P<answer>\bresults?\b[ *_]{0,4}(?:(?:is|are|equals)\b|[:：=])[ :*_]{0,6})", re.IGNORECASE)
_SENTENCE = re.compile(
    r"(?<![0-9])(?<!\bSt)(?<!\bMt)(?<!\bDr)(?<!\bMr)(?<!\bMrs)(?<!\.[A-Z])\.(?=\s|$)|(?<=[0-9])\.(?=\s+[A-Z*(]|\s*$)|\n"
    r"|(?P<mark>(?<=[\w)}\]%])[!?]+)(?=\s+[A-Z]|\s*$)|[。！？]"
)
_TRAILER = re.compile(
    r"[,;]?\s+\(?(?:because|since|as (?:it|we|they|the)|which|so that|if we|I hope|given that|by the|where)\b.*",
    re.DOTALL | re.IGNORECASE,
)
_PREDICATE = re.compile(r"^(?:The|Its|This|That|So|Thus|Hence|Therefore)\b.*\b(?:is|are|equals)\s+(?=\S)", re.DOTALL)
_DECORATION = ' \t\r\n*_`"“”:：'
_DISPLAYED = ("\\[", "\\(", "$$")
"""What opens a formula in every family; one dollar may be money."""
_CONTENT = re.compile(r'[^ \t\r\n*_`"“”:]')
_CALLED_WRONG = re.compile(r"(?:not\s+(?:correct|right|true)|wrong|incorrect|false|mistaken|invalid)\b", re.IGNORECASE)
_NO_ANSWER = re.compile(
    r"(?:correct|right|verified|confirmed|reasonable|as follows|(?:given |shown )?(?:below|above))\b[\s.:!]*$",
    re.IGNORECASE,
)
_DENIED_FIRST = re.compile(
    r"(?:nicht|pas|non?|not|não|nie|niet|не|inte|ikke|değil|bukan|không|不|非)\b|[不非]", re.IGNORECASE
)
_BLANK_THOUSANDS = re.compile(
    r"(?<![0-9.,/])([0-9]{1,3})((?:[ \u00a0\u2009\u202f][0-9]{3})+)"
    r"(?![0-9/]|[.,][0-9]{3}(?![0-9])|\s?-?(?:\w+[ -])?(?:bill|coin|note|pack|bag|box)(?:e?s)?\b)"
)
_DECIMAL_COMMA = re.compile(r"(?<![0-9.,])([0-9]+),([0-9]{1,2}|[0-9]{4,})(?![0-9.,])")
_BRACKETED = re.compile(r"(?P<head>[-+]?\$?[0-9][0-9.,/]*%?)\s+\((?P<remark>[^()]*(?:\([^()]*\)[^()]*)*)\)[\s.!]*")
_CONTRAST = re.compile(r"\s*,\s*(?:and |but )?not \$?-?[0-9][0-9.,/]*%?(?: [a-z]+)?[.!]*$")
_FIRST_NUMBER = re.compile(r"[0-9]++(?:[.,][0-9]++)*+")
_HTML = re.compile(
    r"</?(?:b|strong|i|em|u|code|span|p|div|font|mark|big|center|br|h[1-6])(?:\s[^<>]{0,80})?/?>", re.IGNORECASE
)
_SUPPOSED = re.compile(r"\b(?:if|had|suppose|assuming)\b[^.!?\n]{0,150}$", re.IGNORECASE)
_WORDS = re.compile(
    r"""####|["'<:]|boxed|fbox|NS|[Aa]ns\b|[^\x00-\x7f]|[A-Z]\]"""
    r"""|(?<![\\A-Za-z{])[A-Za-z]{2,}(?:[A-Za-z]{2}|,? [A-Za-z]{2})"""
)
"""A short text with none of these is a bare answer: it has no cue, no token and no sentence."""
MAX_BARE = 200


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
    try:
        return _extract(text, family, candidates, loose=loose)
    except LemaError:
        raise
    except Exception as error:  # noqa: BLE001 no text may take its file or shard with it
        return _failed(error)


def _failed(error: Exception) -> Extraction:
    return Extraction(
        "refused", cue="error", detail=f"the text could not be read: {type(error).__name__}: {error}"[:200]
    )


@dataclass(frozen=True, slots=True)
class _Reading:
    """What a cue announces: the words, where they end, and another reading of them; or why it announces nothing."""

    raw: str | None
    end: int
    alternative: str | None = None
    outcome: Extraction | None = None


def _extract(text: str, family: Family, candidates: tuple[str, ...] | None, *, loose: bool) -> Extraction:
    said = strip_thinking(text)
    if said is None:
        return Extraction("none", cue="thinking", detail="the thinking is not finished, or nothing stands behind it")
    said = strip_end_tokens(said)
    cues, end = find_cues(said, family), len(said)
    content = _CONTENT.search(said, cues[0].end) if cues else None
    if content is not None:
        # A new question, turn or block ends the text, but only behind the first answer: a text may begin with its own
        # question, or with a template's tokens
        cuts = [cut.start() for pattern in (_RUN_ON, CONTROL_TOKEN) if (cut := pattern.search(said, content.end()))]
        end = min(cuts, default=end)
    found = _by_cue(said[:end], [cue for cue in cues if cue.end <= end], family, candidates)
    if found.outcome == "none" and not found.cue:
        concluded = conclude(said, family) if family in {"latex", "numeric"} else found
        found = concluded if concluded.value is not None else found
    if found.outcome == "none" and found.cue not in {"boxed", "field"} and loose:
        stripped = said.strip()
        if not stripped:
            return found
        if family == "numeric":
            return last_number(stripped)
        if family == "latex" and is_prose(stripped):
            sentences = [part for part in SENTENCES.split(stripped[-MAX_ANSWER_CHARS:]) if part]
            tails = (last_value(sentence) for sentence in reversed(sentences))
            return next((tail for tail in tails if tail.outcome != "none"), found)
        return _typed(stripped[:MAX_ANSWER_CHARS], family, candidates, "whole")
    return found


def read_answer(text: str, family: Family = "latex", candidates: tuple[str, ...] | None = None) -> Extraction:
    """Read a text that is either a bare answer or a whole solution, as the cases of ``lema verify`` are.

    A text with a cue is a solution; one without that is not prose is the answer itself; of prose the last formula or
    number is taken.
    """
    if len(text) > MAX_TEXT_CHARS or is_scorer(family):
        return extract(text, family, candidates)
    try:
        if len(text) <= MAX_BARE and not _WORDS.search(text):
            return _bare(text)
        said = strip_thinking(text)
        if said is None:
            return Extraction(
                "none", cue="thinking", detail="the thinking is not finished, or nothing stands behind it"
            )
        said = strip_end_tokens(said)
        solution = find_cues(said, family) or _last_result(said) or len(said) > MAX_ANSWER_CHARS or is_prose(said)
        found = extract(said, family, candidates, loose=True) if solution else conclude(said, family)
        return _bare(said) if found.outcome == "none" and found.cue not in {"boxed", "field"} else found
    except LemaError:
        raise
    except Exception as error:  # noqa: BLE001 no text may take its file with it
        return _failed(error)


def _bare(text: str) -> Extraction:
    stripped = text.strip()
    if (
        len(stripped) > 2
        and stripped[0] == stripped[-1]
        and stripped[0] in "'\"`"
        and stripped[0] not in stripped[1:-1]
    ):
        stripped = stripped[1:-1].strip()
    return Extraction("value", stripped, "whole") if stripped else Extraction("none", detail="the text is empty")


def _simple(text: str) -> Extraction | None:
    """Decide the common case fast: one cue, and nothing but a plain number behind it."""
    near = len(text) - SIMPLE_TAIL  # a cue with nothing but a number behind it stands near the end
    near = max(near, 0)
    at, cue = text.rfind("####", near), "####"
    start = at + 4
    if at < 0:
        at, cue = text.rfind("\nA:", near), "A:"
        start = at + 3
    if at < 0:
        at, cue = text.rfind("he answer is ", near), "answer"
        start = at + 13
    # One sign is found many times faster than two, and neither Q nor q is frequent
    if at < 0 or (("Q" in text or "q" in text) and ("\nQ" in text or "uestion:" in text)):
        return None
    tail = text[start:] if text[-1] != "." else text[start:-1]
    number = _SIMPLE_TAIL.fullmatch(tail)
    if number is None or may_think(text) or (cue == "answer" and denies_following(text[max(0, at - 160) : at])):
        return None
    return _simple_value(number[1], cue)


@lru_cache(maxsize=1 << 16)
def _simple_value(number: str, cue: str) -> Extraction:
    return Extraction("value", number, cue)


def _by_cue(text: str, cues: Sequence[Cue], family: Family, candidates: tuple[str, ...] | None) -> Extraction:
    cues = cues[-MAX_CUES:] or _last_result(text)
    boxes = find_boxes(text, [(cue.start, cue.end) for cue in cues if cue.kind == "boxed"])
    worst = Extraction("none", detail="no answer cue" if not cues else "the cues hold no answer")
    last_box = max(boxes, default=-1)
    # The last cue that holds an answer wins: solutions restate, correct and box what they said before
    for cue in reversed(cues):
        if _is_denied(text, cue):
            return Extraction("ambiguous", cue=cue.kind, detail=f"{text[cue.start :][:80]!r} is denied")
        if cue.kind == "boxed":
            reading = _boxed(text, boxes, cue.start, family, last=cue.start == last_box)
        elif cue.kind == "tag":
            # ``<answer>18</answer>`` says its one line; several lines without a cue of their own are no answer
            closing, end = tag_end(text, cue.end)
            lines = [
                line.strip() for line in _HTML.sub("", text[cue.end : closing]).split("\n") if line.strip(_DECORATION)
            ]
            if len(lines) > 1:
                detail = f"the tag holds {len(lines)} lines and no other cue"
                reading = _Reading(None, end, outcome=Extraction("ambiguous", cue="tag", detail=detail))
            elif not lines:
                reading = _Reading(None, end)
            else:
                formula = leading_formula(lines[0])
                whole = formula is not None and not lines[0][formula[1] :].strip(" .")
                reading = _Reading(formula[0] if whole and formula else lines[0].strip(_DECORATION), end)
        elif cue.content is not None:  # a field of JSON
            empty = Extraction("none", cue=cue.kind, detail="the field is empty or cut off")
            reading = _Reading(cue.content or None, cue.end, outcome=None if cue.content else empty)
        else:
            reading = _snippet(text, cue, family)
        if reading.outcome is not None:
            return reading.outcome
        if reading.raw is None or (_NO_ANSWER.match(reading.raw) and not is_candidate(reading.raw, candidates)):
            continue
        found = _checked(text, cue, reading, family, candidates)
        if found.outcome != "none":
            return found
        worst = found if worst.detail.startswith("no") else worst
    return worst


def _is_denied(text: str, cue: Cue) -> bool:
    """Whether the words in front of a cue deny its answer, or only suppose it: "if he had sold 3, it would be"."""
    before = text[max(0, cue.start - 160) : cue.start]
    if cue.kind == "boxed":
        clause = before.lower().rpartition("answer")[0]
        return denies_box(before) or (bool(clause) and "." not in before[len(clause) :] and denies_following(clause))
    if cue.kind not in {"answer", "language", "choice", "result"}:
        return False
    if "would" in text[cue.start : cue.end] and _SUPPOSED.search(before):
        return True
    return denies_following(before)


def _boxed(text: str, boxes: dict[int, Box], start: int, family: Family, *, last: bool) -> _Reading:
    box = boxes[start]
    if box.content is None and last:
        return _Reading(None, box.end, outcome=Extraction("none", cue="boxed", detail="the last box is not closed"))
    earlier = [other for other in boxes.values() if other.start < start] if last else []
    raw, alternative = join_boxes(text, box, earlier, family)
    return _Reading(raw, box.end, alternative)


def _checked(text: str, cue: Cue, reading: _Reading, family: Family, candidates: tuple[str, ...] | None) -> Extraction:
    """Type what a cue announces; refuse what is no answer, and what is denied or taken back."""
    raw = reading.raw or ""
    too_long = len(raw) > MAX_ANSWER_CHARS
    reason = None if too_long else not_an_answer(to_ascii(raw))
    if too_long or reason is not None:
        long = f"an answer of {len(raw)} characters; at most {MAX_ANSWER_CHARS}"
        return Extraction("refused", cue=cue.kind, detail=long if too_long else f"{raw[:80]!r}: {reason}")
    found = _typed(raw, family, candidates, cue.kind)
    if found.outcome in {"none", "refused"}:
        return found
    if takes_back(text[reading.end :], raw):
        return Extraction("ambiguous", cue=cue.kind, detail=f"{raw[:80]!r} is taken back")
    if found.value is not None and reading.alternative is not None:
        return replace(found, alternative=_typed(reading.alternative, family, candidates, cue.kind).value)
    if found.value is not None and family == "latex" and cue.kind != "boxed":
        return replace(found, alternative=stated_side(found.value))
    return found


def _last_result(text: str) -> list[Cue]:
    """A "result" is the answer only in a last sentence, for steps have results too."""
    if "esult" not in text and "ESULT" not in text:
        return []
    last = list(_RESULT.finditer(text, max(0, len(text) - MAX_ANSWER_CHARS)))[-1:]
    ends = [_SENTENCE.search(text, cue.end()) for cue in last]
    if any(end and text[end.end() :].strip(_DECORATION) for end in ends):
        return []
    return [Cue("result", cue.start(), cue.end()) for cue in last]


def _typed(raw: str, family: Family, candidates: tuple[str, ...] | None, cue: str) -> Extraction:
    raw = raw.strip()
    if not any(character.isalnum() for character in raw):
        return Extraction("none", cue=cue, detail="nothing stands behind the cue")
    if family == "choice" and candidates:
        return replace(choose(raw, candidates), cue=cue)
    if family in {"numeric", "latex"}:
        if " " in raw or not raw.isascii():
            raw = _BLANK_THOUSANDS.sub(lambda groups: "".join(filter(str.isdigit, groups.group())), raw)
        # ``18 (9 eggs at $2 each)`` is 18, and so is ``18, not 20``; ``18 (20 with tax)`` stays as it is
        contrast = _CONTRAST.search(raw) if "not" in raw else None
        raw = raw[: contrast.start()] if contrast and contrast.start() else raw
        found = _BRACKETED.fullmatch(raw) if raw.endswith((")", ").", ")!")) and "(" in raw else None
        raw = found["head"] if found and explains(found["remark"], found["head"]) else raw
    if family == "numeric":
        return only_quantity(raw, cue)
    return Extraction("value", computed_side(raw) if family == "latex" and "=" in raw else raw, cue)


def _snippet(text: str, cue: Cue, family: Family) -> _Reading:
    """Return what stands behind a textual cue, up to the end of its sentence."""
    window = text[cue.end : cue.end + MAX_ANSWER_CHARS + 200]
    rest = window.lstrip(_DECORATION)
    start = cue.end + len(window) - len(rest)
    if "<" in rest or "[" in rest:
        rest = cut_at_tag(_HTML.sub("", rest))
    formula = leading_formula(rest) if family == "latex" or rest.startswith(_DISPLAYED) else None
    if formula is not None:
        return _Reading(formula[0], start + formula[1])
    end = _SENTENCE.search(rest)
    sentence = rest[: end.start()] if end else rest
    if not rest or "\\boxed" in sentence or "\\fbox" in sentence:
        return _Reading(None, start)  # the box's own cue stands behind this one and was read first
    supposed = "would" in text[cue.start : cue.end] and " if " in sentence
    foreign = cue.kind == "language" and _DENIED_FIRST.match(sentence)  # "nicht 5"
    denies_itself = foreign or _CALLED_WRONG.match(rest) or denies_own_value(sentence)
    if supposed or (family != "choice" and denies_itself):
        detail = f"{sentence[:80]!r} is denied"
        return _Reading(None, start, outcome=Extraction("ambiguous", cue=cue.kind, detail=detail))
    raw = _phrase(sentence, family, cue.kind)
    mark = raw is not None and family == "latex" and end is not None and end["mark"] == "!"
    number = None if family == "choice" else _FIRST_NUMBER.search(sentence)
    return _Reading(raw, start + (number.end() if number else len(sentence)), f"{raw}!" if mark else None)


def _phrase(sentence: str, family: Family, kind: str) -> str | None:
    """Return the answer that a sentence behind a cue states, without the reasons that follow it."""
    if family == "latex" and len(sentence) > 60:
        inner = list(formulas(sentence))
        if inner and not denies(sentence[: inner[-1].start]):
            return inner[-1].content
    sentence = " ".join(_to_brace(sentence).split())
    sentence = _TRAILER.sub("", sentence) or sentence
    if kind == "language":
        sentence = _DECIMAL_COMMA.sub(r"\1.\2", sentence)
    if family == "latex":
        # "The volume of $ABCD$ is 120" says 120
        sentence = _PREDICATE.sub("", sentence)
    return sentence.strip(_DECORATION).rstrip(".,;") or None


def _to_brace(sentence: str) -> str:
    r"""Cut at a brace that closes what was opened in front of the cue: ``\boxed{\text{The answer is 460}}``."""
    if "}" not in sentence:
        return sentence
    depth = 0
    for at, sign in enumerate(sentence):
        depth += (sign == "{") - (sign == "}")
        if depth < 0 and sentence[at - 1 : at] != "\\":
            return sentence[:at]
    return sentence
