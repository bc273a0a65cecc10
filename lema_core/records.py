"""The rows that stages hand to each other, one frozen class per table.

A row carries what the next stage needs (a path carries its question and gold answer), so that every stage maps one
stream of rows to another and memory does not grow with the table. Ids are made from content: the same question, path
or correction has the same id in every run. No row holds a time, a URL or a key.
"""

import hashlib
from dataclasses import dataclass
from typing import Self

ID_HEX = 16
"""64 bits: among ten million rows of a kind two share an id with a chance of 3 in a million."""


def content_id(prefix: str, *parts: str | int | None) -> str:
    """Return ``prefix-<16 hex>``, a hash over the parts; lengths are hashed too, so ("ab", "c") is not ("a", "bc")."""
    # A lone surrogate in model text must not make a row impossible to name.
    data = [b"\0none" if part is None else str(part).encode("utf-8", "surrogatepass") for part in parts]
    # Hashed in one piece: a table of a million rows calls this some five million times.
    measured = b"".join([len(part).to_bytes(8, "big") + part for part in data])
    return f"{prefix}-{hashlib.sha256(measured).hexdigest()[:ID_HEX]}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A question whose answer can be checked (the paper's Q)."""

    id: str
    task: str
    text: str
    gold: str
    """The final answer, as the source has it."""
    rationale: str | None = None
    """The source's own solution as numbered steps (``Step 1: ...``), one per line, where it has one."""
    candidates: tuple[str, ...] | None = None
    """The texts of the choices (A, B, ...) of a multiple-choice question."""
    level: str | None = None
    subject: str | None = None
    origin: str = ""
    """Where it came from: ``train.jsonl:17``, ``arithmetic:42``, or the completion that created it."""
    seed_question_id: str | None = None
    """The question it was evolved from (paper, section 2.2)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EvolvedQuestion(Question):
    """A question that a model wrote and a majority of samples answered alike."""

    thinking: str = ""
    """What was written before the answer that became its rationale."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReasoningPath:
    """One sampled solution r of a student to a question."""

    id: str
    question_id: str
    task: str
    question: str
    gold: str
    candidates: tuple[str, ...] | None
    rationale: str | None
    level: str | None
    student: str
    sample_index: int
    text: str
    finish_reason: str
    request_key: str
    """The ledger's key of the completion it was paid by."""
    prompt_tokens: int
    completion_tokens: int
    """The tokens of its thinking are among them."""
    thinking: str = ""
    """What the student wrote before the path, separated by its marks or its server; no part of ``text``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgedPath(ReasoningPath):
    """A reasoning path with its verdict against the gold answer."""

    verdict: str
    """right, wrong, none, ambiguous or refused."""
    answer: str | None
    """The extracted final answer, None where there is none."""
    decided_by: str
    """The layer of the matcher that decided, ``scorer``, or the code of why a scorer gave no verdict."""
    reason: str = ""
    """What a scorer said of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Correction:
    """An accepted correction of a mistake: the wrong step, why, and the solution from there on."""

    id: str
    path_id: str
    question_id: str
    task: str
    question: str
    gold: str
    candidates: tuple[str, ...] | None
    level: str | None
    student: str
    corrector: str
    attempt: int
    """Which of the k tries on this path, from 0."""
    original: str
    """The mistaken path, as numbered steps."""
    wrong_answer: str | None
    step: int
    """1-based number of the first wrong step; 0 in the shape without steps (CommonsenseQA)."""
    n_steps: int
    explanation: str
    correct_solution: str
    """The corrected steps from ``step`` on, numbered."""
    spliced: str
    """The unchanged steps before ``step`` followed by the corrected ones: a whole solution."""
    false_step: int | None
    """The first step whose arithmetic the step checker proves false, None where it proves nothing."""
    request_key: str
    prompt_tokens: int
    completion_tokens: int
    step_agrees: bool | None = None
    """Whether the teacher's ``step`` is the step checker's ``false_step``; None where the checker proves nothing."""
    second_key: str | None = None
    """The ledger's key of the second teacher's correction that names the same step; None without a second teacher."""
    thinking: str = ""
    """What the teacher wrote before the correction."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorType:
    """The type of one mistake."""

    id: str
    path_id: str
    question_id: str
    student: str
    error_type: str
    """One of ``error_types.TYPES`` where a teacher named it, of ``error_types.DIAGNOSES`` else."""
    named_by: str
    """The teacher's identity, or ``reference``."""
    request_key: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rejection:
    """A row that did not pass a stage, with the reason why."""

    id: str
    parent_id: str
    """The row it was made from."""
    reason: str
    """A code, such as ``no_answer``; each stage documents its own."""
    detail: str
    """The reason in words, with what was seen."""
    text: str
    """What was rejected, as it came."""
    request_key: str | None = None

    @classmethod
    def of(
        cls,
        parent_id: str,
        reason: str,
        detail: str,
        *key: str | int,
        text: str = "",
        request_key: str | None = None,
    ) -> Self:
        """Return a rejection; ``key`` and the reason tell it from others: by default its parent is the key."""
        name = content_id("x", *(key or (parent_id,)), reason)
        return cls(id=name, parent_id=parent_id, reason=reason, detail=detail, text=text, request_key=request_key)


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """One fine-tuning example: the loss is on ``output`` only."""

    id: str
    kind: str
    """cot, correction, critique, refinement, fix_continue, fresh_restart, preference, desirable or undesirable."""
    source_id: str
    """The question, path or correction it was made from."""
    question_id: str
    input: str
    output: str
    weight: float = 1.0
    prefix: str = ""
    """Of preference pairs: the steps that both outputs begin with; read, not trained."""
    worse: str | None = None
    """Of preference pairs: the output to which ``output`` is preferred."""
    thinking: str = ""
    """What the model wrote before ``output``; trained only where ``training.thinking`` is ``keep``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MaskedExample(Example):
    """An example of whose output a part is read, not trained."""

    masked: tuple[int, ...] | None = None
    """The part's first character in ``output``, and the one after its last; None: all of the output is trained."""


Row = Question | ReasoningPath | JudgedPath | Correction | Rejection | Example
