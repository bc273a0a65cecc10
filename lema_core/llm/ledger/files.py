"""The ledger's completions as Parquet: to keep, to analyse, to bring to another machine.

A row is self-contained: the request it answers is written out, and its key can be computed again from it.
"""

import datetime as dt
import json
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, field_validator

from lema_core.artifacts.files import atomic_local, error_text
from lema_core.artifacts.parquet import TableWriter, open_table, raise_faults_as, rows_of, translate_faults
from lema_core.errors import ConfigError, DataError, LedgerError, LemaError
from lema_core.llm.ledger.store import DAMAGED, LedgerStore, answer_text, pack, unpack
from lema_core.llm.requests import KEY_HEX, KeyMaker, key_json, refuse_constant, stored_request
from lema_core.system.chunking import chunked
from lema_core.system.redaction import one_line

COLUMNS = (
    *("key", "endpoint", "request", "text", "finish_reason", "prompt_tokens", "completion_tokens", "model"),
    *("cost", "run", "day"),
)
DETAILS = ("thinking", "cached_tokens", "reasoning_tokens", "cache_write_tokens")
"""Columns that exports of older versions do not have."""
PAGE = 1000

_EXPORT = (
    "SELECT completions.key, endpoint, request, answer, finish_reason, prompt_tokens, completion_tokens, model, cost, "
    "run, day, thinking, COALESCE(cached_tokens, 0), COALESCE(reasoning_tokens, 0), "
    "COALESCE(cache_write_tokens, 0) FROM completions "
    "LEFT JOIN completion_details ON completion_details.key = completions.key "
    "WHERE completions.key > ? ORDER BY completions.key LIMIT ?"
)


def export_ledger(store: LedgerStore, path: Path) -> int:
    """Write all completions to a Parquet file, whole or not at all, in the order of their keys; return how many.

    Raises:
        ArtifactError: it cannot be written there.
        LedgerError: the ledger holds a row that is no completion.
    """
    import pyarrow as pa

    names = (*COLUMNS, *DETAILS)
    kinds = {"cost": "float64"} | {name: "int64" for name in names if name.endswith("_tokens")}
    schema = pa.schema([(name, kinds.get(name, "string")) for name in names])
    rows = 0
    with atomic_local(path) as local, TableWriter(local, schema) as writer:
        last = ""
        while page := store.database.query(_EXPORT, (last, PAGE)):
            last = page[-1][0]
            columns = zip(*(_to_export_row(row) for row in page), strict=True)
            try:
                arrays = [pa.array(column, field.type) for column, field in zip(columns, schema, strict=True)]
            except (pa.ArrowException, TypeError, UnicodeError, OverflowError) as error:
                raise LedgerError(f"the ledger holds a row that is no completion ({error}): {DAMAGED}") from None
            writer.write(pa.Table.from_arrays(arrays, schema=schema))
            rows += len(page)
    return rows


def back_up(store: LedgerStore, path: Path) -> None:
    """Copy a ledger in SQLite to a file that only its owner may read, whole or not at all, while others use it.

    Raises:
        ConfigError: the file is a database that is in use.
        LedgerError: the ledger is damaged, or in PostgreSQL.
        ArtifactError: it cannot be written there.
    """
    source = Path(store.database.where)
    if Path(f"{path}-wal").exists() or (path.exists() and source.exists() and path.samefile(source)):
        raise ConfigError(f"{path} is a database in use, and a backup would destroy it. Name another file.")
    with atomic_local(path, private=True) as local:
        store.database.backup(local)


def move_ledger(old: LedgerStore, new: LedgerStore) -> None:
    """Add everything of a ledger to another one: completions, what was paid for failures, batches under way."""
    with tempfile.TemporaryDirectory() as scratch:
        parquet = Path(scratch) / "ledger.parquet"
        export_ledger(old, parquet)
        import_ledger(new, parquet)
    for table in ("failures", "failure_details", "batches", "batch_places", "batch_creations", "batch_lines"):
        rows = old.database.query(f"SELECT * FROM {table}")  # noqa: S608
        for some in chunked(rows, PAGE):
            with new.database.transaction():
                new.database.insert(table, some)


def _to_export_row(row: tuple[Any, ...]) -> tuple[Any, ...]:
    # Parquet accepts valid UTF-8 only. Older versions kept an endpoint's model and finish reason as they came.
    text = answer_text(row[0], row[3]).encode("utf-8", "replace").decode()
    names = {place: one_line(row[place], 1_000) for place in (4, 7, 9) if isinstance(row[place], str)}
    rest = [names.get(place, row[place]) for place in range(4, 11)]
    thinking = "" if row[11] is None else answer_text(row[0], row[11]).encode("utf-8", "replace").decode()
    return (row[0], row[1], key_json(unpack(row[2])), text, *rest, thinking, *row[12:])


def import_ledger(store: LedgerStore, path: Path) -> tuple[int, int]:
    """Add a Parquet file's completions; return (rows read, rows that were new).

    A key that is stored already keeps its completion. Every row is checked before the first one is added: a file with
    a fault adds nothing.

    Raises:
        DataError: the file is no export, or a row of it could not have been written by one.
    """
    keys: set[bytes] = set()
    for number, row in _read_export(path):
        key = bytes.fromhex(row[0])
        if key in keys:
            raise _row_error(path, number, f"the key {row[0]} occurs twice")
        keys.add(key)
    read = new = 0
    for rows in chunked((row for _, row in _read_export(path)), PAGE):
        with store.database.transaction():
            stored = store.lookup([row[0] for row in rows])
            new += store.database.insert("completions", [row[:11] for row in rows])
            # Only beside answers of this file: a stored completion keeps its own.
            store.insert_details([(row[0], *row[11:]) for row in rows if row[0] not in stored])
        read += len(rows)
    return read, new


