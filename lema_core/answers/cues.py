r"""Where a solution states its answer: behind a cue, or in its last conclusion, formula or number."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from lema_core.answers.formulas import (
    formulas,
    leading_formula,
    stated_side,
    without_formulas,
)
from lema_core.answers.lexer import not_an_answer, to_ascii
from lema_core.answers.phrases import denies, takes_back
from lema_core.answers.quantity import alters, only_quantity
from lema_core.answers.results import MAX_ANSWER_CHARS, Extraction, Family

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
    # Lines that are nothing but "Final Answer", and labels such as "Ans: "
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
    if ("<" in text or "[" in text) and ("ns" in text or "NS" in text):
        yield from _spans("tag", _TAG, text)
    if '"' in text or "'" in text:
        yield from _fields(text)
    if not text.isascii() or any(noun in text for noun in _ASCII_NOUNS):
        yield from _spans("language", _OTHER_LANGUAGES, text)
    if family == "choice":
        # "Option B is ..." is a cue only where no other option is spoken of
        for match in _CHOICE.finditer(text):
            yield Cue("choice", match.start(), match.end())
        options = list(_OPTION.finditer(text))
        if options and len({option["letter"].upper() for option in options}) == 1:
            yield Cue("choice", options[-1].start(), options[-1].start())


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


SENTENCES = re.compile(r"(?<=[.!?:\]])\s+(?=[A-Z])|(?<=[。！？])\s*|\n\s*\n|<\|")
NUMBER = re.compile(
    r"(?<![A-Za-z0-9_.])(?<![0-9]:)-?(?:[0-9]{1,3}(?:,[0-9]{3})++(?![0-9])|[0-9]++)(?:\.[0-9]++)?+(?:/[0-9]++)?+%?+"
    r"(?![0-9]|:[0-9]|[,.][0-9])(?=(?:cm|mm|km|kg|mg|ml|mi|ft|in|lb|lbs|oz|hr|hrs|min|sec|mph|kph|m|g|l|s|h|L)?+[²³]?+(?![A-Za-z0-9_^(]))"
)
"""A whole number of prose, with the unit that touches it left off: never a part of a longer one."""
_STRONG = re.compile(
    r"\s*(?:Therefore|Thus|Hence|Consequently|In conclusion|To conclude|In summary|As a result|Accordingly"
    r"|It follows that|We conclude that|Ultimately|In total|Altogether|Overall"
    r"|因此|所以|综上|因而|故|Donc|Ainsi|Daher|Somit|Folglich|Por lo tanto|Por tanto|Portanto"
    r"|Quindi|Pertanto|Dunque|Следовательно|Таким образом|Поэтому|従って|よって|したがって|따라서|그러므로)",
    re.IGNORECASE,
)
_WEAK = re.compile(r"\s*(?:So|Finally|Then)\b", re.IGNORECASE)
_PREDICATES = re.compile(r"(?<![\\\w])(?:is|are|equals|at)\s+(?=[$\\0-9-])")
_BOLD = re.compile(r"\b(?:is|are|equals|be|of)[:\s]\s*\*\*(?P<value>[^*\n]{1,80})\*\*[\s.!]*$")
_REMARKS = re.compile(
    r"\s*(?:This (?:approach|covers|demonstrates|shows|method|completes|estimation|solution|matches|confirms|result"
    r"|is (?:the|our|my) (?:final )?(?:answer|result))"
    r"|These steps|I hope|Hope|Let me know|Feel free|If you|Please|Thank|Good luck|QED|Q\.E\.D|Done)",
    re.IGNORECASE,
)
_ENDED = re.compile(r"[.!。！][\s*)\"”]*$")
MAX_REMARKS = 2
"""Sentences behind a conclusion that conclude nothing ("This approach shows how ...")."""
_IN_ITS_FORM = re.compile(r"\\[a-z]+\s*\{[^{}]*\}")
_WORD = re.compile(r"(?<![\\{A-Za-z])[A-Za-z]{2,}+(?![}(])")
_MATHEMATICS = frozenset(
    [
        "sqrt", "root", "cbrt", "log", "ln", "lg", "exp", "sin", "cos", "tan", "cot", "sec", "csc", "asin", "acos",
        "atan", "arcsin", "arccos", "arctan", "sinh", "cosh", "tanh", "asinh", "acosh", "atanh", "max", "min", "gcd",
        "lcm", "abs", "mod", "floor", "ceil", "binom", "choose", "pi", "theta", "alpha", "beta", "gamma", "and", "or",
        "inf", "infinity", "frac", "times", "cdot", "pm", "deg", "det",
    ]
)  # fmt: skip
"""Words that stand in formulas written without LaTeX: they make no prose."""
_IDEOGRAPHS = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]")
_PROSE_IDEOGRAPHS = 8


def conclude(text: str, family: Family) -> Extraction:
    """Return what the last sentence concludes, or no answer."""
    none = Extraction("none", detail="no answer cue")
    sentences = [part for part in SENTENCES.split(text[-MAX_ANSWER_CHARS:].strip()) if part and part.strip()]
    for _ in range(MAX_REMARKS):
        if sentences and _REMARKS.match(sentences[-1]):
            sentences.pop()
    if not sentences:
        return none
    last, before = sentences[-1], sentences[-2] if len(sentences) > 1 else ""
    value = _concluded(last, family)
    if value is None and family == "latex" and (again := _concluded(before, family)) is not None:
        # "Therefore, the slope is $1$. The slope of the line is $1$."
        value = again if _stated(last.replace("**", "")) == again else None
    if value is None:
        return none
    return Extraction("value", value, "conclusion", alternative=stated_side(value) if family == "latex" else None)


def _concluded(sentence: str, family: Family) -> str | None:
    bold = _BOLD.search(sentence) if family == "latex" else None
    sentence = sentence.replace("**", "")
    strong = _STRONG.match(sentence) is not None
    if not (strong or bold or (family == "latex" and _WEAK.match(sentence))):
        return None
    if not_an_answer(to_ascii(sentence)) or denies(without_formulas(sentence)):
        return None
    if bold:
        words = bold["value"]
        formula = leading_formula(words.strip())
        if formula is not None:
            return formula[0].strip()
        return only_quantity(words, "conclusion").value if any(sign.isdigit() for sign in words) else None
    if family == "latex":
        return _stated(sentence) or (_equation(sentence) or _single(sentence) if strong else None)
    return _single(sentence) if strong and family == "numeric" else None


def _stated(sentence: str) -> str | None:
    """Return what the last "is" of a sentence states: a formula, or one number."""
    predicates = list(_PREDICATES.finditer(sentence))
    if not predicates:
        return None
    rest = sentence[predicates[-1].end() :].strip()
    formula = leading_formula(rest)
    if formula is not None:
        return formula[0].strip()
    number, stated = NUMBER.match(rest), only_quantity(rest, "conclusion")
    if number is None or stated.value is None:
        return None
    return number.group() if stated.value == number.group().replace(",", "") else stated.value


def _equation(sentence: str) -> str | None:
    """Return the one equation of a sentence that ends with it: "Therefore, $y = 7$."."""
    found = list(formulas(sentence))
    if not found or sentence[found[-1].end :].strip(" \t\n.,;!。！") or "=" not in found[-1].content:
        return None
    equations = [formula for formula in found if "=" in formula.content]
    value = leading_formula(sentence[equations[0].start :])
    whole = value is not None and equations[0].start + value[1] == found[-1].end
    if value is None or not (whole or len(equations) == 1):
        return None
    return value[0].strip()


def _single(sentence: str) -> str | None:
    """Return the only number of a sentence in words: "Therefore, Tom walked 7 meters."."""
    words = without_formulas(sentence)
    if not _ENDED.search(sentence) or words != sentence:
        return None
    stated = only_quantity(_STRONG.sub("", sentence, count=1).lstrip(" ,:，"), "conclusion")
    return stated.value if stated.value is not None and len(NUMBER.findall(sentence)) == 1 else None


def is_prose(text: str) -> bool:
    """Prose around a formula or a number: three plain words outside of LaTeX, and something to take from it."""
    text = text[-MAX_ANSWER_CHARS:]
    if not re.search(r"[0-9]|\$|\\\(|\\\[", text):
        return False
    outside = _IN_ITS_FORM.sub(" ", without_formulas(text))
    words = sum(word.lower() not in _MATHEMATICS for word in _WORD.findall(outside))
    return words >= 3 or len(_IDEOGRAPHS.findall(outside)) >= _PROSE_IDEOGRAPHS


def last_value(sentence: str) -> Extraction:
    """Return the last formula of a sentence, else its last number; ambiguous where the words around it deny it."""
    found = list(formulas(sentence))
    if not found:
        return last_number(sentence)
    return _unless_denied(sentence, found[-1].start, found[-1].end, found[-1].content.strip(), "formula")


def last_number(text: str) -> Extraction:
    """Return the last number of a text; ambiguous where the words around it deny it."""
    text = text[-MAX_ANSWER_CHARS:]
    numbers = list(NUMBER.finditer(text))
    if not numbers:
        return Extraction("none", detail="no cue and no number")
    return _unless_denied(text, numbers[-1].start(), numbers[-1].end(), numbers[-1].group(), "last number")


def _unless_denied(text: str, start: int, end: int, value: str, cue: str) -> Extraction:
    """Return a value of prose unless the words around it deny it."""
    if alters(text[max(0, start - 160) : start]) or takes_back(text[end:], value):
        return Extraction("ambiguous", cue=cue, detail=f"{value[:80]!r} is denied")
    return Extraction("value", value, cue)
