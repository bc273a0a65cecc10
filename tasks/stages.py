"""The stages as Prefect tasks, by the names that the UI shows; what each does is in ``lema_core/stages``.

A stage of rows runs a task per shard. A stage of plain files is one task, which watches a program of its own or writes
pages. A stage without a task of its own runs as `any_stage` or `any_files`, under its name. A worker of a Dask cluster
finds a task by its place in this module.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import prefect
from prefect import Task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.logging import get_run_logger
from prefect.states import Completed

from lema_core.artifacts import Shard, Store
from lema_core.llm.endpoints import EndpointSpec
from lema_core.questions import get_task
from lema_core.run.spec import RunContext
from lema_core.stages.corrections import Corrections
from lema_core.stages.evaluation import Evaluation
from lema_core.stages.evolution import Evolution, EvolutionCreated, EvolutionNovel
from lema_core.stages.mixture import Mixture
from lema_core.stages.pretraining import Pretraining
from lema_core.stages.quality_gate import PilotMistakes
from lema_core.stages.questions import HeldOut, Questions
from lema_core.stages.reasoning_paths import ReasoningPaths
from lema_core.stages.stage import FileContext, FileStage, OnEvent, RowStage, StageContext
from lema_core.stages.training import Tables, Training
from lema_core.stages.unusable_answers import WHOLE_SHARD, check_usable
from lema_core.stages.verdicts import Mistakes, Verdicts
from lema_core.training import METRICS_FILE
from lema_core.training.candidates import RUN_FOLDER
from tasks.boundary import own_errors, task
from tasks.engine_session import engine_of
from tasks.progress import Progress, show_progress
from tasks.ui_artifacts import show_losses, show_selection

UNCACHED: dict[str, Any] = {"cache_policy": NO_CACHE, "persist_result": False}
"""Prefect's own cache is off: it would not see a changed prompt, and would believe in a file that was deleted."""
Endpoints = Sequence[EndpointSpec]
"""A stage's endpoints as they can be reached now."""
WHOLE = "{stage.run_name}"
BY_SHARD = "{stage.run_name} {shard.start}-{shard.stop}"
FORMATS = {
    "loss": "loss {:.3f}",
    "learning_rate": "learning rate {:.1e}",
    "grad_norm": "gradient norm {:.2f}",
    "tokens_per_second": "{:.0f} tokens/s",
    "mfu": "MFU {:.1%}",
}


async def run_shard(context: RunContext, stage: RowStage, endpoints: Endpoints, shard: Shard) -> State[None]:
    """Write a shard's part, with the engine of the process that this runs in, which may be a worker's."""
    engine = await engine_of(context, *endpoints) if endpoints else None
    if (named := getattr(stage, "task", None)) is not None:
        # Rows name a task of one's own by its name, which a worker process knows only once it has loaded the file.
        get_task(named)
    work = StageContext(Store(context.root), engine, endpoints, context.max_failed)
    with work.store.part(stage.ref, shard, stage.record) as part:
        await stage.run_shard(work, shard, part)
        if endpoints:
            # With an error the part is not written; the answers are in the ledger.
            so_far = part.summary
            check_usable(stage.title, so_far.rows_in, so_far.reasons, context.max_failed, WHOLE_SHARD)
    # What a finished shard kept and what it rejected, by reason.
    summary = part.summary
    reasons = ", ".join(f"{count} {reason}" for reason, count in summary.reasons.items())
    return Completed(message=f"{summary.rows_out} rows" + (f"; rejected {reasons}" if reasons else ""))


def _shard_task(function: str, about: str, name: str = "", run_name: str = BY_SHARD) -> Task[..., Any]:
    """Return `run_shard` as a Prefect task; ``function`` is its name in this module, where a Dask worker finds it."""
    run: Any = own_errors(run_shard)
    run.__name__ = run.__qualname__ = function
    made: Task[..., Any] = prefect.task(name=name or function, description=about, task_run_name=run_name, **UNCACHED)(
        run
    )
    return made


