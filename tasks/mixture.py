"""The training examples of an arm: a view over the pool that all arms share (paper, sections 2.3 and 4)."""

import asyncio
from functools import partial

from prefect.client.schemas.objects import State

from lema_core import identities
from lema_core import mixture as core
from lema_core.artifacts import ArtifactRef, PartWriter, Shard, Store
from lema_core.llm.costs.tokenizers import need_tokenizer
from lema_core.questions.near_duplicates import KnownQuestions
from lema_core.records import Correction, Example, JudgedPath, Question
from lema_core.run.artifacts import Collection, Lineage
from lema_core.run.spec import MixtureSpec, Runtime
from tasks.boundary import task
from tasks.run_stage import SHARD_TASK, Stage, outcome, publish


@task(name="mixture", task_run_name="mixture {arm.name}", **SHARD_TASK)
async def mixture_shard(
    runtime: Runtime, spec: MixtureSpec, arm: core.Arm, made: Lineage, base: str | None, out: ArtifactRef, shard: Shard
) -> State[None]:
    """Build an arm's examples: equal ones once, those of test questions rejected, in the seeded order."""
    return outcome(await asyncio.to_thread(_build, Store(runtime.root), spec, arm, made, base, out, shard))


def _build(
    store: Store, spec: MixtureSpec, arm: core.Arm, made: Lineage, base: str | None, out: ArtifactRef, shard: Shard
) -> PartWriter:
    rules = rules_of(store, spec, arm, made, base)
    with store.part(out, shard, Example) as part:
        for row in core.build_arm(arm, pool_of(store, made), rules):
            part.rows_in += 1
            part.counts[row.kind if isinstance(row, Example) else "rejected"] += 1
            part.add(row)
    return part


def rules_of(store: Store, spec: MixtureSpec, arm: core.Arm, made: Lineage, base: str | None) -> core.MixtureRules:
    """Return what holds for an arm: tokens are those of the model to be trained, words where none is.

    Raises:
        ConfigError: the arm is matched by tokens and the model's tokenizer can neither be found nor fetched.
    """
    excluded = store.rows(made.test_questions, Question) if made.test_questions else ()
    return core.MixtureRules(
        seed=spec.seed,
        test_questions=KnownQuestions(row.text for row in excluded),
        held_out=_held_out(store, made),
        count_tokens=need_tokenizer(base).count if base and arm.by_tokens else core.count_words,
    )


def _held_out(store: Store, made: Lineage) -> frozenset[str]:
    """Return the ids of the held-out questions and of those evolved from them: training on either flatters a choice."""
    if made.held_out is None:
        return frozenset()
    kept_back = frozenset(row.id for row in store.rows(made.held_out, Question))
    evolved = (row for one in made.collections[1:] for row in store.rows(one.questions, Question))
    return kept_back.union(row.id for row in evolved if row.seed_question_id in kept_back)


def pool_of(store: Store, made: Lineage) -> core.Pool:
    """Return what a run has collected, as the sources that arms are views of."""
    return tuple(_source(store, collection) for collection in made.collections)


def _source(store: Store, one: Collection) -> core.Source:
    return core.Source(
        questions=lambda: store.rows(one.questions, Question),
        paths=lambda: (path for ref in one.verdicts for path in store.rows(ref, JudgedPath)),
        corrections=lambda: (row for ref in one.corrections.values() for row in store.rows(ref, Correction)),
        round=one.round,
        evolution=one.evolution,
    )


async def mixture(
    runtime: Runtime, spec: MixtureSpec, arm: core.Arm, task_name: str, made: Lineage, base: str | None
) -> ArtifactRef:
    """Return the artifact of an arm's examples; ``base`` is what is trained on them, and counts their tokens."""
    stage = Stage(identities.mixture(spec, arm, task_name, made, base), rows=0)
    return await publish(runtime, stage, partial(mixture_shard, runtime, spec, arm, made, base, stage.ref))
