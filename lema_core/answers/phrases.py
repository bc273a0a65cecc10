"""What the words around a number do to it: deny it, compare it, compute with it, or merely tell its context."""

import re

_CLAUSE = re.compile(r"[.,;:!?\n]|\b(?:so|then|and|but|therefore|thus|hence|because|since)\b", re.IGNORECASE)
_DENIAL = re.compile(
    r"\b(?:not(?! (?:hard|difficult|only))|never|cannot|doubt|wrong|false|incorrect|unlikely|hardly)\b|n['’]t\b",
    re.IGNORECASE,
)
_SMALL = r"(?:one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|\w+teen|twenty|thirty|forty|fifty)"
_HEDGES = re.compile(
    rf"""\b(?:not|never|cannot|neither|either|or|except|unlikely|hardly|doubt)\b|n['’]t\b
    |(?:\b(?:(?:less|more|fewer|greater|larger|bigger|smaller|higher|lower)\ than|at\ (?:least|most)|up\ to|under|over
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
_OPERATES = re.compile(r"\b(?:minus|plus|times|divided|multiplied|power|over|remainder)\b|[-+*/^]", re.IGNORECASE)


def denied(before: str) -> bool:
    """Say whether the clause in front of a cue denies what follows: "I don't think the answer is"."""
    clause = _CLAUSE.split(before[-160:])[-1]
    return bool(clause.strip()) and _DENIAL.search(clause) is not None


def hedged(before: str, behind: str = "") -> bool:
    """Say whether the words beside a number change it: "less than 5", "half of 10", "5 squared", "5 or more"."""
    return _HEDGES.search(before) is not None or _SUFFIXES.match(behind) is not None


def is_context(between: str, behind: str) -> bool:
    """Say whether a second number only tells of what or when the first one is: "18 of the 20", "18 in 3 days"."""
    if _PART_OF.fullmatch(between):
        return True
    return _DURING.fullmatch(between) is not None and _TIME.match(behind) is not None


def restates(between: str) -> bool:
    """Say whether a number said twice is one number: "18 dollars, that is $18", but not "18 minus 18"."""
    return _RESTATES.search(between) is not None and _OPERATES.search(between) is None
