"""LeMa's published evaluation files (github.com/microsoft/LEMA, ``evaluation/data``): a whole prompt in each row.

The prompts are what the released checkpoints were trained on, so they are sent word for word. Two shapes: a worked
solution that ends in its answer (GSM8K, SVAMP, ASDiv), and an answer among candidates (CommonsenseQA).
"""

from lema_core.errors import DataError
from lema_core.questions.drafts import Draft, Row, rationale_from
from lema_core.questions.tasks.task import Task

ANSWER_MARK = "The answer is"


def _worked(row: Row) -> Draft:
    solution, mark, said = str(row["completion"]).rpartition(ANSWER_MARK)
    if not mark:
        raise DataError(f"`completion` has no `{ANSWER_MARK} <gold>`; it ends in {str(row['completion'])[-60:]!r}")
    gold = said.strip().removesuffix(".")
    return Draft(text=str(row["prompt"]), gold=gold, rationale=rationale_from(solution, gold))


def _choice(row: Row) -> Draft:
    candidates = row["candidates"]
    if not isinstance(candidates, list | tuple):
        raise DataError(f"`candidates` is {type(candidates).__name__}, expected the list of choices")
    return Draft(text=str(row["prompt"]), gold=str(row["answer"]), candidates=tuple(map(str, candidates)))


TASK = Task(
    name="lema_official",
    family="numeric",
    prompts="gsm8k",
    verbatim=True,
    fields=("prompt", "completion"),
    draft=_worked,
)
CHOICE_TASK = Task(
    name="lema_official_csqa",
    family="choice",
    shape="choice",
    prompts="csqa",
    verbatim=True,
    fields=("prompt", "answer", "candidates"),
    draft=_choice,
)
