"""Read the one quantity that a phrase states: ``$18 a day`` is 18, ``18 or 19`` is ambiguous, ``10:30`` is a time.

Used behind a cue in the numeric family. The value stays text in a plain form (``1 1/2``, ``50%``, ``10:30``), for the
matcher knows the types. Words around a number may compare it, compute with it or explain it.
"""

import re
from fractions import Fraction
from itertools import pairwise
from math import prod

from lema_core.answers.lexer import to_ascii
from lema_core.answers.phrases import CLAUSE, PLAIN_DIGITS, denies_following
from lema_core.answers.results import Extraction
from lema_core.answers.structure import parse_answer

# A sign is a sign unless a value or a name stands before it; there it stands between two of them.
_SIGN = r"(?:^[-+]\s?|(?<![0-9A-Za-z)\]}%.])-|(?<=[:=(\[{,]\s)-\s)?(?:\$\s?-?)?"
_DIGITS = r"(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)(?:\.[0-9]+)?|\.[0-9]+"
_SCALES = {
    "hundred": 10**2, "dozen": 12, "dozens": 12, "thousand": 10**3, "million": 10**6, "billion": 10**9,
    "trillion": 10**12, "k": 10**3, "m": 10**6, "b": 10**9, "bn": 10**9,
}  # fmt: skip
_SCALE_NAMES = "hundred|dozens?|thousand|million|billion|trillion"
_QUANTITY = re.compile(
    rf"""(?P<clock>[0-9]{{1,4}}(?::[0-9]{{1,4}}){{1,2}}(?:\s?[ap]\.?m\b\.?)?)
    |(?P<duration>[0-9]+\s?(?:hours?|hrs?|h)\s?(?:and\s)?[0-9]+\s?(?:minutes?|mins?|m)\b)
    |(?P<scientific>[-+]?[0-9]+(?:\.[0-9]+)?(?:e[-+]?[0-9]{{1,3}}\b|\s?(?:\*|x|\\times)\s?10\s?\^\s?\{{?[-+]?[0-9]{{1,3}}\}}?))
    |(?P<mixed>{_SIGN}[0-9]+\s+[0-9]+\s?/\s?[0-9]+)
    |(?P<fraction>{_SIGN}(?:{_DIGITS})\s?/\s?[0-9]+(?:\.[0-9]+)?)
    |(?P<number>{_SIGN}(?:{_DIGITS}))(?P<scale>(?:\s?(?:{_SCALE_NAMES})\b)+|(?-i:[kKMB]|bn)\b)?(?P<percent>\s?%|\s?\\%|\s?percent\b)?""",
    re.VERBOSE | re.IGNORECASE,
)
_ARITHMETIC = re.compile(r"\s*(?:\*{1,2}|[+^/×÷]|\s-\s|\\times|\\cdot|\sx\s)\s*\$?\s*$")
_ATTACHED = re.compile(r"[A-Za-z_]-?$")
_CURRENCY = re.compile(r"\b(?:USD|EUR|GBP|US)\s?\$?(?=-?\s?[0-9])")
_TEXT = re.compile(r"\\+(?:text(?:bf|it|rm|normal|tt|sf)?|mbox|mathrm|mathbf)\s*\{([^{}]*)\}")
_MINUS = re.compile(r"\b(?:minus|negative)\s+(?=[$\\]?\s?[0-9.]|\\[a-z])", re.IGNORECASE)
_AFTER_VALUE = re.compile(r"[0-9)]")
_COMPARES = re.compile(r"[<>]|!=|\\(?:ne|neq|le|leq|ge|geq|lt|gt|pm|mp)\b")
_LINKED = re.compile(r"[0-9].*?(?:,(?![0-9]{3})|;|\band\b|\bor\b|\s[A-Za-z]\s*$)|[0-9]\s?[b-z]\s*$")
_REMARK = re.compile(r"\((?!\s*(?:or|not)\b)[^()0-9]{0,200}\)\s*$")
_BRACKET = re.compile(r"(?P<head>[^()]*[0-9][^()]*\s)\((?P<inner>[^()]*[0-9][^()]*)\)")
MAX_PHRASE = 400
MAX_FORMULA = 200
_NUMBER_BEFORE = re.compile(r"(?<=[0-9])(?![0-9])")
_SMALL = r"(?:one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|\w+teen|twenty|thirty|forty|fifty)"
_HEDGES = re.compile(
    rf"""\b(?:not|never|cannot|neither|either|or|except|unlikely|hardly|doubt)\b|n['’]t\b
    |(?:\b(?:(?:less|more|fewer|greater|larger|bigger|smaller|higher|lower)\ than|at\ (?:least|most)
        |close\ to|other\ than|almost|nearly
        |supposedly|allegedly|up\ to|under|over
        |below|above|between|from|anything\ but|without
        |twice|thrice|double|triple|half|third|quarter|{_SMALL}\ times|times|root|square|cube|sqrt|log|ln|abs|sin|cos
        |tan|exp|factorial|reciprocal|opposite|inverse|negation|decrease|reduction|decline|drop|fall|loss
        |minus|plus)
       |[-+/]\s*[-+]|\bn\s?th)
      (?:[\s(]+(?:of|from|by|to|the|an?|all|as|much|many|number|value|about|approximately|roughly|around|exactly|only))*
      [\s(]*\$?[\s(]*[-+]?$""",
    re.VERBOSE | re.IGNORECASE,
)
_SUFFIXES = re.compile(
    rf"""(?:[_']\s?[0-9{{(]|[A-Za-z]+[0-9]|\+\s*$|(?![mgLlhsCFWVJNAdkKMB])[A-Za-z]\b
    |\s+(?:squared|cubed|factorial|remainder|mod(?:ulo)?|R|or\ (?:so|more|less|fewer|higher|lower|greater|another))\b
    |\s+and\ (?:an?|one|two|three)\ (?:half|third|quarter|fourth|fifth|eighth|tenth)s?\b
    |\s+(?:halves|thirds|fourths|fifths|sixths|eighths|tenths|hundredths|thousandths)\b
    |.*\b(?:minus|plus|times|or|through|(?:divided|multiplied)\ by|to)\s+{_SMALL}\b)""",
    re.VERBOSE,
)
_PART_OF = re.compile(
    r"(?:\s+(?!to\b|times\b|per\b|or\b|and\b)[A-Za-z-]+){0,2}\s+"
    r"(?:out of(?: (?:the|these|those|his|her|their|its|our|my|all|every|a total of))?"
    r"|of (?:the|these|those|his|her|their|its|our|my|all)(?: (?:total|original|first))?)\s+\$?",
    re.IGNORECASE,
)
_DURING = re.compile(
    r"(?:\s+(?!or\b|and\b|to\b|if\b|than\b|times\b|minus\b|plus\b)[A-Za-z-]+){0,4}?\s+(?:in|after|over|for|during|within)"
    r"(?: (?:the|these|those|all|next|first|last|past|whole)){0,2}\s+",
    re.IGNORECASE,
)
_TIME = re.compile(r"[\s-]?(?:second|minute|hour|day|night|week|weekend|month|year|decade)s?\b", re.IGNORECASE)
_RESTATES = re.compile(r"[(:;]|\b(?:that is|which is|i\.e\.|or|so)\b", re.IGNORECASE)
_OTHERWISE = re.compile(r"^\s*(?:or|not|and|else|otherwise)\b", re.IGNORECASE)
_ROUNDED = re.compile(r"\b(?:round(?:ed|ing|s)?|approx\w*|about|nearest|exact(?:ly)?|truncated)\b|≈", re.IGNORECASE)
_PLAIN_NUMBER = re.compile(r"-?[0-9]+(?:\.[0-9]+)?")
MAX_TERMS = 8
_OPERATES = re.compile(r"\b(?:minus|plus|times|divided|multiplied|power|over|remainder)\b|[-+*/^]", re.IGNORECASE)


