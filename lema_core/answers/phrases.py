"""Denials and retractions: whether the words around an answer deny it or take it back."""

import re
from collections.abc import Mapping

CLAUSE = re.compile(r"[.,;:!?\n]|\b(?:so|then|and|but|therefore|thus|hence|because|since)\b", re.IGNORECASE)
_DENIAL = re.compile(
    r"\b(?:not(?! (?:hard|difficult|only))|never|cannot|doubt|wrong|false|incorrect|unlikely|hardly"
    r"|nobody|no one|nicht|n['’]est pas|no es|não|non è|niet|не|nie)\b|n['’]t\b|不是|不等于|不等於",
    re.IGNORECASE,
)
_RELATIVE = re.compile(r"\b(?:that|which|who) (?:do|does|did|are|is|were|was|have|has)(?:n['’]t| not)\b", re.IGNORECASE)
"""What says "... that do not work" denies nothing of the answer."""
_ELSEWHERE = {
    "a common mistake is to say": r"""\b(?:mistake|mistakenly|wrongly|incorrectly|tempt(?:ed|ing)|at\ first
        |first\ glance|naive(?:ly)?|trap)\b""",
    "many students would say": r"""\b(?:you|one|someone|somebody|people|some|many|most|students?|they|he|she|others?)\s+
        (?:(?:may|might|could|would|will|often|usually|also)\s+){0,3}
        (?:think|believe|say|claim|guess|conclude|assume)s?\b""",
    "you might get": r"""\b(?:you|one|people|some|many|students?|they)\s+(?:may|might|could|would)\s+(?:\w+\s+)?
        (?:get|obtain|answer|write|expect|find)\b""",
    "Bob thinks": r"""\b(?!(?:I|we|who|the|all|both|these|those|his|her|their|its|my|our|your|of|such|several|many|some
        |more|random|wrong|right|correct|two|three|four|five|six|seven|eight|nine|ten|[0-9]++)\b)
        \w+\s+(?:thinks|believes|says|claims|guesses|argues|suggests|assumes|insists|hopes)\b""",
    "Bob thought": r"""\b\w+\s+(?:thought|believed|said|claimed|guessed|argued|suggested|assumed|hoped|wished)\b
        (?!\s+process)""",
    "it is wrong to think that": r"""\bto\s+(?:think|believe|say|claim|guess|assume|conclude)\b
        (?=\s+that\b|\s*$|\s+(?:the|its|his|her|their)\s*$)""",
    "it would have been": r"\bwould\ have\ been\b",
    "it used to be": r"\bused\ to\ be\b",
}
"""Words of others, or of another case: an example of each form, and its pattern."""
_ATTRIBUTED = re.compile(
    r"\baccording to (?!the\b|our\b|this\b|these\b|that\b|my\b|its\b|step)"
    r"|\bin (?!my\b|our\b)\w+(?:['’]s?)?(?: \w+)? (?:opinion|view)\b",
    re.IGNORECASE,
)
_SENTENCE_END = re.compile(r"[.!?\n]")
_DENIED_BOX = re.compile(
    r"""(?:\bnot|n['’]t|\bnever|\bcannot|\bneither|\bnor|\brather\ than|\binstead\ of|\bother\ than|\bdifferent\ from
        |\bunlike
        |\\neq?\b|≠|(?<![\w)}\]])!=
        |\b(?:wrong|incorrect|false|mistaken|untrue)(?:ly)?
            (?:\s+(?:\w+\s+)?(?:answer|value|result|conclusion|solution|guess|total|choice|option|number|one)s?)?
        |\b(?:doubt|deny|impossible|unlikely)(?:\s+\w+){0,3}?
        |\b(?:wrong|false|untrue)\s+that(?:\s+\w+){0,3}?)
    (?:\s+(?:be|is|was|are|to|equal|simply|just|exactly|actually|the|of|as|obtain|get|give|gives|value|answer|number|quite
        |really|necessarily|possibly|have|been|correct|correctly|right)){0,6}
    [\s$\\(\[{:]*(?:\w{1,12}\s*=\s*)?$""",
    re.VERBOSE | re.IGNORECASE,
)
_WRONG = r"(?:wrong|incorrect|mistaken|false|erroneous|inaccurate|impossible|invalid|unreasonable|nonsense|off\s+by)"
_SUBJECT = r"""(?:that|this|it|which|these|they|(?:the|my|our)\s+(?:\w+\s+){0,2}?
    (?:answer|result|value|calculation|computation|solution|work|reasoning|number|total|sum|box|conclusion)s?)"""
