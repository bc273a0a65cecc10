"""delta-PPL of a fine-tuned model on mistaken and corrected paths (paper, section 4.4), in a process of its own."""

import os
import sys
import time
from functools import partial

from prefect.client.schemas.objects import State
from prefect.states import Completed

from lema_core import identities
from lema_core.artifacts import ArtifactRef, Store
from lema_core.report.load import PERPLEXITY_FILE as FILE
from lema_core.run.spec import Runtime
from lema_core.training.launch import clean_environment, run_group
from tasks.boundary import task
from tasks.run_stage import SHARD_TASK, Stage, published_alone

MODEL_FOLDER = "model"


@task(name="perplexity", task_run_name="perplexity {arm}", **SHARD_TASK)
async def measure(
    runtime: Runtime,
    arm: str,  # noqa: ARG001 - Prefect puts it into the task run's name
    pairs: int,
    model: ArtifactRef,
    corrections: ArtifactRef,
    stage: Stage,
) -> State[None]:
    """Run the forward passes and publish the pairs' perplexities."""
    store, started = Store(runtime.root), time.monotonic()
    out = store.local_folder(stage.ref)
    command = [sys.executable, "-m", "lema_core.training.perplexity", "--limit", str(pairs), "--out", str(out / FILE)]
    command += ["--model", f"{store.local_folder(model)}/{MODEL_FOLDER}"]
    command += ["--corrections", str(store.local_folder(corrections))]
    seen: dict[str, object] = {}
    await run_group(command, out / "log.txt", clean_environment(os.environ, runtime.launch), seen.update)
    store.publish_files(stage.identity, [FILE], seconds=time.monotonic() - started, extra=seen)
    return Completed(message=f"{seen.get('pairs')} pairs")


async def perplexity(
    runtime: Runtime, arm: str, pairs: int, model: ArtifactRef, corrections: ArtifactRef
) -> ArtifactRef:
    """Return the artifact of a fine-tuned model's perplexities, of the first ``pairs`` corrections.

    Raises:
        TrainingError: the program failed; its own message is the text.
    """
    stage = Stage(identities.perplexity(pairs, model.fingerprint, corrections.fingerprint), rows=0)
    make = partial(measure, runtime, arm, pairs, model, corrections, stage)
    return await published_alone(runtime, stage, make)
