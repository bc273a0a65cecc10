"""Read the one quantity that a phrase states: ``$18 a day`` is 18, ``18 or 19`` is ambiguous, ``10:30`` is a time.

Used behind a cue in the numeric family. The value stays text in a plain form (``1 1/2``, ``50%``, ``10:30``), for the
matcher knows the types.
"""

import re
from fractions import Fraction
from itertools import pairwise

from lema_core.answers.lexer import to_ascii
from lema_core.answers.structure import parse_answer
from lema_core.answers.types import Extraction

# A sign is a sign at the start or behind a space or bracket; elsewhere it stands between two numbers.
_SIGN = r"(?:^[-+]\s?|(?<=[\s(=$])-)?(?:\$\s?-?)?"
_DIGITS = r"(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)(?:\.[0-9]+)?|\.[0-9]+"
_QUANTITY = re.compile(
    rf"""(?P<clock>[0-9]{{1,4}}(?::[0-9]{{1,4}}){{1,2}}(?:\s?[ap]\.?m\b\.?)?)
    |(?P<duration>[0-9]+\s?(?:hours?|hrs?|h)\s?(?:and\s)?[0-9]+\s?(?:minutes?|mins?|m)\b)
    |(?P<scientific>[-+]?[0-9]+(?:\.[0-9]+)?(?:e[-+]?[0-9]{{1,3}}\b|\s?(?:\*|x|\\times)\s?10\s?\^\s?\{{?[-+]?[0-9]{{1,3}}\}}?))
    |(?P<mixed>{_SIGN}[0-9]+\s+[0-9]+\s?/\s?[0-9]+)
    |(?P<fraction>{_SIGN}(?:{_DIGITS})\s?/\s?[0-9]+(?:\.[0-9]+)?)
    |(?P<number>{_SIGN}(?:{_DIGITS}))(?:\s(?P<scale>thousand|million|billion|trillion)\b)?(?P<percent>\s?%|\s?\\%|\s?percent\b)?""",
    re.VERBOSE | re.IGNORECASE,
)
_ALTERNATIVE = re.compile(r"^\s*(?:[A-Za-z]+\s+){0,2}(?:or|to|and|-|–)\s*\$?\s*$", re.IGNORECASE)
_ARITHMETIC = re.compile(r"\s*(?:\*{1,2}|[+^/×÷]|\s-\s|\\times|\\cdot|\sx\s)\s*\$?\s*$")
_RANGE = re.compile(r"^\s*[-–]\s*\$?$")
_ATTACHED = re.compile(r"[A-Za-z_]$")
_SCALES = {"thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
MAX_PHRASE = 400
MAX_FORMULA = 200


def only_quantity(phrase: str, cue: str) -> Extraction:
    """Return the one quantity of a phrase; none where it has no number, ambiguous where it names several."""
    plain = _strip(phrase)
    typed = _whole(plain)
    if typed is not None:
        return Extraction("value", typed, cue)
    if "=" in plain:
        plain = plain.rsplit("=", 1)[1].strip() or plain
    found = [match for match in _QUANTITY.finditer(plain) if not _ATTACHED.search(plain[: match.start()])]
    if not found:
        return Extraction("none", cue=cue, detail=f"no number in {phrase[:80]!r}")
    if any(_ARITHMETIC.match(plain[left.end() : right.start()]) for left, right in pairwise(found)):
        return _computed(plain, phrase, cue)
    values = list(dict.fromkeys(_canonical(match) for match in found))
    if len(values) == 1 or _leads(plain, found):
        return Extraction("value", values[0], cue)
    return Extraction("ambiguous", cue=cue, detail=f"{len(values)} numbers in {phrase[:80]!r}")


def _computed(plain: str, phrase: str, cue: str) -> Extraction:
    """``3 + 4`` is left to the matcher, which computes within limits; what it cannot read is no single number."""
    answer = parse_answer(plain)
    if answer.kind == "value" and len(plain) <= MAX_FORMULA:
        return Extraction("value", plain, cue)
    return Extraction("ambiguous", cue=cue, detail=f"a calculation without a result: {phrase[:80]!r}")


def _strip(phrase: str) -> str:
    plain = to_ascii(phrase[:MAX_PHRASE]).strip(" \t\n*_`$\"'")
    plain = re.sub(r"\\\$|\\[()\[\]]|(?<=[0-9])\{,\}(?=[0-9])|(?<=[0-9]),\\!(?=[0-9])", "", plain)
    return re.sub(r"\((?:[^()]{0,200})\)\s*$", "", plain).strip().rstrip(".,;!") or plain


def _whole(plain: str) -> str | None:
    r"""The phrase is one typed value to its end: a formula such as ``\\frac{1}{2}`` or ``18 \\text{ dollars}``."""
    if not ("\\" in plain or "^" in plain) or len(plain) > MAX_FORMULA:
        return None
    answer = parse_answer(plain)
    return plain if answer.kind in {"value", "ratio"} and any(token[0].isdigit() for token in answer.tokens) else None


def _canonical(match: re.Match[str]) -> str:
    text = match.group().replace("$", "").strip()
    if match["percent"]:
        return match["number"].replace("$", "").replace(",", "").replace(" ", "") + "%"
    if match["scale"]:
        value = (
            Fraction(match["number"].replace("$", "").replace(",", "").replace(" ", ""))
            * _SCALES[match["scale"].lower()]
        )
        return str(value)
    if match["number"]:
        return text.replace(",", "").replace(" ", "")
    if match["scientific"]:
        base, _, exponent = re.sub(r"[\s{}]", "", text.lower()).replace("\\times", "*").replace("x", "*").partition("e")
        return f"{base}*10^{{{int(exponent)}}}" if exponent else re.sub(r"\^([-+]?\d+)", r"^{\1}", base)
    if match["mixed"]:
        return " ".join(text.replace(" /", "/").replace("/ ", "/").split())
    return text.replace(",", "") if match["fraction"] else text


def _leads(plain: str, found: list[re.Match[str]]) -> bool:
    """``18 of the 20 apples`` states 18; ``18 or 19`` and ``18-19`` state nothing single."""
    first, second = found[0], found[1]
    if first.start() != 0:
        return False
    between = plain[first.end() : second.start()]
    return (
        bool(between.strip()) and not _ALTERNATIVE.match(between) and not _RANGE.match(between) and "," not in between
    )
