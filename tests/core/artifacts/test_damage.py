"""Damaged artifacts: what is read is what was written, or one error of ours that says what to remove."""

import json
import random
import shutil
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from damage import overwritten, torn

from lema_core.artifacts import ArtifactRef, Identity, Shard, Store, schema_of, table_of
from lema_core.artifacts.derivation import trace_ancestry
from lema_core.artifacts.manifest import MANIFEST, META, Manifest, PartSummary, read_document
from lema_core.artifacts.parquet import READ_BATCH, TableFile, write_table
from lema_core.artifacts.part import earlier_rejected_name, part_name, rejected_name
from lema_core.errors import ArtifactError, ConfigError, DataError, LemaError
from lema_core.records import Question, Rejection
from lema_core.run.records import read_record, write_record
from lema_core.run.spec import RunSpec

FLIPS = 400
IDENTITY = Identity("questions", {"name": "damage"})
REF, SHARD = ArtifactRef("questions", IDENTITY.fingerprint), Shard(0, 0, 40)


def row(number: int) -> Question:
    candidates = ("oak", "elm") if number % 3 else None
    return Question(id=f"q-{number}", task="t", text=f"Zoë has {number} nuts.", gold=str(number), candidates=candidates)


def filled(root: str, rows: int = 30) -> Store:
    store = Store(root)
    with store.part(REF, SHARD, Question) as part:
        part.rows_in = 40
        for number in range(rows):
            part.add(row(number))
        for number in range(rows, 40):
            part.add(Rejection.of(f"r-{number}", "bad", "it is bad", text="t"))
    return store


def published(root: str) -> Store:
    store = filled(root)
    store.publish(IDENTITY, [part for part in store.finished_parts(REF, [SHARD]) if part], seconds=1.0)
    return store


def read_all(store: Store) -> tuple[list[Question], list[Rejection], Manifest]:
    return list(store.rows(REF, Question)), list(store.rejections(REF)), store.manifest(REF)


def flipped(data: bytes, chance: random.Random) -> bytes:
    changed = bytearray(data)
    changed[chance.randrange(len(changed))] ^= 1 << chance.randrange(8)
    return bytes(changed)


def zeroed(data: bytes, chance: random.Random) -> bytes:
    start = chance.randrange(len(data))
    return data[:start] + bytes(len(data) - start)


def shifted(data: bytes, chance: random.Random) -> bytes:
    place = chance.randrange(len(data))
    return data[:place] + chance.randbytes(chance.randint(1, 9)) + data[place:]


def outcome(read: Callable[[], Any]) -> Any:
    """Return what is read, or the error of ours; any other exception is the test's failure."""
    try:
        return read()
    except LemaError as error:
        return error


