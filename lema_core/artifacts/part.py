"""The files of a table artifact: their names, and the writer of one shard's rows and rejected rows."""

from collections import Counter
from contextlib import ExitStack
from types import TracebackType
from typing import Any, Self

import pyarrow as pa

from lema_core.artifacts.files import FileSystem, atomic_file
from lema_core.artifacts.manifest import META, Manifest, PartSummary, manifest_path
from lema_core.artifacts.parquet import TableWriter, schema_of, table_of
from lema_core.errors import ArtifactError
from lema_core.records import Rejection


def part_name(start: int, stop: int) -> str:
    """Return the name of the file with the output of input rows ``start`` to ``stop``.

    The name holds the range, so that runs with other shard sizes do not overwrite each other's parts.
    """
    return f"part-{start:09d}-{stop:09d}.parquet"


def rejected_name(start: int, stop: int) -> str:
    """Return the name of the file with the rejected rows of the same range."""
    return f"{META}/{earlier_rejected_name(start, stop)}"


def earlier_rejected_name(start: int, stop: int) -> str:
    """Return its name in artifacts of LeMa up to 0.1."""
    return f"rejected-{start:09d}-{stop:09d}.parquet"


def part_files(fs: FileSystem, folder: str) -> list[str]:
    """Return the Parquet files of a folder's table, in the order of their rows.

    With a manifest, those that it names: a run with other shard sizes may have left parts beside them.
    """
    if manifest_path(fs, folder) is None:
        return fs.glob(f"{folder}/part-*.parquet")
    parts = Manifest.read(fs, folder).parts
    return [f"{folder}/{part_name(part.start, part.stop)}" for part in parts]


SUMMARY = "lema"
"""The entry of a part's metadata with its summary."""
WRITE_BATCH = 2_048
"""Rows per row group: what a part holds in memory while it is written."""


class _Table:
    """A Parquet file that grows by row groups; its bytes depend on the rows and their order alone."""

    def __init__(self, path: str, record: type) -> None:
        self.record = record
        self.rows = 0
        self._buffer: list[Any] = []
        self._file = TableWriter(path, schema_of(record))

    def add(self, row: object) -> None:
        self.rows += 1
        self._buffer.append(row)
        if len(self._buffer) >= WRITE_BATCH:
            self.flush()

    def flush(self) -> None:
        if self._buffer:
            self._file.write(table_of(self._buffer, self.record))
            self._buffer.clear()

    def close(self, metadata: dict[str, str]) -> None:
        self.flush()
        self._file.close(metadata)

    def abandon(self) -> None:
        self._file.abandon()


class PartWriter:
    """Collects a shard's rows. The caller counts the rows it read in ``rows_in``: one that lost rows stays unpublished.

    Where another run published the artifact meanwhile, the part is dropped: the artifact has its rows.
    """

    def __init__(self, fs: FileSystem, folder: str, index: int, span: tuple[int, int], record: type) -> None:
        self.rows_in = 0
        self.counts: Counter[str] = Counter()
        self._fs, self._folder, self._index, self._span, self._record = fs, folder, index, span, record
        self._reasons: Counter[str] = Counter()

    def __enter__(self) -> Self:
        with ExitStack() as files:
            # Entered first, so placed last: where a part exists, its rejected rows exist too.
            kept = files.enter_context(atomic_file(self._fs, f"{self._folder}/{part_name(*self._span)}"))
            rejected = files.enter_context(atomic_file(self._fs, f"{self._folder}/{rejected_name(*self._span)}"))
            self._kept, self._rejected = _Table(str(kept), self._record), _Table(str(rejected), Rejection)
            self._stack = files.pop_all()
        return self

    def add(self, row: object) -> None:
        """Keep a row: a Rejection goes to the rejected ones, anything else to the part."""
        if isinstance(row, Rejection):
            self._reasons[row.reason] += 1
            self._rejected.add(row)
        else:
            self._kept.add(row)

    @property
    def summary(self) -> PartSummary:
        """Return what the part holds so far."""
        return PartSummary(
            index=self._index, start=self._span[0], stop=self._span[1], rows_in=self.rows_in, rows_out=self._kept.rows,
            rejected=self._rejected.rows, reasons=dict(sorted(self._reasons.items())),
            counts=dict(sorted(self.counts.items())),
        )  # fmt: skip

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            for table in (self._kept, self._rejected):
                table.abandon()
            self._stack.__exit__(kind, error, trace)
            return
        # Both files carry it, so that a reader can see whether they were written by one attempt.
        summary = self.summary.model_dump_json()
        try:
            self._kept.close({SUMMARY: summary})
            self._rejected.close({SUMMARY: summary})
            # Checked as late as possible. A part that is still placed after that is a leftover, not damage.
            published = manifest_path(self._fs, self._folder) is not None
        except (OSError, pa.ArrowException, ArtifactError) as failure:
            self._stack.__exit__(type(failure), failure, failure.__traceback__)
            raise
        if published:
            # The files' context managers place a file only when they end without an error.
            dropped = ArtifactError(f"{self._folder} was published meanwhile by another run")
            self._stack.__exit__(ArtifactError, dropped, None)
            return
        self._stack.__exit__(None, None, None)
