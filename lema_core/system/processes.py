"""Processes: none that we start outlives us, not even a stopped one; and which of them still live.

A process is known by its machine, its id and its start, counted in clock ticks since the machine's boot: no step of the
wall clock changes them (``psutil.Process.create_time`` moves with it). Where the kernel has no boot id or no ``/proc``,
the start is taken in seconds since 1970, and a process whose clock was set by more than a second meanwhile counts as
dead.
"""

import asyncio
import contextlib
import ctypes
import os
import signal
import socket
from functools import cache
from pathlib import Path

import psutil
from pydantic import BaseModel, ConfigDict

_NAMESPACES = ("pid", "time")
"""In another namespace a process has another id, or another start time."""


def boot_id() -> str:
    """Return the id of the kernel's present boot; empty where the kernel has none."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return ""


@cache
def this_machine() -> str:
    """Return the host's name, its boot, and the namespaces of this process: a container or pod is a machine of its own.

    It contains no clock. The boot id is random per boot, so two hosts of one name differ. Containers of one host share
    it, and the initial namespaces have the same numbers on every host: only together they identify a process table. It
    is read once: renaming the host while we run must not turn this process into another one.
    """
    links = [Path("/proc/self/ns", name) for name in _NAMESPACES]
    inside = ",".join(link.readlink().as_posix() for link in links if link.is_symlink())
    return f"{socket.gethostname()}/{boot_id()}/{inside}"


_PR_SET_PDEATHSIG = 1
_STATE, _START = 0, 19
"""Places in ``/proc/PID/stat`` after the command's name: fields 3 and 22."""
_DEAD = {"Z", "X", "x"}
"""A zombie has ended; its parent has not read its status yet."""


class ProcessIdentity(BaseModel):
    """What distinguishes a process from every other one."""

    model_config = ConfigDict(frozen=True)

    machine: str
    """As ``this_machine`` names it. Versions that stored the start in seconds named machines otherwise: to this version
    their processes are on another machine, and so are this version's to them."""
    pid: int
    started: float
    """Clock ticks from the boot to its start; seconds since 1970 where the kernel has no boot id."""


def identity_of(pid: int) -> ProcessIdentity:
    """Return the identity of a process of this machine.

    Raises:
        ProcessLookupError: there is no such process.
        PermissionError: the kernel hides it from us.
    """
    return ProcessIdentity(machine=this_machine(), pid=pid, started=_start_of(pid))


def this_process() -> ProcessIdentity:
    """Return the identity of this process."""
    return identity_of(os.getpid())


def is_alive(process: ProcessIdentity) -> bool | None:
    """Return whether a process is alive; None where it cannot be seen: on another machine, or hidden."""
    if process.machine != this_machine():
        return None
    try:
        other = _start_of(process.pid)
        return process.started == other if boot_id() else abs(process.started - other) < 1.0
    except ProcessLookupError:
        return False
    except PermissionError:
        return None


def is_alive_by_clock(pid: int, started: float) -> bool:
    """Return whether a process of this machine is alive, by a start in seconds since 1970 (older records)."""
    try:
        process = psutil.Process(pid)
        return process.status() != psutil.STATUS_ZOMBIE and abs(process.create_time() - started) < 1.0
    except psutil.NoSuchProcess:
        return False


def _start_of(pid: int) -> float:
    """Return when a living process started, in the unit of ``ProcessIdentity.started``."""
    if not 0 < pid < 2**31:
        raise ProcessLookupError(f"{pid} is no process id")  # os.kill would take 0 and -1 for groups
    if not boot_id():
        return _clock_start_of(pid)
    try:
        fields = Path(f"/proc/{pid}/stat").read_text("utf-8", "replace").rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        # With hidepid the processes of other users have no folder; this raises PermissionError for one of them.
        os.kill(pid, 0)
        raise PermissionError(f"process {pid} exists, and /proc does not show it") from None
    if fields[_STATE] in _DEAD:
        raise ProcessLookupError(f"process {pid} has ended")
    return float(fields[_START])


def _clock_start_of(pid: int) -> float:
    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            raise ProcessLookupError(f"process {pid} has ended")
        return float(process.create_time())
    except psutil.NoSuchProcess:
        raise ProcessLookupError(f"there is no process {pid}") from None
    except psutil.AccessDenied:
        raise PermissionError(f"process {pid} exists, and is not shown to us") from None


def die_with_parent() -> None:
    """Ask the kernel to kill this process when its parent dies (Linux; elsewhere nothing happens).

    SIGKILL and not SIGTERM, which would stay pending for ever in a stopped process. Nothing has to be cleaned up:
    checkpoints are complete or absent, and servers keep no state. A launcher and each of its ranks ask for it, so that
    the whole chain dies.
    """
    prctl = getattr(ctypes.CDLL(None), "prctl", None)
    if prctl is not None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


async def end_group(leader: asyncio.subprocess.Process, patience: float = 10.0) -> None:
    """End a process and its group: by SIGTERM, and after ``patience`` seconds by SIGKILL.

    Also after the leader itself ended: helpers of its group may still hold memory and GPUs.
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
