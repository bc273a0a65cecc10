r"""What a last sentence concludes where nothing announces an answer: "Therefore, the area is $75$."."""

import re

from lema_core.answers.formulas import Formula, formulas, leading_formula, without_formulas
from lema_core.answers.lexer import to_ascii
from lema_core.answers.limits import not_an_answer
from lema_core.answers.phrases import denies
from lema_core.answers.quantity import only_quantity
from lema_core.answers.results import MAX_ANSWER_CHARS, Extraction, Family
from lema_core.answers.sides import stated_side

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
        return _plain(bold["value"])
    if family == "latex":
        return _stated(sentence) or (_equation(sentence) or _single(sentence) if strong else None)
    return _single(sentence) if strong and family == "numeric" else None


def _plain(words: str) -> str | None:
    """Read what stands in bold type: a formula, or one number."""
    formula = leading_formula(words.strip())
    if formula is not None:
        return formula[0].strip()
    return only_quantity(words, "conclusion").value if any(sign.isdigit() for sign in words) else None


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
    return _joined(sentence, found)


def _joined(sentence: str, found: list[Formula]) -> str | None:
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
