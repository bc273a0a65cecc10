"""Ends a flow run on request: a cancel in the UI, Ctrl-C, or SIGTERM.

A run without a worker polls for the cancel itself. In each case the flow's body is cancelled in a task of its own,
settles what is in flight, and the flow run ends in a state with the reason: ``Cancelled`` where a person asked for it,
``Crashed`` after SIGTERM, which the automation ``resume`` continues.
"""

import asyncio
import logging
import os
import signal
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from functools import partial, update_wrapper, wraps
from types import FrameType
from typing import Any, ParamSpec, cast
from uuid import UUID

from prefect import Flow, runtime
from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.exceptions import PrefectException
from prefect.flows import FlowStateHook
from prefect.settings import PREFECT_CLIENT_MAX_RETRIES, temporary_settings
from prefect.states import Cancelled, Crashed
from prefect.utilities import engine as prefect_engine

from lema_core.errors import CancelledRunError, ServerGoneError
from lema_core.run.spec import RunSpec
from lema_core.system import stopping
from tasks.progress import RETRIES, notify_user, server_gone, tolerate_prefect_outage

P = ParamSpec("P")
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class CancelSettings:
    """How a flow run watches for its cancellation, in seconds."""

    poll_s: float = 2.0
    """Between two requests for the run's state."""
    answer_s: float = 30.0
    """For one answer of the server. Where a busy one takes longer, asking anew would only add to its work."""
    final_state_s: float = 15.0
    """For setting the last state: an overloaded server must not delay the end. After a signal half of ``LAST_S``."""


DEFAULTS = CancelSettings()
_CANCEL_REQUESTED = {StateType.CANCELLING, StateType.CANCELLED}
"""A paused run goes to cancelled at once, without cancelling."""

_raise_in_prefect = prefect_engine._prefect_sigterm_handler  # noqa: SLF001 - see below


def _handle_sigterm(signum: int, frame: FrameType | None = None) -> None:
    """Replace Prefect's handler of SIGTERM, which raises wherever the program happens to be.

    In an event loop that ends the loop, with every request in flight. Prefect installs the handler for each flow run,
    and acknowledges a cancel of its worker only while it finds that one installed: so it is replaced where Prefect
    looks it up, and not in the process. Where no work of ours can be cancelled, Prefect's own handler runs.
    """
    if stopping.is_handled():
        stopping.handle(signum)
    else:
        _raise_in_prefect(signum, frame)


prefect_engine._prefect_sigterm_handler = _handle_sigterm  # type: ignore[assignment]  # noqa: SLF001 - there is no other way


_waiting: list[asyncio.Future[UUID]] = []
"""Futures for the id of the run that starts. Not in the hook: the flow is pickled for Dask, and a future cannot be."""
_settled: list[asyncio.Event] = []
"""Set when the body of a cancelled flow has settled what was in flight. A module variable for the same reason."""


def _note(flow: object, flow_run: FlowRun, state: object) -> None:  # noqa: ARG001 - Prefect gives them by position
    while _waiting:
        if not (begun := _waiting.pop()).done():
            begun.set_result(flow_run.id)


async def run_cancellable(
    flow: Flow[..., Any], run: RunSpec, root: str, go_on: str = "", settings: CancelSettings = DEFAULTS
) -> Any:
    """Run a flow in this process, and end it within seconds when a person cancels it in the UI or by the API.

    When it is cancelled itself, by a signal, it ends the flow in the same way. ``go_on`` is the command with which a
    person continues, by default ``lema resume``.

    Raises:
        CancelledRunError: it was cancelled in the UI or by the API.
        ServerGoneError: the Prefect server went away while it ran.
    """
    go_on = go_on or f"lema resume {run.name} --root {root}"
    begun: asyncio.Future[UUID] = asyncio.get_running_loop().create_future()
    _waiting.append(begun)
    # One run at a time in a process: a new one replaces what a run before may have left.
    _settled[:] = [asyncio.Event()]
    noted = flow.with_options(on_running=[cast("FlowStateHook[..., Any]", _note)])
    # With the signature that Prefect reads; without closures, since it is pickled too.
    noted.fn = update_wrapper(partial(_run_body, flow.fn, _by_a_person, go_on), flow.fn)
    work = asyncio.create_task(cast("Coroutine[Any, Any, Any]", noted(run, root)))
    watch = asyncio.create_task(_until_cancel_requested(begun, settings))
    try:
        await asyncio.wait([work, watch], return_when=asyncio.FIRST_COMPLETED)
    except asyncio.CancelledError:
        watch.cancel()
        if stopping.stop_signal() is signal.SIGTERM:
            notify_user(f"SIGTERM: waiting at most {stopping.grace_seconds():.0f} s for answers that are under way.")
        else:
            notify_user("Ctrl-C: waiting for answers that are under way; another Ctrl-C gives them up.")
        await _end(work, min(settings.final_state_s, stopping.LAST_S / 2))
        raise
    if not work.done():
        await _end(work, settings.final_state_s)
        raise CancelledRunError(f"the run was cancelled. What was paid is kept; go on with: {go_on}")
    watch.cancel()
    return _result(work, go_on)


