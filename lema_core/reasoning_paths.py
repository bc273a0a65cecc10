"""Reasoning paths: the requests to a student, and the rows made from its answers (paper, section 2.1).

Each question gets ``samples`` requests with the few-shot prompt of its task, or with the zero-shot one where the
student was fine-tuned on our format. Requests are generated lazily; nothing here sends, judges or stores.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from lema_core.answers import MAX_TEXT_CHARS
from lema_core.answers.extraction import strip_end_tokens
from lema_core.llm.requests import Completion, CompletionRequest, Outcome, Sampling
from lema_core.prompts import fingerprint, load, path_prompt
from lema_core.questions import get_task
from lema_core.records import Question, ReasoningPath, Rejection, content_id

PromptKind = Literal["few_shot", "zero_shot"]

REASONS = {
    "request_failed": "the request got no answer",
    "empty": "the student wrote nothing",
    "cut_in_thinking": "the student was cut off inside its thinking, and has no answer",
    "only_thinking": "the student wrote its thinking and no answer",
    "too_long": "the answer is longer than any stage reads",
}
"""Every reason code of this stage."""

SEED_RANGE = 2**31 - 2**16
"""Servers take a signed 32-bit seed, and the engine adds the sample index to ours."""
RUN_ON = re.compile(r"\n[#*\s]{0,16}(?:Question|Q|Problem)\s*+\d*+\s*+[:.]")
"""Where a student goes on after its answer: it invents the prompt's next question."""


@dataclass(frozen=True, slots=True)
class PathRequest:
    """The request for one sample, with its question."""

    question: Question
    sample_index: int
    request: CompletionRequest


def path_requests(
    questions: Iterable[Question], sampling: Sampling, samples: int = 1, prompt: PromptKind = "few_shot"
) -> Iterator[PathRequest]:
    """Yield the requests for ``samples`` paths per question, question by question.

    Unless ``sampling`` brings a seed, each question gets its own, made from its id: on a server that honours seeds the
    samples differ and a second run repeats them.
    """
    for question in questions:
        own = sampling if sampling.seed is not None else sampling.model_copy(update={"seed": seed_of(question.id)})
        messages = path_messages(question, prompt)
        for index in range(samples):
            yield PathRequest(question, index, CompletionRequest(messages, own, index))


def path_messages(question: Question, prompt: PromptKind = "few_shot") -> tuple[dict[str, str], ...]:
    """Return the chat that asks for a path to this question."""
    task = get_task(question.task)
    if task.verbatim:
        return ({"role": "user", "content": question.text},)
    shots = 4 if prompt == "few_shot" else 0
    messages = path_prompt(task.prompts, question.text, question.candidates, shots)
    return tuple(dict(message) for message in messages)


def prompt_identity(task: str) -> str:
    """Return the hash of the prompts that ``path_requests`` uses for a task."""
    asked = get_task(task)
    return "verbatim" if asked.verbatim else fingerprint(asked.prompts, "path")


def seed_of(row_id: str) -> int:
    """Return a seed that depends on the id alone."""
    return int(content_id("seed", row_id).removeprefix("seed-"), 16) % SEED_RANGE


def parse_path(question: Question, sample_index: int, student: str, outcome: Outcome) -> ReasoningPath | Rejection:
    """Return the path that a student's answer holds, or a rejection with a reason of ``REASONS``.

    The text is kept as it came but for white space and end tokens around it and a second question that the student went
    on with.
    """
    if not isinstance(outcome, Completion):
        return _rejected(
            question, sample_index, student, outcome.key, "request_failed", f"{outcome.reason}: {outcome.detail}"
        )
    if len(outcome.text) > MAX_TEXT_CHARS:
        detail = f"{len(outcome.text)} characters; at most {MAX_TEXT_CHARS}: lower max_tokens"
        return _rejected(question, sample_index, student, outcome.key, "too_long", detail)
    text = without_run_on(outcome.text, question.task)
    if not text:
        reason, detail = no_answer(outcome)
        return _rejected(question, sample_index, student, outcome.key, reason, detail)
    return path_row(question, sample_index, student, text, outcome)


def no_answer(outcome: Completion) -> tuple[str, str]:
    """Return the reason code and the detail of a completion without a text."""
    seen = f"finish reason {outcome.finish_reason}, {outcome.completion_tokens} tokens"
    if not outcome.thinking:
        return "empty", seen
    seen += f", {len(outcome.thinking)} characters of thinking"
    if outcome.finish_reason == "length":
        return "cut_in_thinking", f"{seen}: max_tokens counts thinking. Raise it, or switch thinking off"
    causes = "either the model stopped in its thinking, or the server's reasoning parser took the answer"
    return "only_thinking", f"{seen}: {causes}. Switch thinking off, or start the server without that parser"


def path_row(
    question: Question, sample_index: int, student: str, text: str, outcome: Completion | None = None
) -> ReasoningPath:
    """Return a path's row; without a completion its text stands for an answer that never came."""
    return ReasoningPath(
        id=content_id("path", question.id, student, sample_index, text),
        question_id=question.id,
        task=question.task,
        question=question.text,
        gold=question.gold,
        candidates=question.candidates,
        rationale=question.rationale,
        level=question.level,
        student=student,
        sample_index=sample_index,
        text=text,
        finish_reason=outcome.finish_reason if outcome else "failed",
        request_key=outcome.key if outcome else "",
        prompt_tokens=outcome.prompt_tokens if outcome else 0,
        completion_tokens=outcome.completion_tokens if outcome else 0,
        thinking=outcome.thinking if outcome else "",
    )


def without_run_on(text: str, task: str) -> str:
    """Return the text up to what begins the prompt's next question: the task's instruction, or a question's label.

    The tokens of a chat template around it are no part of it: a server that does not skip them sends ``72.<|im_end|>``.
    """
    stripped = strip_end_tokens(text).strip()
    # A student that begins by restating its orders has not run on yet.
    again = stripped.find(load(get_task(task).prompts).path.instruction, 1)
    kept = stripped[:again] if again > 0 else stripped
    found = RUN_ON.search(kept)
    return (kept[: found.start()] if found else kept).rstrip()


def _rejected(question: Question, index: int, student: str, key: str, reason: str, detail: str) -> Rejection:
    why = f"{REASONS[reason]} ({detail})"
    return Rejection.of(question.id, reason, why, question.id, student, index, request_key=key)