questions = _shard_task("questions", "Read or generate the questions.", run_name=WHOLE)
held_out = _shard_task("held_out", "Keep training questions back for choosing checkpoints.", run_name=WHOLE)
reasoning_paths = _shard_task("reasoning_paths", "Generation: sample a student's reasoning paths.")
verdicts = _shard_task("verdicts", "Judge the final answers.")
mistakes = _shard_task("mistakes", "Select the mistakes of all students.", run_name=WHOLE)
quality_gate = _shard_task("quality_gate", "Draw the pilot's mistakes.", run_name=WHOLE)
corrections = _shard_task(
    "corrections", "Correction and its filter: ask the teachers, and keep what stands every check."
)
evolution_created = _shard_task("evolution_created", "Evolution: create new questions from seeds.")
evolution_novel = _shard_task("evolution_novel", "Evolution: leave out repetitions and test questions.", run_name=WHOLE)
evolution = _shard_task("evolution", "Evolution: answer the new questions by majority.")
mixture = _shard_task("mixture", "Build the training examples of an arm.", run_name=WHOLE)
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


def _unheard(event: dict[str, Any]) -> None:
    """Ignore an event."""


def file_context(context: RunContext, on_event: OnEvent = _unheard) -> FileContext:
    """Return what a stage of files works with."""
    return FileContext(Store(context.root), context.ledger, context.launch, on_event)


@task(name="training", task_run_name=WHOLE, **UNCACHED)
async def training(context: RunContext, stage: Training | Pretraining) -> State[None]:
    """Fine-tune on an arm's tokens, or pre-train a base, or go on from the newest complete checkpoint."""
    seen = Figures()
    async with show_progress(stage.ref, seen.now, done=0, total=1, title=stage.title):
        said = await stage.make(file_context(context, seen.note))
    await show_losses(stage.arm, Store(context.root).local_folder(stage.ref) / METRICS_FILE, seen.links)
    return Completed(message=f"{seen.now().line}; {said}")


@task(name="training", task_run_name=WHOLE, **UNCACHED)
async def training_candidates(context: RunContext, stage: Training) -> State[None]:
    """Fine-tune and keep every checkpoint: which of them is published is chosen later."""
    seen = Figures()
    async with show_progress(stage.ref, seen.now, done=0, total=1, title=stage.title):
        said = await stage.train_candidates(file_context(context, seen.note))
    folder = Store(context.root).local_folder(stage.ref) / RUN_FOLDER
    await show_losses(stage.arm, folder / METRICS_FILE, seen.links)
    return Completed(message=f"{seen.now().line}; {said}")


@task(name="selection", task_run_name="selection {stage.arm}", **UNCACHED)
async def selection(context: RunContext, stage: Training, on_held_out: Tables, on_test: Tables) -> State[None]:
    """Publish the best checkpoint as the arm's model, with the table it was chosen by."""
    scores = stage.choose(Store(context.root), on_held_out, on_test)
    await show_selection(stage.arm, scores)
    (best,) = (score for score in scores if score.chosen)
    return Completed(message=f"step {best.step}: {best.right} of {best.n} held-out questions right")


@task(name="files", task_run_name=WHOLE, **UNCACHED)
async def any_files(context: RunContext, stage: FileStage) -> State[None]:
    """Make tokens, perplexities, a report or a sweep's tables: it is named after its stage."""
    return Completed(message=await stage.make(file_context(context)))


class Figures:
    """The last figures of a running training; its other events go to the log."""

    def __init__(self) -> None:
        self._logger = get_run_logger()
        self.total = 0
        self.last: dict[str, Any] = {}
        self.links: dict[str, str] = {}
        """By tracker: where its page of the run is."""

    def note(self, event: dict[str, Any]) -> None:
        """Take in an event of the training program."""
        if event["event"] != "step":
            self._logger.info("%s", event)
        if event["event"] == "start":
            self.total = int(event["steps"])
        elif event["event"] == "step":
            self.last = event
        elif event["event"] == "tracker" and event["link"]:
            self.links[event["name"]] = event["link"]

    def now(self) -> Progress:
        """Return how far the training is, and its figures as one line."""
        if not self.last:
            return Progress(0.0, {"done": "loading"})
        named = {name: self.last[name] for name in FORMATS if name in self.last}
        figures = (FORMATS[name].format(value) for name, value in named.items())
        step = self.last["step"]
        return Progress(step / max(1, self.total), {"done": ", ".join((f"step {step}/{self.total}", *figures))})