async def _end(work: asyncio.Task[Any], final_state_s: float) -> None:
    """Cancel a flow run, wait until its body has settled, and at most ``final_state_s`` longer for its last state."""

    async def limit() -> None:
        await _settled[0].wait()
        await asyncio.sleep(final_state_s)

    work.cancel()
    last = asyncio.create_task(limit())
    await stopping.until_done(work, last)
    last.cancel()
    if work.done() and not work.cancelled() and (failure := work.exception()):
        _log.debug("the flow run's end: %r", failure)


def _result(work: "asyncio.Future[Any]", go_on: str) -> Any:
    """Return a flow's result, or raise its error, as ours where its server or a person ended it."""
    try:
        return work.result()
    except Exception as error:
        if not server_gone(error):
            raise
        raise ServerGoneError(
            f"the Prefect server does not answer any more ({error}). What was paid and finished is kept; start it "
            f"(lema ui start) and go on with: {go_on}"
        ) from None


def end_in_a_state(
    flow_function: Callable[P, Coroutine[Any, Any, State[None]]],
) -> Callable[P, Coroutine[Any, Any, State[None]]]:
    """Wrap the function of a flow that has a process of its own: a signal ends it in a state with the reason."""

    @wraps(flow_function)
    async def wrapped(*args: P.args, **kwargs: P.kwargs) -> State[None]:
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("a flow runs in a task")
        with stopping.stop_request().cancels(task):
            ended = _run_body(flow_function, is_cancel_requested, "the deployment resume", *args, **kwargs)
            return cast("State[None]", await ended)

    return wrapped


async def _run_body(
    flow_function: Callable[..., Coroutine[Any, Any, Any]],
    by_a_person: Callable[[], bool],
    go_on: str,
    *args: object,
    **kwargs: object,
) -> Any:
    """Run a flow's body in a task of its own; where that is cancelled, return the state that the flow run ends in.

    If the flow run's own task were cancelled, Prefect would report a crash of the runtime environment.
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
    why = stopping.stop_signal() or signal.SIGINT
    return Crashed(message=f"its process was ended by {why.name}: the machine or the worker stops. {kept}")


def _by_a_person() -> bool:
    """Return whether a person ended a command's run, by a cancel in the UI or by Ctrl-C."""
    return stopping.stop_signal() is not signal.SIGTERM


def is_cancel_requested() -> bool:
    """Return whether a person cancelled this process's flow run; False where the server does not answer."""
    run_id = os.environ.get("PREFECT__FLOW_RUN_ID") or runtime.flow_run.id
    with tolerate_prefect_outage(), get_client(sync_client=True) as client:
        state = client.read_flow_run(UUID(run_id)).state
        return state is not None and state.type in _CANCEL_REQUESTED
    return False


async def _until_cancel_requested(begun: "asyncio.Future[UUID]", settings: CancelSettings) -> None:
    """Ask for the run's state until it is cancelled; no answer of the server, whatever it is, ends the watching."""
    flow_run, away = await begun, False
    # In this task only, and once: Prefect reads all its settings again for it.
    with temporary_settings({PREFECT_CLIENT_MAX_RETRIES: RETRIES}):
        while True:
            try:
                async with get_client() as client:  # opening one costs more than several requests
                    while not await _is_cancelled(client, flow_run, settings.answer_s):
                        away = False
                        await asyncio.sleep(settings.poll_s)
                    return
            except Exception as error:  # noqa: BLE001 - the run goes on, and can be cancelled when the server is back
                if not away:
                    expected = isinstance(error, TimeoutError | PrefectException | OSError) or server_gone(error)
                    notify_user(
                        "The Prefect server does not answer. The run goes on as far as it can, unseen."
                        if expected
                        else f"For now this run cannot be cancelled in the UI: its server answered {error!r}."
                    )
                away = True
            await asyncio.sleep(settings.poll_s)


async def _is_cancelled(client: PrefectClient, flow_run: UUID, answer_s: float) -> bool:
    async with asyncio.timeout(answer_s):
        state = (await client.read_flow_run(flow_run)).state
    return state is not None and state.type in _CANCEL_REQUESTED
