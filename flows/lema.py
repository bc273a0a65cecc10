"""The whole paper in its order: questions, mistakes and corrections, evolution, fine-tuning, evaluation, report."""

from prefect.runtime import flow_run

from flows.corrections import collect_corrections
from flows.endpoints import Endpoints
from flows.evolution import evolve
from flows.fine_tuning import evaluate, fine_tune
from flows.planning.forecasts import telling_what_remains
from flows.run_records import title_of
from flows.selection import hold_out
from lema_core.run.artifacts import Collection, Lineage
from lema_core.run.spec import RunSpec, Runtime
from tasks.boundary import flow
from tasks.engine_session import engine_session
from tasks.questions import questions
from tasks.report import report


@flow(name="lema", flow_run_name=lambda: title_of(flow_run.parameters["run"]), persist_result=False)
async def lema(run: RunSpec, root: str = ".lema") -> Lineage:
    """Teach a model from its mistakes, as a run file says; stages that are there already are not made again."""
    at, made = Runtime.of(run, root), Lineage()
    async with telling_what_remains(run, root), engine_session(at):
        models = await collect(run, at, made)
        await fine_tune(run, at, made)
        await evaluate(run, at, models, made)
        made.report = await report(at, run, made)
    return made


async def collect(run: RunSpec, at: Runtime, made: Lineage) -> Endpoints:
    """Collect mistakes and corrections, on the own questions and on evolved ones: what every arm is a view of."""
    made.questions = await questions(at, run.questions)
    if run.test_questions:
        made.test_questions = await questions(at, run.test_questions)
    await hold_out(run, at, made)  # before anything is paid: there may be too few questions
    models = Endpoints(run, at, made)
    first = made.collect(Collection(made.questions))
    await collect_corrections(run, at, models, first, models.students(first.round))
    await evolve(run, at, models, made)
    return models
