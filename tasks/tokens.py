"""An arm's examples as the base model's tokens: made once, mapped into memory by every rank of every run on them."""

import time
from typing import Any

from prefect.client.schemas.objects import State
from prefect.states import Completed

from lema_core import identities
from lema_core.artifacts import ArtifactRef, Store
from lema_core.run.spec import Runtime
from lema_core.training import TrainingSpec, run_tokenising
from tasks.boundary import task
from tasks.run_stage import SHARD_TASK, Stage, published_alone
from tasks.starting_model import based_on

FILES = ["meta.json", "rejected.parquet", "tokens.arrow"]


@task(name="tokens", task_run_name="tokens {arm}", **SHARD_TASK)
async def tokenise(runtime: Runtime, spec: TrainingSpec, arm: str, examples: ArtifactRef, stage: Stage) -> State[None]:
    """Tokenise an arm's examples in a process of its own and publish the files."""
    store, started = Store(runtime.root), time.monotonic()
    counts: dict[str, Any] = {}
    out = store.local_folder(stage.ref)
    await run_tokenising(spec, store.local_folder(examples), out, counts.update)
    counts.pop("event")
    store.publish_files(stage.identity, FILES, seconds=time.monotonic() - started, extra=counts)
    kept, rejected = counts["examples"], counts["rejected"]
    return Completed(message=f"{arm}: {kept} examples, {counts['tokens']} tokens; {rejected} rejected")


async def tokens(
    runtime: Runtime, spec: TrainingSpec, arm: str, examples: ArtifactRef, start: ArtifactRef | None = None
) -> ArtifactRef:
    """Return the artifact of an arm's tokens; ``start`` is the model that training starts from in place of the base.

    Raises:
        TrainingError: the examples do not fit the base model or the objective, or none is left.
    """
    stage = Stage(identities.tokens(spec, examples.fingerprint, start), rows=0)

    async def make() -> None:
        await tokenise(runtime, based_on(Store(runtime.root), spec, start), arm, examples, stage)

    return await published_alone(runtime, stage, make)
