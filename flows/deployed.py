"""The flows behind ``deployments/prefect.yaml``: what can be scheduled, started from a form, or by an automation.

Each is the flow of ``flows/lema.py``, whole or in part, on a run file. A run that stops because batches are submitted
ends as ``Submitted``, one that reaches its budget as ``BudgetReached``: states of their own, so that automations can
distinguish them from failures. What failed is kept; ``resume`` goes on with it.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

from prefect.client.schemas.objects import State
from prefect.runtime import flow_run
from prefect.states import Completed, Failed
from pydantic import Field

from flows.cancelling import end_in_a_state, is_cancel_requested
from flows.lema import lema
from flows.preflight import preflight
from flows.sweep import ablation
from lema_core.errors import BatchPendingError, BudgetExceededError, ConfigError, LemaError, ShardsFailedError
from lema_core.pipeline import Pipeline
from lema_core.run.artifacts import RunArtifacts
from lema_core.run.bundled import bundled_runs
from lema_core.run.files import read_run_file
from lema_core.run.records import RunRecord, awaits_batches, read_record, read_records, record_run, title_of
from lema_core.run.spec import RunContext, RunSpec
from tasks.boundary import flow
from tasks.engine_session import engine_session, with_key
from tasks.run_stage import run_stages
from tasks.ui_artifacts import show_scores

RUN_FILES = Path("deployments") / "runs"
FREE_RUN = str(RUN_FILES / "smoke.toml")
"""What the forms start with: it needs no key and costs nothing. Outside a checkout it names the bundled one."""
ROOT = ".lema"
SUBMITTED = "Submitted"
"""The name of a completed state: everything that is missing waits for batches."""


def _run_files() -> list[str]:
    """Return the run files that a form offers: the working directory's when they are registered, else bundled ones."""
    return sorted(map(str, RUN_FILES.glob("*.toml"))) or [*bundled_runs()]


RunFile = Annotated[str, Field(json_schema_extra={"examples": _run_files()})]


def titled(prefix: str = "") -> Any:
    """Return a namer of flow runs: by the run file's contents, or by its path where it cannot be read."""

    def name() -> str:
        given = flow_run.parameters
        try:
            title = title_of(read_run_file(Path(given["run_file"]), given["settings"]))
        except LemaError:
            title = str(given["run_file"])
        return f"{prefix}{title}"

    return name


@flow(name="lema-run", flow_run_name=titled(), persist_result=False)
@end_in_a_state
async def whole_run(run_file: RunFile = FREE_RUN, settings: list[str] = [], root: str = ROOT) -> State[None]:  # noqa: B006 - a form shows plain defaults only
    """Teach a model from its mistakes, from the questions to the report. What is there already is not made again.

    Args:
        run_file: Path of a run file, from the folder that the worker runs in; or a bundled name as `smoke`.
        settings: Options of the run file to change, one an entry, as `questions.limit=200` or `budget.usd=20`.
        root: Where artifacts and the ledger lie: a folder, or a URL such as `s3://bucket/lema`.
    """
    run = read_run_file(Path(run_file), settings)
    return await run_recorded(run.model_copy(update={"ablation": None}), root)


@flow(name="lema-corrections", flow_run_name=titled("corrections: "), persist_result=False)
@end_in_a_state
async def corrections_only(
    run_file: RunFile = FREE_RUN,
    settings: list[str] = [],  # noqa: B006 - as above
    batch: bool = False,
    root: str = ROOT,
) -> State[None]:
    """Collect and correct the mistakes of a run file's questions, and nothing after that. Paid are new questions only.

    It runs under the name `<run>-corrections`, so it has a budget of its own: `[budget]` is the limit of all its nights
    together, beside the same amount for the run itself.

    Args:
        run_file: Path of a run file, from the folder that the worker runs in; or a bundled name as `smoke`.
        settings: Options of the run file to change, one an entry, as `questions.limit=200` or `budget.usd=20`.
        batch: Submit the corrections to the Batch API, at half the price, and end; `collect-batch` goes on.
        root: Where artifacts and the ledger lie: a folder, or a URL such as `s3://bucket/lema`.
    """
    return await run_recorded(corrections_of(read_run_file(Path(run_file), settings), batch=batch), root)


def corrections_of(run: RunSpec, *, batch: bool = False) -> RunSpec:
    """Return the part of a run that ends with its corrections, under a name, and so a budget, of its own.

    Raises:
        ConfigError: the run collects no corrections.
    """
    if run.corrections is None:
        raise ConfigError(f"the run {run.name!r} has no [corrections]; choose a run file that has")
    later = ("ablation", "evolution", "mixture", "training", "selection", "test_questions", "evaluation")
    endpoints = dict(run.endpoints)
    for name in run.corrections.endpoints if batch else ():
        endpoints[name] = endpoints[name].model_copy(update={"transport": "batch", "wait_for_batch": False})
    changes: dict[str, object] = {"name": f"{run.name}-corrections", "endpoints": endpoints}
    return run.model_copy(update=changes | dict.fromkeys(later))


@flow(name="lema-collect-batch", flow_run_name="collect batches under {root}", persist_result=False)
@end_in_a_state
async def collect_batch(root: str = ROOT) -> State[None]:
    """Go on with every run that waits for batches, also where it failed meanwhile; what is not done goes on waiting.

    Args:
        root: Where artifacts and the ledger lie: a folder, or a URL such as `s3://bucket/lema`.
    """
    return await _resume_all(*_select_records(root, lambda record: awaits_batches(record, root)), root)


