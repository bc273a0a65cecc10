"""Models as tasks see them: one request engine a process, and servers that run while a stage needs them."""

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path

from lema_core.artifacts import ArtifactRef, Manifest, PartWriter, Store
from lema_core.errors import ArtifactError, BatchPendingError
from lema_core.llm.endpoints import EndpointSpec, running
from lema_core.llm.engine import Engine
from lema_core.llm.ledger.credit import Budget
from lema_core.llm.progress import Snapshot, added_up, figures, submitted_words
from lema_core.llm.requests import Failure, Outcome
from lema_core.run.failed_requests import (
    ANSWERED,
    FAILED,
    SECOND,
    SMALL,
    check_stage,
    failed_error,
    too_many,
    unanswered,
)
from lema_core.run.spec import Runtime
from lema_core.system.loopback import keep_loopback_direct
from lema_core.system.redaction import disable_core_dumps
from tasks.cluster_session import cluster_of, cluster_session
from tasks.endpoint_keys import keys_here, with_key
from tasks.progress import Seen, Watch, announce
from tasks.run_stage import ShardTask, Stage, publish, published

_engines: dict[tuple[Runtime, int], Engine] = {}


@asynccontextmanager
async def engine_session(runtime: Runtime) -> AsyncIterator[Engine]:
    """Open what every task of a run shares: this process's engine and, where the run names one, its cluster."""
    async with AsyncExitStack() as stack:
        engine = await stack.enter_async_context(process_engine(runtime))
        await stack.enter_async_context(cluster_session(runtime, process_engine))
        yield engine


@asynccontextmanager
async def process_engine(runtime: Runtime) -> AsyncIterator[Engine]:
    """Open the engine that every task of this process shares: its limits and its budget hold over all shards."""
    # A worker of a cluster or of a deployment holds keys as well.
    disable_core_dumps()
    keep_loopback_direct()
    key = (runtime, id(asyncio.get_running_loop()))
    budget = Budget(dollars=runtime.budget.usd, tokens=runtime.budget.tokens)
    async with Engine.open(ledger=runtime.ledger, budget=budget, run=runtime.run) as engine:
        _engines[key] = engine
        try:
            yield engine
        except BaseException:
            if submitted := submitted_words(engine.snapshot()):
                logging.getLogger(__name__).warning("%s", submitted)
            raise
        finally:
            del _engines[key]


async def engine_of(runtime: Runtime, *endpoints: EndpointSpec) -> Engine:
    """Return the engine of the session that this task runs in, which may be a worker's, with the keys it needs.

    Raises:
        ConfigError: an endpoint's key cannot be read.
    """
    await keys_here(endpoints)
    return _engines[runtime, id(asyncio.get_running_loop())]


@asynccontextmanager
async def serving(endpoint: EndpointSpec, runtime: Runtime) -> AsyncIterator[EndpointSpec]:
    """Give the endpoint with a URL, its server started where it has a command and stopped at the end.

    Its log is kept under ``servers/RUN/`` beside a local store, else under ``.lema``.
    """
    ready = await with_key(endpoint)
    root = Path(".lema") if "://" in runtime.root else Path(runtime.root).parent
    async with running(ready, root / "servers" / runtime.run, announce) as url:
        yield ready.at(url)


async def publish_asked(
    runtime: Runtime,
    stage: Stage,
    endpoints: Sequence[EndpointSpec],
    shard_task: Callable[[Sequence[EndpointSpec]], ShardTask],
) -> ArtifactRef:
    """Return the artifact of a stage that asks models; their servers run only where it is not there yet.

    ``shard_task`` is given the endpoints as they can be reached. The errors are those of ``publish``, and:

    Raises:
        RequestsFailedError: an endpoint answered nothing, or too many requests failed over all shards.
        ArtifactError: the artifact is there, and was made by an older version when an endpoint answered nothing.
    """
    if ref := await published(runtime, stage):
        check_answered(runtime, Store(runtime.root).manifest(ref))
        return ref
    stage = replace(stage, by_batch=any(endpoint.transport == "batch" for endpoint in endpoints))
    async with AsyncExitStack() as servers:
        live = [await servers.enter_async_context(serving(endpoint, runtime)) for endpoint in endpoints]
        engine = await engine_of(runtime)

        def check(counts: Mapping[str, int]) -> None:
            for prefix, endpoint in zip(("", SECOND), live, strict=False):
                check_stage(counts, runtime.max_failed, prefix, engine.words(endpoint))

        watch = await engine_watch(runtime, stage)
        return await publish(runtime, stage, shard_task(live), watch, check)


