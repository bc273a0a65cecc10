"""A run that was made, read back by its name: its tables for pandas, Arrow and ``datasets``, its figures, its cost."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from lema_core.artifacts import ArtifactRef, Store
from lema_core.artifacts.parquet import schema_of, table_of
from lema_core.errors import ConfigError
from lema_core.records import Correction, Example, JudgedPath, Question, Rejection
from lema_core.run.artifacts import QuestionRound, RunArtifacts
from lema_core.run.records import RunState, read_record, read_records
from lema_core.run.spec import RunContext, RunSpec

if TYPE_CHECKING:
    import datasets
    import pandas as pd

    from lema_core.report import ReportData


@dataclass(frozen=True, slots=True)
class ResultTable:
    """Rows of a run as one table. Iterate over it for dictionaries."""

    arrow: pa.Table

    def pandas(self) -> "pd.DataFrame":
        """Return the rows as a pandas data frame."""
        found: pd.DataFrame = self.arrow.to_pandas()
        return found

    def dataset(self) -> "datasets.Dataset":
        """Return the rows as a Hugging Face data set (extra: train).

        Raises:
            MissingDependencyError: ``datasets`` is not installed.
        """
        try:
            import datasets
        except ImportError:
            from lema_core.errors import MissingDependencyError
            from lema_core.system.packages import install_command

            raise MissingDependencyError(f"a data set needs `datasets`: run `{install_command('train')}`") from None
        return datasets.Dataset(self.arrow)

    def __len__(self) -> int:
        """Return the number of rows."""
        return int(self.arrow.num_rows)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Yield each row."""
        for batch in self.arrow.to_batches(max_chunksize=1_000):
            yield from batch.to_pylist()


