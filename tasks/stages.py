"""The stages as Prefect tasks, by the names that the UI shows; what each does is in ``lema_core/stages``.

A stage of rows runs a task per shard. A stage without a task of its own runs as `any_stage`, under its name. A worker
of a Dask cluster finds a task by its place in this module.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from prefect import Task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.states import Completed

from lema_core.artifacts import PartWriter, Shard, Store
from lema_core.llm.endpoints import EndpointSpec
from lema_core.run.context import RunContext
from lema_core.stages.corrections import Corrections
from lema_core.stages.evaluation import Evaluation
from lema_core.stages.evolution import Evolution, EvolutionCreated, EvolutionNovel
from lema_core.stages.held_out import HeldOut
from lema_core.stages.mixture import Mixture
from lema_core.stages.quality_gate import QualityGate
from lema_core.stages.questions import Questions
from lema_core.stages.reasoning_paths import ReasoningPaths
from lema_core.stages.stage import RowStage
from lema_core.stages.stage_context import StageContext
from lema_core.stages.verdicts import Mistakes, Verdicts
from tasks.boundary import task
from tasks.engine_session import engine_of

UNCACHED: dict[str, Any] = {"cache_policy": NO_CACHE, "persist_result": False}
"""Prefect's own cache is off: it would not see a changed prompt, and would believe in a file that was deleted."""
Endpoints = Sequence[EndpointSpec]
"""A stage's endpoints as they can be reached now."""
WHOLE = "{stage.run_name}"
BY_SHARD = "{stage.run_name} {shard.start}-{shard.stop}"


async def run_shard(context: RunContext, stage: RowStage, endpoints: Endpoints, shard: Shard) -> State[None]:
    """Write a shard's part, with the engine of the process that this runs in, which may be a worker's."""
    engine = await engine_of(context, *endpoints) if endpoints else None
    work = StageContext(Store(context.root), engine, endpoints, context.max_failed)
    with work.store.part(stage.ref, shard, stage.record) as part:
        await stage.run_shard(work, shard, part)
    return Completed(message=_outcome(part))


def _outcome(part: PartWriter) -> str:
    """Return what a finished shard kept and what it rejected, by reason."""
    summary = part.summary
    reasons = ", ".join(f"{count} {reason}" for reason, count in summary.reasons.items())
    return f"{summary.rows_out} rows" + (f"; rejected {reasons}" if reasons else "")


@task(name="questions", task_run_name=WHOLE, **UNCACHED)
async def questions(context: RunContext, stage: Questions, endpoints: Endpoints, shard: Shard) -> State[None]:
    """Read or generate the questions."""
    return await run_shard(context, stage, endpoints, shard)


@task(name="held_out", task_run_name=WHOLE, **UNCACHED)
async def held_out(context: RunContext, stage: HeldOut, endpoints: Endpoints, shard: Shard) -> State[None]:
    """Keep training questions back for choosing checkpoints."""
    return await run_shard(context, stage, endpoints, shard)


@task(name="reasoning_paths", task_run_name=BY_SHARD, **UNCACHED)
async def reasoning_paths(
    context: RunContext, stage: ReasoningPaths, endpoints: Endpoints, shard: Shard
) -> State[None]:
    """Generation: sample a student's reasoning paths."""
    return await run_shard(context, stage, endpoints, shard)


@task(name="verdicts", task_run_name=BY_SHARD, **UNCACHED)
async def verdicts(context: RunContext, stage: Verdicts, endpoints: Endpoints, shard: Shard) -> State[None]:
    """Judge the final answers."""
    return await run_shard(context, stage, endpoints, shard)


@task(name="mistakes", task_run_name=WHOLE, **UNCACHED)
async def mistakes(context: RunContext, stage: Mistakes, endpoints: Endpoints, shard: Shard) -> State[None]:
    """Select the mistakes of all students."""
    return await run_shard(context, stage, endpoints, shard)


@task(name="quality_gate", task_run_name=WHOLE, **UNCACHED)
async def quality_gate(context: RunContext, stage: QualityGate, endpoints: Endpoints, shard: Shard) -> State[None]:
    """Draw the pilot's mistakes."""
    return await run_shard(context, stage, endpoints, shard)


@task(name="corrections", task_run_name=BY_SHARD, **UNCACHED)
async def corrections(context: RunContext, stage: Corrections, endpoints: Endpoints, shard: Shard) -> State[None]:
    """Correction and its filter: ask the teachers, and keep what stands every check."""
    return await run_shard(context, stage, endpoints, shard)


@task(name="evolution_created", task_run_name=BY_SHARD, **UNCACHED)
async def evolution_created(
    context: RunContext, stage: EvolutionCreated, endpoints: Endpoints, shard: Shard
) -> State[None]:
    """Evolution: create new questions from seeds."""
    return await run_shard(context, stage, endpoints, shard)


@task(name="evolution_novel", task_run_name=WHOLE, **UNCACHED)
async def evolution_novel(
    context: RunContext, stage: EvolutionNovel, endpoints: Endpoints, shard: Shard
) -> State[None]:
    """Evolution: leave out repetitions and test questions."""
    return await run_shard(context, stage, endpoints, shard)


@task(name="evolution", task_run_name=BY_SHARD, **UNCACHED)
async def evolution(context: RunContext, stage: Evolution, endpoints: Endpoints, shard: Shard) -> State[None]:
    """Evolution: answer the new questions by majority."""
    return await run_shard(context, stage, endpoints, shard)


@task(name="mixture", task_run_name=WHOLE, **UNCACHED)
async def mixture(context: RunContext, stage: Mixture, endpoints: Endpoints, shard: Shard) -> State[None]:
    """Build the training examples of an arm."""
    return await run_shard(context, stage, endpoints, shard)


@task(name="evaluation", task_run_name=BY_SHARD, **UNCACHED)
async def evaluation(context: RunContext, stage: Evaluation, endpoints: Endpoints, shard: Shard) -> State[None]:
    """Evaluation: ask held-out questions, greedily or sampled, and judge the answers."""
    return await run_shard(context, stage, endpoints, shard)


@task(name="stage", task_run_name=BY_SHARD, **UNCACHED)
async def any_stage(context: RunContext, stage: RowStage, endpoints: Endpoints, shard: Shard) -> State[None]:
    """Run a shard of a stage that has no task of its own."""
    return await run_shard(context, stage, endpoints, shard)


TASKS: Mapping[type[RowStage], Task[..., Any]] = {
    Questions: questions,
    HeldOut: held_out,
    ReasoningPaths: reasoning_paths,
    Verdicts: verdicts,
    Mistakes: mistakes,
    QualityGate: quality_gate,
    Corrections: corrections,
    EvolutionCreated: evolution_created,
    EvolutionNovel: evolution_novel,
    Evolution: evolution,
    Mixture: mixture,
    Evaluation: evaluation,
}


def task_of(stage: RowStage) -> Task[..., Any]:
    """Return the task of a stage's class, or of the class that it extends."""
    for kind in type(stage).__mro__:
        if kind in TASKS:
            return TASKS[kind]
    return any_stage.with_options(name=stage.name)
