"""What is measured (paper, section 3.3): greedy answers to held-out questions, sampled ones for maj@k, delta-PPL."""

import asyncio
import os
import sys
import time
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Annotated, Self

from pydantic import Field, model_validator

from lema_core.artifacts import ArtifactRef, Identity, PartWriter, Shard, Store
from lema_core.evaluation.accuracy import answer_of, judge_answer, judged_answer
from lema_core.evaluation.self_correction import has_answer, second_prompt_identity, second_turns
from lema_core.llm import embedded
from lema_core.llm.endpoints import WEIGHTS, EndpointSpec
from lema_core.llm.parameters import Parameters, Params
from lema_core.llm.requests import CompletionRequest, Outcome, Sampling, changed_params
from lema_core.questions import QuestionsSpec, get_task
from lema_core.reasoning_paths import PathRequest, PromptKind, path_requests, prompt_identity
from lema_core.records import JudgedPath, Question
from lema_core.scoring.pool import TextToScore
from lema_core.stages import Section
from lema_core.stages.failed_requests import JUDGE
from lema_core.stages.judging import judge_calls, judge_requests, judged_as, score_texts
from lema_core.stages.stage import (
    FileContext,
    FileStage,
    ModelCalls,
    RowCount,
    RowStage,
    StageContext,
    questions_now,
    times,
)
from lema_core.training import MODEL_FOLDER
from lema_core.training.launch import clean_environment, run_group

PERPLEXITY_FILE = "perplexity.parquet"
"""What the delta-PPL program writes: one row per pair."""
GREEDY_ONLY: dict[str, object] = {"samples": 0, "pass_at": (), "two_turns": False, "perplexity": 0}
"""Options that leave out all that is measured beside the greedy answers."""


class EvaluationSpec(Section):
    """How the base model and the arms are measured: greedily, on the same held-out questions."""

    base: str | None = None
    """The endpoint of the base model; None leaves it out."""
    base_prompt: PromptKind = "few_shot"
    """The base model was never trained on our format: four examples give it its best chance."""
    serve: EndpointSpec | None = None
    """How a fine-tuned checkpoint is served: a command with ``{model}`` (its folder) and ``{port}``. Its ``identity``
    distinguishes ways of serving: under a new one everything is measured anew."""
    max_tokens: int = Field(2048, ge=1)
    samples: int = Field(0, ge=0)
    """Sampled answers a question for maj@k and pass@k, beside the greedy one; 0 asks for none."""
    pass_at: tuple[Annotated[int, Field(ge=1)], ...] = ()
    """The k of pass@k, none above `samples`; none given: the powers of two up to `samples`."""
    two_turns: bool = False
    """Also show each model its own greedy answer and ask it to check and correct it: the share right at turn one and
    two, wrong to right and right to wrong. One more request a question."""
    temperature: float = Field(0.7, gt=0)
    """Of the sampled answers."""
    perplexity: int = Field(0, ge=0)
    """The number of pairs of a mistaken and a corrected path for the delta-PPL of each arm; 0 leaves it out."""
    likelihood: int = Field(0, ge=0)
    """The number of questions of each test set whose gold solutions each arm is scored by: their negative
    log-likelihood, in one forward pass. The first ones of its source, which may be more than its `limit`, and they are
    then kept out of training too. 0 leaves it out."""
    top_p: float | None = Field(None, gt=0, le=1)
    params: Params = Field(default_factory=Parameters)
    """Request parameters of all answers, above those of the endpoint; see ``[endpoints.<name>] params``."""

    @model_validator(mode="after")
    def _samples_are_enough(self) -> Self:
        if self.pass_at and max(self.pass_at) > self.samples:
            raise ValueError(
                f"pass_at = {max(self.pass_at)} needs as many samples, and samples is {self.samples}: raise samples"
            )
        return self

    def sampling(self) -> Sampling:
        """Return the sampling parameters of the answers for maj@k; each question brings its own seed."""
        return Sampling(temperature=self.temperature, top_p=self.top_p, max_tokens=self.max_tokens, params=self.params)

    def greedy(self) -> Sampling:
        """Return the sampling parameters of the greedy answers."""
        return Sampling(temperature=0, max_tokens=self.max_tokens, seed=0, params=self.params)

    @property
    def served_as(self) -> str:
        """What distinguishes this way of serving checkpoints; empty if a command serves them as they are.

        It is the identity that ``serve`` gives, else that of the embedded server, which converts to Q8_0.
        """
        if self.serve is None:
            return ""
        if self.serve.identity not in {self.serve.model, WEIGHTS}:
            return self.serve.identity
        return "Q8_0" if embedded.__name__ in (self.serve.command or ()) else ""

    def checkpoint(self, folder: str, identity: str, slot: int = 0) -> EndpointSpec:
        """Return how a checkpoint's folder is served; ``slot`` keeps servers apart that run at the same time."""
        if self.serve is None:
            raise LookupError("a run with training and evaluation has [evaluation.serve]; the run file was not checked")
        served = f"{identity} served as {self.served_as}" if self.served_as else identity
        named = {"name": "fine-tuned", "model": folder, "identity": served}
        # A slot of the run file holds as many servers as the command has replicas.
        first = {"first_slot": self.serve.first_slot + slot * self.serve.replicas}
        return self.serve.model_copy(update=named | first)


