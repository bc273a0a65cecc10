"""Rows of the pipeline for tests: what a test does not look at is filled in from a question."""

from lema_core.records import Correction, JudgedPath, Question


def judged_path(question: Question, *, right: bool = True, **fields: object) -> JudgedPath:
    """Return a path to a question that says its rationale, with the answer 77 where it is wrong."""
    answer = question.gold if right else "77"
    return JudgedPath(**{
        "question_id": question.id,
        "task": question.task,
        "question": question.text,
        "gold": question.gold,
        "candidates": None,
        "rationale": question.rationale,
        "level": question.level,
        "student": "student",
        "sample_index": 0,
        "finish_reason": "stop",
        "request_key": "k",
        "prompt_tokens": 1,
        "completion_tokens": 1,
        "verdict": "right" if right else "wrong",
        "answer": answer,
        "decided_by": "number",
    } | fields)  # fmt: skip


def correction_of(question: Question, **fields: object) -> Correction:
    """Return a correction of the last step of a path to a question that ended in 77."""
    steps = question.rationale.splitlines()
    return Correction(**{
        "question_id": question.id,
        "task": question.task,
        "question": question.text,
        "gold": question.gold,
        "candidates": None,
        "level": question.level,
        "student": "student",
        "attempt": 0,
        "wrong_answer": "77",
        "step": len(steps) - 1,
        "n_steps": len(steps) - 1,
        "correct_solution": "\n".join(steps[-2:]),
        "false_step": None,
        "request_key": "k",
        "prompt_tokens": 1,
        "completion_tokens": 1,
    } | fields)  # fmt: skip