@pytest.mark.parametrize("name", [part_name(0, 40), rejected_name(0, 40)])
@pytest.mark.parametrize("damage", [flipped, overwritten, torn, zeroed, shifted])
def test_no_damage_of_a_part_changes_a_row_or_raises_another_error(tmp_path, name, damage):
    store = published(str(tmp_path))
    whole, path = read_all(store), tmp_path / REF.folder / name
    data, chance, caught = path.read_bytes(), random.Random(3), 0  # noqa: S311
    for _ in range(FLIPS // 4):
        path.write_bytes(damage(data, chance))
        found = outcome(lambda: read_all(store))
        assert found == whole or isinstance(found, ArtifactError)
        if isinstance(found, ArtifactError):
            caught += 1
            assert str(tmp_path / REF.folder) in str(found), "it says which folder to remove"
    assert caught > FLIPS // 5


@pytest.mark.parametrize("name", [part_name(0, 40), rejected_name(0, 40)])
@pytest.mark.parametrize("damage", [flipped, overwritten, torn])
def test_a_damaged_part_of_an_unfinished_artifact_is_made_again(tmp_path, name, damage):
    store = filled(str(tmp_path))
    summary, path = store.finished_part(REF, SHARD, verified=True), tmp_path / REF.folder / name
    data, chance = path.read_bytes(), random.Random(5)  # noqa: S311
    for _ in range(40):
        path.write_bytes(damaged := damage(data, chance))
        assert store.finished_parts(REF, [SHARD], verified=True) == [summary if damaged == data else None]
    filled(str(tmp_path))
    assert store.finished_part(REF, SHARD, verified=True) == summary


def test_a_range_reads_only_the_row_groups_that_hold_it(tmp_path):
    """Damage in one row group leaves the others readable, and each is compared before it is decoded."""
    store, shard = Store(str(tmp_path)), Shard(0, 0, 3 * READ_BATCH)
    with store.part(REF, shard, Question) as part:
        part.rows_in = shard.stop
        for number in range(shard.stop):
            part.add(row(number))
    store.publish(IDENTITY, [part.summary], seconds=1.0)
    path = tmp_path / REF.folder / part_name(0, shard.stop)
    data = bytearray(path.read_bytes())
    group = pq.read_metadata(path).row_group(1).column(0)
    data[group.data_page_offset + 9] ^= 1
    path.write_bytes(data)
    assert list(store.rows(REF, Question, 0, 5)) == [row(number) for number in range(5)]
    assert len(list(store.rows(REF, Question, 2 * READ_BATCH))) == READ_BATCH
    with pytest.raises(ArtifactError, match="not those that were written"):
        list(store.rows(REF, Question, READ_BATCH, READ_BATCH + 1))


def test_the_parts_of_a_remote_root_are_compared_too():
    store = published(f"memory://{uuid.uuid4()}")
    remote, path = fsspec.filesystem("memory"), f"{store.folder(REF)}/{part_name(0, 40)}"
    whole, data, chance = read_all(store), remote.cat_file(path), random.Random(9)  # noqa: S311
    for _ in range(30):
        remote.pipe_file(path, flipped(data, chance))
        assert isinstance(outcome(lambda: read_all(store)), ArtifactError)
    remote.pipe_file(path, data)
    assert read_all(store) == whole


def old_part(path: Path, rows: list[Any], record: type, summary: PartSummary) -> None:
    """Write a part as earlier versions did, without a seal and without checksums."""
    with pq.ParquetWriter(path, schema_of(record), compression="zstd", write_statistics=False) as writer:
        if rows:
            writer.write_table(table_of(rows, record))
        writer.add_key_value_metadata({"lema": summary.model_dump_json()})


def old_artifact(tmp_path: Path) -> Store:
    store = published(str(tmp_path))
    rows, rejected, manifest = read_all(store)
    shutil.rmtree(tmp_path / REF.folder / META)
    for name, some, record in ((part_name(0, 40), rows, Question), (earlier_rejected_name(0, 40), rejected, Rejection)):
        old_part(tmp_path / REF.folder / name, some, record, manifest.parts[0])
    (tmp_path / REF.folder / "manifest.json").write_text(manifest.model_dump_json(indent=2) + "\n")
    return store


def test_artifacts_of_older_versions_are_read_as_before(tmp_path):
    whole = read_all(published(str(tmp_path / "new")))
    store = old_artifact(tmp_path / "old")
    assert read_all(store) == whole
    assert store.finished_part(REF, SHARD, verified=True) == whole[2].parts[0]


def test_damage_of_an_older_part_raises_no_other_error(tmp_path):
    store = old_artifact(tmp_path)
    path = tmp_path / REF.folder / part_name(0, 40)
    data, chance = path.read_bytes(), random.Random(11)  # noqa: S311
    for _ in range(FLIPS // 2):
        path.write_bytes(flipped(data, chance))
        outcome(lambda: read_all(store))
        store.finished_part(REF, SHARD, verified=True)
        outcome(lambda: trace_ancestry(str(tmp_path), "q-3"))


@pytest.mark.parametrize("damage", [flipped, overwritten, torn, shifted])
def test_no_damage_of_a_manifest_changes_it_or_raises_another_error(tmp_path, damage):
    store = published(str(tmp_path))
    path, manifest = tmp_path / REF.folder / MANIFEST, store.manifest(REF)
    data, chance = path.read_bytes(), random.Random(13)  # noqa: S311
    for _ in range(FLIPS // 4):
        path.write_bytes(damage(data, chance))
        found = outcome(lambda: store.manifest(REF))
        assert found == manifest or isinstance(found, ArtifactError)


@pytest.mark.parametrize("text", [
    "", "null", "[]", "3", '"x"', "{}", "[" * 100_000, '{"a":' * 100_000, "NaN", "{", "\ud800", '{"stage": NaN}',
    '{"stage": 1e999}', "9" * 5_000,
])  # fmt: skip
def test_hand_made_manifests(tmp_path, text):
    store = published(str(tmp_path))
    (tmp_path / REF.folder / MANIFEST).write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(ArtifactError, match="Remove the folder"):
        store.manifest(REF)


@pytest.mark.parametrize("damage", [flipped, overwritten, torn, shifted])
def test_no_damage_of_a_run_s_record_changes_it_or_raises_another_error(tmp_path, damage):
    write_record(
        str(tmp_path),
        RunSpec.model_validate({"name": "r", "questions": {"task": "arithmetic", "limit": 3}}),
        "failed",
        "é",
    )
    path, record = tmp_path / "runs" / "r.json", read_record(str(tmp_path), "r")
    data, chance = path.read_bytes(), random.Random(17)  # noqa: S311
    for _ in range(FLIPS // 4):
        path.write_bytes(damage(data, chance))
        found = outcome(lambda: read_record(str(tmp_path), "r"))
        assert found == record or isinstance(found, ConfigError)


@pytest.mark.parametrize(
    "content",
    [
        b'{"spec": {}, "state": "failed", "updated": ""}',
        b'{"spec": {"name": 3}}',
        b"\xff",
        b'{"spec": {"name": "r", "runtime": 3}, "state": "failed", "updated": ""}',
    ],
)
def test_hand_made_records(tmp_path, content):
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "r.json").write_bytes(content)
    with pytest.raises(ConfigError, match="no record of a run"):
        read_record(str(tmp_path), "r")


def test_a_document_says_what_was_changed():
    with pytest.raises(DataError, match="changed or damaged"):
        read_document(b'{"index": 1, "sha256": "0"}', PartSummary, DataError)


def test_a_part_that_is_no_file_is_one_error(tmp_path):
    store = published(str(tmp_path))
    path = tmp_path / REF.folder / part_name(0, 40)
    path.unlink()
    assert isinstance(outcome(lambda: read_all(store)), ArtifactError)
    path.mkdir()
    assert isinstance(outcome(lambda: read_all(store)), ArtifactError)
    assert isinstance(outcome(lambda: trace_ancestry(str(tmp_path), "q-1")), ArtifactError)


def test_other_programs_read_our_parquet_and_its_checksums(tmp_path):
    write_table(pa.table({"a": list(range(5_000)), "b": ["x"] * 5_000}), tmp_path / "t.parquet")
    assert pq.read_table(tmp_path / "t.parquet", page_checksum_verification=True).num_rows == 5_000
    data = bytearray((tmp_path / "t.parquet").read_bytes())
    place = data.index(b"x", 4)
    data[place] ^= 1
    with pytest.raises(OSError, match="CRC"):
        pq.read_table(pa.BufferReader(bytes(data)), page_checksum_verification=True)


def test_what_other_programs_write_is_read(tmp_path):
    pq.write_table(pa.table({"a": [1]}), tmp_path / "t.parquet")
    with (tmp_path / "t.parquet").open("rb") as file:
        table = TableFile(file)
        assert (table.sealed, table.rows) == (False, 1)


def test_a_row_without_a_value_that_it_must_have_is_refused(tmp_path):
    store = old_artifact(tmp_path)
    rows = [json.loads(json.dumps({**table_of([row(n)], Question).to_pylist()[0]})) for n in range(30)]
    rows[3]["text"] = None
    path = tmp_path / REF.folder / part_name(0, 40)
    pq.write_table(pa.Table.from_pylist(rows), path)
    with pytest.raises(ArtifactError):
        list(store.rows(REF, Question))
