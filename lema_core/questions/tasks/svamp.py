"""SVAMP (Patel et al., arXiv 2103.07191): 1,000 one-step word problems, for evaluation. Trained on GSM8K's data."""

from lema_core.questions.drafts import Draft, Row
from lema_core.questions.tasks.task import HubDataset, Task


def _draft(row: Row) -> Draft:
    body = str(row["Body"]).strip()
    # Many bodies end without a full stop, in the middle of "Body, Question" or before a new sentence.
    joint = " " if body.endswith((".", "!", "?", ",")) else ". "
    gold = str(row["Answer"]).removesuffix(".0")  # every answer is a float, and nearly all are whole numbers
    return Draft(
        text=f"{body}{joint}{str(row['Question']).strip()}", gold=gold, subject=str(row.get("Type", "")) or None
    )


TASK = Task(
    name="svamp",
    family="numeric",
    prompts="gsm8k",
    fields=("Body", "Question", "Answer"),
    draft=_draft,
    hub=HubDataset("ChilleD/SVAMP", train=None, test="*"),  # it cuts the 1,000 in 700 and 300; the paper tests on all
    on_duplicate="reject",
)
