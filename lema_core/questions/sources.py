"""Rows of a source, one at a time, each with its place (``train.jsonl:17``): a file, or a data set of the Hub.

JSONL, CSV, TSV and Parquet stream, also packed as gz, zst, bz2, xz or zip. A JSON array and an XML file are read
whole: the published sets in these formats are small.
Whatever a library raises on damaged, hostile or strange bytes becomes one `DataError` with the file's name. The
``datasets`` library belongs to training; the Hub's own Parquet copy of a data set needs only ``huggingface_hub``.
"""

import csv
import hashlib
import io
import json
import tempfile
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import IO, Any, cast
from xml.etree import ElementTree as ET

import fsspec
import pyarrow as pa
from fsspec.compression import compr
from fsspec.utils import infer_compression

from lema_core.artifacts.files import check_place, error_text, shown_path
from lema_core.artifacts.parquet import Fault, open_table, raise_faults_as, rows_of, translate_faults
from lema_core.errors import ConfigError, DataError, EndpointError
from lema_core.questions.specs import QuestionsSpec
from lema_core.questions.tasks.task import HubDataset, Row, Task

Placed = Iterator[tuple[str, Row]]

LONGEST_LINE = 64 << 20
"""Bytes of one row of JSONL."""
LARGEST_WHOLE = 1 << 30
"""Bytes of a file that is read whole."""
BOMB_BYTES, BOMB_RATIO = 256 << 20, 200
"""A file that unpacks to more than both this many bytes and this many times its own size is no text."""
_CHUNK = 1 << 20


@contextmanager
def open_source(path: str) -> Iterator[IO[bytes]]:
    """Open a file or an fsspec URL for reading, unpacked.

    Raises:
        ConfigError: it is a URL of an unknown protocol, or holds a secret.
        DataError: it cannot be opened or unpacked. What goes wrong later is the reader's to translate.
    """
    check_place(path, "the source")
    shown = shown_path(path)
    if "://" not in path and Path(path).exists() and not Path(path).is_file():
        raise DataError(f"{shown} is a folder or a device, no regular file. Give the path of a file.")
    with ExitStack() as stack:
        try:
            packed: IO[bytes] = stack.enter_context(fsspec.open(path, "rb").open())
        except FileNotFoundError:
            raise DataError(f"No file at {shown}. Check the path (of questions: `path` in the run file).") from None
        except Exception as error:  # noqa: BLE001 - drivers raise errors of many libraries
            raise DataError(
                f"{shown} cannot be opened ({error_text(error)}). Expected a readable file or URL."
            ) from None
        with raise_faults_as(_fault(shown, "cannot be unpacked", "Fetch it again")):
            unpacked = _unpacked(packed, compression_of(path))
        yield stack.enter_context(unpacked)


def _fault(name: str, what: str, remedy: str) -> Fault:
    return lambda cause: DataError(f"{name} {what} ({cause}). {remedy}.")


def compression_of(path: str) -> str | None:
    """Return how a file is packed, by the end of its name; None: it is not."""
    # fsspec knows zstd only where another package is installed; pyarrow always does.
    return "zstd" if path.lower().endswith((".zst", ".zstd")) else infer_compression(path)


def _unpacked(packed: IO[bytes], compression: str | None) -> IO[bytes]:
    if compression is None:
        return packed
    if compression == "zip":
        archive = zipfile.ZipFile(packed)
        inside = [
            entry for entry in archive.infolist() if not entry.is_dir() and not entry.filename.startswith("__MACOSX/")
        ]
        if len(inside) != 1:
            raise ValueError(f"the archive holds {len(inside)} files, expected one")
        unpacked: IO[bytes] = archive.open(inside[0])
    elif compression == "zstd":
        unpacked = pa.input_stream(packed, compression="zstd")
    else:
        unpacked = compr[compression](packed, mode="rb")
    return cast("IO[bytes]", io.BufferedReader(_Unpacked(unpacked, packed), _CHUNK))


class _Unpacked(io.RawIOBase):
    """What a compressed file unpacks to, up to the size that a text has."""

    def __init__(self, unpacked: IO[bytes], packed: IO[bytes]) -> None:
        self._unpacked, self._packed, self._bytes = unpacked, packed, 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        data = self._unpacked.read(len(buffer))
        buffer[: len(data)] = data
        self._bytes += len(data)
        if self._bytes > BOMB_BYTES and self._bytes > BOMB_RATIO * max(1, self._packed.tell()):
            raise ValueError(f"it unpacks to more than {BOMB_RATIO} times its size")
        return len(data)


