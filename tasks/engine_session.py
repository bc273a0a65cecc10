"""Models as tasks see them: one request engine per process, keys, and servers that run while a stage needs them.

Keys kept as Prefect Secret blocks are read where requests are sent, and never handed on as a parameter.
"""

import asyncio
import logging
import os
import re
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from prefect.blocks.system import Secret

from lema_core.errors import ConfigError, MissingDependencyError
from lema_core.llm.endpoints import EndpointSpec, running
from lema_core.llm.engine import Engine
from lema_core.llm.ledger.credit import Budget
from lema_core.llm.progress import Snapshot, describe_submitted, figures, sum_snapshots
from lema_core.run.spec import RunContext
from lema_core.system.loopback import keep_loopback_direct
from lema_core.system.packages import install_command
from lema_core.system.redaction import disable_core_dumps
from tasks.progress import Progress, ProgressSource, notify_user

if TYPE_CHECKING:
    from tasks.dask_cluster import Cluster

_engines: dict[tuple[RunContext, int], Engine] = {}
_clusters: "dict[RunContext, Cluster]" = {}


async def keys_here(endpoints: Sequence[EndpointSpec]) -> None:
    """Put the keys of endpoints into this process's environment where they are not: a worker has its own.

    Raises:
        ConfigError: there is no such block on the Prefect server.
    """
    for endpoint in endpoints:
        if endpoint.api_key_secret and endpoint.api_key_env not in os.environ:
            await with_key(endpoint)


async def with_key(endpoint: EndpointSpec) -> EndpointSpec:
    """Return the endpoint with its key in this process's environment, where it names a Secret block.

    Raises:
        ConfigError: there is no such block on the Prefect server.
    """
    block = endpoint.api_key_secret
    if block is None:
        return endpoint
    try:
        secret: Secret[str] = await Secret.aload(block)
    except ValueError:
        raise ConfigError(
            f"endpoint {endpoint.name!r} takes its key from the Secret block {block!r}, which the Prefect server "
            "does not have: make it in the UI under Blocks"
        ) from None
    # The suffix keeps it from training runs, which get no keys of model providers.
    variable = f"LEMA_SECRET_{re.sub(r'[^A-Z0-9]', '_', block.upper())}_API_KEY"
    os.environ[variable] = secret.get()
    return endpoint.model_copy(update={"api_key_env": variable})


@asynccontextmanager
async def engine_session(context: RunContext) -> AsyncIterator[Engine]:
    """Open what every task of a run shares: this process's engine and, where the run names one, its cluster."""
    async with AsyncExitStack() as stack:
        engine = await stack.enter_async_context(process_engine(context))
        await stack.enter_async_context(cluster_session(context))
        yield engine


@asynccontextmanager
async def process_engine(context: RunContext) -> AsyncIterator[Engine]:
    """Open the engine that every task of this process shares: its limits and its budget hold over all shards."""
    # A worker of a cluster or of a deployment holds keys as well.
    disable_core_dumps()
    keep_loopback_direct()
    # An engine belongs to one event loop: a Dask worker and a flow in one process have an engine each.
    key = (context, id(asyncio.get_running_loop()))
    budget = Budget(dollars=context.budget.usd, tokens=context.budget.tokens)
    async with Engine.open(ledger=context.ledger, budget=budget, run=context.run) as engine:
        _engines[key] = engine
        try:
            yield engine
        except BaseException:
            if submitted := describe_submitted(engine.snapshot()):
                logging.getLogger(__name__).warning("%s", submitted)
            raise
        finally:
            del _engines[key]


@asynccontextmanager
async def cluster_session(context: RunContext) -> AsyncIterator[None]:
    """Connect to the run's cluster where it names one, with an engine in each of its workers.

    Raises:
        MissingDependencyError: the run names a cluster and Dask is not installed.
        ConfigError: no scheduler answers at its address.
    """
    if context.scheduler is None and context.workers is None:
        yield
        return
    try:
        from tasks.dask_cluster import connected
    except ImportError:
        raise MissingDependencyError(
            f"[runtime] workers and scheduler need Dask: run `{install_command('scale')}`"
        ) from None
    async with connected(context, process_engine) as cluster:
        _clusters[context] = cluster
        try:
            yield
        finally:
            del _clusters[context]


def cluster_of(context: RunContext) -> "Cluster | None":
    """Return the cluster of the session that this code runs in, if it has one."""
    return _clusters.get(context)


async def engine_of(context: RunContext, *endpoints: EndpointSpec) -> Engine:
    """Return the engine of the session that this task runs in, which may be a worker's, with the keys it needs.

    Raises:
        ConfigError: an endpoint's key cannot be read.
    """
    await keys_here(endpoints)
    return _engines[context, id(asyncio.get_running_loop())]


@asynccontextmanager
async def serving(endpoint: EndpointSpec, context: RunContext) -> AsyncIterator[EndpointSpec]:
    """Give the endpoint with a URL, its server started where it has a command and stopped at the end.

    Its log is kept under ``servers/RUN/`` beside a local store, else under ``.lema``.
    """
    ready = await with_key(endpoint)
    root = Path(".lema") if "://" in context.root else Path(context.root).parent
    async with running(ready, root / "servers" / context.run, notify_user) as url:
        yield ready.at(url)


async def engine_watch(context: RunContext, requests: int) -> ProgressSource:
    """Return the figures of a stage that talks to a model, for its progress: requests, rate, waiting, tokens, money.

    What other stages of this process ask for meanwhile is in them: they share the engine.
    """
    cluster, engine = cluster_of(context), await engine_of(context)

    def snapshot() -> Snapshot:
        return engine.snapshot() if cluster is None else sum_snapshots(cluster.snapshots())

    before, requests = snapshot(), max(1, requests)

    def watch() -> Progress:
        now = snapshot().since(before, requests)
        return Progress(min(1.0, now.done / requests), figures(now))

    return watch
