"""Reasoning paths sampled from a student (paper, section 2.1)."""

from functools import partial

from prefect.client.schemas.objects import State

from lema_core import identities
from lema_core.artifacts import ArtifactRef, Shard, Store
from lema_core.llm.endpoints import EndpointSpec
from lema_core.reasoning_paths import path_from, path_requests
from lema_core.records import Question, ReasoningPath
from lema_core.run.spec import Runtime, StudentSpec
from tasks.boundary import task
from tasks.engine_session import counted, engine_of, publish_asked
from tasks.run_stage import SHARD_TASK, Stage, outcome


@task(name="reasoning_paths", task_run_name="reasoning_paths {shard.start}-{shard.stop}", **SHARD_TASK)
async def reasoning_paths_shard(
    runtime: Runtime,
    spec: StudentSpec,
    student: EndpointSpec,
    questions: ArtifactRef,
    out: ArtifactRef,
    shard: Shard,
) -> State[None]:
    """Sample the paths of a range of questions."""
    store, engine = Store(runtime.root), await engine_of(runtime, student)
    rows = store.rows(questions, Question, shard.start, shard.stop)
    asked = list(path_requests(rows, spec.sampling(), spec.samples, spec.prompt))
    outcomes = engine.stream(student, [one.request for one in asked])
    with store.part(out, shard, ReasoningPath) as part:
        part.rows_in = len(asked)
        answers = counted(runtime, outcomes, part, len(asked))
        for one in asked:
            part.add(path_from(one.question, one.sample_index, student.identity, await anext(answers)))
    return outcome(part)


async def reasoning_paths(
    runtime: Runtime, spec: StudentSpec, student: EndpointSpec, task_name: str, questions: ArtifactRef
) -> ArtifactRef:
    """Return the artifact of a student's paths to the questions."""
    identity = identities.reasoning_paths(spec, student.identity, task_name, questions.fingerprint)
    stage = Stage(identity, Store(runtime.root).manifest(questions).rows_out, spec.samples)
    return await publish_asked(
        runtime,
        stage,
        [student],
        lambda live: partial(reasoning_paths_shard, runtime, spec, *live, questions, stage.ref),
    )
