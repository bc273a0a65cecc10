"""How every stage becomes an artifact: a Prefect task per shard, the manifest last, the figures to Prefect.

`run_stages` is the one way: a published artifact is shown as ``Cached``, a finished part is not made again, servers run
only while something is missing. What a stage is and does is in ``lema_core/stages``.
"""

import asyncio
import errno
import fcntl
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import IO, Any

from prefect.client.schemas.objects import State
from prefect.states import Completed

from lema_core.artifacts import ArtifactRef, Manifest, PartSummary, Shard, Store, shards_of
from lema_core.artifacts.derivation import drop_parts
from lema_core.errors import (
    ArtifactError,
    BatchPendingError,
    BudgetExceededError,
    EndpointError,
    LemaError,
    RequestsFailedError,
    ShardsFailedError,
)
from lema_core.run.spec import RunContext
from lema_core.stages.failed_requests import CUT_IN_THINKING, SMALL, all_failures, check_stage, unanswered
from lema_core.stages.pretraining import Pretraining
from lema_core.stages.quality_gate import PilotCorrections
from lema_core.stages.report import Report
from lema_core.stages.stage import FileStage, RowStage, Stage
from lema_core.stages.training import Training
from lema_core.stages.unusable_answers import check_usable
from lema_core.training.candidates import RUN_FOLDER
from tasks.approval import approval
from tasks.boundary import task
from tasks.engine_session import cluster_of, engine_of, engine_watch, serving
from tasks.progress import ProgressSource, notify_user, show_progress
from tasks.stages import UNCACHED, any_files, selection, task_of, training, training_candidates
from tasks.ui_artifacts import counts_of, show_published, show_report

SHARD_ROWS = 16_384
"""About two seconds of judging: a Prefect task costs some 10 ms, and a flow run should not have thousands."""

LOOK_S = 1.0
"""Between two looks whether another run has left a folder."""

Check = Callable[[Sequence[PartSummary]], None]
"""Raises where the parts of a whole stage must not be published."""

ShardTask = partial[Coroutine[Any, Any, object]]
"""A shard's Prefect task with its arguments, all but the last one: the shard."""


async def run_stages(context: RunContext, stages: Iterable[Stage]) -> None:
    """Make the stages of a walk that are missing, one after the other; each finds its inputs published.

    Raises:
        LemaError: a stage cannot be made now; what is finished of it is kept, and the ones before it are published.
    """
    store = Store(context.root)
    for stage in stages:
        # Libraries lose a cancellation now and then (asyncio.wait_for does, before Python 3.12): no stage starts then.
        if (walk := asyncio.current_task()) and walk.cancelling():
            raise asyncio.CancelledError
        # A pilot is not judged again once all corrections are there.
        if stage.only_before is not None and store.exists(stage.only_before):
            continue
        try:
            await _run_stage(context, stage)
        except LemaError as error:
            error.stage = error.stage or stage.title
            raise
        if isinstance(stage, Report):
            await show_report(store, stage)


async def _run_stage(context: RunContext, stage: Stage) -> None:
    if isinstance(stage, RowStage):
        await run_rows(context, stage)
    elif isinstance(stage, Training) and stage.choice:
        await select_checkpoint(context, stage)
    elif isinstance(stage, FileStage):
        file_task = training if isinstance(stage, Training | Pretraining) else any_files.with_options(name=stage.name)
        await run_files(context, stage, partial(file_task, context, stage))
    if isinstance(stage, PilotCorrections):
        await approval(context, stage)


async def load_published(context: RunContext, stage: Stage) -> ArtifactRef | None:
    """Return the stage's artifact where it exists, shown as ``Cached`` in the UI, else None."""
    store = Store(context.root)
    if not store.exists(stage.ref):
        return None
    await show_cached(store.manifest(stage.ref))
    return stage.ref


