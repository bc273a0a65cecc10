r"""MATH (Hendrycks et al., arXiv 2103.03874): competition problems, gold in ``\boxed``; 7,500 train, 5,000 test."""

import re

from lema_core.answers import extract, match
from lema_core.errors import DataError
from lema_core.questions.drafts import Draft, Row, rationale_from
from lema_core.questions.tasks.task import HubDataset, Task

_BOX = re.compile(r"\\(?:boxed|fbox)")
_ONE_OF_SEVERAL = re.compile(r"\bnot both\b|\bonly one of\b", re.IGNORECASE)
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)


def boxed_gold(solution: str, problem: str = "") -> str | None:
    r"""Return the answer in the last ``\boxed{...}`` or ``\fbox{...}`` (or ``\boxed 5``), None if there is none.

    ``\boxed{-2} and \boxed{1}`` is one answer, joined as in a student's path; of ``\boxed{x+1}, or \boxed{1+x}``, one
    value written twice, the last is it, and so it is where the problem asks for one of several.
    """
    found = _last_boxed(solution)
    if found is None:
        return None
    last, end = found
    if _ONE_OF_SEVERAL.search(problem):
        return last
    # What stands behind the box ("so our answer is correct") must not be read as the answer.
    joined = extract(solution[:end], "latex").value or last
    earlier = joined.removesuffix(f", {last}")
    return last if earlier == joined or match(last, earlier, "latex").outcome == "equal" else joined


def _last_boxed(text: str) -> tuple[str, int] | None:
    """Return the last box's content and where the box ends."""
    boxes = list(_BOX.finditer(text))
    if not boxes:
        return None
    start = boxes[-1].end()
    if not text.startswith("{", start):
        content = text[start:].split("$", maxsplit=1)[0]
        return (content.strip(), start + len(content)) if content.strip() else None
    depth = 0
    for brace in _BRACE.finditer(text, start):
        depth += {"{": 1, "}": -1}.get(brace.group(), 0)
        if depth == 0:
            return text[start + 1 : brace.start()].strip(), brace.end()
    return None


def _draft(row: Row) -> Draft:
    solution = str(row["solution"])
    problem = str(row["problem"])
    gold = boxed_gold(solution, problem)
    if gold is None:
        raise DataError(f"`solution` has no \\boxed answer; it ends in {solution[-60:]!r}")
    rationale = rationale_from(solution, f"${gold}$")
    subject = str(row.get("type", "")) or None
    level = str(row.get("level", "")).removeprefix("Level ") or None
    return Draft(text=problem, gold=gold, rationale=rationale, level=level, subject=subject)


TASK = Task(
    name="math",
    family="latex",
    prompts="math",
    fields=("problem", "solution"),
    draft=_draft,
    hub=HubDataset("DigitalLearningGmbH/MATH-lighteval"),
    on_duplicate="reject",
    revision=2,
)
