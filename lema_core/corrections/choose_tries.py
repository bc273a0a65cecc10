"""Which of several accepted corrections of one path are kept."""

from collections.abc import Iterable
from dataclasses import replace
from typing import Literal

from lema_core.answers import false_equations
from lema_core.corrections.review import REASONS
from lema_core.records import Correction, Rejection, content_id
from lema_core.steps import split_path


def select(
    reviewed: Iterable[Correction | Rejection], keep: Literal["shortest", "all"]
) -> list[Correction | Rejection]:
    """Choose among the tries on one path: the shortest accepted correction, or all that differ.

    As many rows come out as went in: an accepted correction that is not chosen becomes a rejection.
    """
    rows = list(reviewed)
    corrections = [row for row in rows if isinstance(row, Correction)]
    shortest = min(
        corrections, key=lambda row: (len(row.explanation) + len(row.correct_solution), row.attempt), default=None
    )
    seen: set[tuple[int, str, str]] = set()
    chosen: list[Correction | Rejection] = []
    for row in rows:
        content = (row.step, row.explanation, row.correct_solution) if isinstance(row, Correction) else None
        if not isinstance(row, Correction) or content is None:
            chosen.append(row)
        elif content in seen:
            chosen.append(_unchosen(row, "duplicate"))
        else:
            chosen.append(row if keep == "all" or row is shortest else _unchosen(row, "not_shortest"))
            seen.add(content)
    return chosen


def require_agreement(first: Correction, second: Correction | Rejection) -> Correction | Rejection:
    """Keep the first teacher's correction only if the second teacher's accepted one names the same step.

    A task without steps has step 0 in both: there the second teacher's correction has to be accepted as well.
    """
    if isinstance(second, Rejection):
        return _unchosen(first, "second_teacher_faulty", f"{second.reason}, {second.detail}")
    if second.step != first.step:
        return _unchosen(first, "teachers_disagree", f"step {first.step} and step {second.step}")
    return replace(first, second_key=second.request_key)


def without_false_steps(row: Correction | Rejection) -> Correction | Rejection:
    """Return the row, or a rejection of a correction of which a step's arithmetic is proven false."""
    steps = split_path(row.correct_solution).steps if isinstance(row, Correction) else ()
    found = next((false for step in steps for false in false_equations(step)), None)
    return _unchosen(row, "false_equation", repr(found.text)) if found and isinstance(row, Correction) else row


def _unchosen(row: Correction, reason: str, seen: str = "") -> Rejection:
    return Rejection(
        id=content_id("rejection", row.path_id, row.corrector, row.attempt),
        parent_id=row.path_id,
        reason=reason,
        detail=REASONS[reason] + (f": {seen}" if seen else ""),
        text=row.correct_solution,
        request_key=row.request_key,
    )
