"""The manifest: what an artifact holds, what it was made from, and the proof that no row was lost.

It is a small JSON document that proves it is what was written: its last field, ``sha256``, is a hash over all others. A
document without it was written by an older version.
"""

import hashlib
import json
from contextlib import suppress
from itertools import pairwise
from typing import Any, Self, TypeVar

from pydantic import BaseModel, ConfigDict

from lema_core.artifacts.files import FileSystem
from lema_core.artifacts.parquet import Fault, raise_faults_as
from lema_core.errors import ArtifactError

M = TypeVar("M", bound=BaseModel)
_HASH = "sha256"


def write_document(model: BaseModel) -> str:
    """Return a model as the text of its file."""
    fields = model.model_dump(mode="json", by_alias=True)
    return json.dumps(fields | {_HASH: _digest(fields)}, indent=2, ensure_ascii=True) + "\n"


def read_document(content: bytes, kind: type[M], fault: Fault) -> M:
    """Return the model of a file's bytes.

    Raises:
        LemaError: as ``fault`` makes it, where the file is damaged or holds something else.
    """
    with raise_faults_as(fault):
        fields = json.loads(content.decode("utf-8"), parse_constant=_refuse)
        if not isinstance(fields, dict):
            raise ValueError(f"it holds a JSON {type(fields).__name__}, expected an object")  # noqa: TRY004
        written = fields.pop(_HASH, None)
        if written is not None and written != _digest(fields):
            raise ValueError("its content does not have the hash that it names: it was changed or damaged")
        return kind.model_validate(fields)


def _digest(fields: dict[str, Any]) -> str:
    text = json.dumps(fields, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no number of JSON")


META = "__lema__"
"""The folder of what is not the table: pandas, pyarrow and ``datasets`` read an artifact's folder without it."""
MANIFEST = f"{META}/manifest.json"
EARLIER_MANIFEST = "manifest.json"
"""Its place in artifacts of LeMa up to 0.1."""


def manifest_path(fs: FileSystem, folder: str) -> str | None:
    """Return the path of a folder's manifest; None where the artifact is not published."""
    return next((path for name in (MANIFEST, EARLIER_MANIFEST) if fs.exists(path := f"{folder}/{name}")), None)


class PartSummary(BaseModel):
    """One shard's outcome, kept in its part file's own metadata so that it cannot be separated from it."""

    model_config = ConfigDict(frozen=True)

    index: int
    start: int
    """First input row of the shard."""
    stop: int
    """One past its last input row."""
    rows_in: int
    """Candidate rows the shard dealt with: requests, paths or examples, as the stage counts."""
    rows_out: int
    rejected: int
    reasons: dict[str, int]
    counts: dict[str, int] = {}
    """Figures of the stage's own (tokens, verdicts), added up over shards."""


class Manifest(BaseModel):
    """The last file of an artifact. Times live here and never in rows."""

    model_config = ConfigDict(frozen=True)

    stage: str
    fingerprint: str
    identity: dict[str, Any]
    rows_in: int
    rows_out: int
    rejected: int
    reasons: dict[str, int]
    counts: dict[str, int] = {}
    parts: tuple[PartSummary, ...] = ()
    files: tuple[str, ...] = ()
    """For an artifact that is not a table (a checkpoint, a report): its files, relative to its folder."""
    extra: dict[str, Any] = {}
    created: str
    seconds: float
    """Wall time of the run that published it."""

    @classmethod
    def read(cls, fs: FileSystem, folder: str) -> Self:
        """Read the manifest of an artifact's folder.

        Raises:
            ArtifactError: if the artifact is not published or its manifest is torn.
        """
        for path in (f"{folder}/{MANIFEST}", f"{folder}/{EARLIER_MANIFEST}"):
            with suppress(FileNotFoundError):
                content = fs.cat_file(path)
                break
        else:
            raise ArtifactError(
                f"{folder}/{MANIFEST} does not exist: the stage has not finished. Run it again to go on."
            )
        return read_document(content, cls, lambda cause: damage_error(path, folder, cause))


def damage_error(path: str, folder: str, cause: str) -> ArtifactError:
    """Return the error of a file of a published artifact that is not what was written, with how it is made again."""
    return ArtifactError(
        f"{path} is damaged or was changed ({cause}). Remove the folder {folder} and run the same command again: the "
        "artifact is made again, and what the ledger holds is not paid again."
    )


def add_up(parts: list[PartSummary]) -> dict[str, Any]:
    """Return the totals over parts: rows in and out, rejected, by reason, and the stage's own counts.

    Raises:
        ArtifactError: if a part's rows in are not its rows out plus its rejected ones, or input rows have no part.
    """
    for before, after in pairwise(parts):
        if before.stop != after.start:
            raise ArtifactError(
                f"after input row {before.stop} the next part begins at {after.start}: input rows have no part or two. "
                "Nothing was published; run again."
            )
    for part in parts:
        if part.rows_in != part.rows_out + part.rejected:
            raise ArtifactError(
                f"part {part.index} took in {part.rows_in} rows, holds {part.rows_out} and rejected {part.rejected}, "
                f"so {part.rows_in - part.rows_out - part.rejected} were lost. "
                "This is a defect of the stage; nothing was published."
            )
    return {
        "rows_in": sum(p.rows_in for p in parts),
        "rows_out": sum(p.rows_out for p in parts),
        "rejected": sum(p.rejected for p in parts),
        "reasons": _merge_counts([p.reasons for p in parts]),
        "counts": _merge_counts([p.counts for p in parts]),
    }


def _merge_counts(tallies: list[dict[str, int]]) -> dict[str, int]:
    total: dict[str, int] = {}
    for tally in tallies:
        for name, number in tally.items():
            total[name] = total.get(name, 0) + number
    return dict(sorted(total.items()))
