"""Rounds on evolved questions: round 1 asks the run's students, each later one the model of the round before."""

from flows.corrections import collect_corrections
from flows.endpoints import Endpoints
from flows.fine_tuning import fine_tune_arm
from lema_core.evolution import Kind
from lema_core.run.artifacts import Collection, Lineage
from lema_core.run.spec import EvolutionSpec, RunSpec, Runtime
from tasks.evolution import evolution, evolution_created, evolution_novel


async def evolve(run: RunSpec, at: Runtime, models: Endpoints, made: Lineage) -> None:
    """Evolve questions and collect mistakes and corrections on them, round by round (paper, section 2.4)."""
    if run.evolution is None:
        return
    for number in range(1, run.evolution.rounds + 1):
        if number > 1:
            await fine_tune_arm(run, at, made, f"round_{number - 1}")
        students = list(models.students(number))
        for kind in run.evolution.kinds_in(number):
            collection = await new_questions(run, run.evolution, at, models, made, kind, number)
            await collect_corrections(run, at, models, made.collect(collection), students)


async def new_questions(
    run: RunSpec, spec: EvolutionSpec, at: Runtime, models: Endpoints, made: Lineage, kind: Kind, number: int
) -> Collection:
    """Create questions from the seeds of the first collection, keep the new ones, and answer them by majority."""
    first, task = made.collections[0], run.questions.task
    created = await evolution_created(at, spec, kind, number, models[spec.endpoint], task, first)
    known = made.known_questions(kind)
    novel = await evolution_novel(at, spec, created, known, made.test_questions)
    evolved = await evolution(at, spec, models[spec.endpoints[1]], task, novel)
    return Collection(evolved, number, kind, (created, novel))
