r"""What prose states where nothing announces an answer: a last sentence's conclusion, the last formula or number."""

import re

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
