"""The table of a sweep: each arm's accuracy over items and seeds, and its paired difference to the reference.

Takes judged answers, gives figures. A seed is paired with the same seed of the reference; the untouched base model, in
which nothing is random, is paired with each.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from math import inf
from statistics import fmean

from lema_core.ablation.cells import CellResult
from lema_core.artifacts import ArtifactRef
from lema_core.errors import DataError
from lema_core.evaluation import statistics
from lema_core.evaluation.likelihood import LikelihoodRow, Solutions, compare_likelihoods
from lema_core.evaluation.statistics import (
    Estimate,
    Proportion,
    TestedDifference,
    accuracy_over_seeds,
    difference_over_seeds,
)
from lema_core.run.spec import BASE
from lema_core.training.lengths import TrainedOn, describe_lengths, mean_training

Runs = Sequence[Sequence[bool]]
"""Right or wrong, by seed and item."""
Pair = tuple[Sequence[bool], Sequence[bool]]
"""The reference's and the arm's run of one seed, right or wrong by item."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Contrast:
    """One row of the table against another, on the same items."""

    to: str
    """The other row's arm, or its setting."""
    difference: Estimate
    """Over items and seeds."""
    p_value: float
    """McNemar's exact p of one pair of runs; of several, that of the interval's t over items and seeds."""
    holm_p: float
    """The same, adjusted for all contrasts of the sweep."""
    won: int
    """Answers that only this row got right, over the seeds."""
    lost: int
    n: int
    runs: int
    """Pairs of runs that were compared."""
    family: int = 1
    """Comparisons that Holm's p is adjusted for; of one alone there is nothing to adjust."""
    lengths: str = ""
    """Whether both were trained equally long, in words; empty where one was not trained."""

    detectable: float
    """The smallest true difference found with 80 % power by as many seeds and questions as there are; inf for one seed,
    which says nothing of how far another one moves the models."""

    @property
    def shown(self) -> bool:
        """True where three seeds or more, their interval and the adjusted p say so: fewer compare models, not arms."""
        apart = self.difference.low > 0 or self.difference.high < 0
        return self.runs >= statistics.MIN_SEEDS and apart and self.holm_p < statistics.SIGNIFICANCE_LEVEL


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedComparison:
    """An arm against another one, seed by seed."""

    arm: str
    to: str
    accuracy: Contrast | None = None
    """None while no seed of both has been measured; ``holm_p`` is over the planned comparisons."""
    nats: TestedDifference | None = None
    """Of the negative log-likelihood of the gold solutions; below zero is better."""
    nats_holm_p: float = 1.0


def accuracy_of(runs: Runs) -> Estimate:
    """Return the mean accuracy of an arm's runs with its interval: over items, and over the seeds of several runs."""
    return accuracy_over_seeds(runs) if len(runs) > 1 else statistics.wilson(sum(runs[0]), len(runs[0]))


def contrast_of(to: str, pairs: Sequence[Pair], *, trained: bool) -> Contrast:
    """Compare runs seed by seed.

    Args:
        to: what the other row is called.
        pairs: (reference, arm) of each seed, right or wrong by item.
        trained: False for the untouched model, which is the same run in all pairs and which no seed moves.
    """
    each = [statistics.paired_difference(reference, arm) for reference, arm in pairs]
    won, lost, n = sum(pair.only_arm for pair in each), sum(pair.only_reference for pair in each), each[0].n
    difference: Estimate
    if len(pairs) == 1:
        difference, p_value, detectable = each[0], each[0].p_value, inf
    else:
        references, arms = zip(*pairs, strict=True)
        found = difference_over_seeds(references, arms if trained else arms[0])
        difference, p_value, detectable = found, found.p_value, found.detectable
    return Contrast(
        to=to, difference=difference, p_value=p_value, holm_p=p_value, detectable=detectable, won=won, lost=lost, n=n,
        runs=len(each),
    )  # fmt: skip


