"""What a plan's missing stages would cost: from the very requests where they can be written, else by their number."""

import tempfile
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from lema_core.errors import BudgetExceededError
from lema_core.llm.costs.forecast import Forecast, forecast, forecast_unwritten, pilot
from lema_core.llm.costs.tokenizers import tokenizer_of
from lema_core.llm.endpoints import running
from lema_core.llm.engine import Engine
from lema_core.llm.ledger.credit import Budget
from lema_core.llm.ledger.database import is_postgres
from lema_core.llm.ledger.store import LedgerStore
from lema_core.llm.progress import describe_remaining
from lema_core.llm.requests import Completion
from lema_core.run.context import RunContext
from lema_core.run.plan import PlannedStage, planned_stages
from lema_core.run.spec import RunSpec


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


def forecast_stage(store: LedgerStore, stage: PlannedStage) -> Forecast | None:
    """Return what a stage would cost; None if it exists or asks no model."""
    if stage.endpoint is None or not stage.requests:
        return None
    if stage.asked is None:
        return forecast_unwritten(store, stage.endpoint, stage.requests, UNREAD_CHARS, stage.max_tokens)
    tokenizer = tokenizer_of(stage.tokenizer)
    count = tokenizer.count_prompt if tokenizer and tokenizer.template else None
    return forecast(store, stage.endpoint, stage.asked(), count)


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
