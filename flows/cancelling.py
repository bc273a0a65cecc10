"""The end of a flow run that somebody wants to end: by a cancel in the UI, by Ctrl-C, or by SIGTERM.

A run that no worker looks after watches for the cancel itself. In each case the flow's body is cancelled in a task of
its own, settles what is in flight, and the flow run ends in a state that says why: ``Cancelled`` where a person wished
it, ``Crashed`` after SIGTERM, which the automation ``resume`` goes on with.
"""

import asyncio
import logging
import os
import signal
from collections.abc import Callable, Coroutine
from contextlib import suppress
from functools import partial, update_wrapper, wraps
from types import FrameType
from typing import Any, ParamSpec, cast
from uuid import UUID

from prefect import Flow, runtime
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.flows import FlowStateHook
from prefect.states import Cancelled, Crashed
from prefect.utilities import engine as prefects

from flows import stopping
from lema_core.errors import CancelledRunError, ServerGoneError
from lema_core.run.spec import RunSpec
from tasks.progress import announce, bearing_absence, server_gone

P = ParamSpec("P")
_log = logging.getLogger(__name__)

LOOK_S, ANSWER_S = 2.0, 10.0
"""How often the server is asked whether a person wishes the end, and how long an answer may take."""
STATE_S = 10.0
"""For the last state of a flow run that is ended: a server with too much to do must not hold up the end."""
WISHED = {StateType.CANCELLING, StateType.CANCELLED}
"""The server takes a paused run to cancelled at once."""

_raise_in_prefect = prefects._prefect_sigterm_handler  # noqa: SLF001 - see below


def _prefects_handler(signum: int, frame: FrameType | None = None) -> None:
    """Stand in for Prefect's handler of SIGTERM, which raises where the program happens to be.

    In an event loop that ends the loop, with every request that is in flight. Prefect installs the handler for each
    flow run, and acknowledges a cancel of its worker only while it finds that one installed: so it is replaced where
    Prefect looks it up, and not in the process. Where no work of ours can be cancelled it does what it did.
    """
    if stopping.awaited():
        stopping.handle(signum)
    else:
        _raise_in_prefect(signum, frame)


prefects._prefect_sigterm_handler = _prefects_handler  # type: ignore[assignment]  # noqa: SLF001 - there is no other way


_waiting: list[asyncio.Future[UUID]] = []
"""Who waits to hear which run began. Not the hook's own: the flow travels to Dask's workers, and a future cannot."""
_settled: list[asyncio.Event] = []
"""Set when the body of a flow that is called off has settled what was in flight. Kept here for the same reason."""


def _note(flow: object, flow_run: FlowRun, state: object) -> None:  # noqa: ARG001 - Prefect gives them by position
    while _waiting:
        if not (begun := _waiting.pop()).done():
            begun.set_result(flow_run.id)


async def cancellable(flow: Flow[..., Any], run: RunSpec, root: str, go_on: str = "") -> Any:
    """Run a flow in this process, and end it within seconds when somebody cancels it in the UI or by the API.

    Cancelled itself, by a signal, it ends the flow in the same way. ``go_on`` is what a person does to go on
    afterwards, by default ``lema resume``.

    Raises:
        CancelledRunError: it was cancelled in the UI or by the API.
        ServerGoneError: the Prefect server went away while it ran.
    """
    go_on = go_on or f"lema resume {run.name} --root {root}"
    begun: asyncio.Future[UUID] = asyncio.get_running_loop().create_future()
    _waiting.append(begun)
    _settled[:] = [asyncio.Event()]
    noted = flow.with_options(on_running=[cast("FlowStateHook[..., Any]", _note)])
    # With the signature that Prefect asks for; nothing local to this call, for it travels as well.
    noted.fn = update_wrapper(partial(_ending_in_a_state, flow.fn, _a_person_wished_it, go_on), flow.fn)
    work = asyncio.create_task(cast("Coroutine[Any, Any, Any]", noted(run, root)))
    watch = asyncio.create_task(_until_wished(begun))
    try:
        await asyncio.wait([work, watch], return_when=asyncio.FIRST_COMPLETED)
        if not work.done() and (failure := watch.exception()):
            announce(f"From now on this run cannot be cancelled in the UI: its server answered {failure!r}.")
            await asyncio.wait([work])
    except asyncio.CancelledError:
        watch.cancel()
        _say_what_is_awaited()
        await _end(work)
        raise
    if not work.done():
        await _end(work)
        raise CancelledRunError(f"the run was cancelled. What was paid is kept; go on with: {go_on}")
    watch.cancel()
    return _result(work, go_on)


