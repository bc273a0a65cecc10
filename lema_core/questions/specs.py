"""What a set of questions is made from, as frozen pydantic models: the part of a run file that selects questions.

Everything here but ``path`` is content and belongs to the artifact's identity; the file behind ``path`` enters it by
its bytes (``lema_core.questions.identity``), so a moved file is the same set and an edited file is another one.
"""

from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from lema_core.artifacts.files import check_place
from lema_core.errors import ConfigError

Operation = Literal["add", "subtract", "times"]


class FieldMapping(BaseModel):
    """Which field of a row holds what; a dot goes one level down (``question.stem``)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    question: str = "question"
    gold: str = "answer"
    """The final answer: text, a number, or (the same field as ``rationale``) a worked solution that ends in it."""
    rationale: str | None = None
    """A worked solution, one step per line; its steps are numbered if they are not."""
    candidates: str | None = None
    """The list of choices of a multiple-choice question."""
    level: str | None = None
    subject: str | None = None
    id: str | None = None
    """The source's own id. Without it a question is identified by its text."""


class ArithmeticOptions(BaseModel):
    """How hard the problems of the embedded generator are."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    min_steps: int = Field(default=2, ge=1, le=6)
    max_steps: int = Field(default=4, ge=1, le=6)
    """Steps, each one operation; a problem's ``level`` is its number of steps."""
    largest_number: int = Field(default=20, ge=2, le=100)
    """The largest number in a question (1 is the smallest)."""
    largest_value: int = Field(default=99, ge=5)
    """The largest value that a step may reach; none goes below 1."""
    operations: tuple[Operation, ...] = ("add", "subtract", "times")
    """``times`` starts from boxes of equal size, or doubles or triples; the others add or take away."""

    @model_validator(mode="after")
    def _steps_are_a_range(self) -> Self:
        if self.min_steps > self.max_steps:
            raise ValueError(f"min_steps is {self.min_steps}, above max_steps {self.max_steps}; swap them")
        if self.largest_number > self.largest_value:
            raise ValueError("largest_number is above largest_value: no problem could start; raise largest_value")
        if not self.operations:
            raise ValueError("operations is empty; name at least one of add, subtract, times")
        return self


class QuestionsSpec(BaseModel):
    """A task's questions, and where they come from: a file, a data set on the Hugging Face Hub, or a generator.

    With ``path`` the file is read. Without it a task with a generator generates, and any other is read from the Hub.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    task: str
    """A bundled task, such as arithmetic, gsm8k, numeric; a file of your own with a `Task`, relative to the run file,
    as my_task.py or my_task.py:NAME; or an installed entry point of the group lema.tasks. Naming a file runs it."""
    path: str | None = None
    """A JSONL, JSON, CSV, TSV, Parquet or XML file, also packed (.gz, .zst, ...), or any fsspec URL of one."""
    mapping: FieldMapping | None = None
    """Set for a file of your own fields; without it the task's own format is expected."""
    hub: str | None = None
    """A data set id on the Hub, in place of the task's own."""
    config: str | None = None
    """The configuration of the data set on the Hub, in place of the task's own."""
    hub_split: str | None = None
    """The name of the split on the Hub, in place of the task's own for `split`."""
    hub_revision: str | None = None
    """A commit of the data set's Parquet branch; without it the newest is taken, and its commit becomes identity."""
    split: Literal["train", "test"] = "train"
    """Which part of a data set on the Hub or of a generator; a generator's parts are disjoint. Files have no parts."""
    offset: int = Field(default=0, ge=0)
    """How many rows of the source are skipped."""
    limit: int | None = Field(default=None, ge=1)
    """How many rows are read at most; a generator needs it."""
    seed: int = Field(default=0, ge=0)
    """The generator's seed."""
    arithmetic: ArithmeticOptions = ArithmeticOptions()
    on_duplicate: Literal["error", "reject"] | None = None
    """Two equal questions: stop, or keep the first and reject the other. Without it, what the task says."""

    @field_validator("path")
    @classmethod
    def _path_is_a_place(cls, path: str | None) -> str | None:
        if path is not None:
            try:
                check_place(path, "path")
            except ConfigError as error:
                raise ValueError(str(error)) from None
        return path

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if self.path is not None and self.hub is not None:
            raise ValueError("path and hub are both set; a set of questions has one source: remove one of them")
        return self

    @property
    def called(self) -> str:
        """Return what a table calls these questions as a test set: the name of their task."""
        # A task of one's own is FILE.py:NAME#HASH.
        return Path(self.task.partition("#")[0]).name.partition(".py")[0]


class TestSet(QuestionsSpec):
    """One of several test sets, ``[[test_questions]]``: its questions, and what the tables call it.

    A task's name alone stands for its test part, as in ``test_questions = ["gsm8k", "svamp", "asdiv"]``.
    """

    __test__ = False  # no test class, whatever pytest makes of its name

    name: str | None = Field(None, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """What tables call it; None: the name of its task."""

    @model_validator(mode="before")
    @classmethod
    def _name_stands_for_the_test_part(cls, given: Any) -> Any:
        found = {"task": given} if isinstance(given, str) else given
        # An entry of a list is a test set, so the part of a data set that it means is the test part.
        is_file = isinstance(found, dict) and found.get("path") is not None
        return {"split": "test", **found} if isinstance(found, dict) and not is_file else found

    @property
    def called(self) -> str:
        """Return what tables call this test set."""
        return self.name or super().called
