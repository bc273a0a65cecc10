"""Pre-training: a small decoder of random weights learns generated problems, for studies that two cores can afford.

The model is a base like any other: `training.base`, a student's endpoint and `evaluation.base` name it ``pretrained``.
Its texts are solutions to generated problems, a share of them with a mistake, as a corpus has them; nothing is
downloaded. It is trained by the same program as the arms (`lema_core.training.sft`).
"""

import asyncio
import os
import random
import shutil
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pyarrow as pa
from pydantic import Field

from lema_core.artifacts import Identity, Store
from lema_core.artifacts.files import atomic_local
from lema_core.artifacts.parquet import write_table
from lema_core.llm.simulated.solutions import solve
from lema_core.prompts import correction_input, path_input
from lema_core.questions import QuestionsSpec, get_task
from lema_core.questions import identity as source_identity
from lema_core.records import Example, Question, content_id
from lema_core.reference_corrector import Problem, correct
from lema_core.stages import Section
from lema_core.stages.stage import FileContext, FileStage, RowCount, questions_of
from lema_core.stages.training import KEPT, files_under
from lema_core.training import TrainingSpec, run_training
from lema_core.training.launch import clean_environment, run_group
from lema_core.training.scratch import ShapeSpec

PRETRAINED = "pretrained"
"""What a run file calls the model: a base, and the endpoint that serves it."""
EXAMPLE_TOKENS = 110
"""Of a problem with its solution, on average; a correction has about twice as many."""
CORE_OPERATIONS = 1.8e10
"""Floating-point operations a second that one core reaches on a model of this size, with all that goes with a step."""
VOCABULARY_SAMPLE = 400
"""Problems whose corrections are read for the vocabulary only: no correction is trained."""


class PretrainingSpec(Section):
    """A model that the run itself trains from random weights; name it ``pretrained`` as a base and as an endpoint."""

    questions: QuestionsSpec
    """The problems: of a generator, and easier than those of [questions]."""
    wrong: float = Field(0.3, ge=0, le=1)
    """The share of the solutions that hold a mistake."""
    shape: ShapeSpec = ShapeSpec()
    steps: int = Field(3000, ge=1)
    """Optimiser steps."""
    batch_size: int = Field(64, ge=1)
    learning_rate: float = Field(1e-3, gt=0)
    seed: int = Field(0, ge=0)
    """Of the mistakes and of the order."""

    def estimate(self, utilisation: float) -> str:  # noqa: ARG002
        """Return what pre-training takes on a processor, in one line."""
        return self._cost(self.steps, self.batch_size)

    def estimate_tuning(self, spec: TrainingSpec, examples: int, utilisation: float) -> str:  # noqa: ARG002
        """Return what fine-tuning the model on ``examples`` examples takes on a processor, in one line."""
        return self._cost(spec.steps(examples), spec.batch_size)

    def _cost(self, steps: int, batch_size: int) -> str:
        weights, tokens = self.shape.weights, steps * batch_size * EXAMPLE_TOKENS
        minutes = 6 * weights * tokens / CORE_OPERATIONS / 60
        return (
            f"{weights / 1e6:.1f}M weights, {steps} steps of {batch_size} examples, {tokens / 1e6:.1f}M tokens: about "
            f"{max(1, round(minutes))} minutes of a core"
        )

    def training(self, base: Path) -> TrainingSpec:
        """Return how the model is trained from its random weights at ``base``."""
        return TrainingSpec(
            base=str(base), template="plain", max_steps=self.steps, batch_size=self.batch_size,
            learning_rate=self.learning_rate, schedule="cosine", warmup_ratio=0.03, max_grad_norm=1.0,
            max_length=self.shape.context, seed=self.seed,
        )  # fmt: skip


