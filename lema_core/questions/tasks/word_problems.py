"""Published word problems with numeric answers: GSM8K (train and test), SVAMP and ASDiv (evaluation)."""

import re

from lema_core.errors import DataError
from lema_core.questions.drafts import Draft, Row, Unusable, rationale_from
from lema_core.questions.tasks.task import HubDataset, Task

GOLD_MARK = "####"
ONE_NUMBER = re.compile(r"(\d+(?:\.\d+)?)\s*(?:\([^()]*\))?")


def _gsm8k(row: Row) -> Draft:
    rationale, mark, gold = str(row["answer"]).rpartition(GOLD_MARK)
    if not mark:
        raise DataError(f"`answer` has no line `{GOLD_MARK} <gold>`; it ends in {str(row['answer'])[-60:]!r}")
    gold = gold.strip()
    return Draft(text=str(row["question"]), gold=gold, rationale=rationale_from(rationale, gold))


GSM8K = Task(
    name="gsm8k",
    family="numeric",
    prompts="gsm8k",
    fields=("question", "answer"),
    draft=_gsm8k,
    hub=HubDataset("openai/gsm8k", config="main"),
    on_duplicate="reject",
)
"""GSM8K (Cobbe et al., arXiv 2110.14168): grade-school word problems; 7,473 train, 1,319 test."""


def _svamp(row: Row) -> Draft:
    body = str(row["Body"]).strip()
    # Many bodies end without a full stop, in the middle of "Body, Question" or before a new sentence.
    joint = " " if body.endswith((".", "!", "?", ",")) else ". "
    gold = str(row["Answer"]).removesuffix(".0")  # every answer is a float, and nearly all are whole numbers
    return Draft(
        text=f"{body}{joint}{str(row['Question']).strip()}", gold=gold, subject=str(row.get("Type", "")) or None
    )


SVAMP = Task(
    name="svamp",
    family="numeric",
    prompts="gsm8k",
    fields=("Body", "Question", "Answer"),
    draft=_svamp,
    hub=HubDataset("ChilleD/SVAMP", train=None, test="*"),  # it cuts the 1,000 in 700 and 300; the paper tests on all
    on_duplicate="reject",
)
"""SVAMP (Patel et al., arXiv 2103.07191): 1,000 one-step word problems, for evaluation. Trained on GSM8K's data."""


def _asdiv(row: Row) -> Draft | Unusable:
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


ASDIV = Task(
    name="asdiv",
    family="numeric",
    prompts="gsm8k",
    draft=_asdiv,
    hub=HubDataset("EleutherAI/asdiv", config="asdiv", train=None, test="validation"),
    on_duplicate="reject",
    repeats_texts=True,
)
"""ASDiv (Miao et al., arXiv 2106.15772): 2,305 word problems; the paper evaluates the 2,084 with a numeric answer.

The rule that gives exactly this number: the answer is one plain number, with or without a unit in parentheses. Out go
several values (``5 (red); 3 (blue)``), ratios, fractions, times of day, names and yes or no.
"""
