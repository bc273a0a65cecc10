r"""Where an answer is announced: ``####``, a box, "the answer is", a heading, a tag, a field of JSON, other languages.

The cues that most solutions use are one pattern. Each other kind has words without which it cannot occur, so that a
text without them is not searched for it.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from lema_core.answers.results import Family

MAX_CUES = 50
"""Only this many of the last cues are looked at: a text with more is degenerate."""


@dataclass(frozen=True, slots=True)
class Cue:
    """One announcement of an answer: its kind, its place, and the answer itself where the cue encloses it."""

    kind: str
    start: int
    end: int
    content: str | None = None


_LINK = (
    r"[ *_]{0,4}(?:to (?:the|this) (?:question|problem)[ ]?)?"
    r"(?:(?:here|then|now|thus|therefore|finally|hence|simply|just)[ ]){0,2}"
    r"(?:(?:is|are|would be|will be|should be|must be|has to be|becomes|comes to|turns out to be|equals)\b"
    r"|[:：=→➡⇒]\ufe0f?"
    r"|(?=\s*(?:\\[\[(]|\$)))"
    r"(?:[ ](?:therefore|thus|then|hence|simply|just|exactly|indeed)(?=[ ]*[:$*\\(0-9-]))?[ :*_]{0,6}"
)
_ANSWER = rf"(?<![^\W_].)(?:nswers?|NSWERS?)(?![^\W_])(?i:{_LINK})"
COMMON = re.compile(
    rf"#(?P<hashes>###)|\\(?P<boxed>(?:boxed|fbox|beginboxed)(?=[ {{]))|A(?P<capital>{_ANSWER})|a(?P<small>{_ANSWER})"
    r"|A(?P<letter>(?:\*\*)?:(?:\*\*)?)"
)
"""The cues of nearly every solution. Each branch begins with a plain character, by which the engine skips fast."""
_KINDS = {"capital": "answer", "small": "answer"}
_BEFORE_LETTER = re.compile(r"(?:^|\n)[ \t]*(?:\*\*)?$")
LETTER_INDENT = 12
"""Characters in which the line of ``A: 18`` begins."""

_ANSWER_WORD = re.compile(r"A(?:ns|NS)|ans")
_HEADING = re.compile(
    r"[^\w\n]{0,12}(?:(?:the|my|our|final|correct|short|numerical|numeric|exact)[ ]){0,3}(?:answers?|ans)\b"
    r"(?:[ \t]*[:：]?[ \t*_:：.#=-]{0,8}$(?:\n[ \t]*[-=*_]{3,}[ \t]*$)?+|[ \t]{1,4}[-–—][ \t]+"
    r"|[ \t*_]{1,4}(?=[-+]?\$?[0-9½¼¾]))",
    re.MULTILINE | re.IGNORECASE,
)
_LABEL = re.compile(r"(?<![^\W_])(?:ans[.]?[ ]{0,2}[:：=→][ ]{0,2}|answer[ ]{0,2}(?:→|->|=>)[ ]{0,2})", re.IGNORECASE)
MAX_HEADING = 60
"""Characters in front of the word in its line."""
_TAG = re.compile(
    r"<(?P<name>(?:final|correct|my|the)?[_ -]?(?:answer|ans))(?:\s[^<>\n]{0,60})?>|\[(?:FINAL[_ ])?ANSWER\]",
    re.IGNORECASE,
)
_TAG_END = re.compile(
    r"</\s?(?:final|correct|my|the)?[_ -]?(?:answer|ans)\s?>|\[/(?:FINAL[_ ])?ANSWER\]", re.IGNORECASE
)
_FIELD = re.compile(
    r"""["'](?:(?:final|correct|predicted|model|my|the|numeric|numerical|short|selected|chosen|best)[_ -]?)?
    (?:answers?|choice|option|selection)(?:[_ -]?(?:letter|value|key|text|option|choice|index|label|number))?["']
    \s{0,20}:\s{0,20}""",
    re.VERBOSE | re.IGNORECASE,
)
_JSON_VALUE = re.compile(
    r"""(?P<string>"(?P<double>(?:[^"\\]|\\.)*+)"|'(?P<single>(?:[^'\\]|\\.)*+)')
    |(?P<list>\[[^\[\]{}]{0,400}+\])
    |(?P<plain>[-+]?[0-9][0-9.,eE+/-]{0,60}|true|false)(?=\s{0,20}[,}\]\n])""",
    re.VERBOSE | re.DOTALL,
)
_OPEN_STRING = re.compile(r"""["'\[]""")
_UNICODE_ESCAPE = re.compile(r"\\u([0-9a-fA-F]{4})")

