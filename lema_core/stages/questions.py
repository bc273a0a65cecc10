"""The questions of a run (the paper's Q): read or generated, checked, given ids; and those kept back from every arm."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from pydantic import Field

from lema_core import questions as source
from lema_core.artifacts import ArtifactRef, Identity, PartWriter, Shard, Store
from lema_core.evaluation.checkpoint_selection import check_training_questions_left, hold_out
from lema_core.questions import QuestionsSpec, read_questions
from lema_core.questions.near_duplicates import KnownQuestions
from lema_core.records import Question
from lema_core.stages import Section
from lema_core.stages.stage import RowCount, RowStage, questions_of


@dataclass(frozen=True)
class Questions(RowStage):
    """Every question that a spec selects."""

    name = "questions"
    revision = 2
    record = Question

    spec: QuestionsSpec

    @cached_property
    def identity(self) -> Identity:
        """The source's bytes, not its place."""
        return self._identity(source.identity(self.spec))

    def row_bound(self, rows: RowCount) -> int:  # noqa: ARG002
        """Count the source's questions: that costs no request, and finds a source that cannot be used."""
        return sum(1 for _ in questions_of(self.spec))

    def write(self, store: Store, shard: Shard, part: PartWriter) -> None:  # noqa: ARG002
        """Read the source in its order; it must still be what the artifact is named by."""
        named: Any = self.identity.spec
        for row in read_questions(self.spec, named["source"]):
            part.rows_in += 1
            part.add(row)


class SelectionSpec(Section):
    """How an arm's checkpoint is chosen: on training questions that no arm is trained on. Without it: the last one."""

    questions: int = Field(200, ge=1)
    """Training questions kept back from every arm."""
    seed: int = Field(0, ge=0)
    """Fixes which."""
    protocol: Literal["held_out", "best_on_test"] = "held_out"
    """best_on_test: every checkpoint answers the test questions too, and the paper's figure, the best of them, stands
    in an extra column that says that it leaks. It never decides."""
    at_once: int = Field(1, ge=1)
    """Checkpoints served and measured at the same time; each takes the memory of a server. ``{slot}`` in the command of
    [evaluation.serve] counts them from 0, as in ``env CUDA_VISIBLE_DEVICES={slot} vllm serve ...``. Never identity."""


@dataclass(frozen=True)
class HeldOut(RowStage):
    """A seeded draw of the training questions."""

    name = "held_out"
    revision = 1
    record = Question

    spec: SelectionSpec
    questions: ArtifactRef
    test_questions: Sequence[ArtifactRef] = ()
    """Test sets whose questions are not drawn: a choice on them would leak."""

    @cached_property
    def identity(self) -> Identity:
        """How many questions are drawn, from which, and which are left out."""
        drawn = self.spec.model_dump(include={"questions", "seed"})
        return self._identity(drawn, [self.questions, *self.test_questions])

    def row_bound(self, rows: RowCount) -> int:
        """Return the questions that are drawn.

        Raises:
            DataError: none would be left to train on.
        """
        check_training_questions_left(rows(self.questions) or 0, self.spec.questions)
        return self.spec.questions

    def write(self, store: Store, shard: Shard, part: PartWriter) -> None:  # noqa: ARG002
        """Draw the questions."""
        tests = KnownQuestions(row.text for ref in self.test_questions for row in store.rows(ref, Question))
        rows = (row for row in store.rows(self.questions, Question) if row.text not in tests)
        chosen = hold_out(rows, self.spec.questions, self.spec.seed)
        part.rows_in = len(chosen)
        for question in chosen:
            part.add(question)
