"""Greedy answers of a model to held-out questions, judged: the rows of an evaluation (paper, section 3.3: pass@1).

Every question gives one row, also where the request failed or the answer cannot be decided: items stay paired, and what
is not right is not right.
"""

from collections.abc import Iterable, Iterator
from dataclasses import fields

from lema_core.llm.requests import Outcome, Sampling
from lema_core.reasoning_paths import PathRequest, PromptKind, path_from, path_requests, path_row
from lema_core.records import JudgedPath, Question, ReasoningPath, Rejection
from lema_core.verdicts import judge_path

FAILED = "failed"
"""The verdict of a question without an answer: the request failed for good, or the model wrote nothing."""


def greedy_requests(questions: Iterable[Question], max_tokens: int, prompt: PromptKind) -> Iterator[PathRequest]:
    """Yield one request a question, at temperature 0."""
    return path_requests(questions, Sampling(temperature=0, max_tokens=max_tokens, seed=0), 1, prompt)


def judged_answer(asked: PathRequest, model: str, outcome: Outcome) -> JudgedPath:
    """Return the judged answer to one question."""
    path = path_from(asked.question, asked.sample_index, model, outcome)
    if isinstance(path, Rejection):
        return _with_verdict(path_row(asked.question, asked.sample_index, model, path.detail), FAILED)
    judged = judge_path(path)
    return judged if isinstance(judged, JudgedPath) else _with_verdict(path, "unknown")


def _with_verdict(path: ReasoningPath, verdict: str) -> JudgedPath:
    plain = {one.name: getattr(path, one.name) for one in fields(ReasoningPath)}
    return JudgedPath(**plain, verdict=verdict, answer=None, decided_by="none")