_NOT = r"""(?:(?:is|was|are|were|does|do|did|can|could|would|should|will|must|has|have)\s*(?:not|n['’]t)|['’]s\s+not
    |cannot|can['’]?t|won['’]?t)"""
_RIGHT = r"""(?:(?:\w+\s+)?(?:right|correct|true|valid|possible|accurate|reasonable|acceptable|allowed|consistent)
    |(?:it|so|what|our|my|negative)
    |(?:the|an?)\s+(?:(?!extraneous|only|other)\w+\s+)?(?:answer|value|result|solution|case|one|number|integer|total|possibility|option))"""
"""What an answer must be; not "is not on the line" or "cannot be simplified"."""
_RETRACTION = {
    "the answer is too large": rf"""\b{_SUBJECT}
        (?:['’]s|\s+(?:is|was|are|were|looks|seems|must\ be|would\ be|can\ be))\s+(?:\w+\s+){{0,3}}?
        (?:{_WRONG}|(?:an?|the|my)\s+(?:mistake|error)|too\s+(?:small|large|big|high|low|much|many|few|hasty))\b
        (?!\s+(?:to|for|that)\b)""",
    "this contradicts the question": rf"\b{_SUBJECT}\s+(?:contradicts?|violates?|fails?)\b",
    "I was wrong": rf"\b(?:I['’]m|I\ am|I\ was)\s+(?:\w+\s+)?{_WRONG}\b",
    "there is an error": r"\bthere\s+(?:is|was|must\ be|are|were)\s+(?:an?\s+|some\s+)?(?:mistake|error|slip|typo)s?\b",
    "Not quite": r"""(?:^|[.!?…\n])[ \t]*+
        (?:(?:mistake|error)[ \t]*[!:.]|not\s+(?:quite|right|correct|so|exactly|really)\b)""",
    "it does not add up": rf"""\b{_SUBJECT}\s*{_NOT}\s+(?:\w+\s+){{0,2}}?
        (?:right|correct|true|valid|match|work|hold|make\ sense|satisfy|add\ up|possible|agree|fit|consistent|what
        |the\ answer|the\ (?:right|correct)|reasonable)\b""",
    "it isn't equal to 5": rf"\b{_SUBJECT}\s*{_NOT}\s+(?:be\s+)?(?:{_RIGHT}\b|(?:equal\s+to\s+)?[$\\(]*-?[0-9])",
    "that gives": r"\bthat\s+(?:gives|contradicts|violates)\b",
    "Edit:": r"\b(?:edit|update|revision|(?:revised|corrected|amended)(?:\s+\w+)?)\s*:",
    "I forgot": rf"""\b(?:I|we)\s+(?:\w+\s+){{0,2}}?(?:made\s+(?:an?|the|some|my)|forgot|miscalculat|misread|misunderst
        |misinterpret|mis-?count|missed|overlooked|messed|was\s+{_WRONG}|were\s+{_WRONG}|should\ have|apologi[sz]e|meant
        |need\s+to\s+(?:re|correct|fix|add|subtract|check|double)
        |don['’]t\s+think|do\s+not\s+think|doubt|take\s+(?:that|it)\s+back|mixed\ up|confused)""",
    "let me recalculate": r"""\b(?:oops|whoops|my\ bad|my\ mistake|scratch\ that|strike\ that|never\ ?mind
        |on\ (?:second\ thoughts?|reflection|closer\ \w+)
        |disregard
        |correction|retract(?:ed)?|miscalculat\w+|sorry|apologies|ignore\ (?:that|this|the\ (?:above|previous))
        |no,?\ wait|wait,?\ no|start(?:ing)?\ over|try(?:ing)?\ (?:this\ |it\ )?again
        |check(?:ing)?\ (?:this\ |it\ |that\ )?again|let['’]?s?\ (?:me\ )?(?:correct|fix
        |re-?(?:check|calcul|comput|consider|do|read|visit|think|evaluat|examin|count|assess|verif|work|solv)\w*))\b""",
    "it should be 6": r"\b(?:should|ought\ to|must)\s+(?:\w+\s+)?(?:be|have\ been)\s+[$\\(*]{0,4}(?:boxed\{)?-?[0-9]",
    "the real answer is": r"""\b(?:correct|right|real|actual|true)\s+(?:answer|value|result|number|one|total)\s+
        (?:is|was|would\ be|should\ be)\b""",
    "No, it": r"(?:^|[.!?…,;:—–\n-])[ \t]*+(?:no|nope|nah|wrong|incorrect|false)(?:[,.;:!—–-]|\s*$|\s+it\b|\s+that\b)",
    "不对": r"等等|等一下|不对|不對|错了|錯了|搞错|算错|更正|应该是|應該是|有误",
    "das ist falsch": r"""\b(?:falsch|fehler|korrektur|moment\ mal|erreur|faux|en\ fait|pardon|incorrecto
        |equivocad\w+|corrección
        |en\ realidad|errado|na\ verdade|sbagliato|ошиб\w+|неверно|неправильно|на\ самом\ деле)\b""",
}
"""What takes an answer back, anywhere behind it: an example of each form, and its pattern."""
_GAP = r"""[\s$\\)\]}*_.,;:"'”!?—–-]*+(?:\(|\[|which\s)?\s*+"""
_AT_ONCE = {
    "would be": rf"{_GAP}would\ (?:be|have)\b",
    " does not fit": rf"{_GAP}(?:does|do|did)\s*(?:not|n['’]t)\s+(?:satisfy|work|fit|hold|match|make|solve|add|agree)",
    " (wrong)": rf"""{_GAP}(?:(?:is|was|would\ be|looks|seems|(?:cannot|can['’]?t|can\ not)\ be)\s+(?:\w+\s+){{0,2}}?)?
        {_WRONG}\b(?!\s+to\b)""",
    " is not right": rf"{_GAP}(?:is|was)(?:\s+not|n['’]t)(?:\s+{_RIGHT}\b|\s*+(?:[.!;]|$))",
    " cannot be right": rf"{_GAP}(?:cannot|can['’]?t|can\ not)\s+be\s+{_RIGHT}\b",
    " no longer": rf"{_GAP}no\s+longer\b",
    "? No": r"\s*+(?:\?++|\.\.\.+|…|,)\s*+no\b",
}
"""What denies an answer in the words right behind it: an example of each form, and its pattern."""
_DENIED_INSIDE = re.compile(
    rf"(?:\(|[,;—–]\s*|\b(?:is|was)\s+)(?:\w+\s+){{0,2}}?(?:{_WRONG}|not\s+(?:right|correct|true|valid))\b(?!\s+to\b)",
    re.VERBOSE | re.IGNORECASE,
)
_DOUBT = re.compile(
    r"(?:^|[.!?…,;:)\]}$>*`\n—–-])[ \t\"“*_(\\]*+"
    r"(wait|hmm+|hm|hold on|hang on|but|however|although|actually|instead(?! of)|rather(?! than)|in fact|then again)\b",
    re.IGNORECASE,
)
_STATED_ANEW = re.compile(
    r"\b(?:it['’]s|it is|is it|turns? out to be|make that|it becomes|it must be)\s+(?:actually |really |about )?"
    r"[$\\(*]{0,4}(-?[0-9]++(?:[.,][0-9]++)*+)(?![0-9]|\s?[-+*/^×=])",
    re.IGNORECASE,
)
"""Another number in the place of the answer: "Or is it 6?"."""
_SAYS_ANSWER = re.compile(r"\banswers?\b", re.IGNORECASE)
_CONFIRMED = re.compile(
    r"(?<!not )(?<!n't )\b(?:correct|right|yes|yep|confirm(?:s|ed)?|verif(?:ies|ied)|checks out|indeed|still|stands"
    r"|matches|consistent|works|holds|(?:all|looks) good|okay|ok|fine|as (?:expected|before)|agrees?|same)\b|[✓✔✅]",
    re.IGNORECASE,
)
PLAIN_DIGITS = re.compile(r"[0-9]++(?:,[0-9]{3})*+(?:\.[0-9]++)?+")
_LETTER = re.compile(r"[^\W\d_]")
_CONCLUDES = re.compile(
    r"(?:=|\b(?:answer|so|thus|therefore|hence|gives?|giving|leav(?:es|ing)|remain|left|total|it['’]?s|it is|makes?"
    r"|becomes?|should|must|results?|get|have|need)\b)[^.!?\n0-9]{0,40}?([0-9]++(?:,[0-9]{3})*+(?:\.[0-9]++)?+)"
    r"|([0-9]++(?:,[0-9]{3})*+(?:\.[0-9]++)?+)(?= (?:\w+ )?(?:remain|left)\b)",
    re.IGNORECASE,
)
MAX_CASE_APART = 60
MAX_AFTERWORDS = 2_000
"""Only this many characters behind an answer are searched for what takes it back."""