def only_quantity(phrase: str, cue: str) -> Extraction:
    """Return the one quantity of a phrase; none where it has no number, ambiguous where it names several.

    Words that deny, compare or compute ("not 5", "5 or more", "half of 10") make it ambiguous; "minus" is a sign.
    """
    plain = _strip(phrase, boxed=cue == "boxed")
    if not any(sign.isdigit() for sign in plain):
        return Extraction("none", cue=cue, detail=f"no number in {phrase[:80]!r}")
    bracket = _BRACKET.fullmatch(plain)
    if bracket:  # "18 (3 * 6 = 18)" says 18 twice; "18 (20 with tax)" says two numbers
        head, inner = only_quantity(bracket["head"], cue), only_quantity(bracket["inner"], cue)
        if head.value is not None and head.value != inner.value and not explains(bracket["inner"], head.value):
            detail = f"{head.value} and in brackets {bracket['inner'][:80]!r}"
            return Extraction("ambiguous", cue=cue, detail=detail)
        return head
    value = _value(plain, boxed=cue == "boxed")
    if value is not None:
        return Extraction("value", value, cue)
    if all(_ATTACHED.search(plain[: match.start()]) for match in _QUANTITY.finditer(plain)):
        return Extraction("none", cue=cue, detail=f"no number in {phrase[:80]!r}")
    return Extraction("ambiguous", cue=cue, detail=f"no single number is stated in {phrase[:80]!r}")