async def run_rows(context: RunContext, stage: RowStage) -> ArtifactRef:
    """Return the artifact of a stage of rows; the servers of models that it asks run only while it is missing.

    Raises:
        RequestsFailedError: an endpoint answered nothing, or too many requests failed over all shards.
        ArtifactError: the artifact was made by an older version when an endpoint answered nothing.
    """
    if not stage.endpoints:
        return await publish_rows(context, stage, partial(task_of(stage), context, stage, ()))
    store = Store(context.root)
    if ref := await load_published(context, stage):
        check_answered(context, store.manifest(ref))
        return ref
    async with AsyncExitStack() as servers:
        live = tuple([await servers.enter_async_context(serving(endpoint, context)) for endpoint in stage.endpoints])
        engine = await engine_of(context)

        def check(parts: Sequence[PartSummary]) -> None:
            counts = sum((Counter(part.counts) for part in parts), Counter[str]())
            for prefix, endpoint in zip(stage.prefixes, live, strict=False):
                check_stage(counts, context.max_failed, prefix, engine.last_failure_details(endpoint))
            # An evaluation rejects no row: an answer that is none counts as not right.
            thought = Counter({CUT_IN_THINKING: counts[CUT_IN_THINKING]})
            reasons = sum((Counter(part.reasons) for part in parts), Counter[str]()) or thought
            check_usable(stage.title, sum(part.rows_in for part in parts), reasons, context.max_failed)

        watch = await engine_watch(context, stage.input_rows(store) * stage.requests_per_row(store))
        # Batches take hours: with a limit on shards at a time the second one would be submitted after the first came
        # back.
        by_batch = any(endpoint.transport == "batch" for endpoint in stage.endpoints)
        shard_task = partial(task_of(stage), context, stage, live)
        return await publish_rows(context, stage, shard_task, watch, check, all_at_once=by_batch)


def check_answered(context: RunContext, manifest: Manifest) -> None:
    """Make sure that an artifact holds answers: everything that is made from an empty one is empty.

    Raises:
        ArtifactError: an endpoint answered nothing when it was made.
    """
    failed = unanswered(manifest)
    if failed and context.max_failed < 1:
        reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(failed.items()))
        raise ArtifactError(
            f"{manifest.stage}/{manifest.fingerprint} was published by an older version of LeMa although none of its "
            f"{failed.total()} requests was answered ({reasons}). Make it, and all that was made from it, again with: "
            f"{remaking(context)}. To keep it as it is: --set runtime.max_failed=1"
        )


def remaking(context: RunContext) -> str:
    """Return the command that makes artifacts with failed requests again."""
    if context.go_on:
        return "lema evaluate with the same options and --remake-failed"
    return f"lema resume {context.run} --root {context.root.removesuffix('/store')} --remake-failed"


