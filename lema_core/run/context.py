"""Where and how a run works: handed to every task, and never part of an identity."""

from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict

from lema_core.run.spec import BudgetSpec, RunSpec, ledger_at
from lema_core.training.specs import LaunchSpec


class RunContext(BaseModel):
    """A root, a ledger, limits and devices; small and plain."""

    model_config = ConfigDict(frozen=True)

    root: str
    ledger: str
    run: str
    budget: BudgetSpec = BudgetSpec()
    shard_requests: int = 512
    shards_in_flight: int = 8
    max_failed: float = 0.2
    workers: int | None = None
    scheduler: str | None = None
    launch: LaunchSpec = LaunchSpec()
    go_on: str = ""
    """What a person does to go on where a run stopped; empty: ``lema resume``."""

    @classmethod
    def of(cls, spec: RunSpec, root: str) -> Self:
        """Return the context of a run file under a root; the ledger lies beside the artifacts if that is a folder.

        Places on this machine are absolute: worker processes may have another working directory.
        """
        local = "://" not in root
        root = str(Path(root).absolute()) if local else root.rstrip("/")
        return cls(
            root=f"{root}/store",
            ledger=ledger_at(root, spec.runtime.ledger),
            run=spec.name,
            budget=spec.budget,
            shard_requests=spec.runtime.shard_requests,
            shards_in_flight=spec.runtime.shards_in_flight,
            max_failed=spec.runtime.max_failed,
            workers=spec.runtime.workers,
            scheduler=spec.runtime.scheduler,
            launch=spec.launch,
        )
