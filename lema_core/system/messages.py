"""Text of others as a message may show it: without terminal commands, secrets, and the values of a foreign error."""

import re
import traceback
from pathlib import Path

from lema_core.errors import LemaError, UnexpectedError
from lema_core.system.redaction import redact_secrets

_SEQUENCE = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|[\]PX^_][^\x07\x1b\x9c]*(?:\x07|\x1b\\|\x9c)?)")
"""Colours and cursor moves, and the strings that set a title or the clipboard; taken out whole."""
_CONTROLS = [
    *(code for code in range(0x20) if chr(code) not in "\n\t"),
    *range(0x7F, 0xA0),
    # Marks that reverse the order in which text is shown, and separators that end a line for some programs.
    *(0x061C, 0x200E, 0x200F, 0x2028, 0x2029, *range(0x202A, 0x202F), *range(0x2066, 0x206A)),
]
_SHOWN = dict.fromkeys(_CONTROLS, "\ufffd")


def printable(text: str) -> str:
    """Return text without terminal sequences, control characters (line ends and tabs stay) and half surrogates."""
    if text.isprintable():
        return text
    text = text.encode("utf-8", "replace").decode()
    return _SEQUENCE.sub("", text.replace("\r\n", "\n")).translate(_SHOWN)


def one_line(text: str, most: int | None = None) -> str:
    """Return printable text in one line, of at most ``most`` characters."""
    if most is not None and len(text) > most:
        text = text[: most - 1] + "…"
    return text if text.isprintable() else " ".join(printable(text).split())


LONGEST = 600
"""Characters that are kept of a foreign error's text."""
_FRAMES = 4
OURS = ("lema_core", "tasks", "flows")


def to_lema_error(error: BaseException) -> LemaError:
    """Return an error of our tree for any other: its message without secrets and its place, no cause, no values.

    An error of ours is returned as it is, without its cause and context. Raise the result outside of the handler, or
    Python adds the foreign error as its context.
    """
    if isinstance(error, LemaError):
        error.__cause__ = error.__context__ = None
        return error
    said = one_line(redact_secrets(str(error)), LONGEST)
    if isinstance(error, OSError) and error.errno is not None:
        # Of the machine: a full disk, a path that may not be used.
        return UnexpectedError(f"{said}. Look whether the path is right, may be used, and has room.")
    if isinstance(error, MemoryError):
        return UnexpectedError("the memory of this machine, or of its limit, is used up. What was paid is kept.")
    return UnexpectedError(
        f"{type(error).__name__}: {said or 'without a text'} (at {error_places(error)}). LeMa did not expect this: it "
        "is a defect of LeMa or of a library. What was paid is kept; the same command goes on with it."
    )


def error_places(error: BaseException) -> str:
    """Return where an error arose: the innermost places in our code, and the one in a library, without values."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if _module(frame.filename).split("/")[0] in OURS]
    chosen = own[-_FRAMES:] + [frame for frame in frames[-1:] if frame not in own]
    return (
        " > ".join(f"{_module(frame.filename)}:{frame.lineno} {frame.name}" for frame in chosen) or "an unknown place"
    )


def _module(file: str) -> str:
    parts = Path(file).parts
    starts = [at for at, part in enumerate(parts) if part in OURS or part == "site-packages"]
    inside = parts[starts[-1] :] if starts else parts[-1:]
    return "/".join(inside).removeprefix("site-packages/")
