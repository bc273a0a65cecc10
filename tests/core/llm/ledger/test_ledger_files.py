"""The ledger's files: hand-made imports, backups while it is in use, copies of its file, and its places."""

import json
import random
import shutil
import sqlite3
import stat
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from lema_core.errors import ConfigError, DataError, LedgerError, LemaError
from lema_core.llm import Completion, CompletionRequest, Sampling, request_key
from lema_core.llm.ledger.files import back_up, export_ledger, import_ledger
from lema_core.llm.ledger.store import CompletionEntry, LedgerStore
from lema_core.llm.requests import canonical_request, key_json
from lema_core.run.spec import RuntimeSpec, ledger_under


def paid(index: int) -> CompletionEntry:
    request = CompletionRequest(({"role": "user", "content": f"question {index}"},), Sampling(temperature=0.7))
    completion = Completion(request_key("m", request), "The answer is 42.", "stop", 20, 10, "m-1")
    return CompletionEntry("m", key_json(canonical_request("m", request)), completion, 0.5)


@pytest.fixture
def store(tmp_path: Path) -> LedgerStore:
    return LedgerStore(str(tmp_path / "ledger.sqlite"))


@pytest.fixture
def exported(tmp_path: Path) -> tuple[Path, list[dict[str, Any]]]:
    source = LedgerStore(str(tmp_path / "source.sqlite"))
    source.commit([paid(number) for number in range(5)], "run")
    export_ledger(source, tmp_path / "export.parquet")
    return tmp_path / "import.parquet", pq.read_table(tmp_path / "export.parquet").to_pylist()


def with_request(row: dict[str, Any], **fields: Any) -> dict[str, Any]:
    request = json.loads(row["request"]) | fields
    return row | {"request": json.dumps(request)}


def under_its_own_key(row: dict[str, Any], message: dict[str, Any]) -> dict[str, Any]:
    """Return a row whose key belongs to its request, so that only what it holds is wrong."""
    request = CompletionRequest((message,), Sampling())
    try:
        text, key = key_json(canonical_request("m", request)), request_key("m", request)
    except (LemaError, TypeError, ValueError):
        text, key = json.dumps({"endpoint": "m", "messages": [message], "params": {}, "sample_index": 0}), "0" * 32
    return row | {"request": text, "key": key}


