"""Processes: none that we start outlives us, not even a stopped one; and which of them still live."""

import asyncio
import contextlib
import ctypes
import os
import signal

import psutil

_PR_SET_PDEATHSIG = 1


def die_with_parent() -> None:
    """Ask the kernel to kill this process when its parent dies (Linux; elsewhere nothing happens).

    SIGKILL and not SIGTERM: a stopped process would keep SIGTERM pending for ever. There is nothing to tidy up, since
    checkpoints are complete or absent and servers keep no state. A launcher and each of its ranks ask for it, so that a
    whole chain falls.
    """
    prctl = getattr(ctypes.CDLL(None), "prctl", None)
    if prctl is not None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def living(pid: int, started: float) -> psutil.Process | None:
    """Return the process of this machine with that id and start time (seconds since 1970), if it lives."""
    try:
        process = psutil.Process(pid)
        # After a reboot the number may belong to somebody else's process; a zombie is dead and not buried.
        same = abs(process.create_time() - started) < 1.0 and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return None
    return process if same else None


async def end_group(leader: asyncio.subprocess.Process, patience: float = 10.0) -> None:
    """End a process and its whole group: first politely, then for good, after so many seconds.

    Also after the leader's own end: helpers of its group may still hold memory and GPUs.
    """
    for sent in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(leader.pid, sent)
        except ProcessLookupError:
            break
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(_group_gone(leader.pid), patience)
            break
    await leader.wait()


async def _group_gone(group: int) -> None:
    while True:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return
        await asyncio.sleep(0.05)