AnswersRight = Mapping[str, bool]
"""By question: whether the answer is right."""
Place = tuple[str, str, str]
"""Setting, base, arm."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One arm from one base model in one setting, over its seeds."""

    arm: str
    base: str
    setting: str
    seeds: tuple[int, ...]
    """Those that finished."""
    missing: int
    """Seeds that did not."""
    examples: int | None
    """It was trained on, or where nothing was trained, the rows of its mixture."""
    trained: TrainedOn | None = None
    """Mean over the seeds: steps and tokens; None where nothing was trained."""
    accuracy: Estimate | None
    per_seed: tuple[float, ...]
    by_level: Mapping[str, float]
    """Accuracy over the seeds by difficulty of the question."""
    strict: float | None = None
    """Share over the seeds that is right, with no step that states false arithmetic."""
    to_reference: Contrast | None = None
    to_first_setting: Contrast | None = None

    @property
    def place(self) -> Place:
        """Return what distinguishes the row from the others."""
        return self.setting, self.base, self.arm


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepTable:
    """The figures of a sweep."""

    reference: str
    n: int
    """Held-out questions; 0 where nothing was evaluated."""
    levels: Mapping[str, int]
    """Questions by difficulty; empty where there is one level or none."""
    rows: tuple[Row, ...]
    cells: tuple[CellResult, ...]
    scores: Mapping[str, Proportion]
    """Accuracy of each evaluated cell, by its name."""
    examples: Mapping[str, int]
    """Those that each cell was trained on, by its name; where nothing was trained, the rows of its mixture."""
    trained: Mapping[str, TrainedOn]
    """Steps and tokens of each trained cell, by its name."""
    left_out: Mapping[str, int]
    """Examples that a cell was not trained on, by its name: they were too long. Cells that lost none are not here."""
    test_set: str = ""
    """What the cells were asked."""
    planned: tuple[PlannedComparison, ...] = ()
    """Those that the run file names."""
    likelihoods: tuple[LikelihoodRow, ...] = ()
    """Of the gold solutions, by arm, base model and setting, where the run asks for them."""
    further: tuple["SweepTable", ...] = ()
    """The tables of the other test sets; p is adjusted for the comparisons of all tables."""

    @property
    def sets(self) -> tuple["SweepTable", ...]:
        """Return the tables of all test sets, this one first."""
        return self, *self.further

    def row(self, place: Place) -> Row | None:
        """Return the row of a setting, base and arm; None where these were not asked this test set."""
        return next((row for row in self.rows if row.place == place), None)

    @property
    def failed(self) -> tuple[CellResult, ...]:
        """Return the cells that failed, of every test set."""
        return tuple(result for result in self.all_cells if result.error)

    @property
    def all_cells(self) -> tuple[CellResult, ...]:
        """Return the cells of every test set, each once."""
        return tuple({result.cell.name: result for table in self.sets for result in table.cells}.values())

    @property
    def contrasts(self) -> tuple[Contrast, ...]:
        """Return every comparison of the table."""
        return tuple(c for row in self.rows for c in (row.to_reference, row.to_first_setting) if c)

    @property
    def pairs(self) -> frozenset[int]:
        """Return how many pairs of runs, one per seed, the comparisons of all test sets have."""
        return frozenset(contrast.runs for table in self.sets for contrast in table.contrasts)

    @property
    def settings(self) -> tuple[str, ...]:
        """Return the settings, in order."""
        return tuple(dict.fromkeys(row.setting for row in self.rows))

    @property
    def bases(self) -> tuple[str, ...]:
        """Return the base models, in order."""
        return tuple(dict.fromkeys(row.base for row in self.rows))


