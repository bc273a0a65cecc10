"""What a run would do, with nothing sent: each artifact, whether it exists, what it takes to make it, and its cost.

The cost comes from the very requests where they can be written, else from their number.
"""

import tempfile
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain, islice
from pathlib import Path
from statistics import fmean
from typing import Any

from lema_core.ablation.cells import expand
from lema_core.artifacts import ArtifactRef
from lema_core.errors import BudgetExceededError, ConfigError, MissingDependencyError
from lema_core.llm.costs.forecast import Forecast, forecast, forecast_unwritten, pilot
from lema_core.llm.costs.prices import CHARS_PER_TOKEN
from lema_core.llm.costs.tokenizers import tokenizer_of
from lema_core.llm.endpoints import EndpointSpec, running
from lema_core.llm.engine import Engine
from lema_core.llm.ledger.credit import Budget
from lema_core.llm.ledger.database import is_postgres
from lema_core.llm.ledger.store import LedgerStore
from lema_core.llm.progress import describe_remaining
from lema_core.llm.requests import Completion, CompletionRequest, Sampling
from lema_core.pipeline import Pipeline, cell_stages, match_steps
from lema_core.records import Example, Question
from lema_core.run.sent import SentRequest, group_alike, sent_by
from lema_core.run.spec import RunContext, RunSpec
from lema_core.stages.pretraining import PRETRAINED, Pretraining
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
    sampling: Sampling | None = None
    """How its answers are drawn, before the endpoint's parameters."""
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
        for cell in match_steps(data, setting.cells):
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
        if isinstance(stage, Pretraining) and not line.there:
            yield replace(line, estimate=stage.spec.estimate)
            continue
        if isinstance(stage, Training):
            yield from [line] if line.there else _training(pipeline, stage, line)
            continue
        calls = stage.calls(pipeline.store, pipeline.rows)
        yield from (_asked(pipeline, line, call) for call in calls) if calls else [line]


def _asked(pipeline: Pipeline, line: PlannedStage, call: ModelCalls) -> PlannedStage:
    """Return a line with what one endpoint is asked."""
    stage, _, about = line.name.partition(":")
    if call.sampling and not line.there:
        # A value that the model is known to refuse ends a plan and a run here, before anything is paid.
        sent_by(line.ref.stage, line.name, call.endpoint, call.sampling)
    tokenizer, trained = _model_behind(pipeline, call.endpoint)
    named = f"{stage}, {call.role}" + (f":{about}" if about else "")
    return replace(
        line,
        name=named if call.role else line.name,
        rows=line.rows if line.there else call.rows,
        endpoint=call.endpoint,
        requests=0 if line.there else (call.rows or 0) * call.per_row,
        asked=call.requests,
        max_tokens=_cap(call),
        sampling=call.sampling,
        tokenizer=tokenizer,
        trained=trained,
    )


def _cap(call: ModelCalls) -> int:
    """Return the cap of an answer with the endpoint's and the stage's parameters."""
    found = call.sampling.resolved(call.endpoint.params).cap if call.sampling else None
    return found or call.max_tokens


def _model_behind(pipeline: Pipeline, endpoint: EndpointSpec) -> tuple[str, bool]:
    """Return which model's tokenizer counts an endpoint's prompts, and whether the model exists to answer."""
    run = pipeline.run
    trained = (*pipeline.artifacts.models.values(), *pipeline.artifacts.warm_models.values())
    for ref in trained if run.evaluation and run.evaluation.serve else ():
        if run.training and pipeline.endpoints.fine_tuned(ref).identity == endpoint.identity:
            return run.training.base, pipeline.store.exists(ref)
    pretrained = pipeline.artifacts.others.get(Pretraining.name)
    if pretrained and endpoint.identity == pretrained.fingerprint:
        there = pipeline.store.exists(pretrained)
        return endpoint.model if there else "", there
    return endpoint.model, True


def _training(pipeline: Pipeline, stage: Training, line: PlannedStage) -> Iterator[PlannedStage]:
    """Yield a line with what a training run takes, and what its checkpoints are asked if one of them is chosen.

    A line for each judge of their answers follows.
    """
    spec, run = stage.spec, pipeline.run
    if stage.start and run.training:
        # Another arm's model has the base's shape and tokenizer, and may not exist yet.
        spec = spec.model_copy(update={"base": run.training.base})
    examples = examples_of(pipeline, stage)
    estimate = partial(estimate_training, spec, run.launch, examples)
    if spec.base == PRETRAINED and run.pretraining:
        # As many weights as were pre-trained, and its folder may not exist yet.
        estimate = partial(run.pretraining.estimate_tuning, spec, examples.rows)
    trained = replace(line, estimate=estimate)
    calls = stage.checkpoint_calls(pipeline.rows, examples.rows)
    for call in calls[:1]:
        trained = replace(
            trained, endpoint=call.endpoint, trained=False, requests=(call.rows or 0) * call.per_row,
            max_tokens=_cap(call), sampling=call.sampling, tokenizer=spec.base,
        )  # fmt: skip
    yield trained
    yield from (_asked(pipeline, line, call) for call in calls[1:])


def examples_of(pipeline: Pipeline, stage: Training) -> ExampleStats:
    """Return what is known of the examples to be trained now: of the tokens, else of the mixture, else of the pool."""
    store, mixture = pipeline.store, pipeline.mixture_of(stage.tokens)
    if store.exists(stage.tokens):
        return from_tokens(store.manifest(stage.tokens).extra)
    if store.exists(mixture.ref):
        return from_mixture(store.manifest(mixture.ref).rows_out, partial(store.rows, mixture.ref, Example))
    rows = pipeline.rows(mixture.ref) or 0
    return from_pool(rows, partial(questions_of, pipeline.run.questions), pairs=mixture.arm.preferences)


