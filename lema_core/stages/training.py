"""Fine-tuning: an arm's examples as tokens, the training on them (paper, section 2.3), the choice of a checkpoint.

Tokens are made once and mapped into memory by every rank of every run on them.
"""

import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any

from lema_core.artifacts import ArtifactRef, Identity, Store
from lema_core.errors import ArtifactError
from lema_core.evaluation.checkpoint_selection import (
    SELECTION_FILE,
    CheckpointScore,
    score_checkpoints,
    write_selection,
)
from lema_core.llm.endpoints import EndpointSpec
from lema_core.records import JudgedPath
from lema_core.stages.evaluation import Evaluation, EvaluationSpec
from lema_core.stages.judging import judge_calls
from lema_core.stages.questions import SelectionSpec
from lema_core.stages.stage import FileContext, FileStage, ModelCalls, RowCount, fingerprint_of_model, times
from lema_core.training import METRICS_FILE, MODEL_FOLDER, SPEC_FILE, TrainingSpec, run_on_tokens, run_tokenising
from lema_core.training.candidates import RUN_FOLDER, Candidates, place_model, whole_checkpoints
from lema_core.training.lengths import TrainedOn, count_training
from lema_core.training.specs import load_specs

TOKEN_FILES = ("meta.json", "rejected.parquet", "tokens.arrow")
KEPT = (MODEL_FOLDER, METRICS_FILE, SPEC_FILE)
"""What of the output folder is the artifact; checkpoints and the log belong to the run."""
Tables = Mapping[int, ArtifactRef]
"""By a checkpoint's step, the artifact of its judged answers."""


@dataclass(frozen=True)
class Tokens(FileStage):
    """The tokenised examples of an arm."""

    name = "tokens"
    revision = 1

    spec: TrainingSpec
    arm: str
    mixture: ArtifactRef
    start: ArtifactRef | None = None
    """The model of another arm that training starts from, in place of the spec's base."""

    @cached_property
    def identity(self) -> Identity:
        """The tokenizer, the format, and the examples."""
        base = self.start.fingerprint if self.start else fingerprint_of_model(self.spec.base)
        return self._identity(self.spec.tokens_identity() | {"base": base}, [self.mixture])

    @property
    def run_name(self) -> str:
        """The stage and the arm."""
        return f"{self.name} {self.arm}"

    async def make(self, context: FileContext) -> str:
        """Tokenise in a process of its own.

        Raises:
            TrainingError: the examples do not fit the base model or the objective, or none is left.
        """
        store, started = context.store, time.monotonic()
        counts: dict[str, Any] = {}
        spec = with_base(store, self.spec, self.start)
        await run_tokenising(spec, store.local_folder(self.mixture), store.local_folder(self.ref), counts.update)
        counts.pop("event")
        self.publish(store, TOKEN_FILES, started, counts)
        return f"{self.arm}: {counts['examples']} examples, {counts['tokens']} tokens; {counts['rejected']} rejected"


def with_base(store: Store, spec: TrainingSpec, start: ArtifactRef | None) -> TrainingSpec:
    """Return the spec with the model of another arm as its base; unchanged if there is none."""
    if start is None:
        return spec
    return spec.model_copy(update={"base": str(store.local_folder(start) / MODEL_FOLDER)})


@dataclass(frozen=True)
class CheckpointChoice:
    """How one of a run's checkpoints becomes the model: all of them answer the same questions, greedily."""

    spec: SelectionSpec
    evaluation: EvaluationSpec
    questions: Mapping[str, tuple[str, ArtifactRef]]
    """The task and the questions by name: ``held_out`` decides, ``test`` is shown beside it."""
    judges: Mapping[str, EndpointSpec] = field(default_factory=dict)
    """What scorers ask, by task."""

    def evaluations(self, model: EndpointSpec, subject: str = "") -> dict[str, Evaluation]:
        """Return what a model is asked, by the questions' name."""
        return {
            name: Evaluation(self.evaluation, subject, model, "zero_shot", task, questions, judge=self.judges.get(task))
            for name, (task, questions) in self.questions.items()
        }

    @property
    def fingerprints(self) -> dict[str, str]:
        """What decides the choice: the answers of a model without a name.

        Serving, questions, prompt, cap and revision are in there.
        """
        unnamed = self.evaluation.checkpoint("", "").model_copy(update={"identity": self.evaluation.served_as})
        return {name: stage.identity.fingerprint for name, stage in self.evaluations(unnamed).items()}


