"""Reasoning paths sampled from a student (paper, section 2.1)."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from pydantic import Field

from lema_core.artifacts import ArtifactRef, Identity, PartWriter, Shard, Store
from lema_core.llm.endpoints import EndpointSpec
from lema_core.llm.parameters import Parameters, Params
from lema_core.llm.requests import Sampling, changed_params
from lema_core.questions import QuestionsSpec
from lema_core.reasoning_paths import PathRequest, PromptKind, parse_path, path_requests, prompt_identity
from lema_core.records import Question, ReasoningPath
from lema_core.stages import Section
from lema_core.stages.stage import ModelCalls, RowCount, RowStage, StageContext, questions_now, times
from lema_core.training.specs import arm_named


class StudentSpec(Section):
    """How reasoning paths are sampled from one student (the paper's M_r)."""

    endpoint: str
    """A name from ``[endpoints]``; or ``arm:NAME``, the model that is fine-tuned first, on the arm's rationales:
    there are no paths yet. Set prompt = "zero_shot" with it."""
    samples: int = Field(4, ge=1)
    """Paths a question."""
    temperature: float = Field(0.7, ge=0)
    top_p: float | None = Field(None, gt=0, le=1)
    max_tokens: int = Field(512, ge=1)
    params: Params = Field(default_factory=Parameters)
    """Request parameters of this stage alone, above those of its endpoint; see ``[endpoints.<name>] params``."""
    prompt: PromptKind = "few_shot"
    mistakes: bool = True
    """false: a teacher, whose right paths are CoT data (paper, section 3.2) and whose mistakes are not collected."""

    @property
    def arm(self) -> str | None:
        """Return the arm whose model is asked; None where an endpoint is."""
        return arm_named(self.endpoint)

    def sampling(self) -> Sampling:
        """Return the sampling parameters of a path; each question brings its own seed."""
        return Sampling(temperature=self.temperature, top_p=self.top_p, max_tokens=self.max_tokens, params=self.params)


@dataclass(frozen=True)
class ReasoningPaths(RowStage):
    """The paths of one student to the questions of a round."""

    name = "reasoning_paths"
    revision = 4
    record = ReasoningPath

    spec: StudentSpec
    student: EndpointSpec
    task: str
    questions: ArtifactRef
    source: QuestionsSpec | None = None
    """Where the questions can be read before their artifact exists."""

    @cached_property
    def identity(self) -> Identity:
        """The model, how it is asked, and the questions."""
        spec = self.spec.model_dump(exclude={"endpoint", "mistakes", "params"}) | {"student": self.student.identity}
        spec |= changed_params(self.spec.sampling(), self.student.params)
        return self._identity(spec, [self.questions], prompt_identity(self.task))

    @property
    def endpoints(self) -> Sequence[EndpointSpec]:
        """The student."""
        return (self.student,)

    def requests_per_row(self, store: Store) -> int:  # noqa: ARG002
        """The paths to each question."""
        return self.spec.samples

    def input_rows(self, store: Store) -> int:
        """Return the number of questions."""
        return store.manifest(self.questions).rows_out

    def row_bound(self, rows: RowCount) -> int | None:
        """Return the samples of all questions."""
        return times(rows(self.questions), self.spec.samples)

    def calls(self, store: Store, rows: RowCount) -> Sequence[ModelCalls]:
        """Return one request per path."""
        read = questions_now(store, self.questions, self.source)
        return (
            ModelCalls(
                endpoint=self.student, rows=self.row_bound(rows), max_tokens=self.spec.max_tokens,
                requests=read and (lambda: (path.request for path in self._asked(read()))),
                sampling=self.spec.sampling(),
            ),
        )  # fmt: skip

    def _asked(self, questions: Iterable[Question]) -> Iterator[PathRequest]:
        return path_requests(questions, self.spec.sampling(), self.spec.samples, self.spec.prompt)

    async def run_shard(self, context: StageContext, shard: Shard, part: PartWriter) -> None:
        """Sample the paths of a range of questions."""
        asked = list(self._asked(context.store.rows(self.questions, Question, shard.start, shard.stop)))
        part.rows_in = len(asked)
        (student,) = context.endpoints
        outcomes = context.ask(student, [path.request for path in asked], len(asked), part)
        for path in asked:
            part.add(parse_path(path.question, path.sample_index, student.identity, await anext(outcomes)))
