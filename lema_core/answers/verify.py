"""Compare pairs of texts as ``lema verify`` does, keeping what was extracted and why it was decided so."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lema_core.answers.extraction import read_answer
from lema_core.answers.matching import match
from lema_core.answers.scorers import is_scorer
from lema_core.answers.types import Extraction, Family, Match
from lema_core.answers.workers import Workers

_TASKS: Mapping[str, Family] = {
    "gsm8k": "numeric", "svamp": "numeric", "asdiv": "numeric", "arithmetic": "numeric", "math": "latex",
    "csqa": "choice", "commonsenseqa": "choice", "commonsense_qa": "choice",
}  # fmt: skip
_FAMILIES: tuple[Family, ...] = ("numeric", "latex", "choice", "text")


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
    """Return the family that a case asks for by its ``family``, ``task`` or ``kind``, else ``default``."""
    for name in (row.get("family"), row.get("kind")):
        if isinstance(name, str) and (name in _FAMILIES or is_scorer(name)):
            return name
    if row.get("candidates"):
        return "choice"
    return _TASKS.get(str(row.get("task") or "").lower(), default)


def verify_pair(
    gold: str,
    pred: str,
    family: Family = "latex",
    candidates: tuple[str, ...] | None = None,
    *,
    workers: Workers | None = None,
) -> Verification:
    """Compare two texts, each a bare answer or a whole solution. ``gold`` comes first."""
    left, right = read_answer(gold, family, candidates), read_answer(pred, family, candidates)
    for side, found in (("gold", left), ("pred", right)):
        if found.value is None:
            empty = side == "pred" and found.outcome == "none"
            result = Match(
                "different" if empty else "unknown", "extraction", f"{side}: {found.outcome}, {found.detail}"
            )
            return Verification(family, left, right, result)
    result = match(left.value or "", right.value or "", family, candidates, workers=workers)
    return Verification(family, left, right, result)
