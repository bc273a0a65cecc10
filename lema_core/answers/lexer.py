r"""Normal form of an answer: LaTeX, plain text and Unicode become one list of tokens.

Two answers with the same tokens are the same answer; ``\dfrac12``, ``\frac{1}{2}`` and ``½`` have one form. The lexer
is one regular expression without overlapping branches, so its time is linear in the text.
"""

import re
import unicodedata
from functools import lru_cache

from lema_core.answers.expressions import GREEK, PERIOD
from lema_core.answers.lexicon import (
    ABBREVIATIONS,
    ALIGNED,
    COMMANDS,
    CONNECTORS,
    CURRENCIES,
    CURRENCY_CODES,
    DROPPED,
    ENGLISH,
    FUNCTIONS,
    SCALES,
    SIGNS,
    SPACING,
    UNIT_SYMBOLS,
    UNITS,
)

_LEXER = re.compile(
    r"""(?P<text>\\++(?:text(?:bf|it|rm|normal|tt|sf)?|mbox|hbox|mathrm|mathbf|mathit|mathsf|operatorname\*?|boldsymbol|rm|bf)
            \s*\{(?P<inner>[^{}]*)\})
    |(?P<env>\\++(?P<edge>begin|end)\s*\{(?P<name>[A-Za-z]+)\*?\}(?:\{[lcr| ]*\})?)
    |(?P<fracdigits>\\[dtc]?(?P<macro>frac|binom)\s*(?P<top>[0-9])\s*(?P<bottom>[0-9]|(?=[{\\A-Za-z])))
    |(?P<row>\\\\(?![A-Za-z(\[])(?:\[[0-9a-z]*\])?)
    |(?P<command>\\+(?:[A-Za-z]+|[^A-Za-z]))
    |(?P<repeating>[0-9]*\.[0-9]*⟨[0-9]+⟩)
    |(?P<scientific>[0-9]+(?:\.[0-9]+)?[eE][-+]?[0-9]{1,3}(?![0-9A-Za-z]))
    |(?P<num>[0-9]+(?:\.[0-9]+)?|\.[0-9]+)
    |(?P<dots>\.{3,})
    |(?P<unit>(?<=[0-9])(?:[\s~]|\\[,;\ ])+(?P<symbol>[mgshlL])(?![A-Za-z])
            (?=\s*(?:\^\s*\{?\s*[23]\s*\}?\s*)?(?:[.,;$]|/\s*(?:[shlL]\b|[a-z]{2})|and\b|or\b|\Z)))
    |(?P<word>[A-Za-z]++(?![^\W\d_]))
    |(?P<foreign>(?!\d)[^\W\d_]+)
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
    "≤": r"\le ", "≥": r"\ge ", "⩽": r"\le ", "⩾": r"\ge ", "≠": r"\ne ", "≈": r"\approx ", "≃": r"\approx ",
    "≅": r"\approx ", "∪": r"\cup ", "∩": r"\cap ", "∧": r"\land ", "∨": r"\lor ", "∈": r"\in ", "±": r"\pm ",
    "∓": r"\mp ", "∅": r"\emptyset ", "ℝ": r"\mathbb{R}", "ℤ": r"\mathbb{Z}", "ℕ": r"\mathbb{N}", "∶": ":", "％": "%",
    "＄": "$", "￥": "¥", "￡": "£", "¢": " cents ", "“": '"', "”": '"', "‘": "'", "⁄": "/", "∕": "/", "…": r"\dots ",
    "⌊": r"\lfloor ", "⌋": r"\rfloor ", "⌈": r"\lceil ", "⌉": r"\rceil ", "\u2502": "|",
    "\u200b": "", "\ufeff": "",
}  # fmt: skip
_GREEK = dict(
    zip(
        "αβγδεζηθικλμνξρστυφχψωΓΔΘΛΞΣΦΨΩ",
        [
            "alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta", "iota", "kappa", "lambda", "mu", "nu",
            "xi", "rho", "sigma", "tau", "upsilon", "phi", "chi", "psi", "omega", "Gamma", "Delta", "Theta", "Lambda",
            "Xi", "Sigma", "Phi", "Psi", "Omega",
        ],
        strict=True,
    )
)  # fmt: skip
_UNICODE_TABLE = str.maketrans(_UNICODE | {letter: f"\\{name} " for letter, name in _GREEK.items()})
_SUPERSCRIPTS = re.compile("[⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁽⁾ⁿⁱ]+")
_SUBSCRIPTS = re.compile("[₀-₎ₐ-ₜᵢ-ᵥⱼ]+")
_COMPATIBLE = re.compile("[^①-⒛⓪-⓿❶-➓]+")
"""All but the numbers in circles, which are labels: NFKC would glue them to the digits before them."""
_FRACTIONS = re.compile("[¼½¾⅐-⅞]")
_WRAPPERS = (
    ("\\boxed{", "}"), ("\\(", "\\)"), ("\\[", "\\]"), ("$$", "$$"), ("$", "$"), ("'", "'"), ('"', '"'), ("`", "`"),
)  # fmt: skip
_OPENINGS = frozenset(opening[0] for opening, _ in _WRAPPERS)
_BACKSLASHES = re.compile(r"\\+")
_ESCAPED = re.compile(r"\\\\(?:begin|d?frac|sqrt|text|left|pi)(?![A-Za-z])")
_BRACES = re.compile(r"\\.|[{}]", re.DOTALL)
_THOUSANDS = re.compile(r"(?<![0-9.,])([0-9]{1,3})((?:(?:\{,\}|,\\!\s*|\\,|\\!)[0-9]{3})+)(?![0-9])")
_SPACED = re.compile(
    r"(?<![0-9A-Za-z.,/}_^])([1-9][0-9]{0,2})((?:(?:\\?[ ~]|'|_)[0-9]{3})+)(?![0-9A-Za-z_/'^]|\s*/|\s[0-9])"
)
"""``1 000 000``, ``1'000'000``: groups of three digits with something between them that is no comma."""
_DOTTED = re.compile(
    r"(?<![0-9A-Za-z.,])([1-9][0-9]{0,2})((?:\.[0-9]{3}){2,}|(?:\.[0-9]{3})+(?=,[0-9]{1,2}(?![0-9])))(,[0-9]+)?(?![0-9.,])"
)
"""``1.234.567`` and ``1.234,50``, which cannot be read otherwise."""
_INDIAN = re.compile(r"(?<![0-9.,])([0-9]{1,2}(?:,[0-9]{2})+,[0-9]{3})(?![0-9,])")
_TIMES_TEN = re.compile(r"(?<=[0-9])\s*[xX]\s*(?=10(?:\s*(?:\^|\*\*)|\s*\Z))")
_PERIOD = re.compile(
    r"(?<![0-9.])([0-9]*)\.([0-9]*)(?:\s*\{?\s*\\(?:overline|bar|dot)\s*(?:\{([0-9]+)\}|([0-9]))\}?"
    r"(?:([0-9]*)\\dot\s*(?:\{([0-9])\}|([0-9])))?|\(([0-9]+)\)(?=\s*\Z))"
)
r"""``0.1\overline{6}``, ``0.\dot{1}4285\dot{7}``, ``0.1(6)``: the digits before the period, and those of it."""
_DOTS = re.compile(r"(?<![0-9.])([0-9]*)\.([0-9]{2,60})\s*(?:\.{3,}|\\[lc]?dots[bcm]?(?![A-Za-z]))")
_LOG_BASE = re.compile(r"(?<![\\A-Za-z])log(2|10)\(")
_LINES = re.compile(r"[=<>]|\\(?:le|ge|lt|gt|leq|geq|leqslant|geqslant|ne|neq|approx)(?![A-Za-z])")
_REMARK = re.compile(r"([-+]?\$?[0-9][0-9.,/ ]*)\s+\([ ]?[A-Za-z][A-Za-z .,'-]*\)")
"""``9 (apples)``: words in brackets, apart from the number before them, say what is counted."""
_GLUED = re.compile(r"(?<=[0-9)}])(or|and)(?=[A-Z(-])")
_HALF_DAY = re.compile(r"\b([ap])\.\s?m\b\.?", re.IGNORECASE)
_UNIT_FRACTION = re.compile(r"[A-Za-z]+(?:\^?[23])?(?:\s*/\s*[A-Za-z]+(?:\^?[23])?)?\.?")
_UNIT_PARTS = re.compile(r"[A-Za-z]+|[/^23]")
_COMMAS = re.compile(r"(?<![0-9.,])([0-9]{1,3}(?:,[0-9]{3})+)(?![0-9,])")
_CONTROL = re.compile(r"[\x00-\x08\x0e-\x1f\x7f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_CODE = re.compile(
    r"__[a-z]|\b(?:exec|eval|getattr|globals|subprocess|compile|print|open|system|popen)\s*\(|"
    r"\bimport\s+[a-z]|\blambda\s+\w*\s*:|[^\W\d]\d*+\.[a-z]++\(|\bos\.[a-z]|<script|/bin/",
    re.IGNORECASE,
)


def to_ascii(text: str) -> str:
    """Return the text with Unicode digits, signs, superscripts and vulgar fractions in their plain forms."""
    text = text.replace("\x0crac", "\\frac")  # a backslash lost in JSON
    if "\\\\" in text and _ESCAPED.search(text) and all(len(run) % 2 == 0 for run in _BACKSLASHES.findall(text)):
        text = text.replace("\\\\", "\\")  # escaped once too often
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
def tokens_of(answer: str, *, letters: bool = False) -> tuple[str, ...]:
    """Return the normal form of an answer as tokens.

    A token is a number, one letter, a Greek letter's or function's name, an operator or bracket, ``deg``, ``%``, or a
    quoted word (``'odd``). Spacing, sizing and fonts are gone; a currency sign stands behind its number as a word.
    ``letters`` reads a short bare word as a product of unknowns.
    """
    text = _prepared(_unwrapped(to_ascii(answer).strip()))
    if "or" in text or "and" in text:
        text = _GLUED.sub(r" \1 ", text)
    remark = _REMARK.fullmatch(text)
    if remark:
        text = remark[1]
    tokens: list[str] = []
    for match in _LEXER.finditer(text):
        _append(match, tokens, letters=letters)
    while tokens and tokens[-1] in {".", ",", ";", "row", "?"}:
        tokens.pop()
    if tokens[-1:] == ["dots"] and "," not in tokens and tokens[-2:-1] and tokens[-2].isdigit():
        tokens.pop()  # "it is 42..."
    if "deg" in tokens:
        tokens = _with_temperature(tokens)
    if "beginaligned" in tokens or "beginmatrix" in tokens:
        tokens = _with_systems(tokens)
    return tuple(_with_currencies(tokens))


def _prepared(text: str) -> str:
    """Return a text in which numbers and lines are written in one way."""
    if "," in text or "\\" in text:
        text = _THOUSANDS.sub(lambda match: match[1] + re.sub("[^0-9]", "", match[2]), text)
    # "1,234" is a number, but "(1,234)" is a point: inside brackets a comma separates.
    if "," in text and not any(bracket in text for bracket in "([{"):
        text = _COMMAS.sub(lambda match: match[1].replace(",", ""), text)
        text = _INDIAN.sub(lambda match: match[1].replace(",", "") if ",0" in match[1] else match[1], text)
    if _GROUPS.search(text):
        text = _SPACED.sub(lambda match: match[1] + re.sub("[^0-9]", "", match[2]), text)
        text = _DOTTED.sub(
            lambda match: match[1] + match[2].replace(".", "") + (match[3] or "").replace(",", "."), text
        )
    text = _HALF_DAY.sub(r"\1m", text)
    if "." in text and ("\\" in text or ".." in text or "(" in text):
        text = _DOTS.sub(_guessed_period, _PERIOD.sub(_marked_period, text))
    if "log" in text:
        text = _LOG_BASE.sub(r"log_\1(", text)
    if "x" in text or "X" in text:
        text = _TIMES_TEN.sub(r"\\times ", text)
    if "\n" in text:
        lines = [line.strip() for line in text.split("\n") if line.strip()]
        if all(_LINES.search(line) for line in lines):
            text = " \\\\ ".join(lines)
    return text


def _marked_period(match: re.Match[str]) -> str:
    whole, fixed, group, digit, middle, *last, bracketed = (part or "" for part in match.groups())
    period = bracketed or group + digit + middle + "".join(last)
    return f"{whole}.{fixed}⟨{period}⟩" if period.strip("0") else f"{whole or 0}.{fixed}0"


def _guessed_period(match: re.Match[str]) -> str:
    """``0.3636...`` is 4/11: the digits end in two rounds of a period, three if there are others before it."""
    whole, digits = match[1], match[2]
    for before in range(3):
        for length in range(1, (len(digits) - before) // 2 + 1):
            period = digits[before : before + length]
            rounds = (len(digits) - before) / length
            repeated = (period * (int(rounds) + 1))[: len(digits) - before]
            if repeated == digits[before:] and (rounds >= 3 or before == 0):
                return f"{whole}.{digits[:before]}⟨{period}⟩" if period.strip("0") else f"{whole or 0}.{digits}"
    return match.group()


def _with_temperature(tokens: list[str]) -> list[str]:
    r"""``25^\circ C`` has a unit, and no unknown C."""
    head = tokens[:-1]
    head = head[:-2] if head[-2:] == ["{", "}"] else head
    if head[-1:] == ["deg"] and tokens[-1] in {"C", "F"} and head[-2:-1] and head[-2][-1].isdigit():
        return [*head[:-1], "'celsius" if tokens[-1] == "C" else "'fahrenheit"]
    return tokens


def _with_systems(tokens: list[str]) -> list[str]:
    r"""Return the tokens with ``\left\{`` before an array and none behind it as the brackets of a system."""
    result: list[str] = []
    open_at: list[int] = []
    for index, lexeme in enumerate(tokens):
        if lexeme in {"beginmatrix", "beginaligned"}:
            open_at.append(len(result))
            result.append(lexeme)
        elif lexeme in {"endmatrix", "endaligned"} and open_at:
            start = open_at.pop()
            after = tokens[index + 1 : index + 2]
            if result[start - 1 : start] == ["\\{"] and after != ["\\}"]:
                result[start - 1 : start + 1] = ["begincases"]
                result.append("endcases")
            elif lexeme == "endaligned":
                del result[start]
            else:
                result.append(lexeme)
        elif lexeme != "endaligned" and not (lexeme == "." and result[-1:] == ["endcases"]):
            result.append(lexeme)
    return [lexeme for lexeme in result if lexeme != "beginaligned"]


def _with_currencies(tokens: list[str]) -> list[str]:
    """Return the tokens with a currency sign before a number behind it, ``5 'dollar``; elsewhere it is dropped."""
    if not CURRENCIES.intersection(tokens):
        return tokens
    result: list[str] = []
    at = 0
    while at < len(tokens):
        lexeme = tokens[at]
        if lexeme not in CURRENCIES or (result and result[-1][-1].isdigit()):
            result.append(lexeme.replace("$", ""))
            at += 1
            continue
        end = at + 1 + (tokens[at + 1 : at + 2] == ["-"])
        amount = tokens[at + 1 : end + 1]
        while tokens[end + 1 : end + 2] and tokens[end + 1][1:].rstrip("s") in SCALES:
            end += 1
            amount.append(tokens[end])
        following = tokens[end + 1] if end + 1 < len(tokens) else ""
        is_amount = bool(amount) and amount[-1].lstrip("'")[:1].isalnum() and any(part[0].isdigit() for part in amount)
        if is_amount and (following in _AFTER_AMOUNT or following.startswith("'")):
            result += [*amount, lexeme.replace("$", "")]
            at = end + 1
        else:
            at += 1
    return result


_AFTER_AMOUNT = frozenset(["", ",", ";", "&and", "&or", ")", "]", "\\}", "row", "%"])


def _unwrapped(text: str) -> str:
    r"""Take a whole answer out of its dollars, its ``\( \)`` or its box, for inside brackets a comma separates."""
    if text[:1] not in _OPENINGS:
        return text
    for opening, closing in _WRAPPERS:
        if not (text.startswith(opening) and text.endswith(closing)):
            continue
        inner = text[len(opening) : -len(closing)]
        if not inner or "\\boxed" in inner or "$" in inner.replace("\\$", ""):
            continue
        depth = lowest = 0
        for brace in _BRACES.findall(inner):
            depth += {"{": 1, "}": -1}.get(brace, 0)
            lowest = min(lowest, depth)
        if depth == lowest == 0:
            return text if opening in "'`\"" and opening in inner else inner.strip()
    return text


_GROUPS = re.compile(r"[0-9][\\ ~'_.][ ]?[0-9]{3}")


def _append(match: re.Match[str], tokens: list[str], *, letters: bool) -> None:
    kind, text = match.lastgroup, match.group()
    if kind == "num":
        # The minutes of 10:05 keep their zero: two digits make it a time, not a ratio.
        tokens.append(text if tokens and tokens[-1] == ":" else _number(text))
    elif kind == "word":
        tokens.extend(_letters(match, tokens, letters=letters))
    elif kind == "command":
        _append_command(text, tokens)
    elif kind == "foreign":
        tokens.append("'" + text.lower() if len(text) > 1 or not text.isascii() else text)
    elif kind == "dots":
        tokens.append("dots")
    elif kind == "unit":
        # "5 m" and "x = 5 m" state a length; in "3 + 5 m" the letter may be an unknown
        symbol, before = match["symbol"], tokens[:-1]
        before = before[:-1] if before[-1:] == ["-"] else before
        is_alone = not before or before[-1] in {"=", "approx", ",", ";", "&and", "&or"}
        tokens.append("'" + symbol.lower() if is_alone else symbol)
    elif kind == "sign":
        # A digit that is no decimal one (an ideograph, a circle) is a word: int() must not meet it.
        is_currency = text == "$" and match.string.count("$") == 1
        tokens.extend(("'$dollar",) if is_currency else SIGNS.get(text, ("'" + text if text.isdigit() else text,)))
    elif kind != "space":
        tokens.extend(_composed(match, tokens))


def _composed(match: re.Match[str], before: list[str]) -> tuple[str, ...]:
    r"""Return the tokens of what is more than one sign: a text, an environment's edge, a power of ten, ``\\frac12``."""
    if match["text"] is not None:
        return _quoted(match["inner"], before)
    if match["fracdigits"] is not None:
        bottom = ("{", match["bottom"], "}") if match["bottom"] else ()
        return (match["macro"], "{", match["top"], "}", *bottom)
    if match["env"] is not None:
        edge = match["edge"]
        name = match["name"]
        if name.endswith("cases"):
            return (f"{edge}cases",)
        if name in ALIGNED:
            return (f"{edge}aligned",)
        if not name.endswith("matrix") and name != "array":
            return ()
        return (f"{edge}det" if name == "vmatrix" else f"{edge}matrix",)
    if match["scientific"] is not None or match["repeating"] is not None:
        # The tokens of ``1e3``, or the one of a repeating decimal
        text = match.group()
        if "⟨" in text:
            return (text.replace("⟨", PERIOD).rstrip("⟩"),)
        mantissa, _, exponent = text.lower().partition("e")
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
    if len(text) - len(name) > 1 and name not in COMMANDS:
        environments = ("matrix", "cases", "aligned")
        in_rows = any(tokens.count("begin" + kind) > tokens.count("end" + kind) for kind in environments)
        if in_rows or (len(name) == 1 and name.isalpha()):
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


def _quoted(inner: str, before: list[str]) -> tuple[str, ...]:
    r"""``\text{...}`` around a number or a formula is decoration; around words it is a text or a unit."""
    inner = inner.strip()
    if not inner:
        return ()
    words = inner.split()
    if len(words) == 1 and inner in FUNCTIONS and inner not in UNITS:
        return COMMANDS.get(inner, (inner,))
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


def _letters(match: re.Match[str], before: list[str], *, letters: bool) -> tuple[str, ...]:
    """Split a run of letters: a function's name, a word, a unit, or a product of unknowns."""
    text, whole = match.group(), match.string
    lowered = text.lower()
    if len(text) == 1:
        of_unit = before[-1:] == ["/"] and before[-2:-1] and before[-2].startswith("'") and text in UNIT_SYMBOLS
        return ("'" + lowered if of_unit else text,)
    is_code = lowered in CURRENCY_CODES and not before and whole[match.end() : match.end() + 2].strip()[:1].isdigit()
    if lowered in CONNECTORS or is_code:
        return (CURRENCY_CODES[lowered] if is_code else CONNECTORS[lowered],)
    after_number = _is_behind_number(before)
    if text in FUNCTIONS:
        # "10 sec." is seconds, "10 sec x" the secant: no argument follows the unit
        has_argument = whole[match.end() : match.end() + 9].lstrip()[:1] not in {"", ".", ",", ";", ")"}
        if text not in ABBREVIATIONS or not after_number or has_argument:
            return COMMANDS.get(text, (text,))
    # Up to three letters beside mathematics are a product (xy, abc); longer runs are words.
    mathematics = letters or after_number or any(sign in whole for sign in "+-*/^=_\\|<>")
    is_english = (len(lowered) > 2 or lowered == "us") and lowered in ENGLISH
    is_word = lowered in UNITS or (not letters and is_english)
    if len(text) <= 3 + letters and mathematics and not is_word:
        return tuple(text)
    return (text if text in GREEK else "'" + lowered,)


def not_an_answer(answer: str) -> str | None:
    """Return why a text is refused as an answer whatever stands in it, or None; ``answer`` is in its ASCII form."""
    if _CONTROL.search(answer):
        return "it holds control characters or broken Unicode"
    if _CODE.search(answer):
        return "it reads like program code"
    return None
