"""What the Prefect UI shows beside task runs: tables of figures, links to pages, and Markdown.

What only shows something never fails a stage that was paid for: see `best_effort`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from prefect.artifacts import acreate_link_artifact, acreate_markdown_artifact, acreate_table_artifact
from prefect.logging import get_run_logger

from lema_core.ablation.comparison import SweepTable
from lema_core.artifacts import Manifest, Store
from lema_core.artifacts.parquet import read_batches
from lema_core.evaluation.checkpoint_selection import CheckpointScore
from lema_core.report.data import load_test_sets
from lema_core.report.prose import format_percent
from lema_core.report.sweeps import rows_table, summarize_sweep
from lema_core.run.artifacts import RunArtifacts
from lema_core.run.spec import RunSpec
from lema_core.stages.ablation import Ablation
from lema_core.stages.report import HTML, MARKDOWN, Report
from tasks.progress import artifact_key, best_effort

TABLE_ROWS = 500
"""Of a longer training the table has every second, third, ... step; the Parquet file has all."""


def counts_of(manifest: Manifest) -> str:
    """Return an artifact's size in words."""
    if manifest.files:
        return f"{len(manifest.files)} files"
    return f"{manifest.rows_in} in, {manifest.rows_out} out, {manifest.rejected} rejected"


@best_effort
async def show_published(manifest: Manifest) -> None:
    """Show a stage's figures: a log line, and a table of what came in, went out and was rejected why."""
    get_run_logger().info("%s %s: %s", manifest.stage, manifest.fingerprint, counts_of(manifest))
    rows = [
        {"what": "rows in", "number": manifest.rows_in},
        {"what": "rows out", "number": manifest.rows_out},
        *({"what": f"rejected: {reason}", "number": count} for reason, count in manifest.reasons.items()),
        *({"what": name, "number": count} for name, count in manifest.counts.items()),
    ]
    await acreate_table_artifact(
        table=rows, key=artifact_key(manifest.stage), description=f"{manifest.stage} {manifest.fingerprint}"
    )


@best_effort
async def show_losses(arm: str, metrics: Path, links: Mapping[str, str]) -> None:
    """Show every step's figures as a table, and a link beside it for each tracker that has a page."""
    key, about = artifact_key("losses", arm), f"training of the arm {arm}"
    rows: list[dict[str, Any]] = [row for batch in read_batches(metrics) for row in batch.to_pylist()]
    await acreate_table_artifact(table=rows[:: -(-len(rows) // TABLE_ROWS)], key=key, description=about)
    for tracker, link in links.items():
        key = artifact_key(tracker, arm)
        await acreate_link_artifact(link=link, link_text=f"{tracker}: {arm}", key=key, description=about)


@best_effort
async def show_selection(arm: str, scores: Sequence[CheckpointScore]) -> None:
    """Show the table that a checkpoint was chosen by."""
    await acreate_table_artifact(
        table=[asdict(score) for score in scores],
        key=artifact_key("selection", arm),
        description=(
            f"checkpoints of the arm {arm}: chosen on held-out training questions. Columns of the test set, where "
            "there are any, are the paper's protocol: the best of them leaks and decides nothing."
        ),
    )


@best_effort
async def show_report(store: Store, stage: Report) -> None:
    """Show a run's report: the link, and the Markdown."""
    page, text = (f"{store.folder(stage.ref)}/{name}" for name in (HTML, MARKDOWN))
    run = stage.run
    await acreate_link_artifact(link=store.fs.address(page), key="report-page", link_text=f"{run.name}: report")
    markdown = store.fs.cat_file(text).decode("utf-8")
    await acreate_markdown_artifact(markdown=markdown, key="report", description=run.title or run.name)


@best_effort
async def show_early_end(run: RunSpec, page: str, markdown: str) -> None:
    """Show the page of a run that ended early: the link, and the Markdown."""
    await acreate_link_artifact(link=page, key="report-page", link_text=f"{run.name}: why it ended")
    await acreate_markdown_artifact(markdown=markdown, key="report", description=run.title or run.name)


async def show_sweep(store: Store, stage: Ablation, table: SweepTable) -> None:
    """Show a sweep's figures as a link, as Markdown and as a table."""
    link, said = store.fs.address(f"{store.folder(stage.ref)}/{HTML}"), summarize_sweep(table)
    await acreate_link_artifact(link=link, key="ablation-page", link_text=f"{stage.run.name}: ablation")
    await acreate_markdown_artifact(markdown=stage.markdown(table), key="ablation-report", description=said)
    await acreate_table_artifact(table=rows_table(table).to_pylist(), key="ablation", description=said)


async def show_scores(store: Store, run: RunSpec, artifacts: RunArtifacts) -> str:
    """Show the accuracy of every evaluated model as a table, a column per test set; return it as one line."""
    figures, overall = load_test_sets(store, run, artifacts)
    if not figures:
        return "nothing was evaluated"
    columns = {measured.name if overall else "accuracy": measured for measured in figures}
    rows = dict[str, dict[str, str]]()
    for column, measured in columns.items():
        for score in measured.evaluation.scores:
            shown = format_percent(score.accuracy.value, measured.evaluation.n)
            rows.setdefault(score.name, {"model": score.name})[column] = shown
    if overall:
        for averaged in overall.scores:
            rows[averaged.name]["average"] = format_percent(averaged.accuracy.value, overall.n)
    sizes = ", ".join(f"{m.name}: {m.evaluation.n}" if overall else f"{m.evaluation.n}" for m in figures)
    await acreate_table_artifact(table=list(rows.values()), key="scores", description=f"{sizes} held-out questions")
    return "; ".join(
        (f"{column}: " if overall else "") + ", ".join(f"{name} {row[column]}" for name, row in rows.items())
        for column in columns
    )