def compare(
    results: Sequence[CellResult],
    reference: str,
    right_of: Callable[[ArtifactRef], AnswersRight],
    examples_of: Callable[[CellResult], tuple[int, int] | None],
    level_of: Mapping[str, str | None],
    trained_of: Callable[[CellResult], TrainedOn | None] = lambda _: None,
    strict_of: Callable[[CellResult], float | None] = lambda _: None,
) -> SweepTable:
    """Return the table of a sweep on one test set.

    Args:
        results: of all cells, in the order of the table.
        reference: the arm that the others are compared with.
        right_of: reads an evaluation: by question, whether the answer is right.
        examples_of: reads how many examples a cell was trained on and how many were too long; None: has none.
        level_of: the difficulty of each question, where its source has one.
        trained_of: counts what a cell was trained on; None: nothing was trained.
        strict_of: the share of a cell's answers that are right without a false step; None: nothing was evaluated.

    Raises:
        DataError: two cells were not asked the same questions.
    """
    answers = {result.cell.name: right_of(result.evaluation) for result in results if result.evaluation}
    items = _same_items(answers)
    levels = _levels(items, level_of)
    right = {name: [table[item] for item in items] for name, table in answers.items()}
    sizes = {r.cell.name: found for r in results if (found := examples_of(r))}
    examples = {name: trained for name, (trained, _) in sizes.items()}
    trained = {r.cell.name: length for r in results if (length := trained_of(r))}
    groups = _groups(results)
    rows = {
        place: replace(
            _row(group, right, examples, levels),
            trained=_mean_length(group, trained),
            strict=fmean(shares) if (shares := [x for r in group if (x := strict_of(r)) is not None]) else None,
        )
        for place, group in groups.items()
    }
    compared = [_with_lengths(_compare_row(row, groups, reference, right), rows) for row in rows.values()]
    scores = {name: statistics.wilson(sum(values), len(values)) for name, values in right.items()}
    return SweepTable(
        reference=reference, n=len(items), rows=tuple(_adjust_p_values(compared)),
        cells=tuple(results), scores=scores, examples=examples, trained=trained,
        left_out={name: lost for name, (_, lost) in sizes.items() if lost},
        levels={level: len(numbers) for level, numbers in levels.items()},
    )  # fmt: skip


def _mean_length(group: Sequence[CellResult], trained: Mapping[str, TrainedOn]) -> TrainedOn | None:
    return mean_training([trained[result.cell.name] for result in group if result.cell.name in trained])


def _with_lengths(row: Row, rows: Mapping[Place, Row]) -> Row:
    """Return a row whose comparisons say whether both sides were trained equally long."""

    def labelled(contrast: Contrast | None, place: Place) -> Contrast | None:
        return contrast and replace(contrast, lengths=describe_lengths(row.trained, rows[place].trained))

    reference, first = row.to_reference, row.to_first_setting
    return replace(
        row,
        to_reference=labelled(reference, (row.setting, row.base, reference.to)) if reference else None,
        to_first_setting=labelled(first, (first.to, row.base, row.arm)) if first else None,
    )


def likelihoods_of(
    results: Sequence[CellResult], reference: str, test_set: str, read: Callable[[ArtifactRef], Solutions]
) -> tuple[LikelihoodRow, ...]:
    """Return the rows of the likelihoods on a test set, base by base and setting by setting.

    Raises:
        DataError: two cells have no scored solution in common.
    """
    found: dict[tuple[str, str], dict[str, dict[int | None, Solutions]]] = {}
    for result in results:
        if ref := result.likelihoods.get(test_set):
            cell = result.cell
            arms = found.setdefault((cell.setting, cell.base), {})
            arms.setdefault(cell.arm, {})[cell.seed] = read(ref)
    rows: list[LikelihoodRow] = []
    for (setting, base), arms in found.items():
        beside = ([base] if len({b for _, b in found}) > 1 else []) + (
            [setting] if len({s for s, _ in found}) > 1 else []
        )
        compared = compare_likelihoods(arms, reference)
        rows += [replace(row, name=", ".join([row.name, *beside])) for row in compared]
    return tuple(rows)


def _groups(results: Sequence[CellResult]) -> dict[Place, list[CellResult]]:
    groups: dict[Place, list[CellResult]] = {}
    for result in results:
        cell = result.cell
        groups.setdefault((cell.setting, cell.base, cell.arm), []).append(result)
    return groups