class _Hashed(io.RawIOBase):
    """A stream whose bytes are hashed as they are read."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self._digest = file, hashlib.sha256()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        data = self._file.read(len(buffer))
        buffer[: len(data)] = data
        self._digest.update(data)
        return len(data)

    def hexdigest(self) -> str:
        """Return the hash of the whole stream: what was not asked for is read now."""
        while data := self._file.read(_CHUNK):
            self._digest.update(data)
        return self._digest.hexdigest()


def source_sha256(path: str) -> str:
    """Return the hash of the source's bytes, unpacked, as hex.

    Raises:
        DataError: it cannot be read.
    """
    with (
        open_source(path) as file,
        raise_faults_as(_fault(shown_path(path), "cannot be read", "Repair it or fetch it again")),
    ):
        return _Hashed(file).hexdigest()


def read_rows(path: str, sha256: str | None = None, stop: int | None = None) -> Placed:
    """Yield (place, row) for each row of the file, or for the first ``stop`` ones.

    Args:
        path: a file or an fsspec URL.
        sha256: of the bytes that are expected. The very bytes that the rows are made from are compared with it, behind
            the last row.
        stop: how many rows are yielded at most.

    Raises:
        ConfigError: the URL cannot be used.
        DataError: the file is missing, of an unknown kind, damaged, or other bytes than expected; or a line of it is
            malformed.
    """
    name = shown_path(file_name(path))
    stem, _, last = name.rpartition(".")
    kind = (stem.rpartition(".")[2] if compression_of(name) else last).lower()
    if kind not in READERS:
        raise DataError(
            f"{shown_path(path)} is of kind {kind!r}. Expected one of {', '.join(READERS)}: convert the file or rename "
            "it."
        )
    fault = _fault(name, f"cannot be read as {KINDS[kind]}", "Repair it, or write or fetch it again")
    with ExitStack() as stack:
        file = stack.enter_context(open_source(path))
        hashed = None if sha256 is None else _Hashed(file)
        if hashed is not None:
            file = cast("IO[bytes]", io.BufferedReader(hashed, _CHUNK))
        if kind == "parquet" and (sha256 is not None or compression_of(path)):
            # Parquet is read from its end: a copy makes of the one reading one that can be hashed.
            with raise_faults_as(fault):
                copy = stack.enter_context(tempfile.TemporaryFile(prefix="lema-source-"))
                while data := file.read(_CHUNK):
                    copy.write(data)
                copy.seek(0)
                file = cast("IO[bytes]", copy)
        rows = translate_faults(READERS[kind](file, name), fault)
        for number, row in enumerate(rows):
            if stop is not None and number >= stop:
                break
            yield row
        if hashed is not None:
            with raise_faults_as(fault):
                found = hashed.hexdigest()
            if found != sha256:
                raise DataError(
                    f"{name} changed while it was read: its bytes are no more those that the run began with. Nothing "
                    "was kept of it: run again, with a file that stays as it is."
                )


def file_name(path: str) -> str:
    """Return the last part of a path or URL: what a question's origin shows."""
    return path.rstrip("/").rpartition("/")[2]


def _jsonl(file: IO[bytes], name: str) -> Placed:
    number = 0
    while line := file.readline(LONGEST_LINE):
        number += 1
        if len(line) == LONGEST_LINE:
            raise DataError(f"{name}:{number} is longer than {LONGEST_LINE >> 20} MiB. Expected one row per line.")
        if not line.strip():
            continue
        yield f"{name}:{number}", _row(_decoded(line, f"{name}:{number}"), f"{name}:{number}")


def _json(file: IO[bytes], name: str) -> Placed:
    rows = _decoded(_whole(file, name), name)
    if not isinstance(rows, list):
        raise DataError(f"{name} holds a JSON {type(rows).__name__}. Expected a list of objects, or JSONL.")
    for number, row in enumerate(rows, start=1):
        yield f"{name}:{number}", _row(row, f"{name}:{number}")


def _whole(file: IO[bytes], name: str) -> bytes:
    data = file.read(LARGEST_WHOLE + 1)
    if len(data) > LARGEST_WHOLE:
        raise DataError(f"{name} is larger than {LARGEST_WHOLE >> 20} MiB, and this kind is read whole. Write JSONL.")
    return data


def _decoded(data: bytes, place: str) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        seen = data[:80].decode("utf-8", "replace").strip()
        raise DataError(f"{place} is not JSON ({error}); it starts with {seen!r}. Repair or remove it.") from None


def _row(value: Any, place: str) -> Row:
    if isinstance(value, dict):
        return value
    raise DataError(f"{place} holds a JSON {type(value).__name__}. Expected an object.")


def _parquet(file: IO[bytes], name: str) -> Placed:
    fault = _fault(name, "cannot be read as Parquet", "Write it again")
    with open_table(cast("Any", file), fault) as table:
        for number, row in enumerate(translate_faults(rows_of(table.batches(size=1_000)), fault), start=1):
            yield f"{name}:{number}", row


