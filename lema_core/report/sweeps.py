"""The results of an ablation sweep: its page, the Markdown twin, the table in a terminal, and two tables as Arrow."""

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import isfinite
from statistics import fmean

import pyarrow as pa
from markupsafe import Markup
from rich.console import Console
from rich.table import Table

from lema_core.ablation.cells import OWN
from lema_core.ablation.comparison import Contrast, PlannedComparison, Row, SweepTable
from lema_core.evaluation.statistics import MIN_SEEDS
from lema_core.report import prose
from lema_core.report.render import collapse_blank_lines, template_environment
from lema_core.run.spec import BASE
from lema_core.training.lengths import TrainedOn

__all__ = [
    "cells_table",
    "format_detectable",
    "render_sweep_html",
    "render_sweep_markdown",
    "row_label",
    "rows_table",
    "summarize_sweep",
]


def render_sweep_html(title: str, table: SweepTable) -> str:
    """Return one HTML page that needs nothing else."""
    from lema_core.report import figures

    names = dict.fromkeys(row.arm for of_set in table.sets for row in of_set.rows)
    colours = figures.arm_colours(list(names), BASE if BASE in names else None)
    shown = [(row_label(row, table), row) for row in table.rows if row.accuracy]
    # Our own SVG: names in it were escaped by matplotlib.
    plot = Markup(figures.sweep_figure(shown, colours)) if shown else ""  # noqa: S704
    view = _view(title, table) | {"colours": colours, "plot": plot}
    return template_environment().get_template("sweep.html.j2").render(**view)


def render_sweep_markdown(title: str, table: SweepTable) -> str:
    """Return the same figures as GitHub-flavoured Markdown, without the plot."""
    return collapse_blank_lines(template_environment().get_template("sweep.md.j2").render(**_view(title, table)))


def _view(title: str, table: SweepTable) -> dict[str, object]:
    return {
        "title": title,
        "table": table,
        "label": lambda row: row_label(row, table),
        "smallest": format_detectable,
        "holm": _is_adjusted(table),
        "headline": summarize_sweep(table),
        "caveats": list(_caveats(table)),
        "planned": [
            (f": {of_set.test_set}" if table.further else "", of_set.planned, _seeds_needed(of_set.planned))
            for of_set in table.sets
            if of_set.planned
        ],
        "likelihoods": [
            (
                f": {of_set.test_set}" if table.further else "",
                of_set.likelihoods,
                table.reference,
                prose.describe_likelihoods(of_set.likelihoods),
            )
            for of_set in table.sets
            if of_set.likelihoods
        ],
        "several_settings": any(len(of_set.settings) > 1 for of_set in table.sets),
        "columns": list(_columns(table)) if table.further else [],
        "accuracies": [
            (
                f"{result.cell.name}, {of_set.test_set}" if table.further else result.cell.name,
                of_set.scores[result.cell.name],
            )
            for of_set in table.sets
            for result in of_set.cells
            if result.cell.name in of_set.scores
        ],
    }


def _seeds_needed(planned: Sequence[PlannedComparison]) -> str:
    """Return what the number of seeds allows to say."""
    seeds = max((pair.accuracy.runs for pair in planned if pair.accuracy), default=0)
    if seeds < MIN_SEEDS:
        return f"Seeds of both arms: {seeds}; fewer than {MIN_SEEDS} speak of models, not of arms."
    return f"{seeds} seeds, paired; intervals are over questions and seeds."


@dataclass(frozen=True, slots=True)
class SetColumns:
    """A row of the table with a column per test set."""

    label: str
    cells: tuple[Row | None, ...]
    """The row on each test set; None where it was not asked."""
    average: float | None
    """The mean over the sets that the row was asked, each counted alike; None for one set."""
    difference: float | None
    """To the reference, likewise."""


def _columns(table: SweepTable) -> Iterator[SetColumns]:
    """Yield the rows of all test sets, a column each (the form of the paper's Table 1)."""
    bases = len({row.base for of_set in table.sets for row in of_set.rows}) > 1
    settings = len({row.setting for of_set in table.sets for row in of_set.rows}) > 1
    for place in dict.fromkeys(row.place for of_set in table.sets for row in of_set.rows):
        rows = tuple(of_set.row(place) for of_set in table.sets)
        setting, base, arm = place
        found = [row for row in rows if row and row.accuracy]
        accuracies = [row.accuracy.value for row in found if row.accuracy]
        compared = [row.to_reference.difference.value for row in found if row.to_reference]
        several = len(found) > 1
        yield SetColumns(
            label=", ".join(filter(None, (arm, base if bases else "", setting if settings and setting != OWN else ""))),
            cells=rows,
            average=fmean(accuracies) if several else None,
            difference=fmean(compared) if several and len(compared) == len(found) else None,
        )