@dataclass(frozen=True)
class Pretraining(FileStage):
    """The model that is trained from random weights."""

    name = "pretraining"
    revision = 1

    spec: PretrainingSpec

    @cached_property
    def identity(self) -> Identity:
        """The problems, the model's shape, and how it is trained."""
        plain = self.spec.model_dump(mode="json", exclude={"questions"})
        trained = self.spec.training(Path("blank")).identity()
        return self._identity(plain | {"questions": source_identity(self.spec.questions), "training": trained})

    @property
    def arm(self) -> str:
        """What the page of its losses is called."""
        return PRETRAINED

    def row_bound(self, rows: RowCount) -> int | None:  # noqa: ARG002
        """Return the problems that are trained on at most."""
        return self.spec.questions.limit

    async def make(self, context: FileContext) -> str:
        """Write the solutions, the random weights, and train them; go on from the newest complete checkpoint.

        Raises:
            TrainingError: a program failed; the next run goes on from its last complete checkpoint.
        """
        store, started = context.store, time.monotonic()
        out = store.local_folder(self.ref)
        blank, texts = out / "blank", out / "texts.parquet"
        if not (blank / "config.json").is_file():
            await asyncio.to_thread(self._write_texts, out, texts)
            with atomic_local(out / "shape.json") as local:
                local.write_text(self.spec.shape.model_dump_json(), "utf-8")
            command = [sys.executable, "-m", "lema_core.training.scratch", "--shape", str(out / "shape.json")]
            command += ["--texts", str(texts), "--out", str(blank)]
            environment = clean_environment(os.environ, context.launch)
            await run_group(command, out / "log.txt", environment, context.on_event)
        result = await run_training(
            self.spec.training(blank), context.launch, out / "examples.parquet", out, context.on_event
        )
        for leftover in (*result.checkpoints, blank, out / "tokens"):
            shutil.rmtree(leftover, ignore_errors=True)
        for file in (texts, out / "examples.parquet"):
            file.unlink(missing_ok=True)
        self.publish(store, files_under(out, KEPT), started, result.start)
        return f"model in {result.model}"

    def _write_texts(self, out: Path, texts: Path) -> None:
        """Write the examples, and the texts that the vocabulary is made from: theirs, and some corrections."""
        examples = list(self.examples())
        out.mkdir(parents=True, exist_ok=True)
        columns = {name: [getattr(row, name) for row in examples] for name in Example.__dataclass_fields__}
        schema = pa.schema([(name, pa.float64() if name == "weight" else pa.string()) for name in columns])
        with atomic_local(out / "examples.parquet") as local:
            write_table(pa.table(columns, schema=schema), local)
        corrected = list(self._corrections())
        both = {
            "input": [row.input for row in examples] + [asked for asked, _ in corrected],
            "output": [row.output for row in examples] + [said for _, said in corrected],
        }
        with atomic_local(texts) as local:
            write_table(pa.table(both), local)

    def examples(self) -> Iterator[Example]:
        """Yield a solution to each problem, wrong by chance, in the format of CoT data."""
        prompts = get_task(self.spec.questions.task).prompts
        for question in questions_of(self.spec.questions):
            asked, said = path_input(prompts, question.text), self._solution(question, self.spec.wrong)
            row = content_id("example", "cot", question.id, asked, said)
            yield Example(id=row, kind="cot", source_id=question.id, question_id=question.id, input=asked, output=said)

    def _solution(self, question: Question, wrong: float) -> str:
        rng = random.Random(f"pretraining {self.spec.seed} {wrong} {question.id}")  # noqa: S311  no secret
        return solve(Problem(question.text, question.gold, question.rationale), rng, wrong)

    def _corrections(self) -> Iterator[tuple[str, str]]:
        prompts = get_task(self.spec.questions.task).prompts
        for _, question in zip(range(VOCABULARY_SAMPLE), questions_of(self.spec.questions), strict=False):
            problem, mistaken = Problem(question.text, question.gold, question.rationale), self._solution(question, 1.0)
            yield correction_input(prompts, question.text, mistaken), correct(problem, mistaken)


def pretrained_folder(store: Store, stage: Pretraining) -> str:
    """Return the folder of the model as a base."""
    return str(store.local_folder(stage.ref) / "model")