def _read_export(path: Path) -> Iterator[tuple[int, tuple[Any, ...]]]:
    """Yield (number from 1, row of the table) of an export, each checked."""

    def fault(detail: str) -> DataError:
        return DataError(
            f"{path} is no export of a ledger, as `lema ledger export` writes it, or was damaged: {detail}"
        )

    with ExitStack() as stack:
        with raise_faults_as(fault):
            file = stack.enter_context(path.open("rb"))
        table = stack.enter_context(open_table(file, fault))
        if lacking := sorted(set(COLUMNS) - set(table.schema.names)):
            raise DataError(
                f"{path} has no columns {lacking}: it is no export of a ledger; `lema ledger export` writes one"
            )
        makers: dict[str, KeyMaker] = {}
        names = [*COLUMNS, *(name for name in DETAILS if name in table.schema.names)]
        for number, row in enumerate(translate_faults(rows_of(table.batches(names, size=PAGE)), fault), start=1):
            yield number, _check_row(path, number, row, makers)


Name = Annotated[str, StringConstraints(min_length=1, max_length=1_000, pattern=r"^[^\x00-\x1f\x7f]*$")]
Label = Annotated[str, StringConstraints(max_length=1_000, pattern=r"^[^\x00-\x1f\x7f]*$")]
Tokens = Annotated[int, Field(ge=0, le=1_000_000_000)]


class _Completion(BaseModel):
    """A row of an export. Its bounds are far beyond what one request may take, and keep sums finite."""

    model_config = ConfigDict(strict=True, extra="forbid", hide_input_in_errors=True)

    key: Annotated[str, StringConstraints(pattern=rf"^[0-9a-f]{{{KEY_HEX}}}$")]
    endpoint: Name
    request: str
    text: str
    finish_reason: Label
    prompt_tokens: Tokens
    completion_tokens: Tokens
    model: Label
    cost: Annotated[float, Field(ge=0, le=100_000, allow_inf_nan=False)] | None
    run: Label
    day: Annotated[str, StringConstraints(pattern=r"^\d{4}-\d\d-\d\d$")]
    thinking: str = ""
    cached_tokens: Tokens = 0
    reasoning_tokens: Tokens = 0
    cache_write_tokens: Tokens = 0

    @field_validator("cost", mode="before")
    @classmethod
    def _cost_is_a_number(cls, cost: object) -> object:
        if type(cost) not in (float, int, type(None)):
            raise ValueError("expected a number or nothing")
        return cost

    @field_validator("day")
    @classmethod
    def _day_exists(cls, day: str) -> str:
        dt.date.fromisoformat(day)
        return day


class _Request(BaseModel):
    """The request of a row: what its key is made from."""

    model_config = ConfigDict(strict=True, extra="forbid", hide_input_in_errors=True)

    endpoint: Name
    messages: Annotated[list[dict[str, Any]], Field(min_length=1)]
    params: dict[str, Any]
    sample_index: Annotated[int, Field(ge=0, le=2**31)]

    @field_validator("messages")
    @classmethod
    def _have_roles(cls, messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
        if not all(isinstance(message.get("role"), str) and "content" in message for message in messages):
            raise ValueError("each message needs role and content")
        return messages


def _check_row(path: Path, number: int, row: dict[str, Any], makers: dict[str, KeyMaker]) -> tuple[Any, ...]:
    """Return the table's row; an answer under the wrong key would be served for a question it does not answer."""
    try:
        one = _Completion.model_validate(row)
        request = _Request.model_validate(json.loads(one.request, parse_constant=refuse_constant))
        plain = request.model_dump()
        asked = stored_request(plain)
        maker = makers.setdefault(request.endpoint, KeyMaker(request.endpoint))
        key = maker.key(asked)
        packed, answer = pack(key_json(plain)), one.text.encode()
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "request"
        raise _row_error(path, number, f"{place}: {first['msg'].removeprefix('Value error, ')}") from None
    except (LemaError, ValueError, TypeError, RecursionError) as error:
        raise _row_error(path, number, f"its request cannot be read: {error_text(error)}") from None
    if request.endpoint != one.endpoint:
        raise _row_error(path, number, "its request names another endpoint")
    if key != one.key:
        raise _row_error(path, number, f"the request has another key than {one.key}; it was changed")
    numbers = (one.prompt_tokens, one.completion_tokens)
    names = (one.model, one.cost, one.run, one.day)
    details = (one.thinking, one.cached_tokens, one.reasoning_tokens, one.cache_write_tokens)
    return (one.key, one.endpoint, packed, answer, one.finish_reason, *numbers, *names, *details)


def _row_error(path: Path, number: int, what: str) -> DataError:
    return DataError(f"{path}, row {number}: {what}. Nothing was imported; `lema ledger export` writes such files")


def diff_requests(one: Any, other: Any, at: str = "request") -> list[str]:
    """Return where two stored requests differ, as paths with both values."""
    if isinstance(one, dict) and isinstance(other, dict):
        names = sorted(one.keys() | other.keys())
        return [line for name in names for line in diff_requests(one.get(name), other.get(name), f"{at}.{name}")]
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        pairs = enumerate(zip(one, other, strict=True))
        return [line for index, (left, right) in pairs for line in diff_requests(left, right, f"{at}[{index}]")]
    return [] if one == other else [f"{at}: {_preview(one)} against {_preview(other)}"]


def _preview(value: Any) -> str:
    text = "absent" if value is None else key_json(value)
    return text if len(text) <= 200 else f"{text[:200]}... ({len(text)} characters)"


def find_entry(store: LedgerStore, key: str) -> dict[str, Any]:
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
