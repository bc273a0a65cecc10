"""Parquet that proves it is what was written, the one place that reads it, and record classes as its schemas.

A file ends in a *seal*: the SHA-256 of each row group's bytes and of the footer, kept in the footer's own metadata.
The checksums of Parquet's pages are written too, for other programs, but they leave out the pages' headers: in a file
of 12 rows 35 of 21,640 single bit flips changed rows without an error. A reader here sees no byte that was not
compared with the seal. Files without a seal (of older versions, of other programs) are read with the checksums that
they have.
"""

import hashlib
import io
import re
import types
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import fields
from operator import attrgetter
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self, TypeVar, Union, get_args, get_origin, get_type_hints

import pyarrow as pa
import pyarrow.parquet as pq

from lema_core.artifacts.files import error_text
from lema_core.errors import ArtifactError, LemaError

T = TypeVar("T")

_SCALARS: dict[Any, pa.DataType] = {
    str: pa.string(),
    int: pa.int64(),
    float: pa.float64(),
    bool: pa.bool_(),
}


def schema_of(record: type[Any]) -> pa.Schema:
    """Return the Arrow schema of a record class: one column per field, nullable where the field may be None."""
    hints = get_type_hints(record)
    columns = []
    for field in fields(record):
        hint = hints[field.name]
        options = get_args(hint) if get_origin(hint) in {Union, types.UnionType} else (hint,)
        (kind,) = (option for option in options if option is not type(None))
        columns.append(pa.field(field.name, _arrow_type(kind), nullable=type(None) in options))
    return pa.schema(columns)


def _arrow_type(kind: Any) -> pa.DataType:
    if get_origin(kind) is tuple:
        return pa.list_(_arrow_type(get_args(kind)[0]))
    return _SCALARS[kind]


def table_of(rows: Iterable[Any], record: type) -> pa.Table:
    """Return the rows as one table, a lone surrogate in model text replaced (Parquet holds valid UTF-8 only)."""
    rows = list(rows)
    getters = [attrgetter(f.name) for f in fields(record)]
    columns = [
        _column([get(row) for row in rows], field) for get, field in zip(getters, schema_of(record), strict=True)
    ]
    return pa.Table.from_arrays(columns, schema=schema_of(record))


def _column(values: list[Any], field: pa.Field) -> pa.Array:
    try:
        return pa.array(values, type=field.type)
    except UnicodeEncodeError:
        return pa.array([_encodable(value) for value in values], type=field.type)


