"""What ``lema evaluate`` prints: the accuracy, the vote, the levels, and the difference to another evaluation."""

from collections import Counter

from rich.console import Console
from rich.table import Table

from flows.measuring import Measured, asked_for
from lema_core.artifacts import ArtifactRef, Store
from lema_core.errors import ConfigError
from lema_core.evaluation import statistics
from lema_core.evaluation.accuracy import Evaluation, evaluate
from lema_core.evaluation.votes import vote_scores
from lema_core.records import JudgedPath
from lema_core.report.prose import interval, p_value, percent, points
from lema_core.run.failed_requests import failures_of
from lema_core.run.spec import RunSpec, Runtime

OTHER = "the other"


def reference_of(run: RunSpec, root: str, name: str) -> ArtifactRef:
    """Return the published evaluation that a folder or the beginning of a fingerprint names.

    Raises:
        ConfigError: there is none, or several begin like that.
    """
    store, wanted = Store(Runtime.of(run, root).root), name.rstrip("/").rpartition("/")[2]
    there = [one.fingerprint for one in store.manifests() if one.stage == "evaluation"]
    found = [fingerprint for fingerprint in there if fingerprint.startswith(wanted)]
    if len(found) != 1:
        known = ", ".join(fingerprint[:12] for fingerprint in there) or "none"
        raise ConfigError(f"--against {name}: {len(found)} evaluations under {root} are called so; there are {known}")
    return ArtifactRef("evaluation", found[0])


def show(console: Console, run: RunSpec, root: str, measured: Measured, other: ArtifactRef | None) -> None:
    """Print one model's figures, and those against ``other``.

    Raises:
        DataError: the other evaluation asked other questions.
    """
    source, _, name = asked_for(run)
    store, model = Store(Runtime.of(run, root).root), run.endpoints[name].model
    rows = store.rows(measured.greedy, JudgedPath)
    found = evaluate(store.rows(other, JudgedPath), {model: rows}, OTHER) if other else evaluate(rows, {}, model)
    console.print(f"{model} on {found.n} questions ({source.task})", markup=False)
    score, n = found.score(model), found.n
    tally = ", ".join(f"{count} {verdict}" for verdict, count in score.verdicts.items())
    console.print(f"  pass@1  {percent(score.accuracy.value, n)} ({interval(score.accuracy, n)})   {tally}")
    _say_what_failed(console, store, measured)
    if measured.votes:
        (vote,) = vote_scores({model: store.rows(measured.votes, JudgedPath)}, base=model)
        console.print(f"  maj@{vote.k}   {percent(vote.accuracy.value, n)} ({interval(vote.accuracy, n)})")
    if found.levels:
        console.print(_levels(found, model))
    if other:
        _compare(console, found, store, measured.greedy, other)
    console.print(f"Answers: {store.folder(measured.greedy)}", markup=False)
    if measured.votes:
        console.print(f"Sampled answers: {store.folder(measured.votes)}", markup=False)


def _say_what_failed(console: Console, store: Store, measured: Measured) -> None:
    """Print how many requests failed: the figures count them as not right."""
    failed = sum((failures_of(store.manifest(ref)) for ref in (measured.greedy, measured.votes) if ref), Counter[str]())
    if failed:
        reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(failed.items()))
        console.print(
            f"  {failed.total()} requests failed ({reasons}) and count as not right; ask for them again with "
            "--remake-failed",
            markup=False,
        )


def _levels(found: Evaluation, model: str) -> Table:
    table = Table(box=None, header_style="bold", padding=(0, 2))
    for column in ("difficulty", "questions", "right", "95 % interval"):
        table.add_column(column, justify="left" if column == "difficulty" else "right")
    for level in found.levels:
        if level.arm == model:
            a = level.accuracy
            table.add_row(level.level, str(a.n), percent(a.value, a.n), interval(a, a.n))
    return table


def _compare(console: Console, found: Evaluation, store: Store, one: ArtifactRef, other: ArtifactRef) -> None:
    (comparison,), n = found.comparisons, found.n
    difference, before = comparison.difference, found.score(OTHER).accuracy
    right = [{row.question_id: row.verdict == "right" for row in store.rows(ref, JudgedPath)} for ref in (other, one)]
    items = sorted(right[0])
    boot = statistics.paired_bootstrap([right[0][i] for i in items], [right[1][i] for i in items])
    console.print(f"Against {other.fingerprint[:12]}, which has {percent(before.value, n)} ({interval(before, n)}):")
    console.print(
        f"  {points(difference.value, n)} points ({interval(difference, n, signed=True)} by Tango's score, "
        f"{interval(boot, n, signed=True)} by paired bootstrap); {difference.only_arm} questions won, "
        f"{difference.only_reference} lost; McNemar p {p_value(difference.p_value)}"
    )
    if not comparison.shown:
        reach = (
            f"{n} questions show a true difference of {100 * found.detectable:.0f} points four times in five"
            if found.detectable < 1
            else "Too few questions are answered differently to say what difference would be seen"
        )
        console.print(f"  This test cannot tell them apart. {reach}.")