def row_label(row: Row, table: SweepTable) -> str:
    """Return what a row is called: its base model and its setting only where there are several."""
    parts = [row.arm]
    parts += [row.base] if len(table.bases) > 1 else []
    parts += [row.setting] if len(table.settings) > 1 and row.setting != OWN else []
    return ", ".join(parts)


def format_detectable(contrast: Contrast) -> str:
    """Return the smallest detectable difference in points; a dash where there are too few disagreements."""
    return f"{100 * contrast.detectable:.1f}" if isfinite(contrast.detectable) else "–"


def summarize_sweep(table: SweepTable) -> str:
    """Return the result in one sentence per test set: lema against the reference, else the largest difference."""
    if table.further:
        return " ".join(f"{of_set.test_set}: {summarize_sweep(replace(of_set, further=()))}" for of_set in table.sets)
    compared = [(row, row.to_reference) for row in table.rows if row.to_reference and row.arm != BASE]
    if not compared:
        evaluated = f", on {prose.format_count(table.n)} held-out questions" if table.n else ""
        return f"{len(table.rows)} arms{evaluated}: nothing to compare with {table.reference}."
    main = [comparison for comparison in compared if comparison[0].arm == "lema"]
    row, contrast = main[0] if main else max(compared, key=lambda comparison: abs(comparison[1].difference.value))
    distance = f"{100 * abs(contrast.difference.value):.1f} points"
    reach = prose.format_interval(contrast.difference, contrast.n, signed=True)
    side = "above" if contrast.difference.value >= 0 else "below"
    moved = f"{row_label(row, table)} is {distance} {side} {contrast.to} ({reach})"
    moved += f", {contrast.lengths}" if contrast.lengths else ""
    clause = f"the interval leaves zero out, {prose.p_clause(contrast.holm_p, contrast.family)}"
    if contrast.shown:
        return f"{moved}: {clause}."
    if contrast.runs < MIN_SEEDS and (contrast.difference.low > 0 or contrast.difference.high < 0):
        seeds = "one seed" if contrast.runs == 1 else "two seeds"
        return (
            f"{moved} with {seeds}: {clause}. That holds for these models; three seeds or more are needed to say it of "
            "the arms."
        )
    return f"{moved}: a difference that this sweep cannot tell from chance."


def _caveats(table: SweepTable) -> Iterator[str]:
    if any(runs > 1 for runs in table.pairs):
        yield (
            "Intervals of several seeds are over questions and seeds: where the truth may lie, had other questions "
            "been asked and the models been trained with other seeds. A comparison is paired seed by seed, and "
            "learns from its own pairs alone how far a seed moves it."
        )
    if 2 in table.pairs:
        yield (
            "Two seeds say little about how far a seed moves a model: in simulation such an interval holds the truth "
            "in 85 to 97 % of studies, not in 95 %. Three seeds or more are needed to call a difference shown."
        )
    if 1 in table.pairs:
        yield "Of one seed the intervals hold for these very models, not for what another seed would have given."
    for of_set in table.sets:
        where = f"{of_set.test_set}: " if table.further else ""
        detectable = max((c.detectable for c in of_set.contrasts if isfinite(c.detectable)), default=0.0)
        if detectable:
            yield (
                f"{where}With {prose.format_count(of_set.n)} questions and the seeds that each comparison has, a true "
                f"difference of {100 * detectable:.1f} points is found four times in five; smaller ones are mostly "
                "missed."
            )
    if comparisons := sum(len(of_set.contrasts) for of_set in table.sets):
        tests = {True: "McNemar's, exact, of one seed", False: "of the same t test as the interval of several seeds"}
        test = "; ".join(tests[kind] for kind in sorted({runs == 1 for runs in table.pairs}))
        of_sets = "s of all test sets" if table.further else ""
        holm = f" Holm p: adjusted for all {comparisons} comparisons of the table{of_sets}." if comparisons > 1 else ""
        yield f"p: {test}.{holm}"
    if table.further:
        yield (
            "The average counts each test set that the row was asked alike. It has no interval: a training seed moves "
            "all test sets together, which the tables of single sets do not show."
        )
    if table.left_out:
        lost = "; ".join(f"{name}: {prose.format_count(number)}" for name, number in table.left_out.items())
        yield (
            "Examples longer than training.max_length (or empty) were left out, so that arms of matched sizes are no "
            f"longer of one size: {lost}."
        )
    if any(row.missing for row in table.rows):
        yield "Rows with failed cells are over the seeds that finished."


