"""Questions with checkable answers: the first stage.

``read_questions`` streams what a ``QuestionsSpec`` selects, as ``Question`` rows and, for what the task leaves out,
``Rejection`` rows; ``identity`` gives what decides them. A source that cannot be used raises before anything is paid.
Nothing here samples, prompts or stores.
"""

from lema_core.questions.reading import (
    detect_task,
    identity,
    pinned,
    question_id,
    read_questions,
    source_fingerprint,
    with_own_source,
)
from lema_core.questions.specs import ArithmeticOptions, FieldMapping, QuestionsSpec, TestSet
from lema_core.questions.tasks import TASKS, HubDataset, Task, get_task, reference_of

__all__ = [
    "TASKS",
    "ArithmeticOptions",
    "FieldMapping",
    "HubDataset",
    "QuestionsSpec",
    "Task",
    "TestSet",
    "detect_task",
    "get_task",
    "identity",
    "pinned",
    "question_id",
    "read_questions",
    "reference_of",
    "source_fingerprint",
    "with_own_source",
]
