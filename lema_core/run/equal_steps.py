"""Equal optimiser steps for the arms that are compared: those of the arm with most examples (``training.match_steps``).

Without them an arm with more rows is also trained longer, and the comparison is one of steps. An arm with fewer rows
repeats them, each pass in a new order. The number is known once every arm's examples are made, before any is trained;
until then it is a bound.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from lema_core.ablation.cells import Cell
from lema_core.run.spec import RunSpec
from lema_core.training.specs import TrainingSpec

_OWN_LENGTH = {"epochs", "max_steps", "batch_size", "match_steps", "preset"}
"""Options of [arm_training] by which an arm says itself how long it is trained."""


def with_equal_steps(run: RunSpec, rows: Mapping[str, int]) -> RunSpec:
    """Return the run with ``max_steps`` of its arms, by their numbers of examples; unchanged if there is none to match.

    Arms that start from one model belong together. An arm alone keeps its epochs.
    """
    if run.training is None or run.training.max_steps or not run.training.match_steps:
        return run
    together = defaultdict[str | None, list[str]](list)
    for arm in rows:
        if not _OWN_LENGTH & run.arm_training.get(arm, {}).keys():
            together[run.training_of(arm).starts_from_arm].append(arm)
    changed = {arm: dict(options) for arm, options in run.arm_training.items()}
    for arms in together.values():
        steps = max(run.training_of(arm).steps(rows[arm]) for arm in arms)
        for arm in arms if len(arms) > 1 else ():
            # Without its epochs, which decide nothing now, it is the model of a run file with these `max_steps`.
            length = {"max_steps": steps, "epochs": TrainingSpec.model_fields["epochs"].default}
            changed[arm] = changed.get(arm, {}) | length
    return run.model_copy(update={"arm_training": changed})


def match_cells(cells: Sequence[Cell], rows_of: Callable[[Cell], Mapping[str, int]]) -> list[Cell]:
    """Return a setting's cells with the steps that the arms of one base model and seed share.

    Args:
        cells: of one setting; those that failed before training are left out by the caller.
        rows_of: the examples of the arms that a cell trains.
    """
    together = defaultdict[object, dict[str, int]](dict)
    for cell in cells:
        if cell.run.training and cell.run.mixture:
            together[cell.replicate].update(rows_of(cell))
    return [replace(cell, run=with_equal_steps(cell.run, together[cell.replicate])) for cell in cells]
