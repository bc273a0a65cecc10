"""The ablation sweep: data once a setting, then every arm, seed and base model; a cell that fails stops no other."""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

from prefect.runtime import flow_run

from lema_core.ablation.cells import Cell, CellResult, Setting, expand, sweep_of
from lema_core.ablation.comparison import SweepTable
from lema_core.artifacts import ArtifactRef, Store
from lema_core.errors import BatchPendingError, BudgetExceededError, CellsFailedError
from lema_core.pipeline import Pipeline, cell_stages, match_steps
from lema_core.report.sweeps import sweep_text
from lema_core.run.artifacts import RunArtifacts
from lema_core.run.plan import report_remaining_cost
from lema_core.run.records import title_of
from lema_core.run.spec import RunContext, RunSpec
from lema_core.stages.ablation import Ablation
from lema_core.stages.mixture import ArmExamples, equal_error, find_equal
from lema_core.stages.report import HTML
from lema_core.system.processes import Devices, share_devices, use_devices
from lema_core.training.launch import gpus_here
from tasks.boundary import flow
from tasks.engine_session import engine_session
from tasks.run_stage import run_stages
from tasks.ui_artifacts import show_sweep


@dataclass(frozen=True, slots=True)
class Sweep:
    """What a sweep made."""

    table: SweepTable
    report: ArtifactRef


@flow(name="ablation", flow_run_name=lambda: f"ablation: {title_of(flow_run.parameters['run'])}", persist_result=False)
async def ablation(run: RunSpec, root: str = ".lema") -> Sweep:
    """Fine-tune and compare every cell of a run file's sweep; finished cells are not made again.

    Raises:
        ConfigError: the sweep cannot be expanded; nothing was done.
        CellsFailedError: some cells failed; the text has the table of the others.
        BatchPendingError: all that is missing waits for batches that are submitted.
        BudgetExceededError: the budget ran out.
    """
    settings, context = expand(run), RunContext.of(run, root)
    async with report_remaining_cost(run, root), engine_session(context):
        prepared = [cell for setting in settings for cell in await _prepare(setting, context, root)]
        stage = Ablation(run, await _finish(prepared, context, sweep_of(run).parallel))
        await run_stages(context, [stage])
        store = Store(context.root)
        table = await asyncio.to_thread(stage.table, store)
        await show_sweep(store, stage, table)
    if table.failed:
        waiting = all(result.waiting for result in table.failed)
        raise (BatchPendingError if waiting else CellsFailedError)(_failure(run, root, stage.ref, table))
    return Sweep(table, stage.ref)


@dataclass(frozen=True, slots=True)
class _PreparedCell:
    """A cell whose examples are published, with the data they are made from; or one that failed before."""

    result: CellResult
    data: Pipeline
    """Walked up to what every cell of the setting shares."""

    @property
    def shared_models(self) -> tuple[object, ...]:
        """What identifies its models: two cells that share them must not train them at the same time."""
        run = self.result.cell.run
        if run.mixture is None:
            return (run.evaluation and run.evaluation.base,)
        # Of a chain of arms the first is shared, over settings too.
        first = str(run.arm(run.mixture.arms[0]).identity)
        return first, run.mixture.seed, run.training and run.training.base


async def _prepare(setting: Setting, context: RunContext, root: str) -> list[_PreparedCell]:
    """Collect a setting's data and build the examples of its cells: a pool too small fails before any training."""
    data = Pipeline(setting.run, root)
    try:
        await run_stages(context, data.collection())
        await run_stages(context, data.evolution())
    except BudgetExceededError:
        raise
    except Exception as error:  # noqa: BLE001 - whatever it is, the other settings go on
        return [_PreparedCell(_failed(CellResult(cell=cell), error), data) for cell in setting.cells]
    made = [await _with_examples(cell, context, data) for cell in setting.cells]
    await asyncio.to_thread(_fail_equal_arms, Store(context.root), made)
    results = [result for result, _ in made]
    # Those that failed have no examples, and the others are not trained as long as they would have been.
    sound = [result.cell for result in results if not result.error]
    matched = {cell.name: cell for cell in await asyncio.to_thread(match_steps, data, sound)}
    return [_PreparedCell(replace(done, cell=matched.get(done.cell.name, done.cell)), data) for done in results]


