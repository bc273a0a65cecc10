"""What the answer layers hand to each other: extractions, matches, judgements, majorities."""

from dataclasses import dataclass
from typing import Literal

Family = str
"""How a task's answers are written: "numeric" (GSM8K, SVAMP, ASDiv), "latex" (MATH), "choice" (CommonsenseQA), "text".

Any other family is the entry point of a user's scorer, ``package.module:object``.
"""

ExtractionOutcome = Literal["value", "none", "ambiguous", "refused"]
MatchOutcome = Literal["equal", "different", "unknown"]
Verdict = Literal["right", "wrong", "none", "ambiguous", "refused", "unknown"]

MAX_TEXT_CHARS = 200_000
"""A longer solution is refused unread: 2,048 tokens, the most a student writes, are a twentieth of it."""
MAX_ANSWER_CHARS = 4_000
"""A longer final answer is refused: no gold of the tasks has a tenth of it."""


@dataclass(frozen=True, slots=True)
class Extraction:
    """A final answer found in a text, or why there is none."""

    outcome: ExtractionOutcome
    value: str | None = None
    """The answer as written, cut free of its cue and of what follows it; set only where outcome is "value"."""
    cue: str = ""
    """What marked it: ``####``, ``boxed``, ``answer``, ``whole``, ..."""
    detail: str = ""
    """What was seen, where it is not a value."""
    alternative: str | None = None
    """Another reading of the same words that only the gold answer can confirm: ``5!`` of "The answer is 5!"."""


@dataclass(frozen=True, slots=True)
class Match:
    """Whether two answers are the same, which layer decided, and on what ground."""

    outcome: MatchOutcome
    layer: str
    ground: str


@dataclass(frozen=True, slots=True)
class MatchPolicy:
    """What two final answers may differ in and still be one answer. The defaults are the safer ones."""

    units: Literal["compare", "ignore"] = "compare"
    """``5 cm`` and ``5 m``: "compare" calls them different; "ignore" drops units. A unit on one side never counts."""
    convert_units: bool = True
    """Whether ``0.50 dollars`` is ``50 cents`` and ``1 hour`` is ``60 minutes``: both sides say their unit."""
    currencies: Literal["compare", "ignore"] = "compare"
    """``5 dollars`` and ``5 euros``: "compare" calls them different; "ignore" drops the currency."""
    things: Literal["unknown", "different", "ignore"] = "unknown"
    """``5 apples`` and ``5 pears``: the words are no known unit, so they may or may not be one thing."""
    names: Literal["compare", "ignore"] = "compare"
    """``Ben: 7`` and ``Eva: 7``: "compare" calls them different; "ignore" drops what stands before a colon."""
    parameters: bool = True
    r"""Whether a letter that runs over the integers, or a constant of integration, may have another name: ``2n\pi`` is
    ``2k\pi``, ``x^2 + C`` is ``x^2 + c``. False where questions may hold such a letter as a given."""
    empty_in_words: bool = True
    r"""Whether ``no solution`` is ``\emptyset``."""


DEFAULT_POLICY = MatchPolicy()


@dataclass(frozen=True, slots=True)
class Judgement:
    """The verdict on one solution text."""

    verdict: Verdict
    answer: str | None
    decided_by: str
    """The matcher's layer, or "extraction" where there was nothing to compare."""


@dataclass(frozen=True, slots=True)
class Vote:
    """A majority vote over answers, by equivalence."""

    answer: str | None
    """The winning class's first answer as written; None where nothing could be voted for."""
    count: int
    """Votes for it."""
    total: int
    """Answers that could vote."""
    tied: bool
    """Whether another class has as many members; the class that was seen first wins."""
    classes: tuple[tuple[int, ...], ...]
    """Positions of the answers in each class, the winner's first."""
