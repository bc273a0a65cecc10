"""Corrections of mistakes by a teacher, accepted only if they stand every check (paper, section 2.2)."""

from collections.abc import Sequence
from functools import partial

from prefect.client.schemas.objects import State

from lema_core import identities
from lema_core.artifacts import ArtifactRef, PartWriter, Shard, Store
from lema_core.corrections import select
from lema_core.corrections.requests import Tried, agreed, correction_requests, reviewed
from lema_core.corrections.specs import CorrectionsSpec
from lema_core.llm.endpoints import EndpointSpec
from lema_core.questions import get_task
from lema_core.records import Correction, JudgedPath
from lema_core.run.failed_requests import SECOND
from lema_core.run.spec import Runtime
from tasks.boundary import task
from tasks.engine_session import counted, engine_of, publish_asked
from tasks.run_stage import SHARD_TASK, Stage, outcome


@task(name="corrections", task_run_name="corrections {shard.start}-{shard.stop}", **SHARD_TASK)
async def corrections_shard(
    runtime: Runtime,
    spec: CorrectionsSpec,
    teachers: Sequence[EndpointSpec],
    task_name: str,
    mistakes: ArtifactRef,
    out: ArtifactRef,
    shard: Shard,
) -> State[None]:
    """Ask for the corrections of a range of mistakes and review each; ``teachers`` are the corrector and the second."""
    store, engine, about = Store(runtime.root), await engine_of(runtime, *teachers), get_task(task_name)
    rows = list(store.rows(mistakes, JudgedPath, shard.start, shard.stop))
    with store.part(out, shard, Correction) as part:
        part.rows_in = len(rows) * spec.tries
        answers = engine.stream(teachers[0], correction_requests(rows, about, spec.sampling(), spec.tries))
        found = reviewed(
            rows,
            counted(runtime, answers, part, len(rows) * spec.tries),
            about,
            corrector=teachers[0].identity,
            tries=spec.tries,
            reject_false_steps=spec.reject_false_steps,
        )
        tried = [one async for one in found]
        for second in teachers[1:]:
            tried = await _agreed(runtime, spec, second, task_name, tried, part)
        for one in tried:
            for row in select(one.rows, spec.keep):
                part.add(row)
    return outcome(part)


async def _agreed(
    runtime: Runtime, spec: CorrectionsSpec, second: EndpointSpec, task_name: str, tried: list[Tried], part: PartWriter
) -> list[Tried]:
    """Ask the second teacher once about each mistake that the first one corrected."""
    engine, about = await engine_of(runtime), get_task(task_name)
    asked = [one.mistake for one in tried if one.corrected]
    answers = engine.stream(second, correction_requests(asked, about, spec.sampling(), tries=1))
    return await agreed(tried, counted(runtime, answers, part, len(asked), SECOND), about, second.identity)


async def corrections(
    runtime: Runtime,
    spec: CorrectionsSpec,
    corrector: EndpointSpec,
    task_name: str,
    mistakes: ArtifactRef,
    second: EndpointSpec | None = None,
) -> ArtifactRef:
    """Return the artifact of the accepted corrections; the others are its rejected rows.

    With a ``second`` teacher a correction is accepted only if that one's own correction names the same step.
    """
    teachers = [corrector, second] if second else [corrector]
    identity = identities.corrections(spec, corrector.identity, task_name, mistakes.fingerprint, second)
    stage = Stage(identity, Store(runtime.root).manifest(mistakes).rows_out, spec.tries + len(teachers) - 1)
    return await publish_asked(
        runtime,
        stage,
        teachers,
        lambda live: partial(corrections_shard, runtime, spec, live, task_name, mistakes, stage.ref),
    )
