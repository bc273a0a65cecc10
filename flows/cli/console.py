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


def told(command: Callable[P, R]) -> Callable[P, R]:
    """Wrap a command so that our errors end it with one message and exit code 1, without a traceback."""

    @wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return command(*args, **kwargs)
        except LemaError as error:
            errors.print("error:", style="bold red", end=" ")
            errors.print(str(error), markup=False)
            sys.exit(1)

    return run
