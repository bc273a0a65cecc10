"""The whole paper in its order: questions, mistakes and corrections, evolution, fine-tuning, evaluation, report."""

from prefect.runtime import flow_run

from lema_core.pipeline import Pipeline
from lema_core.run.artifacts import RunArtifacts
from lema_core.run.plan import report_remaining_cost
from lema_core.run.records import title_of
from lema_core.run.spec import RunContext, RunSpec
from tasks.boundary import flow
from tasks.early_end import early_end_written
from tasks.engine_session import engine_session
from tasks.run_stage import run_stages


@flow(name="lema", flow_run_name=lambda: title_of(flow_run.parameters["run"]), persist_result=False)
async def lema(run: RunSpec, root: str = ".lema") -> RunArtifacts:
    """Teach a model from its mistakes, as a run file says; stages that are published are not made again."""
    context, pipeline = RunContext.of(run, root), Pipeline(run, root)
    async with early_end_written(pipeline), report_remaining_cost(run, root), engine_session(context):
        await run_stages(context, pipeline.collection())
        await run_stages(context, pipeline.evolution())
        if run.training:
            # All examples before any training: what two arms have in common must be known before one is trained.
            await run_stages(context, pipeline.on_the_same_data(run).mixtures())
        await run_stages(context, pipeline.fine_tuning())
        await run_stages(context, pipeline.evaluation())
        report = pipeline.report()
        await run_stages(context, [report])
        pipeline.artifacts.report = report.ref
    return pipeline.artifacts
