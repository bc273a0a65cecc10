"""Record classes as Arrow schemas, and rows to and from record batches."""

import types
from collections.abc import Iterable, Iterator
from dataclasses import fields
from operator import attrgetter
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

import pyarrow as pa

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
    return pa.schema([_field(f.name, hints[f.name]) for f in fields(record)])


def _field(name: str, hint: Any) -> pa.Field:
    options = get_args(hint) if get_origin(hint) in {Union, types.UnionType} else (hint,)
    nullable = type(None) in options
    (kind,) = (o for o in options if o is not type(None))
    return pa.field(name, _arrow_type(kind), nullable=nullable)


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