def _value(plain: str, *, boxed: bool) -> str | None:
    if _COMPARES.search(plain) or hedges(re.split(r"[0-9\\]", plain, maxsplit=1)[0]):
        return None
    *names, plain = (part.strip() for part in plain.split("="))
    if any(_LINKED.search(name) for name in names):
        return None
    typed = _whole(plain, boxed=boxed)
    if typed is not None:
        return typed
    plain = _TEXT.sub(r" \1 ", plain).strip()
    found = [match for match in _QUANTITY.finditer(plain) if not _ATTACHED.search(plain[: match.start()])]
    if not found or hedges(plain[: found[0].start()], plain[found[0].end() :]):
        return None
    gaps = [plain[left.end() : right.start()] for left, right in pairwise(found)]
    if any(_ARITHMETIC.match(gap) for gap in gaps):
        # "3 + 4" is left to the matcher, which computes within limits; what it cannot read is no single number
        return plain if len(plain) <= MAX_FORMULA and parse_answer(plain).kind == "value" else None
    if "\\" in plain[: found[0].start()]:
        return None
    values = {_canonical(match) for match in found}
    if not gaps or (len(values) == 1 and all(map(restates, gaps))):
        return _canonical(found[0])
    # "18 of the 20 apples" states 18; "18 or 19", "20% of 50" and "5 feet 3 inches" state nothing single
    first, *others = found
    if first.start() != 0 or len(others) != 1 or not first["number"] or first["percent"] or "." in first["number"]:
        return None
    context = is_context(plain[first.end() : others[0].start()], plain[others[0].end() :])
    return _canonical(first) if context else None


def _strip(phrase: str, *, boxed: bool) -> str:
    plain = to_ascii(phrase[:MAX_PHRASE]).strip(" \t\n*_`$\"'")
    plain = re.sub(r"\\\$|\\[()\[\]]|(?<=[0-9])\{,\}(?=[0-9])|(?<=[0-9]),\\!(?=[0-9])", "", plain)
    plain = _REMARK.sub("", plain).strip().rstrip(".,;" if boxed else ".,;!") or plain
    inner = plain[1:-1]
    if plain[:1] + plain[-1:] in {"[]", "{}", "<>"} and not any(bracket in inner for bracket in "[]{}<>"):
        plain = inner.strip()
    plain = _CURRENCY.sub("", plain)
    sign = _MINUS.search(plain)
    return plain if sign is None or _AFTER_VALUE.search(plain[: sign.start()]) else _MINUS.sub("-", plain)


