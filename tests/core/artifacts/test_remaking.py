"""Artifacts that are made again, with everything that was made from them."""

import fsspec

from lema_core.artifacts import ArtifactRef, Identity, Shard, Store
from lema_core.artifacts.derivation import drop_parts, find_derived, set_aside
from lema_core.records import Rejection


def artifact(store: Store, stage: str, inputs=(), **spec) -> ArtifactRef:
    identity = Identity(stage, spec, tuple(ref.fingerprint for ref in inputs))
    ref = ArtifactRef(stage, identity.fingerprint)
    with store.part(ref, Shard(0, 0, 1), Rejection) as part:
        part.rows_in = 1
        part.add(Rejection.of("p", "request_failed", "x", stage))
    store.publish(identity, [part.summary], seconds=1.0)
    return ref


def chain(store: Store) -> dict[str, ArtifactRef]:
    made = {"questions": artifact(store, "questions")}
    made["paths"] = artifact(store, "reasoning_paths", [made["questions"]])
    made["other"] = artifact(store, "reasoning_paths", [made["questions"]], student="other")
    made["verdicts"] = artifact(store, "verdicts", [made["paths"]])
    made["training"] = artifact(store, "training", [made["verdicts"]])
    # A model enters an evaluation's identity by its name, within a text.
    served = f"{made['training'].fingerprint} served as Q8_0"
    made["evaluation"] = artifact(store, "evaluation", [made["questions"]], model=served)
    made["report"] = artifact(store, "report", [made["evaluation"]])
    return made


def test_everything_made_from_an_artifact_is_found_the_last_first(tmp_path):
    store = Store(str(tmp_path / "store"))
    made = chain(store)
    found = find_derived(list(store.manifests()), [made["paths"]])
    assert [ref.stage for ref in found] == ["report", "evaluation", "training", "verdicts", "reasoning_paths"]
    assert made["other"] not in found


def test_set_aside_they_are_gone_from_the_store_and_kept_beside_it(tmp_path):
    store = Store(str(tmp_path / "store"))
    made = chain(store)
    place = set_aside(store, find_derived(list(store.manifests()), [made["paths"]]))
    assert {ref for ref in made.values() if store.exists(ref)} == {made["questions"], made["other"]}
    assert Store(place).exists(made["paths"])
    assert store.finished_part(made["paths"], Shard(0, 0, 1)) is None


def test_an_object_store_loses_the_manifest_last(tmp_path, monkeypatch):
    store = Store("memory://remaking/store")
    made = chain(store)
    moved = []
    move = store.fs.mv
    monkeypatch.setattr(store.fs, "mv", lambda one, two: (moved.append(one), move(one, two)))
    set_aside(store, [made["report"]])
    assert moved[-1].endswith("manifest.json")
    assert not store.fs.find(store.folder(made["report"]))
    fsspec.filesystem("memory").rm("/remaking", recursive=True)


def test_dropped_parts_are_to_be_made_again(tmp_path):
    store = Store(str(tmp_path / "store"))
    identity = Identity("reasoning_paths", {})
    ref = ArtifactRef(identity.stage, identity.fingerprint)
    shards = [Shard(0, 0, 1), Shard(1, 1, 2)]
    for shard in shards:
        with store.part(ref, shard, Rejection) as part:
            part.rows_in = 1
            part.add(Rejection.of("p", "request_failed", "x", shard.index))
    drop_parts(store, ref, [part.summary])
    assert [one is None for one in store.finished_parts(ref, shards)] == [False, True]
