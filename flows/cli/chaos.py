"""``lema chaos``: what becomes of a run when everything around it goes wrong."""

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flows.cli.console import console
from flows.cli.run import Settings

if TYPE_CHECKING:
    from flows.chaos import Verdict


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

    Exit code 1 if a scenario did not hold. docs/chaos.md tells how to read the table.

    Example: lema chaos deployments/runs/smoke.toml --quick
    """
    from flows.chaos import Arena, chosen, judged
    from flows.local_stack.server import ensure_server
    from lema_core.errors import LemaError
    from lema_core.run.files import read_run_file

    run, scenarios = read_run_file(run_file, settings or ()), chosen(only or (), quick=quick)
    place = folder or Path(tempfile.mkdtemp(prefix="lema-chaos-"))
    ensure_server()
    verdicts = []
    with Arena.open(run, place.resolve(), with_training=with_training) as arena:
        for scenario in scenarios:
            console.print(f"  {scenario.name}: {scenario.about} ...", end=" ")
            verdicts.append(judged(arena, scenario))
            console.print(f"{_word(verdicts[-1])}, {verdicts[-1].seconds:.0f} s")
    _show(verdicts)
    if failed := [verdict for verdict in verdicts if verdict.problems]:
        names = ", ".join(verdict.scenario.name for verdict in failed)
        raise LemaError(f"{len(failed)} of {len(verdicts)} scenarios did not hold: {names}. Their runs lie in {place}")
    if folder is None:
        _remove(place)


def _show(verdicts: "list[Verdict]") -> None:
    from rich.table import Table

    table = Table(box=None, header_style="bold", padding=(0, 1))
    for column in ("scenario", "kills", "faults", "paid", "twice (at most)", "identical", "seconds", "verdict"):
        table.add_column(column, justify="left" if column in {"scenario", "verdict"} else "right")
    for one in verdicts:
        table.add_row(
            one.scenario.name, str(one.kills), str(one.faults), str(one.paid), f"{one.paid_twice} ({one.allowed})",
            "yes" if one.identical else "no", f"{one.seconds:.0f}",
            _word(one),
        )  # fmt: skip
    console.print(table)
    for one in verdicts:
        for problem in one.problems:
            console.print(f"{one.scenario.name}: {problem}", markup=False)


def _word(verdict: "Verdict") -> str:
    return "[red]failed[/red]" if verdict.problems else "[green]held[/green]"


def _remove(place: Path) -> None:
    import shutil

    shutil.rmtree(place)
