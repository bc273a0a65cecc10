"""A source of questions that changes between its identity and its rows: no part, no artifact, in any kind of run."""

import asyncio
from pathlib import Path

import pytest

from lema_core.artifacts import Shard, Store
from lema_core.errors import DataError
from lema_core.questions import QuestionsSpec
from lema_core.run.spec import RunContext
from lema_core.stages.questions import Questions
from tasks.stages import questions


def test_a_stage_keeps_nothing_of_a_source_that_changed(tmp_path):
    path = tmp_path / "q.jsonl"
    path.write_text('{"question": "What is 1 + 1?", "answer": "2"}\n')
    spec = QuestionsSpec(task="numeric", path=str(path))
    runtime = RunContext(root=str(tmp_path / "store"), ledger=str(tmp_path / "l.sqlite"), run="r")
    stage, shard = Questions(spec), Shard(0, 0, 0)
    ref = stage.ref

    def make() -> None:
        asyncio.run(questions.fn(runtime, stage, (), shard))

    with path.open("a") as file:
        file.write('{"question": "What is 1 + 2?", "answer": "3"}\n')
    with pytest.raises(DataError, match="changed while it was read"):
        make()
    store = Store(runtime.root)
    assert store.finished_part(ref, shard) is None
    assert [file for file in Path(runtime.root).rglob("*") if file.is_file()] == []
    path.write_text('{"question": "What is 1 + 1?", "answer": "2"}\n')
    make()
    summary = store.finished_part(ref, shard)
    assert summary is not None
    assert summary.rows_out == 1
