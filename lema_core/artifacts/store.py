"""The artifact store: which artifacts exist, writing their parts, publishing them, reading their rows.

The store alone decides what is done: an artifact exists when its manifest does, a shard is done when its part does.
"""

import fcntl
import json
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import pyarrow.compute as pc

from lema_core.artifacts.files import atomic_file, open_root, remove_leftovers
from lema_core.artifacts.fingerprint import Identity
from lema_core.artifacts.manifest import (
    EARLIER_MANIFEST,
    MANIFEST,
    META,
    Manifest,
    PartSummary,
    add_up,
    damage_error,
    manifest_path,
    write_document,
)
from lema_core.artifacts.parquet import (
    Fault,
    TableFile,
    cast_to,
    open_table,
    raise_faults_as,
    rows_from_batch,
    schema_of,
    translate_faults,
)
from lema_core.artifacts.part import SUMMARY, PartWriter, earlier_rejected_name, part_name, rejected_name
from lema_core.errors import ArtifactError, LemaError
from lema_core.records import Rejection

T = TypeVar("T")

PARALLEL_READS = 16
"""An object store answers in 10 to 50 ms: two thousand parts, one after the other, would take a minute."""


@dataclass(frozen=True, slots=True)
class ArtifactRef:
    """The reference to an artifact, which tasks pass on in place of its data."""

    stage: str
    fingerprint: str

    @property
    def folder(self) -> str:
        """Return ``<stage>/<fingerprint>``, relative to the store's root."""
        return f"{self.stage}/{self.fingerprint}"


