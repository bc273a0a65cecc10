"""``lema runs``: what was run under a root, its state, cost, accuracy and report."""

from typing import TYPE_CHECKING, Any

from flows.cli.console import console, print_json
from flows.cli.run import AsJson, Root

if TYPE_CHECKING:
    from lema_core.run.records import RunRecord


def runs(root: Root = ".lema", as_json: AsJson = False) -> None:
    """List what was run here, the newest first: state, cost, accuracy of each model, and the report's place.

    The cost is what the ledger has booked for the run. Accuracy and report are shown where the run's sources are still
    what they were.
    """
    from lema_core.run.records import read_records

    found = [_describe(record, root) for record in read_records(root)]
    if as_json:
        print_json(found)
        return
    if not found:
        console.print(f"nothing was run under {root}; lema init mine writes a run file", markup=False)
        return
    from rich.table import Table

    from lema_core.llm.costs.prices import money

    table = Table("run", "state", "updated", "cost", "accuracy", "report", box=None, header_style="bold")
    for run in found:
        scores = ", ".join(f"{name} {value:.0%}" for name, value in run["accuracy"].items())
        updated = run["updated"][:16].replace("T", " ")
        state = run["state"] + (f": {run['note'][:60]}" if run["note"] else "")
        table.add_row(run["name"], state, updated, money(run["cost"]), scores or "–", run["report"] or "–")
    console.print(table)


def _describe(record: "RunRecord", root: str) -> dict[str, Any]:
    from lema_core.errors import LemaError
    from lema_core.report.data import load_test_sets
    from lema_core.run.results import RunResults

    state = record.state if record.state != "running" or record.running(root) else "killed"
    found: dict[str, Any] = {
        "name": record.name, "state": state, "updated": record.updated, "note": record.error, "cost": None,
        "accuracy": {}, "report": None,
    }  # fmt: skip
    try:
        run = RunResults(record.spec, record.state, root)
        found["cost"] = run.cost
        artifacts = run.artifacts.published(run.store)
        sets, _ = load_test_sets(run.store, run.spec, artifacts) if artifacts.evaluations else ((), None)
        found["accuracy"] = {
            score.name: score.accuracy.value for first in sets[:1] for score in first.evaluation.scores
        }
        found["report"] = run.report
    except LemaError as error:
        # A source that moved must not hide the other runs.
        found["note"] = found["note"] or str(error)
    return found