class RunResults:
    """What a run has made so far. A table whose artifacts are missing has no rows; each is read on first use."""

    def __init__(self, spec: RunSpec, state: RunState, root: str) -> None:
        from lema_core.pipeline import Pipeline

        self.spec, self.state, self._root = spec, state, root
        self._pipeline = Pipeline(spec, root)
        for _ in self._pipeline.stages():
            pass  # the walk names the artifacts
        self.store: Store = self._pipeline.store
        self.artifacts: RunArtifacts = self._pipeline.artifacts

    @cached_property
    def questions(self) -> ResultTable:
        """The run's own questions, and those that were evolved, with ``round`` and ``evolution``."""
        return self._of_rounds(Question, lambda collected: [collected.questions])

    @cached_property
    def test_questions(self) -> ResultTable:
        """The held-out questions, with the name of their ``test_set``."""
        sets = self.artifacts.measured_on(self.spec.test_sets)
        return self._table(Question, [(one.questions, {"test_set": name}) for name, one in sets.items()])

    @cached_property
    def paths(self) -> ResultTable:
        """The students' reasoning paths with their verdicts, with ``round`` and ``evolution``."""
        return self._of_rounds(JudgedPath, lambda collected: collected.verdicts)

    @cached_property
    def corrections(self) -> ResultTable:
        """The accepted corrections, with ``round`` and ``evolution``."""
        return self._of_rounds(Correction, lambda collected: collected.corrections.values())

    @cached_property
    def rejections(self) -> ResultTable:
        """What was turned down, by ``stage`` and ``reason``, in every table of the run."""
        refs = dict.fromkeys(ref for ref in self.artifacts if self._is_table(ref))
        tables = [self._rejected(ref) for ref in refs]
        return ResultTable(pa.concat_tables([_empty(Rejection, ("stage",)), *tables]))

    @cached_property
    def examples(self) -> ResultTable:
        """The fine-tuning examples of each ``arm``."""
        return self._table(Example, [(ref, {"arm": arm}) for arm, ref in self.artifacts.mixtures.items()])

    @cached_property
    def evaluations(self) -> ResultTable:
        """The answer of each ``model`` (``base`` or an arm) to each question of each ``test_set``, with its verdict."""
        sets = self.artifacts.measured_on(self.spec.test_sets)
        refs = [
            (ref, {"model": model, "test_set": name})
            for name, one in sets.items()
            for model, ref in one.evaluations.items()
        ]
        return self._table(JudgedPath, refs)

    @cached_property
    def figures(self) -> "ReportData":
        """The figures of the report: funnel, accuracy with intervals, usage, cost.

        Raises:
            ArtifactError: a table of the run is still missing.
        """
        from lema_core.report.data import load_report_data
        from lema_core.run.plan import open_for_reading

        with open_for_reading(RunContext.of(self.spec, self._root).ledger) as ledger:
            return load_report_data(self.store, self.spec, self.artifacts.published(self.store), ledger)

    @property
    def report(self) -> str | None:
        """The path of the report's page; None where it is not made, or the run's figures have changed since."""
        from lema_core.stages.report import HTML

        ref = self._pipeline.report().ref
        return f"{self.store.folder(ref)}/{HTML}" if self.store.exists(ref) else None

    @property
    def cost(self) -> float:
        """US dollars that the run has paid by its ledger, failed attempts included."""
        from lema_core.run.plan import open_for_reading

        with open_for_reading(RunContext.of(self.spec, self._root).ledger) as ledger:
            return ledger.spent(self.spec.name)[0]

    def __repr__(self) -> str:
        """Return the name and the state."""
        return f"<run {self.spec.name}: {self.state}>"

    def _is_table(self, ref: ArtifactRef) -> bool:
        return self.store.exists(ref) and bool(self.store.manifest(ref).parts)

    def _of_rounds(self, record: type, refs_of: Callable[[QuestionRound], Iterable[ArtifactRef]]) -> ResultTable:
        found: list[tuple[ArtifactRef | None, Mapping[str, object]]] = [
            (ref, {"round": collected.round, "evolution": collected.evolution})
            for collected in self.artifacts.rounds
            for ref in refs_of(collected)
        ]
        return self._table(record, found)

    def _table(self, record: type, refs: Sequence[tuple[ArtifactRef | None, Mapping[str, object]]]) -> ResultTable:
        """Return the published ones of several artifacts as one table; the mapping has each one's further columns."""
        named = {name: type(value) for _, more in refs for name, value in more.items()}
        tables = [
            _with_columns(table_of(self.store.rows(ref, record), record), more)
            for ref, more in refs
            if ref is not None and self.store.exists(ref)
        ]
        return ResultTable(pa.concat_tables([_empty(record, tuple(named), tuple(named.values())), *tables]))

    def _rejected(self, ref: ArtifactRef) -> pa.Table:
        return _with_columns(table_of(self.store.rejections(ref), Rejection), {"stage": ref.stage})


def _with_columns(table: pa.Table, more: Mapping[str, object]) -> pa.Table:
    for name, value in more.items():
        table = table.append_column(name, pa.array([value] * table.num_rows, _TYPES[type(value)]))
    return table


_TYPES: Mapping[type, pa.DataType] = {str: pa.string(), int: pa.int64()}


def _empty(record: type, names: Sequence[str], kinds: Sequence[type] | None = None) -> pa.Table:
    schema = schema_of(record)
    for name, kind in zip(names, kinds or [str] * len(names), strict=True):
        schema = schema.append(pa.field(name, _TYPES[kind]))
    return schema.empty_table()


def load_run(name: str, root: str = ".lema") -> RunResults:
    """Return what a run has made.

    Sources are found as `lema run` found them: call it in the folder that the run was started in.

    Args:
        name: of the run, as its run file says.
        root: where its artifacts are, as ``--root`` of `lema run`.

    Raises:
        ConfigError: no such run was started under the root, or this version of LeMa does not take its spec.
        DataError: a source of its questions is missing.
    """
    record = read_record(root, name)
    if record is None:
        known = ", ".join(found.name for found in read_records(root)) or "none"
        raise ConfigError(f"no run {name!r} was started under {root}; there are: {known}. Give another name or root")
    return RunResults(record.spec, record.state, root)
