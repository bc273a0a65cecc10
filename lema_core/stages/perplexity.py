"""delta-PPL of a fine-tuned model on mistaken and corrected paths (paper, appendix), in a process of its own."""

import os
import sys
import time
from dataclasses import dataclass
from functools import cached_property

from lema_core.artifacts import ArtifactRef, Identity
from lema_core.report.load import PERPLEXITY_FILE
from lema_core.stages.stage import FileContext, FileStage, RowCount
from lema_core.training import MODEL_FOLDER
from lema_core.training.launch import clean_environment, run_group


@dataclass(frozen=True)
class Perplexity(FileStage):
    """A fine-tuned model's perplexities of the first ``pairs`` corrections."""

    name = "perplexity"
    revision = 1

    arm: str
    pairs: int
    model: ArtifactRef
    corrections: ArtifactRef

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
        command += ["--corrections", str(store.local_folder(self.corrections))]
        seen: dict[str, object] = {}
        await run_group(command, out / "log.txt", clean_environment(os.environ, context.launch), seen.update)
        self.publish(store, [PERPLEXITY_FILE], started, seen)
        return f"{seen.get('pairs')} pairs"
