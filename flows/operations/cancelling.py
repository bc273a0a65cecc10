"""Cancelling a run that no worker looks after: the process that runs it watches for the wish itself."""

import asyncio
from collections.abc import Coroutine
from typing import Any, cast
from uuid import UUID

from prefect import Flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.flows import FlowStateHook
from prefect.states import Cancelled

from lema_core.errors import CancelledRunError, ServerGoneError
from lema_core.specs import RunSpec
from tasks._progress import announce, bearing_absence, server_gone

LOOK_S = 2.0
WISHED = {StateType.CANCELLING, StateType.CANCELLED}
"""The server takes a paused run to cancelled at once."""


_waiting: list[asyncio.Future[UUID]] = []
"""Who waits to hear which run began. Not the hook's own: the flow travels to Dask's workers, and a future cannot."""


def _note(flow: object, flow_run: FlowRun, state: object) -> None:  # noqa: ARG001 - Prefect gives them by position
    while _waiting:
        if not (begun := _waiting.pop()).done():
            begun.set_result(flow_run.id)


async def cancellable(flow: Flow[..., Any], run: RunSpec, root: str, go_on: str = "") -> Any:
    """Run a flow in this process, and end it within seconds when somebody cancels it in the UI or by the API.

    ``go_on`` is what a person does to go on afterwards, by default ``lema resume``.

    Raises:
        CancelledRunError: it was cancelled.
        ServerGoneError: the Prefect server went away while it ran.
    """
    go_on = go_on or f"lema resume {run.name} --root {root}"
    begun: asyncio.Future[UUID] = asyncio.get_running_loop().create_future()
    _waiting.append(begun)
    noted = flow.with_options(on_running=[cast("FlowStateHook[..., Any]", _note)])
    work = asyncio.ensure_future(cast("Coroutine[Any, Any, Any]", noted(run, root)))
    watch = asyncio.create_task(_until_wished(begun))
    await asyncio.wait([work, watch], return_when=asyncio.FIRST_COMPLETED)
    if not work.done() and (failure := watch.exception()):
        announce(f"From now on this run cannot be cancelled in the UI: its server answered {failure!r}.")
        await asyncio.wait([work])
    if work.done():
        watch.cancel()
        try:
            return work.result()
        except Exception as error:
            if not server_gone(error):
                raise
            raise ServerGoneError(
                f"the Prefect server does not answer any more ({error}). What was paid and finished is kept; start it "
                f"(lema ui start) and go on with: {go_on}"
            ) from None
    work.cancel()
    # The engines settle what is out and paid; training's process group is ended.
    await asyncio.wait([work])
    async with get_client() as client:
        state: State[None] = Cancelled(message="cancelled; what was paid is kept")
        await client.set_flow_run_state(begun.result(), state, force=True)
    raise CancelledRunError(f"the run was cancelled. What was paid is kept; go on with: {go_on}")


async def _until_wished(begun: "asyncio.Future[UUID]") -> None:
    flow_run = await begun
    away = False
    while (state := await _state_of(flow_run)) is None or state.type not in WISHED:
        if state is None and not away:
            announce("The Prefect server does not answer. The run goes on as far as it can, unseen.")
        away = state is None
        await asyncio.sleep(LOOK_S)


async def _state_of(flow_run: UUID) -> State[Any] | None:
    """Return a flow run's state; None where the server is away, and so was not asked to cancel anything."""
    with bearing_absence():
        async with get_client() as client:
            return (await client.read_flow_run(flow_run)).state
    return None
