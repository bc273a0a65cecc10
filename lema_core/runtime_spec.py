"""The run file's ``[budget]`` and ``[runtime]``: shards, worker processes, the ledger's place."""

from pathlib import Path
from typing import Self
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, model_validator

from lema_core.llm.ledger.database import is_postgres

LOOPBACK = {"127.0.0.1", "localhost", "::1"}


class BudgetSpec(BaseModel):
    """The most a run may cost, over all its endpoints, counted from its first request."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    usd: float | None = Field(None, gt=0)
    tokens: int | None = Field(None, gt=0)


class RuntimeSpec(BaseModel):
    """How the work is cut up, and where it is done. None of it changes a row."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    shard_requests: int = Field(512, ge=1)
    """Requests in one Prefect task."""
    shards_in_flight: int = Field(8, ge=1)
    """Shards that one process deals with at a time."""
    max_failed: float = Field(0.2, ge=0, le=1)
    """The largest share of requests that may fail and become rejected rows, of a shard and of a whole stage; what a
    content filter stopped does not count. Where more fail, or an endpoint answers nothing, nothing is published: the
    run ends as failed with the endpoint's words, and ``lema resume`` asks for them again. Fewer than 20 requests count
    as 20. 1 lets any number pass."""
    ledger: str | None = None
    """A PostgreSQL URL or a file; by default what ``ledger.url`` under the root names, else ``ledger.sqlite`` there."""
    workers: int | None = Field(None, ge=1)
    """Worker processes on this machine to deal with the shards; None: the flow's own process does."""
    scheduler: str | None = Field(None, pattern=r"^[a-z]+://.+:\d+$")
    """``tcp://host:port``: the scheduler of a Dask cluster to deal with the shards, in place of ``workers``."""

    @model_validator(mode="after")
    def _one_cluster_and_one_ledger(self) -> Self:
        if self.workers and self.scheduler:
            raise ValueError("workers starts processes here and scheduler names a cluster; set one of them")
        host = urlsplit(self.scheduler or "").hostname
        if host and host not in LOOPBACK and not is_postgres(self.ledger or ""):
            raise ValueError(
                f"workers on other machines ({host}) need one ledger for all, or each would pay for itself; set "
                "ledger to a PostgreSQL URL"
            )
        if is_postgres(self.ledger or "") and urlsplit(self.ledger or "").password:
            raise ValueError(
                "the ledger's URL has a password, which the Prefect UI and the run's record would show; leave it out "
                "and give it in the environment variable PGPASSWORD or in ~/.pgpass"
            )
        return self


def ledger_under(root: str) -> str:
    """Return the ledger that all runs under a root share: what ``ledger.url`` there names, else ``ledger.sqlite``."""
    folder = Path(root if "://" not in root else ".lema")
    named = folder / "ledger.url"
    return named.read_text(encoding="utf-8").strip() if named.is_file() else str(folder / "ledger.sqlite")


def ledger_at(root: str, own: str | None) -> str:
    """Return the ledger of a run under a root: its own, or the one that all runs there share."""
    ledger = own or ledger_under(root)
    return ledger if is_postgres(ledger) else str(Path(ledger).absolute())