def _any_of(forms: Mapping[str, str]) -> re.Pattern[str]:
    return re.compile("\n|".join(forms.values()), re.VERBOSE | re.IGNORECASE)


_SAYS_ELSEWHERE, _TAKES_BACK, _DENIES_AT_ONCE = map(_any_of, (_ELSEWHERE, _RETRACTION, _AT_ONCE))


def denies_following(before: str) -> bool:
    """Whether the words in front of a cue deny what follows: "I don't think the answer is", "Bob thinks"."""
    if "cording" in before or "opinion" in before or " view" in before:
        sentence = _SENTENCE_END.split(before[-160:])[-1]
        if _ATTRIBUTED.search(sentence):
            return True
    clause = _RELATIVE.sub("", CLAUSE.split(before[-160:])[-1])
    if not clause.strip():
        return False
    return _DENIAL.search(clause) is not None or _SAYS_ELSEWHERE.search(clause) is not None


def denies_box(before: str) -> bool:
    r"""Whether the words right in front of a box deny it: ``not $\boxed{5}$``, ``instead of \boxed{5}``."""
    before = before[-160:]
    return _DENIED_BOX.search(before) is not None or _SAYS_ELSEWHERE.search(CLAUSE.split(before)[-1]) is not None


def denies(words: str) -> bool:
    """Whether words in front of a value deny it: "certainly not equal to"."""
    return _DENIAL.search(words) is not None