def cells_table(table: SweepTable) -> pa.Table:
    """Return one row per cell: its coordinates, figures and artifacts, and the error of a failed one."""
    return pa.Table.from_pylist(list(_cells(table)), schema=_CELLS)


LENGTHS = tuple((name, pa.int64()) for name in ("steps", "target_tokens", "input_tokens"))


def _lengths(trained: TrainedOn | None) -> dict[str, int | None]:
    return {name: getattr(trained, name) if trained else None for name, _ in LENGTHS}


_CELLS = pa.schema(
    [
        ("arm", pa.string()), ("seed", pa.int64()), ("base", pa.string()), ("setting", pa.string()),
        ("test_set", pa.string()), ("examples", pa.int64()), *LENGTHS, ("questions", pa.int64()), ("right", pa.int64()),
        ("accuracy", pa.float64()),
        ("low", pa.float64()), ("high", pa.float64()), ("mixture", pa.string()), ("model", pa.string()),
        ("evaluation", pa.string()), ("error", pa.string()),
    ]
)  # fmt: skip


def _cells(table: SweepTable) -> Iterator[dict[str, object]]:
    for of_set, result in [(asked, result) for asked in table.sets for result in asked.cells]:
        cell, score = result.cell, of_set.scores.get(result.cell.name)
        artifacts = {"mixture": result.mixture, "model": result.model, "evaluation": result.evaluation}
        yield {
            "arm": cell.arm, "seed": cell.seed, "base": cell.base, "setting": cell.setting,
            "test_set": of_set.test_set, "examples": of_set.examples.get(cell.name),
            **_lengths(of_set.trained.get(cell.name)),
            "questions": score and score.n, "right": score and round(score.successes),
            "accuracy": score and score.value, "low": score and score.low, "high": score and score.high,
            **{name: ref and ref.fingerprint for name, ref in artifacts.items()},
            "error": result.error or None,
        }  # fmt: skip


def rows_table(table: SweepTable) -> pa.Table:
    """Return one row per arm, base model and setting: accuracy and differences with intervals, as fractions."""
    return pa.Table.from_pylist(list(_rows(table)), schema=_ROWS)


_CONTRAST = ("difference", "low", "high", "won", "lost", "p_value", "holm_p", "detectable")
_ROWS = pa.schema(
    [
        ("arm", pa.string()), ("base", pa.string()), ("setting", pa.string()), ("seeds", pa.list_(pa.int64())),
        ("test_set", pa.string()), ("failed", pa.int64()), ("examples", pa.int64()), *LENGTHS,
        ("questions", pa.int64()), ("accuracy", pa.float64()),
        ("strict", pa.float64()),
        ("accuracy_low", pa.float64()), ("accuracy_high", pa.float64()), ("per_seed", pa.list_(pa.float64())),
        *(
            (f"{prefix}{name}", pa.int64() if name in {"won", "lost"} else pa.float64())
            for prefix in ("", "setting_")
            for name in _CONTRAST
        ),
    ]
)  # fmt: skip


def _rows(table: SweepTable) -> Iterator[dict[str, object]]:
    for of_set, row in [(asked, row) for asked in table.sets for row in asked.rows]:
        accuracy = row.accuracy
        yield {
            "arm": row.arm, "base": row.base, "setting": row.setting, "seeds": list(row.seeds), "failed": row.missing,
            "test_set": of_set.test_set, "examples": row.examples, "questions": of_set.n,
            **_lengths(row.trained),
            "accuracy": accuracy and accuracy.value,
            "strict": row.strict,
            "accuracy_low": accuracy and accuracy.low, "accuracy_high": accuracy and accuracy.high,
            "per_seed": list(row.per_seed),
            **_figures("", row.to_reference), **_figures("setting_", row.to_first_setting),
        }  # fmt: skip


