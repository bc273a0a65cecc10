"""New questions from those that models fail on: created, found to be new, answered by majority (paper, section 2.2)."""

import asyncio
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from pydantic import Field

from lema_core import evolution as core
from lema_core import prompts
from lema_core.artifacts import ArtifactRef, Identity, PartWriter, Shard, Store
from lema_core.llm.endpoints import EndpointSpec
from lema_core.llm.parameters import Parameters, Params
from lema_core.llm.requests import CompletionRequest, Sampling, changed_params
from lema_core.questions import get_task
from lema_core.reasoning_paths import path_requests, prompt_identity
from lema_core.records import Correction, EvolvedQuestion, Question
from lema_core.stages import Section
from lema_core.stages.stage import ModelCalls, RowCount, RowStage, StageContext, questions_now


class EvolutionSpec(Section):
    """New questions from those that models fail on, and the rounds on them (paper, section 2.2 and appendix)."""

    endpoint: str
    """Writes the new questions (the paper's M_e)."""
    answers: str | None = None
    """Answers them; None: the endpoint that wrote them."""
    kinds: tuple[Literal["centric", "general"], ...] = Field(("centric",), min_length=1)
    """How seeds are drawn: from the questions in the accepted corrections, by their count there, or from all questions
    alike (the control). Of several the first is carried through all rounds, the others through round 1."""
    rounds: int = Field(1, ge=1)
    """Round 1 asks the run's students; each later one the model fine-tuned on the rounds before."""
    draws: int = Field(10_000, ge=1)
    """Seeds drawn a round, with replacement; every round takes the same seeds."""
    seed: int = Field(0, ge=0)
    """Fixes the draw."""
    similarity: float = Field(0.6, gt=0, le=1)
    """Jaccard similarity of word triples from which on two questions count as repetitions; one word changed in a
    question of 20 words leaves 0.71."""
    temperature: float = Field(0.7, ge=0)
    """Of the new questions."""
    max_tokens: int = Field(512, ge=1)
    votes: int = Field(3, ge=1)
    """Answers sampled for each new question; more than half must agree."""
    answer_temperature: float = Field(0.7, ge=0)
    answer_max_tokens: int = Field(1024, ge=1)
    params: Params = Field(default_factory=Parameters)
    """Request parameters of the new questions, above those of the endpoint; see ``[endpoints.<name>] params``."""
    answer_params: Params = Field(default_factory=Parameters)
    """The same of the answers to them."""

    @property
    def endpoints(self) -> tuple[str, str]:
        """Return who writes the new questions, and who answers them."""
        return self.endpoint, self.answers or self.endpoint

    def kinds_in(self, round_number: int) -> tuple[Literal["centric", "general"], ...]:
        """Return the kinds of a round."""
        return self.kinds if round_number == 1 else self.kinds[:1]

    def writing(self) -> Sampling:
        """Return the sampling parameters of a new question."""
        return Sampling(temperature=self.temperature, max_tokens=self.max_tokens, params=self.params)

    def answering(self) -> Sampling:
        """Return the sampling parameters of an answer to it."""
        return Sampling(
            temperature=self.answer_temperature, max_tokens=self.answer_max_tokens, params=self.answer_params
        )


