r"""Normal form of an answer: LaTeX, plain text and Unicode become one list of tokens.

Two answers with the same tokens are the same answer; ``\dfrac12``, ``\frac{1}{2}`` and ``½`` have one form. The lexer
is one regular expression without overlapping branches, so its time is linear in the text.
"""

import re
import unicodedata
from functools import lru_cache

from lema_core.answers.lexicon import COMMANDS, CONNECTORS, DROPPED, FUNCTIONS, SIGNS, SPACING, UNIT_SYMBOLS, UNITS

_LEXER = re.compile(
    r"""(?P<text>\\+(?:text(?:bf|it|rm|normal|tt|sf)?|mbox|hbox|mathrm|mathbf|mathit|mathsf|operatorname\*?|boldsymbol|rm|bf)
            \s*\{(?P<inner>[^{}]*)\})
    |(?P<env>\\+(?P<edge>begin|end)\s*\{(?P<name>[A-Za-z]+)\*?\}(?:\{[lcr| ]*\})?)
    |(?P<fracdigits>\\[dtc]?frac\s*(?P<top>[0-9])\s*(?P<bottom>[0-9]|(?=[{\\A-Za-z])))
    |(?P<row>\\\\(?![A-Za-z(\[])(?:\[[0-9a-z]*\])?)
    |(?P<command>\\+(?:[A-Za-z]+|[^A-Za-z]))
    |(?P<scientific>[0-9]+(?:\.[0-9]+)?[eE][-+]?[0-9]{1,3}(?![0-9A-Za-z]))
    |(?P<num>[0-9]+(?:\.(?:[0-9]+|(?=\s*\\overline)))?|\.[0-9]+)
    |(?P<unit>(?<=[0-9])(?:[\s~]|\\[,;\ ])+(?P<symbol>[mgshlL])(?![A-Za-z])
            (?=\s*(?:\^\s*\{?\s*[23]\s*\}?\s*)?(?:[.,;$]|/\s*(?:[shlL]\b|[a-z]{2})|and\b|or\b|\Z)))
    |(?P<word>[A-Za-z]+)
    |(?P<prime>['′’]+)
    |(?P<relation><=|>=|!=|==|=>|->|\|\||\*\*)
    |(?P<space>[\s~]+)
    |(?P<sign>.)""",
    re.VERBOSE | re.DOTALL,
)
_UNICODE = {
    "−": "-", "–": "-", "—": "-", "‐": "-", "‑": "-", "﹣": "-", "×": r"\times ", "÷": r"\div ", "·": r"\cdot ",
    "∙": r"\cdot ", "⋅": r"\cdot ", "∗": "*", "π": r"\pi ", "∞": r"\infty ", "√": r"\sqrt ",
    "°": r"^\circ ", "º": r"^\circ ",
    "≤": r"\le ", "≥": r"\ge ", "⩽": r"\le ", "⩾": r"\ge ", "≠": r"\ne ", "≈": r"\approx ", "∪": r"\cup ",
    "∩": r"\cap ", "∧": r"\land ", "∨": r"\lor ",
    "∈": r"\in ", "±": r"\pm ", "∓": r"\mp ", "∅": r"\emptyset ", "ℝ": r"\mathbb{R}", "θ": r"\theta ", "α": r"\alpha ",
    "β": r"\beta ", "γ": r"\gamma ", "λ": r"\lambda ", "μ": r"\mu ", "∶": ":", "％": "%", "＄": "$", "€": "$", "£": "$",
    "¥": "$", "¢": " cents ", "“": '"', "”": '"', "‘": "'", "⁄": "/", "∕": "/", "…": r"\dots ",
    "\u200b": "", "\ufeff": "",
}  # fmt: skip
_UNICODE_TABLE = str.maketrans(_UNICODE)
_SUPERSCRIPTS = re.compile("[⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁽⁾ⁿⁱ]+")
_SUBSCRIPTS = re.compile("[₀-₎ₐ-ₜᵢ-ᵥⱼ]+")
_COMPATIBLE = re.compile("[^①-⒛⓪-⓿❶-➓]+")
"""All but the numbers in circles, which are labels: NFKC would glue them to the digits before them."""
_FRACTIONS = re.compile("[¼½¾⅐-⅞]")
_WRAPPERS = (("\\boxed{", "}"), ("\\(", "\\)"), ("\\[", "\\]"), ("$$", "$$"), ("$", "$"))
_BRACES = re.compile(r"\\.|[{}]", re.DOTALL)
_THOUSANDS = re.compile(r"(?<![0-9.,])([0-9]{1,3})((?:(?:\{,\}|,\\!\s*|\\,|\\!)[0-9]{3})+)(?![0-9])")
_REMARK = re.compile(r"([-+]?\$?[0-9][0-9.,/ ]*)\s+\([ ]?[A-Za-z][A-Za-z .,'-]*\)")
"""``9 (apples)``: words in brackets, apart from the number before them, say what is counted."""
_GLUED = re.compile(r"(?<=[0-9)}])(or|and)(?=[A-Z(-])")
_HALF_DAY = re.compile(r"\b([ap])\.\s?m\b\.?", re.IGNORECASE)
_UNIT_FRACTION = re.compile(r"[A-Za-z]+(?:\^?[23])?(?:\s*/\s*[A-Za-z]+(?:\^?[23])?)?\.?")
_UNIT_PARTS = re.compile(r"[A-Za-z]+|[/^23]")
_COMMAS = re.compile(r"(?<![0-9.,])([0-9]{1,3}(?:,[0-9]{3})+)(?![0-9,])")


