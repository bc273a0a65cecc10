"""The definition of a task: its source format, answer family, prompt set and data set."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from lema_core.questions.drafts import Draft, Row, Unusable
from lema_core.questions.specs import QuestionsSpec

Family = Literal["numeric", "latex", "choice", "text"]
Shape = Literal["steps", "choice"]
Generator = Callable[[QuestionsSpec], Iterator[tuple[str, Draft]]]


@dataclass(frozen=True, slots=True)
class HubDataset:
    """A data set on the Hugging Face Hub, read as the Parquet files that the Hub makes of every data set."""

    id: str
    config: str = "default"
    train: str | None = "train"
    """The name of the split that holds the training questions, None where it has none."""
    test: str | None = "test"
    """The same for the test questions; ``*`` takes all splits together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A family of questions with one source format, one way to check an answer and one prompt set."""

    name: str
    family: Family
    """Which answers are equal: the matcher's family."""
    prompts: str
    """The prompt set: ``lema_core/prompts/<name>.toml``."""
    verbatim: bool = False
    """Its questions are whole prompts, sent word for word as one user message; no prompt of ours is around them."""
    shape: Shape = "steps"
    """Corrections name a step, or (CommonsenseQA) only the mistakes."""
    fields: tuple[str, ...] = ()
    """The columns that a row of the task's own format must have."""
    draft: Callable[[Row], Draft | Unusable] | None = None
    """How a row of the task's own format becomes a question; None where a field mapping is required."""
    hub: HubDataset | None = None
    generate: Generator | None = None
    """Generates the questions of a task without a source to read."""
    generator_version: str = ""
    """Enters the identity of generated questions."""
    on_duplicate: Literal["error", "reject"] = "error"
    """A published set may repeat itself; a user's own file should not."""
    repeats_texts: bool = False
    """The published set has one text under several ids, and the paper counts each."""
    revision: int = 1
    """Raised when the same rows would become other questions."""