@dataclass(frozen=True)
class Evaluation(RowStage):
    """A model's greedy answers."""

    name = "evaluation"
    revision = 4
    record = JudgedPath

    spec: EvaluationSpec
    subject: str
    """The arm that is measured, or ``base``."""
    model: EndpointSpec
    prompt: PromptKind
    task: str
    questions: ArtifactRef
    source: QuestionsSpec | None = None
    """Where the questions can be read before their artifact exists."""
    judge: EndpointSpec | None = None
    """What the task's scorer asks."""

    prefixes = ("", JUDGE)

    @cached_property
    def identity(self) -> Identity:
        """The model, how it is asked, and the questions."""
        return self._identity(
            {"max_tokens": self.spec.max_tokens} | self._asked_as, [self.questions], prompt_identity(self.task)
        )

    @property
    def sampling(self) -> Sampling:
        """How the answers are drawn."""
        return self.spec.greedy()

    @property
    def _asked_as(self) -> dict[str, object]:
        named = {"model": self.model.identity, "prompt": self.prompt, "task": get_task(self.task).name}
        return named | changed_params(self.sampling, self.model.params) | judged_as(self.task, self.judge)

    @property
    def run_name(self) -> str:
        """The stage and the model."""
        return f"{self.name} {self.subject}"

    @property
    def endpoints(self) -> Sequence[EndpointSpec]:
        """The model, and the scorer's judge."""
        return (self.model, self.judge) if self.judge else (self.model,)

    @property
    def scored(self) -> bool:
        """Whether the task has a scorer."""
        return get_task(self.task).scorer is not None

    @property
    def samples(self) -> int:
        """Answers to each question."""
        return 1

    def requests_per_row(self, store: Store) -> int:  # noqa: ARG002
        """Return the answers to each question, and what a judge is asked of them."""
        return self.samples * (1 + judge_requests(self.task))

    def input_rows(self, store: Store) -> int:
        """Return the number of questions."""
        return store.manifest(self.questions).rows_out

    def row_bound(self, rows: RowCount) -> int | None:
        """Return the answers to all questions."""
        return times(rows(self.questions), self.samples)

    def calls(self, store: Store, rows: RowCount) -> Sequence[ModelCalls]:
        """Return one request per answer."""
        read = questions_now(store, self.questions, self.source)
        return (
            ModelCalls(
                endpoint=self.model, rows=self.row_bound(rows), max_tokens=self.spec.max_tokens,
                requests=read and (lambda: (answer.request for answer in self.requests(read()))),
                sampling=self.sampling,
            ),
            *judge_calls(self.task, self.judge, self.row_bound(rows)),
        )  # fmt: skip

    def requests(self, questions: Iterable[Question]) -> Iterator[PathRequest]:
        """Yield one request per question, at temperature 0."""
        return path_requests(questions, self.sampling, 1, self.prompt)

    async def run_shard(self, context: StageContext, shard: Shard, part: PartWriter) -> None:
        """Ask a range of questions and judge the answers."""
        asked = list(self.requests(context.store.rows(self.questions, Question, shard.start, shard.stop)))
        part.rows_in = len(asked)
        model, *_ = context.endpoints
        outcomes = context.ask(model, [answer.request for answer in asked], len(asked), part)
        await self._judge_answers(context, asked, outcomes, part)

    async def _judge_answers(
        self, context: StageContext, asked: Sequence[PathRequest], outcomes: AsyncIterator[Outcome], part: PartWriter
    ) -> None:
        model, *judges = context.endpoints
        task = get_task(self.task)
        if task.scorer is None:
            for answer in asked:
                row = await asyncio.to_thread(judge_answer, answer, model.identity, await anext(outcomes))
                part.counts[row.verdict] += 1
                part.add(row)
            return
        answers = [answer_of(answer, model.identity, await anext(outcomes)) for answer in asked]
        texts = [TextToScore.of(path, path.text) for path in answers if not isinstance(path, JudgedPath)]
        scored = iter(await score_texts(context, task, next(iter(judges), None), part, texts))
        for path in answers:
            row = path if isinstance(path, JudgedPath) else judged_answer(path, next(scored))
            part.counts[row.verdict] += 1
            part.add(row)


