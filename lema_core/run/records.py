"""Each run's spec and state under ``<root>/runs/``, so that it can be resumed.

The store and the ledger hold what was done; a record holds only what to do, and which process works on it. A run that
was killed stays ``running`` here with a dead process: so it counts as unfinished.
"""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from lema_core.artifacts.files import atomic_file, open_root
from lema_core.artifacts.manifest import read_document, write_document
from lema_core.errors import BatchPendingError, CancelledRunError, ConfigError, LemaError
from lema_core.llm.batch.records import has_open_batches
from lema_core.llm.ledger.claims import LEASE_S, owner_is_alive
from lema_core.llm.ledger.database import is_postgres
from lema_core.llm.ledger.store import LedgerStore
from lema_core.run.files import problems
from lema_core.run.spec import RunSpec, ledger_at
from lema_core.system import stopping
from lema_core.system.processes import ProcessIdentity, this_process
from lema_core.system.redaction import to_lema_error

RunState = Literal["running", "waiting", "failed", "cancelled", "completed"]
"""``waiting``: batches are submitted, and nothing else can be done before they are collected. ``cancelled``: a person
stopped it on purpose, so only a person starts it again."""


class RunRecord(BaseModel):
    """One run's spec and state."""

    model_config = ConfigDict(frozen=True)

    document: dict[str, Any] = Field(alias="spec")
    """The spec as written. Another version of LeMa may refuse it, which must not hide the other runs."""
    state: RunState
    updated: str
    error: str = ""
    owner: ProcessIdentity | None = None
    """The process that runs it, or the last one that did."""
    crashes: int = 0
    """How often in a row its process died or was ended, cancellations not counted."""

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
            ConfigError: this version of LeMa refuses it.
        """
        try:
            return RunSpec.model_validate(self.document)
        except ValidationError as error:
            wrong = "\n".join(problems(error))
            raise ConfigError(
                f"the run {self.name!r} was recorded by another version of LeMa, and this one cannot go on with it:\n"
                f"{wrong}\nCorrect its run file and start it again with: lema run RUN.toml; what was paid is kept"
            ) from None

    def ledger(self, root: str) -> str:
        """Return the run's ledger."""
        return ledger_at(root, (self.document.get("runtime") or {}).get("ledger"))

    def running(self, root: str) -> bool:
        """Return whether a living process works on it, by /proc on this machine or by its heartbeat in the ledger."""
        return self.state == "running" and self.owner is not None and owner_is_alive(self.owner, self.ledger(root))


@contextmanager
def record_run(spec: RunSpec, root: str, cancelled: Callable[[], bool] = lambda: False) -> Iterator[None]:
    """Record a run as running, and at the end as completed, waiting for batches, cancelled or failed.

    ``cancelled`` returns whether a person cancelled a run that did not finish; Ctrl-C counts as cancelling. A machine
    that shuts down sends SIGTERM, and so does the worker of a cancelled run: without a cancellation such a run has
    failed, so that it is resumed.

    Raises:
        ConfigError: another living process works on this run.
    """
    before = read_record(root, spec.name)
    if before and before.running(root) and before.owner != this_process():
        raise ConfigError(_occupied_message(before))
    # A record that still says running is of a process that died: it could write nothing else.
    crashes = before.crashes + (before.state == "running") if before else 0
    write_record(root, spec, "running", crashes=crashes)
    try:
        yield
    except BatchPendingError as error:
        write_record(root, spec, "waiting", str(error))
        raise
    except BaseException as error:
        if isinstance(error, CancelledRunError | KeyboardInterrupt) and stopping.stop_signal() is not signal.SIGTERM:
            write_record(root, spec, "cancelled")
            raise
        signalled = not isinstance(error, Exception)
        by = f" by {sign.name}" if (sign := stopping.stop_signal()) else ""
        cause = f"its process was ended{by}" if signalled else str(to_lema_error(error)) or type(error).__name__
        # On a full disk this fails too, but the user must see the first error.
        with suppress(LemaError):
            write_record(root, spec, "failed", cause, crashes=crashes + 1 if signalled else 0)
            # Asked last: a signal leaves seconds, and only the server knows whether a person cancelled the run.
            if cancelled():
                write_record(root, spec, "cancelled")
        raise
    write_record(root, spec, "completed")


