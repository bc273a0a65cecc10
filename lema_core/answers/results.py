"""Families of answers, scorers of the user's own, and what the layers hand to each other.

A scorer is named as a Python entry point, ``package.module:object``, in the place of a task's family. The object has
``extract(text) -> str | None`` and ``match(gold, answer) -> bool | None``; None from the first is no answer, from the
second unknown. It runs in this process, as the user's own code.
"""

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, Protocol, cast

from lema_core.errors import ConfigError

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


_TASKS: Mapping[str, Family] = {
    "gsm8k": "numeric", "svamp": "numeric", "asdiv": "numeric", "arithmetic": "numeric", "math": "latex",
    "csqa": "choice", "commonsenseqa": "choice", "commonsense_qa": "choice",
}  # fmt: skip
FAMILIES: tuple[Family, ...] = ("numeric", "latex", "choice", "text")
"""What a row of a file may name as its family."""


class Scorer(Protocol):
    """What a user's scorer offers."""

    def extract(self, text: str) -> str | None:
        """Return the final answer of a solution, None where there is none."""

    def match(self, gold: str, answer: str) -> bool | None:
        """Return whether the answer is the gold answer, None where that is unknown."""


def is_scorer(family: str) -> bool:
    """Whether a family names a scorer and not one of the built-in families."""
    return ":" in family


@lru_cache(maxsize=64)
def load_scorer(reference: str) -> Scorer:
    """Import a scorer.

    Raises:
        ConfigError: the module or object does not exist, or lacks a method.
    """
    module, _, name = reference.partition(":")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(f"scorer {reference!r}: {error}; give it as package.module:object") from error
    missing = [method for method in ("extract", "match") if not callable(getattr(found, method, None))]
    if missing:
        raise ConfigError(
            f"scorer {reference!r} has no {' and no '.join(missing)}; it needs extract(text) and match(gold, answer)"
        )
    return cast("Scorer", found)


def extract_with(reference: str, text: str) -> Extraction:
    """Extract by the user's scorer; what it raises is an outcome of the row, not of the run."""
    try:
        value = load_scorer(reference).extract(text)
    except ConfigError:
        raise
    except Exception as error:  # noqa: BLE001 the user's code may raise anything
        return Extraction("refused", cue="scorer", detail=f"{type(error).__name__}: {error}"[:200])
    return Extraction("none", cue="scorer") if value is None else Extraction("value", str(value), "scorer")


def match_with(reference: str, gold: str, answer: str) -> Match:
    """Compare by the user's scorer; what it raises leaves the pair unknown."""
    try:
        equal = load_scorer(reference).match(gold, answer)
    except ConfigError:
        raise
    except Exception as error:  # noqa: BLE001 the user's code may raise anything
        return Match("unknown", "scorer", f"{type(error).__name__}: {error}"[:200])
    return Match("unknown" if equal is None else "equal" if equal else "different", "scorer", reference)


def family_of(row: Mapping[str, Any], default: Family = "latex") -> Family:
    """Return the family that a case asks for by its ``family``, ``candidates``, ``task`` or ``kind``, else ``default``.

    A row names one of the four families and nothing else: code is imported only for a scorer that the caller gives as
    ``default``. ``kind`` is a common label in files of others, so it counts last; ``ignored_family`` says what was not
    understood.
    """
    family, task = row.get("family"), row.get("task")
    if isinstance(family, str) and (_is_family(family) or family == default):
        return family
    if isinstance(row.get("candidates"), list | tuple) and row["candidates"]:
        return "choice"
    if isinstance(task, str) and task.lower() in _TASKS:
        return _TASKS[task.lower()]
    return row["kind"] if takes_kind(row) else default


def takes_kind(row: Mapping[str, Any]) -> bool:
    """Whether only the label ``kind`` of a case says how its answers are written."""
    task, kind = row.get("task"), row.get("kind")
    named = _is_family(row.get("family")) or row.get("candidates") or (isinstance(task, str) and task.lower() in _TASKS)
    return not named and _is_family(kind)


def _is_family(name: object) -> bool:
    return isinstance(name, str) and name in FAMILIES


def ignored_family(row: Mapping[str, Any], default: Family = "latex") -> str | None:
    """Return the ``family`` of a case that is none of the four and not the one that the caller gave, None if it is."""
    family = row.get("family")
    return None if family is None or family == default or _is_family(family) else str(family)