def shard_rows(context: RunContext, stage: RowStage) -> int:
    """Return how many input rows one task deals with: about ``shard_requests`` requests."""
    if not stage.endpoints and not stage.scored:
        return SHARD_ROWS
    return max(1, context.shard_requests // stage.requests_per_row(Store(context.root)))


async def publish_rows(
    context: RunContext,
    stage: RowStage,
    shard_task: ShardTask,
    watch: ProgressSource | None = None,
    check: Check | None = None,
    *,
    all_at_once: bool = False,
) -> ArtifactRef:
    """Return the stage's artifact; where it is not there, run the shards that are not finished, some at a time.

    Args:
        context: of the run.
        stage: what is made.
        shard_task: makes a shard's part.
        watch: gives the figures that are shown meanwhile; None: the shards are counted.
        check: is given all parts' summaries before the artifact is published, and may refuse them.
        all_at_once: no shard waits for another one: their requests go into batches, which take hours.

    Raises:
        ShardsFailedError: some shards failed; the finished ones are kept.
        BudgetExceededError: the budget ran out; every completion paid so far is in the ledger.
        ArtifactError: a shard has finished and its part is not on the store.
    """
    if ref := await load_published(context, stage):
        return ref
    # Shards follow from the run's settings. Another run may cut the same rows elsewhere: its parts have other names.
    store = Store(context.root)
    started = time.monotonic()
    shards = shards_of(stage.input_rows(store), shard_rows(context, stage))
    # What an earlier process left is read through: a damaged part is made again while that is cheap.
    done = await asyncio.to_thread(partial(store.finished_parts, stage.ref, shards, verified=True))
    todo = [shard for shard, part in zip(shards, done, strict=True) if part is None]
    # A failed shard leaves the others alone: what they are paid for is kept, and the failures are reported together.
    finished = len(shards) - len(todo)
    async with show_progress(stage.ref, watch, done=finished, total=len(shards), title=stage.title) as tick:
        shard_runs = _shard_runs(context, stage, todo, shard_task, tick, all_at_once=all_at_once)
        results = await asyncio.gather(*shard_runs, return_exceptions=True)
        failed = [(shard, error) for shard, error in zip(todo, results, strict=True) if error is not None]
        if failed:
            _raise(context, stage, failed, len(todo))
    if ref := await load_published(context, stage):
        # Another run was quicker; what ours had not written then, it dropped.
        return ref
    found = await asyncio.to_thread(store.finished_parts, stage.ref, shards)
    missing = [f"{shard.start}-{shard.stop}" for shard, part in zip(shards, found, strict=True) if part is None]
    if missing and (ref := await load_published(context, stage)):
        return ref  # published just now, which removed what it does not name
    if missing:
        raise ArtifactError(
            f"{stage.ref.folder}: {len(missing)} of {len(shards)} shards have finished and left no part that can be "
            f"seen here (rows {', '.join(missing[:5])}). Nothing was published; run again to make them."
        )
    parts = [part for part in found if part]
    try:
        if check is not None:
            check(parts)
    except RequestsFailedError:
        # A part that stays is never made again: without those that hold failures the next run asks for them again.
        await asyncio.to_thread(drop_parts, store, stage.ref, [part for part in parts if all_failures(part.counts)])
        raise
    manifest = await asyncio.to_thread(store.publish, stage.identity, parts, seconds=time.monotonic() - started)
    await show_published(manifest)
    return stage.ref


def _shard_runs(
    context: RunContext,
    stage: RowStage,
    shards: Sequence[Shard],
    shard_task: ShardTask,
    tick: Callable[[], None],
    *,
    all_at_once: bool,
) -> list[Coroutine[Any, Any, None]]:
    """Return a coroutine per shard; once one of them has ended the stage, those that have not begun do not begin."""
    # A stage that has no input rows reads files of this machine, or whole tables in one piece: it stays here.
    cluster = cluster_of(context) if stage.input_rows(Store(context.root)) else None
    # On a cluster the workers' threads say how many shards run at a time.
    at_once = cluster is not None or all_at_once
    slots = asyncio.Semaphore(max(1, len(shards)) if at_once else context.shards_in_flight)
    ended: list[LemaError] = []

    async def run_one(shard: Shard) -> None:
        async with slots:
            if ended:
                raise ended[0]
            try:
                await (shard_task(shard) if cluster is None else cluster.run(shard_task, shard))
            except LemaError as error:
                if isinstance(error, RequestsFailedError):
                    hopeless = error.refused and error.requests >= SMALL
                else:
                    hopeless = isinstance(error, BudgetExceededError | EndpointError)
                # Shards that have not begun would fail in the same way; a pending batch says nothing of them.
                if hopeless and not isinstance(error, BatchPendingError):
                    ended.append(error)
                raise
            tick()

    return [run_one(shard) for shard in shards]


def _raise(context: RunContext, stage: RowStage, failed: list[tuple[Shard, BaseException]], total: int) -> None:
    for _, error in failed:
        if isinstance(error, BudgetExceededError | asyncio.CancelledError):
            raise error
    if all(isinstance(error, BatchPendingError) for _, error in failed):
        raise BatchPendingError(
            f"{stage.ref.stage}: {len(failed)} of {total} shards wait for batches that are submitted and not finished. "
            f"Collect them later with: {_going_on(context, 'collect-batch')}"
        )
    ranges = ", ".join(f"{shard.start}-{shard.stop}" for shard, _ in failed[:5])
    more = f" and {len(failed) - 5} more" if len(failed) > 5 else ""
    # Shards that did not begin carry the error that ended their stage: it counts once, and those of an endpoint that
    # was away are added up into one.
    away = list({id(error): error for _, error in failed if isinstance(error, RequestsFailedError)}.values())
    others = [error for _, error in failed if not isinstance(error, RequestsFailedError)]
    causes: list[BaseException] = [*([RequestsFailedError.combine(away)] if away else []), *others]
    texts = list(dict.fromkeys(str(error) or type(error).__name__ for error in causes))
    if total == len(failed) and all(isinstance(error, LemaError) for error in causes) and len(texts) == 1:
        raise causes[0]
    requests = sum(shard.stop - shard.start for shard, _ in failed) * stage.requests_per_row(Store(context.root))
    raise ShardsFailedError(
        f"{stage.ref.stage}: {len(failed)} of {total} shards failed (rows {ranges}{more}; at most {requests} requests, "
        f"of which the answered ones are kept); the other shards are finished. Cause: {'; '.join(texts[:3])}. "
        f"Go on with: {_going_on(context, 'resume')}"
    )


def _going_on(context: RunContext, deployment: str) -> str:
    if context.go_on:
        return context.go_on
    root = context.root.removesuffix("/store")
    where = "" if root == str(Path(".lema").absolute()) else f" --root {root}"
    return f"lema resume {context.run}{where}, or the deployment {deployment}"


async def run_files(
    context: RunContext, stage: FileStage, make: Callable[[], Coroutine[Any, Any, object]]
) -> ArtifactRef:
    """Return the artifact of a stage of plain files; make it if it is missing, while no other process does."""
    if ref := await load_published(context, stage):
        return ref
    async with folder_lock(Store(context.root).local_folder(stage.ref)) if stage.exclusive else nullcontext():
        # Asked again under the lock: another run may have made it while this one waited.
        if not stage.exclusive or not await load_published(context, stage):
            await make()
    return stage.ref


async def select_checkpoint(context: RunContext, stage: Training) -> ArtifactRef:
    """Return the model that is chosen among a training's checkpoints: the best on what was held out.

    Every checkpoint is a server's model for a while; ``at_once`` of them are served at the same time.

    Raises:
        TrainingError: the run failed; its last complete checkpoint is kept and the next run goes on from there.
        ArtifactError: the run ended without a list of its checkpoints.
    """
    store = Store(context.root)
    if not await load_published(context, stage):
        weights = await _trained_candidates(context, stage)
        tables = await _measure_checkpoints(context, stage, weights)
        await selection(context, stage, tables["held_out"], tables.get("test", {}))
    stage.drop_losers(store)
    return stage.ref


async def _trained_candidates(context: RunContext, stage: Training) -> Mapping[int, Path]:
    """Return by step the checkpoints of the training as plain models; they are in the folder of the chosen model."""
    store = Store(context.root)
    async with folder_lock(store.local_folder(stage.ref)):
        if stage.candidates(store) is None:
            await training_candidates(context, stage)
    found = stage.candidates(store)
    if found is None:
        folder = store.local_folder(stage.ref) / RUN_FOLDER
        raise ArtifactError(f"{folder} does not say which checkpoints the run left. Delete it and run again.")
    return found.weights


async def _measure_checkpoints(
    context: RunContext, stage: Training, weights: Mapping[int, Path]
) -> dict[str, dict[int, ArtifactRef]]:
    """Return the checkpoints' answers by step, for each set of questions."""
    choice = stage.choice
    if choice is None:
        raise LookupError("a checkpoint is chosen only if the run file has [selection]")
    # A slot is a number: the command of [evaluation.serve] may choose a GPU by it.
    slots: asyncio.Queue[int] = asyncio.Queue()
    for slot in range(choice.spec.at_once):
        slots.put_nowait(slot)

    async def measure(step: int, folder: Path) -> dict[str, ArtifactRef]:
        slot = await slots.get()
        try:
            served = choice.evaluation.checkpoint(str(folder), f"{stage.ref.fingerprint}-step-{step}", slot)
            evaluations = choice.evaluations(served, f"{stage.arm}, step {step}")
            return {name: await run_rows(context, evaluation) for name, evaluation in evaluations.items()}
        finally:
            slots.put_nowait(slot)

    measured = await asyncio.gather(*(measure(*item) for item in weights.items()), return_exceptions=True)
    # The others were let finish: what they paid for is in the store.
    for failed in measured:
        if isinstance(failed, BaseException):
            raise failed
    answers = [row for row in measured if not isinstance(row, BaseException)]
    return {name: {step: row[name] for step, row in zip(weights, answers, strict=True)} for name in choice.questions}


@asynccontextmanager
async def folder_lock(folder: Path) -> AsyncIterator[None]:
    """Hold a local folder; wait while another run works in it, on this machine or a shared disk.

    The lock is on a file beside the folder, and the kernel frees it when we die.
    """
    with folder.with_name(f"{folder.name}.lock").open("w") as lock:
        waits = False
        while not _locked(lock):
            if not waits:
                notify_user(f"Another run works in {folder}. This one waits until it has ended.")
            waits = True
            await asyncio.sleep(LOOK_S)
        yield


def _locked(lock: IO[str]) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        # Some shared disks know no locks (Lustre by default): there only the run's name guards the folder.
        if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):
            raise
    return True


async def show_cached(manifest: Manifest) -> None:
    """Record in Prefect that a stage was already there."""
    name = manifest.stage
    await _cached_task.with_options(name=name, task_run_name=name)(manifest.fingerprint, counts_of(manifest))


@task(**UNCACHED)
async def _cached_task(fingerprint: str, summary: str) -> State[None]:
    return Completed(name="Cached", message=f"{fingerprint}: {summary}")
