"""The plan of a collection's mistakes and their corrections: the pilot, every corrector, the second teacher."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

from flows.endpoints import Endpoints
from flows.planning.planned import Asked, PlannedStage, named, times
from lema_core import identities
from lema_core.artifacts import ArtifactRef, Identity, Store
from lema_core.corrections.requests import correction_requests
from lema_core.corrections.specs import CorrectionsSpec
from lema_core.llm.endpoints import EndpointSpec
from lema_core.questions import get_task
from lema_core.rating.gate_spec import QualityGateSpec
from lema_core.records import JudgedPath
from lema_core.run.artifacts import Collection
from lema_core.run.spec import RunSpec


@dataclass(frozen=True, slots=True)
class CorrectionsPlan:
    """Plans what follows the verdicts of one collection."""

    run: RunSpec
    spec: CorrectionsSpec
    store: Store
    models: Endpoints
    stage: Callable[..., PlannedStage]
    """Makes a stage of its name and identity, and notes its rows."""
    rows: Callable[[ArtifactRef], int | None]
    """Returns the rows of an artifact that is planned already."""

    def stages(self, into: Collection, mistaken: list[ArtifactRef]) -> Iterator[PlannedStage]:
        """Yield the stages; ``mistaken`` are the verdicts on the students whose mistakes are collected."""
        mistakes = self._mistakes(into, mistaken)
        into.mistakes = mistakes.ref
        yield mistakes
        for name in self.spec.endpoints:
            if self.run.quality_gate and into.round == 0:
                yield from self._gate(self.run.quality_gate, self.models[name], mistakes)
            corrections, *second = self._corrected(into, self.models[name], mistakes)
            into.corrections[name] = corrections.ref
            yield from (corrections, *second)

    def _mistakes(self, into: Collection, mistaken: list[ArtifactRef]) -> PlannedStage:
        rows = sum(self.rows(ref) or 0 for ref in mistaken)
        if self.run.mistakes.per_question:
            rows = min(rows, self.run.mistakes.per_question * (self.rows(into.questions) or 0))
        prints = [ref.fingerprint for ref in mistaken]
        return self.stage(named("mistakes", into), identities.mistakes(self.run.mistakes, prints), rows)

    def _corrected(self, into: Collection, teacher: EndpointSpec, mistakes: PlannedStage) -> Iterator[PlannedStage]:
        """Yield the corrections; a second teacher's requests are a line of their own of the same artifact."""
        identity, most = self._identity(teacher, mistakes.ref), self.spec.max_tokens
        yield self.stage(
            named("corrections", into), identity, times(mistakes.rows, self.spec.tries), teacher,
            asked=self._requests(mistakes, self.spec.tries), max_tokens=most,
        )  # fmt: skip
        if self.spec.second:
            yield self.stage(
                named("corrections, second teacher", into), identity, mistakes.rows, self.models[self.spec.second],
                asked=self._requests(mistakes, 1), max_tokens=most,
            )  # fmt: skip

    def _gate(self, gate: QualityGateSpec, teacher: EndpointSpec, mistakes: PlannedStage) -> Iterator[PlannedStage]:
        """Yield the pilot and its corrections, without requests: they are among those of all mistakes."""
        rows = None if mistakes.rows is None else min(mistakes.rows, gate.rows)
        pilot = self.stage("quality_gate", identities.quality_gate(gate, mistakes.ref.fingerprint), rows)
        identity = self._identity(teacher, pilot.ref)
        yield from (pilot, self.stage("corrections of the pilot", identity, times(pilot.rows, self.spec.tries)))

    def _identity(self, teacher: EndpointSpec, mistakes: ArtifactRef) -> Identity:
        second = self.models[self.spec.second] if self.spec.second else None
        task = self.run.questions.task
        return identities.corrections(self.spec, teacher.identity, task, mistakes.fingerprint, second)

    def _requests(self, mistakes: PlannedStage, tries: int) -> Asked | None:
        if not mistakes.there:
            return None
        rows, about = partial(self.store.rows, mistakes.ref, JudgedPath), get_task(self.run.questions.task)
        return lambda: correction_requests(rows(), about, self.spec.sampling(), tries)