def _whole(plain: str, *, boxed: bool) -> str | None:
    r"""The phrase is one typed value to its end: a formula such as ``\\frac{1}{2}``, ``25_{6}`` or a boxed ``3!``."""
    bare = _TEXT.sub("", plain)
    formula = "\\" in bare or "^" in bare or "_" in bare or (boxed and "!" in bare)
    if not formula or len(plain) > MAX_FORMULA:
        return None
    answer = parse_answer(plain)
    typed = answer.kind in {"value", "ratio", "based"} and any(token[0].isdigit() for token in answer.tokens)
    return plain if typed else None


def _canonical(match: re.Match[str]) -> str:
    text = match.group().replace("$", "").strip()
    if match["percent"]:
        return match["number"].replace("$", "").replace(",", "").replace(" ", "") + "%"
    if match["scale"]:
        factor = prod(_SCALES[scale] for scale in match["scale"].lower().split())
        return str(Fraction(match["number"].replace("$", "").replace(",", "").replace(" ", "")) * factor)
    if match["number"]:
        return text.replace(",", "").replace(" ", "")
    if match["scientific"]:
        base, _, exponent = re.sub(r"[\s{}]", "", text.lower()).replace("\\times", "*").replace("x", "*").partition("e")
        return f"{base}*10^{{{int(exponent)}}}" if exponent else re.sub(r"\^([-+]?\d+)", r"^{\1}", base)
    if match["mixed"]:
        return " ".join(text.replace(" /", "/").replace("/ ", "/").split())
    return text.replace(",", "") if match["fraction"] else text


def explains(remark: str, value: str) -> bool:
    """Whether a remark in brackets only explains a number: "(9 eggs at $2 each)" behind 18.

    It does if it states or computes the number, or rounds it; a remark with other numbers is another answer.
    """
    target = _number(value)
    if target is None or _OTHERWISE.search(remark):
        return False
    numbers = [number for text in PLAIN_DIGITS.findall(remark) if (number := _number(text)) is not None]
    if len(numbers) > MAX_TERMS:
        return False
    if _ROUNDED.search(remark) and any(abs(number - target) < 1 for number in numbers):
        return True
    if "=" in remark:
        return target in numbers
    if len(numbers) < 2:
        return False
    # What the numbers give by one operation from left to right
    difference = numbers[0] - sum(numbers[1:])
    results = {sum(numbers), prod(numbers), difference, -difference}
    if len(numbers) == 2 and all(numbers):
        results |= {numbers[0] / numbers[1], numbers[1] / numbers[0]}
    return target in results


def _number(text: str) -> Fraction | None:
    plain = text.strip().replace(",", "").replace("$", "")
    return Fraction(plain) if len(plain) <= 30 and _PLAIN_NUMBER.fullmatch(plain) else None


def hedges(before: str, behind: str = "") -> bool:
    """Whether the words beside a number change it: "less than 5", "half of 10", "5 squared", "5 or more"."""
    return _HEDGES.search(before) is not None or _SUFFIXES.match(behind) is not None


def alters(before: str) -> bool:
    """Whether the words between a number and the one before it deny or change it: "there are at least"."""
    words = _NUMBER_BEFORE.split(CLAUSE.split(before[-160:])[-1])[-1]
    return denies_following(words) or hedges(words)


def is_context(between: str, behind: str) -> bool:
    """Whether a second number only says of what or when the first one is: "18 of the 20", "18 in 3 days"."""
    if _PART_OF.fullmatch(between):
        return True
    return _DURING.fullmatch(between) is not None and _TIME.match(behind) is not None


def restates(between: str) -> bool:
    """Whether a number said twice is one number: "18 dollars, that is $18", but not "18 minus 18"."""
    return _RESTATES.search(between) is not None and _OPERATES.search(between) is None
