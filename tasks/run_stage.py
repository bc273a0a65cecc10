"""How every stage becomes an artifact: a Prefect task a shard, the manifest last, the figures to Prefect.

A stage hands over what it is (an Identity), how many input rows it has, and the task that deals with a shard. The store
decides what is left to do: a published artifact is shown as ``Cached``, a finished part is not run again.
"""

import asyncio
import errno
import fcntl
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any

from prefect.artifacts import acreate_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.logging import get_run_logger
from prefect.states import Completed

from lema_core.artifacts import ArtifactRef, Identity, Manifest, PartSummary, PartWriter, Shard, Store, shards_of
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
from lema_core.run.failed_requests import SMALL, all_failures
from lema_core.run.spec import Runtime
from tasks.boundary import task
from tasks.cluster_session import cluster_of
from tasks.progress import Watch, announce, artifact_key, decorative, watched

SHARD_TASK: dict[str, Any] = {"cache_policy": NO_CACHE, "persist_result": False}
"""Prefect's own cache is off: it would not see a changed prompt, and would believe in a file that was deleted."""

SHARD_ROWS = 16_384
"""About two seconds of judging: a Prefect task costs some 10 ms, and a flow run should not have thousands."""

LOOK_S = 1.0
"""Between two looks whether another run has left a folder."""

Check = Callable[[Mapping[str, int]], None]
"""Raises where the counts of a whole stage must not be published."""

ShardTask = partial[Coroutine[Any, Any, object]]
"""A shard's Prefect task with its arguments, all but the last one: the shard."""