def _fail_equal_arms(store: Store, made: list[tuple[CellResult, ArmExamples | None]]) -> None:
    """Fail the cells of two arms that would be one model, before any is trained; the others go on."""
    alike = defaultdict[tuple[object, ...], dict[str, int]](dict)
    for place, (result, examples) in enumerate(made):
        if examples and not result.error:
            alike[result.cell.seed, result.cell.base][result.cell.arm] = place
    for places in alike.values():
        arms = {name: examples for name, place in places.items() if (examples := made[place][1])}
        while pair := find_equal(store, list(arms.values())):
            for arm in pair:
                result, examples = made[places[arm.name]]
                made[places[arm.name]] = (_failed(result, equal_error(*pair)), examples)
            # Of three equal ones all fail: the first stands for the others until the last is found.
            del arms[pair[1].name]


async def _with_examples(cell: Cell, context: RunContext, data: Pipeline) -> tuple[CellResult, ArmExamples | None]:
    pipeline = data.on_the_same_data(cell.run)
    try:
        await run_stages(context, pipeline.mixtures())
        pipeline.check_arms()
    except Exception as error:  # noqa: BLE001 - the other cells go on
        return _failed(CellResult(cell=cell), error), None
    mixture = pipeline.artifacts.mixtures.get(cell.arm)
    return CellResult(cell=cell, mixture=mixture), pipeline.examples_of(cell.arm) if mixture else None


async def _finish(cells: Sequence[_PreparedCell], context: RunContext, parallel: int) -> list[CellResult]:
    """Train and evaluate the cells, some at a time; a budget that ran out starts no further one."""
    slots, alone = _slots(parallel), defaultdict[object, asyncio.Lock](asyncio.Lock)
    spent: list[BudgetExceededError] = []

    async def finish(cell: _PreparedCell) -> CellResult:
        if cell.result.error:
            return cell.result
        # The lock comes first: a cell that waits for another one's model must not hold a GPU meanwhile.
        async with alone[cell.shared_models], _slot(slots):
            if spent:
                return cell.result
            try:
                return await one_cell(cell.result, context, cell.data.root, cell.data.artifacts.collected())
            except BudgetExceededError as error:
                spent.append(error)
            except Exception as error:  # noqa: BLE001 - the other cells go on
                return _failed(cell.result, error)
        return cell.result

    # Seed by seed, the untouched models first: a sweep that is stopped leaves whole replicates.
    started = {
        cell.result.cell.name: asyncio.create_task(finish(cell))
        for cell in sorted(cells, key=lambda cell: -1 if cell.result.cell.seed is None else cell.result.cell.seed)
    }
    results = await asyncio.gather(*(started[cell.result.cell.name] for cell in cells))
    if spent:
        raise spent[0]
    return results


def _slots(parallel: int) -> asyncio.Queue[Devices]:
    """Return as many slots as cells may run at a time, each with its share of the GPUs."""
    slots: asyncio.Queue[Devices] = asyncio.Queue()
    for share in share_devices(gpus_here(), parallel) if parallel > 1 else [()]:
        slots.put_nowait(share)
    return slots


@asynccontextmanager
async def _slot(slots: asyncio.Queue[Devices]) -> AsyncIterator[None]:
    share = await slots.get()
    try:
        with use_devices(share):
            yield
    finally:
        slots.put_nowait(share)


@flow(name="ablation-cell", flow_run_name="{result.cell.name}", persist_result=False)
async def one_cell(result: CellResult, context: RunContext, root: str, collected: RunArtifacts) -> CellResult:
    """Fine-tune a cell's model and ask it the held-out questions."""
    name, pipeline = result.cell.arm, Pipeline(result.cell.run, root, collected)
    artifacts = pipeline.artifacts
    await run_stages(context, cell_stages(pipeline, result.cell))
    return replace(
        result,
        tokens=artifacts.tokens.get(name),
        model=artifacts.models.get(name),
        evaluation=artifacts.evaluations.get(name),
        evaluations={
            test_set: measured.evaluations[name]
            for test_set, measured in artifacts.measured_on(result.cell.run.test_sets).items()
            if name in measured.evaluations
        },
        likelihoods={test_set: arms[name] for test_set, arms in artifacts.likelihoods.items() if name in arms},
    )


def _failure(run: RunSpec, root: str, report: ArtifactRef, table: SweepTable) -> str:
    where = "" if root == ".lema" else f" --root {root}"
    return "\n".join(
        [
            f"{len(table.failed)} of {len(table.all_cells)} cells did not finish; the others are kept:",
            *(f"  {result.cell.name}: {result.error}" for result in table.failed),
            f"Go on with: lema resume {run.name}{where} (it makes these cells only)",
            f"Report of the others: {Store(RunContext.of(run, root).root).folder(report)}/{HTML}",
            sweep_text(table),
        ]
    )


def _failed(result: CellResult, error: Exception) -> CellResult:
    why = str(error) or type(error).__name__
    return replace(result, error=why, waiting=isinstance(error, BatchPendingError))
