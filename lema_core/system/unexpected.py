"""Errors that nobody foresaw, in our own words: their texts may hold a key, and their causes a request's headers."""

import traceback
from pathlib import Path

from lema_core.errors import LemaError, UnexpectedError
from lema_core.system.printable import one_line
from lema_core.system.redaction import without_secrets

LONGEST = 600
"""Characters that are kept of a foreign error's text."""
FRAMES = 4
OURS = ("lema_core", "tasks", "flows")


def as_ours(error: BaseException) -> LemaError:
    """Return an error of our tree for any other: what it says without secrets, where it arose, no cause, no values.

    An error of ours is returned as it is, without its cause and context. Raise the result outside of the handler, or
    Python adds the foreign error as its context.
    """
    if isinstance(error, LemaError):
        error.__cause__ = error.__context__ = None
        return error
    said = one_line(without_secrets(str(error)), LONGEST)
    if isinstance(error, OSError) and error.errno is not None:
        # Of the machine: a full disk, a path that may not be used.
        return UnexpectedError(f"{said}. Look whether the path is right, may be used, and has room.")
    if isinstance(error, MemoryError):
        return UnexpectedError("the memory of this machine, or of its limit, is used up. What was paid is kept.")
    return UnexpectedError(
        f"{type(error).__name__}: {said or 'without a text'} (at {places(error)}). LeMa did not expect this: it is a "
        "defect of LeMa or of a library. What was paid is kept; the same command goes on with it."
    )


def places(error: BaseException) -> str:
    """Return where an error arose: the innermost places in our code, and the one in a library, without values."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if _module(frame.filename).split("/")[0] in OURS]
    chosen = own[-FRAMES:] + [frame for frame in frames[-1:] if frame not in own]
    return (
        " > ".join(f"{_module(frame.filename)}:{frame.lineno} {frame.name}" for frame in chosen) or "an unknown place"
    )


def _module(file: str) -> str:
    parts = Path(file).parts
    starts = [at for at, part in enumerate(parts) if part in OURS or part == "site-packages"]
    inside = parts[starts[-1] :] if starts else parts[-1:]
    return "/".join(inside).removeprefix("site-packages/")