def _csv(file: IO[bytes], name: str, delimiter: str = ",") -> Placed:
    """Yield each record of a table with a header line, every value as text; quoted values may span lines."""
    csv.field_size_limit(LONGEST_LINE)
    lines = io.TextIOWrapper(file, encoding="utf-8-sig", newline="")
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    header = next(reader, None)
    if header is None:
        return
    if repeated := [column for column, count in Counter(header).items() if count > 1]:
        raise DataError(f"{name}:1 names the column {repeated[0]!r} twice. Expected a header line with each name once.")
    for record in reader:
        if not record:
            continue
        if len(record) != len(header):
            raise DataError(
                f"{name}:{reader.line_num} has {len(record)} values and the header {len(header)} columns. Quote values "
                "that hold the separator or a line break."
            )
        yield f"{name}:{reader.line_num}", dict(zip(header, record, strict=True))


def _xml(file: IO[bytes], name: str) -> Placed:
    """Yield each ``Problem`` element as its attributes and its children's texts (ASDiv's format)."""
    with raise_faults_as(_fault(name, "is not XML", "Repair it or fetch it again")):
        # expat >= 2.4 refuses entity expansion, and ElementTree loads no external entity.
        tree = ET.ElementTree(ET.fromstring(_whole(file, name)))  # noqa: S314
    for number, problem in enumerate(tree.iter("Problem"), start=1):
        yield f"{name}:{number}", {**problem.attrib, **{child.tag: child.text or "" for child in problem}}


READERS: dict[str, Callable[[IO[bytes], str], Placed]] = {
    "jsonl": _jsonl,
    "ndjson": _jsonl,
    "json": _json,
    "parquet": _parquet,
    "csv": _csv,
    "tsv": partial(_csv, delimiter="\t"),
    "xml": _xml,
}
KINDS = {
    "jsonl": "JSON lines",
    "ndjson": "JSON lines",
    "json": "JSON",
    "parquet": "Parquet",
    "csv": "CSV",
    "tsv": "TSV",
    "xml": "XML",
}


PARQUET_BRANCH = "refs/convert/parquet"


def hub_commit(spec: QuestionsSpec, task: Task) -> str:
    """Return the commit of the data set's Parquet copy: the identity of what would be read.

    Raises:
        ConfigError: the task has no data set on the Hub.
        EndpointError: the Hub does not answer or does not know the data set.
    """
    source = _dataset(spec, task)
    if spec.hub_revision is not None:
        return f"hub:{source.id}@{spec.hub_revision}"
    from huggingface_hub import HfApi

    with raise_faults_as(partial(_unreachable, source)):
        info = HfApi().dataset_info(source.id, revision=PARQUET_BRANCH)
    return f"hub:{source.id}@{info.sha}"


def read_hub_rows(spec: QuestionsSpec, task: Task, commit: str | None = None) -> Placed:
    """Yield (place, row) of the wanted split; a place reads ``openai/gsm8k/main/train:17``.

    ``commit`` is what `hub_commit` returned when the identity was made: the branch may have moved since.

    Raises:
        ConfigError: the task has no data set on the Hub, or the data set has no such split.
        EndpointError: the Hub does not answer or does not know the data set.
    """
    source = _dataset(spec, task)
    split = spec.hub_split or (source.train if spec.split == "train" else source.test)
    if split is None:
        raise ConfigError(f"{source.id} has no {spec.split} split. Set `split` to the other one.")
    folder = f"{spec.config or source.config}/{split}"
    number = 0
    fault = partial(_unreachable, source)
    revision = spec.hub_revision or (commit.rpartition("@")[2] if commit else PARQUET_BRANCH)
    from huggingface_hub import HfFileSystem

    with raise_faults_as(partial(_unreachable, source)):
        system = HfFileSystem()
        root = f"datasets/{source.id}@{revision.replace('/', '%2F')}"
        paths = sorted(map(str, system.glob(f"{root}/{folder}/*.parquet")))
    if not paths:
        raise ConfigError(
            f"{source.id} has no Parquet files under {folder}. Check `config` and `split` on the Hub's page."
        )
    for path in paths:
        with ExitStack() as stack:
            with raise_faults_as(fault):
                file = stack.enter_context(system.open(path))
            table = stack.enter_context(open_table(file, fault))
            for row in translate_faults(rows_of(table.batches(size=1_000)), fault):
                number += 1
                yield f"{source.id}/{folder}:{number}", row


def _dataset(spec: QuestionsSpec, task: Task) -> HubDataset:
    if spec.hub is not None:
        if task.hub is None:
            return HubDataset(spec.hub, train="train", test="test")
        return HubDataset(spec.hub, task.hub.config, task.hub.train, task.hub.test)
    if task.hub is None:
        raise ConfigError(
            f"The task {task.name} has no data set of its own. Set `path` to a file, or `hub` to a data set's id."
        )
    return task.hub


def _unreachable(source: HubDataset, cause: str) -> EndpointError:
    # The library's errors have many classes of several HTTP stacks; each means that this data set cannot be had now.
    return EndpointError(
        f"The data set {source.id} could not be had from the Hugging Face Hub ({cause}). "
        "Check the id and the network, or set `path` to a local copy."
    )
