"""The shards of a run on a Dask cluster: one engine a worker process, in the worker's own event loop.

A shard travels as its task's name and its small arguments, and runs as a coroutine in the worker's loop, beside the
others: so all shards of a process share one engine, with its limits and its connections, as they do in the flow's
process. (prefect-dask's runner gives each task an event loop of its own, and so an engine a shard.) A worker that dies
takes its engine with it; Dask runs its shards elsewhere, and the ledger and the finished parts say what is left.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, suppress
from dataclasses import asdict
from functools import partial
from typing import Any, cast
from uuid import UUID, uuid4

import dask
import distributed
from prefect import Task
from prefect.context import serialize_context
from prefect.task_engine import run_task_async
from prefect.utilities.callables import get_call_parameters
from prefect.utilities.importtools import from_qualified_name

from lema_core.errors import ConfigError, LemaError
from lema_core.llm.engine import Engine
from lema_core.llm.progress import Snapshot
from lema_core.run.spec import RunContext

OpenEngine = Callable[[RunContext], AbstractAsyncContextManager[Engine]]
HOST = "127.0.0.1"
REFRESH_S = 2.0
CONNECT_S = 30


class Cluster:
    """A Dask cluster in use by one run."""

    def __init__(self, client: Any, name: str) -> None:
        self._client, self._name = client, name
        self._snapshots: list[Snapshot] = []

    async def run(self, shard_task: partial[Any], shard: object) -> None:
        """Run a shard on some worker, as a task run of the present flow run, and wait for it.

        Raises:
            LemaError: what the shard raised; or a shard that killed every worker it was given to.
        """
        task: Task[..., Any] = cast("Any", shard_task.func)
        parameters = get_call_parameters(task.fn, (*shard_task.args, shard), shard_task.keywords)
        name = f"{task.fn.__module__}.{task.fn.__name__}"
        future = self._client.submit(run_task, name, parameters, uuid4(), serialize_context(), pure=False)
        try:
            await future
        except distributed.scheduler.KilledWorker as error:
            raise LemaError(
                f"every worker that was given the shard {shard} died ({error}); see the workers' logs, and their memory"
            ) from None
        finally:
            with suppress(asyncio.CancelledError):
                future.release()

    def snapshots(self) -> list[Snapshot]:
        """Return the figures of every worker's engine, a few seconds old."""
        return self._snapshots

    async def keep_figures(self) -> None:
        """Ask for the workers' figures again and again."""
        while True:
            with suppress(OSError):
                known = await self._client.scheduler.identity(n_workers=-1)
                found = (worker["metrics"].get(self._name) for worker in known["workers"].values())
                self._snapshots = [Snapshot(**figures) for figures in found if figures]
            await asyncio.sleep(REFRESH_S)


async def run_task(name: str, parameters: dict[str, Any], run_id: UUID, context: dict[str, Any]) -> None:
    """Run a shard's task in a worker, as the task run ``run_id`` of the flow run that the context names."""
    await run_task_async(from_qualified_name(name), task_run_id=run_id, parameters=parameters, context=context)


class EngineOfWorker(distributed.WorkerPlugin):
    """Keeps a run's engine open in every worker, those that join later included, until the run takes it back."""

    def __init__(self, context: RunContext, open_engine: OpenEngine) -> None:
        # Runs of one name may meet at a scheduler, from other roots; a second plugin of a name ends the first. The
        # workers' figures travel under it with their signs of life.
        self.name = f"lema-{context.run}-{uuid4().hex}"
        self._context, self._open = context, open_engine

    async def setup(self, worker: Any) -> None:
        """Open the engine in the worker's loop."""
        self._stack = AsyncExitStack()
        engine = await self._stack.enter_async_context(self._open(self._context))
        worker.metrics[self.name] = lambda _worker: asdict(engine.snapshot())

    async def teardown(self, worker: Any) -> None:
        """Let requests in flight finish, commit them, and sign out of the ledger."""
        worker.metrics.pop(self.name, None)
        await self._stack.aclose()


@asynccontextmanager
async def connected(context: RunContext, open_engine: OpenEngine) -> AsyncIterator[Cluster]:
    """Connect to the run's scheduler, or start its worker processes on this machine, with an engine in each.

    Raises:
        ConfigError: no scheduler answers at its address.
        LemaError: a worker cannot open its engine.
    """
    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(_client(context))
        plugin = EngineOfWorker(context, open_engine)
        await client.register_plugin(plugin, name=plugin.name)
        stack.push_async_callback(client.unregister_worker_plugin, plugin.name)
        cluster = Cluster(client, plugin.name)
        figures = asyncio.create_task(cluster.keep_figures())
        stack.callback(figures.cancel)
        yield cluster


@asynccontextmanager
async def _client(context: RunContext) -> AsyncIterator[Any]:
    plain = {"asynchronous": True, "set_as_default": False}
    if context.scheduler is None:
        async with _local(context) as cluster, distributed.Client(cluster, **plain) as client:
            yield client
        return
    try:
        found = await distributed.Client(context.scheduler, timeout=CONNECT_S, **plain)
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"no Dask scheduler answers at {context.scheduler} ({error}); start one with `dask scheduler`, or set "
            "[runtime] workers instead of scheduler"
        ) from None
    async with found as client:
        yield client


def _local(context: RunContext) -> Any:
    """Return worker processes of this machine, on the loopback interface.

    A scheduler runs whatever its clients send, and every user of the machine reaches loopback: only who has the
    certificate may connect, which is made here and is kept in memory.
    """
    # Without routes the HTTP servers of scheduler and workers show nothing; by default everyone reads logs and stacks.
    dask.config.set({"distributed.scheduler.http.routes": [], "distributed.worker.http.routes": []})
    return distributed.LocalCluster(
        protocol="tls",
        security=distributed.Security.temporary(),
        n_workers=context.workers,
        threads_per_worker=context.shards_in_flight,
        host=HOST,
        dashboard_address=None,
        asynchronous=True,
        # Dask's own share of the memory would stop workers beside a model server; the shards hold little.
        memory_limit=None,
        silence_logs="ERROR",
    )
