"""Runs in a store without a flow: their record, and rows under the names that a run gives its artifacts."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from lema_core.artifacts import Shard
from lema_core.pipeline import Pipeline
from lema_core.questions import read_questions
from lema_core.records import Question
from lema_core.run.files import read_run_file
from lema_core.run.records import write_record
from lema_core.run.spec import RunSpec
from lema_core.stages.stage import RowStage

SMOKE = Path(__file__).resolve().parents[1] / "deployments" / "runs" / "smoke.toml"


def make_run(
    file: Path, root: str, name: str, questions: int = 8, rows: Mapping[str, Sequence[object]] | None = None
) -> RunSpec:
    """Record a run as completed with its questions published, and ``rows`` by stage title for the other stages."""
    run = read_run_file(file, (f"name={name}", f"questions.limit={questions}"))
    write_record(root, run, "completed")
    pipeline = Pipeline(run, root)
    found = {"questions": [row for row in read_questions(run.questions) if isinstance(row, Question)], **(rows or {})}
    for stage in pipeline.stages():
        if isinstance(stage, RowStage) and stage.title in found:
            shard = Shard(0, 0, len(found[stage.title]))
            with pipeline.store.part(stage.ref, shard, stage.record) as part:
                part.rows_in = len(found[stage.title])
                for row in found[stage.title]:
                    part.add(row)
            pipeline.store.publish(stage.identity, [part.summary], seconds=1.0)
            del found[stage.title]
    assert not found, f"the run has no such stages: {list(found)}"
    return run
