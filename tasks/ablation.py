"""The table of a sweep: an HTML page, its Markdown twin, CSV and Parquet, and the same figures as Prefect artifacts."""

import asyncio
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.csv
from prefect.artifacts import acreate_link_artifact, acreate_markdown_artifact, acreate_table_artifact
from prefect.client.schemas.objects import State
from prefect.states import Completed

from lema_core import identities
from lema_core.ablation.cells import CellResult, reference_of
from lema_core.ablation.comparison import SweepTable, compare
from lema_core.artifacts import ArtifactRef, Store
from lema_core.artifacts.files import atomic_file
from lema_core.artifacts.parquet import write_table
from lema_core.records import JudgedPath
from lema_core.report.sweeps import cells_table, render_sweep_html, render_sweep_markdown, rows_table, summarize_sweep
from lema_core.run.spec import RunSpec, Runtime
from tasks.boundary import task
from tasks.run_stage import SHARD_TASK, Stage, published

HTML, MARKDOWN = "report.html", "report.md"
TABLES = {"cells": cells_table, "arms": rows_table}


def table_of(store: Store, run: RunSpec, results: Sequence[CellResult]) -> SweepTable:
    """Return the figures of a sweep, read from its evaluations and mixtures."""
    levels: dict[str, str | None] = {}  # filled while the evaluations are read

    def right_of(ref: ArtifactRef) -> dict[str, bool]:
        rows = list(store.rows(ref, JudgedPath))
        levels.update((row.question_id, row.level) for row in rows)
        return {row.question_id: row.verdict == "right" for row in rows}

    return compare(results, reference_of(run), right_of, partial(_examples, store), levels)


def _examples(store: Store, result: CellResult) -> tuple[int, int] | None:
    """Return a cell's examples and those left out as too long; before it is trained all of its mixture."""
    if result.tokens:
        found = store.manifest(result.tokens).extra
        return int(found["examples"]), int(found["rejected"])
    return (store.manifest(result.mixture).rows_out, 0) if result.mixture else None


@task(name="ablation", task_run_name="ablation", **SHARD_TASK)
async def write_tables(runtime: Runtime, title: str, table: SweepTable, stage: Stage) -> State[None]:
    """Write the page, its twin and both tables."""
    return await asyncio.to_thread(_write, Store(runtime.root), title, table, stage)


def _write(store: Store, title: str, table: SweepTable, stage: Stage) -> State[None]:
    started, folder = time.monotonic(), store.folder(stage.ref)
    pages = {HTML: render_sweep_html(title, table), MARKDOWN: render_sweep_markdown(title, table)}
    for name, text in pages.items():
        with atomic_file(store.fs, f"{folder}/{name}") as local:
            local.write_text(text, encoding="utf-8")
    files = [*pages, *(file for name, of in TABLES.items() for file in _tables(store, folder, name, of(table)))]
    store.publish_files(stage.identity, files, seconds=time.monotonic() - started)
    return Completed(message=f"{summarize_sweep(table)} {folder}/{HTML}")


def _tables(store: Store, folder: str, name: str, rows: pa.Table) -> list[str]:
    with atomic_file(store.fs, f"{folder}/{name}.parquet") as local:
        write_table(rows, local)
    with atomic_file(store.fs, f"{folder}/{name}.csv") as local:
        pyarrow.csv.write_csv(_flat(rows), Path(local))
    return [f"{name}.parquet", f"{name}.csv"]


def _flat(rows: pa.Table) -> pa.Table:
    """Return the table with lists as words: CSV has no lists."""
    for place, field in enumerate(rows.schema):
        if pa.types.is_list(field.type):
            words = [None if value is None else " ".join(map(str, value)) for value in rows[field.name].to_pylist()]
            rows = rows.set_column(place, field.name, pa.array(words, pa.string()))
    return rows


async def ablation(runtime: Runtime, run: RunSpec, results: Sequence[CellResult]) -> tuple[ArtifactRef, SweepTable]:
    """Return the artifact of a sweep's figures and these, shown in Prefect as a link, as Markdown and as a table."""
    store, title = Store(runtime.root), run.title or run.name
    stage = Stage(identities.ablation(run, results), rows=0)
    table = await asyncio.to_thread(table_of, store, run, results)
    if not await published(runtime, stage):
        await write_tables(runtime, title, table, stage)
    page = f"{store.folder(stage.ref)}/{HTML}"
    link = store.fs.address(page)
    await acreate_link_artifact(link=link, key="ablation-page", link_text=f"{run.name}: ablation")
    text = render_sweep_markdown(title, table)
    await acreate_markdown_artifact(markdown=text, key="ablation-report", description=summarize_sweep(table))
    await acreate_table_artifact(
        table=rows_table(table).to_pylist(), key="ablation", description=summarize_sweep(table)
    )
    return stage.ref, table
