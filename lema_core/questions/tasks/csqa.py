"""CommonsenseQA 1.11 (Talmor et al., arXiv 1811.00937): five choices; 9,741 train, 1,221 dev (the paper's test)."""

from collections.abc import Mapping

from lema_core.errors import DataError
from lema_core.questions.drafts import Draft, Row
from lema_core.questions.tasks.task import HubDataset, Task


def _draft(row: Row) -> Draft:
    question = row["question"]
    # The published files nest stem and choices in `question`; the Hub's rows have them side by side.
    stem, choices = (
        (question["stem"], question["choices"]) if isinstance(question, Mapping) else (question, row["choices"])
    )
    if isinstance(choices, Mapping):
        texts = dict(zip(map(str, choices["label"]), map(str, choices["text"]), strict=True))
    else:
        texts = {str(choice["label"]): str(choice["text"]) for choice in choices}
    label = str(row["answerKey"])
    if label not in texts:
        raise DataError(f"`answerKey` is {label!r}, expected one of {', '.join(texts)}: the test part has no answers")
    return Draft(text=str(stem), gold=texts[label], candidates=tuple(texts.values()))


TASK = Task(
    name="csqa",
    family="choice",
    shape="choice",
    prompts="csqa",
    fields=("question", "answerKey"),
    draft=_draft,
    hub=HubDataset("tau/commonsense_qa", test="validation"),
    on_duplicate="reject",
)