_NOUNS = (
    r"réponse|reponse|antwort|endergebnis|ergebnis|respuesta|resposta|risposta|(?:eind)?antwoord|odpowiedź|odpowiedz|odpověď|odpoveď|ответ"
    r"|відповідь|адказ|отговор|одговор|odgovor|cevap|cevabı|yanıt|jawaban(?:nya)?|jawapan|đáp\s(?:án|số)|câu\strả\slời|svaret|svar"
    r"|vastaus|válasz|răspuns(?:ul)?|απάντηση|תשובה|התשובה|الجواب|الإجابة|الاجابة|پاسخ|جواب|उत्तर|উত্তর|คำตอบ|sagot|jibu"
)
_ADJECTIVES = (
    r"finale?|correcta?|correcte|final|endgültige|finale|richtige|corretta|correta|definitiva|definitivo|poprawna|"
    r"правильный|окончательный|итоговый|końcowa|akhir|benar|النهائية|الصحيحة|הסופית|donc|also|daher|folglich|por\stanto|entonces|portanto|quindi|dunque"
)
_VERBS = (
    r"est|vaut|sera|ist|lautet|beträgt|wäre|es|será|sería|é|è|sarà|is|luidt|to|brzmi|je|zní|равен|равна|adalah|ialah|là|är|er|on|"
    r"este|είναι|هو|هي|هى|היא|הוא|है|হল|হলো|คือ|ay|ni"
)
_OTHER_LANGUAGES = re.compile(
    rf"(?<!\w)(?:{_NOUNS})(?:\s(?:{_ADJECTIVES})){{0,2}}[ *_\u00a0]{{0,4}}(?:(?:{_VERBS})(?!\w)|[:：=–—]|-(?=\s))"
    rf"(?:\s(?:{_ADJECTIVES})(?!\w))?[\s:*_]{{0,6}}"
    r"|(?:最终|最終|最后的?|正确|正確|标准|本题)?的?(?:答案|答え|回答|解答|正解|正答|정답|답변?|답안)"
    r"(?:\s{0,2}\**\s{0,2}(?:应该是|应该为|应该选|就是|应为|等于|是|为|為|选|選|即|は|が|이|은|는|[:：=＝])){1,3}\s{0,2}"
    r"|(?:^|(?<=[。！？\s]))答\s{0,2}[:：]\s{0,2}",
    re.IGNORECASE | re.MULTILINE,
)
_ASCII_NOUNS = (
    "ntwort", "rgebnis", "eponse", "espuesta", "esposta", "isposta", "ntwoord", "evap", "awab", "awap", "svar", "Svar",
    "astaus",
    "dpowiedz", "dgovor", "agot", "jibu", "Jibu", "NTWORT", "ESPUESTA",
)  # fmt: skip
"""What a text in ASCII holds of the other languages' words."""

_OPTION = re.compile(
    r"\b(?:option|choice|alternative)[ ]{1,2}[*_(\[\"'“]{0,3}(?P<letter>[A-Z])\b(?![’'][a-z])", re.IGNORECASE
)
_CHOICE = re.compile(
    r"""(?P<label>(?<![^\W_])(?:choice|option|alternative|letter|selection)s?(?![^\W_])[ *_]{0,4}
        (?:(?:is|are|would\ be|should\ be|must\ be)\b|[:：=])[ :*_]{0,6})
    |(?P<pick>\b(?:choose|chose|chosen|pick|picked|select|selected|go(?:ing)?\ with|went\ with|opt\ for
        |settle\ (?:on|for)|vote\ for)[ ]{1,2}(?:the\ )?(?:answer\ |option\ |choice\ |letter\ )?
        (?=[*_"'“(\[{$\\]{0,4}(?:text\w{0,6}\{|mathrm\{)?(?-i:[A-Z])\b(?!['’][a-z])))
    |(?P<guess>\b(?:it['’]?s|it\ (?:is|must\ be|would\ be|should\ be)|that['’]?s|that\ is|must\ be|should\ be)[ ]{1,2}
        (?=[*_"'“(\[]{0,3}(?-i:[A-Z])[*_"'”)\]]{0,3}\s{0,3}(?:[.!,;]|\Z|\n)))
    |(?P<correct>(?<!\w)(?=[*_"'“(\[]{0,3}(?-i:[A-Z])[*_"'”)\].]{0,4}\s{1,3}
        (?:is|would\ be|must\ be)\s{1,3}(?:the\s)?(?:\w{1,12}\s){0,2}?
        (?:correct|right|best|answer|true|most)\b))
    |(?P<chinese>(?:故|因此|所以|应该?|應該?)?(?:选择|選擇|选|選)[：: ]{0,2}(?=[(（]?[A-Z]))
    |(?P<last>(?:so|therefore|thus|hence)[,:]?[ ]{1,2}
        (?=[*_"'“(\[]{0,3}(?-i:[A-Z])[*_"'”)\]]{0,3}\s{0,3}(?:[.!]|\Z)))""",
    re.VERBOSE | re.IGNORECASE,
)  # fmt: skip


