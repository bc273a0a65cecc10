"""Mistakes of students on a set of questions, and their corrections (paper, sections 2.1 and 2.2)."""

from collections.abc import Iterable

from flows.endpoints import Endpoints, Student
from lema_core.lineage import Collection
from lema_core.specs import RunSpec, Runtime
from tasks.corrections import corrections
from tasks.reasoning_paths import reasoning_paths
from tasks.verdicts import mistakes, verdicts


async def collect_corrections(
    run: RunSpec, at: Runtime, models: Endpoints, into: Collection, students: Iterable[Student]
) -> None:
    """Sample paths to the collection's questions, judge them, and have the mistakes corrected."""
    task = run.questions.task
    for student in students:
        paths = await reasoning_paths(at, student.spec, student.endpoint, task, into.questions)
        into.students.append(student.name)
        into.reasoning_paths.append(paths)
        into.verdicts.append(await verdicts(at, run.verdicts, task, paths))
    if run.corrections:
        into.mistakes = await mistakes(at, run.mistakes, into.verdicts)
        for name in run.corrections.endpoints:
            into.corrections[name] = await corrections(at, run.corrections, models[name], task, into.mistakes)
