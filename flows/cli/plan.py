"""``lema plan`` and ``lema options``: a run before anything is paid, its artifacts, requests and cost; its options."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flows.cli.console import console, notices_on_stderr, print_json
from flows.cli.run import AsJson, Root, RunFile, Settings
from lema_core.system import stopping

if TYPE_CHECKING:
    from lema_core.llm.costs.forecast import Forecast, Interval
    from lema_core.run.plan import PlannedStage
    from lema_core.run.sent import SentRequest
    from lema_core.run.spec import RunContext

if TYPE_CHECKING:
    from lema_core.run.files import OptionSection


def plan(
    run_file: RunFile,
    root: Root = ".lema",
    settings: Settings = None,
    mfu: Annotated[
        float, typer.Option(min=0.01, max=1, help="Share of the devices' peak (launch.peak_tflops) training reaches.")
    ] = 0.4,
    pilot: Annotated[
        int, typer.Option(min=0, help="First buy N requests per endpoint, to forecast from their answers.")
    ] = 0,
    as_json: AsJson = False,
) -> None:
    """Show each artifact of a run as hit (there) or miss, and what the missing ones would ask for and cost.

    Of a run file with [ablation] all cells of the sweep are shown, and what they share once.

    Nothing is sent and nothing is written, unless --pilot N says so: that pays for N requests of each endpoint that
    can be asked already, within the run's budget; the ledger keeps them and the run does not pay for them again. Where
    an input does not exist yet, the numbers are upper bounds. Prompt tokens are exact where the model's tokenizer is
    on this machine. Intervals hold with 95 % where the ledger has earlier answers of the endpoint to go by. A training
    run that is missing is estimated: memory a device by DeepSpeed's formulas, steps, tokens, hours.
    """
    from flows.preflight import check_own_tasks, check_templates
    from lema_core.ablation.cells import cell_runs
    from lema_core.run.files import read_run_file
    from lema_core.run.needs import describe_missing, missing_extras
    from lema_core.run.own_tasks import describe_own_tasks
    from lema_core.run.plan import forecast_stage, open_for_reading, planned_stages, requests_sent
    from lema_core.run.sent import base_prompt_difference
    from lema_core.run.spec import RunContext

    spec = read_run_file(run_file, settings or ())
    check_templates(spec)
    with notices_on_stderr() if as_json else nullcontext():
        for line in describe_own_tasks(spec):
            console.print(line, markup=False, highlight=False)
        stopping.run(check_own_tasks(spec))
        context, stages = RunContext.of(spec, root), list(planned_stages(spec, root))
        if pilot:
            stopping.run(_buy_pilots(context, stages, pilot))
    with open_for_reading(context.ledger) as ledger:
        planned = [(stage, forecast_stage(ledger, stage)) for stage in stages]
        spent = ledger.spent(context.run)
        sent = requests_sent(ledger, stages)
    if as_json:
        extras = missing_extras(spec, stages)
        print_json(_as_document(spec.name, planned, spent, mfu) | {"missing_packages": extras})
        return
    _show_stages(planned)
    _show_sent(sent)
    for note in dict.fromkeys(filter(None, map(base_prompt_difference, cell_runs(spec) if spec.ablation else [spec]))):
        console.print(note, markup=False, highlight=False)
    _show_prefixes(stages)
    _show_totals([forecast for _, forecast in planned if forecast])
    _show_budget(context, *spent)
    for stage in stages:
        if stage.estimate:
            console.print(f"{stage.name}: {stage.estimate(mfu)}")
    if extras := missing_extras(spec, stages):
        console.print(describe_missing(extras), style="yellow", markup=False)


def _as_document(
    name: str, planned: "Sequence[tuple[PlannedStage, Forecast | None]]", spent: tuple[float, int], mfu: float
) -> dict[str, Any]:
    """Return a plan for other programs; tokens and dollars as low, likely and high."""
    stages = [
        {
            "name": stage.name,
            "artifact": stage.ref.folder,
            "published": stage.there,
            "rows": stage.rows,
            "endpoint": stage.endpoint.name if stage.endpoint else None,
            "requests_at_most": stage.requests,
            "forecast": asdict(forecast) | {"to_send": forecast.to_send} if forecast else None,
            "training": stage.estimate(mfu) if stage.estimate else None,
        }
        for stage, forecast in planned
    ]
    forecasts = [forecast for _, forecast in planned if forecast]
    priced = [forecast.dollars for forecast in forecasts if forecast.dollars]
    totals = {
        "to_send": sum(forecast.to_send for forecast in forecasts),
        "in_ledger": sum(forecast.stored for forecast in forecasts),
        "dollars": asdict(_sum(priced)) if priced else None,
    }
    return {"run": name, "stages": stages, "totals": totals, "spent": {"dollars": spent[0], "tokens": spent[1]}}


def _show_prefixes(stages: "Sequence[PlannedStage]") -> None:
    """Print how much of each stage's prompts an endpoint's prefix cache can hold."""
    from lema_core.run.plan import common_prefix_share

    shares = {stage.name: common_prefix_share(stage.asked()) for stage in stages if stage.asked and stage.requests}
    found = [f"{name} {share:.0%}" for name, share in shares.items() if share is not None]
    if found:
        console.print(f"The same beginning in all prompts, for prefix caches: {', '.join(found)}.", markup=False)


async def _buy_pilots(context: "RunContext", stages: "Sequence[PlannedStage]", size: int) -> None:
    from lema_core.llm.costs.prices import money
    from lema_core.run.plan import run_pilots, select_pilot_stages

    chosen = select_pilot_stages(stages)
    if not chosen:
        console.print("Pilot: nothing can be asked now; nothing was bought.")
        return
    names = ", ".join(f"{stage.name} of {stage.endpoint.name}" for stage in chosen if stage.endpoint)
    console.print(f"Pilot: up to {size} requests each for {names}. They are paid, and kept in the ledger.")
    async for pilot in run_pilots(context, chosen, size):
        cost = "" if pilot.dollars is None else f", {money(pilot.dollars)}"
        console.print(
            f"Pilot: {pilot.stage.name}: {pilot.answered} answered, {pilot.failed} failed; "
            f"{pilot.bought} bought now{cost}."
        )


def _show_stages(planned: "list[tuple[PlannedStage, Forecast | None]]") -> None:
    from rich.table import Table

    table = Table(box=None, header_style="bold", padding=(0, 1))
    for column in ("stage", "artifact", "", "rows", "endpoint"):
        table.add_column(column, no_wrap=column != "stage")
    for column in ("ask", "in", "", "out", "cost"):
        table.add_column(column, justify="right" if column else "left", no_wrap=True)
    for stage, forecast in planned:
        there = "[green]hit[/green]" if stage.there else "[yellow]miss[/yellow]"
        bound = "" if stage.there else "≤"
        rows = "?" if stage.rows is None else f"{bound}{stage.rows}"
        table.add_row(stage.name, stage.ref.fingerprint[:8], there, rows, *(_asks(stage, forecast) if forecast else ()))
    console.print(table)


def _show_sent(sent: "Sequence[SentRequest]") -> None:
    """Print the fields that each endpoint gets, what a rule changed and why, and models that are switched off."""
    from lema_core.llm.costs.shutdowns import shutdown_warning

    if sent:
        console.print("What is sent (beside model and messages):", style="bold")
    for request in sent:
        for line in request.lines():
            console.print(f"  {line}", markup=False, highlight=False)
    for warning in dict.fromkeys(shutdown_warning(request.endpoint) for request in sent):
        if warning:
            console.print(warning, style="yellow", markup=False)


def _asks(stage: "PlannedStage", forecast: "Forecast") -> list[str]:
    from lema_core.llm.costs.prices import money

    name = stage.endpoint.name if stage.endpoint else ""
    dollars = money(forecast.dollars.likely) if forecast.dollars else ""
    counted = "exact" if forecast.prompts_counted else "estimated"
    tokens = [_short(forecast.prompt_tokens.likely), counted, _short(forecast.completion_tokens.likely)]
    return [name, str(forecast.to_send), *tokens, dollars]


def _short(number: float) -> str:
    """Return a count in short form: 1.2M, 62k, 840."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            scaled = number / size
            return f"{scaled:.1f}{letter}" if scaled < 10 else f"{scaled:.0f}{letter}"
    return f"{number:.0f}"


