"""What two processes share that can see each other's process ids."""

import socket
from functools import cache
from pathlib import Path

_NAMESPACES = ("pid", "time")
"""In another one of them a process has another id, or another start time."""


def boot_id() -> str:
    """Return what names the kernel's present boot, or nothing where the kernel does not say it."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return ""


@cache
def this_machine() -> str:
    """Return the host's name, its boot, and the namespaces of this process: a container or pod is a machine of its own.

    No clock is in it. The boot id is drawn at each boot, so that two hosts of one name differ; containers of one host
    share it, and the initial namespaces have the same numbers on every host: only together they name a process table.
    It is read once: a host that is renamed while we run must not turn this process into another one.
    """
    links = [Path("/proc/self/ns", name) for name in _NAMESPACES]
    inside = ",".join(link.readlink().as_posix() for link in links if link.is_symlink())
    return f"{socket.gethostname()}/{boot_id()}/{inside}"
