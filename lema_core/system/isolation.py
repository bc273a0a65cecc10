"""Programs that deal with foreign files and need no network run without it.

``python -m lema_core.system.isolation MODULE ARGUMENT ...`` runs a module so.
"""

import ctypes
import resource
import runpy
import sys

from lema_core.system.processes import die_with_parent

_CLONE_NEWUSER = 0x10000000
_CLONE_NEWNET = 0x40000000


def isolate() -> bool:
    """Take the network from this process, which must have one thread; say whether the kernel did so.

    By a network namespace of its own, on Linux, where this user may make one. Elsewhere the network stays, and what
    holds is that no code of the files is run. The process dies with its parent and writes no core dump.
    """
    die_with_parent()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    unshare = getattr(ctypes.CDLL(None), "unshare", None)
    # Without the right to make one directly, by way of a user namespace; there some kernels refuse it, too.
    return unshare is not None and (unshare(_CLONE_NEWNET) == 0 or unshare(_CLONE_NEWUSER | _CLONE_NEWNET) == 0)


if __name__ == "__main__":
    isolate()
    sys.argv = sys.argv[1:]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
