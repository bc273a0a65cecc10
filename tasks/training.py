"""Fine-tuning on an arm's examples: torchrun in a process group of its own, watched from here (paper, section 2.3)."""

import shutil
import time
from pathlib import Path
from typing import Any

from prefect import task
from prefect.artifacts import acreate_table_artifact
from prefect.client.schemas.objects import State
from prefect.logging import get_run_logger
from prefect.states import Completed

from lema_core import identities
from lema_core.artifacts import ArtifactRef, Store
from lema_core.specs import Runtime
from lema_core.training import TrainingSpec, run_training
from tasks._progress import watched
from tasks._publish import SHARD_TASK, Stage, published

KEPT = ("model", "metrics.parquet", "spec.json")
"""What of the output folder is the artifact; tokens, checkpoints and the log belong to the run."""


@task(name="training", task_run_name="training {arm}", **SHARD_TASK)
async def train(runtime: Runtime, spec: TrainingSpec, arm: str, examples: ArtifactRef, stage: Stage) -> State[None]:
    """Run the training program, or go on from its newest complete checkpoint, and publish the model."""
    store, started = Store(runtime.root), time.monotonic()
    out = store.local_folder(stage.ref)
    seen = Figures()
    logger = get_run_logger()

    def told(event: dict[str, Any]) -> None:
        seen.note(event)
        if event["event"] != "step":
            logger.info("%s", event)

    async with watched(stage.ref, seen.line, done=0, total=1):
        result = await run_training(spec, runtime.launch, store.local_folder(examples), out, told)
    await _show_losses(arm, seen.steps)
    for checkpoint in result.checkpoints:
        shutil.rmtree(checkpoint)
    store.publish_files(stage.identity, _files(out), seconds=time.monotonic() - started, extra=result.start)
    return Completed(message=f"{seen.line()[1]}; model in {result.model}")


class Figures:
    """The last figures of a running training."""

    def __init__(self) -> None:
        self.total = 0
        self.steps: list[dict[str, Any]] = []

    def note(self, event: dict[str, Any]) -> None:
        """Take in an event of the training program."""
        if event["event"] == "start":
            self.total = int(event["steps"])
        elif event["event"] == "step":
            self.steps.append(event)

    def line(self) -> tuple[float, str]:
        """Return how far the training is, and its figures as one line."""
        if not self.steps:
            return 0.0, "loading"
        last = self.steps[-1]
        rate = last.get("tokens_per_second")
        speed = f", {rate:.0f} tokens/s" if rate else ""
        share = last["step"] / max(1, self.total)
        return share, f"step {last['step']}/{self.total}, loss {last.get('loss', float('nan')):.3f}{speed}"


async def _show_losses(arm: str, steps: list[dict[str, Any]]) -> None:
    rows = [{name: step.get(name) for name in ("step", "loss", "learning_rate", "grad_norm")} for step in steps]
    key = f"losses-{arm.replace('_', '-')}"
    await acreate_table_artifact(table=rows, key=key, description=f"training of the arm {arm}")


def _files(out: Path) -> list[str]:
    files = (file for name in KEPT for file in ((out / name).rglob("*") if (out / name).is_dir() else [out / name]))
    return [str(file.relative_to(out)) for file in files if file.is_file()]


async def training(runtime: Runtime, spec: TrainingSpec, arm: str, examples: ArtifactRef) -> ArtifactRef:
    """Return the artifact of the model fine-tuned on an arm's examples.

    Raises:
        TrainingError: the run failed; its last complete checkpoint is kept and the next run goes on from there.
    """
    stage = Stage(identities.training(spec, examples.fingerprint), rows=0)
    if ref := await published(runtime, stage):
        return ref
    await train(runtime, spec, arm, examples, stage)
    return stage.ref
