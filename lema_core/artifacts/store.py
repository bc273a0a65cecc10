"""The artifact store: which artifacts exist, writing their parts, publishing them, reading their rows.

The store alone decides what is done: an artifact exists when its manifest does, a shard is done when its part does.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from lema_core.artifacts.files import atomic_file, open_root, sweep
from lema_core.artifacts.fingerprint import Identity
from lema_core.artifacts.manifest import MANIFEST, Manifest, PartSummary, add_up
from lema_core.artifacts.part import PartWriter
from lema_core.artifacts.schema import rows_from_batch, schema_of
from lema_core.artifacts.table_files import part_name, rejected_name
from lema_core.errors import ArtifactError
from lema_core.records import Rejection

T = TypeVar("T")

READ_BATCH = 2_048
"""Rows held at a time while reading: a few megabytes of text."""


ASKED_AT_ONCE = 16
"""An object store takes 10 to 50 ms to answer; two thousand parts one after the other would be a minute."""


@dataclass(frozen=True, slots=True)
class ArtifactRef:
    """The small thing tasks hand to each other in place of the data."""

    stage: str
    fingerprint: str

    @property
    def folder(self) -> str:
        """Return ``<stage>/<fingerprint>``, relative to the store's root."""
        return f"{self.stage}/{self.fingerprint}"


@dataclass(frozen=True, slots=True)
class Shard:
    """A range of input rows that one task deals with."""

    index: int
    start: int
    stop: int


def shards_of(rows: int, size: int) -> list[Shard]:
    """Cut ``rows`` input rows into shards of ``size``; no rows give one empty shard: each artifact has a part."""
    starts = range(0, max(rows, 1), size)
    return [Shard(i, start, min(start + size, rows)) for i, start in enumerate(starts)]


