"""Greedy answers of a model to held-out questions, judged: the rows of an evaluation (paper, section 3.3: pass@1).

Every question gives one row, also where the request failed or the answer cannot be decided: items stay paired, and what
is not right is not right.
"""

from collections.abc import Iterable, Iterator
from dataclasses import asdict, fields
from typing import Any

from lema_core.answers import judge
from lema_core.llm.requests import Outcome, Sampling
from lema_core.questions import get_task
from lema_core.reasoning_paths import PathRequest, PromptKind, path_from, path_requests, path_row
from lema_core.records import JudgedPath, Question, ReasoningPath, Rejection

FAILED = "failed"
"""The verdict of a question without an answer: the request failed for good, or the model wrote nothing."""


def greedy_requests(questions: Iterable[Question], max_tokens: int, prompt: PromptKind) -> Iterator[PathRequest]:
    """Yield one request a question, at temperature 0."""
    return path_requests(questions, Sampling(temperature=0, max_tokens=max_tokens, seed=0), 1, prompt)


def judged_answer(asked: PathRequest, model: str, outcome: Outcome) -> JudgedPath:
    """Return the judged answer to one question."""
    path = path_from(asked.question, asked.sample_index, model, outcome)
    if isinstance(path, Rejection):
        row = path_row(asked.question, asked.sample_index, model, path.detail)
        return _judged(row, verdict=FAILED, answer=None, decided_by="none")
    # An answer that cannot be decided is kept: it is not right, but it has a vote in maj@k.
    return _judged(path, **asdict(judge(path.text, path.gold, get_task(path.task).family, path.candidates)))


def _judged(path: ReasoningPath, **judgement: Any) -> JudgedPath:
    return JudgedPath(**{one.name: getattr(path, one.name) for one in fields(ReasoningPath)}, **judgement)
