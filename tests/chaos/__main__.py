"""``python -m chaos RUN.toml``: play the scenarios on a run file and print whether each held (docs/chaos.md)."""

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flows.cli.console import console, exit_on_error
from flows.cli.run import Settings
from lema_core.system.loopback import keep_loopback_direct

if TYPE_CHECKING:
    from chaos import ScenarioResult


def chaos(
    run_file: Annotated[Path, typer.Argument(metavar="RUN.toml", help="A run file, as in deployments/runs/.")],
    only: Annotated[list[str] | None, typer.Option(help="Play this scenario only. Repeatable.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Play three scenarios that stand for the others.")] = False,
    with_training: Annotated[
        bool, typer.Option("--with-training", help="Train and evaluate as well; without it the run ends at its data.")
    ] = False,
    folder: Annotated[
        Path | None, typer.Option(help="Where the runs' roots go; by default a folder that goes when all is well.")
    ] = None,
    settings: Settings = None,
) -> None:
    """Disturb a run in every way we know, and check that nothing is lost, changed or paid for in vain.

    Each endpoint of the run file is replaced by the simulated endpoint, which counts what is paid: nothing is sent
    anywhere. The flow runs once undisturbed, then under 429 storms, 5xx, cut connections, broken and cut-off answers,
    kill -9 at every stage, a torn and a garbled ledger and a full disk. After each the same command has to finish with
    the same Parquet parts, byte by byte, and may have paid twice at most what was in flight when it was stopped.

    Exit code 1 if a scenario did not hold. docs/chaos.md explains the table.

    Example: PYTHONPATH=tests python -m chaos deployments/runs/smoke.toml --quick
    """
    from chaos import Harness, check_scenario, choose_scenarios
    from flows.local_stack.server import ensure_server
    from lema_core.errors import LemaError
    from lema_core.run.files import read_run_file

    run, scenarios = read_run_file(run_file, settings or ()), choose_scenarios(only or (), quick=quick)
    place = folder or Path(tempfile.mkdtemp(prefix="lema-chaos-"))
    ensure_server()
    results = []
    with Harness.open(run, place.resolve(), with_training=with_training) as harness:
        for scenario in scenarios:
            console.print(f"  {scenario.name}: {scenario.about} ...", end=" ")
            results.append(check_scenario(harness, scenario))
            console.print(f"{_word(results[-1])}, {results[-1].seconds:.0f} s")
    _show(results)
    if failed := [result for result in results if result.problems]:
        names = ", ".join(result.scenario.name for result in failed)
        raise LemaError(f"{len(failed)} of {len(results)} scenarios did not hold: {names}. Their runs lie in {place}")
    if folder is None:
        _remove(place)


def _show(results: "list[ScenarioResult]") -> None:
    from rich.table import Table

    table = Table(box=None, header_style="bold", padding=(0, 1))
    for column in ("scenario", "kills", "faults", "paid", "twice (at most)", "identical", "seconds", "result"):
        table.add_column(column, justify="left" if column in {"scenario", "result"} else "right")
    for result in results:
        table.add_row(
            result.scenario.name, str(result.kills), str(result.faults), str(result.paid),
            f"{result.paid_twice} ({result.allowed})", "yes" if result.identical else "no", f"{result.seconds:.0f}",
            _word(result),
        )  # fmt: skip
    console.print(table)
    for result in results:
        for problem in result.problems:
            console.print(f"{result.scenario.name}: {problem}", markup=False)


def _word(result: "ScenarioResult") -> str:
    return "[red]failed[/red]" if result.problems else "[green]held[/green]"


def _remove(place: Path) -> None:
    import shutil

    shutil.rmtree(place)


app = typer.Typer(pretty_exceptions_enable=False, add_completion=False)
app.command()(exit_on_error(chaos))

if __name__ == "__main__":
    keep_loopback_direct()
    app()
