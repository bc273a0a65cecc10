"""One model on held-out questions, without the rest of a run around it."""

from flows.endpoints import Endpoints
from flows.measuring import GO_ON, Measured, asked_for
from lema_core.run.artifacts import Lineage
from lema_core.run.spec import RunSpec, Runtime
from tasks.boundary import flow
from tasks.engine_session import engine_session
from tasks.evaluation import evaluation
from tasks.questions import questions


@flow(name="lema-evaluation", flow_run_name="{run.name}", persist_result=False)
async def evaluate(run: RunSpec, root: str = ".lema") -> Measured:
    """Ask the run's base model its held-out questions and judge the answers; what is there is not asked again."""
    source, spec, name = asked_for(run)
    at = Runtime.of(run, root).model_copy(update={"go_on": GO_ON})
    async with engine_session(at):
        held_out = await questions(at, source)
        model = Endpoints(run, at, Lineage(test_questions=held_out))[name]
        asked = (at, spec, name, model, spec.base_prompt, source.task, held_out)
        greedy = await evaluation(*asked)
        return Measured(greedy, await evaluation(*asked, sampled=True) if spec.samples else None)
