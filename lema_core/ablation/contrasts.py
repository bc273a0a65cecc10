"""One row of a sweep's table against another, over items and seeds."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from lema_core import statistics
from lema_core.seeds import SeedSpread, accuracy_over_seeds, difference_over_seeds
from lema_core.statistics import Estimate

Runs = Sequence[Sequence[bool]]
"""Right or wrong, by seed and item."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Contrast:
    """One row of the table against another, on the same items."""

    to: str
    """The other row's arm, or its setting."""
    difference: Estimate
    """Over items and seeds."""
    p_value: float
    """McNemar's exact p; of several seeds twice the mean, which holds however they depend on each other (Vovk and Wang,
    Biometrika 107, 2020)."""
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
    """Return the mean accuracy of some runs with its interval, over the seeds too where there are several."""
    if len(runs) == 1 or spread is None:
        return statistics.wilson(sum(runs[0]), len(runs[0]))
    found = accuracy_over_seeds(runs, spread)
    return Estimate(found.value, max(0.0, found.low), min(1.0, found.high))


def contrast_of(to: str, pairs: Sequence[tuple[Sequence[bool], Sequence[bool]]], spread: SeedSpread | None) -> Contrast:
    """Compare runs seed by seed.

    Args:
        to: what the other row is called.
        pairs: (reference, arm) of each seed, right or wrong by item; the untouched base model is the same in all.
        spread: how far a seed moves an arm, pooled over the sweep; None where no arm has two seeds.
    """
    each = [statistics.paired_difference(reference, arm) for reference, arm in pairs]
    p_value = each[0].p_value if len(each) == 1 else min(1.0, 2 * fmean(one.p_value for one in each))
    return Contrast(
        to=to,
        difference=each[0] if len(each) == 1 or spread is None else _over_seeds(pairs, spread),
        p_value=p_value,
        holm_p=p_value,
        won=sum(one.only_arm for one in each),
        lost=sum(one.only_reference for one in each),
        n=each[0].n,
        runs=len(each),
    )


def _over_seeds(pairs: Sequence[tuple[Sequence[bool], Sequence[bool]]], spread: SeedSpread) -> Estimate:
    # The untouched base model stands in every pair: it is one run, and no seed moves it.
    references, arms = (runs[:1] if all(run is runs[0] for run in runs) else runs for runs in zip(*pairs, strict=True))
    return difference_over_seeds(references, arms, spread)
