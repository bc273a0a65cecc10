"""Fine-tuning one model an arm, and measuring all of them on the same questions (paper, sections 2.3 and 3.3)."""

from flows.endpoints import Endpoints
from flows.selection import trained
from lema_core.artifacts import Store
from lema_core.run.artifacts import Lineage
from lema_core.run.spec import RunSpec, Runtime
from tasks.evaluation import evaluation
from tasks.mixture import mixture
from tasks.perplexity import perplexity
from tasks.tokens import tokens


async def fine_tune(run: RunSpec, at: Runtime, made: Lineage) -> None:
    """Fine-tune every arm of the run."""
    for arm in run.mixture.arms if run.mixture else ():
        await fine_tune_arm(run, at, made, arm)


async def build_examples(run: RunSpec, at: Runtime, made: Lineage, arm: str) -> None:
    """Build an arm's examples from what has been collected so far."""
    if run.mixture is None or arm in made.mixtures:
        return
    base = run.training.base if run.training else None
    made.mixtures[arm] = await mixture(at, run.mixture, run.arm(arm), run.questions.task, made, base)


async def fine_tune_arm(run: RunSpec, at: Runtime, made: Lineage, arm: str) -> None:
    """Build an arm's examples from what has been collected so far, and fine-tune on them."""
    await build_examples(run, at, made, arm)
    if run.training is None or arm in made.models:
        return
    spec = run.training_of(arm)
    start = made.models[spec.starts_from_arm] if spec.starts_from_arm else None
    made.tokens[arm] = await tokens(at, spec, arm, made.mixtures[arm], start)
    made.models[arm] = await trained(run, at, made, arm, spec, made.tokens[arm], start)


async def evaluate(run: RunSpec, at: Runtime, models: Endpoints, made: Lineage) -> None:
    """Measure the base model and every arm on the same held-out questions."""
    if run.evaluation is None or run.test_questions is None or made.test_questions is None:
        return
    task = run.test_questions.task
    for name, model, prompt in models.evaluated(made.models):
        asked = (at, run.evaluation, name, model, prompt, task, made.test_questions)
        made.evaluations[name] = await evaluation(*asked)
        if run.evaluation.samples:
            made.votes[name] = await evaluation(*asked, sampled=True)
    await _perplexity(run.evaluation.perplexity, at, made)


async def _perplexity(pairs: int, at: Runtime, made: Lineage) -> None:
    """Measure delta-PPL of every arm on the corrections of the task's own questions (paper, section 4.4)."""
    corrections = made.main_corrections
    if pairs and corrections and Store(at.root).manifest(corrections).rows_out:
        for arm, model in made.models.items():
            made.perplexity[arm] = await perplexity(at, arm, pairs, model, corrections)
