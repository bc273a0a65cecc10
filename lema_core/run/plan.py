"""What a run would do, with nothing sent: each artifact, whether it exists, and what it takes to make it."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain, islice
from statistics import fmean
from typing import Any

from lema_core.ablation.cells import expand
from lema_core.artifacts import ArtifactRef
from lema_core.errors import ConfigError, MissingDependencyError
from lema_core.llm.costs.token_estimates import CHARS_PER_TOKEN
from lema_core.llm.costs.tokenizers import tokenizer_of
from lema_core.llm.endpoints import EndpointSpec
from lema_core.llm.requests import CompletionRequest
from lema_core.mixture.arms import Arm, View
from lema_core.pipeline import Pipeline, cell_stages
from lema_core.records import Example, Question
from lema_core.run.artifacts import QuestionRound
from lema_core.run.spec import RunSpec
from lema_core.stages.stage import ModelCalls, Stage, questions_of
from lema_core.stages.training import Training
from lema_core.training.estimate import check_base, estimate
from lema_core.training.launch import ranks_here
from lema_core.training.specs import LaunchSpec, TrainingSpec

SAMPLE = 200
"""Examples whose tokens are counted; a mixture is shuffled, so the first ones are a random part of it."""
Texts = Callable[[], Iterable[str]]


@dataclass(frozen=True, slots=True)
class ExampleStats:
    """The number and the length of an arm's examples, as far as they are known."""

    rows: int
    texts: Texts
    """Texts as long as the examples are."""
    basis: str
    """Where both come from, in words."""
    mean_tokens: float | None = None
    """Of an example, where they have been counted."""


def from_tokens(counts: Mapping[str, Any]) -> ExampleStats:
    """Return the statistics of published tokens, from the counts in their manifest."""
    rows = int(counts["examples"])
    return ExampleStats(rows, tuple, "the tokens", counts["tokens"] / max(1, rows))


def from_mixture(rows: int, examples: Callable[[], Iterator[Example]]) -> ExampleStats:
    """Return the statistics of a published mixture."""
    return ExampleStats(rows, lambda: map(_text, examples()), "the mixture")


def _text(example: Example) -> str:
    """Return a text as long as an example: a pair is read twice."""
    read = f"{example.input}{example.prefix}"
    pair = "" if example.worse is None else f"{read}{example.worse}"
    return f"{read}{example.output}{pair}"


def from_pool(at_most: int, questions: Callable[[], Iterable[Question]], *, pairs: bool) -> ExampleStats:
    """Return the bounds of a missing mixture, of single outputs or of preference pairs."""
    outputs = 2 if pairs else 1

    def texts() -> Iterator[str]:
        return (f"{row.text}\n{row.rationale}" * outputs for row in questions() if row.rationale)

    each = "each twice as long (a pair)" if pairs else "each as long"
    basis = f"at most the rows of its pool, {each} as the questions with their own solutions"
    return ExampleStats(at_most, texts, basis)


def pool_rows(arm: Arm, rounds: Iterable[QuestionRound], rows_of: Callable[[ArtifactRef], int]) -> int:
    """Return how many rows an arm's views find at most in a run's rounds, before screening and trimming."""
    views = (*arm.views, *arm.fill)
    return sum(_view_rows(view, question_round, rows_of) for question_round in rounds for view in views)


def _view_rows(view: View, question_round: QuestionRound, rows_of: Callable[[ArtifactRef], int]) -> int:
    where = view.where
    if where.rounds is not None and question_round.round not in where.rounds:
        return 0
    if where.evolution is not None and question_round.evolution not in where.evolution:
        return 0
    sources = {
        "rationales": (question_round.questions,),
        "right_paths": question_round.verdicts,
        "corrections": question_round.corrections.values(),
    }
    rows = sum(map(rows_of, sources[view.rows]))
    return min(rows, where.per_question * rows_of(question_round.questions)) if where.per_question else rows


def estimate_training(spec: TrainingSpec, launch: LaunchSpec, data: ExampleStats, utilisation: float) -> str:
    """Return what a training stage needs in one line, or why it is not estimated.

    Raises:
        ConfigError: the base model is named by a path that does not exist.
    """
    check_base(spec.base)
    mean, counted = _mean_tokens(spec, data)
    try:
        ranks = ranks_here(launch)
        found = estimate(spec, launch, data.rows, mean, ranks, utilisation)
    except (ConfigError, MissingDependencyError, ImportError) as error:
        return f"not estimated: {error}"
    devices = f"{ranks * launch.nodes} devices, ZeRO {launch.zero_stage}"
    hours = f" at {utilisation:.0%} MFU" if found.hours is not None else ""
    return f"{found.line()}{hours}; {devices}. Examples: {data.basis}; tokens {counted}."


def _mean_tokens(spec: TrainingSpec, data: ExampleStats) -> tuple[float, str]:
    if data.mean_tokens is not None:
        return data.mean_tokens, "counted in all of them"
    sample = list(islice(data.texts(), SAMPLE))
    if not sample:
        outputs = 2 if spec.objective == "dpo" else 1
        return float(outputs * spec.max_length), f"at most max_length ({spec.max_length}) an output"
    tokenizer = tokenizer_of(spec.base)
    if tokenizer:
        return fmean(map(tokenizer.count, sample)), f"counted in {len(sample)} by the model's tokenizer"
    return fmean(map(len, sample)) / CHARS_PER_TOKEN, f"by {CHARS_PER_TOKEN} characters each (no tokenizer here)"


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
