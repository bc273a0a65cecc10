"""What was asked for: each run's spec and state under ``<root>/runs/``, so that it can be resumed.

The store and the ledger hold what was done; this holds only what to do, and which process is at it. A run that was
killed stays ``running`` here with a dead process, which is what makes it unfinished.
"""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from flows import stopping
from lema_core.artifacts.documents import read_document, write_document
from lema_core.artifacts.files import atomic_file, open_root
from lema_core.errors import BatchPendingError, CancelledRunError, ConfigError, LemaError
from lema_core.llm.batch.records import waits_for_batches
from lema_core.llm.ledger.claims import LEASE_S, owner_lives
from lema_core.llm.ledger.database import is_postgres
from lema_core.llm.ledger.store import LedgerStore
from lema_core.run.files import problems
from lema_core.run.runtime import ledger_at
from lema_core.run.spec import RunSpec
from lema_core.system.processes import ProcessIdentity, this_process
from lema_core.system.unexpected import as_ours

RunState = Literal["running", "waiting", "failed", "cancelled", "completed"]
"""``waiting``: batches are submitted, and nothing else is left to do before they are collected. ``cancelled``: somebody
stopped it on purpose, so that only somebody starts it again."""


class RunRecord(BaseModel):
    """One run's spec and where it stands."""

    model_config = ConfigDict(frozen=True)

    document: dict[str, Any] = Field(alias="spec")
    """The spec as it was written: another version of LeMa may not take it, which must not hide the other runs."""
    state: RunState
    updated: str
    error: str = ""
    owner: ProcessIdentity | None = None
    """The process that runs it, or was the last to."""
    crashes: int = 0
    """How often in a row its process died or was ended, not by somebody who cancelled it."""

    @field_validator("document")
    @classmethod
    def _of_a_run(cls, document: dict[str, Any]) -> dict[str, Any]:
        runtime = document.get("runtime") or {}
        if not isinstance(document.get("name"), str) or not isinstance(runtime, dict):
            raise ValueError("its spec has no name, or a runtime that is no table")  # noqa: TRY004
        if not isinstance(runtime.get("ledger"), str | None):
            raise ValueError("its ledger is no text")  # noqa: TRY004
        return document

    @property
    def name(self) -> str:
        """Return the run's name."""
        return str(self.document["name"])

    @property
    def spec(self) -> RunSpec:
        """Return what is to be run.

        Raises:
            ConfigError: this version of LeMa does not take it.
        """
        try:
            return RunSpec.model_validate(self.document)
        except ValidationError as error:
            told = "\n".join(problems(error))
            raise ConfigError(
                f"the run {self.name!r} was recorded by another version of LeMa, and this one cannot go on with it:\n"
                f"{told}\nCorrect its run file and start it again with: lema run RUN.toml; what was paid is kept"
            ) from None

    def ledger(self, root: str) -> str:
        """Return the run's ledger."""
        return ledger_at(root, (self.document.get("runtime") or {}).get("ledger"))

    def running(self, root: str) -> bool:
        """Tell whether a living process is at it: by /proc on this machine, else by its sign of life in the ledger."""
        return self.state == "running" and self.owner is not None and owner_lives(self.owner, self.ledger(root))


@contextmanager
def recorded(spec: RunSpec, root: str, cancelled: Callable[[], bool] = lambda: False) -> Iterator[None]:
    """Record a run as running, and at the end as completed, waiting for batches, cancelled or failed.

    ``cancelled`` says of a run that did not finish whether somebody wished that; Ctrl-C is a person's wish, too. A
    machine that goes down sends SIGTERM, as the worker of a run that is cancelled does: its run has failed, so that it
    is resumed.

    Raises:
        ConfigError: another living process is at this run.
    """
    before = record_of(root, spec.name)
    if before and before.running(root) and before.owner != this_process():
        raise ConfigError(_occupied(before))
    crashes = before.crashes + (before.state == "running") if before else 0
    save(root, spec, "running", crashes=crashes)
    try:
        yield
    except BatchPendingError as error:
        save(root, spec, "waiting", str(error))
        raise
    except BaseException as error:
        if isinstance(error, CancelledRunError | KeyboardInterrupt) and stopping.asked() is not signal.SIGTERM:
            save(root, spec, "cancelled")
            raise
        signalled = not isinstance(error, Exception)
        by = f" by {sign.name}" if (sign := stopping.asked()) else ""
        told = f"its process was ended{by}" if signalled else str(as_ours(error)) or type(error).__name__
        # On a full disk this fails too; what the user has to hear is what failed first.
        with suppress(LemaError):
            save(root, spec, "failed", told, crashes=crashes + 1 if signalled else 0)
            # Asked last: a signal leaves seconds, and only the server knows who wished it.
            if cancelled():
                save(root, spec, "cancelled")
        raise
    save(root, spec, "completed")


def _occupied(record: RunRecord) -> str:
    owner = record.owner
    where = f"process {owner.pid} on {owner.machine.partition('/')[0]}" if owner else "another process"
    return (
        f"the run {record.name!r} is being run by {where}. Wait for it, or stop it and run again "
        f"(a process on another machine counts as dead {LEASE_S:.0f} s after its last sign of life)"
    )


def save(root: str, spec: RunSpec, state: RunState, error: str = "", crashes: int = 0) -> None:
    """Write a run's record in one step."""
    fs, path = open_root(root)
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    document = spec.model_dump(mode="json")
    record = RunRecord(spec=document, state=state, updated=now, error=error, owner=this_process(), crashes=crashes)
    with atomic_file(fs, f"{path}/runs/{spec.name}.json") as local:
        local.write_text(write_document(record), encoding="utf-8")


def records(root: str) -> list[RunRecord]:
    """Return the records under a root, the newest first.

    Raises:
        ConfigError: a file there is no record.
    """
    fs, path = open_root(root)
    found = [_read(file, fs.cat_file(file)) for file in fs.glob(f"{path}/runs/*.json")]
    return sorted(found, key=lambda record: record.updated, reverse=True)


def record_of(root: str, name: str) -> RunRecord | None:
    """Return a run's record, or None where it never ran under this root.

    Raises:
        ConfigError: the file there is no record.
    """
    fs, path = open_root(root)
    file = f"{path}/runs/{name}.json"
    return _read(file, fs.cat_file(file)) if fs.exists(file) else None


def _read(file: str, content: bytes) -> RunRecord:
    return read_document(
        content, RunRecord, lambda told: ConfigError(f"{file} is no record of a run ({told}): move it away")
    )


def awaits_batches(record: RunRecord, root: str) -> bool:
    """Tell whether a run waits for batches, or failed while some were under way: a poll that was not answered, say."""
    ledger = record.ledger(root)
    if record.state != "failed" or not (is_postgres(ledger) or Path(ledger).is_file()):
        return record.state == "waiting"
    store = LedgerStore(ledger)
    try:
        return waits_for_batches(store, record.name)
    finally:
        store.close()


def unfinished(root: str, name: str | None = None) -> RunSpec:
    """Return the spec of the named run, or of the newest run that has not completed.

    Raises:
        ConfigError: there is no such run, or this version of LeMa does not take its spec.
    """
    if name is not None:
        found = record_of(root, name)
        if found is None:
            raise ConfigError(f"no run {name!r} under {root}; start one with: lema run RUN.toml --root {root}")
        return found.spec
    everything = records(root)
    open_runs = [record for record in everything if record.state != "completed"]
    if not open_runs:
        names = [record.name for record in everything]
        raise ConfigError(f"every run under {root} has completed: {names}; nothing to resume")
    return open_runs[0].spec
