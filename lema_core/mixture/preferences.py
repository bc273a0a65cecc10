"""Corrections as preference pairs, step by step (Step-DPO, arXiv 2406.18629): shared steps, the right step, the wrong.

Only the first step that differs is compared: what follows a wrong step is wrong because of it, and would teach nothing
about where the solution left the path. The pair needs no further sampling, since a correction names that step.
"""

from lema_core.prompts import path_input
from lema_core.questions import get_task
from lema_core.records import Correction, Example, content_id
from lema_core.steps import numbered_path


def preference_of_correction(row: Correction) -> Example:
    """Return the pair of an accepted correction: input and ``prefix`` are read, ``output`` is preferred to ``worse``.

    A step that others follow ends in a line break, so that a model learns neither to stop nor to go on too early. In
    the shape without steps the whole solutions are compared.
    """
    task = get_task(row.task)
    text = path_input(task.prompts, row.question, row.candidates)
    prefix, right, wrong = "", row.spliced.strip(), row.original.strip()
    if task.shape == "steps":
        corrected, at = numbered_path(row.spliced).splitlines(keepends=True), row.step - 1
        prefix, right = "".join(corrected[:at]), "".join(corrected[at : at + 1])
        wrong = "".join(numbered_path(row.original).splitlines(keepends=True)[at : at + 1])
    return Example(
        id=content_id("example", "preference", row.id, text, prefix, right, wrong),
        kind="preference",
        source_id=row.id,
        question_id=row.question_id,
        input=text,
        prefix=prefix,
        output=right,
        worse=wrong,
    )