def _encodable(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode("utf-8")
    return [_encodable(item) for item in value] if isinstance(value, tuple | list) else value


def cast_to(batches: Iterable[pa.RecordBatch], record: type) -> Iterator[pa.RecordBatch]:
    """Yield batches with exactly the columns and types of a record class, their values checked.

    Raises:
        Exception: of Arrow, where a column is missing, has another type, or is null where it must not be.
    """
    schema = schema_of(record)
    for batch in batches:
        batch.validate(full=True)
        if batch.schema.equals(schema):
            yield batch
            continue
        table = pa.Table.from_batches([batch]).select(schema.names)
        yield from table.cast(schema).to_batches()


def rows_from_batch(batch: pa.RecordBatch, record: type[T]) -> Iterator[T]:
    """Yield the rows of a record batch as ``record`` objects; lists come back as tuples."""
    names = [f.name for f in fields(record)]  # type: ignore[arg-type]
    columns = [_values(batch.column(name)) for name in names]
    for values in zip(*columns, strict=True):
        yield record(**dict(zip(names, values, strict=True)))


def _values(column: pa.Array) -> list[Any]:
    values: list[Any] = column.to_pylist()
    return [None if v is None else tuple(v) for v in values] if pa.types.is_list(column.type) else values


READ_BATCH = 2_048
"""Rows held at a time while reading: a few megabytes of text."""

_KEY = "lema_seal"
_MARK = b"lema-seal-1:"
_HEX = 64
_OPEN = b"0" * _HEX
"""Placeholder of the footer's hash while the hash is computed."""
_MAGIC = b"PAR1"
_TAIL = 8
"""Bytes behind the footer: its length and the magic."""


class TableWriter:
    """Writes one sealed Parquet file to a local path, one row group per call; its bytes depend on the rows alone."""

    def __init__(self, path: str | Path, schema: pa.Schema) -> None:
        self._path, self._groups = Path(path), 0
        self._file = pq.ParquetWriter(
            str(path), schema.remove_metadata(), compression="zstd", write_statistics=False, write_page_checksum=True
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.close()
        else:
            self.abandon()

    def write(self, table: pa.Table) -> None:
        """Append rows as one row group."""
        if table.num_rows:
            self._file.write_table(table.replace_schema_metadata(), row_group_size=table.num_rows)
            self._groups += 1

    def close(self, metadata: Mapping[str, str] | None = None) -> None:
        """Complete the file, with key-value metadata, and seal it."""
        # The seal has its final length from the start: filling in the hashes moves no byte of the footer.
        seal = (_MARK + _OPEN * (1 + self._groups)).decode()
        self._file.add_key_value_metadata({**(metadata or {}), _KEY: seal})
        self._file.close()
        with self._path.open("r+b") as file:
            _seal(file)

    def abandon(self) -> None:
        """Close an incomplete file, which is removed afterwards: errors of closing it do not matter."""
        try:
            self._file.close()
        except (OSError, pa.ArrowException):
            return


def write_table(table: pa.Table, path: str | Path) -> None:
    """Write a whole table that is in memory to a local path, sealed."""
    with TableWriter(path, table.schema) as writer:
        writer.write(table)


def _seal(file: BinaryIO) -> None:
    """Replace the placeholders by the hashes."""
    footer, start = _footer(file)
    place = footer.index(_MARK) + len(_MARK)
    starts = _group_starts(_metadata_of(footer))
    digests = b"".join(_hash(file, *span) for span in _spans(starts, start))
    sealed = footer[: place + _HEX] + digests + footer[place + _HEX + len(digests) :]
    # The footer's own hash is computed with zeros in its place, the groups' hashes filled in: one write completes it.
    file.seek(start + place)
    file.write(hashlib.sha256(sealed).hexdigest().encode() + digests)


def _footer(file: BinaryIO) -> tuple[bytes, int]:
    """Return the footer, with its length and the magic, and its position."""
    size = file.seek(0, io.SEEK_END)
    file.seek(max(0, size - _TAIL))
    tail = file.read(_TAIL)
    length = int.from_bytes(tail[:4], "little")
    if len(tail) < _TAIL or tail[4:] != _MAGIC or length + _TAIL + len(_MAGIC) > size:
        raise ValueError(f"it does not end as a Parquet file does ({size} bytes): it is cut off, or none")
    start = size - _TAIL - length
    file.seek(start)
    footer = file.read(length + _TAIL)
    if len(footer) != length + _TAIL:
        raise ValueError(f"it changed while it was read, or was cut off at {size} bytes")
    return footer, start


def _metadata_of(footer: bytes) -> pq.FileMetaData:
    return pq.read_metadata(pa.BufferReader(_MAGIC + footer))


def _group_starts(metadata: pq.FileMetaData) -> list[int]:
    """Return the first byte of each row group."""
    starts = []
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        columns = (group.column(place) for place in range(group.num_columns))
        starts.append(
            min(min(filter(None, (column.dictionary_page_offset, column.data_page_offset))) for column in columns)
        )
    return starts


def _spans(starts: Sequence[int], end: int) -> Iterator[tuple[int, int]]:
    """Yield the byte range of each row group; together they cover everything between the magic and the footer."""
    yield from zip(starts, [*starts, end][1:], strict=True)


def _hash(file: BinaryIO, start: int, stop: int) -> bytes:
    file.seek(start)
    digest = hashlib.sha256()
    while start < stop:
        data = file.read(min(1 << 20, stop - start))
        if not data:
            break
        digest.update(data)
        start += len(data)
    return digest.hexdigest().encode()


class _Verified(io.RawIOBase):
    """A sealed file whose bytes are compared with their hashes before they are returned; else ValueError.

    The last row group is cached: Parquet reads column by column, but each group is fetched and hashed once.
    """

    def __init__(
        self, file: BinaryIO, footer: bytes, start: int, spans: Sequence[tuple[int, int]], seal: bytes
    ) -> None:
        self._file, self._footer, self._start = file, footer, start
        self._spans, self._seal = spans, seal
        self._held: tuple[int, bytes] = (-1, b"")
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        size = self._start + len(self._footer)
        self._at = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: size}[whence] + offset
        return self._at

    def readinto(self, buffer: Any, /) -> int:
        data = self._from(self._at, len(buffer))
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)

    def _from(self, at: int, length: int) -> bytes:
        """Return up to ``length`` bytes from a position on, within one piece of the file."""
        if at < len(_MAGIC):
            return _MAGIC[at : at + length]
        if at >= self._start:
            return self._footer[at - self._start :][:length]
        number = next(number for number, (start, stop) in enumerate(self._spans) if start <= at < stop)
        offset = at - self._spans[number][0]
        return self.group(number)[offset : offset + length]

    def group(self, number: int) -> bytes:
        """Return the bytes of a row group, compared with the seal."""
        if self._held[0] != number:
            start, stop = self._spans[number]
            self._file.seek(start)
            data = self._file.read(stop - start)
            digest = hashlib.sha256(data).hexdigest().encode()
            if digest != self._seal[number * _HEX :][:_HEX]:
                raise ValueError(f"the bytes {start} to {stop} are not those that were written")
            self._held = (number, data)
        return self._held[1]


