"""The table of a sweep: an HTML page, its Markdown twin, CSV and Parquet (paper, section 4.2)."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from statistics import fmean

import pyarrow as pa
import pyarrow.csv

from lema_core.ablation.cells import CellResult, reference_of, sweep_of
from lema_core.ablation.comparison import SweepTable, compare, likelihoods_of, together
from lema_core.ablation.planned import compare_planned
from lema_core.artifacts import ArtifactRef, Identity, Store
from lema_core.artifacts.files import atomic_file
from lema_core.artifacts.parquet import write_table
from lema_core.records import JudgedPath
from lema_core.reference_corrector.sound_paths import is_strictly_right
from lema_core.report.sweeps import cells_table, render_sweep_html, render_sweep_markdown, rows_table, summarize_sweep
from lema_core.run.spec import RunSpec
from lema_core.stages.likelihood import read_likelihoods
from lema_core.stages.report import HTML, MARKDOWN
from lema_core.stages.stage import FileContext, FileStage
from lema_core.stages.training import read_trained_on
from lema_core.training.lengths import TrainedOn

TABLES = {"cells": cells_table, "arms": rows_table}


@dataclass(frozen=True)
class Ablation(FileStage):
    """The figures of a sweep."""

    name = "ablation"
    revision = 5
    exclusive = False

    run: RunSpec
    results: Sequence[CellResult]

    @cached_property
    def identity(self) -> Identity:
        """What became of each cell, under its name."""
        named = {
            "title": self.title_of_page,
            "reference": reference_of(self.run),
            **({"planned": planned} if (planned := sweep_of(self.run).planned) else {}),
            "cells": {result.cell.name: result.error or _answers(result) for result in self.results},
        }
        made = [
            ref
            for cell in self.results
            for ref in (
                cell.mixture,
                cell.model,
                cell.evaluation,
                *cell.evaluations.values(),
                *cell.likelihoods.values(),
            )
            if ref
        ]
        return self._identity(named, dict.fromkeys(made))

    @property
    def title_of_page(self) -> str:
        """The run's title, else its name."""
        return self.run.title or self.run.name

    def table(self, store: Store) -> SweepTable:
        """Return the figures, read from the evaluations and mixtures: a table per test set."""
        sets = dict.fromkeys(name for result in self.results for name in result.cell.run.test_sets)
        return together([self._table_of(store, name) for name in sets] or [self._table_of(store, "")])

    def _table_of(self, store: Store, test_set: str) -> SweepTable:
        """Return the figures on a test set of the cells that are asked it."""
        asked = [
            replace(result, evaluation=result.evaluations.get(test_set, result.evaluation if alone else None))
            for result in self.results
            if ((alone := len(result.cell.run.test_sets) < 2) and not test_set) or test_set in result.cell.run.test_sets
        ]
        levels: dict[str, str | None] = {}  # filled while the evaluations are read
        strict: dict[ArtifactRef, float] = {}

        def right_of(ref: ArtifactRef) -> dict[str, bool]:
            rows = list(store.rows(ref, JudgedPath))
            levels.update((row.question_id, row.level) for row in rows)
            strict[ref] = fmean(map(is_strictly_right, rows))
            return {row.question_id: row.verdict == "right" for row in rows}

        def trained_of(result: CellResult) -> TrainedOn | None:
            return read_trained_on(store, result.model, result.tokens)

        def strict_of(result: CellResult) -> float | None:
            return strict.get(result.evaluation) if result.evaluation else None

        reference, examples_of = reference_of(self.run), partial(_examples, store)
        table = compare(asked, reference, right_of, examples_of, levels, trained_of, strict_of)
        scored = likelihoods_of(asked, reference, test_set, partial(read_likelihoods, store))
        planned = compare_planned(
            asked, sweep_of(self.run).planned, test_set, right_of, partial(read_likelihoods, store)
        )
        return replace(table, test_set=test_set, likelihoods=scored, planned=planned)

    def markdown(self, table: SweepTable) -> str:
        """Return the page as Markdown."""
        return render_sweep_markdown(self.title_of_page, table)

    async def make(self, context: FileContext) -> str:
        """Write the page, its twin and both tables."""
        return await asyncio.to_thread(self._write, context.store)

    def _write(self, store: Store) -> str:
        started, folder, table = time.monotonic(), store.folder(self.ref), self.table(store)
        pages = {HTML: render_sweep_html(self.title_of_page, table), MARKDOWN: self.markdown(table)}
        for name, text in pages.items():
            with atomic_file(store.fs, f"{folder}/{name}") as local:
                local.write_text(text, encoding="utf-8")
        files = [*pages, *(file for name, of in TABLES.items() for file in _tables(store, folder, name, of(table)))]
        self.publish(store, files, started)
        return f"{summarize_sweep(table)} {folder}/{HTML}"


def _answers(result: CellResult) -> str | dict[str, str] | None:
    """Return what names a cell's answers: a fingerprint, or of several test sets one each."""
    if len(result.evaluations) > 1:
        return {name: ref.fingerprint for name, ref in result.evaluations.items()}
    return result.evaluation.fingerprint if result.evaluation else None


def _examples(store: Store, result: CellResult) -> tuple[int, int] | None:
    """Return a cell's examples and those left out as too long; before it is trained all of its mixture."""
    if result.tokens:
        found = store.manifest(result.tokens).extra
        return int(found["examples"]), int(found["rejected"])
    return (store.manifest(result.mixture).rows_out, 0) if result.mixture else None


def _tables(store: Store, folder: str, name: str, rows: pa.Table) -> list[str]:
    with atomic_file(store.fs, f"{folder}/{name}.parquet") as local:
        write_table(rows, local)
    for place, field in enumerate(rows.schema):
        # CSV has no lists: they become words.
        if pa.types.is_list(field.type):
            words = [None if value is None else " ".join(map(str, value)) for value in rows[field.name].to_pylist()]
            rows = rows.set_column(place, field.name, pa.array(words, pa.string()))
    with atomic_file(store.fs, f"{folder}/{name}.csv") as local:
        pyarrow.csv.write_csv(rows, Path(local))
    return [f"{name}.parquet", f"{name}.csv"]
