"""New questions from those that models fail on: created, found to be new, answered by majority (paper, section 2.4)."""

import asyncio
from collections import Counter
from collections.abc import Sequence
from functools import partial

from prefect.client.schemas.objects import State

from lema_core import evolution as core
from lema_core import identities
from lema_core.artifacts import ArtifactRef, PartWriter, Shard, Store
from lema_core.llm.endpoints import EndpointSpec
from lema_core.reasoning_paths import path_requests
from lema_core.records import Correction, Question
from lema_core.run.artifacts import Collection
from lema_core.run.spec import EvolutionSpec, Runtime
from tasks.boundary import task
from tasks.engine_session import counted, engine_of, publish_asked
from tasks.run_stage import SHARD_TASK, Stage, outcome, publish


@task(name="evolution_created", task_run_name="evolution_created {kind} {shard.start}-{shard.stop}", **SHARD_TASK)
async def created_shard(
    runtime: Runtime,
    spec: EvolutionSpec,
    kind: core.Kind,
    round_number: int,
    writer: EndpointSpec,
    first: Collection,
    out: ArtifactRef,
    shard: Shard,
) -> State[None]:
    """Ask for a new question for each draw of a range of seeds."""
    store, engine = Store(runtime.root), await engine_of(runtime, writer)
    counts = await asyncio.to_thread(_counts, store, spec, kind, first)
    rows = store.rows(first.questions, Question, shard.start, shard.stop)
    asked = list(core.evolution_requests(counts, rows, spec.writing(), round_number))
    outcomes = engine.stream(writer, [one.request for one in asked])
    with store.part(out, shard, Question) as part:
        part.rows_in = len(asked)
        answers = counted(runtime, outcomes, part, len(asked))
        for one in asked:
            part.add(core.created_from(one.seed, one.draw, await anext(answers)))
    return outcome(part)


def _counts(store: Store, spec: EvolutionSpec, kind: core.Kind, first: Collection) -> Counter[str]:
    corrections = store.rows(first.main_corrections, Correction) if first.main_corrections else ()
    return core.seed_counts(spec, kind, store.rows(first.questions, Question), corrections)


async def evolution_created(
    runtime: Runtime,
    spec: EvolutionSpec,
    kind: core.Kind,
    round_number: int,
    writer: EndpointSpec,
    task_name: str,
    first: Collection,
) -> ArtifactRef:
    """Return the artifact of the created questions, still without answers; ``first`` gives the seeds.

    Raises:
        DataError: there is nothing to draw from.
    """
    identity = identities.evolution_created(spec, kind, round_number, writer.identity, task_name, first)
    rows = Store(runtime.root).manifest(first.questions).rows_out
    stage = Stage(identity, rows, max(1, spec.draws // max(1, rows)))
    return await publish_asked(
        runtime,
        stage,
        [writer],
        lambda live: partial(created_shard, runtime, spec, kind, round_number, *live, first, stage.ref),
    )


@task(name="evolution_novel", task_run_name="evolution_novel", **SHARD_TASK)
async def novel_shard(
    runtime: Runtime,
    spec: EvolutionSpec,
    created: ArtifactRef,
    known: Sequence[ArtifactRef],
    tests: ArtifactRef | None,
    out: ArtifactRef,
    shard: Shard,
) -> State[None]:
    """Let each created question through once: repetitions are seen over all of them."""
    return outcome(await asyncio.to_thread(_screen, Store(runtime.root), spec, created, known, tests, out, shard))


def _screen(
    store: Store,
    spec: EvolutionSpec,
    created: ArtifactRef,
    known: Sequence[ArtifactRef],
    tests: ArtifactRef | None,
    out: ArtifactRef,
    shard: Shard,
) -> PartWriter:
    tested = (row.text for row in store.rows(tests, Question)) if tests else ()
    seen = (row.text for ref in known for row in store.rows(ref, Question))
    with store.part(out, shard, Question) as part:
        for row in core.Novelty(tested, seen, spec.similarity).screen(store.rows(created, Question)):
            part.rows_in += 1
            part.add(row)
    return part


async def evolution_novel(
    runtime: Runtime,
    spec: EvolutionSpec,
    created: ArtifactRef,
    known: Sequence[ArtifactRef],
    tests: ArtifactRef | None,
) -> ArtifactRef:
    """Return the artifact of the created questions that repeat neither a known nor a test question, nor each other."""
    stage = Stage(identities.evolution_novel(spec, created, [*known, *([tests] if tests else [])]), rows=0)
    return await publish(runtime, stage, partial(novel_shard, runtime, spec, created, known, tests, stage.ref))


@task(name="evolution", task_run_name="evolution {shard.start}-{shard.stop}", **SHARD_TASK)
async def evolution_shard(
    runtime: Runtime, spec: EvolutionSpec, answerer: EndpointSpec, novel: ArtifactRef, out: ArtifactRef, shard: Shard
) -> State[None]:
    """Sample the answers of a range of new questions and take the majority's."""
    store, engine = Store(runtime.root), await engine_of(runtime, answerer)
    rows = list(store.rows(novel, Question, shard.start, shard.stop))
    asked = [one.request for one in path_requests(rows, spec.answering(), spec.votes)]
    outcomes = engine.stream(answerer, asked)
    with store.part(out, shard, Question) as part:
        part.rows_in = len(rows)
        answers = counted(runtime, outcomes, part, len(asked))
        for row in rows:
            outcomes_of_row = [await anext(answers) for _ in range(spec.votes)]
            part.add(await asyncio.to_thread(core.answered, row, outcomes_of_row))
    return outcome(part)


async def evolution(
    runtime: Runtime, spec: EvolutionSpec, answerer: EndpointSpec, task_name: str, novel: ArtifactRef
) -> ArtifactRef:
    """Return the artifact of the evolved questions, their gold answers by majority."""
    stage = Stage(
        identities.evolution(spec, answerer.identity, task_name, novel),
        Store(runtime.root).manifest(novel).rows_out,
        spec.votes,
    )
    return await publish_asked(
        runtime, stage, [answerer], lambda live: partial(evolution_shard, runtime, spec, *live, novel, stage.ref)
    )
