"""What a run would do, with nothing sent: each artifact, whether it exists, and what it takes to make it."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain

from lema_core.ablation.cells import expand
from lema_core.artifacts import ArtifactRef
from lema_core.llm.endpoints import EndpointSpec
from lema_core.llm.requests import CompletionRequest
from lema_core.pipeline import Pipeline, cell_stages
from lema_core.records import Example
from lema_core.run.spec import RunSpec
from lema_core.run.training_needs import (
    ExampleStats,
    estimate_training,
    from_mixture,
    from_pool,
    from_tokens,
    pool_rows,
)
from lema_core.stages.stage import ModelCalls, Stage, questions_of
from lema_core.stages.training import Training


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedStage:
    """One line of a plan: an artifact, and what it takes to make it."""

    name: str
    ref: ArtifactRef
    there: bool
    rows: int | None
    """Rows of the artifact: exact if it exists, else an upper bound; None if unknown."""
    endpoint: EndpointSpec | None = None
    requests: int = 0
    """An upper bound; 0 if the artifact exists."""
    asked: Callable[[], Iterable[CompletionRequest]] | None = None
    """The very requests, if the inputs to write them from exist."""
    max_tokens: int = 0
    """The cap of an answer."""
    tokenizer: str = ""
    """The model whose tokenizer counts the prompts."""
    estimate: Callable[[float], str] | None = None
    """Of a training stage that is missing: what it needs in one line, at a share of the devices' peak (MFU)."""
    trained: bool = True
    """The model that answers exists; a fine-tuned one is a stage of its own."""


def planned_stages(run: RunSpec, root: str) -> Iterator[PlannedStage]:
    """Yield every stage of a run, or of its sweep if it has one, with what it needs.

    Raises:
        DataError: a source cannot be used.
        ConfigError: an endpoint, a task or the sweep cannot be used.
    """
    if run.ablation is None:
        pipeline = Pipeline(run, root)
        yield from planned(pipeline, pipeline.stages())
        return
    seen = set[ArtifactRef]()
    for setting in expand(run):
        data = Pipeline(setting.run, root)
        yield from planned(data, _unseen(chain(data.collection(), data.evolution()), seen))
        for cell in setting.cells:
            pipeline = data.on_the_same_data(cell.run)
            for line in planned(pipeline, _unseen(cell_stages(pipeline, cell), seen)):
                yield replace(line, name=f"{line.name.partition(':')[0]}: {cell.name}")


def _unseen(stages: Iterable[Stage], seen: set[ArtifactRef]) -> Iterator[Stage]:
    for stage in stages:
        if stage.ref not in seen:
            seen.add(stage.ref)
            yield stage


def planned(pipeline: Pipeline, stages: Iterable[Stage]) -> Iterator[PlannedStage]:
    """Yield the lines of some stages while they are walked: a line per endpoint that a stage asks."""
    for stage in stages:
        rows = pipeline.rows(stage.ref)
        line = PlannedStage(name=stage.title, ref=stage.ref, there=pipeline.store.exists(stage.ref), rows=rows)
        if isinstance(stage, Training):
            yield line if line.there else _training(pipeline, stage, line)
            continue
        calls = stage.calls(pipeline.store, pipeline.rows)
        yield from (_asked(pipeline, line, call) for call in calls) if calls else [line]


def _asked(pipeline: Pipeline, line: PlannedStage, call: ModelCalls) -> PlannedStage:
    """Return a line with what one endpoint is asked."""
    stage, _, about = line.name.partition(":")
    tokenizer, trained = _model_behind(pipeline, call.endpoint)
    named = f"{stage}, {call.role}" + (f":{about}" if about else "")
    return replace(
        line,
        name=named if call.role else line.name,
        rows=line.rows if line.there else call.rows,
        endpoint=call.endpoint,
        requests=0 if line.there else (call.rows or 0) * call.per_row,
        asked=call.requests,
        max_tokens=call.max_tokens,
        tokenizer=tokenizer,
        trained=trained,
    )


def _model_behind(pipeline: Pipeline, endpoint: EndpointSpec) -> tuple[str, bool]:
    """Return which model's tokenizer counts an endpoint's prompts, and whether the model exists to answer."""
    run = pipeline.run
    for ref in pipeline.artifacts.models.values() if run.evaluation and run.evaluation.serve else ():
        if run.training and pipeline.endpoints.fine_tuned(ref).identity == endpoint.identity:
            return run.training.base, pipeline.store.exists(ref)
    return endpoint.model, True


def _training(pipeline: Pipeline, stage: Training, line: PlannedStage) -> PlannedStage:
    """Return a line with what a training run takes, and what its checkpoints are asked if one of them is chosen."""
    spec, run = stage.spec, pipeline.run
    if stage.start and run.training:
        # Another arm's model has the base's shape and tokenizer, and may not exist yet.
        spec = spec.model_copy(update={"base": run.training.base})
    examples = examples_of(pipeline, stage.arm)
    line = replace(line, estimate=partial(estimate_training, spec, run.launch, examples))
    for call in stage.checkpoint_calls(pipeline.rows, examples.rows):
        line = replace(
            line, endpoint=call.endpoint, trained=False, requests=(call.rows or 0) * call.per_row,
            max_tokens=call.max_tokens, tokenizer=spec.base,
        )  # fmt: skip
    return line


def examples_of(pipeline: Pipeline, arm: str) -> ExampleStats:
    """Return what is known of an arm's examples now: of its tokens, else of its mixture, else of its pool."""
    store, artifacts = pipeline.store, pipeline.artifacts
    tokens, mixture = artifacts.tokens[arm], artifacts.mixtures[arm]
    if store.exists(tokens):
        return from_tokens(store.manifest(tokens).extra)
    if store.exists(mixture):
        return from_mixture(store.manifest(mixture).rows_out, partial(store.rows, mixture, Example))
    built = pipeline.run.arm(arm)
    pool = pool_rows(built, artifacts.rounds, lambda ref: pipeline.rows(ref) or 0)
    return from_pool(pool, partial(questions_of, pipeline.run.questions), pairs=built.preferences)