def _figures(prefix: str, contrast: Contrast | None) -> dict[str, object]:
    if contrast is None:
        return {}
    d = contrast.difference
    values = (
        d.value, d.low, d.high, contrast.won, contrast.lost, contrast.p_value, contrast.holm_p, contrast.detectable,
    )  # fmt: skip
    return {f"{prefix}{name}": value for name, value in zip(_CONTRAST, values, strict=True)}


FIGURES = ("accuracy", "95 % interval", "no false step", "difference", "95 % interval", "p", "Holm p", "smallest seen")


def _is_adjusted(table: SweepTable) -> bool:
    """Return whether there are several comparisons: of one alone there is no Holm's p."""
    return any(contrast.family > 1 for of_set in table.sets for contrast in of_set.contrasts)


TRAINED = ("steps", "targets", "inputs")
"""Of a trained arm in a terminal, where a longer heading would be broken: target and input tokens."""


def terminal_tables(table: SweepTable) -> list[Table]:
    """Return a table per test set, and with several sets one that has a column for each."""
    tables = [terminal_table(of_set, named=bool(table.further)) for of_set in table.sets]
    return [*tables, _set_columns(table)] if table.further and any(of_set.n for of_set in table.sets) else tables


def _set_columns(table: SweepTable) -> Table:
    title = f"Accuracy by test set; in parentheses the difference to {table.reference}"
    shown = Table(title=title, header_style="bold", box=None, padding=(0, 2))
    for column in ("arm", *(f"{of_set.test_set} ({of_set.n})" for of_set in table.sets), "average"):
        shown.add_column(column, justify="left" if column == "arm" else "right")
    for line in _columns(table):
        cells = [_with_difference(row, of_set.n) for row, of_set in zip(line.cells, table.sets, strict=True)]
        n = sum(of_set.n for of_set in table.sets)
        average = prose.format_percent(line.average, n) if line.average is not None else ""
        moved = f" ({prose.format_points(line.difference, n)})" if line.difference is not None else ""
        shown.add_row(line.label, *cells, average + moved)
    return shown


def _with_difference(row: Row | None, n: int) -> str:
    if row is None or row.accuracy is None:
        return ""
    moved = f" ({prose.format_points(row.to_reference.difference.value, n)})" if row.to_reference else ""
    return prose.format_percent(row.accuracy.value, n) + moved


def terminal_table(table: SweepTable, *, named: bool = False) -> Table:
    """Return the rows of a sweep on its first test set; without an evaluation, only their sizes."""
    held_out = f"{table.test_set} ({table.n} questions)" if named else f"{table.n} held-out questions"
    title = f"Accuracy on {held_out}; differences to {table.reference}" if table.n else None
    shown = Table(title=title, header_style="bold", box=None, padding=(0, 2))
    trained = TRAINED if any(row.trained for row in table.rows) else ()
    figures = [name for name in FIGURES if table.n and (name != "Holm p" or _is_adjusted(table))]
    for column in ("arm", "seeds", "examples", *trained, *figures):
        shown.add_column(column, justify="left" if column == "arm" else "right")
    for row in table.rows:
        seeds = str(len(row.seeds) or "") + (f" ({row.missing} failed)" if row.missing else "")
        cells = [row_label(row, table), seeds, "" if row.examples is None else str(row.examples)]
        cells += [f"{n:,}" if n is not None else "" for n in _lengths(row.trained).values()] if trained else []
        if row.accuracy:
            cells += [prose.format_percent(row.accuracy.value, table.n), prose.format_interval(row.accuracy, table.n)]
            cells += ["" if row.strict is None else prose.format_percent(row.strict, table.n)]
        if row.accuracy and (contrast := row.to_reference):
            cells += [
                prose.format_points(contrast.difference.value, contrast.n),
                prose.format_interval(contrast.difference, contrast.n, signed=True),
                prose.format_p_value(contrast.p_value),
                *([prose.format_p_value(contrast.holm_p)] if "Holm p" in figures else ()),
                format_detectable(contrast),
            ]
        shown.add_row(*cells)
    return shown


def sweep_text(table: SweepTable) -> str:
    """Return the table as plain text."""
    console = Console(file=io.StringIO(), width=200, color_system=None, highlight=False)
    with console.capture() as captured:
        for of_set in terminal_tables(table):
            console.print(of_set)
    return captured.get().rstrip()