def to_ascii(text: str) -> str:
    """Return the text with Unicode digits, signs, superscripts and vulgar fractions in their plain forms."""
    text = text.replace("\x0crac", "\\frac")  # a backslash lost in somebody's JSON
    if text.isascii():
        return text
    text = _SUPERSCRIPTS.sub(lambda match: "^{" + unicodedata.normalize("NFKC", match.group()) + "}", text)
    text = _FRACTIONS.sub(_vulgar_fraction, text).translate(_UNICODE_TABLE)
    text = _SUBSCRIPTS.sub(lambda match: "_{" + unicodedata.normalize("NFKC", match.group()) + "}", text)
    text = _COMPATIBLE.sub(lambda match: unicodedata.normalize("NFKC", match.group()), text).translate(_UNICODE_TABLE)
    return text if text.isascii() else "".join(str(unicodedata.decimal(sign, sign)) for sign in text)


def _vulgar_fraction(match: re.Match[str]) -> str:
    top, _, bottom = unicodedata.normalize("NFKC", match.group()).partition("⁄")
    return rf"\frac{{{top}}}{{{bottom}}}"


@lru_cache(maxsize=65_536)
def tokens_of(answer: str) -> tuple[str, ...]:
    """Return the normal form of an answer as tokens.

    A token is a number, one letter, a Greek letter's or function's name, an operator or bracket, ``deg``, ``%``, or a
    quoted word (``'odd``). Currency signs, spacing, sizing and fonts are gone.
    """
    text = _HALF_DAY.sub(r"\1m", _join_thousands(_unwrapped(to_ascii(answer).strip())))
    if "or" in text or "and" in text:
        text = _GLUED.sub(r" \1 ", text)
    remark = _REMARK.fullmatch(text)
    if remark:
        text = remark[1]
    tokens: list[str] = []
    for match in _LEXER.finditer(text):
        _append(match, tokens)
    while tokens and tokens[-1] in {".", ",", ";", "row"}:
        tokens.pop()
    return tuple(tokens)


def _unwrapped(text: str) -> str:
    r"""Take a whole answer out of its dollars, its ``\( \)`` or its box, for inside brackets a comma separates."""
    for opening, closing in _WRAPPERS:
        inner = text[len(opening) : -len(closing)]
        if text.startswith(opening) and text.endswith(closing) and inner and _is_balanced(inner):
            return inner.strip()
    return text


def _is_balanced(inner: str) -> bool:
    depth = 0
    for sign in _BRACES.findall(inner):
        depth += {"{": 1, "}": -1}.get(sign, 0)
        if depth < 0:
            return False
    return depth == 0 and "\\boxed" not in inner and "$" not in inner.replace("\\$", "")


def _join_thousands(text: str) -> str:
    if "," in text or "\\" in text:
        text = _THOUSANDS.sub(lambda match: match[1] + re.sub("[^0-9]", "", match[2]), text)
    # "1,234" is a number, but "(1,234)" is a point: inside brackets a comma separates.
    if "," in text and not any(bracket in text for bracket in "([{"):
        text = _COMMAS.sub(lambda match: match[1].replace(",", ""), text)
    return text


def _append(match: re.Match[str], tokens: list[str]) -> None:
    kind, text = match.lastgroup, match.group()
    if kind == "num":
        # The minutes of 10:05 keep their zero: two digits tell a time from a ratio.
        tokens.append(text if tokens and tokens[-1] == ":" else _number(text))
    elif kind == "word":
        tokens.extend(_letters(text, match.string, tokens))
    elif kind == "command":
        _append_command(text, tokens)
    elif kind == "unit":
        symbol = match["symbol"]
        tokens.append("'" + symbol.lower() if _is_lone_number(tokens) else symbol)
    elif kind == "sign":
        # A digit that is no decimal one (an ideograph, a circle) is a word: int() must not meet it.
        tokens.extend(SIGNS.get(text, ("'" + text if text.isdigit() else text,)))
    elif kind != "space":
        tokens.extend(_composed(match, tokens))


