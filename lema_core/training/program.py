"""How every program under ``lema_core.training`` runs for the process that started it."""

from collections.abc import Callable
from pathlib import Path

from lema_core.errors import LemaError
from lema_core.system.processes import die_with_parent
from lema_core.training.disk import told_when_full
from lema_core.training.events import emit

FAILED = 3
"""The exit status of a failure that an ``error`` event tells of."""


def carried_out(work: Callable[[], None], out: Path) -> int:
    """Do the work that writes under ``out`` and return the exit status; the program ends when its parent does.

    A failure that we know, a full disk included, becomes an ``error`` event. Any other one is for the log.
    """
    die_with_parent()
    try:
        with told_when_full(out):
            work()
    except LemaError as error:
        emit("error", message=str(error))
        return FAILED
    return 0