class TableFile:
    """An open Parquet file; one without a seal is of an older version or another program."""

    def __init__(self, file: BinaryIO) -> None:
        """Read the footer and compare it with the seal.

        Raises:
            Exception: of many kinds, where it is damaged or no Parquet; ``open_table`` translates them.
        """
        footer, start = _footer(file)
        seal = _read_seal(footer)
        self.metadata = _metadata_of(footer)
        self.sealed = seal is not None
        source: Any = file
        if seal is not None:
            if file.seek(0) or file.read(len(_MAGIC)) != _MAGIC:
                raise ValueError("it does not begin as a Parquet file does")
            spans = list(_spans(_group_starts(self.metadata), start))
            if len(seal) != _HEX * len(spans):
                raise ValueError("its seal is of another number of row groups")
            source = self._verified = _Verified(file, footer, start, spans, seal)
        elif _KEY.encode() in (self.metadata.metadata or {}):
            # A damaged mark must not pass as an unsealed file of an older version.
            raise ValueError("its seal is broken")
        self._parquet = pq.ParquetFile(
            source, metadata=self.metadata, page_checksum_verification=True, pre_buffer=False
        )
        self.schema: pa.Schema = self._parquet.schema_arrow

    @property
    def rows(self) -> int:
        """Return how many rows the file has."""
        return int(self.metadata.num_rows)

    def entry(self, key: str) -> bytes | None:
        """Return an entry of the file's key-value metadata."""
        found: bytes | None = (self.metadata.metadata or {}).get(key.encode())
        return found

    def verify(self) -> None:
        """Compare every byte with the seal, or read every row where there is none.

        Raises:
            Exception: of many kinds, where it is damaged; ``open_table`` translates them.
        """
        if self.sealed:
            for number in range(self.metadata.num_row_groups):
                self._verified.group(number)
            return
        for batch in self.batches():
            batch.validate(full=True)

    def batches(
        self, columns: Sequence[str] | None = None, low: int = 0, high: int | None = None, size: int = READ_BATCH
    ) -> Iterator[pa.RecordBatch]:
        """Yield rows ``low`` to ``high`` of some columns, ``size`` at a time; only their row groups are read."""
        high = self.rows if high is None else min(high, self.rows)
        if low >= high:
            return
        groups, at = _row_groups(self.metadata, low, high)
        names = None if columns is None else list(columns)
        for batch in self._parquet.iter_batches(batch_size=size, row_groups=groups, columns=names):
            start, stop = max(low - at, 0), min(high - at, batch.num_rows)
            if start < stop:
                yield batch.slice(start, stop - start)
            at += batch.num_rows
            if at >= high:
                return


def _read_seal(footer: bytes) -> bytes | None:
    """Return the hashes of the row groups, None where the footer has no seal."""
    found = re.search(re.escape(_MARK) + rb"([0-9a-f]{64})((?:[0-9a-f]{64})*)", footer)
    if found is None:
        return None
    if hashlib.sha256(footer[: found.start(1)] + _OPEN + footer[found.end(1) :]).hexdigest().encode() != found[1]:
        raise ValueError("its footer is not what was written")
    return found[2]


def _row_groups(metadata: pq.FileMetaData, low: int, high: int) -> tuple[list[int], int]:
    """Return the row groups that hold rows ``low`` to ``high``, and the first one's first row.

    Reading a range costs only its row groups: a thousand shards of one large part do not read it a thousand times.
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


Fault = Callable[[str], LemaError]
"""Makes our error of a library's message on a file."""


@contextmanager
def raise_faults_as(fault: Fault) -> Iterator[None]:
    """Translate every error of the libraries that read files. The block must not run callers' code.

    Damage appears as whatever the decoder runs into: Arrow's errors, OSError, UnicodeError, KeyError, RecursionError,
    MemoryError, pydantic's, zlib's, zipfile's.
    """
    try:
        yield
    except LemaError:
        raise
    except Exception as error:  # noqa: BLE001 - see above
        raise fault(error_text(error)) from None


def translate_faults(items: Iterator[T], fault: Fault) -> Iterator[T]:
    """Yield an iterator's items and translate its errors, but not those of the code that consumes it."""
    while True:
        with raise_faults_as(fault):
            try:
                item = next(items)
            except StopIteration:
                return
        yield item


@contextmanager
def open_table(file: BinaryIO, fault: Fault) -> Iterator[TableFile]:
    """Open a Parquet file; ``fault`` makes the error where it is damaged or no Parquet.

    Read its rows by ``translate_faults(table.batches(...), fault)``.
    """
    with raise_faults_as(fault):
        table = TableFile(file)
    yield table


def rows_of(batches: Iterable[pa.RecordBatch]) -> Iterator[dict[str, Any]]:
    """Yield the rows of batches as plain values."""
    for batch in batches:
        yield from batch.to_pylist()


def read_batches(
    path: str | Path, columns: Sequence[str] | None = None, optional: Sequence[str] = ()
) -> Iterator[pa.RecordBatch]:
    """Yield a local Parquet file's rows, `READ_BATCH` at a time: all columns, or those named and the optional ones.

    Raises:
        ArtifactError: it is missing, damaged or no Parquet, or lacks a column.
    """

    def fault(cause: str) -> ArtifactError:
        return ArtifactError(f"{path} cannot be read as Parquet ({cause}). Make it again: remove it and run again.")

    with ExitStack() as stack:
        with raise_faults_as(fault):
            file = stack.enter_context(Path(path).open("rb"))
        table = stack.enter_context(open_table(file, fault))
        if columns is not None:
            columns = [*columns, *(name for name in optional if name in table.schema.names)]
        yield from translate_faults(table.batches(columns), fault)
