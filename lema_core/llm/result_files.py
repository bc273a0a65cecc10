"""What ``lema complete`` writes: completions and rejected rows as Parquet, in the input's order, and a manifest.

Files get their names when they are complete, the manifest last. Nothing in them depends on times, on how often the
command was killed, or on who answered first: the same ledger gives the same bytes.
"""

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from lema_core.artifacts.files import atomic_local
from lema_core.errors import ArtifactError, LemaError
from lema_core.llm.requests import Completion, Outcome
from lema_core.system.files import file_sha256

COMPLETIONS, REJECTED, MANIFEST = "completions.parquet", "rejected.parquet", "manifest.json"
GROUP = 2000
"""Rows in a row group, which is in memory as a whole."""
GROUP_CHARS = 16 * 2**20
"""Long answers make smaller row groups, by their lengths alone: the same rows give the same bytes."""

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


def load_finished(folder: Path, inputs: dict[str, Any]) -> dict[str, Any] | None:
    """Return the manifest if the folder already holds exactly these inputs' answers, none rejected, else None."""
    from lema_core.artifacts.parquet import open_table

    try:
        manifest: dict[str, Any] = json.loads((folder / MANIFEST).read_text("utf-8"))
        rows = manifest["rows"] if isinstance(manifest["rows"], int) else -1
        whole = all(file_sha256(folder / name) == digest for name, digest in manifest["files"].items())
        same = manifest["inputs"] == inputs and manifest["rejected"] == 0
        with (folder / COMPLETIONS).open("rb") as file, open_table(file, ArtifactError) as table:
            whole = whole and table.rows == rows
    except (LemaError, OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    return manifest if whole and same else None


class ResultWriter:
    """Writes one folder. Left without an error, the files get their names, the manifest last; else nothing is left.

    Raises:
        ArtifactError: the folder cannot be written.
    """

    def __init__(self, folder: Path, inputs: dict[str, Any]) -> None:
        import pyarrow as pa

        self.folder = folder
        self.rows = {COMPLETIONS: 0, REJECTED: 0}
        self.reasons: dict[str, int] = {}
        self._inputs = inputs
        self._chars = 0
        """In the buffers since the last flush of any of them."""
        self._buffers: dict[str, list[tuple[Any, ...]]] = {COMPLETIONS: [], REJECTED: []}
        self._schemas = {name: pa.schema(list(columns.items())) for name, columns in _COLUMNS.items()}

    def __enter__(self) -> Self:
        from lema_core.artifacts.parquet import TableWriter

        with self._report_errors(), ExitStack() as files:
            self._paths = {name: files.enter_context(atomic_local(self.folder / name)) for name in _COLUMNS}
            self._writers: dict[str, Any] = {}
            for name, schema in self._schemas.items():
                self._writers[name] = TableWriter(self._paths[name], schema)
                files.callback(self._writers[name].abandon)
            self._files = files.pop_all()
        return self

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

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self._files.__exit__(kind, error, trace)
            return
        with self._report_errors():
            with self._files:
                for name, writer in self._writers.items():
                    self._flush(name)
                    writer.close()
                manifest = {
                    "inputs": self._inputs,
                    "rows": self.rows[COMPLETIONS],
                    "rejected": self.rows[REJECTED],
                    "files": {name: file_sha256(path) for name, path in self._paths.items()},
                }
                # An older manifest must not vouch for files that are being replaced.
                (self.folder / MANIFEST).unlink(missing_ok=True)
            with atomic_local(self.folder / MANIFEST) as local:
                local.write_text(json.dumps(manifest, indent=1, sort_keys=True) + "\n", "utf-8")

    def _append(self, name: str, row: tuple[Any, ...]) -> None:
        self._buffers[name].append(row)
        self._chars += sum(len(cell) for cell in row if isinstance(cell, str))
        self.rows[name] += 1
        if len(self._buffers[name]) >= GROUP or self._chars >= GROUP_CHARS:
            with self._report_errors():
                self._flush(name)

    @contextmanager
    def _report_errors(self) -> Iterator[None]:
        try:
            yield
        except (OSError, ArtifactError) as error:
            raise ArtifactError(
                f"cannot write into {self.folder}: {str(error).rstrip('.')}. The ledger keeps what was paid"
            ) from error

    def _flush(self, name: str) -> None:
        import pyarrow as pa

        rows, self._buffers[name] = self._buffers[name], []
        self._chars = 0
        if rows:
            arrays = [
                pa.array(column, field.type)
                for column, field in zip(zip(*rows, strict=True), self._schemas[name], strict=True)
            ]
            self._writers[name].write(pa.Table.from_arrays(arrays, schema=self._schemas[name]))
