"""One model on held-out questions, without the rest of a run around it."""

from lema_core.pipeline import Pipeline
from lema_core.run.single_evaluation import GO_ON, Measured, measured_by
from lema_core.run.spec import RunContext, RunSpec
from tasks.boundary import flow
from tasks.engine_session import engine_session
from tasks.run_stage import run_stages


@flow(name="lema-evaluation", flow_run_name="{run.name}", persist_result=False)
async def evaluate(run: RunSpec, root: str = ".lema") -> dict[str, Measured]:
    """Ask the run's base model its test sets and judge the answers, by set; what is published is not asked again."""
    context = RunContext.of(run, root).model_copy(update={"go_on": GO_ON})
    pipeline = Pipeline(run, root)
    async with engine_session(context):
        await run_stages(context, pipeline.base_evaluation())
    return measured_by(pipeline)
