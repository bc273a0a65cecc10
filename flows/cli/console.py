"""One console for the whole command line: safe text in and out, and one place where an error becomes an exit code."""

import io
import os
import signal
import sys
from collections.abc import Callable, Iterable
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from lema_core.errors import ConfigError, LemaError
from lema_core.system import stopping
from lema_core.system.early_signals import describe_end
from lema_core.system.redaction import printable, redact_secrets, to_lema_error


def check_text(arguments: Iterable[Any]) -> None:
    """Refuse arguments, and a working directory, that are not text.

    Python keeps undecodable bytes as half surrogates. No record, table or log can hold them, so a command would fail
    in the middle of its work.

    Raises:
        ConfigError: one of them is not.
    """
    for text in (*_texts(arguments), _working_directory()):
        if not text.isascii() and any("\ud800" <= char <= "\udfff" for char in text):
            raise ConfigError(
                f"{text!a} holds bytes that are no text in this locale. Rename the file or folder, or set "
                "LC_ALL=C.UTF-8 where its name is UTF-8"
            )


def print_any_text() -> None:
    """Print a question mark for a character that the terminal's encoding lacks; Python would raise."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def _texts(arguments: Iterable[Any]) -> Iterable[str]:
    for argument in arguments:
        if isinstance(argument, str | Path):
            yield str(argument)
        elif isinstance(argument, list | tuple):
            yield from _texts(argument)


def _working_directory() -> str:
    try:
        return os.getcwd()  # noqa: PTH109 - the text itself
    except OSError as error:
        raise ConfigError(f"the working directory is gone or cannot be entered ({error}): go to another one") from None


P = ParamSpec("P")
R = TypeVar("R")


class SafeConsole(Console):
    """A console whose texts cannot command the terminal: they may be a model's, an endpoint's or a file's.

    Every text passes here as a segment, whatever table or panel holds it; rich adds its own colours afterwards.
    """

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Yield the segments of anything that is printed."""
        for segment in super().render(renderable, options):
            if segment.control or segment.text == "\n" or segment.text.isprintable():
                yield segment
            else:
                yield Segment(printable(segment.text), segment.style)


console = SafeConsole(soft_wrap=True, highlight=False)
errors = SafeConsole(stderr=True, soft_wrap=True, highlight=False)
if not console.is_terminal:
    # A file or a pipe has no width: tables must not be truncated to the 80 columns that rich assumes.
    console = SafeConsole(soft_wrap=True, highlight=False, width=160)


def exit_on_error(command: Callable[P, R]) -> Callable[P, R]:
    """Wrap a command so that any error ends it with one message and exit code 1, no traceback, and no key in either.

    SIGINT and SIGTERM end it with a message and 128 plus the signal's number, as a shell reports a signal.
    """

    @wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            print_any_text()
            check_text((*args, *kwargs.values()))
            with stopping.handle_signals():
                return command(*args, **kwargs)
        except KeyboardInterrupt as error:
            why = error.signal if isinstance(error, stopping.Stopped) else signal.SIGINT
            stopping.end_within(stopping.LAST_S, 128 + why)
            errors.print(describe_end(why))
            sys.exit(128 + why)
        except Exception as error:
            said = _message_of(error)
            if said is None:
                raise
            errors.print("error:", style="bold red", end=" ")
            errors.print(said, markup=False)
            sys.exit(1)

    return run


def _message_of(error: Exception) -> str | None:
    """Return the message of an error; None where it is typer's to end the command."""
    from pyarrow import ArrowInvalid

    # Its own exceptions, and a pipe whose reader has gone (lema ... | head), are typer's to end.
    if type(error).__module__.partition(".")[0] in {"typer", "click"} or isinstance(error, BrokenPipeError):
        return None
    if isinstance(error, ArrowInvalid):
        error = LemaError(f"a Parquet file cannot be read or written: {error}")
    return redact_secrets(str(to_lema_error(error)))