def _between(interval: "Interval") -> str:
    return f"{_short(interval.likely)} ({_short(interval.low)} to {_short(interval.high)})"


def _show_totals(forecasts: "list[Forecast]") -> None:
    from lema_core.llm.costs.prices import money

    if not forecasts:
        console.print("Nothing to ask for: everything that needs a model is there.")
        return
    requests, held = sum(f.to_send for f in forecasts), sum(f.stored for f in forecasts)
    console.print(f"At most {requests} requests; the ledger holds {held} more that are asked for.")
    tokens_in, tokens_out = (_sum(f.prompt_tokens for f in forecasts), _sum(f.completion_tokens for f in forecasts))
    console.print(f"Tokens in: {_between(tokens_in)}. Tokens out: {_between(tokens_out)}.")
    priced = [forecast.dollars for forecast in forecasts if forecast.dollars]
    if priced:
        total = _sum(priced)
        console.print(
            f"Cost, at endpoints with a price: {money(total.likely)} ({money(total.low)} to {money(total.high)})."
        )
    for basis in dict.fromkeys((f.prompt_basis, f.output_basis) for f in forecasts):
        console.print(f"  Prompts: {basis[0]}; answers: {basis[1]}.", style="dim")


def _show_budget(context: "RunContext", dollars: float, tokens: int) -> None:
    """Print what the budget has counted: it is kept by the run's name, and a top-up has another name."""
    from lema_core.llm.costs.prices import money

    limits = []
    if context.budget.usd is not None:
        limits.append(f"{money(dollars)} of {money(context.budget.usd)}")
    if context.budget.tokens is not None:
        limits.append(f"{tokens:,} of {context.budget.tokens:,} tokens")
    if limits:
        console.print(
            f"Budget of the run {context.run}: {' and '.join(limits)} spent so far. It counts by the run's name: the "
            f"nightly top-up (deployment corrections) runs as {context.run}-corrections and may spend as much again.",
            markup=False,
        )


