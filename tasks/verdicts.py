"""Verdicts on reasoning paths, and the mistakes that are corrected (paper, section 2.1: Ans(r) != a)."""

import asyncio
from collections.abc import Sequence
from functools import partial
from itertools import chain

from prefect.client.schemas.objects import State

from lema_core import identities
from lema_core.artifacts import ArtifactRef, PartWriter, Shard, Store
from lema_core.records import JudgedPath, ReasoningPath
from lema_core.run.spec import MistakesSpec, Runtime, VerdictsSpec
from lema_core.verdicts import MistakeSelection, judge_path
from tasks.boundary import task
from tasks.run_stage import SHARD_TASK, Stage, outcome, publish


@task(name="verdicts", task_run_name="verdicts {shard.start}-{shard.stop}", **SHARD_TASK)
async def verdicts_shard(
    runtime: Runtime, spec: VerdictsSpec, paths: ArtifactRef, out: ArtifactRef, shard: Shard
) -> State[None]:
    """Judge a range of paths."""
    return outcome(await asyncio.to_thread(_judge, Store(runtime.root), spec, paths, out, shard))


def _judge(store: Store, spec: VerdictsSpec, paths: ArtifactRef, out: ArtifactRef, shard: Shard) -> PartWriter:
    with store.part(out, shard, JudgedPath) as part:
        part.rows_in = shard.stop - shard.start
        for path in store.rows(paths, ReasoningPath, shard.start, shard.stop):
            judged = judge_path(path, spec.unknown)
            part.counts[judged.verdict if isinstance(judged, JudgedPath) else "unknown"] += 1
            part.add(judged)
    return part


async def verdicts(runtime: Runtime, spec: VerdictsSpec, task_name: str, paths: ArtifactRef) -> ArtifactRef:
    """Return the artifact of the judged paths of one student."""
    identity = identities.verdicts(spec, task_name, paths.fingerprint)
    stage = Stage(identity, Store(runtime.root).manifest(paths).rows_out, asks=False)
    return await publish(runtime, stage, partial(verdicts_shard, runtime, spec, paths, stage.ref))


@task(name="mistakes", task_run_name="mistakes", **SHARD_TASK)
async def mistakes_shard(
    runtime: Runtime, spec: MistakesSpec, verdicts: Sequence[ArtifactRef], out: ArtifactRef, shard: Shard
) -> State[None]:
    """Select the mistakes of all students: caps and equal paths are seen over all of them."""
    return outcome(await asyncio.to_thread(_select, Store(runtime.root), spec, verdicts, out, shard))


def _select(
    store: Store, spec: MistakesSpec, verdicts: Sequence[ArtifactRef], out: ArtifactRef, shard: Shard
) -> PartWriter:
    judged = chain.from_iterable(store.rows(ref, JudgedPath) for ref in verdicts)
    selection = MistakeSelection(spec.verdicts, spec.per_question, spec.per_student)
    with store.part(out, shard, JudgedPath) as part:
        for row in selection.select(judged):
            part.rows_in += 1
            part.add(row)
    return part


async def mistakes(runtime: Runtime, spec: MistakesSpec, verdicts: Sequence[ArtifactRef]) -> ArtifactRef:
    """Return the artifact of the mistakes that go to the corrector."""
    stage = Stage(identities.mistakes(spec, [ref.fingerprint for ref in verdicts]), rows=0)
    return await publish(runtime, stage, partial(mistakes_shard, runtime, spec, verdicts, stage.ref))
