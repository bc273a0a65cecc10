"""What a model was trained on, counted: optimiser steps, examples, and the tokens of all steps together.

The tokens follow from the tokenised examples and the order of the run, so they need no record of the training: an
example that is repeated counts each time.
"""

from collections.abc import Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from statistics import fmean

from lema_core.training.batches import order_of_run
from lema_core.training.data import TokenisedData
from lema_core.training.specs import TrainingSpec

EQUAL_TOKENS = 0.05
"""Two models count as trained on equal tokens up to this share: arms matched by tokens differ by a row."""


@dataclass(frozen=True, slots=True)
class TrainedOn:
    """The length of one training run."""

    steps: int
    """Optimiser steps."""
    examples: int
    """Different ones, after those were left out that are too long."""
    target_tokens: int
    """Trained tokens over all steps: outputs with what a template writes before them and the end of the turn."""
    input_tokens: int
    """Tokens over all steps that are read and not trained; of a preference pair twice."""


def mean_training(counts: Sequence[TrainedOn]) -> TrainedOn | None:
    """Return the mean over several runs of an arm, rounded; None of none."""
    if not counts:
        return None
    return TrainedOn(*(round(fmean(values)) for values in zip(*map(astuple, counts), strict=True)))


def describe_lengths(arm: TrainedOn | None, other: TrainedOn | None) -> str:
    """Return in words whether two compared models were trained equally long; empty where that is not known."""
    if arm is None or other is None:
        return ""
    share = arm.target_tokens / max(1, other.target_tokens)
    steps = (
        f"at {other.steps:,} optimiser steps each"
        if arm.steps == other.steps
        else f"at unequal optimiser steps ({arm.steps:,} against {other.steps:,})"
    )
    if abs(share - 1) <= EQUAL_TOKENS:
        return f"{steps} and equal target tokens"
    return f"{steps} and unequal target tokens ({share:.2g} times as many)"


def count_training(spec: TrainingSpec, tokens: Path) -> TrainedOn:
    """Return what a run of the spec on the tokenised examples of a folder is trained on.

    Raises:
        DataError: the folder is not complete.
    """
    data = TokenisedData(tokens)
    steps = spec.steps(len(data))
    epochs = None if spec.max_steps else spec.epochs
    order = order_of_run(len(data), steps=steps, batch_size=spec.batch_size, epochs=epochs, seed=spec.seed)
    lengths, targets = data.lengths(), data.trained_lengths()
    trained, read = sum(targets[i] for i in order), sum(lengths[i] for i in order)
    return TrainedOn(steps, len(data), trained, read - trained)
