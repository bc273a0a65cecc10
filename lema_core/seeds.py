"""Accuracies over several training seeds, with intervals that hold both chances: which items, and which seeds.

The model is the two-way one, accuracy = mean + item + seed + rest. A run's seed moves all its items together, so the
items alone would give intervals that are too narrow; two or three runs alone say next to nothing about how far a seed
moves. Therefore the spread between seeds is pooled over all arms of a study (``seed_spread``), and the degrees of
freedom of Satterthwaite (Biometrics Bulletin 2, 1946) say how well it is known.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from math import sqrt

import numpy as np
import numpy.typing as npt
from scipy import stats

from lema_core.errors import DataError
from lema_core.statistics import CONFIDENCE, Estimate

__all__ = ["SeedSpread", "accuracy_over_seeds", "difference_over_seeds", "seed_spread"]

_Runs = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class SeedSpread:
    """How far a training seed moves an arm's accuracy on the same items, the noise of single items included."""

    variance: float
    degrees: int
    """Runs less arms: how many seeds it was learnt from."""


def seed_spread(arms: Iterable[npt.ArrayLike]) -> SeedSpread:
    """Return the spread between seeds, pooled over arms; each has shape (seeds, items), one seed teaches nothing.

    Raises:
        DataError: too few seeds to tell, over all arms.
    """
    squares, degrees = 0.0, 0
    for arm in arms:
        per_run = _runs(arm).mean(axis=1)
        squares += float(((per_run - per_run.mean()) ** 2).sum())
        degrees += len(per_run) - 1
    if degrees == 0:
        raise DataError("The spread between seeds needs an arm with two seeds at least; each has one.")
    return SeedSpread(squares / degrees, degrees)


def accuracy_over_seeds(runs: npt.ArrayLike, spread: SeedSpread, confidence: float = CONFIDENCE) -> Estimate:
    """Return an arm's mean accuracy with its interval over items and seeds; ``runs`` has shape (seeds, items)."""
    right = _runs(runs)
    return _estimate(right, spread, 1, confidence)


def difference_over_seeds(
    reference: npt.ArrayLike, arm: npt.ArrayLike, spread: SeedSpread, confidence: float = CONFIDENCE
) -> Estimate:
    """Return the mean difference on the same items, with its interval over items and seeds.

    Simulated coverage with the spread of two to six arms, two or three seeds each, 200 and 800 items, seeds that move
    the accuracy by 0 to 5 points: 92 to 97.7 %; with four degrees of freedom or more 93.5 to 97.7 %. With one
    (a single arm, two seeds) 86 to 97 %: no method knows a spread from two runs.

    Args:
        reference: right or wrong, shape (seeds, items); shape (items,) for a base model that was not trained.
        arm: the same items, shape (seeds, items) or (items,).
        spread: between seeds, pooled over all arms of the study.
        confidence: of the interval.

    Raises:
        DataError: the shapes do not go together.
    """
    one, other = _runs(reference), _runs(arm)
    if one.shape[1] != other.shape[1] or (len(one) != len(other) and min(len(one), len(other)) > 1):
        raise DataError(
            f"A difference over seeds needs the same items, and as many runs of both or one of either; got "
            f"shapes {one.shape} and {other.shape}."
        )
    trained = (len(one) > 1) + (len(other) > 1)
    return _estimate(other - one, spread, trained, confidence)


def _runs(values: npt.ArrayLike) -> _Runs:
    runs = np.atleast_2d(np.asarray(values, dtype=np.float64))
    if runs.ndim != 2 or not runs.size:
        raise DataError(f"Expected right or wrong as (seeds, items); got the shape {runs.shape}.")
    return runs


def _estimate(values: _Runs, spread: SeedSpread, trained: int, confidence: float) -> Estimate:
    seeds, items = values.shape
    mean, per_item = float(values.mean()), values.mean(axis=0)
    # Where all items agree the data say nothing about their spread; that of one item is the least it can be.
    item_part = max(float(per_item.var(ddof=1)) / items if items > 1 else 1.0, 1 / items**2)
    noise = _noise(values) / values.size
    seed_part = trained * spread.variance / seeds
    extra = max(0.0, seed_part - noise)
    known = item_part**2 / max(1, items - 1)
    if extra > 0:
        known += seed_part**2 / spread.degrees + noise**2 / max(1, (seeds - 1) * (items - 1))
    reach = float(stats.t.ppf((1 + confidence) / 2, (item_part + extra) ** 2 / known)) * sqrt(item_part + extra)
    return Estimate(mean, max(-1.0, mean - reach), min(1.0, mean + reach))


def _noise(values: _Runs) -> float:
    """Return the variance that is neither the items' nor the seeds': what the items' part of a mean holds already."""
    seeds, items = values.shape
    if seeds == 1 or items == 1:
        return 0.0
    residual = values - values.mean(axis=1, keepdims=True) - values.mean(axis=0, keepdims=True) + values.mean()
    return float((residual**2).sum() / ((seeds - 1) * (items - 1)))
