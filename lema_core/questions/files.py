"""Rows of a source file, one at a time, each with its place: ``train.jsonl:17``.

JSONL and Parquet stream. A JSON array and an XML file are read whole: the published sets in these formats are small.
"""

import hashlib
import json
import lzma
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import IO, Any
from xml.etree import ElementTree as ET

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

from lema_core.errors import DataError
from lema_core.questions.drafts import Row

Placed = Iterator[tuple[str, Row]]


@contextmanager
def open_source(path: str) -> Iterator[IO[bytes]]:
    """Open a file or an fsspec URL for reading.

    Raises:
        DataError: it cannot be opened, or is compressed and torn.
    """
    try:
        opened: IO[bytes] = fsspec.open(path, "rb", compression="infer").open()
    except FileNotFoundError as error:
        raise DataError(f"No file at {path}. Check the path (of questions: `path` in the run file).") from error
    except (OSError, ValueError, ImportError) as error:
        raise DataError(f"{path} cannot be opened ({error}). Expected a readable file or fsspec URL.") from error
    try:
        with opened:
            yield opened
    except (EOFError, zlib.error, lzma.LZMAError) as error:
        raise DataError(f"{path} cannot be unpacked ({error}). Fetch it again.") from error


def source_sha256(path: str) -> str:
    """Return the hash of the source's bytes, unpacked, as hex."""
    with open_source(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]


def read_rows(path: str) -> Placed:
    """Yield (place, row) for each row of the file.

    Raises:
        DataError: the file is missing, of an unknown kind, or a line of it is malformed.
    """
    name = file_name(path)
    kind = name.removesuffix(".gz").rpartition(".")[2].lower()
    if kind not in READERS:
        raise DataError(
            f"{path} is of kind {kind!r}. Expected one of {', '.join(READERS)}: convert the file or rename it."
        )
    with open_source(path) as file:
        yield from READERS[kind](file, name)


def file_name(path: str) -> str:
    """Return the last part of a path or URL: what a question's origin shows."""
    return path.rstrip("/").rpartition("/")[2]


def _jsonl(file: IO[bytes], name: str) -> Placed:
    for number, line in enumerate(file, start=1):
        if not line.strip():
            continue
        yield f"{name}:{number}", _row(_decoded(line, f"{name}:{number}"), f"{name}:{number}")


def _json(file: IO[bytes], name: str) -> Placed:
    rows = _decoded(file.read(), name)
    if not isinstance(rows, list):
        raise DataError(f"{name} holds a JSON {type(rows).__name__}. Expected a list of objects, or JSONL.")
    for number, row in enumerate(rows, start=1):
        yield f"{name}:{number}", _row(row, f"{name}:{number}")


def _decoded(data: bytes, place: str) -> Any:
    try:
        return json.loads(data)
    except ValueError as error:
        seen = data[:80].decode("utf-8", "replace").strip()
        raise DataError(f"{place} is not JSON ({error}); it starts with {seen!r}. Repair or remove it.") from error


def _row(value: Any, place: str) -> Row:
    if isinstance(value, dict):
        return value
    raise DataError(f"{place} holds a JSON {type(value).__name__}. Expected an object.")


def _parquet(file: IO[bytes], name: str) -> Placed:
    try:
        number = 0
        for batch in pq.ParquetFile(file).iter_batches(batch_size=1_000):
            for row in batch.to_pylist():
                number += 1
                yield f"{name}:{number}", row
    except pa.ArrowInvalid as error:
        raise DataError(f"{name} cannot be read as Parquet ({error}). Write it again.") from error


def _xml(file: IO[bytes], name: str) -> Placed:
    """Yield each ``Problem`` element as its attributes and its children's texts (ASDiv's format)."""
    try:
        tree = ET.parse(file)  # noqa: S314  # expat >= 2.4 refuses entity expansion, and ElementTree loads no external entity
    except ET.ParseError as error:
        raise DataError(f"{name} is not XML ({error}). Repair it or fetch it again.") from error
    for number, problem in enumerate(tree.iter("Problem"), start=1):
        yield f"{name}:{number}", {**problem.attrib, **{child.tag: child.text or "" for child in problem}}


READERS: dict[str, Callable[[IO[bytes], str], Placed]] = {
    "jsonl": _jsonl,
    "ndjson": _jsonl,
    "json": _json,
    "parquet": _parquet,
    "xml": _xml,
}