@dataclass(frozen=True)
class Votes(Evaluation):
    """A model's sampled answers, several to each question, for maj@k."""

    name = "votes"
    revision = 4

    @cached_property
    def identity(self) -> Identity:
        """The model, how it is sampled, and the questions."""
        drawn = self.spec.model_dump(include={"samples", "temperature", "top_p", "max_tokens"})
        return self._identity(drawn | self._asked_as, [self.questions], prompt_identity(self.task))

    @property
    def samples(self) -> int:
        """Answers to each question."""
        return self.spec.samples

    @property
    def sampling(self) -> Sampling:
        """How the answers are drawn; each question has its own seed."""
        return self.spec.sampling()

    def requests(self, questions: Iterable[Question]) -> Iterator[PathRequest]:
        """Yield the samples of each question; each question has its own seed, and more samples keep the first."""
        return path_requests(questions, self.sampling, self.spec.samples, self.prompt)


@dataclass(frozen=True)
class SelfCorrection(Evaluation):
    """A model's answers after it was shown its own greedy ones and asked to check and correct them."""

    name = "self_correction"
    revision = 1

    first: ArtifactRef = field(kw_only=True)
    """The greedy answers."""

    @cached_property
    def identity(self) -> Identity:
        """The first answers, how they are shown, and how the model is asked."""
        asked = {"max_tokens": self.spec.max_tokens} | self._asked_as
        return self._identity(asked, [self.first], second_prompt_identity(self.task))

    def input_rows(self, store: Store) -> int:
        """Return the number of first answers."""
        return store.manifest(self.first).rows_out

    def row_bound(self, rows: RowCount) -> int | None:
        """Return the first answers."""
        return rows(self.first)

    def calls(self, store: Store, rows: RowCount) -> Sequence[ModelCalls]:
        """Return one request per first answer; they can be written once these exist."""

        def written() -> Iterator[CompletionRequest]:
            turns = second_turns(store.rows(self.first, JudgedPath), self.sampling, self.prompt)
            return (turn.request for turn in turns)

        return (
            ModelCalls(
                endpoint=self.model, rows=self.row_bound(rows), max_tokens=self.spec.max_tokens,
                requests=written if store.exists(self.first) else None, sampling=self.sampling,
            ),
            *judge_calls(self.task, self.judge, self.row_bound(rows)),
        )  # fmt: skip

    async def run_shard(self, context: StageContext, shard: Shard, part: PartWriter) -> None:
        """Ask about a range of first answers and judge the second ones; an answer that never came stays as it is."""
        firsts = list(context.store.rows(self.first, JudgedPath, shard.start, shard.stop))
        asked = list(second_turns(firsts, self.sampling, self.prompt))
        part.rows_in = len(firsts)
        model, *_ = context.endpoints
        outcomes = context.ask(model, [turn.request for turn in asked], len(asked), part)
        await self._judge_answers(context, asked, outcomes, part)
        for first in firsts:
            if not has_answer(first):
                part.counts[first.verdict] += 1
                part.add(first)


@dataclass(frozen=True)
class Perplexity(FileStage):
    """A fine-tuned model's perplexities of the first ``pairs`` corrections."""

    name = "perplexity"
    revision = 1

    arm: str
    pairs: int
    model: ArtifactRef
    corrections: ArtifactRef
    task: str = ""
    """Whose prompts the corrections' inputs are made with; rows name a task of one's own by its name only."""

    @cached_property
    def identity(self) -> Identity:
        """The model and the corrections."""
        return self._identity({"pairs": self.pairs}, [self.model, self.corrections])

    @property
    def run_name(self) -> str:
        """The stage and the arm."""
        return f"{self.name} {self.arm}"

    def row_bound(self, rows: RowCount) -> int:  # noqa: ARG002
        """Return the pairs."""
        return self.pairs

    async def make(self, context: FileContext) -> str:
        """Run the forward passes.

        Raises:
            TrainingError: the program failed; its own message is the text.
        """
        store, started = context.store, time.monotonic()
        out = store.local_folder(self.ref)
        command = [sys.executable, "-m", "lema_core.training.perplexity"]
        command += ["--limit", str(self.pairs), "--out", str(out / PERPLEXITY_FILE)]
        command += ["--model", f"{store.local_folder(self.model)}/{MODEL_FOLDER}"]
        command += ["--corrections", str(store.local_folder(self.corrections)), "--task", self.task]
        seen: dict[str, object] = {}
        await run_group(command, out / "log.txt", clean_environment(os.environ, context.launch), seen.update)
        self.publish(store, [PERPLEXITY_FILE], started, seen)
        return f"{seen.get('pairs')} pairs"
