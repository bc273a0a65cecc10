"""The questions of a run: read or generated, checked, given ids (the paper's Q)."""

from functools import partial
from typing import Any

from prefect.client.schemas.objects import State

from lema_core import identities
from lema_core.artifacts import ArtifactRef, Shard, Store
from lema_core.questions import QuestionsSpec, read_questions
from lema_core.records import Question
from lema_core.run.spec import Runtime
from tasks.boundary import task
from tasks.run_stage import SHARD_TASK, Stage, outcome, publish


@task(name="questions", task_run_name="questions", **SHARD_TASK)
async def questions_shard(
    runtime: Runtime, spec: QuestionsSpec, source: str, out: ArtifactRef, shard: Shard
) -> State[None]:
    """Read every question of the source, in its order; it must still be what its artifact is named by."""
    with Store(runtime.root).part(out, shard, Question) as part:
        for row in read_questions(spec, source):
            part.rows_in += 1
            part.add(row)
    return outcome(part)


async def questions(runtime: Runtime, spec: QuestionsSpec) -> ArtifactRef:
    """Return the artifact of the questions a spec selects.

    Raises:
        DataError: the source cannot be used; nothing was paid.
    """
    identity = identities.questions(spec)
    source: Any = identity.spec
    stage = Stage(identity, rows=0)
    return await publish(runtime, stage, partial(questions_shard, runtime, spec, source["source"], stage.ref))
