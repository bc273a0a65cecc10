import errno
import json
import os
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lema_core.artifacts import ArtifactRef, Identity, Shard, Store, part_files, rows_from_batch, shards_of, table_of
from lema_core.artifacts.files import _prefix, atomic_file, atomic_folder, atomic_local
from lema_core.artifacts.manifest import MANIFEST
from lema_core.artifacts.part import part_name, rejected_name
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
    begun = [_prefix(f"{pid}-x") for pid in (2**22 + 1, os.getpid())]
    left, own = (tmp_path / REF.folder / name for name in begun)
    elsewhere = left.with_name(f".writing-0a0a0a0a-{2**22 + 1}-x")
    for file in (left, own, elsewhere):
        file.write_bytes(b"half")
    publish(store, [shard])
    assert not left.exists()
    assert own.exists()
    assert elsewhere.exists(), "a process of another machine may be writing it"


def test_runs_that_cut_the_same_rows_otherwise_do_not_touch_each_others_parts(tmp_path):
    store, ours, theirs = Store(str(tmp_path)), shards_of(10, 4), shards_of(10, 3)
    for shard in (*ours, *theirs):
        write(store, shard)
    publish(store, ours)
    assert list(store.rows(REF, Question)) == [question(n) for n in range(10) if n % 3]
    assert [file.rsplit("/", 1)[1] for file in part_files(store.fs, store.folder(REF))] == [
        part_name(shard.start, shard.stop) for shard in ours
    ]


def test_a_second_run_that_publishes_gets_the_first_ones_manifest(tmp_path):
    store, ours, theirs = Store(str(tmp_path)), shards_of(10, 4), shards_of(10, 3)
    for shard in (*ours, *theirs):
        write(store, shard)
    parts = [part for part in store.finished_parts(REF, theirs) if part]
    first = publish(store, ours)
    assert store.publish(IDENTITY, parts, seconds=1.0) == first == store.manifest(REF)


def test_nothing_is_written_into_a_published_folder(tmp_path):
    store, shard = Store(str(tmp_path)), Shard(0, 0, 10)
    write(store, shard)
    publish(store, [shard])
    before = sorted((file.name, file.stat().st_mtime_ns) for file in (tmp_path / REF.folder).rglob("*.*"))
    write(store, shard, reject_every=2)
    write(store, Shard(0, 0, 5))
    assert sorted((file.name, file.stat().st_mtime_ns) for file in (tmp_path / REF.folder).rglob("*.*")) == before


def test_input_rows_without_a_part_are_not_published(tmp_path):
    store, shards = Store(str(tmp_path)), shards_of(10, 4)
    for shard in shards:
        write(store, shard)
    with pytest.raises(ArtifactError, match="after input row 4 the next part begins at 8"):
        publish(store, [shards[0], shards[2]])
    assert not store.exists(REF)


@pytest.mark.parametrize("name", [part_name, rejected_name])
def test_a_part_with_other_rows_than_its_manifest_says_is_an_error(tmp_path, name):
    store, shard = Store(str(tmp_path)), Shard(0, 0, 10)
    write(store, shard)
    publish(store, [shard])
    path = tmp_path / REF.folder / name(0, 10)
    pq.write_table(pq.read_table(path).slice(1), path)
    with pytest.raises(ArtifactError, match="its manifest says"):
        [*store.rows(REF, Question), *store.rejections(REF)]


def test_a_place_that_cannot_be_written_is_told(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with (
        pytest.raises(ArtifactError, match="choose another --root"),
        atomic_file(Store(str(tmp_path)).fs, str(tmp_path / "file" / "a" / "b")),
    ):
        pass


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (TimeoutError("the endpoint did not answer"), TimeoutError),
        (PermissionError(errno.EACCES, "no", "another file"), PermissionError),
        (OSError(errno.ENOSPC, "No space left on device"), ArtifactError),
    ],
)
def test_only_errors_of_the_disk_are_told_as_such(tmp_path, error, told):
    def fail() -> None:
        with Store(str(tmp_path)).part(REF, Shard(0, 0, 3), Question):
            raise error

    with pytest.raises(told):
        fail()
    assert not [p for p in tmp_path.rglob("*") if p.is_file()]


def test_a_torn_part_is_not_a_finished_part(tmp_path):
    store, shard = Store(str(tmp_path)), Shard(0, 0, 10)
    write(store, shard)
    path = tmp_path / REF.folder / part_name(0, 10)
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
        files.append((tmp_path / name / REF.folder / part_name(0, 5_000)).read_bytes())
    assert files[0] == files[1]


def test_a_torn_manifest_says_what_to_do(tmp_path):
    store, shards = Store(str(tmp_path)), shards_of(3, 4)
    write(store, shards[0])
    publish(store, shards)
    path = tmp_path / REF.folder / MANIFEST
    path.write_text(path.read_text()[:40])
    with pytest.raises(ArtifactError, match="Remove the folder"):
        store.manifest(REF)


def test_the_manifest_holds_the_identity(tmp_path):
    store, shards = Store(str(tmp_path)), shards_of(3, 4)
    write(store, shards[0])
    publish(store, shards)
    document = json.loads((tmp_path / REF.folder / MANIFEST).read_text())
    assert document["identity"]["spec"] == {"n": 10}


def test_no_rows_give_one_empty_part_with_a_schema(tmp_path):
    store, shards = Store(str(tmp_path)), shards_of(0, 4)
    write(store, shards[0])
    assert publish(store, shards).rows_out == 0
    assert list(store.rows(REF, Question)) == []
    assert pq.read_schema(tmp_path / REF.folder / part_name(0, 0)).names[0] == "id"


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


def test_a_file_of_this_machine_is_whole_or_not_there_wherever_it_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    left = tmp_path / _prefix(f"{2**22 + 1}-x")
    left.touch()
    Path("link").symlink_to("real")
    for name in ("plain", "new/folder/file", "link"):
        with atomic_local(Path(name)) as local:
            local.write_text("whole")
        assert Path(name).read_text() == "whole"
    assert Path("link").is_symlink()
    with pytest.raises(ArtifactError, match="no ordinary file"), atomic_local(Path("new")):
        raise AssertionError("what cannot be placed is not made")
    with pytest.raises(ZeroDivisionError), atomic_local(Path("plain")) as local:
        local.write_text(str(1 / 0))
    assert Path("plain").read_text() == "whole"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "new", "plain", "real"]


def test_a_folder_takes_its_place_whole(tmp_path):
    target = tmp_path / "model"
    for made in ("first", "second"):
        with pytest.raises(FileExistsError), atomic_folder(target) as part:
            part.mkdir()
        with atomic_folder(target) as part:
            (part / made).touch()
        assert [path.name for path in target.iterdir()] == [made]
    assert list(tmp_path.iterdir()) == [target]


def test_files_have_the_rights_that_the_umask_allows(tmp_path, monkeypatch):
    monkeypatch.setattr("lema_core.artifacts.files.UMASK", 0o077)
    with atomic_local(tmp_path / "private") as local:
        local.write_text("x")
    assert (tmp_path / "private").stat().st_mode & 0o777 == 0o600