def _same_items(answers: Mapping[str, AnswersRight]) -> list[str]:
    items: set[str] = set()
    for name, table in answers.items():
        if items and items != table.keys():
            raise DataError(
                f"{name} was asked {len(table)} questions, of which {len(items & table.keys())} are among the "
                f"{len(items)} of the cells before it. A paired comparison needs the same ones: evaluate all cells on "
                "the same test questions."
            )
        items = set(table)
    return sorted(items)


def _levels(items: Sequence[str], level_of: Mapping[str, str | None]) -> dict[str, list[int]]:
    """Return which items have which level; nothing where all have the same."""
    found: dict[str, list[int]] = {}
    for number, item in enumerate(items):
        found.setdefault(level_of.get(item) or "", []).append(number)
    return dict(sorted(found.items())) if len(found) > 1 else {}


def _row(
    group: Sequence[CellResult],
    right: Mapping[str, list[bool]],
    examples: Mapping[str, int],
    levels: Mapping[str, list[int]],
) -> Row:
    first = group[0].cell
    runs = [right[result.cell.name] for result in group if result.cell.name in right]
    sizes = [examples[result.cell.name] for result in group if result.cell.name in examples]
    return Row(
        arm=first.arm,
        base=first.base,
        setting=first.setting,
        seeds=tuple(r.cell.seed for r in group if r.cell.seed is not None and not r.error),
        missing=sum(bool(result.error) for result in group),
        examples=sizes[0] if sizes else None,
        accuracy=accuracy_of(runs) if runs else None,
        per_seed=tuple(fmean(run) for run in runs),
        by_level={name: fmean(run[i] for run in runs for i in items) for name, items in levels.items()} if runs else {},
    )


def _compare_row(
    row: Row,
    groups: Mapping[Place, list[CellResult]],
    reference: str,
    right: Mapping[str, list[bool]],
) -> Row:
    here = (row.setting, row.base, row.arm)
    first = next(setting for setting, base, arm in groups if (base, arm) == (row.base, row.arm))

    def against(there: Place, called: str) -> Contrast | None:
        if there == here or there not in groups:
            return None
        pairs = list(_pairs(groups[here], groups[there], right))
        return contrast_of(called, pairs, trained=row.arm != BASE) if pairs else None

    return replace(
        row,
        to_reference=against((row.setting, row.base, reference), reference),
        to_first_setting=against((first, row.base, row.arm), first) if row.arm != BASE else None,
    )


def _pairs(
    group: Sequence[CellResult], other: Sequence[CellResult], right: Mapping[str, list[bool]]
) -> Iterator[tuple[list[bool], list[bool]]]:
    """Yield (reference, arm) of the same seed; a model is not compared with itself."""
    for result in group:
        for reference in other:
            seeds = result.cell.seed, reference.cell.seed
            names = result.cell.name, reference.cell.name
            same = seeds[0] == seeds[1] or None in seeds
            if same and all(name in right for name in names) and result.evaluation != reference.evaluation:
                yield right[names[1]], right[names[0]]


def together(tables: Sequence[SweepTable]) -> SweepTable:
    """Return the tables of a sweep's test sets as one: the first, with the others as its further ones.

    Every p is adjusted for all comparisons of all tables, since a reader looks at all.
    """
    rows = _adjust_p_values([row for table in tables for row in table.rows])
    first, *others = [replace(table, rows=tuple(islice(rows, len(table.rows)))) for table in tables]
    return replace(first, further=tuple(others))


def _adjust_p_values(rows: Sequence[Row]) -> Iterator[Row]:
    contrasts = [(row.to_reference, row.to_first_setting) for row in rows]
    values = {f"{i} {j}": c.p_value for i, pair in enumerate(contrasts) for j, c in enumerate(pair) if c}
    adjusted = statistics.adjust_by_holm(values)
    for i, row in enumerate(rows):
        first, second = (
            c and replace(c, holm_p=adjusted[f"{i} {j}"], family=len(adjusted)) for j, c in enumerate(contrasts[i])
        )
        yield replace(row, to_reference=first, to_first_setting=second)