DEEP = "[" * 100_000 + "]" * 100_000
WRONG: dict[str, Any] = {
    "thinking_null": {"thinking": None},
    "cached_negative": {"cached_tokens": -1},
    "reasoning_text": {"reasoning_tokens": "8"},
    "tokens_text": {"prompt_tokens": "x"},
    "tokens_digits": {"prompt_tokens": "20"},
    "tokens_negative": {"prompt_tokens": -1},
    "tokens_huge": {"completion_tokens": 2**62},
    "tokens_float": {"completion_tokens": 1.5},
    "tokens_null": {"prompt_tokens": None},
    "tokens_bool": {"prompt_tokens": True},
    "cost_negative": {"cost": -1e6},
    "cost_infinite": {"cost": float("inf")},
    "cost_nan": {"cost": float("nan")},
    "cost_text": {"cost": "0.1"},
    "cost_huge": {"cost": 1e12},
    "text_null": {"text": None},
    "text_number": {"text": 3},
    "text_bytes": {"text": b"\xff"},
    "text_list": {"text": ["a"]},
    "key_null": {"key": None},
    "key_short": {"key": "abc"},
    "key_other": {"key": "0" * 32},
    "key_upper": {"key": "A" * 32},
    "key_number": {"key": 3},
    "endpoint_null": {"endpoint": None},
    "endpoint_empty": {"endpoint": ""},
    "endpoint_other": {"endpoint": "n"},
    "endpoint_nul": {"endpoint": "m\0"},
    "finish_null": {"finish_reason": None},
    "finish_nul": {"finish_reason": "a\0"},
    "finish_long": {"finish_reason": "a" * 5_000},
    "model_null": {"model": None},
    "model_line": {"model": "a\nb"},
    "run_null": {"run": None},
    "run_escape": {"run": "\x1b[2J"},
    "day_null": {"day": None},
    "day_word": {"day": "today"},
    "day_none": {"day": "2026-13-40"},
    "day_number": {"day": 3},
    "request_null": {"request": None},
    "request_word": {"request": "x"},
    "request_empty": {"request": ""},
    "request_list": {"request": "[]"},
    "request_text": {"request": '"x"'},
    "request_number": {"request": "3"},
    "request_none": {"request": "null"},
    "request_bare": {"request": "{}"},
    "request_deep": {"request": DEEP},
    "request_nan": {"request": '{"endpoint": NaN}'},
    "request_int": {"request": "9" * 9_000},
    "request_dict": {"request": {"a": 1}},
    "request_two": {"request": "{}{}"},
}
REQUESTS: dict[str, Any] = {
    "endpoint_list": {"endpoint": []},
    "endpoint_nothing": {"endpoint": None},
    "endpoint_blank": {"endpoint": ""},
    "messages_text": {"messages": "hi"},
    "messages_none": {"messages": []},
    "messages_list": {"messages": [[]]},
    "messages_bare": {"messages": [{}]},
    "messages_role": {"messages": [{"role": 3, "content": ""}]},
    "messages_null": {"messages": None},
    "params_list": {"params": []},
    "params_null": {"params": None},
    "params_wrong": {"params": {"temperature": "hot"}},
    "params_n": {"params": {"n": 3}},
    "params_key": {"params": {"api_key": "x"}},
    "sample_text": {"sample_index": "0"},
    "sample_negative": {"sample_index": -1},
    "sample_bool": {"sample_index": False},
    "sample_float": {"sample_index": 0.0},
    "sample_huge": {"sample_index": 2**70},
    "more": {"extra": 1},
}
COLUMNS: dict[str, Any] = {
    "dates": pa.array([0] * 5, pa.date32()),
    "stamps": pa.array([10**12] * 5, pa.timestamp("s")),
    "binary": pa.array([b"\xff"] * 5, pa.binary()),
    "lists": pa.array([[1]] * 5),
    "structs": pa.array([{"a": 1}] * 5),
    "bools": pa.array([True] * 5),
    "nulls": pa.nulls(5),
    "decimals": pa.array([1] * 5, pa.decimal128(9, 2)),
}


def write(path: Path, rows: list[dict[str, Any]], changed: dict[str, Any]) -> None:
    """Write rows, the last one changed; where a column cannot hold the change, all of it has the change's type."""
    try:
        pq.write_table(pa.Table.from_pylist([*rows[:-1], rows[-1] | changed]), path)
    except (pa.ArrowException, TypeError, OverflowError):
        pq.write_table(pa.Table.from_pylist([row | changed for row in rows]), path)


@pytest.mark.parametrize("name", WRONG)
def test_a_row_of_the_wrong_kind_is_one_error_and_nothing_is_imported(store, exported, name):
    path, rows = exported
    write(path, rows, WRONG[name])
    refused(store, path)


@pytest.mark.parametrize("name", REQUESTS)
def test_a_request_of_the_wrong_kind_is_one_error_and_nothing_is_imported(store, exported, name):
    path, rows = exported
    write(path, rows, with_request(rows[-1], **REQUESTS[name]))
    refused(store, path)


@pytest.mark.parametrize("column", ["key", "endpoint", "request", "text", "prompt_tokens", "cost", "day", "model"])
@pytest.mark.parametrize("kind", COLUMNS)
def test_columns_of_the_wrong_kind(store, exported, column, kind):
    path, rows = exported
    table = pa.Table.from_pylist(rows)
    place = table.schema.get_field_index(column)
    pq.write_table(table.set_column(place, column, COLUMNS[kind]), path)
    if (column, kind) == ("cost", "nulls"):
        assert import_ledger(store, path) == (5, 5)
    else:
        refused(store, path)


@pytest.mark.parametrize(
    "message",
    [{"role": "user", "content": float("nan")}, {"role": "user"}, {"content": "x"}, {"role": None, "content": ""}],
)
def test_a_wrong_message_under_its_own_key(store, exported, message):
    path, rows = exported
    write(path, rows, under_its_own_key(rows[-1], message))
    refused(store, path)


