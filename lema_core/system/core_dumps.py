"""No core dump holds a key: a crashed process would otherwise leave its memory, environment included, in a file."""

import ctypes
import resource

_PR_SET_DUMPABLE = 4


def without_core_dumps() -> None:
    """Ask the kernel to write no core dump of this process, nor of those it starts.

    The limit is inherited by what we start, and a handler behind a pipe (systemd, apport) ignores it; the flag stops
    that too, on Linux, and is this process's own. As with any private process, its memory is then closed to debuggers
    of the same user.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    prctl = getattr(ctypes.CDLL(None), "prctl", None)
    if prctl is not None:
        prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
