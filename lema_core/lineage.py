"""The artifacts of one run, by what they are: what a flow fills in as it goes, and what a report is made from."""

from collections.abc import Iterator
from dataclasses import dataclass, field

from lema_core.artifacts import ArtifactRef


@dataclass(slots=True)
class Lineage:
    """References to everything a run has made so far, in the paper's order."""

    questions: ArtifactRef | None = None
    test_questions: ArtifactRef | None = None
    reasoning_paths: list[ArtifactRef] = field(default_factory=list)
    """One a student."""
    verdicts: list[ArtifactRef] = field(default_factory=list)
    """One a student."""
    mistakes: ArtifactRef | None = None
    corrections: ArtifactRef | None = None
    mixtures: dict[str, ArtifactRef] = field(default_factory=dict)
    """By arm."""
    models: dict[str, ArtifactRef] = field(default_factory=dict)
    """By arm."""
    evaluations: dict[str, ArtifactRef] = field(default_factory=dict)
    """By arm, and ``base``."""
    report: ArtifactRef | None = None

    def __iter__(self) -> Iterator[ArtifactRef]:
        """Yield what the report is made from, in the paper's order."""
        arms = [*self.mixtures.values(), *self.models.values(), *self.evaluations.values()]
        sampled = [*self.reasoning_paths, *self.verdicts]
        everything = [self.questions, self.test_questions, *sampled, self.mistakes, self.corrections, *arms]
        yield from (ref for ref in everything if ref is not None)
