"""The ledger's completions as Parquet: to keep, to analyse, to bring to another machine.

A row is self-contained: the request it answers is written out, and its key can be computed again from it.
"""

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lema_core.artifacts.files import atomic_local
from lema_core.chunks import chunked
from lema_core.errors import DataError, LedgerError
from lema_core.llm.ledger.store import LedgerStore, pack, unpack
from lema_core.llm.requests import KeyMaker, canonical_json, stored_request

COLUMNS = (
    *("key", "endpoint", "request", "text", "finish_reason", "prompt_tokens", "completion_tokens", "model"),
    *("cost", "run", "day"),
)
PAGE = 1000

_EXPORT = (
    "SELECT key, endpoint, request, answer, finish_reason, prompt_tokens, completion_tokens, model, cost, run, day "
    "FROM completions WHERE key > ? ORDER BY key LIMIT ?"
)


def export_ledger(store: LedgerStore, path: Path) -> int:
    """Write all completions to a Parquet file, whole or not at all, in the order of their keys; return how many.

    Raises:
        ArtifactError: it cannot be written there.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    kinds = {"prompt_tokens": "int64", "completion_tokens": "int64", "cost": "float64"}
    schema = pa.schema([(name, kinds.get(name, "string")) for name in COLUMNS])
    rows = 0
    with atomic_local(path) as local, pq.ParquetWriter(local, schema, compression="zstd") as writer:
        for page in _pages(store):
            columns = zip(*page, strict=True)
            arrays = [pa.array(column, field.type) for column, field in zip(columns, schema, strict=True)]
            writer.write_table(pa.Table.from_arrays(arrays, schema=schema))
            rows += len(page)
    return rows


def move_ledger(old: LedgerStore, new: LedgerStore) -> None:
    """Add everything of a ledger to another one: completions, what was paid for failures, batches under way."""
    with tempfile.TemporaryDirectory() as scratch:
        parquet = Path(scratch) / "ledger.parquet"
        export_ledger(old, parquet)
        import_ledger(new, parquet)
    for table in ("failures", "batches", "batch_places", "batch_creations", "batch_lines"):
        rows = old.database.query(f"SELECT * FROM {table}")  # noqa: S608
        for some in chunked(rows, PAGE):
            with new.database.transaction():
                new.database.insert(table, some)


def _pages(store: LedgerStore) -> Iterator[list[tuple[Any, ...]]]:
    last = ""
    while page := store.database.query(_EXPORT, (last, PAGE)):
        last = page[-1][0]
        yield [
            (row[0], row[1], canonical_json(unpack(row[2])), bytes(row[3]).decode("utf-8", "replace"), *row[4:])
            for row in page
        ]


def import_ledger(store: LedgerStore, path: Path) -> tuple[int, int]:
    """Add a Parquet file's completions; return (rows read, rows that were new). What is held already stands.

    Raises:
        DataError: the file is no export, or a row's key is not the key of its request.
    """
    import pyarrow.parquet as pq

    read = new = 0
    try:
        file = pq.ParquetFile(path)
        if lacking := sorted(set(COLUMNS) - set(file.schema_arrow.names)):
            raise DataError(
                f"{path} has no columns {lacking}: it is no export of a ledger; `lema ledger export` writes one"
            )
        for batch in file.iter_batches(batch_size=PAGE, columns=list(COLUMNS)):
            rows = [_checked(path, row) for row in batch.to_pylist()]
            with store.database.transaction():
                new += store.database.insert("completions", rows)
            read += len(rows)
    except (OSError, KeyError, ValueError) as error:
        raise DataError(f"{path} is no export of a ledger, as `lema ledger export` writes it: {error}") from None
    return read, new


def _checked(path: Path, row: dict[str, Any]) -> tuple[Any, ...]:
    """Return the table's row; an answer under the wrong key would be served for a question it does not answer."""
    request = json.loads(row["request"])
    if KeyMaker(request["endpoint"]).key(stored_request(request)) != row["key"]:
        raise DataError(f"{path}: the row with key {row['key']} holds a request with another key; it was changed")
    packed, answer = pack(canonical_json(request)), row["text"].encode()
    return (row["key"], row["endpoint"], packed, answer, *(row[name] for name in COLUMNS[4:]))


def differences(one: Any, other: Any, at: str = "request") -> list[str]:
    """Return where two stored requests differ, as paths with both values."""
    if isinstance(one, dict) and isinstance(other, dict):
        names = sorted(one.keys() | other.keys())
        return [line for name in names for line in differences(one.get(name), other.get(name), f"{at}.{name}")]
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        pairs = enumerate(zip(one, other, strict=True))
        return [line for index, (left, right) in pairs for line in differences(left, right, f"{at}[{index}]")]
    return [] if one == other else [f"{at}: {_shown(one)} against {_shown(other)}"]


def _shown(value: Any) -> str:
    text = "absent" if value is None else canonical_json(value)
    return text if len(text) <= 200 else f"{text[:200]}... ({len(text)} characters)"


def entry(store: LedgerStore, key: str) -> dict[str, Any]:
    """Return what the ledger knows of one key, or of the only key that begins so.

    Raises:
        LedgerError: no request has this key, or several begin with it.
    """
    found: dict[str, dict[str, Any]] = {}
    for row in store.requests(key):
        one = found.setdefault(row[0], {"key": row[0], "request": row[3], "completion": None, "failures": []})
        if row[1] == "completion":
            one["completion"] = {"finish_reason": row[4], "text": row[5]}
        else:
            one["failures"].append({"reason": row[4], "detail": row[5], "count": row[6]})
    if len(found) != 1:
        what = f"{len(found)} or more keys begin" if found else "no key begins"
        raise LedgerError(f"{what} with {key!r} in {store.database.where}; give the whole key, as in request_key")
    return next(iter(found.values()))