@dataclass(frozen=True)
class Training(FileStage):
    """The model that is fine-tuned on an arm's tokens: the last checkpoint, or the one that is chosen."""

    name = "training"
    revision = 2

    spec: TrainingSpec
    arm: str
    tokens: ArtifactRef
    start: ArtifactRef | None = None
    """The model of another arm that training starts from, in place of the spec's base."""
    choice: CheckpointChoice | None = None

    @cached_property
    def identity(self) -> Identity:
        """What decides the weights; a base model on this machine enters by its hash."""
        base = self.start.fingerprint if self.start else fingerprint_of_model(self.spec.base)
        chosen = {}
        if self.choice:
            chosen = {"selection": {**self.choice.fingerprints, "save_steps": self.spec.save_steps}}
        return self._identity(self.spec.identity() | {"base": base} | chosen, [self.tokens])

    @property
    def run_name(self) -> str:
        """The stage and the arm."""
        return f"{self.name} {self.arm}"

    def checkpoint_calls(self, rows: RowCount, examples: int) -> Sequence[ModelCalls]:
        """Return what the checkpoints of a run on ``examples`` examples are asked, if one of them is chosen."""
        if self.choice is None or self.choice.evaluation.serve is None:
            return ()
        questions = sum(rows(ref) or 0 for _, ref in self.choice.questions.values())
        known = examples or self.spec.max_steps
        checkpoints = self.spec.checkpoints(self.spec.steps(examples)) if known else 0
        served, cap = self.choice.evaluation.serve, self.choice.evaluation.max_tokens
        endpoint = served.model_copy(update={"name": "fine-tuned"})
        sampling = self.choice.evaluation.greedy()
        asked = ModelCalls(endpoint=endpoint, rows=questions, per_row=checkpoints, max_tokens=cap, sampling=sampling)
        judged = (
            judge_calls(task, self.choice.judges.get(task), times(rows(ref), checkpoints))
            for task, ref in self.choice.questions.values()
        )
        return (asked, *chain.from_iterable(judged))

    async def make(self, context: FileContext) -> str:
        """Run the training program, or go on from its newest complete checkpoint, and publish the model.

        Raises:
            TrainingError: the run failed; its last complete checkpoint is kept and the next run goes on from there.
        """
        store, started = context.store, time.monotonic()
        out, spec = store.local_folder(self.ref), with_base(store, self.spec, self.start)
        result = await run_on_tokens(spec, context.launch, store.local_folder(self.tokens), out, context.on_event)
        for checkpoint in result.checkpoints:
            shutil.rmtree(checkpoint)
        self.publish(store, files_under(out, KEPT), started, result.start)
        return f"model in {result.model}"

    def candidates(self, store: Store) -> Candidates | None:
        """Return the finished run whose checkpoints are still to be chosen from, None if there is none."""
        return Candidates.read(store.local_folder(self.ref) / RUN_FOLDER)

    async def train_candidates(self, context: FileContext) -> str:
        """Run the training program, or go on, and keep every checkpoint's weights: the choice comes later.

        Raises:
            TrainingError: the run failed; its last complete checkpoint is kept and the next run goes on from there.
        """
        store, started = context.store, time.monotonic()
        kept, spec = store.local_folder(self.ref), with_base(store, self.spec, self.start)
        out, launch = kept / RUN_FOLDER, context.launch.model_copy(update={"keep_weights": True})
        result = await run_on_tokens(spec, launch, store.local_folder(self.tokens), out, context.on_event, logs=kept)
        weights = await whole_checkpoints(spec, launch, out, context.on_event, logs=kept)
        Candidates(out, weights, result.start, time.monotonic() - started).write()
        return f"{len(weights)} checkpoints to choose from"

    def choose(self, store: Store, on_held_out: Tables, on_test: Tables) -> list[CheckpointScore]:
        """Publish the best checkpoint as the model, with the table it was chosen by.

        Raises:
            DataError: there is no checkpoint, or one without an answer.
        """
        started, out, run = time.monotonic(), store.local_folder(self.ref), self.candidates(store)
        if run is None:
            raise ArtifactError(f"{out / RUN_FOLDER} holds no finished training run. Run again to train it.")
        scores = score_checkpoints(_answers(store, on_held_out), _answers(store, on_test))
        (best,) = (score for score in scores if score.chosen)
        # By hard links where the disk has them: a second copy of the weights may not fit.
        place_model(run.weights[best.step], out / MODEL_FOLDER)
        # The run's folder goes afterwards: what the artifact keeps is copied, the weights are linked.
        for name in (METRICS_FILE, SPEC_FILE):
            shutil.copyfile(run.folder / name, out / name)
        write_selection(scores, out / SELECTION_FILE)
        files = files_under(out, (*KEPT, SELECTION_FILE))
        self.publish(store, files, started - run.seconds, run.start | {"chosen_step": best.step})
        return scores

    def drop_losers(self, store: Store) -> None:
        """Remove the checkpoints that were not chosen; a kill may have left them."""
        shutil.rmtree(store.local_folder(self.ref) / RUN_FOLDER, ignore_errors=True)


def read_trained_on(store: Store, model: ArtifactRef | None, tokens: ArtifactRef | None) -> TrainedOn | None:
    """Return what a published model was trained on; None where it, or the tokens to count, are missing."""
    if model is None or tokens is None or not (store.exists(model) and store.exists(tokens)):
        return None
    spec = store.local_folder(model) / SPEC_FILE
    # The spec that it was trained by: a run file does not hold the steps that its arms share.
    return count_training(load_specs(spec.read_text())[0], store.local_folder(tokens)) if spec.is_file() else None


def _answers(store: Store, tables: Tables) -> dict[int, Iterator[JudgedPath]]:
    return {step: store.rows(ref, JudgedPath) for step, ref in tables.items()}


def files_under(folder: Path, names: Sequence[str]) -> list[str]:
    """Return the files of a folder that have one of the names or are in a folder of that name, relative to it."""
    found = (file for name in names for file in (folder / name, *(folder / name).rglob("*")))
    return [str(file.relative_to(folder)) for file in found if file.is_file()]
