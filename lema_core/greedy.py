"""Greedy answers of a model to held-out questions, judged: the rows of an evaluation (paper, section 3.3: pass@1).

Every question gives one row, also where the request failed or the answer cannot be decided: items stay paired, and what
is not right is not right.
"""

from collections.abc import Iterable, Iterator
from dataclasses import fields

from lema_core.llm.requests import Outcome, Sampling
from lema_core.reasoning_paths import PathRequest, PromptKind, path_from, path_requests
from lema_core.records import JudgedPath, Question, ReasoningPath, Rejection
from lema_core.verdicts import judge_path

FAILED = "failed"
"""The verdict of a question without an answer: the request failed for good, or the model wrote nothing."""


def greedy_requests(questions: Iterable[Question], max_tokens: int, prompt: PromptKind) -> Iterator[PathRequest]:
    """Yield one request a question, at temperature 0."""
    return path_requests(questions, Sampling(temperature=0, max_tokens=max_tokens, seed=0), 1, prompt)


def judged_answer(asked: PathRequest, model: str, outcome: Outcome) -> JudgedPath:
    """Return the judged answer to one question."""
    path = path_from(asked.question, 0, model, outcome)
    if isinstance(path, Rejection):
        return _without_answer(asked.question, model, path)
    judged = judge_path(path)
    if isinstance(judged, JudgedPath):
        return judged
    return _with_verdict(path, "unknown", "none")


def _with_verdict(path: ReasoningPath, verdict: str, decided_by: str) -> JudgedPath:
    plain = {one.name: getattr(path, one.name) for one in fields(ReasoningPath)}
    return JudgedPath(**plain, verdict=verdict, answer=None, decided_by=decided_by)


def _without_answer(question: Question, model: str, why: Rejection) -> JudgedPath:
    return JudgedPath(
        id=why.id,
        question_id=question.id,
        task=question.task,
        question=question.text,
        gold=question.gold,
        candidates=question.candidates,
        rationale=question.rationale,
        level=question.level,
        student=model,
        sample_index=0,
        text=why.detail,
        finish_reason=why.reason,
        request_key=why.request_key or "",
        prompt_tokens=0,
        completion_tokens=0,
        verdict=FAILED,
        answer=None,
        decided_by="none",
    )