def refused(store: LedgerStore, path: Path) -> None:
    with pytest.raises(DataError) as caught:
        import_ledger(store, path)
    said = str(caught.value)
    assert path.name in said
    assert len(said.encode()) < 1_000
    assert caught.value.__cause__ is None
    assert store.database.query("SELECT COUNT(*) FROM completions") == [(0,)], "half of it was imported"


def test_the_message_names_the_row(store, exported):
    path, rows = exported
    write(path, rows, {"cost": -1.0})
    with pytest.raises(DataError, match="row 5: cost"):
        import_ledger(store, path)


def test_a_key_that_occurs_twice_is_refused(store, exported):
    path, rows = exported
    pq.write_table(pa.Table.from_pylist([*rows, rows[0] | {"text": "another answer"}]), path)
    with pytest.raises(DataError, match=r"row 6: the key .* occurs twice"):
        import_ledger(store, path)
    refused(store, path)


@pytest.mark.parametrize("content", [b"", b"PAR1", b"no parquet", bytes(500), b"PAR1" + b"\xff" * 99 + b"PAR1"])
def test_what_is_no_parquet_is_refused(store, tmp_path, content):
    (tmp_path / "x.parquet").write_bytes(content)
    refused(store, tmp_path / "x.parquet")


def test_a_folder_or_nothing_is_refused(store, tmp_path):
    for path in (tmp_path, tmp_path / "nowhere.parquet"):
        with pytest.raises(DataError):
            import_ledger(store, path)


def test_damaged_exports_import_nothing_or_what_they_were(store, exported, tmp_path):
    path, rows = exported
    data, chance = (tmp_path / "export.parquet").read_bytes(), random.Random(23)  # noqa: S311
    for _ in range(60):
        changed = bytearray(data)
        changed[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        path.write_bytes(changed)
        refused(store, path)
    path.write_bytes(data)
    assert import_ledger(store, path) == (len(rows), len(rows))


def test_what_an_older_version_exported_is_imported(store, exported):
    path, rows = exported
    pq.write_table(pa.Table.from_pylist(rows), path)
    assert import_ledger(store, path) == (5, 5)
    assert import_ledger(store, path) == (5, 0)
    assert store.spent("run") == (2.5, 150)


@pytest.mark.parametrize(
    ("column", "value"), [("prompt_tokens", "x"), ("answer", 3), ("request", b"no zlib"), ("cost", "y")]
)
def test_a_row_that_an_older_import_spoilt_is_named(store, tmp_path, column, value):
    store.commit([paid(1)], "run")
    store.database.query(f"UPDATE completions SET {column} = ?", (value,))  # noqa: S608
    with pytest.raises(LedgerError, match="lema ledger backup"):
        export_ledger(store, tmp_path / "out.parquet")
    if column in {"prompt_tokens", "answer"}:
        with pytest.raises(LedgerError, match="holds no"):
            store.lookup([paid(1).completion.key])


def test_a_backup_of_a_ledger_in_use_is_whole_and_ours_alone(store, tmp_path):
    store.commit([paid(number) for number in range(300)], "run")
    back_up(store, tmp_path / "backups" / "ledger.sqlite")
    copy = tmp_path / "backups" / "ledger.sqlite"
    assert stat.S_IMODE(copy.stat().st_mode) == 0o600
    store.commit([paid(1_000)], "run")
    assert LedgerStore(str(copy)).spent("run") == (150.0, 9_000)
    with pytest.raises(ConfigError, match="in use"):
        back_up(store, tmp_path / "ledger.sqlite")
    (tmp_path / "other.sqlite-wal").touch()
    with pytest.raises(ConfigError, match="in use"):
        back_up(store, tmp_path / "other.sqlite")


def test_a_backup_replaces_an_older_one_and_a_damaged_ledger_makes_none(tmp_path):
    store, copy = LedgerStore(str(tmp_path / "l.sqlite")), tmp_path / "copy.sqlite"
    store.commit([paid(number) for number in range(300)], "run")
    back_up(store, copy)
    back_up(store, copy)
    store.close()
    whole = copy.read_bytes()
    path = tmp_path / "l.sqlite"
    data = path.read_bytes()
    path.write_bytes(data[:8_192] + random.Random(1).randbytes(60_000) + data[68_192:])  # noqa: S311
    with pytest.raises(LedgerError):
        back_up(LedgerStore(str(path)), copy)
    assert copy.read_bytes() == whole
    assert [file.name for file in tmp_path.glob(".writing*")] == []


def test_the_file_alone_holds_what_was_committed_half_a_minute_ago(tmp_path):
    store = LedgerStore(str(tmp_path / "l.sqlite"), checkpoint_s=0.0)
    reader = sqlite3.connect(tmp_path / "l.sqlite")
    store.commit([paid(number) for number in range(300)], "run")
    shutil.copy(tmp_path / "l.sqlite", tmp_path / "copy.sqlite")
    with sqlite3.connect(tmp_path / "copy.sqlite") as copy:
        assert copy.execute("SELECT COUNT(*) FROM completions").fetchone() == (300,)
    reader.close()
    store.close()


def test_a_process_that_ends_leaves_nothing_in_the_log_alone(tmp_path):
    store, other = LedgerStore(str(tmp_path / "l.sqlite")), LedgerStore(str(tmp_path / "l.sqlite"))
    store.commit([paid(1)], "run")
    store.close()
    shutil.copy(tmp_path / "l.sqlite", tmp_path / "copy.sqlite")
    assert LedgerStore(str(tmp_path / "copy.sqlite")).spent("run") == (0.5, 30)
    other.close()


def test_a_backup_of_postgresql_names_its_own_program(postgres, tmp_path):
    with pytest.raises(LedgerError, match="pg_dump"):
        back_up(LedgerStore(postgres.url("ledger")), tmp_path / "copy")


@pytest.mark.parametrize(
    "ledger",
    [
        "postgresql://u:S3cret@h/db",
        "postgresql://h/db?password=S3cret",
        "postgresql://h/db?sslpassword=S3cret",
        "postgresql+psycopg://u:S3cret@h/db",
        "Postgresql://u:S3cr[t@h/db",
        "s3://b/S3cret.sqlite",
        "sqlite:///S3cret.sqlite",
        "host=h password=S3cret",
        "",
        "postgresql://u@h h/S3cret",
    ],
)
def test_a_run_file_with_another_ledger_is_refused_and_does_not_show_it(ledger):
    with pytest.raises(ValidationError) as refused:
        RuntimeSpec(ledger=ledger)
    assert "S3cr" not in str(refused.value)


@pytest.mark.parametrize("url", ["postgresql+psycopg://u:S3cretPass@h/db", "Postgresql://u:S3cretPass@h/db"])
def test_a_url_never_becomes_a_file(tmp_path, monkeypatch, url):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError):
        LedgerStore(url)
    assert list(tmp_path.iterdir()) == []


