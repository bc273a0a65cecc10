"""The quality gate: a pilot of corrections is judged before the rest is paid for (paper, section 2.1: 50 by hand).

The pilot's mistakes are a seeded draw from all of them, and its corrections are an artifact like any other. The
ratings (``rating.pilot``) and the decision are stored beside the store, in one folder per pilot. Neither the gate nor
its decision enters the identity of the corrections: it decides whether they are made, not what they are.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from lema_core.artifacts import ArtifactRef, Store
from lema_core.artifacts.files import atomic_file, open_root
from lema_core.errors import DataError
from lema_core.rating.pilot import PilotSummary, is_begun, summarize_ratings
from lema_core.records import Correction

DECISION = "decision.json"


@dataclass(frozen=True, slots=True)
class Findings:
    """What is known about a pilot when it is judged."""

    mistakes: int
    corrected: int
    """Mistakes with an accepted correction."""
    reasons: Mapping[str, int]
    """Rejected tries by reason."""
    ratings: PilotSummary | None
    """None where nobody has started to rate."""

    @property
    def accepted_share(self) -> float:
        """Return the share of mistakes with an accepted correction; 1 where there are no mistakes to correct."""
        return self.corrected / self.mistakes if self.mistakes else 1.0

    def describe(self) -> str:
        """Return the findings as sentences."""
        found = f"{self.corrected} of {self.mistakes} mistakes have an accepted correction ({self.accepted_share:.0%})."
        if self.reasons:
            found += f" Rejected: {', '.join(f'{n} {reason}' for reason, n in _by_count(self.reasons))}."
        for rater, counts in self.ratings.by_rater.items() if self.ratings else ():
            found += f" {rater}: {', '.join(f'{n} {name}' for name, n in counts.items())}."
        for (first, second), agreement in self.ratings.agreement.items() if self.ratings else ():
            found += f" {first} and {second} agree on {agreement.share_equal:.0%} (kappa {agreement.value:.2f})."
        return found


class GateRule(BaseModel):
    """What lets a pilot pass without a person. Each bound is a share, 0 to 1."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    min_accepted: float | None = Field(None, ge=0, le=1)
    """Of the pilot's mistakes at least this share has an accepted correction."""
    max_poor: float | None = Field(None, ge=0, le=1)
    """No rater calls more than this share poor; without ratings it holds."""

    @model_validator(mode="after")
    def _bounds_something(self) -> Self:
        if self.min_accepted is None and self.max_poor is None:
            raise ValueError("an empty rule lets everything pass: set min_accepted, max_poor or both")
        return self


class Decision(BaseModel):
    """The decision on a pilot, and the findings that it was based on."""

    model_config = ConfigDict(frozen=True)

    approved: bool
    by: Literal["person", "rule"]
    note: str = ""
    """A person's note, or the bounds that the pilot does not meet."""
    findings: str
    bounds: GateRule | None = None
    """Of the rule that decided; the run file may have changed since."""


def findings(store: Store, pilot: ArtifactRef, corrections: ArtifactRef, ratings: str) -> Findings:
    """Return what is known of a pilot: its drawn mistakes, their corrections, and the folder of its ratings."""
    paths = {row.path_id for row in store.rows(corrections, Correction)}
    return Findings(
        mistakes=store.manifest(pilot).rows_out,
        corrected=len(paths),
        reasons=store.manifest(corrections).reasons,
        ratings=summarize_ratings(ratings) if is_begun(ratings) else None,
    )


def objections(rule: GateRule, found: Findings) -> list[str]:
    """Return the bounds of a rule that a pilot does not meet, in words; empty: it passes."""
    return list(_objections(rule, found))


def _objections(rule: GateRule, found: Findings) -> Iterator[str]:
    if rule.min_accepted is not None and found.accepted_share < rule.min_accepted:
        yield f"{found.accepted_share:.0%} accepted, min_accepted is {rule.min_accepted:.0%}"
    rated = found.ratings is not None and any(sum(counts.values()) for counts in found.ratings.by_rater.values())
    if rule.max_poor is not None and found.ratings is not None and rated and found.ratings.poor_share > rule.max_poor:
        yield f"{found.ratings.poor_share:.0%} rated poor, max_poor is {rule.max_poor:.0%}"


def decision_folder(root: str, corrections: ArtifactRef) -> str:
    """Return the folder of a pilot's ratings and decision: beside the store, since no stage made them."""
    return f"{root.removesuffix('/store')}/quality_gate/{corrections.fingerprint}"


def read_decision(folder: str) -> Decision | None:
    """Return the decision on the pilot of a folder; None where there is none.

    Raises:
        DataError: the file exists and cannot be read.
    """
    fs, path = open_root(folder)
    try:
        return Decision.model_validate_json(fs.cat_file(f"{path}/{DECISION}"))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise DataError(
            f"{path}/{DECISION} holds no decision ({error}). Delete it: the run then asks for one."
        ) from error


def write_decision(folder: str, decision: Decision) -> None:
    """Store the decision on a pilot in one step."""
    fs, path = open_root(folder)
    with atomic_file(fs, f"{path}/{DECISION}") as local:
        local.write_text(decision.model_dump_json(indent=2) + "\n", encoding="utf-8")


def _by_count(counts: Mapping[str, int]) -> list[tuple[str, int]]:
    return sorted(counts.items(), key=lambda item: -item[1])