def find_cues(text: str, family: Family) -> list[Cue]:
    """Return the cues of a text, in its order."""
    cues = list(_common_cues(text))
    others = list(_other_cues(text, family))
    if not others:
        return cues
    # "### Answer:" is a heading and an answer cue: one of two that end at one place is enough
    merged = {cue.end: cue for cue in (*others, *cues)}
    return sorted(merged.values(), key=lambda cue: cue.end)


def _common_cues(text: str) -> Iterator[Cue]:
    for match in COMMON.finditer(text):
        kind, start = match.lastgroup or "", match.start()
        if kind != "letter":
            yield Cue(_KINDS.get(kind, kind), start, match.end())
        elif _BEFORE_LETTER.search(text[max(0, start - LETTER_INDENT) : start]) and (
            start < LETTER_INDENT or "\n" in text[start - LETTER_INDENT : start]
        ):
            yield Cue(kind, start, match.end())


def tag_end(text: str, start: int) -> tuple[int, int]:
    """Return where the closing tag of an answer stands; one that was not written stands at the end of the text."""
    found = _TAG_END.search(text, start)
    return found.span() if found else (len(text), len(text))


def cut_at_tag(text: str) -> str:
    """Return a text up to a closing answer tag."""
    found = _TAG_END.search(text)
    return text if found is None else text[: found.start()]


def _other_cues(text: str, family: Family) -> Iterator[Cue]:
    yield from _headings(text)
    if ("<" in text or "[" in text) and ("ns" in text or "NS" in text):
        yield from _spans("tag", _TAG, text)
    if '"' in text or "'" in text:
        yield from _fields(text)
    if not text.isascii() or any(noun in text for noun in _ASCII_NOUNS):
        yield from _spans("language", _OTHER_LANGUAGES, text)
    if family == "choice":
        yield from _choices(text)


def _headings(text: str) -> Iterator[Cue]:
    """Yield the lines that are nothing but "Final Answer", and labels such as "Ans: "."""
    for word in _ANSWER_WORD.finditer(text):
        start = word.start()
        line = text.rfind("\n", max(0, start - MAX_HEADING), start) + 1
        if line or start <= MAX_HEADING:
            heading = _HEADING.match(text, line)
            if heading is not None and heading.end() > start:
                yield Cue("answer", line, heading.end())
                continue
        label = _LABEL.match(text, start)
        if label is not None:
            yield Cue("answer", start, label.end())


def _spans(kind: str, pattern: re.Pattern[str], text: str) -> Iterator[Cue]:
    for match in pattern.finditer(text):
        yield Cue(kind, match.start(), match.end())


def _fields(text: str) -> Iterator[Cue]:
    """Yield the fields of JSON or of a Python literal that hold an answer; one that is not finished has no answer."""
    at = 0
    while (key := _FIELD.search(text, at)) is not None:
        value = _JSON_VALUE.match(text, key.end())
        at = value.end() if value else key.end()
        if value is not None:
            yield Cue("field", key.start(), value.end(), _json_text(value))
        elif at == len(text) or _OPEN_STRING.match(text, at) or text[at].isdigit() or text[at] == "-":
            yield Cue("field", key.start(), len(text), "")  # cut off inside of the value
            return


def _json_text(value: re.Match[str]) -> str:
    r"""Return the text of a value. A lone backslash is LaTeX's: ``"\frac12"`` was not escaped by its writer."""
    text = value["double"] if value["double"] is not None else value["single"]
    if text is None:
        inner = value.group()
        return inner.strip("[]").replace('"', "").replace("'", "") if value["list"] and '"' in inner else inner
    plain = text.replace("\\\\", "\\").replace('\\"', '"').replace("\\/", "/").replace("\\'", "'")
    return _UNICODE_ESCAPE.sub(lambda code: chr(int(code[1], 16)), plain)


def _choices(text: str) -> Iterator[Cue]:
    r"""Yield the cues of multiple choice. "Option B is ..." is one only where no other option is spoken of."""
    for match in _CHOICE.finditer(text):
        yield Cue("choice", match.start(), match.end())
    options = list(_OPTION.finditer(text))
    if options and len({option["letter"].upper() for option in options}) == 1:
        yield Cue("choice", options[-1].start(), options[-1].start())
