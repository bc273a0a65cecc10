"""The stages of plain files as Prefect tasks: programs of their own, watched from here, and the pages."""

from typing import Any

from prefect.client.schemas.objects import State
from prefect.logging import get_run_logger
from prefect.states import Completed

from lema_core.artifacts import Store
from lema_core.run.context import RunContext
from lema_core.stages.stage import FileContext, FileStage, OnEvent
from lema_core.stages.training import Tables, Training
from lema_core.training import METRICS_FILE
from lema_core.training.candidates import RUN_FOLDER
from tasks.boundary import task
from tasks.progress import Progress, show_progress
from tasks.stages import UNCACHED, WHOLE
from tasks.ui_artifacts import show_losses, show_selection

FORMATS = {
    "loss": "loss {:.3f}",
    "learning_rate": "learning rate {:.1e}",
    "grad_norm": "gradient norm {:.2f}",
    "tokens_per_second": "{:.0f} tokens/s",
    "mfu": "MFU {:.1%}",
}


def _unheard(event: dict[str, Any]) -> None:
    """Ignore an event."""


def file_context(context: RunContext, on_event: OnEvent = _unheard) -> FileContext:
    """Return what a stage of files works with."""
    return FileContext(Store(context.root), context.ledger, context.launch, on_event)


@task(name="training", task_run_name=WHOLE, **UNCACHED)
async def training(context: RunContext, stage: Training) -> State[None]:
    """Fine-tune on an arm's tokens, or go on from the newest complete checkpoint."""
    seen = Figures()
    async with show_progress(stage.ref, seen.now, done=0, total=1):
        said = await stage.make(file_context(context, seen.note))
    await show_losses(stage.arm, Store(context.root).local_folder(stage.ref) / METRICS_FILE, seen.links)
    return Completed(message=f"{seen.now().line}; {said}")


@task(name="training", task_run_name=WHOLE, **UNCACHED)
async def training_candidates(context: RunContext, stage: Training) -> State[None]:
    """Fine-tune and keep every checkpoint: which of them is published is chosen later."""
    seen = Figures()
    async with show_progress(stage.ref, seen.now, done=0, total=1):
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
