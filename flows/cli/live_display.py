"""The engine's figures in the terminal, twice a second; without a terminal, one line every ten seconds."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.table import Table

from flows.cli.console import errors
from lema_core.llm.progress import figures, submitted_words

if TYPE_CHECKING:
    from lema_core.llm import Engine, Snapshot

REFRESH_S, LINE_S = 0.5, 10.0


@contextmanager
def live(engine: "Engine") -> Iterator[None]:
    """Show the engine's progress while the block runs, on the error stream. Needs a running event loop.

    A block that is interrupted leaves batches at the endpoint: then say how many requests, and how to collect them.
    """
    show = _display if errors.is_terminal else _lines
    task = asyncio.get_running_loop().create_task(show(engine))
    try:
        yield
    except BaseException:
        if submitted := submitted_words(engine.snapshot()):
            errors.print(submitted, markup=False)
        raise
    finally:
        task.cancel()


async def _display(engine: "Engine") -> None:
    from rich.live import Live

    with Live(console=errors, auto_refresh=False, transient=True) as display:
        while True:
            display.update(table(engine.snapshot()), refresh=True)
            await asyncio.sleep(REFRESH_S)


async def _lines(engine: "Engine") -> None:
    while True:
        await asyncio.sleep(LINE_S)
        errors.print(line(engine.snapshot()))


def line(now: "Snapshot") -> str:
    """Return the figures in one line, for logs."""
    return ", ".join(f"{name} {value}" for name, value in figures(now).items())


def table(now: "Snapshot") -> Table:
    """Return the figures as a table of two rows."""
    shown = figures(now)
    grid = Table(*shown, box=None, header_style="dim", padding=(0, 2, 0, 0))
    grid.add_row(*shown.values())
    return grid
