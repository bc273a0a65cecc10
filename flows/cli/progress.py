"""Progress of a run in the terminal: a bar a stage, told by the tasks."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from flows.cli.console import console


@contextmanager
def bars() -> Iterator[Callable[[str, float, str], None]]:
    """Yield a listener that draws a bar for each stage it is told of; without a terminal, a line as it starts."""
    columns = (
        TextColumn("{task.description:<18}"),
        BarColumn(30),
        TimeElapsedColumn(),
        TextColumn("{task.fields[line]}"),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        running: dict[str, TaskID] = {}

        def told(stage: str, share: float, line: str) -> None:
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

        yield told
