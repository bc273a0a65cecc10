"""What two processes share that can see each other's process ids."""

import socket
from pathlib import Path

import psutil


def this_machine() -> str:
    """Return the machine's name, when it started, and the process namespace: a container or pod is one of its own."""
    namespace = Path("/proc/self/ns/pid")
    inside = namespace.readlink().as_posix() if namespace.is_symlink() else ""
    return f"{socket.gethostname()}/{int(psutil.boot_time())}/{inside}"
