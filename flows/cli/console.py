"""One console for the whole command line: safe text in and out, and one place where an error becomes an exit code."""

import io
import json
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
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


def notice(text: str) -> None:
    """Print what is good to know; nothing with --quiet."""
    if not Verbosity.quiet:
        console.print(text)


def print_json(value: object) -> None:
    """Print one JSON document on standard output; not by the console, which breaks lines at the terminal's width."""
    print(json.dumps(value, indent=1, ensure_ascii=False, default=str), file=sys.stdout)  # noqa: T201


@contextmanager
def notices_on_stderr() -> Iterator[None]:
    """Print to the error stream what is printed meanwhile, so that standard output holds nothing but JSON."""
    before, console.file = console.file, sys.stderr
    try:
        yield
    finally:
        console.file = before


class Verbosity:
    """What the options --quiet and --verbose of the whole command line say."""

    quiet = False
    """Print results, warnings and errors only."""
    verbose = False
    """Log what LeMa does, on the error stream."""


def set_verbosity(*, quiet: bool, verbose: bool) -> None:
    """Log warnings, with ``verbose`` everything, with ``quiet`` errors only.

    Raises:
        ConfigError: both are asked for.
    """
    if quiet and verbose:
        raise ConfigError("--quiet and --verbose exclude each other: leave one of them out")
    Verbosity.quiet, Verbosity.verbose = quiet, verbose
    handler = logging.StreamHandler()
    handler.setFormatter(_SafeFormatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    level = logging.DEBUG if verbose else logging.ERROR if quiet else logging.WARNING
    for name in ("lema_core", "flows", "tasks"):
        logger = logging.getLogger(name)
        logger.handlers[:] = [handler]
        logger.setLevel(level)
        logger.propagate = False


class _SafeFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        """Return the line without keys and without what could command the terminal."""
        return printable(redact_secrets(super().format(record)))


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
