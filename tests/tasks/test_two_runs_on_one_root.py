"""Two runs that make the same artifact at the same time, cut into shards alike or not; no Prefect server is asked."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import cached_property, partial

import pytest

from lema_core.artifacts import Identity, Shard, Store
from lema_core.errors import ArtifactError
from lema_core.llm.endpoints import EndpointSpec
from lema_core.records import Question
from lema_core.run.spec import RunContext
from lema_core.stages.stage import FileStage, RowStage
from tasks import run_stage
from tasks.run_stage import publish_rows, run_files


class Ten(RowStage):
    """Ten rows that a model would be asked for: ``shard_requests`` of them make a shard."""

    name, revision, record = "questions", 1, Question
    endpoints = (EndpointSpec(model="m", base_url="http://127.0.0.1:1/v1"),)

    @cached_property
    def identity(self) -> Identity:
        return self._identity({"n": 10})

    def input_rows(self, store: Store) -> int:
        return 10


class Model(FileStage):
    """A stage of files."""

    name, revision = "training", 1

    @cached_property
    def identity(self) -> Identity:
        return self._identity({"n": 1})


STAGE = Ten()
ROWS = [Question(id=f"q-{n}", task="t", text=f"What is {n}?", gold=str(n)) for n in range(10)]


@pytest.fixture(autouse=True)
def _unseen(monkeypatch):
    """Leave out what only shows something in Prefect."""

    @asynccontextmanager
    async def show_progress(*_, **__) -> AsyncIterator[object]:
        yield lambda: None

    async def shown(*_) -> None:
        return

    monkeypatch.setattr(run_stage, "show_progress", show_progress)
    monkeypatch.setattr(run_stage, "show_published", shown)
    monkeypatch.setattr(run_stage, "show_cached", shown)


def runtime(root, shard_requests: int = 4) -> RunContext:
    return RunContext(root=str(root), ledger="", run="r", shard_requests=shard_requests)


async def shard_task(store: Store, skipped: Shard | None, turn: asyncio.Barrier | None, shard: Shard) -> None:
    if turn:
        await turn.wait()
    if shard == skipped:
        return
    with store.part(STAGE.ref, shard, Question) as part:
        part.rows_in = shard.stop - shard.start
        for row in ROWS[shard.start : shard.stop]:
            part.add(row)


def test_runs_with_other_shards_publish_every_row(tmp_path):
    store = Store(str(tmp_path))

    async def both() -> None:
        turn = asyncio.Barrier(2)
        work = partial(shard_task, store, None, turn)
        # Five shards and ten: while one waits for the other the parts of both come to lie in one folder.
        first = publish_rows(runtime(tmp_path, 2).model_copy(update={"shards_in_flight": 1}), STAGE, work)
        second = publish_rows(runtime(tmp_path, 1).model_copy(update={"shards_in_flight": 1}), STAGE, work)
        other = asyncio.create_task(second)
        await first
        assert list(store.rows(STAGE.ref, Question)) == ROWS
        other.cancel()  # killed where it was
        await asyncio.wait([other])

    asyncio.run(both())
    assert list(store.rows(STAGE.ref, Question)) == ROWS


def test_a_run_whose_artifact_another_one_published_takes_that(tmp_path):
    store = Store(str(tmp_path))

    async def late(shard: Shard) -> None:
        await publish_rows(runtime(tmp_path, 3), STAGE, partial(shard_task, store, None, None))
        await shard_task(store, None, None, shard)

    asyncio.run(publish_rows(runtime(tmp_path, 10), STAGE, partial(late)))
    assert [(part.start, part.stop) for part in store.manifest(STAGE.ref).parts] == [(0, 3), (3, 6), (6, 9), (9, 10)]
    assert list(store.rows(STAGE.ref, Question)) == ROWS


def test_a_shard_without_a_part_is_an_error_and_nothing_is_published(tmp_path):
    store = Store(str(tmp_path))
    with pytest.raises(ArtifactError, match="rows 4-8"):
        asyncio.run(publish_rows(runtime(tmp_path), STAGE, partial(shard_task, store, Shard(1, 4, 8), None)))
    assert not store.exists(STAGE.ref)
    asyncio.run(publish_rows(runtime(tmp_path), STAGE, partial(shard_task, store, None, None)))
    assert list(store.rows(STAGE.ref, Question)) == ROWS


def test_two_runs_never_work_in_one_local_folder(tmp_path, monkeypatch):
    store, stage, made = Store(str(tmp_path)), Model(), []
    waiting = asyncio.Event()
    monkeypatch.setattr(run_stage, "notify_user", lambda _: waiting.set())
    monkeypatch.setattr(run_stage, "LOOK_S", 0.01)

    async def make(name: str) -> None:
        await waiting.wait()  # the other one is there and does not come in
        made.append(name)
        (store.local_folder(stage.ref) / "model").write_text(name)
        store.publish_files(stage.identity, ["model"], seconds=1.0)

    async def both() -> list[object]:
        return await asyncio.gather(
            *(run_files(runtime(tmp_path), stage, partial(make, name)) for name in ("one", "two"))
        )

    assert asyncio.run(both()) == [stage.ref, stage.ref]
    assert made == ["one"]
