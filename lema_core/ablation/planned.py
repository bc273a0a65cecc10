"""The comparisons that a sweep's run file names before it runs: their p are adjusted for one another and no others.

All other differences of a sweep are exploratory: its table adjusts them for everything that it shows.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

from lema_core.ablation.cells import CellResult
from lema_core.ablation.comparison import AnswersRight, PlannedComparison, contrast_of
from lema_core.artifacts import ArtifactRef
from lema_core.evaluation.likelihood import BySeed, Solutions, compare_likelihoods
from lema_core.evaluation.statistics import adjust_by_holm

Pairs = Sequence[tuple[str, str]]


def compare_planned(
    results: Sequence[CellResult],
    planned: Pairs,
    test_set: str,
    right_of: Callable[[ArtifactRef], AnswersRight],
    read: Callable[[ArtifactRef], Solutions],
) -> tuple[PlannedComparison, ...]:
    """Return the planned comparisons, in the run file's order, of each base model and setting.

    Args:
        results: of the cells that were asked the test set.
        planned: (arm, the arm that it is compared with).
        test_set: whose likelihoods are read.
        right_of: reads an evaluation: by question, whether the answer is right.
        read: reads the likelihoods of a cell.
    """
    places = dict.fromkeys((result.cell.setting, result.cell.base) for result in results)
    found = [_compare(pair, _at(results, place), test_set, right_of, read) for place in places for pair in planned]
    accuracy = adjust_by_holm({str(n): one.accuracy.p_value for n, one in enumerate(found) if one.accuracy})
    nats = adjust_by_holm({str(n): one.nats.p_value for n, one in enumerate(found) if one.nats})
    return tuple(
        replace(
            one,
            accuracy=one.accuracy and replace(one.accuracy, holm_p=accuracy[str(n)]),
            nats_holm_p=nats.get(str(n), 1.0),
        )
        for n, one in enumerate(found)
    )


def _at(results: Sequence[CellResult], place: tuple[str, str]) -> dict[str, dict[int | None, CellResult]]:
    """Return the cells of a setting and base model, by arm and seed."""
    cells: dict[str, dict[int | None, CellResult]] = {}
    for result in results:
        if (result.cell.setting, result.cell.base) == place:
            cells.setdefault(result.cell.arm, {})[result.cell.seed] = result
    return cells


def _compare(
    pair: tuple[str, str],
    cells: Mapping[str, Mapping[int | None, CellResult]],
    test_set: str,
    right_of: Callable[[ArtifactRef], AnswersRight],
    read: Callable[[ArtifactRef], Solutions],
) -> PlannedComparison:
    arm, to = pair
    seeds = [seed for seed in cells.get(arm, {}) if seed in cells.get(to, {})]
    both = [(cells[to][seed], cells[arm][seed]) for seed in seeds]
    answered = [(one.evaluation, other.evaluation) for one, other in both if one.evaluation and other.evaluation]
    runs = list(_paired([(right_of(one), right_of(other)) for one, other in answered]))
    scored: dict[str, BySeed] = {
        name: {
            seed: read(cells[name][seed].likelihoods[test_set])
            for seed in seeds
            if all(test_set in cells[side][seed].likelihoods for side in pair)
        }
        for name in (to, arm)
    }
    nats = compare_likelihoods(scored, to)[1].difference if scored[arm] else None
    accuracy = contrast_of(to, runs, trained=True) if runs else None
    return PlannedComparison(arm=arm, to=to, accuracy=accuracy, nats=nats)


def _paired(tables: Sequence[tuple[AnswersRight, AnswersRight]]) -> Iterator[tuple[list[bool], list[bool]]]:
    for one, other in tables:
        items = sorted(one.keys() & other.keys())
        yield [one[item] for item in items], [other[item] for item in items]