def _is_lone_number(tokens: list[str]) -> bool:
    """``5 m`` and ``x = 5 m`` state a length; in ``3 + 5 m`` the letter may be an unknown."""
    before = tokens[:-1]
    before = before[:-1] if before[-1:] == ["-"] else before
    return not before or before[-1] in {"=", "approx", ",", ";", "&and", "&or"}


def _composed(match: re.Match[str], before: list[str]) -> tuple[str, ...]:
    r"""Return the tokens of what is more than one sign: a text, an environment's edge, a power of ten, ``\\frac12``."""
    if match["text"] is not None:
        return _quoted(match["inner"], before)
    if match["fracdigits"] is not None:
        bottom = ("{", match["bottom"], "}") if match["bottom"] else ()
        return ("frac", "{", match["top"], "}", *bottom)
    if match["env"] is not None:
        return _environment(match["edge"], match["name"])
    if match["scientific"] is not None:
        mantissa, _, exponent = match.group().lower().partition("e")
        sign = ("-",) if exponent[0] == "-" else ()
        return (_number(mantissa), "*", "10", "^", "{", *sign, exponent.lstrip("+-"), "}")
    if match["row"] is not None or match["prime"] is not None:
        return ("row",) if match["row"] else ("prime",) * len(match["prime"])
    return SIGNS.get(match.group(), (match.group(),))


def _number(text: str) -> str:
    whole, point, decimals = text.partition(".")
    whole = whole.lstrip("0") or "0"
    return f"{whole}.{decimals}" if point else whole


def _append_command(text: str, tokens: list[str]) -> None:
    name = text.lstrip("\\")
    if len(text) - len(name) > 1 and name not in COMMANDS and _in_matrix(tokens):
        tokens.extend(["row", *tokens_of(name)])  # "1\\\\x": a new row, then x
        return
    if name in SPACING or name in DROPPED:
        return
    if name == "circ" and tokens and tokens[-1] in {"^", "{"}:
        if tokens[-1] == "{" and len(tokens) > 1 and tokens[-2] == "^":
            tokens[-2:] = ["deg", "{"]
        elif tokens[-1] == "^":
            tokens[-1] = "deg"
        return
    tokens.extend(COMMANDS.get(name, (name,) if name.isalpha() else ("\\" + name,)))


def _in_matrix(tokens: list[str]) -> bool:
    return tokens.count("beginmatrix") > tokens.count("endmatrix")


def _environment(edge: str, name: str) -> tuple[str, ...]:
    if not name.endswith("matrix") and name != "array":
        return ()
    return (f"{edge}det" if name == "vmatrix" else f"{edge}matrix",)


def _quoted(inner: str, before: list[str]) -> tuple[str, ...]:
    r"""``\text{...}`` around a number or a formula is decoration; around words it is a text or a unit."""
    inner = inner.strip()
    if not inner:
        return ()
    words = inner.split()
    if all(word.isalpha() for word in words) and (len(words) > 1 or words[0].lower() not in CONNECTORS):
        if len(inner) == 1 and not (inner in UNIT_SYMBOLS and _is_behind_number(before)):
            return (inner,)
        return tuple(_word(word) for word in words)
    if _UNIT_FRACTION.fullmatch(inner) and _is_behind_number(before):
        return tuple(_word(part) if part.isalpha() else part for part in _UNIT_PARTS.findall(inner))
    return tokens_of(inner)


def _is_behind_number(before: list[str]) -> bool:
    return bool(before) and (before[-1][-1].isdigit() or before[-1] in {")", "}", "pi"})


def _word(word: str) -> str:
    lowered = word.lower()
    return CONNECTORS.get(lowered) or "'" + lowered


def _letters(text: str, whole: str, before: list[str]) -> tuple[str, ...]:
    """Split a run of letters: a function's name, a word, a unit, or a product of unknowns."""
    lowered = text.lower()
    if len(text) == 1:
        of_unit = before[-1:] == ["/"] and before[-2:-1] and before[-2].startswith("'") and text in UNIT_SYMBOLS
        return ("'" + lowered if of_unit else text,)
    if lowered in CONNECTORS:
        return (CONNECTORS[lowered],)
    if text in FUNCTIONS:
        return COMMANDS.get(text, (text,))
    after_number = _is_behind_number(before)
    if lowered in UNITS and after_number:
        return ("'" + lowered,)
    # Up to three letters beside mathematics are a product (xy, abc); longer runs are words.
    mathematics = after_number or any(sign in whole for sign in "+-*/^=_\\")
    if len(text) <= 3 and mathematics and lowered not in UNITS:
        return tuple(text)
    return ("'" + lowered,)
