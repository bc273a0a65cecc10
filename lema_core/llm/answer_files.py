"""What ``lema complete`` writes: completions and rejected rows as Parquet, in the input's order, and a manifest.

Files get their names when they are complete, the manifest last. Nothing in them depends on times, on how often the
command was killed, or on who answered first: the same ledger gives the same bytes.
"""

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from lema_core.errors import ArtifactError
from lema_core.llm.requests import Completion, Outcome

COMPLETIONS, REJECTED, MANIFEST = "completions.parquet", "rejected.parquet", "manifest.json"
GROUP = 2000
"""Rows in a row group; so many are held in memory."""

_COLUMNS = {
    COMPLETIONS: {
        "id": "string",
        "text": "string",
        "finish_reason": "string",
        "prompt_tokens": "int64",
        "completion_tokens": "int64",
        "model": "string",
        "request_key": "string",
    },
    REJECTED: {"id": "string", "reason": "string", "detail": "string", "request_key": "string"},
}


def finished(folder: Path, inputs: dict[str, Any]) -> dict[str, Any] | None:
    """Return the manifest if the folder already holds exactly these inputs' answers, none rejected, else None."""
    try:
        manifest: dict[str, Any] = json.loads((folder / MANIFEST).read_text("utf-8"))
        whole = all(_sha256(folder / name) == digest for name, digest in manifest["files"].items())
        same = manifest["inputs"] == inputs and manifest["rejected"] == 0
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return manifest if whole and same else None


class AnswerWriter:
    """Writes one folder; `publish` gives the files their names.

    Raises:
        ArtifactError: the folder cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        self.folder = folder
        self.rows = {COMPLETIONS: 0, REJECTED: 0}
        self.reasons: dict[str, int] = {}
        self._buffers: dict[str, list[tuple[Any, ...]]] = {COMPLETIONS: [], REJECTED: []}
        self._schemas = {name: pa.schema(list(columns.items())) for name, columns in _COLUMNS.items()}
        with self._writing():
            folder.mkdir(parents=True, exist_ok=True)
            self._writers = {
                name: pq.ParquetWriter(self._temporary(name), schema, compression="zstd")
                for name, schema in self._schemas.items()
            }

    def add(self, name: str, outcome: Outcome) -> None:
        """Add the outcome of one row.

        Raises:
            ArtifactError: the folder cannot be written.
        """
        if isinstance(outcome, Completion):
            tokens = (outcome.prompt_tokens, outcome.completion_tokens)
            row = (name, outcome.text, outcome.finish_reason, *tokens, outcome.model, outcome.key)
            self._append(COMPLETIONS, row)
        else:
            self.reasons[outcome.reason] = self.reasons.get(outcome.reason, 0) + 1
            self._append(REJECTED, (name, outcome.reason, outcome.detail, outcome.key))

    def publish(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """Close the files, give them their names, the manifest last; return it.

        Raises:
            ArtifactError: the folder cannot be written.
        """
        with self._writing():
            # An older manifest must not vouch for files that are being replaced.
            (self.folder / MANIFEST).unlink(missing_ok=True)
            for name, writer in self._writers.items():
                self._flush(name)
                writer.close()
                _replace(self._temporary(name), self.folder / name)
            manifest = {
                "inputs": inputs,
                "rows": self.rows[COMPLETIONS],
                "rejected": self.rows[REJECTED],
                "files": {name: _sha256(self.folder / name) for name in self._writers},
            }
            self._temporary(MANIFEST).write_text(json.dumps(manifest, indent=1, sort_keys=True) + "\n", "utf-8")
            _replace(self._temporary(MANIFEST), self.folder / MANIFEST)
        return manifest

    def discard(self) -> None:
        """Close and remove what was not published."""
        for name, writer in self._writers.items():
            with suppress(OSError):
                writer.close()
            self._temporary(name).unlink(missing_ok=True)

    def _append(self, name: str, row: tuple[Any, ...]) -> None:
        self._buffers[name].append(row)
        self.rows[name] += 1
        if len(self._buffers[name]) >= GROUP:
            with self._writing():
                self._flush(name)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise ArtifactError(f"cannot write into {self.folder}: {error}. The ledger keeps what was paid") from None

    def _flush(self, name: str) -> None:
        import pyarrow as pa

        rows, self._buffers[name] = self._buffers[name], []
        if rows:
            arrays = [
                pa.array(column, field.type)
                for column, field in zip(zip(*rows, strict=True), self._schemas[name], strict=True)
            ]
            self._writers[name].write_table(
                pa.Table.from_arrays(arrays, schema=self._schemas[name]), row_group_size=GROUP
            )

    def _temporary(self, name: str) -> Path:
        # By process: two commands on one folder then replace whole files, last one wins, both the same.
        return self.folder / f".{name}.{os.getpid()}.part"


def remove_leftovers(folder: Path) -> None:
    """Remove the partial files of processes that were killed and are gone."""
    import psutil

    for part in folder.glob(".*.part"):
        pid = part.suffixes[-2].lstrip(".")
        if pid.isdigit() and not psutil.pid_exists(int(pid)):
            part.unlink(missing_ok=True)


def _replace(temporary: Path, final: Path) -> None:
    with temporary.open("rb+") as file:
        os.fsync(file.fileno())
    temporary.replace(final)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
