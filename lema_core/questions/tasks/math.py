r"""MATH (Hendrycks et al., arXiv 2103.03874): competition problems, gold in ``\boxed``; 7,500 train, 5,000 test."""

from lema_core.errors import DataError
from lema_core.questions.drafts import Draft, Row
from lema_core.questions.rationales import rationale_from
from lema_core.questions.tasks.task import HubDataset, Task


def last_boxed(text: str) -> str | None:
    r"""Return the content of the last ``\boxed{...}`` or ``\fbox{...}`` (or ``\boxed 5``), None if there is none."""
    start = max(text.rfind("\\boxed"), text.rfind("\\fbox"))
    if start < 0:
        return None
    rest = text[start:].removeprefix("\\boxed").removeprefix("\\fbox")
    if not rest.startswith("{"):
        return rest.split("$")[0].strip() or None
    depth = 0
    for position, sign in enumerate(rest):
        depth += (sign == "{") - (sign == "}")
        if depth == 0:
            return rest[1:position].strip()
    return None


def _draft(row: Row) -> Draft:
    solution = str(row["solution"])
    gold = last_boxed(solution)
    if gold is None:
        raise DataError(f"`solution` has no \\boxed answer; it ends in {solution[-60:]!r}")
    rationale = rationale_from(solution, f"${gold}$")
    subject = str(row.get("type", "")) or None
    level = str(row.get("level", "")).removeprefix("Level ") or None
    return Draft(text=str(row["problem"]), gold=gold, rationale=rationale, level=level, subject=subject)


TASK = Task(
    name="math",
    family="latex",
    prompts="math",
    fields=("problem", "solution"),
    draft=_draft,
    hub=HubDataset("DigitalLearningGmbH/MATH-lighteval"),
    on_duplicate="reject",
)
