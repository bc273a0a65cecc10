"""``lema export`` and ``lema explain``: what a run made, for others to use, and where one row came from."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast, get_args

import typer

from flows.cli.console import console
from flows.cli.run import Root, Settings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lema_core.artifacts import Store
    from lema_core.exporting import Format
    from lema_core.run.artifacts import RunArtifacts
    from lema_core.run.spec import RunSpec


def export(
    run_file: Annotated[Path, typer.Argument(metavar="RUN.toml", help="The run file whose data are exported.")],
    to: Annotated[Path, typer.Option(help="Folder for the files and their card, README.md.")],
    form: Annotated[
        str,
        typer.Option(
            "--format",
            help="trl: JSONL of prompt and completion; TRL trains the completion. chat: JSONL of messages, for "
            "trainers that mask the user. parquet: tables, with paths and corrections. model: an arm's weights.",
        ),
    ] = "trl",
    arm: Annotated[list[str] | None, typer.Option(help="Only this arm's examples, or its model. Repeatable.")] = None,
    push: Annotated[
        str | None, typer.Option(metavar="OWNER/NAME", help="Upload the files to the Hub, as a data set or a model.")
    ] = None,
    public: Annotated[bool, typer.Option(help="With --push: a new repository is public; else it is private.")] = False,
    root: Root = ".lema",
    settings: Settings = None,
) -> None:
    """Write a run's examples for TRL, as chat JSONL or as Parquet, or the model of an arm, with its card.

    Nothing leaves this machine without --push. With it, the files that were just written are sent, after they were
    listed, and nothing else of the folder; the token is read from HF_TOKEN. A README.md that LeMa did not write is not
    overwritten. Licences for the card stand in the run file: [licences] data = "cc-by-4.0",
    model = "mit", questions = "mit", and one for each endpoint by its name.

    Example: lema export deployments/runs/demo.toml --to exported
    Example: lema export deployments/runs/demo.toml --format model --arm lema --to lema-model
    """
    from lema_core import exporting
    from lema_core.errors import ConfigError
    from lema_core.pipeline import Pipeline
    from lema_core.run.files import read_run_file

    if form not in {*get_args(exporting.Format), "model"}:
        raise ConfigError(f"--format {form}: expected trl, chat, parquet or model")
    run = read_run_file(run_file, settings or ())
    pipeline = Pipeline(run, root)
    for _ in pipeline.stages():
        pass
    # With the steps that its arms share, which the run file does not hold.
    run, store, artifacts = pipeline.run, pipeline.store, pipeline.artifacts
    exporting.check_card(to)
    if form == "model":
        names = _model(run, store, artifacts, arm or (), to)
    else:
        names = _data(run, store, artifacts, arm or (), cast("Format", form), to)
    if push:
        kind: exporting.Kind = "model" if form == "model" else "dataset"
        address = exporting.push(to, names, push, kind, private=not public, notify=console.print)
        console.print(f"Pushed: {address}", markup=False)


def _data(
    run: "RunSpec", store: "Store", artifacts: "RunArtifacts", arms: "Sequence[str]", form: "Format", to: Path
) -> list[str]:
    """Write the data and their card; return the files' names."""
    from lema_core import exporting
    from lema_core.report.cards import run_dataset_card
    from lema_core.report.data import load_report_data

    # Models and evaluations are no part of the data, and need not be there yet.
    artifacts = replace(artifacts.collected(), mixtures=artifacts.mixtures)
    rows = exporting.export(store, artifacts, arms, form, to)
    exporting.write_card(to, run_dataset_card(run, load_report_data(store, run, artifacts), rows))
    for name, count in rows.items():
        console.print(f"{to}/{name}: {count} rows", markup=False)
    return [*rows, exporting.CARD]


def _model(run: "RunSpec", store: "Store", artifacts: "RunArtifacts", arms: "Sequence[str]", to: Path) -> list[str]:
    """Write the model and its card; return the files' names."""
    from lema_core import exporting
    from lema_core.errors import ConfigError
    from lema_core.report.cards import run_model_card
    from lema_core.report.data import load_report_data

    if len(arms) != 1:
        raise ConfigError(
            f"--format model writes one model: name its arm with --arm, one of {', '.join(artifacts.models)}"
        )
    sizes = exporting.export_model(store, artifacts, arms[0], to)
    # What has not been made yet is left out of the card.
    artifacts = artifacts.published(store)
    exporting.write_card(to, run_model_card(run, load_report_data(store, run, artifacts), arms[0]))
    for name, size in sizes.items():
        console.print(f"{to}/{name}: {size / 1e6:.1f} MB", markup=False)
    return [*sizes, exporting.CARD]


def explain(
    row_id: Annotated[
        str, typer.Argument(metavar="ID", help="An id from any table: of a question, path, correction ...")
    ],
    root: Root = ".lema",
) -> None:
    """Show where a row came from: question, path, verdict, correction, example, and the requests that paid for it.

    For a rejected row it shows the reason. The request keys can be looked up with `lema ledger explain KEY`.
    """
    from rich.panel import Panel

    from lema_core.artifacts.derivation import trace_ancestry

    for found in trace_ancestry(f"{root.rstrip('/')}/store", row_id):
        lines = [f"[bold]{name}[/bold]: {_escape(value)}" for name, value in found.fields.items()]
        console.print(Panel("\n".join(lines), title=f"{found.stage} {found.fingerprint}", title_align="left"))


def _escape(value: object) -> str:
    from rich.markup import escape

    return escape(str(value))
