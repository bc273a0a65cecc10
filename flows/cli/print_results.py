"""What a finished run prints: the funnel, the table of arms, and where the report is."""

from collections import Counter

from rich.console import Console
from rich.table import Table

from flows.ablation import Sweep
from flows.sweep_table import sweep_table
from lema_core.artifacts import Store
from lema_core.evaluation.accuracy import Evaluation
from lema_core.report.load import evaluation_of, funnel_of
from lema_core.report.prose import interval, p_value, percent, points
from lema_core.report.sweeps import headline_of
from lema_core.run.artifacts import Lineage
from lema_core.run.failed_requests import failures_of
from lema_core.run.spec import RunSpec, Runtime
from tasks.report import HTML


def show(console: Console, run: RunSpec, root: str, made: Lineage, seconds: float) -> None:
    """Print the figures of a run and the report's place."""
    store = Store(Runtime.of(run, root).root)
    if funnel := funnel_of(store, run, made):
        console.print(
            f"{funnel.questions} questions, {funnel.paths} reasoning paths, {funnel.mistakes} mistakes, "
            f"{funnel.accepted} accepted corrections"
        )
    if evaluation := evaluation_of(store, made):
        console.print(_table(evaluation))
    if failed := failed_requests(store, made):
        reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(failed.items()))
        console.print(
            f"{failed.total()} requests failed ({reasons}): rejected rows, in an evaluation not right. To ask for them "
            f"again: lema resume {run.name}{'' if root == '.lema' else f' --root {root}'} --remake-failed",
            markup=False,
        )
    if made.report:
        console.print(f"Report: {store.folder(made.report)}/{HTML}")
    console.print(f"Done in {seconds:.0f} s")


def failed_requests(store: Store, made: Lineage) -> Counter[str]:
    """Return how many requests of a run got no answer, by reason: as rejected rows they are in its artifacts."""
    return sum((failures_of(store.manifest(ref)) for ref in dict.fromkeys(made)), Counter[str]())


def show_sweep(console: Console, run: RunSpec, root: str, swept: Sweep, seconds: float) -> None:
    """Print the table of a sweep and the report's place."""
    console.print(sweep_table(swept.table))
    console.print(headline_of(swept.table))
    console.print(f"Report: {Store(Runtime.of(run, root).root).folder(swept.report)}/{HTML}")
    console.print(f"Done in {seconds:.0f} s")


def _table(evaluation: Evaluation) -> Table:
    table = Table(title=f"Accuracy on {evaluation.n} held-out questions", header_style="bold", box=None, padding=(0, 2))
    columns = ("model", "accuracy", "95 % interval", "difference to base", "95 % interval", "McNemar p")
    for column in columns if evaluation.base else columns[:3]:
        table.add_column(column, justify="left" if column == "model" else "right")
    for score in evaluation.scores:
        cells = [score.name, percent(score.accuracy.value, evaluation.n), interval(score.accuracy, evaluation.n)]
        compared = evaluation.comparison(score.name, evaluation.base)
        if compared:
            difference = compared.difference
            cells += [points(difference.value, evaluation.n), interval(difference, evaluation.n, signed=True)]
            cells.append(p_value(difference.p_value))
        table.add_row(*cells)
    return table
