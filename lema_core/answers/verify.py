"""Compare pairs of texts as ``lema verify`` does, keeping what was extracted and why it was decided so."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from lema_core.answers.extraction import read_answer
from lema_core.answers.matching import match
from lema_core.answers.results import DEFAULT_POLICY, Extraction, Family, Match, MatchOutcome, MatchPolicy
from lema_core.answers.worker_pool import Workers

_TASKS: Mapping[str, Family] = {
    "gsm8k": "numeric", "svamp": "numeric", "asdiv": "numeric", "arithmetic": "numeric", "math": "latex",
    "csqa": "choice", "commonsenseqa": "choice", "commonsense_qa": "choice",
}  # fmt: skip
FAMILIES: tuple[Family, ...] = ("numeric", "latex", "choice", "text")
"""What a row of a file may name as its family."""


@dataclass(frozen=True, slots=True)
class Verification:
    """One pair with everything that led to its verdict."""

    family: Family
    gold: Extraction
    pred: Extraction
    match: Match

    @property
    def verdict(self) -> str:
        """Equal, different or unknown."""
        return self.match.outcome


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


def verify_pair(
    gold: str,
    pred: str,
    family: Family = "latex",
    candidates: tuple[str, ...] | None = None,
    *,
    workers: Workers | None = None,
    policy: MatchPolicy = DEFAULT_POLICY,
) -> Verification:
    """Compare two texts, each a bare answer or a whole solution. ``gold`` comes first."""
    left, right = read_answer(gold, family, candidates), read_answer(pred, family, candidates)
    if left.outcome == "none" and left.cue == "boxed":
        left = Extraction("value", gold.strip(), "whole")  # a box that is not closed cuts off a prediction, not a gold
    result = _compare(left, right, partial(_match, family, candidates, workers, policy))
    return Verification(family, left, right, result)


def _match(
    family: Family,
    candidates: tuple[str, ...] | None,
    workers: Workers | None,
    policy: MatchPolicy,
    gold: str,
    pred: str,
) -> Match:
    return match(gold, pred, family, candidates, workers=workers, policy=policy)


def _compare(left: Extraction, right: Extraction, matched: Callable[[str, str], Match]) -> Match:
    """Compare what was read; another reading of the prediction counts where it is the gold answer."""
    if left.value is None and left.alternative is None:
        return Match("unknown", "extraction", f"gold: {left.outcome}, {left.detail}")
    gold = left.value if left.value is not None else left.alternative or ""
    first = None if right.value is None else matched(gold, right.value)
    if right.alternative is not None and (first is None or first.outcome != "equal"):
        other = matched(gold, right.alternative)
        if other.outcome == "equal" or (first is None and other.outcome == "different"):
            return other
    if first is not None:
        return first
    # A text without an answer is no right answer; one that was taken back or has several is undecided
    outcome: MatchOutcome = "different" if right.outcome == "none" else "unknown"
    return Match(outcome, "extraction", f"pred: {right.outcome}, {right.detail}")
