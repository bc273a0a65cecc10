"""The quality gate: a pilot of corrections that is judged before the rest is paid for (paper, section 2.1)."""

from dataclasses import dataclass
from functools import cached_property

from pydantic import Field

from lema_core.artifacts import ArtifactRef, Identity, PartWriter, Shard, Store
from lema_core.rating.pilot import GateRule, draw_pilot
from lema_core.records import JudgedPath
from lema_core.stages import Section
from lema_core.stages.corrections import Corrections
from lema_core.stages.stage import RowCount, RowStage, times


class QualityGateSpec(Section):
    """A pilot of corrections that is judged before the rest is paid for (paper, section 2.1: 50 pairs by hand)."""

    rows: int = Field(50, ge=1)
    """Mistakes in the pilot."""
    seed: int = 0
    """Fixes the draw."""
    rule: GateRule | None = None
    """None: the run waits until a person approves in the UI."""
    wait_hours: float = Field(168, gt=0)
    """How long it waits; afterwards the run ends, and ``lema resume`` asks again."""


@dataclass(frozen=True)
class PilotMistakes(RowStage):
    """The pilot's mistakes: a seeded draw."""

    name = "quality_gate"
    revision = 1
    record = JudgedPath

    spec: QualityGateSpec
    mistakes: ArtifactRef

    @cached_property
    def identity(self) -> Identity:
        """What is drawn, never how it is judged."""
        return self._identity(self.spec.model_dump(include={"rows", "seed"}), [self.mistakes])

    def row_bound(self, rows: RowCount) -> int | None:
        """Return the draws, at most all mistakes."""
        mistakes = rows(self.mistakes)
        return None if mistakes is None else min(mistakes, self.spec.rows)

    def write(self, store: Store, shard: Shard, part: PartWriter) -> None:  # noqa: ARG002
        """Draw the pilot's mistakes."""
        for row in draw_pilot(store.rows(self.mistakes, JudgedPath), self.spec.rows, self.spec.seed):
            part.rows_in += 1
            part.add(row)


@dataclass(frozen=True)
class PilotCorrections(Corrections):
    """The corrections of the pilot, which wait for an approval.

    Their requests are among those of all mistakes: the ledger has the answers then, and a plan counts them once.
    """

    gate: QualityGateSpec

    def row_bound(self, rows: RowCount) -> int | None:
        """Return the tries on the pilot's mistakes."""
        return times(rows(self.mistakes), self.spec.tries)

    def calls(self, store: Store, rows: RowCount) -> tuple[()]:  # noqa: ARG002
        """Return nothing."""
        return ()
