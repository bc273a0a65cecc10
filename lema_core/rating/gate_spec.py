"""The run file's ``[quality_gate]``: how large the pilot of corrections is, and what lets it pass."""

from typing import Self

from pydantic import BaseModel, ConfigDict, Field, model_validator


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


class QualityGateSpec(BaseModel):
    """A pilot of corrections that is judged before the rest is paid for (paper, section 2.1: 50 pairs by hand)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rows: int = Field(50, ge=1)
    """Mistakes in the pilot."""
    seed: int = 0
    """Fixes the draw."""
    rule: GateRule | None = None
    """None: the run waits until a person approves in the UI."""
    wait_hours: float = Field(168, gt=0)
    """How long it waits; afterwards the run ends, and ``lema resume`` asks again."""