@dataclass(frozen=True, slots=True)
class PilotResult:
    """A pilot's outcome at one endpoint."""

    stage: PlannedStage
    answered: int
    failed: int
    bought: int
    """Requests paid for now; the others were in the ledger."""
    dollars: float | None


UNREAD_CHARS = 4_000
"""Characters of a correction prompt with its four examples, while the mistakes to write it from are missing."""


@asynccontextmanager
async def report_remaining_cost(run: RunSpec, root: str) -> AsyncIterator[None]:
    """Put what the whole run still needs into the error of a used-up budget: a shard knows its own requests only.

    Raises:
        BudgetExceededError: as it was raised, with the forecast of ``lema plan`` in place of the shard's.
    """
    try:
        yield
    except BudgetExceededError as error:
        raise BudgetExceededError(error.reached, describe_run_cost(run, root)) from error


def describe_run_cost(run: RunSpec, root: str) -> str:
    """Return what a run still needs at most, in words."""
    with open_for_reading(RunContext.of(run, root).ledger) as ledger:
        found = list(filter(None, (forecast_stage(ledger, stage) for stage in planned_stages(run, root))))
    tokens = sum(cost.prompt_tokens.likely + cost.completion_tokens.likely for cost in found)
    prices = [cost.dollars.likely for cost in found if cost.dollars]
    text = describe_remaining(sum(cost.to_send for cost in found), tokens, sum(prices) if prices else None)
    return f"of the whole run at most {text}. `lema plan` says more"


@contextmanager
def open_for_reading(ledger: str) -> Iterator[LedgerStore]:
    """Open a ledger for look-ups; a missing one is an empty one that is deleted afterwards."""
    with tempfile.TemporaryDirectory() as scratch:
        there = is_postgres(ledger) or Path(ledger).exists()
        store = LedgerStore(ledger if there else str(Path(scratch) / "empty.sqlite"))
        try:
            yield store
        finally:
            store.close()


PREFIX_SAMPLE = 64
"""Requests whose prompts are compared: the first ones of a stage."""


def common_prefix_share(requests: Iterable[CompletionRequest]) -> float | None:
    """Return the share of the prompts' characters that is the same beginning of all of them; None for less than two.

    An endpoint's prefix cache can hold this part. Repetitions of one prompt count once.
    """
    sample = islice(requests, PREFIX_SAMPLE)
    texts = {"\0".join(f"{m['role']}\0{m['content']}" for m in request.messages) for request in sample}
    if len(texts) < 2:
        return None
    # What the first and the last in order share, all between them share.
    first, last = min(texts), max(texts)
    differs = (place for place, (one, other) in enumerate(zip(first, last, strict=False)) if one != other)
    return next(differs, len(first)) * len(texts) / sum(map(len, texts))


def forecast_stage(store: LedgerStore, stage: PlannedStage) -> Forecast | None:
    """Return what a stage would cost; None if it exists or asks no model."""
    if stage.endpoint is None or not stage.requests:
        return None
    if stage.asked is None:
        return forecast_unwritten(store, stage.endpoint, stage.requests, UNREAD_CHARS, stage.max_tokens)
    tokenizer = tokenizer_of(stage.tokenizer)
    count = tokenizer.count_prompt if tokenizer and tokenizer.template else None
    return forecast(store, stage.endpoint, stage.asked(), count)


def requests_sent(store: LedgerStore, stages: Iterable[PlannedStage]) -> list[SentRequest]:
    """Return how the requests of the missing stages look as they are sent, alike ones once."""
    return group_alike(
        sent_by(stage.ref.stage, stage.name, stage.endpoint, stage.sampling, store)
        for stage in stages
        if stage.endpoint and stage.sampling and not stage.there
    )


def select_pilot_stages(stages: Iterable[PlannedStage]) -> list[PlannedStage]:
    """Return, for each endpoint that can be asked now, the first stage whose requests can be written."""
    first: dict[str, PlannedStage] = {}
    for stage in stages:
        if stage.endpoint and stage.asked and stage.requests and stage.trained:
            first.setdefault(stage.endpoint.identity, stage)
    return list(first.values())


async def run_pilots(context: RunContext, stages: Iterable[PlannedStage], size: int) -> AsyncIterator[PilotResult]:
    """Send ``size`` requests of each stage, within the run's budget; the ledger keeps the answers for the run.

    Raises:
        EndpointError: an endpoint does not answer.
        BudgetExceededError: the run's budget is used up.
    """
    budget = Budget(dollars=context.budget.usd, tokens=context.budget.tokens)
    async with Engine.open(ledger=context.ledger, budget=budget, run=context.run) as engine:
        for stage in stages:
            if stage.endpoint is None or stage.asked is None:
                continue
            before = engine.snapshot()
            async with running(stage.endpoint) as url:
                found = await pilot(engine, stage.endpoint.at(url), stage.asked(), stage.requests, size)
            now = engine.snapshot()
            good = sum(isinstance(outcome, Completion) for outcome in found)
            spent = None if now.dollars is None else now.dollars - (before.dollars or 0.0)
            yield PilotResult(stage, good, len(found) - good, now.completions - before.completions, spent)