async def _end(work: asyncio.Task[Any]) -> None:
    """Cancel a flow run and wait until its body has settled, and a while for its last state."""

    async def limit() -> None:
        await _settled[0].wait()
        await asyncio.sleep(STATE_S)

    work.cancel()
    last = asyncio.create_task(limit())
    await stopping.until_done(work, last)
    last.cancel()
    if work.done() and not work.cancelled() and (failure := work.exception()):
        _log.debug("the flow run's end: %r", failure)


def _result(work: "asyncio.Future[Any]", go_on: str) -> Any:
    """Return what a flow made, or raise its error, in our words where its server or a person ended it."""
    try:
        return work.result()
    except Exception as error:
        if not server_gone(error):
            raise
        raise ServerGoneError(
            f"the Prefect server does not answer any more ({error}). What was paid and finished is kept; start it "
            f"(lema ui start) and go on with: {go_on}"
        ) from None


def _say_what_is_awaited() -> None:
    if stopping.asked() is signal.SIGTERM:
        announce(f"SIGTERM: waiting at most {stopping.grace_s():.0f} s for answers that are under way.")
    else:
        announce("Ctrl-C: waiting for answers that are under way; another Ctrl-C gives them up.")


def ending_in_a_state(
    flow_function: Callable[P, Coroutine[Any, Any, State[None]]],
) -> Callable[P, Coroutine[Any, Any, State[None]]]:
    """Wrap the function of a flow that has a process of its own: a signal ends it in a state that says so."""

    @wraps(flow_function)
    async def wrapped(*args: P.args, **kwargs: P.kwargs) -> State[None]:
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("a flow runs in a task")
        with stopping.stop().watching(task):
            ended = _ending_in_a_state(flow_function, wished, "the deployment resume", *args, **kwargs)
            return cast("State[None]", await ended)

    return wrapped


async def _ending_in_a_state(
    flow_function: Callable[..., Coroutine[Any, Any, Any]],
    by_a_person: Callable[[], bool],
    go_on: str,
    *args: object,
    **kwargs: object,
) -> Any:
    """Run a flow's body in a task of its own; where that is cancelled, return the state that the flow run ends in.

    Were the flow run's own task cancelled, Prefect would call it a crash of the runtime environment.
    """
    body = asyncio.create_task(flow_function(*args, **kwargs))
    called_off = await stopping.until_done(body)
    for settled in _settled:
        settled.set()
    if not (called_off and body.cancelled()):
        return body.result()
    kept = f"Everything that was paid and had arrived is kept; go on with: {go_on}"
    if by_a_person():
        return Cancelled(message=f"cancelled. {kept}")
    why = stopping.asked() or signal.SIGINT
    return Crashed(message=f"its process was ended by {why.name}: the machine or the worker stops. {kept}")


def _a_person_wished_it() -> bool:
    """Return whether a command's run was ended by a cancel in the UI or by Ctrl-C, which only a person takes back."""
    return stopping.asked() is not signal.SIGTERM


def wished() -> bool:
    """Return whether a person cancelled the flow run whose process this is; no, where the server does not say."""
    run_id = os.environ.get("PREFECT__FLOW_RUN_ID") or runtime.flow_run.id
    with bearing_absence(), get_client(sync_client=True) as client:
        state = client.read_flow_run(UUID(run_id)).state
        return state is not None and state.type in WISHED
    return False


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
    with bearing_absence(), suppress(TimeoutError):
        async with asyncio.timeout(ANSWER_S), get_client() as client:
            return (await client.read_flow_run(flow_run)).state
    return None
