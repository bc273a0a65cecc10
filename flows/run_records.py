"""What was asked for: each run's spec and state under ``<root>/runs/``, so that ``lema resume`` can go on with it.

The store and the ledger hold what was done; this holds only what to do. A run that was killed stays ``running`` here,
which is what makes it unfinished.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from lema_core.artifacts.files import atomic_file, open_root
from lema_core.errors import ConfigError, LemaError
from lema_core.specs import RunSpec

RunState = Literal["running", "failed", "completed"]


class RunRecord(BaseModel):
    """One run's spec and where it stands."""

    model_config = ConfigDict(frozen=True)

    spec: RunSpec
    state: RunState
    updated: str
    error: str = ""


@contextmanager
def recorded(spec: RunSpec, root: str) -> Iterator[None]:
    """Record a run as running, and at the end as completed or failed."""
    save(root, spec, "running")
    try:
        yield
    except BaseException as error:
        # On a full disk this fails too; what the user has to hear is what failed first.
        with suppress(LemaError):
            save(root, spec, "failed", str(error) or type(error).__name__)
        raise
    save(root, spec, "completed")


def save(root: str, spec: RunSpec, state: RunState, error: str = "") -> None:
    """Write a run's record in one step."""
    fs, path = open_root(root)
    record = RunRecord(
        spec=spec, state=state, updated=datetime.now(UTC).isoformat(timespec="milliseconds"), error=error
    )
    with atomic_file(fs, f"{path}/runs/{spec.name}.json") as local:
        local.write_text(record.model_dump_json(indent=2, exclude_defaults=False) + "\n", encoding="utf-8")


def records(root: str) -> list[RunRecord]:
    """Return the records under a root, the newest first."""
    fs, path = open_root(root)
    documents: list[dict[str, Any]] = [json.loads(fs.cat_file(file)) for file in fs.glob(f"{path}/runs/*.json")]
    return sorted((RunRecord.model_validate(d) for d in documents), key=lambda r: r.updated, reverse=True)


def unfinished(root: str, name: str | None = None) -> RunSpec:
    """Return the spec of the named run, or of the newest run that has not completed.

    Raises:
        ConfigError: there is no such run.
    """
    found = records(root)
    if name is not None:
        found = [record for record in found if record.spec.name == name]
        if not found:
            raise ConfigError(f"no run {name!r} under {root}; start one with: lema run RUN.toml --root {root}")
        return found[0].spec
    open_runs = [record for record in found if record.state != "completed"]
    if not open_runs:
        raise ConfigError(f"every run under {root} has completed: {[r.spec.name for r in found]}; nothing to resume")
    return open_runs[0].spec
