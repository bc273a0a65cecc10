"""One console for the whole command line, and one place where an error becomes a message and an exit code."""

import sys
from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

from rich.console import Console

from lema_core.errors import LemaError

P = ParamSpec("P")
R = TypeVar("R")

console = Console(soft_wrap=True, highlight=False)
errors = Console(stderr=True, soft_wrap=True, highlight=False)
if not console.is_terminal:
    # A file or a pipe has no width: tables must not be cut to the 80 columns that rich assumes.
    console = Console(soft_wrap=True, highlight=False, width=160)


def exit_on_error(command: Callable[P, R]) -> Callable[P, R]:
    """Wrap a command so that our errors and those of files end it with one message and exit code 1, no traceback."""

    @wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return command(*args, **kwargs)
        except Exception as error:
            said = _said(error)
            if said is None:
                raise
            errors.print("error:", style="bold red", end=" ")
            errors.print(said, markup=False)
            sys.exit(1)

    return run


def _said(error: Exception) -> str | None:
    """Return what to tell of an error; None where it is a defect of ours and its traceback is wanted."""
    from pyarrow import ArrowInvalid

    if isinstance(error, LemaError):
        return str(error)
    if isinstance(error, ArrowInvalid):
        return f"a Parquet file cannot be read or written: {error}"
    # A pipe whose reader has gone (lema ... | head) is typer's to end.
    if isinstance(error, OSError) and not isinstance(error, BrokenPipeError):
        return f"{error}. Look whether the path is right, may be used, and has room." if error.filename else str(error)
    return None
