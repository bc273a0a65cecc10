"""The negative log-likelihood of the gold solutions under a model: a second measure, with far less noise than answers.

The model is read from its folder, so no server is asked: an arm's, or one that the run pre-trained.
"""

import os
import sys
import time
from dataclasses import dataclass
from functools import cached_property

from lema_core.artifacts import ArtifactRef, Identity, Store
from lema_core.evaluation.likelihood import Solutions
from lema_core.stages.stage import FileContext, FileStage, RowCount
from lema_core.training import MODEL_FOLDER
from lema_core.training.launch import clean_environment, run_group

LIKELIHOOD_FILE = "likelihood.parquet"
"""One row per question that has a rationale: its id, ``nll`` in nats, and of how many tokens."""


@dataclass(frozen=True)
class Likelihood(FileStage):
    """A model's negative log-likelihood of the gold solutions of a test set's first questions."""

    name = "likelihood"
    revision = 1

    subject: str
    """The arm that is measured, or ``base``."""
    items: int
    model: ArtifactRef
    questions: ArtifactRef
    task: str = ""
    """Whose prompts the questions are asked with."""

    @cached_property
    def identity(self) -> Identity:
        """The model and the questions."""
        return self._identity({"items": self.items}, [self.model, self.questions])

    @property
    def run_name(self) -> str:
        """The stage and the model."""
        return f"{self.name} {self.subject}"

    def row_bound(self, rows: RowCount) -> int:
        """Return the questions, at most."""
        known = rows(self.questions)
        return self.items if known is None else min(self.items, known)

    async def make(self, context: FileContext) -> str:
        """Run the forward passes.

        Raises:
            TrainingError: the program failed; its own message is the text.
        """
        store, started = context.store, time.monotonic()
        out = store.local_folder(self.ref)
        command = [sys.executable, "-m", "lema_core.training.likelihood"]
        command += ["--limit", str(self.items), "--out", str(out / LIKELIHOOD_FILE), "--task", self.task]
        command += ["--model", f"{store.local_folder(self.model)}/{MODEL_FOLDER}"]
        command += ["--questions", str(store.local_folder(self.questions))]
        seen: dict[str, object] = {}
        await run_group(command, out / "log.txt", clean_environment(os.environ, context.launch), seen.update)
        self.publish(store, [LIKELIHOOD_FILE], started, {key: seen.get(key) for key in ("scored", "left_out")})
        return f"{seen.get('scored')} gold solutions, {seen.get('left_out')} left out"


def read_likelihoods(store: Store, ref: ArtifactRef) -> Solutions:
    """Return the negative log-likelihoods that the stage wrote, by question."""
    rows = store.read_table(ref, LIKELIHOOD_FILE, ["question_id", "nll", "tokens"])
    return {str(row["question_id"]): (float(row["nll"]), int(row["tokens"])) for row in rows}
