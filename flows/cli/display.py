"""What a terminal shows while a command runs: a bar per stage of a run, and the engine's figures twice a second."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from flows.cli.console import console, errors
from lema_core.llm.progress import describe_submitted, figures


@contextmanager
def progress_bars() -> Iterator[Callable[[str, float, str], None]]:
    """Yield a listener that draws one bar per stage; without a terminal, one line when a stage starts."""
    columns = (
        TextColumn("{task.description:<18}"),
        BarColumn(30),
        TimeElapsedColumn(),
        TextColumn("{task.fields[line]}"),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        running: dict[str, TaskID] = {}

        def update(stage: str, share: float, line: str) -> None:
            if stage not in running:
                running[stage] = progress.add_task(stage, total=1.0, line="")
                if not console.is_terminal:
                    console.print(f"  {stage} ...")
            progress.update(running[stage], completed=share)
            if line:
                progress.update(running[stage], line=line)
            if share >= 1.0 and not line:
                # The next run of this stage (another arm, another student) is a bar of its own.
                del running[stage]

        yield update


if TYPE_CHECKING:
    from lema_core.llm import Engine, Snapshot

REFRESH_S, LINE_S = 0.5, 10.0


@contextmanager
def live_figures(engine: "Engine") -> Iterator[None]:
    """Show the engine's progress while the block runs, on the error stream. Needs a running event loop.

    A block that is interrupted leaves batches at the endpoint: then say how many requests, and how to collect them.
    """
    show = _display if errors.is_terminal else _lines
    task = asyncio.get_running_loop().create_task(show(engine))
    try:
        yield
    except BaseException:
        if submitted := describe_submitted(engine.snapshot()):
            errors.print(submitted, markup=False)
        raise
    finally:
        task.cancel()


async def _display(engine: "Engine") -> None:
    from rich.live import Live

    with Live(console=errors, auto_refresh=False, transient=True) as display:
        while True:
            display.update(figures_table(engine.snapshot()), refresh=True)
            await asyncio.sleep(REFRESH_S)


async def _lines(engine: "Engine") -> None:
    while True:
        await asyncio.sleep(LINE_S)
        errors.print(figures_line(engine.snapshot()))


def figures_line(now: "Snapshot") -> str:
    """Return the figures in one line, for logs."""
    return ", ".join(f"{name} {value}" for name, value in figures(now).items())


def figures_table(now: "Snapshot") -> Table:
    """Return the figures as a table of two rows."""
    shown = figures(now)
    grid = Table(*shown, box=None, header_style="dim", padding=(0, 2, 0, 0))
    grid.add_row(*shown.values())
    return grid
