"""One console for the whole command line, and one place where an error becomes a message and an exit code."""

import signal
import sys
from collections.abc import Callable, Iterable
from functools import wraps
from typing import NoReturn, ParamSpec, TypeVar

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from flows import stopping
from flows.cli.arguments import check_text, print_any_text
from lema_core.errors import LemaError
from lema_core.system.printable import printable
from lema_core.system.redaction import without_secrets
from lema_core.system.unexpected import as_ours

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
    # A file or a pipe has no width: tables must not be cut to the 80 columns that rich assumes.
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
            with stopping.heard():
                return command(*args, **kwargs)
        except KeyboardInterrupt as error:
            _end_by(error.signal if isinstance(error, stopping.Stopped) else signal.SIGINT)
        except Exception as error:
            said = _said(error)
            if said is None:
                raise
            errors.print("error:", style="bold red", end=" ")
            errors.print(said, markup=False)
            sys.exit(1)

    return run


def _end_by(why: signal.Signals) -> NoReturn:
    stopping.end_within(stopping.LAST_S, 128 + why)
    name = "Ctrl-C" if why is signal.SIGINT else why.name
    errors.print(f"ended by {name}: what was finished or paid is kept, and the same command goes on from there")
    sys.exit(128 + why)


def _said(error: Exception) -> str | None:
    """Return the message of an error; None where it is typer's to end the command."""
    from pyarrow import ArrowInvalid

    # Its own exceptions, and a pipe whose reader has gone (lema ... | head), are typer's to end.
    if type(error).__module__.partition(".")[0] in {"typer", "click"} or isinstance(error, BrokenPipeError):
        return None
    if isinstance(error, ArrowInvalid):
        error = LemaError(f"a Parquet file cannot be read or written: {error}")
    return without_secrets(str(as_ours(error)))