def denies_own_value(phrase: str) -> bool:
    """Whether a phrase denies the value that it states: "5, which is wrong", "5 (incorrect)"."""
    return _DENIED_INSIDE.search(phrase) is not None


def takes_back(behind: str, value: str) -> bool:
    """Whether what stands behind an answer takes it back: "Wait, that is wrong. It should be 6."

    Words that only doubt take it back where nothing confirms the answer: "Wait" at once, "However" where another number
    follows.
    """
    behind = without_drawings(behind[:MAX_AFTERWORDS])
    if len(behind) < 3 or not _LETTER.search(behind):
        return False
    if _DENIES_AT_ONCE.match(behind) or any(
        # Further on, "this is impossible" closes a case of a proof
        "impossible" not in found.group().lower() or found.start() < MAX_CASE_APART
        for found in _TAKES_BACK.finditer(behind)
    ):
        return True
    if any(found[1] not in value for found in _STATED_ANEW.finditer(behind)):
        return True
    doubt = _DOUBT.search(behind)
    if doubt is None:
        return False
    rest = behind[doubt.end() :]
    if _CONFIRMED.search(rest):
        return False
    own, numbers = set(PLAIN_DIGITS.findall(value)), PLAIN_DIGITS.findall(rest)
    word = doubt[1].lower()
    if word.startswith(("wait", "hm", "hold", "hang")):
        return bool(set(numbers) - own) or _SAYS_ANSWER.search(rest) is None
    if word in {"actually", "rather"}:
        return bool(set(numbers) - own)
    # "8 is enough, but 7 is not" adds something; what takes 8 back concludes with another number.
    concluded = [first or second for first, second in _CONCLUDES.findall(rest)]
    return bool(set(concluded) - own) and numbers[-1] not in own


def without_drawings(text: str) -> str:
    """Return the text without Asymptote's drawings (MATH), which are code; one that is cut off goes to the end."""
    kept, at = [], 0
    while (start := text.find("[asy]", at)) >= 0:
        kept.append(text[at:start])
        end = text.find("[/asy]", start)
        if end < 0:
            return "".join(kept)
        at = end + len("[/asy]")
    return "".join([*kept, text[at:]])
