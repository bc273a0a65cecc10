"""The run file's ``[budget]`` and ``[runtime]``: shards, worker processes, the ledger's place."""

from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from lema_core.errors import ConfigError
from lema_core.llm.ledger.database import is_postgres
from lema_core.system.urls import parse_url

SCHEDULERS = frozenset({"tcp", "tls", "ucx", "ws", "wss"})
LOOPBACK = {"127.0.0.1", "localhost", "::1"}


class BudgetSpec(BaseModel):
    """The most a run may cost, over all its endpoints, counted from its first request."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    usd: float | None = Field(None, gt=0)
    tokens: int | None = Field(None, gt=0)


class RuntimeSpec(BaseModel):
    """How the work is cut up, and where it is done. None of it changes a row."""

    # A ledger's URL may hold a password, which pydantic's own text of an error would repeat.
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

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

    @field_validator("ledger")
    @classmethod
    def _ledger_is_a_place(cls, ledger: str | None) -> str | None:
        if ledger is not None:
            try:
                is_postgres(ledger)
            except ConfigError as error:
                raise ValueError(str(error)) from None
        return ledger

    @model_validator(mode="after")
    def _one_cluster_and_one_ledger(self) -> Self:
        if self.workers and self.scheduler:
            raise ValueError("workers starts processes here and scheduler names a cluster; set one of them")
        host = _scheduler_host(self.scheduler) if self.scheduler else ""
        if host and host not in LOOPBACK and not (self.ledger and is_postgres(self.ledger)):
            raise ValueError(
                f"workers on other machines ({host}) need one ledger for all, or each would pay for itself; set "
                "ledger to a PostgreSQL URL"
            )
        return self


def _scheduler_host(url: str) -> str:
    try:
        return parse_url(url, "scheduler", SCHEDULERS, "give certificates in Dask's own configuration").host
    except ConfigError as error:
        raise ValueError(str(error)) from None


def ledger_under(root: str) -> str:
    """Return the ledger that all runs under a root share: what ``ledger.url`` there names, else ``ledger.sqlite``.

    Raises:
        ConfigError: ``ledger.url`` cannot be read.
    """
    folder = Path(root if "://" not in root else ".lema")
    named = folder / "ledger.url"
    try:
        return named.read_text(encoding="utf-8").strip() if named.is_file() else str(folder / "ledger.sqlite")
    except (OSError, UnicodeError) as error:
        raise ConfigError(
            f"{named} cannot be read ({error}). It holds one line, a postgresql:// URL: correct it, or remove it to go "
            "back to ledger.sqlite"
        ) from None


def ledger_at(root: str, own: str | None) -> str:
    """Return the ledger of a run under a root: its own, or the one that all runs there share."""
    ledger = own or ledger_under(root)
    return ledger if is_postgres(ledger) else str(Path(ledger).absolute())