class Store:
    """Artifacts under one root (a folder or any fsspec URL)."""

    def __init__(self, root: str) -> None:
        self.root = root
        self.fs, self.path = open_root(root)

    def folder(self, ref: ArtifactRef) -> str:
        """Return the artifact's folder on the store's file system."""
        return f"{self.path}/{ref.folder}"

    def exists(self, ref: ArtifactRef) -> bool:
        """Tell whether the artifact is published."""
        return bool(self.fs.exists(f"{self.folder(ref)}/{MANIFEST}"))

    def manifest(self, ref: ArtifactRef) -> Manifest:
        """Read an artifact's manifest.

        Raises:
            ArtifactError: if the artifact is not published or its manifest is torn.
        """
        return Manifest.read(self.fs, self.folder(ref))

    def manifests(self) -> Iterator[Manifest]:
        """Yield the manifest of every published artifact, by path."""
        for path in sorted(self.fs.glob(f"{self.path}/*/*/{MANIFEST}")):
            stage, fingerprint = str(path).split("/")[-3:-1]
            yield self.manifest(ArtifactRef(stage, fingerprint))

    def finished_part(self, ref: ArtifactRef, shard: Shard) -> PartSummary | None:
        """Return the summary of a shard's part, or None where there is none that is whole and of the same range."""
        path = f"{self.folder(ref)}/{part_name(shard.start, shard.stop)}"
        try:
            with self.fs.open(path, "rb") as file:
                metadata = pq.read_metadata(file).metadata or {}
        except (FileNotFoundError, pa.ArrowInvalid):
            return None
        summary = PartSummary.model_validate_json(metadata[b"lema"])
        return summary if (summary.start, summary.stop) == (shard.start, shard.stop) else None

    def finished_parts(self, ref: ArtifactRef, shards: Sequence[Shard]) -> list[PartSummary | None]:
        """Return `finished_part` of every shard; on an object store many are asked for at a time."""
        if "file" in self.fs.protocol:
            return [self.finished_part(ref, shard) for shard in shards]
        with ThreadPoolExecutor(ASKED_AT_ONCE) as threads:
            return list(threads.map(lambda shard: self.finished_part(ref, shard), shards))

    def part(self, ref: ArtifactRef, shard: Shard, record: type) -> PartWriter:
        """Open a shard's part for writing: a context manager that places both files when left without an error."""
        return PartWriter(self.fs, self.folder(ref), shard.index, (shard.start, shard.stop), record)

    def publish(self, identity: Identity, parts: list[PartSummary], *, seconds: float) -> Manifest:
        """Write the manifest of a table artifact, and so make it exist.

        Raises:
            ArtifactError: if the parts' rows do not add up, or a part is missing or not what its shard wrote.
        """
        ref = ArtifactRef(identity.stage, identity.fingerprint)
        written = self.finished_parts(ref, [Shard(part.index, part.start, part.stop) for part in parts])
        for part, found in zip(parts, written, strict=True):
            if found != part:
                raise ArtifactError(
                    f"part {part.index} of {ref.folder} is not on the store as written. Run again to make it anew."
                )
        return self._write_manifest(identity, seconds=seconds, parts=tuple(parts), **add_up(parts))

    def publish_files(
        self, identity: Identity, files: list[str], *, seconds: float, extra: Mapping[str, Any] | None = None
    ) -> Manifest:
        """Write the manifest of an artifact of plain files that already lie in its folder (a checkpoint, a report)."""
        return self._write_manifest(
            identity,
            seconds=seconds,
            files=tuple(sorted(files)),
            extra=dict(extra or {}),
            rows_in=0,
            rows_out=0,
            rejected=0,
            reasons={},
        )

    def _write_manifest(self, identity: Identity, *, seconds: float, **fields: Any) -> Manifest:
        created = datetime.now(UTC).isoformat(timespec="seconds")
        manifest = Manifest(
            stage=identity.stage, fingerprint=identity.fingerprint, identity=json.loads(identity.document),
            created=created, seconds=round(seconds, 3), **fields,
        )  # fmt: skip
        folder = self.folder(ArtifactRef(identity.stage, identity.fingerprint))
        sweep(self.fs, folder)
        with atomic_file(self.fs, f"{folder}/{MANIFEST}") as local:
            local.write_text(manifest.model_dump_json(indent=2) + "\n", encoding="utf-8")
        return manifest

    def rows(self, ref: ArtifactRef, record: type[T], start: int = 0, stop: int | None = None) -> Iterator[T]:
        """Yield rows ``start`` to ``stop`` of a published table, a few thousand in memory at a time."""
        stop = self.manifest(ref).rows_out if stop is None else stop
        first = 0
        for part in self.manifest(ref).parts:
            low, high = max(start - first, 0), min(stop - first, part.rows_out)
            if low < high:
                path = f"{self.folder(ref)}/{part_name(part.start, part.stop)}"
                yield from self._part_rows(path, record, part.rows_out, low, high)
            first += part.rows_out

    def rejections(self, ref: ArtifactRef) -> Iterator[Rejection]:
        """Yield the rejected rows of a published table."""
        for part in self.manifest(ref).parts:
            if part.rejected:
                path = f"{self.folder(ref)}/{rejected_name(part.start, part.stop)}"
                yield from self._part_rows(path, Rejection, part.rejected, 0, part.rejected)

    def _part_rows(self, path: str, record: type[T], rows: int, low: int, high: int) -> Iterator[T]:
        with self._open_part(path, record, rows) as file:
            groups, at = _row_groups(file.metadata, low, high)
            for batch in file.iter_batches(batch_size=READ_BATCH, row_groups=groups, columns=schema_of(record).names):
                if at + batch.num_rows > low:
                    yield from rows_from_batch(
                        batch.slice(max(low - at, 0), min(high - at, batch.num_rows) - max(low - at, 0)),
                        record,
                    )
                at += batch.num_rows
                if at >= high:
                    return

    def _open_part(self, path: str, record: type, rows: int) -> pq.ParquetFile:
        try:
            file = pq.ParquetFile(self.fs.open(path, "rb"))
        except (FileNotFoundError, pa.ArrowInvalid) as error:
            raise ArtifactError(
                f"{path} is named by its manifest but cannot be read ({error}). Delete its folder and run again."
            ) from error
        missing = set(schema_of(record).names) - set(file.schema_arrow.names)
        if missing:
            raise ArtifactError(
                f"{path} has no column {sorted(missing)}: another version wrote it. Delete its folder and run again."
            )
        if file.metadata.num_rows != rows:
            raise ArtifactError(
                f"{path} holds {file.metadata.num_rows} rows, its manifest says {rows}. "
                "Delete its folder and run again."
            )
        return file

    def local_path(self, ref: ArtifactRef) -> Path:
        """Return where the artifact's folder is or will be, for programs that read plain files.

        Raises:
            ArtifactError: if the root is not a local folder.
        """
        if "file" not in self.fs.protocol:
            raise ArtifactError(
                f"{self.root} is no local folder, and a program needs {ref.folder} as plain files: give one as --root"
            )
        return Path(self.folder(ref))

    def local_folder(self, ref: ArtifactRef) -> Path:
        """Return the same, made where it is not there yet.

        Raises:
            ArtifactError: if the root is not a local folder.
        """
        folder = self.local_path(ref)
        folder.mkdir(parents=True, exist_ok=True)
        return folder


def _row_groups(metadata: pq.FileMetaData, low: int, high: int) -> tuple[list[int], int]:
    """Return the row groups that hold rows ``low`` to ``high``, and the first one's first row.

    A range of a large part costs what it holds: a thousand shards of one part must not read it a thousand times.
    """
    groups: list[int] = []
    first = at = 0
    for group in range(metadata.num_row_groups):
        rows = metadata.row_group(group).num_rows
        if at < high and at + rows > low:
            first = first if groups else at
            groups.append(group)
        at += rows
    return groups, first
