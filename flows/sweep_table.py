"""The table of a sweep for a terminal, and as plain text for the message of a sweep that did not finish."""

import io

from rich.console import Console
from rich.table import Table

from lema_core.ablation.comparison import Row, SweepTable
from lema_core.ablation.contrasts import Contrast
from lema_core.report.prose import interval, p_value, percent, points
from lema_core.report.sweeps import label_of, smallest_seen

FIGURES = ("accuracy", "95 % interval", "difference", "95 % interval", "p", "Holm p", "smallest seen")


def sweep_table(table: SweepTable) -> Table:
    """Return the rows of a sweep; without an evaluation, only their sizes."""
    title = f"Accuracy on {table.n} held-out questions; differences to {table.reference}" if table.n else None
    shown = Table(title=title, header_style="bold", box=None, padding=(0, 2))
    for column in ("arm", "seeds", "examples", *(FIGURES if table.n else ())):
        shown.add_column(column, justify="left" if column == "arm" else "right")
    for row in table.rows:
        shown.add_row(*_cells(row, table))
    return shown


def _cells(row: Row, table: SweepTable) -> list[str]:
    seeds = str(len(row.seeds) or "") + (f" ({row.missing} failed)" if row.missing else "")
    cells = [label_of(row, table), seeds, "" if row.examples is None else str(row.examples)]
    if row.accuracy:
        cells += [percent(row.accuracy.value, table.n), interval(row.accuracy, table.n)]
        cells += _compared(row.to_reference) if row.to_reference else []
    return cells


def _compared(contrast: Contrast) -> list[str]:
    difference, n = contrast.difference, contrast.n
    tests = [p_value(contrast.p_value), p_value(contrast.holm_p)]
    return [points(difference.value, n), interval(difference, n, signed=True), *tests, smallest_seen(contrast)]


def as_text(table: SweepTable) -> str:
    """Return the table as plain text."""
    console = Console(file=io.StringIO(), width=160, color_system=None, highlight=False)
    with console.capture() as captured:
        console.print(sweep_table(table))
    return captured.get().rstrip()
