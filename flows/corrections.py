"""Mistakes of students on a set of questions, and their corrections (paper, sections 2.1 and 2.2)."""

from collections.abc import Iterable

from flows.endpoints import Endpoints, Student
from lema_core import identities
from lema_core.artifacts import ArtifactRef, Store
from lema_core.corrections.specs import CorrectionsSpec
from lema_core.llm.endpoints import EndpointSpec
from lema_core.run.artifacts import Collection
from lema_core.run.spec import RunSpec, Runtime
from tasks.corrections import corrections
from tasks.quality_gate import approval, quality_gate
from tasks.reasoning_paths import reasoning_paths
from tasks.verdicts import mistakes, verdicts


async def collect_corrections(
    run: RunSpec, at: Runtime, models: Endpoints, into: Collection, students: Iterable[Student]
) -> None:
    """Sample paths to the collection's questions, judge them, and have the mistakes corrected."""
    task, mistaken = run.questions.task, []
    for student in students:
        paths = await reasoning_paths(at, student.spec, student.endpoint, task, into.questions)
        judged = await verdicts(at, run.verdicts, task, paths)
        into.students.append(student.name)
        into.reasoning_paths.append(paths)
        into.verdicts.append(judged)
        mistaken += [judged] if student.spec.mistakes else []
    if run.corrections:
        into.mistakes = await mistakes(at, run.mistakes, mistaken)
        second = models[run.corrections.second] if run.corrections.second else None
        for name in run.corrections.endpoints:
            if into.round == 0:
                await pass_gate(run, run.corrections, at, models[name], into.mistakes, second)
            into.corrections[name] = await corrections(at, run.corrections, models[name], task, into.mistakes, second)


async def pass_gate(
    run: RunSpec, spec: CorrectionsSpec, at: Runtime, teacher: EndpointSpec, mistakes: ArtifactRef,
    second: EndpointSpec | None,
) -> None:  # fmt: skip
    """Correct a pilot and wait for its approval, where the run has a gate and corrections are still to be paid."""
    task = run.questions.task
    whole = identities.corrections(spec, teacher.identity, task, mistakes.fingerprint, second)
    if run.quality_gate is None or Store(at.root).exists(ArtifactRef(whole.stage, whole.fingerprint)):
        return
    pilot = await quality_gate(at, run.quality_gate, mistakes)
    # The same requests as the corrections of all mistakes: the ledger has the answers then.
    corrected = await corrections(at, spec, teacher, task, pilot, second)
    await approval(at, run.quality_gate, pilot, corrected)
