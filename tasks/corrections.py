"""Corrections of mistakes by a teacher, accepted only if they stand every check (paper, section 2.2)."""

from functools import partial

from prefect import task
from prefect.client.schemas.objects import State

from lema_core import identities
from lema_core.artifacts import ArtifactRef, Shard, Store
from lema_core.corrections.requesting import correction_requests, reviewed
from lema_core.llm.endpoints import EndpointSpec
from lema_core.questions import get_task
from lema_core.records import Correction, JudgedPath
from lema_core.specs import CorrectionsSpec, Runtime
from tasks._endpoints import counted, engine_of, engine_watch, serving
from tasks._publish import SHARD_TASK, Stage, outcome, publish, published


@task(name="corrections", task_run_name="corrections {shard.start}-{shard.stop}", **SHARD_TASK)
async def corrections_shard(
    runtime: Runtime,
    spec: CorrectionsSpec,
    corrector: EndpointSpec,
    task_name: str,
    mistakes: ArtifactRef,
    out: ArtifactRef,
    shard: Shard,
) -> State[None]:
    """Ask for the corrections of a range of mistakes, and review each."""
    store, engine, about = Store(runtime.root), await engine_of(runtime), get_task(task_name)
    rows = list(store.rows(mistakes, JudgedPath, shard.start, shard.stop))
    outcomes = engine.stream(corrector, correction_requests(rows, about, spec.sampling(), spec.tries))
    with store.part(out, shard, Correction) as part:
        part.rows_in = len(rows) * spec.tries
        async for row in reviewed(
            rows, counted(outcomes, part), about, corrector=corrector.identity, tries=spec.tries, keep=spec.keep
        ):
            part.add(row)
    return outcome(part)


async def corrections(
    runtime: Runtime, spec: CorrectionsSpec, corrector: EndpointSpec, task_name: str, mistakes: ArtifactRef
) -> ArtifactRef:
    """Return the artifact of the accepted corrections; the others are its rejected rows."""
    identity = identities.corrections(spec, corrector.identity, task_name, mistakes.fingerprint)
    stage = Stage(identity, Store(runtime.root).manifest(mistakes).rows_out, spec.tries)
    if ref := await published(runtime, stage):
        return ref
    async with serving(corrector) as live:
        return await publish(
            runtime,
            stage,
            partial(corrections_shard, runtime, spec, live, task_name, mistakes, stage.ref),
            await engine_watch(runtime, stage),
        )
