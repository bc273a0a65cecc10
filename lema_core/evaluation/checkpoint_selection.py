"""Which checkpoint of a training run becomes its model: the best on training questions that were kept back for it.

The paper takes the best checkpoint on the test set (section 3.3), which leaks: the maximum of several noisy figures on
the test set is too high by the noise. Its figure is an extra column here and never decides.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lema_core.artifacts import ArtifactRef, Store
from lema_core.artifacts.parquet import schema_of, table_of, write_table
from lema_core.errors import DataError
from lema_core.evaluation.statistics import Estimate, Proportion, wilson
from lema_core.mixture import held_out_questions
from lema_core.records import JudgedPath, Question

SELECTION_FILE = "selection.parquet"
"""Beside the model in its artifact: one row per checkpoint."""

Answers = Mapping[int, Iterable[JudgedPath]]
"""By a checkpoint's step, its judged greedy answers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointScore:
    """One checkpoint's accuracies; shares in [0, 1] with their 95 % Wilson intervals."""

    step: int
    """Optimiser steps behind it."""
    n: int
    """Held-out training questions."""
    right: int
    accuracy: float
    low: float
    high: float
    chosen: bool
    test_accuracy: float | None = None
    """On the test questions, under the protocol ``best_on_test`` only."""
    test_low: float | None = None
    test_high: float | None = None
    best_on_test: bool = False
    """The checkpoint that the paper's protocol would report."""

    @property
    def test(self) -> Estimate | None:
        """Return the accuracy on the test questions with its interval; None without test answers."""
        if self.test_accuracy is None or self.test_low is None or self.test_high is None:
            return None
        return Estimate(self.test_accuracy, self.test_low, self.test_high)


def hold_out(questions: Iterable[Question], count: int, seed: int) -> list[Question]:
    """Return the ``count`` training questions that are kept back, a seeded choice.

    Raises:
        DataError: no question would be left to train on.
    """
    rows = list(questions)
    check_training_questions_left(len(rows), count)
    return held_out_questions(rows, count, seed)


def check_training_questions_left(rows: int, count: int) -> None:
    """Refuse to hold out ``count`` of ``rows`` questions where none would be left to train on.

    Raises:
        DataError: none would be left.
    """
    if rows <= count:
        raise DataError(
            f"[selection] keeps back {count} questions and there are {rows}: none is left to train on. "
            "Set selection.questions to a part of them, or take more questions."
        )


def score_checkpoints(held_out: Answers, test: Answers) -> list[CheckpointScore]:
    """Return every checkpoint's score by step; exactly one is chosen; ``test`` (may be empty) does not decide.

    Raises:
        DataError: there is no checkpoint, or one without an answer.
    """
    if not held_out:
        raise DataError("there is no checkpoint to choose from: the training run wrote none")
    on_held_out = {step: _accuracy(rows) for step, rows in sorted(held_out.items())}
    on_test = {step: _accuracy(rows) for step, rows in sorted(test.items())}
    chosen, reported = earliest_best(on_held_out), earliest_best(on_test) if on_test else None
    return [
        _row(step, one, on_test.get(step), chosen=step == chosen, best_on_test=step == reported)
        for step, one in on_held_out.items()
    ]


def earliest_best(accuracies: Mapping[int, Proportion]) -> int:
    """Return the step of the best checkpoint; of equals the earliest, which has had the least time to overfit."""
    return min(accuracies, key=lambda step: (-accuracies[step].successes, step))


def write_selection(scores: Sequence[CheckpointScore], file: Path) -> None:
    """Write the table as Parquet."""
    write_table(table_of(scores, CheckpointScore), file)


def read_selection(store: Store, model: ArtifactRef) -> tuple[CheckpointScore, ...]:
    """Read what ``write_selection`` wrote beside a model.

    Raises:
        ArtifactError: it is missing or damaged.
    """
    rows = store.read_table(model, SELECTION_FILE, schema_of(CheckpointScore).names)
    return tuple(CheckpointScore(**row) for row in rows)


def _accuracy(rows: Iterable[JudgedPath]) -> Proportion:
    right = [row.verdict == "right" for row in rows]
    return wilson(sum(right), len(right))


def _row(step: int, one: Proportion, test: Proportion | None, *, chosen: bool, best_on_test: bool) -> CheckpointScore:
    return CheckpointScore(
        step=step,
        n=one.n,
        right=round(one.successes),
        accuracy=one.value,
        low=one.low,
        high=one.high,
        chosen=chosen,
        test_accuracy=test.value if test else None,
        test_low=test.low if test else None,
        test_high=test.high if test else None,
        best_on_test=best_on_test,
    )
