"""The whole paper in its order: questions, paths, verdicts, mistakes, corrections, mixture, SFT, evaluation, report."""

from prefect import flow

from flows.endpoints import Endpoints
from lema_core.artifacts import ArtifactRef
from lema_core.lineage import Lineage
from lema_core.specs import RunSpec, Runtime
from tasks._endpoints import engine_session
from tasks.corrections import corrections
from tasks.evaluation import evaluation
from tasks.mixture import mixture
from tasks.questions import questions
from tasks.reasoning_paths import reasoning_paths
from tasks.report import report
from tasks.training import training
from tasks.verdicts import mistakes, verdicts


@flow(name="lema", flow_run_name="{run.name}", persist_result=False)
async def lema(run: RunSpec, root: str = ".lema") -> Lineage:
    """Teach a model from its mistakes, as a run file says; stages that are there already are not made again."""
    at, made = Runtime.of(run, root), Lineage()
    async with engine_session(at):
        made.questions = await questions(at, run.questions)
        if run.test_questions:
            made.test_questions = await questions(at, run.test_questions)
        models = Endpoints(run, at, made)
        await collect_corrections(run, at, made, models, made.questions)
        await fine_tune(run, at, made)
        await evaluate(run, at, made, models)
        made.report = await report(at, run, made)
    return made


async def collect_corrections(
    run: RunSpec, at: Runtime, made: Lineage, models: Endpoints, questions: ArtifactRef
) -> None:
    """Collect the students' mistakes and have them corrected (paper, sections 2.1 and 2.2)."""
    task = run.questions.task
    for student in run.students:
        paths = await reasoning_paths(at, student, models[student.endpoint], task, questions)
        made.reasoning_paths.append(paths)
        made.verdicts.append(await verdicts(at, run.verdicts, task, paths))
    if run.corrections:
        made.mistakes = await mistakes(at, run.mistakes, made.verdicts)
        teacher = models[run.corrections.endpoint]
        made.corrections = await corrections(at, run.corrections, teacher, task, made.mistakes)


async def fine_tune(run: RunSpec, at: Runtime, made: Lineage) -> None:
    """Fine-tune one model an arm (paper, section 2.3)."""
    if run.mixture is None:
        return
    for arm in run.mixture.arms:
        made.mixtures[arm] = await mixture(at, run.mixture, arm, run.questions.task, made)
        if run.training:
            made.models[arm] = await training(at, run.training, arm, made.mixtures[arm])


async def evaluate(run: RunSpec, at: Runtime, made: Lineage, models: Endpoints) -> None:
    """Measure the base model and every arm on the same held-out questions (paper, section 3.3)."""
    if run.evaluation is None or made.test_questions is None:
        return
    for name, model, prompt in models.evaluated(made.models):
        made.evaluations[name] = await evaluation(
            at, run.evaluation, name, model, prompt, run.questions.task, made.test_questions
        )
