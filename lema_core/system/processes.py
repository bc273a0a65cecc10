"""Processes: which of them are alive, that none of ours outlives us, and what the programs that we start are given.

A process is known by its machine, its id and its start, counted in clock ticks since the machine's boot: no step of
the wall clock changes them (``psutil.Process.create_time`` moves with it). Where the kernel has no boot id or no
``/proc``, the start is taken in seconds since 1970, and a process whose clock was set by more than a second meanwhile
counts as dead.

Programs get environment variables by an allow-list, never a provider's key: a deny-list could not be complete, since
keys have any name (``OPENAI_KEY``, ``MY_TEACHER``). They get the GPUs that the work at hand is restricted to.
``python -m lema_core.system.processes MODULE ARGUMENT ...`` runs a module without the network.
"""

import asyncio
import contextlib
import ctypes
import os
import re
import resource
import runpy
import signal
import socket
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
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
    # The start in clock ticks distinguishes a process from a later one with the same id.
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


def die_with_parent(parent: int | None = None) -> None:
    """Ask the kernel to kill this process when its parent dies (Linux; elsewhere nothing happens).

    A parent that is named and has died before is noticed here: the kernel would never report it.

    SIGKILL and not SIGTERM, which would stay pending for ever in a stopped process. Nothing has to be cleaned up:
    checkpoints are complete or absent, and servers keep no state. A launcher and each of its ranks ask for it, so that
    the whole chain dies.
    """
    prctl = getattr(ctypes.CDLL(None), "prctl", None)
    if prctl is not None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if parent is not None and os.getppid() != parent:
        os._exit(128 + signal.SIGKILL)


STARTED_BY = "LEMA_STARTED_BY"
"""Holds the id of the process that runs a command; every process of a local command descends from it."""


def is_orphan() -> bool:
    """Return whether the process that started this one's command ended before we asked to die with our parent.

    A rank asks for that some seconds after its start. Where its launcher is killed meanwhile, it would live for ever.
    """
    started_by = os.environ.get(STARTED_BY, "")
    return bool(started_by) and int(started_by) not in {parent.pid for parent in psutil.Process().parents()}


async def end_group(leader: asyncio.subprocess.Process, patience: float = 5.0) -> None:
    """End a process, its group and its descendants: by SIGTERM, and after ``patience`` seconds by SIGKILL.

    Also after the leader itself ended: helpers of its group may still hold memory and GPUs. Descendants may have left
    the group: torchrun starts each rank in a session of its own, and a rank whose launcher is killed while it imports
    its libraries goes on alone.
    """
    family = list[psutil.Process]()
    for sent in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(psutil.NoSuchProcess):
            family += psutil.Process(leader.pid).children(recursive=True)
        with contextlib.suppress(ProcessLookupError):
            # The leader began a session of its own: its process id names the group, even after it has ended.
            os.killpg(leader.pid, sent)
        if sent is signal.SIGKILL:
            for process in family:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(patience):
                await _all_gone(leader, family)
                return


async def _all_gone(leader: asyncio.subprocess.Process, family: Sequence[psutil.Process]) -> None:
    # Not by leader.wait(), which Python 3.11 answers only when the output's pipe is closed: each process that
    # inherited the pipe would be waited for, too.
    while leader.returncode is None or any(map(_lives, family)) or _group_lives(leader.pid):  # noqa: ASYNC110
        await asyncio.sleep(0.05)


