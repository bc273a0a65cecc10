"""The questions of a run: read or generated, checked, given ids (the paper's Q)."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from lema_core import questions as source
from lema_core.artifacts import Identity, PartWriter, Shard, Store
from lema_core.questions import QuestionsSpec, read_questions
from lema_core.records import Question
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
