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
from lema_core.stages.quality_gate import PilotMistakes
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


def _shard_task(function: str, about: str, run_name: str = BY_SHARD, name: str = "") -> Task[..., Any]:
    """Return `run_shard` as a Prefect task. A Dask worker finds it by ``function``, its name in this module."""

    async def run(context: RunContext, stage: RowStage, endpoints: Endpoints, shard: Shard) -> State[None]:
        return await run_shard(context, stage, endpoints, shard)

    run.__name__ = run.__qualname__ = function
    run.__doc__ = about
    return task(name=name or function, task_run_name=run_name, **UNCACHED)(run)


questions = _shard_task("questions", "Read or generate the questions.", WHOLE)
held_out = _shard_task("held_out", "Keep training questions back for choosing checkpoints.", WHOLE)
reasoning_paths = _shard_task("reasoning_paths", "Generation: sample a student's reasoning paths.")
verdicts = _shard_task("verdicts", "Judge the final answers.")
mistakes = _shard_task("mistakes", "Select the mistakes of all students.", WHOLE)
quality_gate = _shard_task("quality_gate", "Draw the pilot's mistakes.", WHOLE)
corrections = _shard_task(
    "corrections", "Correction and its filter: ask the teachers, and keep what stands every check."
)
evolution_created = _shard_task("evolution_created", "Evolution: create new questions from seeds.")
evolution_novel = _shard_task("evolution_novel", "Evolution: leave out repetitions and test questions.", WHOLE)
evolution = _shard_task("evolution", "Evolution: answer the new questions by majority.")
mixture = _shard_task("mixture", "Build the training examples of an arm.", WHOLE)
evaluation = _shard_task(
    "evaluation", "Evaluation: ask held-out questions, greedily or sampled, and judge the answers."
)
any_stage = _shard_task("any_stage", "Run a shard of a stage that has no task of its own.", name="stage")

TASKS: Mapping[type[RowStage], Task[..., Any]] = {
    Questions: questions,
    HeldOut: held_out,
    ReasoningPaths: reasoning_paths,
    Verdicts: verdicts,
    Mistakes: mistakes,
    PilotMistakes: quality_gate,
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
