"""``lema plan``: what a run would make, ask for and cost, before anything is paid."""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flows.cli.console import console
from flows.cli.run import Root, Settings

if TYPE_CHECKING:
    from flows.planning import PlannedStage
    from lema_core.llm.forecast import Forecast, Interval


def plan(
    run_file: Annotated[Path, typer.Argument(metavar="RUN.toml", help="A run file, as in deployments/runs/.")],
    root: Root = ".lema",
    settings: Settings = None,
) -> None:
    """Show each artifact of a run as hit (there) or miss, and what the missing ones would ask for and cost.

    Nothing is sent and nothing is written. Where an input does not exist yet, the numbers are upper bounds. Intervals
    hold with 95 % where the ledger has earlier answers of the endpoint to go by; after the first shard they do.
    """
    from flows.forecasts import forecast_of, reading
    from flows.planning import Planner
    from lema_core.run_files import read_run_file

    planner = Planner(read_run_file(run_file, settings or ()), root)
    with reading(planner.runtime.ledger) as ledger:
        planned = [(stage, forecast_of(ledger, stage)) for stage in planner.stages()]
    _show_stages(planned)
    _show_totals([forecast for _, forecast in planned if forecast])


def _show_stages(planned: "list[tuple[PlannedStage, Forecast | None]]") -> None:
    from rich.table import Table

    table = Table(box=None, header_style="bold", padding=(0, 1))
    for column in ("stage", "artifact", "", "rows", "endpoint"):
        table.add_column(column, no_wrap=column != "stage")
    for column in ("ask", "in", "out", "$"):
        table.add_column(column, justify="right", no_wrap=True)
    for stage, forecast in planned:
        there = "[green]hit[/green]" if stage.there else "[yellow]miss[/yellow]"
        bound = "" if stage.there else "≤"
        rows = "?" if stage.rows is None else f"{bound}{stage.rows}"
        table.add_row(stage.name, stage.ref.fingerprint[:8], there, rows, *(_asks(stage, forecast) if forecast else ()))
    console.print(table)


def _asks(stage: "PlannedStage", forecast: "Forecast") -> list[str]:
    name = stage.endpoint.name if stage.endpoint else ""
    dollars = f"{forecast.dollars.likely:,.2f}" if forecast.dollars else ""
    tokens = [_short(forecast.prompt_tokens.likely), _short(forecast.completion_tokens.likely)]
    return [name, str(forecast.to_buy), *tokens, dollars]


def _short(number: float) -> str:
    """Return a count as people say it: 1.2M, 62k, 840."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            scaled = number / size
            return f"{scaled:.1f}{letter}" if scaled < 10 else f"{scaled:.0f}{letter}"
    return f"{number:.0f}"


def _between(interval: "Interval") -> str:
    return f"{_short(interval.likely)} ({_short(interval.low)} to {_short(interval.high)})"


def _show_totals(forecasts: "list[Forecast]") -> None:
    if not forecasts:
        console.print("Nothing to ask for: everything that needs a model is there.")
        return
    requests, held = sum(f.to_buy for f in forecasts), sum(f.held for f in forecasts)
    console.print(f"At most {requests} requests; the ledger holds {held} more that are asked for.")
    tokens_in, tokens_out = (_sum(f.prompt_tokens for f in forecasts), _sum(f.completion_tokens for f in forecasts))
    console.print(f"Tokens in: {_between(tokens_in)}. Tokens out: {_between(tokens_out)}.")
    priced = [forecast.dollars for forecast in forecasts if forecast.dollars]
    if priced:
        total = _sum(priced)
        console.print(
            f"Dollars, at endpoints with a price: {total.likely:,.2f} ({total.low:,.2f} to {total.high:,.2f})."
        )
    for basis in dict.fromkeys((f.prompt_basis, f.output_basis) for f in forecasts):
        console.print(f"  Prompts: {basis[0]}; answers: {basis[1]}.", style="dim")


def _sum(intervals: "Iterable[Interval]") -> "Interval":
    first, *others = intervals
    for other in others:
        first = first + other
    return first
