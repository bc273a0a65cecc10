"""Verdicts on reasoning paths, and the mistakes that are corrected (paper, section 2.1: Ans(r) != a)."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import Literal

from pydantic import Field

from lema_core.artifacts import ArtifactRef, Identity, PartWriter, Shard, Store
from lema_core.llm.endpoints import EndpointSpec
from lema_core.questions import get_task
from lema_core.records import JudgedPath, ReasoningPath
from lema_core.scoring.pool import TextToScore
from lema_core.stages import Section
from lema_core.stages.failed_requests import JUDGE
from lema_core.stages.judging import judge_calls, judge_requests, judged_as, score_texts
from lema_core.stages.stage import ModelCalls, RowCount, RowStage, StageContext
from lema_core.verdicts import MistakeSelection, judge_path


class VerdictsSpec(Section):
    """How a path's final answer is judged."""

    unknown: Literal["reject", "wrong"] = "reject"
    """What becomes of a path whose answer the matcher can neither equal to nor distinguish from the gold answer, or of
    which the task's scorer cannot say whether it is right."""


class MistakesSpec(Section):
    """Which judged paths are corrected."""

    verdicts: tuple[Literal["wrong", "none", "ambiguous"], ...] = ("wrong",)
    """A path without an answer is its own class and by default no mistake."""
    per_question: int | None = Field(None, ge=1)
    """The largest number of mistakes of one question."""
    per_student: int | None = Field(None, ge=1)
    """The largest number of mistakes of one student on one question."""


@dataclass(frozen=True)
class Verdicts(RowStage):
    """The judged paths of one student."""

    name = "verdicts"
    revision = 3
    record = JudgedPath

    spec: VerdictsSpec
    task: str
    paths: ArtifactRef
    judge: EndpointSpec | None = None
    """What the task's scorer asks."""

    prefixes = (JUDGE,)

    @cached_property
    def identity(self) -> Identity:
        """How answers are compared or scored, and the paths."""
        judged = {"family": get_task(self.task).family} | judged_as(self.task, self.judge)
        return self._identity(self.spec.model_dump() | judged, [self.paths])

    @property
    def scored(self) -> bool:
        """Whether the task has a scorer."""
        return get_task(self.task).scorer is not None

    @property
    def endpoints(self) -> Sequence[EndpointSpec]:
        """The scorer's judge, if it has one."""
        return (self.judge,) if self.judge else ()

    def requests_per_row(self, store: Store) -> int:  # noqa: ARG002
        """Return what a scorer asks its judge of a path."""
        return max(1, judge_requests(self.task))

    def calls(self, store: Store, rows: RowCount) -> Sequence[ModelCalls]:  # noqa: ARG002
        """Return what a scorer asks its judge."""
        return judge_calls(self.task, self.judge, rows(self.paths))

    def input_rows(self, store: Store) -> int:
        """Return the number of paths."""
        return store.manifest(self.paths).rows_out

    def row_bound(self, rows: RowCount) -> int | None:
        """Return the number of paths."""
        return rows(self.paths)

    async def run_shard(self, context: StageContext, shard: Shard, part: PartWriter) -> None:
        """Judge a range of paths, by the task's scorer if it has one."""
        task = get_task(self.task)
        if task.scorer is None:
            await super().run_shard(context, shard, part)
            return
        paths = list(context.store.rows(self.paths, ReasoningPath, shard.start, shard.stop))
        part.rows_in = len(paths)
        texts = [TextToScore.of(path, path.text) for path in paths]
        (judge,) = context.endpoints if self.judge else (None,)
        for path, found in zip(paths, await score_texts(context, task, judge, part, texts), strict=True):
            part.counts[found.verdict] += 1
            part.add(judge_path(path, self.spec.unknown, found))

    def write(self, store: Store, shard: Shard, part: PartWriter) -> None:
        """Judge a range of paths by the matcher."""
        part.rows_in = shard.stop - shard.start
        for path in store.rows(self.paths, ReasoningPath, shard.start, shard.stop):
            judged = judge_path(path, self.spec.unknown)
            part.counts[judged.verdict if isinstance(judged, JudgedPath) else "unknown"] += 1
            part.add(judged)


@dataclass(frozen=True)
class Mistakes(RowStage):
    """The mistakes of all students that go to the corrector: caps and equal paths are seen over all of them."""

    name = "mistakes"
    revision = 3
    record = JudgedPath

    spec: MistakesSpec
    questions: ArtifactRef
    """Bounds the rows; the verdicts name them already."""
    verdicts: Sequence[ArtifactRef]

    @cached_property
    def identity(self) -> Identity:
        """How mistakes are chosen, and the verdicts of all students."""
        return self._identity(self.spec, self.verdicts)

    def row_bound(self, rows: RowCount) -> int:
        """Return the number of paths, or what the cap of a question lets pass."""
        paths = sum(rows(ref) or 0 for ref in self.verdicts)
        cap = self.spec.per_question
        return min(paths, cap * (rows(self.questions) or 0)) if cap else paths

    def write(self, store: Store, shard: Shard, part: PartWriter) -> None:  # noqa: ARG002
        """Select the mistakes, the first ones first."""
        judged = chain.from_iterable(store.rows(ref, JudgedPath) for ref in self.verdicts)
        selection = MistakeSelection(self.spec.verdicts, self.spec.per_question, self.spec.per_student)
        for row in selection.select(judged):
            part.rows_in += 1
            part.add(row)
