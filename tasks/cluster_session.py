"""Where the shards of a run are dealt with: here, or on the Dask cluster that the run file names."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TYPE_CHECKING

from lema_core.errors import MissingDependencyError
from lema_core.llm.engine import Engine
from lema_core.run.spec import Runtime

if TYPE_CHECKING:
    from tasks.dask_cluster import Cluster

OpenEngine = Callable[[Runtime], AbstractAsyncContextManager[Engine]]

_clusters: "dict[Runtime, Cluster]" = {}


@asynccontextmanager
async def cluster_session(runtime: Runtime, open_engine: OpenEngine) -> AsyncIterator[None]:
    """Connect to the run's cluster where it names one, with an engine in each of its workers.

    Raises:
        MissingDependencyError: the run names a cluster and Dask is not installed.
        ConfigError: nobody answers at the scheduler's address.
    """
    if runtime.scheduler is None and runtime.workers is None:
        yield
        return
    try:
        from tasks.dask_cluster import connected
    except ImportError:
        raise MissingDependencyError(
            "[runtime] workers and scheduler need Dask: run `pip install -c requirements.lock -e '.[scale]'`"
        ) from None
    async with connected(runtime, open_engine) as cluster:
        _clusters[runtime] = cluster
        try:
            yield
        finally:
            del _clusters[runtime]


def cluster_of(runtime: Runtime) -> "Cluster | None":
    """Return the cluster of the session that this code runs in, if it has one."""
    return _clusters.get(runtime)