def test_workers_on_other_machines_need_a_server():
    assert RuntimeSpec(scheduler="tcp://10.0.0.5:8786", ledger="Postgresql://h/db")
    assert RuntimeSpec(scheduler="tcp://127.0.0.1:8786")
    with pytest.raises(ValidationError, match="one ledger for all"):
        RuntimeSpec(scheduler="tcp://10.0.0.5:8786", ledger="l.sqlite")
    with pytest.raises(ValidationError, match="scheduler"):
        RuntimeSpec(scheduler="tcp://u:p@h:1")


@pytest.mark.parametrize("content", [b"\xff\xfe", b"postgresql://u:S3cret@h/db"])
def test_a_bad_ledger_url_file_is_one_error(tmp_path, content):
    (tmp_path / "ledger.url").write_bytes(content)
    with pytest.raises(ConfigError) as refused:
        LedgerStore(ledger_under(str(tmp_path)))
    assert "S3cret" not in str(refused.value)


def test_what_an_older_version_kept_of_an_endpoint_s_words_can_be_moved(store, tmp_path):
    store.commit([paid(1)], "run")
    store.database.query("UPDATE completions SET model = ?, finish_reason = ?", ("m\n\x1b[2J" + "x" * 2_000, "a\0b"))
    export_ledger(store, tmp_path / "out.parquet")
    other = LedgerStore(str(tmp_path / "other.sqlite"))
    assert import_ledger(other, tmp_path / "out.parquet") == (1, 1)
    assert other.lookup([paid(1).completion.key])[paid(1).completion.key].text == "The answer is 42."
