"""Likelihoods of gold solutions compared: nats per target token, paired by question and seed.

Lower is better: a difference below zero says that the arm finds the gold solutions likelier than the reference does.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf, sqrt
from statistics import fmean, stdev

from lema_core.errors import DataError
from lema_core.evaluation.statistics import (
    CONFIDENCE,
    SIGNIFICANCE_LEVEL,
    TestedDifference,
    difference_over_seeds,
)

Solutions = Mapping[str, tuple[float, int]]
"""By question: the negative log-likelihood of its gold solution in nats, and of how many tokens."""
BySeed = Mapping[int | None, Solutions]


@dataclass(frozen=True, slots=True, kw_only=True)
class LikelihoodRow:
    """One arm's negative log-likelihood of the gold solutions, and its difference to the reference."""

    name: str
    seeds: int
    items: int
    nats: float
    """Per target token, over items and seeds."""
    per_seed: tuple[float, ...]
    spread: float | None
    """Standard deviation over the seeds; None of one seed."""
    pairs: int = 0
    """Seeds that both arms have."""
    difference: TestedDifference | None = None
    """To the reference, over items and seeds; of one seed over items alone, which speaks of two models."""

    @property
    def shown(self) -> bool:
        """True where three seeds or more leave zero out."""
        return self.pairs >= 3 and self.difference is not None and self.difference.p_value < SIGNIFICANCE_LEVEL


def compare_likelihoods(runs: Mapping[str, BySeed], reference: str | None) -> tuple[LikelihoodRow, ...]:
    """Return a row for each arm, in the order given.

    Raises:
        DataError: two runs have no question in common.
    """
    tables = [table for seeds in runs.values() for table in seeds.values()]
    items = sorted(set.intersection(*(set(table) for table in tables))) if tables else []
    if tables and not items:
        raise DataError("The scored gold solutions have no question in common: score all arms on the same questions.")
    values = {name: {seed: _per_item(table, items) for seed, table in seeds.items()} for name, seeds in runs.items()}
    return tuple(_row(name, seeds, values.get(reference or ""), name == reference) for name, seeds in values.items())


def _per_item(table: Solutions, items: Sequence[str]) -> list[float]:
    """Return each solution's nats over the mean tokens of a solution: their mean is the nats per target token."""
    tokens = fmean(table[item][1] for item in items)
    return [table[item][0] / tokens for item in items]


def _row(
    name: str, seeds: Mapping[int | None, list[float]], against: Mapping[int | None, list[float]] | None, own: bool
) -> LikelihoodRow:
    means = tuple(fmean(run) for run in seeds.values())
    shared = [seed for seed in seeds if against is not None and seed in against and not own]
    difference = None
    if shared and against is not None:
        arm, other = [seeds[seed] for seed in shared], [against[seed] for seed in shared]
        difference = difference_over_seeds(other, arm, bound=inf) if len(shared) > 1 else _of_items(other[0], arm[0])
    return LikelihoodRow(
        name=name, seeds=len(seeds), items=len(next(iter(seeds.values()), ())), nats=fmean(means), per_seed=means,
        spread=stdev(means) if len(means) > 1 else None, pairs=len(shared), difference=difference,
    )  # fmt: skip


def _of_items(reference: Sequence[float], arm: Sequence[float]) -> TestedDifference:
    """Return the paired t over items: it holds for these two models, not for another seed's."""
    from scipy import stats

    moved = [b - a for a, b in zip(reference, arm, strict=True)]
    error = stdev(moved) / sqrt(len(moved)) if len(moved) > 1 else inf
    value, reach = fmean(moved), float(stats.t.ppf((1 + CONFIDENCE) / 2, max(1, len(moved) - 1)))
    p_value = 2 * float(stats.t.sf(abs(value) / error, len(moved) - 1)) if error > 0 else float(value == 0)
    power = float(stats.t.ppf(0.8, max(1, len(moved) - 1)))
    return TestedDifference(value, value - reach * error, value + reach * error, p_value, (reach + power) * error)
