"""No process that we start outlives us: training ranks, and the servers of endpoints, not even stopped ones."""

import ctypes
import signal

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
