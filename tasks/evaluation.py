"""A model's answers to the held-out questions, judged (paper, section 3.3): greedy ones, and sampled ones for maj@k."""

import asyncio
from functools import partial

from prefect.client.schemas.objects import State

from lema_core import identities
from lema_core.artifacts import ArtifactRef, Shard, Store
from lema_core.evaluation.answers import greedy_requests, judge_answer, vote_requests
from lema_core.llm.endpoints import EndpointSpec
from lema_core.records import JudgedPath, Question
from lema_core.run.spec import EvaluationSpec, PromptKind, Runtime
from tasks.boundary import task
from tasks.engine_session import counted, engine_of, publish_asked
from tasks.run_stage import SHARD_TASK, Stage, outcome


@task(name="evaluation", task_run_name="{out.stage} {name} {shard.start}-{shard.stop}", **SHARD_TASK)
async def evaluation_shard(
    runtime: Runtime,
    spec: EvaluationSpec,
    name: str,  # noqa: ARG001 - Prefect puts it into the task run's name
    model: EndpointSpec,
    prompt: PromptKind,
    questions: ArtifactRef,
    out: ArtifactRef,
    shard: Shard,
) -> State[None]:
    """Ask a range of held-out questions: once each at temperature 0, or for the votes as often as the spec says."""
    store, engine = Store(runtime.root), await engine_of(runtime, model)
    rows = store.rows(questions, Question, shard.start, shard.stop)
    sampled = out.stage == "votes"
    asked = list(vote_requests(rows, spec, prompt) if sampled else greedy_requests(rows, spec.max_tokens, prompt))
    outcomes = engine.stream(model, [one.request for one in asked])
    with store.part(out, shard, JudgedPath) as part:
        part.rows_in = len(asked)
        answers = counted(runtime, outcomes, part, len(asked))
        for one in asked:
            row = await asyncio.to_thread(judge_answer, one, model.identity, await anext(answers))
            part.counts[row.verdict] += 1
            part.add(row)
    return outcome(part)


async def evaluation(
    runtime: Runtime,
    spec: EvaluationSpec,
    name: str,
    model: EndpointSpec,
    prompt: PromptKind,
    task_name: str,
    questions: ArtifactRef,
    *,
    sampled: bool = False,
) -> ArtifactRef:
    """Return the artifact of a model's judged greedy answers; ``name`` is the arm's, or ``base``.

    ``sampled``: of ``spec.samples`` sampled answers to each question instead, for maj@k.
    """
    identify, samples = (identities.votes, spec.samples) if sampled else (identities.evaluation, 1)
    identity = identify(spec, model.identity, prompt, task_name, questions.fingerprint)
    stage = Stage(identity, Store(runtime.root).manifest(questions).rows_out, requests_per_row=samples)
    return await publish_asked(
        runtime,
        stage,
        [model],
        lambda live: partial(evaluation_shard, runtime, spec, name, *live, prompt, questions, stage.ref),
    )