@dataclass(frozen=True, slots=True)
class Shard:
    """A range of input rows, the work of one task."""

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
        """Return whether the artifact is published."""
        return manifest_path(self.fs, self.folder(ref)) is not None

    def manifest(self, ref: ArtifactRef) -> Manifest:
        """Read an artifact's manifest.

        Raises:
            ArtifactError: the artifact is not published, or its manifest is damaged.
        """
        return Manifest.read(self.fs, self.folder(ref))

    def manifests(self) -> Iterator[Manifest]:
        """Yield the manifest of every published artifact, by path."""
        found = [
            path.removesuffix(f"/{name}")
            for name in (MANIFEST, EARLIER_MANIFEST)
            for path in self.fs.glob(f"{self.path}/*/*/{name}")
        ]
        for folder in sorted(set(found)):
            stage, fingerprint = folder.split("/")[-2:]
            yield self.manifest(ArtifactRef(stage, fingerprint))

    def finished_part(self, ref: ArtifactRef, shard: Shard, *, verified: bool = False) -> PartSummary | None:
        """Return the summary of a shard's part; None where it is missing, incomplete, or of another range.

        ``verified``: compare every byte of it and of its rejected rows with its hash; a damaged part counts as missing.
        """
        span = (shard.start, shard.stop)
        places = [f"{self.folder(ref)}/{part_name(*span)}"]
        if verified:
            places.append(f"{self.folder(ref)}/{self._rejected_name(ref, span)}")
        # Both files hold the same summary: rejected rows of another attempt do not belong to this part.
        found = [self._summary(place, verify=verified) for place in places]
        summary = found[0]
        same = summary is not None and all(other == summary for other in found)
        return summary if summary and same and (summary.start, summary.stop) == span else None

    def part_file(self, ref: ArtifactRef, part: PartSummary) -> str:  # noqa: ARG002 - as `rejected_file`
        """Return the name of a part's rows in the artifact's folder."""
        return part_name(part.start, part.stop)

    def rejected_file(self, ref: ArtifactRef, part: PartSummary) -> str:
        """Return the name of a part's rejected rows in the artifact's folder, also of earlier versions of LeMa."""
        return self._rejected_name(ref, (part.start, part.stop))

    def _rejected_name(self, ref: ArtifactRef, span: tuple[int, int]) -> str:
        earlier = earlier_rejected_name(*span)
        is_new = self.fs.exists(f"{self.folder(ref)}/{rejected_name(*span)}")
        return earlier if not is_new and self.fs.exists(f"{self.folder(ref)}/{earlier}") else rejected_name(*span)

    def _summary(self, path: str, *, verify: bool) -> PartSummary | None:
        """Return the summary in a file of a part, None where the file is missing or damaged."""
        with (
            suppress(FileNotFoundError, _UnreadableError),
            self.fs.open(path) as file,
            open_table(file, _UnreadableError) as table,
        ):
            with raise_faults_as(_UnreadableError):
                summary = PartSummary.model_validate_json(table.entry(SUMMARY) or b"")
                if verify:
                    table.verify()
            return summary
        return None

    def finished_parts(
        self, ref: ArtifactRef, shards: Sequence[Shard], *, verified: bool = False
    ) -> list[PartSummary | None]:
        """Return `finished_part` of every shard; on an object store several at a time."""

        def one(shard: Shard) -> PartSummary | None:
            return self.finished_part(ref, shard, verified=verified)

        if self.fs.local:
            return list(map(one, shards))
        # Each look-up waits for the network: thousands of parts one after the other would take minutes.
        with ThreadPoolExecutor(PARALLEL_READS) as threads:
            return list(threads.map(one, shards))

    def part(self, ref: ArtifactRef, shard: Shard, record: type) -> PartWriter:
        """Open a shard's part for writing: a context manager that publishes both files unless the block raises."""
        return PartWriter(self.fs, self.folder(ref), shard.index, (shard.start, shard.stop), record)

    def publish(self, identity: Identity, parts: list[PartSummary], *, seconds: float) -> Manifest:
        """Write the manifest of a table artifact, and so make it exist; return the existing one where it does.

        Raises:
            ArtifactError: if the parts' rows do not add up, or a part is missing or not what its shard wrote.
        """
        ref = ArtifactRef(identity.stage, identity.fingerprint)
        with self._publishing(ref) as locked:
            if self.exists(ref):
                return self.manifest(ref)
            # Read back: the manifest proves what is on the store, not what was meant to be written.
            written = self.finished_parts(ref, [Shard(part.index, part.start, part.stop) for part in parts])
            for part, found in zip(parts, written, strict=True):
                if found != part:
                    raise ArtifactError(
                        f"part {part.index} of {ref.folder} is not on the store as written. Run again to make it again."
                    )
            manifest = self._write_manifest(identity, seconds=seconds, parts=tuple(parts), **add_up(parts))
            if locked:
                self._remove_unnamed(ref, manifest)
        return manifest

    @contextmanager
    def _publishing(self, ref: ArtifactRef) -> Iterator[bool]:
        """Let one process at a time publish an artifact; yield whether it is locked (an object store has no locks)."""
        with ExitStack() as stack:
            locked = False
            # Some network file systems refuse locks. A folder that cannot be written is reported by what is written.
            with suppress(OSError):
                if self.fs.local:
                    folder = self.local_folder(ref) / META
                    folder.mkdir(exist_ok=True)
                    lock = stack.enter_context((folder / "lock").open("a"))
                    fcntl.flock(lock, fcntl.LOCK_EX)
                    locked = True
            yield locked

    def _remove_unnamed(self, ref: ArtifactRef, manifest: Manifest) -> None:
        """Remove parts that the manifest does not name: other programs would read their rows a second time.

        A run with other shard sizes left them. Without a lock it could be about to publish them.
        """
        named = {name(part.start, part.stop) for part in manifest.parts for name in (part_name, rejected_name)}
        folder = Path(self.folder(ref))
        for file in (*folder.glob("part-*.parquet"), *folder.glob(f"{META}/rejected-*.parquet")):
            if file.relative_to(folder).as_posix() not in named:
                file.unlink(missing_ok=True)

    def publish_files(
        self, identity: Identity, files: list[str], *, seconds: float, extra: Mapping[str, Any] | None = None
    ) -> Manifest:
        """Write the manifest of an artifact whose plain files are already in its folder (a checkpoint, a report)."""
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
        # Last, when every part is in place: the manifest is what makes the artifact exist.
        # Files of attempts that were killed belong to no part, and nothing would remove them later.
        for place in (folder, f"{folder}/{META}"):
            remove_leftovers(self.fs, place)
        with atomic_file(self.fs, f"{folder}/{MANIFEST}") as local:
            local.write_text(write_document(manifest), encoding="utf-8")
        return manifest

    def rows(self, ref: ArtifactRef, record: type[T], start: int = 0, stop: int | None = None) -> Iterator[T]:
        """Yield rows ``start`` to ``stop`` of a published table, a few thousand in memory at a time.

        Raises:
            ArtifactError: the artifact is not published, or a part of it is missing or damaged.
        """
        manifest = self.manifest(ref)
        # A row's number counts over all parts: the manifest says which parts hold the range, and no other is opened.
        stop = manifest.rows_out if stop is None else stop
        first = 0
        for part in manifest.parts:
            low, high = max(start - first, 0), min(stop - first, part.rows_out)
            if low < high:
                yield from self._part_rows(ref, part_name(part.start, part.stop), record, part.rows_out, low, high)
            first += part.rows_out

    def rejections(self, ref: ArtifactRef) -> Iterator[Rejection]:
        """Yield the rejected rows of a published table.

        Raises:
            ArtifactError: as ``rows``.
        """
        for part in self.manifest(ref).parts:
            if part.rejected:
                name = self.rejected_file(ref, part)
                yield from self._part_rows(ref, name, Rejection, part.rejected, 0, part.rejected)

    def _part_rows(self, ref: ArtifactRef, name: str, record: type[T], rows: int, low: int, high: int) -> Iterator[T]:
        with self.open_table(ref, name) as table:
            if missing := sorted(set(schema_of(record).names) - set(table.schema.names)):
                raise ArtifactError(
                    f"{self.folder(ref)}/{name} has no column {missing}: another version wrote it. Remove the folder "
                    f"{self.folder(ref)} and run again."
                )
            if table.rows != rows:
                raise self._fault(ref, name)(f"it holds {table.rows} rows, its manifest says {rows}")
            batches = cast_to(table.batches(schema_of(record).names, low, high), record)
            for batch in translate_faults(batches, self._fault(ref, name)):
                yield from rows_from_batch(batch, record)

    @contextmanager
    def open_table(self, ref: ArtifactRef, name: str) -> Iterator[TableFile]:
        """Open a Parquet file of a published artifact.

        Raises:
            ArtifactError: it is missing or damaged.
        """
        path, fault = f"{self.folder(ref)}/{name}", self._fault(ref, name)
        with ExitStack() as stack:
            with raise_faults_as(fault):
                file = stack.enter_context(self.fs.open(path))
            yield stack.enter_context(open_table(file, fault))

    def read_table(self, ref: ArtifactRef, name: str, columns: Sequence[str]) -> list[dict[str, Any]]:
        """Return the rows of a small Parquet file of a published artifact.

        Raises:
            ArtifactError: it is missing or damaged, or lacks a column.
        """
        with self.open_table(ref, name) as table, raise_faults_as(self._fault(ref, name)):
            if missing := sorted({*columns} - {*table.schema.names}):
                raise ValueError(f"it has no column {missing}")
            return [row for batch in table.batches(columns) for row in batch.to_pylist()]

    def rows_with(self, ref: ArtifactRef, name: str, column: str, value: str) -> Iterator[dict[str, Any]]:
        """Yield the rows of a Parquet file of a published artifact in which a column, if it exists, has a value.

        Raises:
            ArtifactError: the file is missing or damaged.
        """
        with self.open_table(ref, name) as table:
            batches = table.batches() if column in table.schema.names else iter(())
            found = (batch.filter(pc.field(column) == value) for batch in batches)
            yield from translate_faults((row for batch in found for row in batch.to_pylist()), self._fault(ref, name))

    def _fault(self, ref: ArtifactRef, name: str) -> Fault:
        folder = self.folder(ref)
        return lambda cause: damage_error(f"{folder}/{name}", folder, cause)

    def local_path(self, ref: ArtifactRef) -> Path:
        """Return the artifact's local folder, existing or not, for programs that read plain files.

        Raises:
            ArtifactError: if the root is not a local folder.
        """
        if not self.fs.local:
            raise ArtifactError(
                f"{self.root} is no local folder, and a program needs {ref.folder} as plain files: give one as --root"
            )
        return Path(self.folder(ref))

    def local_folder(self, ref: ArtifactRef) -> Path:
        """Return the same folder, created if it is missing.

        Raises:
            ArtifactError: if the root is not a local folder.
        """
        folder = self.local_path(ref)
        folder.mkdir(parents=True, exist_ok=True)
        return folder


class _UnreadableError(LemaError):
    """A part that cannot be read; it counts as missing."""
