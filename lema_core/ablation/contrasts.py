"""One row of a sweep's table against another, over items and seeds."""

from collections.abc import Sequence
from dataclasses import dataclass

from lema_core.evaluation import statistics
from lema_core.evaluation.seeds import SeedSpread, TestedDifference, accuracy_over_seeds, difference_over_seeds
from lema_core.evaluation.statistics import Estimate

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
    """McNemar's exact p where no arm of the sweep has two seeds, else that of the interval's t over items and seeds."""
    holm_p: float
    """The same, adjusted for all contrasts of the sweep."""
    won: int
    """Answers that only this row got right, over the seeds."""
    lost: int
    n: int
    runs: int
    """Pairs of runs that were compared."""

    @property
    def shown(self) -> bool:
        """True where the interval excludes zero and so does the adjusted p: with several arms one alone may be luck."""
        apart = self.difference.low > 0 or self.difference.high < 0
        return apart and self.holm_p < statistics.SURE

    @property
    def detectable(self) -> float:
        """Return the smallest difference that one pair of runs shows with 80 % power, at these disagreements."""
        share = max((self.won + self.lost) / (self.n * self.runs), 1 / self.n)
        return statistics.minimal_detectable_difference(self.n, share)


def accuracy_of(runs: Runs, spread: SeedSpread | None) -> Estimate:
    """Return the mean accuracy of some runs with its interval, over the seeds too where their spread is known.

    Args:
        runs: those of an arm; the single one of an untouched model, which no seed moves, has no ``spread``.
        spread: how far a seed moves an arm, pooled over the sweep; None where no arm has two seeds.
    """
    if spread is None:
        return statistics.wilson(sum(runs[0]), len(runs[0]))
    found = accuracy_over_seeds(runs, spread)
    return Estimate(found.value, max(0.0, found.low), min(1.0, found.high))


def contrast_of(to: str, pairs: Sequence[Pair], spread: SeedSpread | None, *, trained: bool) -> Contrast:
    """Compare runs seed by seed.

    Args:
        to: what the other row is called.
        pairs: (reference, arm) of each seed, right or wrong by item.
        spread: how far a seed moves an arm, pooled over the sweep; None where no arm has two seeds.
        trained: False for the untouched model, which is the same run in all pairs and which no seed moves.
    """
    each = [statistics.paired_difference(reference, arm) for reference, arm in pairs]
    found = each[0] if spread is None else _over_seeds(pairs, spread, trained)
    return Contrast(
        to=to,
        difference=found,
        p_value=found.p_value,
        holm_p=found.p_value,
        won=sum(one.only_arm for one in each),
        lost=sum(one.only_reference for one in each),
        n=each[0].n,
        runs=len(each),
    )


def _over_seeds(pairs: Sequence[Pair], spread: SeedSpread, trained: bool) -> TestedDifference:
    references, arms = zip(*pairs, strict=True)
    return difference_over_seeds(references, arms if trained else arms[0], spread)
