"""SIGINT and SIGTERM as requests to stop: one mechanism for every command and for a run's process under a worker.

The first signal cancels the work: nothing new is sent, answers in flight are awaited and committed as they arrive,
training runs and model servers are ended. A second signal abandons what is still in flight. SIGTERM does so by itself
after ``grace_seconds()``, because its sender (docker, Slurm, Kubernetes, systemd) kills soon after. A process that has
not ended ``LAST_S`` later exits at once, and what it started dies with it
(``lema_core.system.processes.die_with_parent``).
"""

import asyncio
import atexit
import os
import signal
import sys
import threading
import time
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any, TypeVar

from lema_core.errors import CancelledRunError, ConfigError
from lema_core.system.early_signals import DEFAULTS, end_at_once

T = TypeVar("T")

GRACE_VARIABLE = "LEMA_GRACE_S"
GRACE_S = 10.0
"""With ``LAST_S`` 15 s, half of the 30 s after which Prefect, Slurm and Kubernetes kill by default."""
LAST_S = 5.0
"""For what comes after the answers in flight: the last commit, the flow run's last state, the exit."""
EXIT_S, EXIT_AFTER_ERROR_S = 60.0, 5.0
"""For the exit: Prefect's threads wait there, without a limit, until their server has taken every event."""
SAME_S = 1.0
"""Signals within this time count as one: a service manager signals a process and its parent, which passes it on."""


class Stopped(KeyboardInterrupt):
    """A signal ended the work. Not an Exception, so that no handler of failures catches it."""

    def __init__(self, signum: int) -> None:
        super().__init__(signal.Signals(signum).name)
        self.signal = signal.Signals(signum)


def grace_seconds() -> float:
    """Return for how many seconds answers in flight are awaited after SIGTERM.

    Raises:
        ConfigError: the variable holds no such number.
    """
    text = os.environ.get(GRACE_VARIABLE, "")
    try:
        seconds = float(text) if text else GRACE_S
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < 86_400:
        raise ConfigError(f"{GRACE_VARIABLE} is {text!r}: give seconds, from 0 to a day, as {GRACE_VARIABLE}=100")
    return seconds


class StopRequest:
    """The request to stop this process: no signal yet, or the first one and what it cancels."""

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        self.work: asyncio.Task[Any] | None = None
        """What a signal cancels, in an event loop of the main thread; None: a signal raises ``Stopped``."""
        self._since = 0.0
        self._grace = grace_seconds()

    def receive(self, signum: int) -> None:
        """Handle a signal: the first one cancels the work, or raises; a later one abandons what is in flight.

        Runs between two instructions of the main thread, so that a second signal is handled while the event loop is
        busy.

        Raises:
            Stopped: the first signal, and no event loop runs the work.
        """
        now = time.monotonic()
        if self.signal is None:
            self.signal, self._since = signal.Signals(signum), now
            if self.work is None:
                raise Stopped(signum)
            self._cancel()
            if self.signal is signal.SIGTERM:
                loop = self.work.get_loop()
                loop.call_soon_threadsafe(lambda: loop.call_later(self._grace, self._cancel))
                end_within(self._grace + LAST_S, 128 + self.signal)
        elif now - self._since >= SAME_S:
            self._cancel()
            end_within(LAST_S, 128 + self.signal)

    def _cancel(self) -> None:
        if self.work is not None:
            self.work.get_loop().call_soon_threadsafe(self.work.cancel)

    @contextmanager
    def cancels(self, work: asyncio.Task[Any]) -> Iterator[None]:
        """Let signals cancel a task while the block runs."""
        with handle_signals():
            self.work = work
            try:
                yield
            finally:
                self.work = None


_stop: StopRequest | None = None


def stop_request() -> StopRequest:
    """Return the one request to stop of this process."""
    global _stop  # noqa: PLW0603 - signals belong to the process
    if _stop is None:
        _stop = StopRequest()
    return _stop