def _occupied_message(record: RunRecord) -> str:
    owner = record.owner
    where = f"process {owner.pid} on {owner.machine.partition('/')[0]}" if owner else "another process"
    return (
        f"the run {record.name!r} is being run by {where}. Wait for it, or stop it and run again "
        f"(a process on another machine counts as dead {LEASE_S:.0f} s after its last sign of life)"
    )


def write_record(root: str, spec: RunSpec, state: RunState, error: str = "", crashes: int = 0) -> None:
    """Write a run's record in one step."""
    fs, path = open_root(root)
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    document = spec.model_dump(mode="json")
    record = RunRecord(spec=document, state=state, updated=now, error=error, owner=this_process(), crashes=crashes)
    with atomic_file(fs, f"{path}/runs/{spec.name}.json") as local:
        local.write_text(write_document(record), encoding="utf-8")


def read_records(root: str) -> list[RunRecord]:
    """Return the records under a root, the newest first.

    Raises:
        ConfigError: a file there is no record.
    """
    fs, path = open_root(root)
    found = [_read(file, fs.cat_file(file)) for file in fs.glob(f"{path}/runs/*.json")]
    return sorted(found, key=lambda record: record.updated, reverse=True)


def read_record(root: str, name: str) -> RunRecord | None:
    """Return a run's record, or None where it never ran under this root.

    Raises:
        ConfigError: the file there is no record.
    """
    fs, path = open_root(root)
    file = f"{path}/runs/{name}.json"
    return _read(file, fs.cat_file(file)) if fs.exists(file) else None


def _read(file: str, content: bytes) -> RunRecord:
    return read_document(
        content, RunRecord, lambda cause: ConfigError(f"{file} is no record of a run ({cause}): move it away")
    )


def awaits_batches(record: RunRecord, root: str) -> bool:
    """Return whether a run waits for batches, or failed while some were submitted, e.g. by a poll without an answer."""
    ledger = record.ledger(root)
    if record.state != "failed" or not (is_postgres(ledger) or Path(ledger).is_file()):
        return record.state == "waiting"
    store = LedgerStore(ledger)
    try:
        return has_open_batches(store, record.name)
    finally:
        store.close()


def find_unfinished(root: str, name: str | None = None) -> RunSpec:
    """Return the spec of the named run, or of the newest run that has not completed.

    Raises:
        ConfigError: there is no such run, or this version of LeMa does not take its spec.
    """
    if name is not None:
        found = read_record(root, name)
        if found is None:
            raise ConfigError(f"no run {name!r} under {root}; start one with: lema run RUN.toml --root {root}")
        return found.spec
    everything = read_records(root)
    open_runs = [record for record in everything if record.state != "completed"]
    if not open_runs:
        names = [record.name for record in everything]
        raise ConfigError(f"every run under {root} has completed: {names}; nothing to resume")
    return open_runs[0].spec


def title_of(run: RunSpec) -> str:
    """Return a flow run's name, as ``gsm8k_openai: gsm8k, Qwen2.5-1.5B-Instruct taught by gpt-6-luna``."""
    students = ", ".join(dict.fromkeys(_short(run, student.endpoint) for student in run.students))
    teacher = f"taught by {_short(run, run.corrections.endpoint)}" if run.corrections else ""
    return " ".join(filter(None, (f"{run.name}: {run.questions.task}{', ' if students else ''}{students}", teacher)))


def _short(run: RunSpec, endpoint: str) -> str:
    """Return a model's name without its owner or folder."""
    return Path(run.called(endpoint)).name
