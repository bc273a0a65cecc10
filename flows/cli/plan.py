"""``lema plan``: what a run would make and ask for, before anything is paid."""

from pathlib import Path
from typing import Annotated

import typer

from flows.cli.console import console
from flows.cli.run import Root, Settings


def plan(
    run_file: Annotated[Path, typer.Argument(metavar="RUN.toml", help="A run file, as in deployments/runs/.")],
    root: Root = ".lema",
    settings: Settings = None,
) -> None:
    """Show each artifact of a run as there or missing, and how many requests it would send to which endpoint.

    Nothing is sent and nothing is written. Where an input does not exist yet, the numbers are upper bounds.
    """
    from rich.table import Table

    from flows.planning import Planner
    from lema_core.run_files import read_run_file

    table = Table("stage", "artifact", "", "rows", "requests", "endpoint", box=None, header_style="bold")
    total: dict[str, int] = {}
    for stage in Planner(read_run_file(run_file, settings or ()), root).stages():
        there = "[green]there[/green]" if stage.there else "[yellow]missing[/yellow]"
        bound = "" if stage.there else "<= "
        rows = "?" if stage.rows is None else f"{bound}{stage.rows}"
        requests = f"<= {stage.requests}" if stage.requests else "0"
        name = stage.endpoint.name if stage.endpoint else ""
        total[name] = total.get(name, 0) + stage.requests
        table.add_row(stage.name, stage.ref.fingerprint, there, rows, requests if name else "", name)
    console.print(table)
    for name, count in total.items():
        if name:
            console.print(f"{name}: at most {count} requests")