@dataclass(frozen=True, slots=True)
class Stage:
    """What a stage is and how much there is to do."""

    identity: Identity
    rows: int
    """Input rows, cut into shards."""
    requests_per_row: int = 1
    """So that a shard holds about ``runtime.shard_requests`` requests."""
    asks: bool = True
    """False: no model is asked, a row takes microseconds, and a shard holds `SHARD_ROWS` of them."""
    by_batch: bool = False
    """Requests go into batches, which take hours: all shards submit at once."""

    def shard_rows(self, runtime: Runtime) -> int:
        """Return how many input rows one task deals with."""
        return max(1, runtime.shard_requests // self.requests_per_row) if self.asks else SHARD_ROWS

    @property
    def ref(self) -> ArtifactRef:
        """Return the artifact the stage makes."""
        return ArtifactRef(self.identity.stage, self.identity.fingerprint)


def outcome(part: PartWriter) -> State[None]:
    """Return the state a finished shard shows in the UI: what it kept and what it rejected, by reason."""
    summary = part.summary
    reasons = ", ".join(f"{count} {reason}" for reason, count in summary.reasons.items())
    return Completed(message=f"{summary.rows_out} rows" + (f"; rejected {reasons}" if reasons else ""))


async def published(runtime: Runtime, stage: Stage) -> ArtifactRef | None:
    """Return the stage's artifact where it exists, shown as ``Cached`` in the UI, else None."""
    store = Store(runtime.root)
    if not store.exists(stage.ref):
        return None
    await show_cached(store.manifest(stage.ref))
    return stage.ref


async def publish(
    runtime: Runtime, stage: Stage, shard_task: ShardTask, watch: Watch | None = None, check: Check | None = None
) -> ArtifactRef:
    """Return the stage's artifact; where it is not there, run the shards that are not finished, some at a time.

    ``check`` is given the sums of all parts' counts before the artifact is published, and may refuse them.

    Raises:
        ShardsFailedError: some shards failed; the finished ones are kept.
        BudgetExceededError: the budget ran out; every completion paid so far is in the ledger.
        ArtifactError: a shard has finished and its part is not on the store.
    """
    if ref := await published(runtime, stage):
        return ref
    store = Store(runtime.root)
    started = time.monotonic()
    shards = shards_of(stage.rows, stage.shard_rows(runtime))
    # What an earlier process left is read through: a damaged part is made again while that is cheap.
    done = await asyncio.to_thread(partial(store.finished_parts, stage.ref, shards, verified=True))
    todo = [shard for shard, part in zip(shards, done, strict=True) if part is None]
    async with watched(stage.ref, watch, done=len(shards) - len(todo), total=len(shards)) as tick:
        await _run_shards(runtime, stage, todo, shard_task, tick)
    if ref := await published(runtime, stage):
        # Another run was quicker; what ours had not written then, it dropped.
        return ref
    parts = _all_of(await asyncio.to_thread(store.finished_parts, stage.ref, shards), shards, stage.ref)
    if check is not None:
        await _checked(store, stage.ref, parts, check)
    manifest = await asyncio.to_thread(store.publish, stage.identity, parts, seconds=time.monotonic() - started)
    await show_published(manifest)
    return stage.ref


async def _checked(store: Store, ref: ArtifactRef, parts: Sequence[PartSummary], check: Check) -> None:
    """Check all parts together; where they do not pass, remove those with failures, so that they are asked again."""
    try:
        check(sum((Counter(part.counts) for part in parts), Counter[str]()))
    except RequestsFailedError:
        failed = [part for part in parts if all_failures(part.counts)]
        await asyncio.to_thread(drop_parts, store, ref, failed)
        raise


def _all_of(parts: Sequence[PartSummary | None], shards: Sequence[Shard], ref: ArtifactRef) -> list[PartSummary]:
    missing = [f"{shard.start}-{shard.stop}" for shard, part in zip(shards, parts, strict=True) if part is None]
    if missing:
        raise ArtifactError(
            f"{ref.folder}: {len(missing)} of {len(shards)} shards have finished and left no part that can be seen "
            f"here (rows {', '.join(missing[:5])}). Nothing was published; run again to make them."
        )
    return [part for part in parts if part]


async def _run_shards(
    runtime: Runtime, stage: Stage, shards: Sequence[Shard], shard_task: ShardTask, tick: Callable[[], None]
) -> None:
    # A stage that has no input rows reads files of this machine, or whole tables in one piece: it stays here.
    cluster = cluster_of(runtime) if stage.rows else None
    # On a cluster the workers' threads say how many shards run at a time.
    at_once = cluster is not None or stage.by_batch
    slots = asyncio.Semaphore(max(1, len(shards)) if at_once else runtime.shards_in_flight)
    ended: list[LemaError] = []

    async def one(shard: Shard) -> None:
        async with slots:
            if ended:
                raise ended[0]
            try:
                await (shard_task(shard) if cluster is None else cluster.run(shard_task, shard))
            except LemaError as error:
                if _ends_stage(error):
                    ended.append(error)
                raise
            tick()

    results = await asyncio.gather(*(one(shard) for shard in shards), return_exceptions=True)
    failed = [(shard, error) for shard, error in zip(shards, results, strict=True) if isinstance(error, BaseException)]
    if failed:
        _raise(runtime, stage, failed, len(shards))


def _ends_stage(error: LemaError) -> bool:
    """Tell whether the shards that have not begun would fail in the same way."""
    if isinstance(error, RequestsFailedError):
        return error.refused and error.requests >= SMALL
    return isinstance(error, BudgetExceededError | EndpointError) and not isinstance(error, BatchPendingError)


def _raise(runtime: Runtime, stage: Stage, failed: list[tuple[Shard, BaseException]], total: int) -> None:
    for _, error in failed:
        if isinstance(error, BudgetExceededError | asyncio.CancelledError):
            raise error
    if all(isinstance(error, BatchPendingError) for _, error in failed):
        raise BatchPendingError(
            f"{stage.ref.stage}: {len(failed)} of {total} shards wait for batches that are submitted and not finished. "
            f"Collect them later with: {_going_on(runtime, 'collect-batch')}"
        )
    ranges = ", ".join(f"{shard.start}-{shard.stop}" for shard, _ in failed[:5])
    more = f" and {len(failed) - 5} more" if len(failed) > 5 else ""
    causes = _causes([error for _, error in failed])
    texts = list(dict.fromkeys(str(error) or type(error).__name__ for error in causes))
    if total == len(failed) and all(isinstance(error, LemaError) for error in causes) and len(texts) == 1:
        raise causes[0]
    requests = sum(shard.stop - shard.start for shard, _ in failed) * stage.requests_per_row
    raise ShardsFailedError(
        f"{stage.ref.stage}: {len(failed)} of {total} shards failed (rows {ranges}{more}; at most {requests} requests, "
        f"of which the answered ones are kept); the other shards are finished. Cause: {'; '.join(texts[:3])}. "
        f"Go on with: {_going_on(runtime, 'resume')}"
    )


def _causes(errors: Sequence[BaseException]) -> list[BaseException]:
    """Return the errors, those of an endpoint that was away added up into one."""
    # Shards that did not begin carry the error that ended their stage: it counts once.
    away = list({id(error): error for error in errors if isinstance(error, RequestsFailedError)}.values())
    others = [error for error in errors if not isinstance(error, RequestsFailedError)]
    return [*([RequestsFailedError.added_up(away)] if away else []), *others]


def _going_on(runtime: Runtime, deployment: str) -> str:
    if runtime.go_on:
        return runtime.go_on
    root = runtime.root.removesuffix("/store")
    where = "" if root == str(Path(".lema").absolute()) else f" --root {root}"
    return f"lema resume {runtime.run}{where}, or the deployment {deployment}"


async def published_alone(
    runtime: Runtime, stage: Stage, make: Callable[[], Coroutine[Any, Any, object]]
) -> ArtifactRef:
    """Return the stage's artifact of plain files; where it is not there, make it while no other process does."""
    if ref := await published(runtime, stage):
        return ref
    async with alone(Store(runtime.root).local_folder(stage.ref)):
        if not await published(runtime, stage):
            await make()
    return stage.ref


@asynccontextmanager
async def alone(folder: Path) -> AsyncIterator[None]:
    """Be the only one who works in a local folder; wait while another run does, on this machine or a shared disk.

    The lock is on a file beside the folder, and the kernel frees it when we die.
    """
    with folder.with_name(f"{folder.name}.lock").open("w") as lock:
        waits = False
        while not _locked(lock):
            if not waits:
                announce(f"Another run works in {folder}. This one waits until it has ended.")
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


def files_under(folder: Path, names: Sequence[str]) -> list[str]:
    """Return the files of a folder that have one of the names or lie in a folder of that name, relative to it."""
    found = (file for name in names for file in (folder / name, *(folder / name).rglob("*")))
    return [str(file.relative_to(folder)) for file in found if file.is_file()]


async def show_cached(manifest: Manifest) -> None:
    """Record in Prefect that a stage was already there."""
    name = manifest.stage
    await _cached_task.with_options(name=name, task_run_name=name)(manifest.fingerprint, _summary(manifest))


@task(**SHARD_TASK)
async def _cached_task(fingerprint: str, summary: str) -> State[None]:
    return Completed(name="Cached", message=f"{fingerprint}: {summary}")


def _summary(manifest: Manifest) -> str:
    if manifest.files:
        return f"{len(manifest.files)} files"
    return f"{manifest.rows_in} in, {manifest.rows_out} out, {manifest.rejected} rejected"


@decorative
async def show_published(manifest: Manifest) -> None:
    """Put a stage's figures into Prefect: a log line, and a table of what came in, went out and was rejected why."""
    get_run_logger().info("%s %s: %s", manifest.stage, manifest.fingerprint, _summary(manifest))
    rows = [
        {"what": "rows in", "number": manifest.rows_in},
        {"what": "rows out", "number": manifest.rows_out},
        *({"what": f"rejected: {reason}", "number": count} for reason, count in manifest.reasons.items()),
        *({"what": name, "number": count} for name, count in manifest.counts.items()),
    ]
    await acreate_table_artifact(
        table=rows, key=artifact_key(manifest.stage), description=f"{manifest.stage} {manifest.fingerprint}"
    )