def stop_signal() -> signal.Signals | None:
    """Return the first signal that asked this process to end, if any."""
    return _stop.signal if _stop else None


def is_handled() -> bool:
    """Return whether a signal would cancel our work, or already did: no other handler needs to act on it."""
    return _stop is not None and (_stop.work is not None or _stop.signal is not None)


def handle(signum: int, _frame: FrameType | None = None) -> None:
    """Handle a signal as a request to stop."""
    stop_request().receive(signum)


@contextmanager
def handle_signals() -> Iterator[None]:
    """Handle SIGINT and SIGTERM as requests to stop while the block runs, and for ever once one arrived.

    A handler that other code installed stays, such as that of a shell's background jobs, which ignore SIGINT.
    """
    ours = list[signal.Signals]()
    stop_request()
    if threading.current_thread() is threading.main_thread():
        ours = [sign for sign, default in DEFAULTS.items() if signal.getsignal(sign) in (default, end_at_once)]
    before = [signal.signal(sign, handle) for sign in ours]
    try:
        yield
    finally:
        if stop_signal() is None:
            for sign, handler in zip(ours, before, strict=True):
                signal.signal(sign, handler)


def end_within(seconds: float, status: int) -> None:
    """End this process for good after some seconds, whatever it waits for, with an exit status."""
    last = threading.Timer(seconds, _end, (status,))
    last.daemon = True
    last.start()


def end_process(status: int) -> None:
    """End this process when its threads and exit functions have ended, without the interpreter's finalisation.

    Finalisation stops every daemon thread, so that no ``end_within`` limits it, and it frees objects that threads of
    libraries still use: gloo's threads abort the process there (pytorch/pytorch#179291).
    """
    with suppress(BaseException):  # a signal meanwhile: nothing is left to settle
        threading._shutdown()  # type: ignore[attr-defined]  # noqa: SLF001 - as multiprocessing does in its children
        atexit._run_exitfuncs()  # noqa: SLF001 - likewise
    _end(status)


def _end(status: int) -> None:
    for stream in (sys.stdout, sys.stderr):
        with suppress(Exception):
            stream.flush()
    os._exit(status)


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine as ``asyncio.run`` does; a signal cancels it, and it settles what is in flight.

    Raises:
        Stopped: a signal ended it.
    """
    runner = asyncio.Runner()
    loop = runner.get_loop()
    task = loop.create_task(work)
    try:
        # Waited for, not awaited: a cancelled task must still settle before its loop is closed.
        with stop_request().cancels(task):
            loop.run_until_complete(asyncio.wait([task]))
    finally:
        # Closing waits for every thread of the loop without a limit, and a run that is called off ends the process: a
        # thread in the middle of a table must not delay the sentence that says so.
        called_off = task.cancelled() or (task.done() and isinstance(task.exception(), CancelledRunError))
        if _cancel_others(loop) and not called_off:
            runner.close()
    if task.cancelled() and (signum := stop_signal()):
        raise Stopped(signum)
    return task.result()


def _cancel_others(loop: asyncio.AbstractEventLoop) -> bool:
    """Cancel the tasks that a coroutine left, and return whether they have ended in time."""
    others = asyncio.all_tasks(loop)
    for other in others:
        other.cancel()
    if others:
        _, others = loop.run_until_complete(asyncio.wait(others, timeout=LAST_S))
    return not others


async def until_done(task: asyncio.Task[Any], limit: asyncio.Task[None] | None = None) -> bool:
    """Wait for a task; pass each cancellation of the waiting on to it. Return whether there was one.

    ``limit`` ends the waiting as well, when it is done.
    """
    passed_on, ends = False, [task, limit] if limit else [task]
    while not any(end.done() for end in ends):
        try:
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            passed_on = task.cancel()
    if passed_on and (waiter := asyncio.current_task()):
        while waiter.cancelling():
            waiter.uncancel()
    return passed_on
