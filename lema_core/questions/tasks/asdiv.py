"""ASDiv (Miao et al., arXiv 2106.15772): 2,305 word problems; the paper evaluates the 2,084 with a numeric answer.

The rule that gives exactly this number: the answer is one plain number, with or without a unit in parentheses. Out go
several values (``5 (red); 3 (blue)``), ratios, fractions, times of day, names and yes or no.
"""

import re

from lema_core.questions.drafts import Draft, Row, Unusable
from lema_core.questions.tasks.task import HubDataset, Task

ONE_NUMBER = re.compile(r"(\d+(?:\.\d+)?)\s*(?:\([^()]*\))?")


def _draft(row: Row) -> Draft | Unusable:
    text = f"{_value(row, 'Body')} {_value(row, 'Question')}"
    answer = _value(row, "Answer")
    number = ONE_NUMBER.fullmatch(answer)
    if number is None:
        return Unusable("not_numeric", f"the answer {answer!r} is not one plain number", text)
    key = _value(row, "ID") or None
    level, subject = _value(row, "Grade") or None, _value(row, "Solution-Type") or None
    return Draft(text=text, gold=number[1], level=level, subject=subject, key=key)


def _value(row: Row, field: str) -> str:
    """Return a field of the published XML, or of the Hub's rows, which spell it in lower case."""
    return str(row.get(field, row.get(field.lower().replace("-", "_"), ""))).strip()


TASK = Task(
    name="asdiv",
    family="numeric",
    prompts="gsm8k",
    draft=_draft,
    hub=HubDataset("EleutherAI/asdiv", config="asdiv", train=None, test="validation"),
    on_duplicate="reject",
    repeats_texts=True,
)