def _sum(intervals: "Iterable[Interval]") -> "Interval":
    first, *others = intervals
    for other in others:
        first = first + other
    return first


def options(
    section: Annotated[str, typer.Argument(metavar="SECTION", help="As training, or training.adapter.")] = "",
    markdown: Annotated[bool, typer.Option("--markdown", help="All of it as one page: docs/run_file.md.")] = False,
) -> None:
    """Show the sections of a run file, or the options of one: type, default and what it does.

    Example: lema options corrections
    """
    from rich.table import Table

    from lema_core.errors import ConfigError
    from lema_core.run.files import run_options

    known = run_options()
    if markdown:
        typer.echo("\n".join(_page(known)))
        return
    if section and section not in known:
        raise ConfigError(f"there is no section {section!r}; there are {', '.join(filter(None, known))}")
    table = Table(*(("option", "type", "default", "what it does") if section else ("section", "what it is")))
    if section:
        one = known[section]
        console.print(_about_section(one), markup=False)
        for option in one.options:
            table.add_row(option.name, option.kind, option.default, option.about)
    else:
        for known_section in known.values():
            table.add_row(known_section.title or "(before the first section)", _about_section(known_section))
    console.print(table, markup=False)


def _about_section(section: "OptionSection") -> str:
    return f"{section.about} Its options are those of {section.like}." if section.like else section.about


def _page(known: "dict[str, OptionSection]") -> Iterator[str]:
    yield "# The run file"
    yield ""
    yield "Every section and option, by `lema options --markdown`; `lema options SECTION` shows one in a terminal."
    yield "`needed` options have no default; `none` as a default means that nothing is set."
    for section in known.values():
        yield f"\n## {_cell(section.title) or 'Before the first section'}\n\n{_about_section(section)}"
        if section.options:
            yield "\n| option | type | default | what it does |\n|---|---|---|---|"
        for option in section.options:
            cells = (f"`{option.name}`", option.kind, f"`{option.default}`" if option.default else "", option.about)
            yield f"| {' | '.join(map(_cell, cells))} |"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<name>", "NAME")
