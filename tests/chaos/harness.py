"""What all scenarios share: the run, the endpoint that counts, and the undisturbed runs to compare with."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from chaos.simulated_run import library_for, run_file_text, simulated_run
from chaos.snapshot import Snapshot
from lema_core.llm.simulated import Faults, SimulatedEndpoint
from lema_core.run.plan import PlannedStage, planned_stages
from lema_core.run.spec import RunSpec


@dataclass(slots=True)
class Harness:
    """A run against the simulated endpoint, and a folder for its roots."""

    run: RunSpec
    endpoint: SimulatedEndpoint
    folder: Path
    undisturbed: dict[Faults, Snapshot] = field(default_factory=dict)
    """By the faults of the answers' texts, which change what an endpoint says and so what is expected."""

    @classmethod
    @contextmanager
    def open(cls, run: RunSpec, folder: Path, *, with_training: bool) -> Iterator[Self]:
        """Start the endpoint that plays the run's endpoints.

        Raises:
            DataError: a source of questions cannot be used.
        """
        with SimulatedEndpoint(library_for(run)).in_thread() as endpoint:
            yield cls(simulated_run(run, endpoint.url, with_training=with_training), endpoint, folder)

    @property
    def concurrency(self) -> int:
        """Return the most requests that may be in flight at a time."""
        return max((endpoint.concurrency for endpoint in self.run.endpoints.values()), default=0)

    @property
    def plain(self) -> Snapshot:
        """Return what came of the run that nothing disturbed."""
        return self.undisturbed[Faults()]

    def stages(self) -> list[PlannedStage]:
        """Return the stages of the run in its order, but for the report."""
        return list(planned_stages(self.run.model_copy(update={"ablation": None}), str(self.folder / "nothing")))

    def prepare(self, name: str, faults: Faults) -> Path:
        """Give a scenario a folder with its run file, and the endpoint its faults and fresh counters."""
        place = self.folder / name
        place.mkdir(parents=True)
        spec = self.run.model_copy(update={"name": f"chaos-{name}", "title": self.run.title or self.run.name})
        (place / "run.toml").write_text(run_file_text(spec), encoding="utf-8")
        self.endpoint.faults = faults
        self.endpoint.stats.reset()
        return place