@dataclass(frozen=True)
class EvolutionCreated(RowStage):
    """The questions that a model makes from seeds among the run's own questions, still without answers."""

    name = "evolution_created"
    revision = 2
    record = Question

    spec: EvolutionSpec
    kind: core.Kind
    round: int
    writer: EndpointSpec
    task: str
    questions: ArtifactRef
    corrections: ArtifactRef | None
    """Of the own questions; the centric kind counts them."""

    @cached_property
    def identity(self) -> Identity:
        """The seeds, how they are drawn, and who writes."""
        fields = {"draws", "seed", "temperature", "max_tokens"}
        named: dict[str, object] = {
            "kind": self.kind,
            "round": self.round,
            "writer": self.writer.identity,
            "task": get_task(self.task).name,
        }
        seeds = [self.corrections] if self.kind == "centric" and self.corrections else []
        texts = prompts.fingerprint(get_task(self.task).prompts, "evolution")
        named |= changed_params(self.spec.writing(), self.writer.params)
        return self._identity(self.spec.model_dump(include=fields) | named, [self.questions, *seeds], texts)

    @property
    def run_name(self) -> str:
        """The stage and the kind."""
        return f"{self.name} {self.kind}"

    @property
    def endpoints(self) -> Sequence[EndpointSpec]:
        """The writer."""
        return (self.writer,)

    def requests_per_row(self, store: Store) -> int:
        """Return the mean draws of a seed."""
        return max(1, self.spec.draws // max(1, self.input_rows(store)))

    def input_rows(self, store: Store) -> int:
        """Return the number of questions, which are the seeds."""
        return store.manifest(self.questions).rows_out

    def row_bound(self, rows: RowCount) -> int:  # noqa: ARG002
        """Return the draws."""
        return self.spec.draws

    def calls(self, store: Store, rows: RowCount) -> Sequence[ModelCalls]:  # noqa: ARG002
        """Return one request per draw; the seeds are known once the corrections are."""
        return (
            ModelCalls(
                endpoint=self.writer, rows=self.spec.draws, max_tokens=self.spec.max_tokens,
                sampling=self.spec.writing(),
            ),
        )  # fmt: skip

    async def run_shard(self, context: StageContext, shard: Shard, part: PartWriter) -> None:
        """Ask for a new question for each draw of a range of seeds.

        Raises:
            DataError: there is nothing to draw from.
        """
        corrections = context.store.rows(self.corrections, Correction) if self.corrections else ()
        questions = context.store.rows(self.questions, Question)
        # Every shard draws all seeds, as the draws depend on each other, and takes those of its range.
        counts = await asyncio.to_thread(
            core.seed_counts, self.kind, questions, corrections, self.spec.draws, self.spec.seed
        )
        rows = context.store.rows(self.questions, Question, shard.start, shard.stop)
        asked = list(core.evolution_requests(counts, rows, self.spec.writing(), self.round))
        part.rows_in = len(asked)
        (writer,) = context.endpoints
        outcomes = context.ask(writer, [drawn.request for drawn in asked], len(asked), part)
        for drawn in asked:
            part.add(core.parse_evolved(drawn.seed, drawn.draw, await anext(outcomes)))


@dataclass(frozen=True)
class EvolutionNovel(RowStage):
    """The created questions that repeat neither a known nor a test question, nor each other."""

    name = "evolution_novel"
    revision = 1
    record = Question

    spec: EvolutionSpec
    created: ArtifactRef
    known: Sequence[ArtifactRef]
    test_questions: Sequence[ArtifactRef]
    """Of every test set."""

    @cached_property
    def identity(self) -> Identity:
        """The created questions, and all that they must not repeat."""
        inputs = [self.created, *self.known, *self.test_questions]
        return self._identity({"similarity": self.spec.similarity}, inputs)

    def row_bound(self, rows: RowCount) -> int | None:
        """Return the number of created questions."""
        return rows(self.created)

    def write(self, store: Store, shard: Shard, part: PartWriter) -> None:  # noqa: ARG002
        """Let each created question through once: repetitions are seen over all of them."""
        tests = (row.text for ref in self.test_questions for row in store.rows(ref, Question))
        known = (row.text for ref in self.known for row in store.rows(ref, Question))
        for row in core.Novelty(tests, known, self.spec.similarity).screen(store.rows(self.created, Question)):
            part.rows_in += 1
            part.add(row)


@dataclass(frozen=True)
class Evolution(RowStage):
    """The evolved questions: the new ones that a majority of samples answers alike."""

    name = "evolution"
    revision = 4
    record = EvolvedQuestion

    spec: EvolutionSpec
    answerer: EndpointSpec
    task: str
    novel: ArtifactRef

    @cached_property
    def identity(self) -> Identity:
        """The new questions, who answers them, and how often."""
        fields = {"votes", "answer_temperature", "answer_max_tokens"}
        named: dict[str, object] = {"answerer": self.answerer.identity, "task": get_task(self.task).name}
        named |= changed_params(self.spec.answering(), self.answerer.params)
        return self._identity(self.spec.model_dump(include=fields) | named, [self.novel], prompt_identity(self.task))

    @property
    def endpoints(self) -> Sequence[EndpointSpec]:
        """The answerer."""
        return (self.answerer,)

    def requests_per_row(self, store: Store) -> int:  # noqa: ARG002
        """The answers to each question."""
        return self.spec.votes

    def input_rows(self, store: Store) -> int:
        """Return the number of new questions."""
        return store.manifest(self.novel).rows_out

    def row_bound(self, rows: RowCount) -> int | None:
        """Return the number of new questions."""
        return rows(self.novel)

    def calls(self, store: Store, rows: RowCount) -> Sequence[ModelCalls]:
        """Return the answers to every new question."""
        read = questions_now(store, self.novel, None)
        return (
            ModelCalls(
                endpoint=self.answerer, rows=rows(self.novel), per_row=self.spec.votes,
                max_tokens=self.spec.answer_max_tokens, requests=read and (lambda: self._requests(read())),
                sampling=self.spec.answering(),
            ),
        )  # fmt: skip

    def _requests(self, questions: Iterable[Question]) -> Iterator[CompletionRequest]:
        return (path.request for path in path_requests(questions, self.spec.answering(), self.spec.votes))

    async def run_shard(self, context: StageContext, shard: Shard, part: PartWriter) -> None:
        """Sample the answers of a range of new questions and take the majority's."""
        rows = list(context.store.rows(self.novel, Question, shard.start, shard.stop))
        part.rows_in = len(rows)
        (answerer,) = context.endpoints
        samples = self.spec.votes
        outcomes = context.ask(answerer, list(self._requests(rows)), samples * len(rows), part)
        for row in rows:
            answers = [await anext(outcomes) for _ in range(samples)]
            part.add(await asyncio.to_thread(core.answer_by_majority, row, answers))
