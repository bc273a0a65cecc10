"""An arm's examples as the base model's tokens: made once, mapped into memory by every rank of every run on them."""

import time
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from lema_core.artifacts import ArtifactRef, Identity, Store
from lema_core.stages.stage import FileContext, FileStage, fingerprint_of_model
from lema_core.training import MODEL_FOLDER, TrainingSpec, run_tokenising

FILES = ("meta.json", "rejected.parquet", "tokens.arrow")


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
        self.publish(store, FILES, started, counts)
        return f"{self.arm}: {counts['examples']} examples, {counts['tokens']} tokens; {counts['rejected']} rejected"


def with_base(store: Store, spec: TrainingSpec, start: ArtifactRef | None) -> TrainingSpec:
    """Return the spec with the model of another arm as its base; unchanged if there is none."""
    if start is None:
        return spec
    return spec.model_copy(update={"base": str(store.local_folder(start) / MODEL_FOLDER)})
