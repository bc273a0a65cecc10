"""A worker, and a server of deployments, that end their runs before themselves.

Prefect's own kill a run's process at once when they are signalled: its requests in flight are lost, and the run is
shown as Running until its heartbeats are missed. These first ask each run's process to end, wait until it has settled
what is in flight and has set its state, and start no other run meanwhile.
"""

import asyncio
import os
from collections.abc import Coroutine, Sequence
from contextlib import suppress
from typing import Any

import psutil
from prefect.client.schemas.objects import FlowRun
from prefect.deployments.runner import RunnerDeployment
from prefect.runner import Runner
from prefect.workers.process import ProcessWorker

from lema_core.system import stopping
from lema_core.system.processes import ProcessIdentity, identity_of, is_alive, module_environment

CHECK_S = 0.2


class LemaWorker(ProcessWorker):
    """Prefect's worker of a process pool, which starts no run after a signal."""

    type = "process"

    async def get_and_submit_flow_runs(self) -> list[FlowRun]:
        """Start what is due, which Prefect calls every few seconds."""
        return [] if stopping.stop_signal() else await super().get_and_submit_flow_runs()


class _Runner(Runner):
    """Prefect's runner of served deployments; SIGTERM is for ``_serve_and_end_runs_first`` to act on."""

    def handle_sigterm(self, *args: Any, **_kwargs: Any) -> None:
        """Handle SIGTERM as every command of ours does."""
        stopping.handle(*args)


async def work(pool: str) -> None:
    """Run what is started or due in a work pool, each run in a process of its own, until it is cancelled."""
    await _serve_and_end_runs_first(LemaWorker(work_pool_name=pool).start())


async def serve(deployments: Sequence[RunnerDeployment]) -> None:
    """Run what is started or due of some deployments, without a work pool, until it is cancelled."""
    runner = _Runner(pause_on_shutdown=False)
    for deployment in deployments:
        await runner.aadd_deployment(deployment)
    await _serve_and_end_runs_first(runner.start())


async def _serve_and_end_runs_first(serving: Coroutine[Any, Any, None]) -> None:
    """Await a worker; when cancelled, end the runs' processes and then the worker; cancelled again, end at once."""
    os.environ |= module_environment(os.environ)  # inherited by Prefect's `python -m prefect.engine` of each run
    task = asyncio.create_task(serving)
    try:
        await asyncio.wait([task])
        return task.result()
    except asyncio.CancelledError:
        await _end_runs()
        raise
    finally:
        task.cancel()
        await asyncio.wait([task])


async def _end_runs() -> None:
    """Send SIGTERM to the processes of the runs, and wait for their end: they have their own limits of time."""
    runs = list[ProcessIdentity]()
    for child in psutil.Process().children():
        with suppress(ProcessLookupError, PermissionError, psutil.NoSuchProcess):
            runs.append(identity_of(child.pid))
            child.terminate()
    while any(is_alive(run) for run in runs):  # noqa: ASYNC110 - processes set no event
        await asyncio.sleep(CHECK_S)
