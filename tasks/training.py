"""Fine-tuning on an arm's examples: torchrun in a process group of its own, watched from here (paper, section 2.3)."""

import shutil
import time
from pathlib import Path
from typing import Any

from prefect.artifacts import acreate_link_artifact, acreate_table_artifact
from prefect.client.schemas.objects import State
from prefect.logging import get_run_logger
from prefect.states import Completed

from lema_core import identities
from lema_core.artifacts import ArtifactRef, Identity, Store
from lema_core.artifacts.parquet import read_batches
from lema_core.errors import ArtifactError
from lema_core.run.spec import Runtime
from lema_core.training import TrainingSpec, run_on_tokens
from lema_core.training.candidates import RUN_FOLDER, Candidates, whole_checkpoints
from tasks.boundary import task
from tasks.progress import Seen, artifact_key, decorative, watched
from tasks.run_stage import SHARD_TASK, Stage, alone, files_under, published_alone
from tasks.starting_model import based_on

KEPT = ("model", "metrics.parquet", "spec.json")
"""What of the output folder is the artifact; checkpoints and the log belong to the run."""

FORMATS = {
    "loss": "loss {:.3f}",
    "learning_rate": "learning rate {:.1e}",
    "grad_norm": "gradient norm {:.2f}",
    "tokens_per_second": "{:.0f} tokens/s",
    "mfu": "MFU {:.1%}",
}
TABLE_ROWS = 500
"""Of a longer run the table has every second, third, ... step; the Parquet file has all."""


@task(name="training", task_run_name="training {arm}", **SHARD_TASK)
async def train(runtime: Runtime, spec: TrainingSpec, arm: str, tokens: ArtifactRef, stage: Stage) -> State[None]:
    """Run the training program, or go on from its newest complete checkpoint, and publish the model."""
    store, started, seen = Store(runtime.root), time.monotonic(), Figures()
    out = store.local_folder(stage.ref)
    async with watched(stage.ref, seen.now, done=0, total=1):
        result = await run_on_tokens(spec, runtime.launch, store.local_folder(tokens), out, seen.note)
    for checkpoint in result.checkpoints:
        shutil.rmtree(checkpoint)
    files = files_under(out, KEPT)
    store.publish_files(stage.identity, files, seconds=time.monotonic() - started, extra=result.start)
    await _show(arm, seen, result.metrics)
    return Completed(message=f"{seen.now().line}; model in {result.model}")


@task(name="training", task_run_name="training {arm}", **SHARD_TASK)
async def train_candidates(
    runtime: Runtime, spec: TrainingSpec, arm: str, tokens: ArtifactRef, stage: Stage
) -> State[None]:
    """Run the training program, or go on, and keep every checkpoint's weights: which is published is chosen later."""
    store, started, seen = Store(runtime.root), time.monotonic(), Figures()
    kept = store.local_folder(stage.ref)
    out = kept / RUN_FOLDER
    launch = runtime.launch.model_copy(update={"keep_weights": True})
    async with watched(stage.ref, seen.now, done=0, total=1):
        result = await run_on_tokens(spec, launch, store.local_folder(tokens), out, seen.note, logs=kept)
        weights = await whole_checkpoints(spec, launch, out, seen.note, logs=kept)
    Candidates(out, weights, result.start, time.monotonic() - started).write()
    await _show(arm, seen, result.metrics)
    return Completed(message=f"{seen.now().line}; {len(weights)} checkpoints to choose from")


class Figures:
    """The last figures of a running training; what else it tells goes to the log."""

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

    def now(self) -> Seen:
        """Return how far the training is, and its figures as one line."""
        if not self.last:
            return Seen(0.0, {"done": "loading"})
        named = {name: self.last[name] for name in FORMATS if name in self.last}
        figures = (FORMATS[name].format(value) for name, value in named.items())
        step = self.last["step"]
        return Seen(step / max(1, self.total), {"done": ", ".join((f"step {step}/{self.total}", *figures))})


@decorative
async def _show(arm: str, seen: Figures, metrics: Path) -> None:
    """Put every step's figures into a table, and a link beside it for each tracker that has a page."""
    key, about = artifact_key("losses", arm), f"training of the arm {arm}"
    rows: list[dict[str, Any]] = [row for batch in read_batches(metrics) for row in batch.to_pylist()]
    await acreate_table_artifact(table=rows[:: -(-len(rows) // TABLE_ROWS)], key=key, description=about)
    for tracker, link in seen.links.items():
        key = artifact_key(tracker, arm)
        await acreate_link_artifact(link=link, link_text=f"{tracker}: {arm}", key=key, description=about)


async def training(
    runtime: Runtime, spec: TrainingSpec, arm: str, tokens: ArtifactRef, start: ArtifactRef | None = None
) -> ArtifactRef:
    """Return the artifact of the model fine-tuned on an arm's tokens; it starts from ``start`` in place of the base.

    Raises:
        TrainingError: the run failed; its last complete checkpoint is kept and the next run goes on from there.
    """
    stage = Stage(identities.training(spec, tokens.fingerprint, start), rows=0)

    async def make() -> None:
        await train(runtime, based_on(Store(runtime.root), spec, start), arm, tokens, stage)

    return await published_alone(runtime, stage, make)


async def candidates(
    runtime: Runtime,
    spec: TrainingSpec,
    arm: str,
    tokens: ArtifactRef,
    start: ArtifactRef | None,
    identity: Identity,
) -> dict[int, Path]:
    """Return by step the checkpoints of a training run as plain models, of which none is published yet.

    They lie in the folder of the model that is chosen from them, which ``identity`` is of.

    Raises:
        TrainingError: the run failed; its last complete checkpoint is kept and the next run goes on from there.
        ArtifactError: the run ended without saying what it left.
    """
    stage = Stage(identity, rows=0)
    folder = Store(runtime.root).local_folder(stage.ref) / RUN_FOLDER
    async with alone(folder.parent):
        if Candidates.read(folder) is None:
            await train_candidates(runtime, based_on(Store(runtime.root), spec, start), arm, tokens, stage)
    found = Candidates.read(folder)
    if found is None:
        raise ArtifactError(f"{folder} does not say which checkpoints the run left. Delete it and run again.")
    return found.weights
