"""The checkpoint that becomes an arm's model: the best on training questions that no arm was trained on."""

import shutil
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from functools import partial

from prefect.artifacts import acreate_table_artifact
from prefect.client.schemas.objects import State
from prefect.states import Completed

from lema_core import identities
from lema_core.artifacts import ArtifactRef, Identity, Shard, Store
from lema_core.errors import ArtifactError
from lema_core.evaluation.checkpoint_selection import (
    SELECTION_FILE,
    CheckpointScore,
    hold_out,
    score_checkpoints,
    write_selection,
)
from lema_core.evaluation.selection_spec import SelectionSpec
from lema_core.records import JudgedPath, Question
from lema_core.run.spec import Runtime
from lema_core.training import METRICS_FILE, MODEL_FOLDER, SPEC_FILE
from lema_core.training.candidates import RUN_FOLDER, Candidates, place_model
from tasks.boundary import task
from tasks.progress import artifact_key, decorative
from tasks.run_stage import SHARD_TASK, Stage, files_under, outcome, publish, published

Tables = Mapping[int, ArtifactRef]
"""By a checkpoint's step, the artifact of its judged answers."""


@task(name="held_out", task_run_name="held_out", **SHARD_TASK)
async def held_out_shard(
    runtime: Runtime, spec: SelectionSpec, questions: ArtifactRef, out: ArtifactRef, shard: Shard
) -> State[None]:
    """Choose the training questions that are kept back."""
    store = Store(runtime.root)
    chosen = hold_out(store.rows(questions, Question), spec.questions, spec.seed)
    with store.part(out, shard, Question) as part:
        part.rows_in = len(chosen)
        for question in chosen:
            part.add(question)
    return outcome(part)


async def held_out(runtime: Runtime, spec: SelectionSpec, questions: ArtifactRef) -> ArtifactRef:
    """Return the artifact of the training questions that are kept back from every arm.

    Raises:
        DataError: none would be left to train on.
    """
    stage = Stage(identities.held_out(spec, questions.fingerprint), rows=0)
    return await publish(runtime, stage, partial(held_out_shard, runtime, spec, questions, stage.ref))


@task(name="selection", task_run_name="selection {arm}", **SHARD_TASK)
async def choose(runtime: Runtime, arm: str, stage: Stage, on_held_out: Tables, on_test: Tables) -> State[None]:
    """Publish the best checkpoint as the arm's model, with the table it was chosen by."""
    store, started = Store(runtime.root), time.monotonic()
    out = store.local_folder(stage.ref)
    run = Candidates.read(out / RUN_FOLDER)
    if run is None:
        raise ArtifactError(f"{out / RUN_FOLDER} holds no finished training run. Run again to train it.")
    scores = score_checkpoints(_answers(store, on_held_out), _answers(store, on_test))
    (best,) = (score for score in scores if score.chosen)
    place_model(run.weights[best.step], out / MODEL_FOLDER)
    for name in (METRICS_FILE, SPEC_FILE):
        shutil.copyfile(run.folder / name, out / name)
    write_selection(scores, out / SELECTION_FILE)
    files = files_under(out, (MODEL_FOLDER, METRICS_FILE, SPEC_FILE, SELECTION_FILE))
    seconds = run.seconds + time.monotonic() - started
    store.publish_files(stage.identity, files, seconds=seconds, extra=run.start | {"chosen_step": best.step})
    await _show(arm, scores)
    return Completed(message=f"step {best.step}: {best.right} of {best.n} held-out questions right")


def _answers(store: Store, tables: Tables) -> dict[int, Iterator[JudgedPath]]:
    return {step: store.rows(ref, JudgedPath) for step, ref in tables.items()}


@decorative
async def _show(arm: str, scores: list[CheckpointScore]) -> None:
    await acreate_table_artifact(
        table=[asdict(score) for score in scores],
        key=artifact_key("selection", arm),
        description=(
            f"checkpoints of the arm {arm}: chosen on held-out training questions. Columns of the test set, where "
            "there are any, are the paper's protocol: the best of them leaks and decides nothing."
        ),
    )


async def selected(runtime: Runtime, identity: Identity) -> ArtifactRef | None:
    """Return the model where it was chosen before; the checkpoints that lost go, should a kill have left them."""
    ref = await published(runtime, Stage(identity, rows=0))
    if ref:
        _drop_losers(runtime, ref)
    return ref


async def selection(
    runtime: Runtime, arm: str, identity: Identity, on_held_out: Tables, on_test: Tables
) -> ArtifactRef:
    """Return the artifact of an arm's model, chosen by the answers of its checkpoints.

    Raises:
        DataError: there is no checkpoint, or one without an answer.
    """
    stage = Stage(identity, rows=0)
    await choose(runtime, arm, stage, on_held_out, on_test)
    _drop_losers(runtime, stage.ref)
    return stage.ref


def _drop_losers(runtime: Runtime, ref: ArtifactRef) -> None:
    shutil.rmtree(Store(runtime.root).local_folder(ref) / RUN_FOLDER, ignore_errors=True)
