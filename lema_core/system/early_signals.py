"""SIGINT and SIGTERM before a command begins: nothing is in flight, and the process ends at once with one sentence.

Imports take a second, and many on a busy machine; a traceback of half an import says nothing to a user. This module
imports next to nothing, so that it can come first. Later on see ``lema_core.system.stopping``.
"""

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

DEFAULTS: dict[signal.Signals, Any] = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}


@contextmanager
def end_on_signals() -> Iterator[None]:
    """End this process at once on SIGINT or SIGTERM while the block runs, where no other code handles them."""
    ours = [sign for sign, default in DEFAULTS.items() if signal.getsignal(sign) is default]
    with suppress(ValueError):  # in another thread than the main one
        for sign in ours:
            signal.signal(sign, end_at_once)
    try:
        yield
    finally:
        for sign in ours:
            if signal.getsignal(sign) is end_at_once:
                signal.signal(sign, DEFAULTS[sign])


def end_at_once(signum: int, _frame: FrameType | None = None) -> None:
    """Handle a signal: print the sentence and exit, whatever is being imported."""
    with suppress(Exception):
        sys.stdout.flush()
    # By the file descriptor: the signal may have come while Python wrote to the stream.
    os.write(2, f"{describe_end(signal.Signals(signum))}\n".encode())
    os._exit(128 + signum)


def describe_end(sign: signal.Signals) -> str:
    """Return the sentence with which a command ends after a signal."""
    name = "Ctrl-C" if sign is signal.SIGINT else sign.name
    return f"ended by {name}: what was finished or paid is kept, and the same command goes on from there"