def _lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _group_lives(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    # A zombie is of the group until it is reaped, which the first process of a container may never do.
    return any(_group_of(process) == group and _lives(process) for process in psutil.process_iter())


def _group_of(process: psutil.Process) -> int | None:
    try:
        return os.getpgid(process.pid)
    except (ProcessLookupError, PermissionError):
        return None


HUB_TOKEN = "HF_TOKEN"  # noqa: S105  a variable's name
TRACKER_KEY = "WANDB_API_KEY"

_NAMES = frozenset({
    "PATH", "HOME", "USER", "LOGNAME", "SHELL", "PWD", "TERM", "COLUMNS", "LINES", "TZ", "TMPDIR", "TEMP", "TMP",
    "LANG", "LANGUAGE", "VIRTUAL_ENV", "CONDA_PREFIX", "SYSTEMROOT", "CC", "CXX", "CFLAGS", "CXXFLAGS", "LDFLAGS",
    "MAX_JOBS", "NO_PROXY", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "SSL_CERT_FILE", "SSL_CERT_DIR",
    "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "LEMA_CACHE", "DO_NOT_TRACK", "CPATH", "LIBRARY_PATH", "LDSHARED",
})  # fmt: skip
_PREFIXES = (
    "PYTHON", "LC_", "LD_", "DYLD_", "XDG_", "CUDA", "NVIDIA_", "NCCL_", "GLOO_", "UCX_", "FI_", "OFI_", "HIP_", "HSA_",
    "ROCM", "ROCR_", "MIOPEN_", "OMP_", "OMPI_", "PMI", "KMP_", "GOMP_", "MKL_", "OPENBLAS_", "BLIS_", "NUMEXPR_",
    "TORCH", "PYTORCH_", "TRITON_", "XLA_", "DS_", "DEEPSPEED_", "ACCELERATE_", "HF_", "TRANSFORMERS_", "TOKENIZERS_",
    "SAFETENSORS_", "BITSANDBYTES_", "BNB_", "FLASH_ATTENTION_", "VLLM_", "SGLANG_", "LLAMA_", "GGML_", "OLLAMA_",
    "GLIBC_", "MALLOC_", "SLURM_", "PBS_", "LSF_", "LSB_", "WANDB_", "TRACKIO_", "TENSORBOARD_", "JEMALLOC_",
)  # fmt: skip
_SECRET = re.compile(
    r"(?:^|_)(?:[A-Z]*KEYS?|TOKENS?|SECRETS?|PASS|PASSWORDS?|PASSWD|PASSPHRASE|PAT|CREDENTIALS?|AUTH|COOKIE)\d*(?:_|$)"
)
"""Within the allowed prefixes: ``VLLM_API_KEY`` is a server's, but a key."""


def program_environment(
    more: Collection[str] = (), *, network: bool = True, given: Mapping[str, str] | None = None
) -> dict[str, str]:
    """Return the environment for a program that we start.

    Args:
        more: names of variables that it gets beside the allowed ones, keys among them.
        network: whether it may reach the network; without, it gets no proxy and no certificate settings.
        given: what to choose from, this process's environment by default.
    """
    plain = os.environ if given is None else given
    return {name: value for name, value in plain.items() if name in more or _is_allowed(name, network)}


def _is_allowed(name: str, network: bool) -> bool:
    upper = name.upper()
    if not network and (upper.endswith(("_PROXY", "_CA_BUNDLE")) or "CERT" in upper):
        return False
    return (upper in _NAMES or upper.startswith(_PREFIXES)) and not _SECRET.search(upper)


SOURCE = str(Path(__file__).resolve().parents[2])


def module_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Return an environment in which ``python -m`` finds LeMa's modules, and none in the working directory.

    ``python -m`` puts the working directory first: a user's folder ``tasks`` there would hide ours. Programs that the
    module starts inherit it.
    """
    paths = [SOURCE, environment.get("PYTHONPATH")]
    return dict(environment) | {"PYTHONSAFEPATH": "1", "PYTHONPATH": os.pathsep.join(filter(None, paths))}


VISIBLE_DEVICES = "CUDA_VISIBLE_DEVICES"
Devices = tuple[str, ...]

_devices: ContextVar[Devices] = ContextVar("devices", default=())


@contextmanager
def use_devices(devices: Devices) -> Iterator[None]:
    """Let every program that is started inside see these GPUs only; an empty tuple changes nothing."""
    before = _devices.set(devices or _devices.get())
    try:
        yield
    finally:
        _devices.reset(before)


def assigned_devices() -> Devices:
    """Return the GPUs that this work is restricted to; empty where it is not restricted."""
    return _devices.get()


def device_environment(plain: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return an environment in which a program sees the assigned GPUs only."""
    return dict(plain) | ({VISIBLE_DEVICES: ",".join(_devices.get())} if _devices.get() else {})


def share_devices(devices: Sequence[str], workers: int) -> list[Devices]:
    """Return the GPUs of each worker: all of them for a single worker, in turn where there are fewer than workers."""
    if len(devices) < workers:
        return [(devices[i % len(devices)],) if devices else () for i in range(workers)]
    return [tuple(devices[i::workers]) for i in range(workers)]


def replica_devices(replicas: int) -> list[Devices]:
    """Return the GPUs of each server of a command: for one server no restriction, else a part of those visible here.

    Visible are those that this work is restricted to, else those that CUDA_VISIBLE_DEVICES names, else all of them.
    """
    if replicas == 1:
        return [()]
    named = tuple(name for name in os.environ.get(VISIBLE_DEVICES, "").split(",") if name.strip())
    # Counted by their device files: torch, which would know, is slow to import and would open each of them.
    files = sorted(int(file.name[6:]) for file in Path("/dev").glob("nvidia[0-9]*") if file.name[6:].isdigit())
    return share_devices(assigned_devices() or named or tuple(map(str, files)), replicas)


_CLONE_NEWUSER = 0x10000000
_CLONE_NEWNET = 0x40000000


def isolate() -> bool:
    """Remove the network from this process, which must have one thread; return whether the kernel did so.

    By a network namespace of its own, on Linux, where this user may create one. Elsewhere the network stays, and the
    protection is that no code of the files is run. The process writes no core dump.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    unshare = getattr(ctypes.CDLL(None), "unshare", None)
    # Without the right to create one directly, through a user namespace, which some kernels refuse as well.
    return unshare is not None and (unshare(_CLONE_NEWNET) == 0 or unshare(_CLONE_NEWUSER | _CLONE_NEWNET) == 0)


if __name__ == "__main__":
    die_with_parent()
    isolate()
    sys.argv = sys.argv[1:]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
