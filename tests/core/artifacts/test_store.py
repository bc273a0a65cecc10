import json
import os
from dataclasses import replace

import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lema_core.artifacts import ArtifactRef, Identity, Shard, Store, rows_from_batch, shards_of, table_of
from lema_core.errors import ArtifactError
from lema_core.records import Question, Rejection, content_id

texts = st.text(st.characters(exclude_categories=["Cs"]))
questions = st.builds(
    Question, id=texts, task=texts, text=texts, gold=texts, rationale=st.none() | texts,
    candidates=st.none() | st.lists(texts).map(tuple),
)  # fmt: skip


def question(number: int) -> Question:
    return Question(id=content_id("q", number), task="t", text=f"What is {number}?", gold=str(number))


def rejection(number: int, reason: str = "bad") -> Rejection:
    return Rejection(id=f"r-{number}", parent_id="", reason=reason, detail="", text="")


IDENTITY = Identity("questions", {"n": 10})
REF = ArtifactRef("questions", IDENTITY.fingerprint)


def write(store: Store, shard: Shard, *, reject_every: int = 3, rows_in: int | None = None) -> None:
    with store.part(REF, shard, Question) as part:
        part.rows_in = shard.stop - shard.start if rows_in is None else rows_in
        for number in range(shard.start, shard.stop):
            part.add(rejection(number) if number % reject_every == 0 else question(number))


def publish(store: Store, shards: list[Shard]):
    parts = [store.finished_part(REF, shard) for shard in shards]
    assert all(parts)
    return store.publish(IDENTITY, parts, seconds=1.0)


@given(st.lists(questions, max_size=5))
def test_rows_survive_the_table(rows):
    back = [row for batch in table_of(rows, Question).to_batches() for row in rows_from_batch(batch, Question)]
    assert back == rows


def test_a_lone_surrogate_does_not_stop_a_table():
    row = replace(question(1), text="bad \ud800 text", candidates=("a\udfff",))
    assert table_of([row], Question).column("text").to_pylist() == ["bad ? text"]


def test_published_rows_read_back_in_any_range(tmp_path):
    store, shards = Store(str(tmp_path)), shards_of(10, 4)
    for shard in shards:
        write(store, shard)
    assert not store.exists(REF)
    manifest = publish(store, shards)
    assert store.exists(REF)
    assert (manifest.rows_in, manifest.rows_out, manifest.rejected, manifest.reasons) == (10, 6, 4, {"bad": 4})
    kept = [question(n) for n in range(10) if n % 3]
    assert list(store.rows(REF, Question)) == kept
    for start in range(7):
        for stop in range(start, 7):
            assert list(store.rows(REF, Question, start, stop)) == kept[start:stop]
    assert [r.id for r in store.rejections(REF)] == ["r-0", "r-3", "r-6", "r-9"]
    assert [m.fingerprint for m in store.manifests()] == [IDENTITY.fingerprint]


def test_a_range_of_a_large_part_reads_only_the_row_groups_that_hold_it(tmp_path, monkeypatch):
    store, shard = Store(str(tmp_path)), Shard(0, 0, 5000)
    write(store, shard, reject_every=10_000)
    publish(store, [shard])
    read: list[list[int]] = []
    real = pq.ParquetFile.iter_batches

    def watched(self, *args, row_groups, **options):
        read.append(row_groups)
        return real(self, *args, row_groups=row_groups, **options)

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", watched)
    kept = [question(number) for number in range(1, 5000)]
    for start, stop, groups in ((0, 10, [0]), (2040, 2060, [0, 1]), (4100, 4999, [2]), (0, 4999, [0, 1, 2])):
        assert list(store.rows(REF, Question, start, stop)) == kept[start:stop]
        assert read.pop() == groups


def test_a_lost_row_is_not_published(tmp_path):
    store = Store(str(tmp_path))
    write(store, Shard(0, 0, 10), rows_in=11)
    with pytest.raises(ArtifactError, match="1 were lost"):
        publish(store, [Shard(0, 0, 10)])
    assert not store.exists(REF)


def test_an_error_inside_a_part_leaves_nothing(tmp_path):
    store = Store(str(tmp_path))

    def fail() -> None:
        with store.part(REF, Shard(0, 0, 3), Question) as part:
            part.add(question(1))
            raise RuntimeError("the endpoint died")

    with pytest.raises(RuntimeError):
        fail()
    assert [p.name for p in tmp_path.rglob("*") if p.is_file()] == []
    assert store.finished_part(REF, Shard(0, 0, 3)) is None


def test_what_a_killed_writer_left_is_swept_when_the_artifact_is_published(tmp_path):
    store, shard = Store(str(tmp_path)), Shard(0, 0, 10)
    write(store, shard)
    left, own = (tmp_path / REF.folder / f".writing-{pid}-x" for pid in (2**22 + 1, os.getpid()))
    left.write_bytes(b"half")
    own.write_bytes(b"half")
    publish(store, [shard])
    assert not left.exists()
    assert own.exists()


def test_a_torn_part_is_not_a_finished_part(tmp_path):
    store, shard = Store(str(tmp_path)), Shard(0, 0, 10)
    write(store, shard)
    path = tmp_path / REF.folder / "part-00000.parquet"
    path.write_bytes(path.read_bytes()[:-20])
    assert store.finished_part(REF, shard) is None
    write(store, shard)
    assert store.finished_part(REF, shard) is not None


def test_a_part_of_another_range_is_not_this_shard(tmp_path):
    store = Store(str(tmp_path))
    write(store, Shard(0, 0, 10))
    assert store.finished_part(REF, Shard(0, 0, 5)) is None


def test_the_same_rows_give_the_same_bytes(tmp_path):
    files = []
    for name in ("a", "b"):
        store = Store(str(tmp_path / name))
        write(store, Shard(0, 0, 5_000))
        files.append((tmp_path / name / REF.folder / "part-00000.parquet").read_bytes())
    assert files[0] == files[1]


def test_a_torn_manifest_says_what_to_do(tmp_path):
    store, shards = Store(str(tmp_path)), shards_of(3, 4)
    write(store, shards[0])
    publish(store, shards)
    path = tmp_path / REF.folder / "manifest.json"
    path.write_text(path.read_text()[:40])
    with pytest.raises(ArtifactError, match="Delete the folder"):
        store.manifest(REF)


def test_the_manifest_holds_the_identity(tmp_path):
    store, shards = Store(str(tmp_path)), shards_of(3, 4)
    write(store, shards[0])
    publish(store, shards)
    document = json.loads((tmp_path / REF.folder / "manifest.json").read_text())
    assert document["identity"]["spec"] == {"n": 10}


def test_no_rows_give_one_empty_part_with_a_schema(tmp_path):
    store, shards = Store(str(tmp_path)), shards_of(0, 4)
    write(store, shards[0])
    assert publish(store, shards).rows_out == 0
    assert list(store.rows(REF, Question)) == []
    assert pq.read_schema(tmp_path / REF.folder / "part-00000.parquet").names[0] == "id"


@settings(max_examples=30)
@given(st.integers(0, 1000), st.integers(1, 300))
def test_shards_cover_every_row_once(rows, size):
    covered = [n for shard in shards_of(rows, size) for n in range(shard.start, shard.stop)]
    assert covered == list(range(rows))


def test_a_memory_root_works_like_a_folder():
    store, shards = Store("memory://bucket/prefix"), shards_of(10, 4)
    for shard in shards:
        write(store, shard)
    publish(store, shards)
    assert len(list(store.rows(REF, Question))) == 6
