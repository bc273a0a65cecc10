"""``lema export``: a run's training data for other trainers, with its card, and to the Hub if you say so."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flows.cli.console import console
from flows.cli.run import Root, Settings

if TYPE_CHECKING:
    from lema_core.exporting import Format


def export(
    run_file: Annotated[Path, typer.Argument(metavar="RUN.toml", help="The run file whose data are exported.")],
    to: Annotated[Path, typer.Option(help="Folder for the files and their card, README.md.")],
    form: Annotated[
        str, typer.Option("--format", help="chat: JSONL of messages. parquet: tables, with paths and corrections.")
    ] = "chat",
    arm: Annotated[list[str] | None, typer.Option(help="Only this arm's examples. Repeatable.")] = None,
    push: Annotated[
        str | None, typer.Option(metavar="OWNER/NAME", help="Upload the folder to the Hub as a data set.")
    ] = None,
    public: Annotated[bool, typer.Option(help="With --push: make a new data set public; else it is private.")] = False,
    root: Root = ".lema",
    settings: Settings = None,
) -> None:
    """Write a run's examples as chat JSONL or Parquet, with a data set card.

    Nothing leaves this machine without --push. With it, everything in the folder is sent, after it was listed; the
    token is read from HF_TOKEN. Licences for the card stand in the run file: [licences] data = "cc-by-4.0",
    questions = "mit", and one for each endpoint by its name.

    Example: lema export deployments/runs/demo.toml --format chat --to exported
    """
    from flows.planning import Planner
    from lema_core import exporting
    from lema_core.artifacts import Store
    from lema_core.errors import ConfigError
    from lema_core.report.gathering import gather
    from lema_core.report.run_cards import data_card
    from lema_core.run_files import read_run_file
    from lema_core.specs import Runtime

    forms: dict[str, Format] = {"chat": "chat", "parquet": "parquet"}
    if form not in forms:
        raise ConfigError(f"--format {form}: expected chat or parquet")
    run = read_run_file(run_file, settings or ())
    store, planner = Store(Runtime.of(run, root).root), Planner(run, root)
    for _ in planner.stages():
        pass
    made = planner.made
    # Models and evaluations are no part of the data, and need not be there yet.
    made.models, made.evaluations = {}, {}
    rows = exporting.export(store, made, arm or (), forms[form], to)
    exporting.write_card(to, data_card(run, gather(store, run, made), rows))
    for name, count in rows.items():
        console.print(f"{to}/{name}: {count} rows", markup=False)
    if push:
        address = exporting.push(to, push, private=not public, told=console.print)
        console.print(f"Pushed: {address}", markup=False)