def check_answered(runtime: Runtime, manifest: Manifest) -> None:
    """Make sure that an artifact holds answers: everything that is made from an empty one is empty.

    Raises:
        ArtifactError: an endpoint answered nothing when it was made.
    """
    failed = unanswered(manifest)
    if failed and runtime.max_failed < 1:
        reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(failed.items()))
        raise ArtifactError(
            f"{manifest.stage}/{manifest.fingerprint} was published by an older version of LeMa although none of its "
            f"{failed.total()} requests was answered ({reasons}). Make it, and all that was made from it, again with: "
            f"{remaking(runtime)}. To keep it as it is: --set runtime.max_failed=1"
        )


def remaking(runtime: Runtime) -> str:
    """Return the command that makes artifacts with failed requests again."""
    if runtime.go_on:
        return "lema evaluate with the same options and --remake-failed"
    return f"lema resume {runtime.run} --root {runtime.root.removesuffix('/store')} --remake-failed"


async def counted(
    runtime: Runtime, outcomes: AsyncIterator[Outcome], part: PartWriter, requests: int, prefix: str = ""
) -> AsyncIterator[Outcome]:
    """Pass outcomes on and add up what they used and what failed, in the part's counts: for the report, for `lema run`.

    ``requests`` is how many there are; ``prefix`` keeps apart what came of a stage's second endpoint.

    Raises:
        BatchPendingError: an outcome is still to come. A part must not hold it as a failure.
        RequestsFailedError: with the last outcome, so that all are settled: more failed than the run lets pass.
    """
    failed, words, seen = Counter[str](), dict[str, str](), 0
    async for outcome in outcomes:
        seen += 1
        if isinstance(outcome, Failure):
            if outcome.reason == "pending":
                raise BatchPendingError(f"a batch is submitted and not finished ({outcome.detail})")
            part.counts[f"{prefix}{FAILED}{outcome.reason}"] += 1
            failed[outcome.reason] += 1
            words[outcome.reason] = outcome.detail
        else:
            part.counts[f"{prefix}{ANSWERED}"] += 1
            part.counts[f"{prefix}prompt_tokens"] += outcome.prompt_tokens
            part.counts[f"{prefix}completion_tokens"] += outcome.completion_tokens
        if seen == requests and runtime.max_failed < 1:
            # Of a filter's refusals too: where it lets nothing pass, the prompts are not to blame one by one.
            nothing = failed.total() == requests >= SMALL
            if nothing or too_many(failed, requests, runtime.max_failed):
                raise failed_error(failed, requests, runtime.max_failed, words)
        yield outcome


async def engine_watch(runtime: Runtime, stage: Stage) -> Watch:
    """Return the figures of a stage that talks to a model, for its progress: requests, rate, waiting, tokens, money.

    What other stages of this process ask for meanwhile is in them: they share the engine.
    """
    cluster, engine = cluster_of(runtime), await engine_of(runtime)

    def snapshot() -> Snapshot:
        return engine.snapshot() if cluster is None else added_up(cluster.snapshots())

    before, requests = snapshot(), max(1, stage.rows * stage.requests_per_row)

    def watch() -> Seen:
        now = snapshot().since(before, requests)
        return Seen(min(1.0, now.done / requests), figures(now))

    return watch
