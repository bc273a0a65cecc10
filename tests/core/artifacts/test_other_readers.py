"""An artifact as it lies is a table for pandas and for ``datasets``; one of an earlier version still opens here."""

import shutil
from pathlib import Path

import pandas as pd
import pytest

from lema_core.artifacts import ArtifactRef, Identity, Shard, Store, part_files, shards_of
from lema_core.artifacts.derivation import drop_parts, set_aside, trace_ancestry
from lema_core.artifacts.manifest import EARLIER_MANIFEST, MANIFEST, META
from lema_core.artifacts.part import earlier_rejected_name, rejected_name
from lema_core.records import Question, Rejection

IDENTITY = Identity("questions", {"n": 10})
REF = ArtifactRef("questions", IDENTITY.fingerprint)
ROWS = 10


def make(root: Path, *, shard_rows: int = 4, reject_every: int = 3) -> Store:
    """Publish an artifact whose rejected rows, as everywhere, have other columns than its rows."""
    store = Store(str(root))
    for shard in shards_of(ROWS, shard_rows):
        write(store, shard, reject_every)
    parts = [part for part in store.finished_parts(REF, shards_of(ROWS, shard_rows)) if part]
    store.publish(IDENTITY, parts, seconds=1.0)
    return store


def write(store: Store, shard: Shard, reject_every: int = 3) -> None:
    with store.part(REF, shard, Question) as part:
        part.rows_in = shard.stop - shard.start
        for number in range(shard.start, shard.stop):
            if number % reject_every == 0:
                part.add(Rejection(id=f"r-{number}", parent_id="", reason="bad", detail="", text="a test"))
            else:
                part.add(Question(id=f"q-{number}", task="t", text=f"What is {number}?", gold=str(number)))


def as_earlier_version(store: Store) -> None:
    """Move what earlier versions kept beside the parts to where they kept it."""
    folder = Path(store.folder(REF))
    for part in store.manifest(REF).parts:
        span = (part.start, part.stop)
        (folder / rejected_name(*span)).rename(folder / earlier_rejected_name(*span))
    (folder / MANIFEST).rename(folder / EARLIER_MANIFEST)
    shutil.rmtree(folder / META)


def test_pandas_and_datasets_read_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets", reason="training is not installed (lema-pipeline[train])")
    monkeypatch.chdir(tmp_path)  # where a user's root lies: .lema is a hidden folder
    store = make(Path(".lema/store"))
    # A run that cut its shards otherwise was killed, and another one places a part late.
    write(store, Shard(0, 0, 3))
    expected = [row.id for row in store.rows(REF, Question)]
    folder = f".lema/store/{REF.folder}"
    assert list(pd.read_parquet(folder)["id"]) == expected
    loaded = datasets.load_dataset(folder, cache_dir=str(tmp_path / "cache"))
    assert list(loaded) == ["train"]
    assert list(loaded["train"]["id"]) == expected
    assert "reason" not in loaded["train"].column_names


def test_pandas_reads_a_table_without_rows(tmp_path: Path) -> None:
    # `datasets` has no data sets without rows: it says that the split corresponds to no data.
    make(tmp_path, reject_every=1)
    table = pd.read_parquet(tmp_path / REF.folder)
    assert len(table) == 0
    assert "text" in table.columns


def test_parts_that_the_manifest_does_not_name_are_removed_when_it_is_published(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    for shard in shards_of(ROWS, 3):
        write(store, shard)
    make(tmp_path)
    assert list(pd.read_parquet(tmp_path / REF.folder)["id"]) == [row.id for row in store.rows(REF, Question)]
    assert len(list((tmp_path / REF.folder / META).glob("rejected-*"))) == len(shards_of(ROWS, 4))


def test_an_artifact_of_an_earlier_version_is_read_and_moved(tmp_path: Path) -> None:
    store = make(tmp_path / "store")
    rows, rejected, manifest = list(store.rows(REF, Question)), list(store.rejections(REF)), store.manifest(REF)
    as_earlier_version(store)
    assert store.exists(REF)
    assert list(store.manifests()) == [manifest]
    assert list(store.rows(REF, Question)) == rows
    assert list(store.rejections(REF)) == rejected
    assert part_files(store.fs, store.folder(REF))
    assert [row.stage for row in trace_ancestry(str(tmp_path / "store"), "r-3")] == ["questions"]
    # Nothing is written into it either.
    write(store, Shard(0, 0, ROWS))
    assert store.finished_part(REF, Shard(0, 0, ROWS)) is None
    aside = Path(set_aside(store, [REF]))
    assert not store.exists(REF)
    assert (aside / REF.folder / EARLIER_MANIFEST).is_file()


def test_parts_that_an_earlier_version_left_unfinished_are_used_or_dropped(tmp_path: Path) -> None:
    store = make(tmp_path)
    as_earlier_version(store)
    (tmp_path / REF.folder / EARLIER_MANIFEST).unlink()
    shards = shards_of(ROWS, 4)
    found = store.finished_parts(REF, shards, verified=True)
    assert all(found)
    drop_parts(store, REF, [part for part in found if part][:1])
    assert not (tmp_path / REF.folder / earlier_rejected_name(0, 4)).exists()
    assert [part is None for part in store.finished_parts(REF, shards)] == [True, False, False]
    write(store, shards[0])
    store.publish(IDENTITY, [part for part in store.finished_parts(REF, shards) if part], seconds=1.0)
    assert len(list(store.rejections(REF))) == 4


def test_an_object_store_keeps_both_places(tmp_path: Path) -> None:
    store = Store("memory://other-readers/store")
    for shard in shards_of(ROWS, 4):
        write(store, shard)
    store.publish(IDENTITY, [part for part in store.finished_parts(REF, shards_of(ROWS, 4)) if part], seconds=1.0)
    assert [manifest.fingerprint for manifest in store.manifests()] == [REF.fingerprint]
    place = set_aside(store, [REF])
    assert not store.exists(REF)
    assert store.fs.exists(f"{place}/{REF.folder}/{MANIFEST}")