@flow(name="lema-resume", flow_run_name="resume {run} under {root}", persist_result=False)
@end_in_a_state
async def resume(run: str = "", root: str = ROOT, crashes: Annotated[int, Field(ge=1)] = 3) -> State[None]:
    """Run what is missing of the runs that failed or were killed: their unfinished and failed shards, nothing else.

    Args:
        run: The name of one run; empty for every run that failed or was killed.
        crashes: A run that was resumed so often in a row and died again is left alone, unless it is named.
        root: Where artifacts and the ledger lie: a folder, or a URL such as `s3://bucket/lema`.
    """
    if run:
        named = read_record(root, run)
        if named is None:
            raise ConfigError(f"no run {run!r} under {root}; there are {[r.name for r in read_records(root)]}")
        return await _resume_all([named], [], root)
    stopped = {"running", "failed"}
    return await _resume_all(
        *_select_records(root, lambda one: one.state in stopped and not one.running(root) and one.crashes < crashes),
        root,
    )


@flow(name="lema-evaluate", flow_run_name=titled("evaluation: "), persist_result=False)
@end_in_a_state
async def evaluate_only(run_file: RunFile = FREE_RUN, settings: list[str] = [], root: str = ROOT) -> State[None]:  # noqa: B006 - as above
    """Measure the base model and every arm that is trained already on the run file's held-out questions, or on others.

    Other questions are those that the settings name; the arms are then those of the run file as it is. What was trained
    on left out the run's own held-out questions only.

    Args:
        run_file: Path of a run file, from the folder that the worker runs in; or a bundled name as `smoke`.
        settings: Options of the run file to change, one an entry, as `test_questions.task=svamp`.
        root: Where artifacts and the ledger lie: a folder, or a URL such as `s3://bucket/lema`.
    """
    run = read_run_file(Path(run_file), settings)
    if run.evaluation is None or run.test_questions is None:
        raise ConfigError(f"{run_file} has no [evaluation] with [test_questions]; choose a run file that has")
    pipeline = Pipeline(run, root, trained_artifacts(run, run_file, root))
    go_on = "the deployment evaluate again, with the same parameters"
    context = RunContext.of(run, root).model_copy(update={"go_on": go_on})
    async with engine_session(context):
        await run_stages(context, pipeline.questions())
        await run_stages(context, pipeline.evaluation())
    return Completed(message=await show_scores(pipeline.store, run, pipeline.artifacts))


def trained_artifacts(run: RunSpec, run_file: str, root: str) -> RunArtifacts:
    """Return what a run has made, with the arms that are trained, also where its file has other held-out questions.

    Raises:
        ConfigError: none of its arms is trained.
    """
    if made := _trained(run, root):
        return made
    # Arms leave out the held-out questions that they are measured on: with other ones they would be other arms.
    own = run.model_copy(update={"test_questions": read_run_file(Path(run_file)).test_questions})
    if made := _trained(own, root):
        return made
    raise ConfigError(
        f"no arm of {run_file} is trained under {root}: run it first, with the same settings. To measure the base "
        "model alone: lema evaluate RUN.toml"
    )


def _trained(run: RunSpec, root: str) -> RunArtifacts | None:
    """Return what a run has made, with the arms that are trained; None if it trains arms and none is trained."""
    pipeline = Pipeline(run, root)
    artifacts, store = pipeline.artifacts, pipeline.store
    for _ in pipeline.stages():
        pass
    artifacts.models = {arm: model for arm, model in artifacts.models.items() if store.exists(model)}
    return artifacts.unmeasured() if artifacts.models or run.training is None else None


def _select_records(root: str, wanted: Callable[[RunRecord], bool]) -> tuple[list[RunRecord], list[str]]:
    """Return the wanted records, and the errors of others, such as a ledger that is away."""
    found, failures = list[RunRecord](), list[str]()
    for record in read_records(root):
        try:
            found += [record] if wanted(record) else []
        except LemaError as error:
            failures.append(f"{record.name}: {error}")
    return found, failures


async def _resume_all(found: list[RunRecord], failures: list[str], root: str) -> State[None]:
    """Run some recorded runs, one after the other, each as a subflow; the failure of one does not stop the next.

    ``failures`` are those of others.
    """
    waiting, done = list[str](), list[str]()
    for record in found:
        name = record.name
        try:
            run = record.spec
        except ConfigError as error:
            failures.append(str(error))
            continue
        state = await resume_recorded(run, root, return_state=True)
        if not state.is_completed():
            failures.append(f"{name}: {state.message}")
        else:
            (waiting if state.name == SUBMITTED else done).append(name)
    if failures:
        raise ShardsFailedError("; ".join(failures))
    parts = ((done, "finished"), (waiting, "batches are not done yet of"))
    said = "; ".join(f"{what} {', '.join(names)}" for names, what in parts if names)
    return Completed(name=SUBMITTED if waiting else "Completed", message=said or f"nothing to do under {root}")


@flow(name="lema-recorded", flow_run_name=lambda: title_of(flow_run.parameters["run"]), persist_result=False)
async def resume_recorded(run: RunSpec, root: str) -> State[None]:
    """Go on with a recorded run."""
    return await run_recorded(run, root)


async def run_recorded(run: RunSpec, root: str) -> State[None]:
    """Run a spec in the present flow run, and say in its state what became of it."""
    try:
        with record_run(run, root, is_cancel_requested):
            await preflight(run, root, with_key)
            await (ablation.fn(run, root) if run.ablation else lema.fn(run, root))
    except BatchPendingError as error:
        return Completed(name=SUBMITTED, message=str(error))
    except BudgetExceededError as error:
        return Failed(name="BudgetReached", message=str(error))
    return Completed(message=f"finished; artifacts under {RunContext.of(run, root).root}")
