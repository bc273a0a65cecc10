"""GSM8K (Cobbe et al., arXiv 2110.14168): grade-school word problems; 7,473 train, 1,319 test."""

from lema_core.errors import DataError
from lema_core.questions.drafts import Draft, Row
from lema_core.questions.rationales import rationale_from
from lema_core.questions.tasks.task import HubDataset, Task

GOLD_MARK = "####"


def _draft(row: Row) -> Draft:
    rationale, mark, gold = str(row["answer"]).rpartition(GOLD_MARK)
    if not mark:
        raise DataError(f"`answer` has no line `{GOLD_MARK} <gold>`; it ends in {str(row['answer'])[-60:]!r}")
    gold = gold.strip()
    return Draft(text=str(row["question"]), gold=gold, rationale=rationale_from(rationale, gold))


TASK = Task(
    name="gsm8k",
    family="numeric",
    prompts="gsm8k",
    fields=("question", "answer"),
    draft=_draft,
    hub=HubDataset("openai/gsm8k", config="main"),
    on_duplicate="reject",
)
