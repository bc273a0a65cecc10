"""The types of the mistakes, and a draw of mistakes by one student's shares of them (LEMMA, arXiv 2503.17439)."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from pydantic import Field

from lema_core import error_types as core
from lema_core.artifacts import ArtifactRef, Identity, PartWriter, Shard, Store
from lema_core.llm.endpoints import EndpointSpec
from lema_core.llm.parameters import Parameters, Params
from lema_core.llm.requests import CompletionRequest, Sampling, changed_params
from lema_core.questions import get_task
from lema_core.records import ErrorType, JudgedPath, Rejection
from lema_core.stages import Section
from lema_core.stages.stage import ModelCalls, RowCount, RowStage, StageContext


class ErrorTypesSpec(Section):
    """The type of each mistake, a column that arms filter by (``where.error_types``)."""

    endpoint: str | None = None
    """Who names the types, by one request per mistake; None: the reference corrector's diagnosis, which needs questions
    with rationales and costs nothing."""
    like: str | None = None
    """A student: of all students' mistakes those go to the corrector that together have the shares of types that this
    one's mistakes have, as many as possible."""
    seed: int = 0
    """Fixes the draw of ``like``."""
    temperature: float = Field(0.0, ge=0)
    max_tokens: int = Field(64, ge=1)
    params: Params = Field(default_factory=Parameters)
    """Request parameters of this stage alone, above those of its endpoint; see ``[endpoints.<name>] params``."""

    def sampling(self) -> Sampling:
        """Return the sampling parameters of an answer."""
        return Sampling(temperature=self.temperature, max_tokens=self.max_tokens, params=self.params)


@dataclass(frozen=True)
class ErrorTypes(RowStage):
    """The type of each mistake."""

    name = "error_types"
    revision = 1
    record = ErrorType

    spec: ErrorTypesSpec
    teacher: EndpointSpec | None
    task: str
    mistakes: ArtifactRef

    @cached_property
    def identity(self) -> Identity:
        """Who names the types, and the mistakes."""
        spec: dict[str, object] = {"task": get_task(self.task).name}
        if self.teacher:
            spec |= {"teacher": self.teacher.identity, "max_tokens": self.spec.max_tokens}
            spec |= {"temperature": self.spec.temperature, **changed_params(self.spec.sampling(), self.teacher.params)}
        return self._identity(spec, [self.mistakes], f"types {core.VERSION}")

    @property
    def endpoints(self) -> Sequence[EndpointSpec]:
        """The teacher, if there is one."""
        return (self.teacher,) if self.teacher else ()

    def input_rows(self, store: Store) -> int:
        """Return the number of mistakes."""
        return store.manifest(self.mistakes).rows_out

    def row_bound(self, rows: RowCount) -> int | None:
        """Return the number of mistakes."""
        return rows(self.mistakes)

    def calls(self, store: Store, rows: RowCount) -> Sequence[ModelCalls]:
        """Return one request per mistake, where a teacher names the types."""
        if self.teacher is None:
            return ()
        now = (lambda: self._requests(store)) if store.exists(self.mistakes) else None
        asked = ModelCalls(
            endpoint=self.teacher, rows=rows(self.mistakes), max_tokens=self.spec.max_tokens, requests=now,
            sampling=self.spec.sampling(),
        )  # fmt: skip
        return (asked,)

    def _requests(self, store: Store) -> Iterator[CompletionRequest]:
        return core.type_requests(store.rows(self.mistakes, JudgedPath), self.spec.sampling())

    async def run_shard(self, context: StageContext, shard: Shard, part: PartWriter) -> None:
        """Name the types of a range of mistakes."""
        if self.teacher is None:
            await super().run_shard(context, shard, part)
            return
        mistakes = list(context.store.rows(self.mistakes, JudgedPath, shard.start, shard.stop))
        part.rows_in = len(mistakes)
        (teacher,) = context.endpoints
        requests = core.type_requests(mistakes, self.spec.sampling())
        outcomes = context.ask(teacher, requests, len(mistakes), part)
        for mistake in mistakes:
            _add(part, core.parse_type(mistake, await anext(outcomes), teacher.identity))

    def write(self, store: Store, shard: Shard, part: PartWriter) -> None:
        """Diagnose a range of mistakes."""
        part.rows_in = shard.stop - shard.start
        for mistake in store.rows(self.mistakes, JudgedPath, shard.start, shard.stop):
            _add(part, core.diagnose_type(mistake))


def _add(part: PartWriter, row: ErrorType | Rejection) -> None:
    if isinstance(row, ErrorType):
        part.counts[f"type_{row.error_type}"] += 1
    part.add(row)


@dataclass(frozen=True)
class MistakesLike(RowStage):
    """The mistakes that together have the shares of types that one student's have; the others are rejected rows."""

    name = "mistakes_like"
    revision = 1
    record = JudgedPath

    like: str
    """The student's identity, as rows carry it."""
    seed: int
    mistakes: ArtifactRef
    types: ArtifactRef

    @cached_property
    def identity(self) -> Identity:
        """The student, the draw, the mistakes and their types."""
        return self._identity({"like": self.like, "seed": self.seed}, [self.mistakes, self.types])

    def row_bound(self, rows: RowCount) -> int | None:
        """Return the number of mistakes."""
        return rows(self.mistakes)

    def write(self, store: Store, shard: Shard, part: PartWriter) -> None:  # noqa: ARG002
        """Draw the mistakes."""
        rows = list(store.rows(self.types, ErrorType))
        types, students = ({row.path_id: getattr(row, name) for row in rows} for name in ("error_type", "student"))
        kept = core.draw_alike(types, students, self.like, self.seed)
        for mistake in store.rows(self.mistakes, JudgedPath):
            part.rows_in += 1
            reason = "no_type" if mistake.id not in types else "over_share"
            why = {"no_type": "its type is unknown", "over_share": "its type has its share already"}[reason]
            part.add(mistake if mistake.id in kept else Rejection.of(mistake.id, reason, why))
