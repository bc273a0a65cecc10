"""Choosing an arm's checkpoint: every one answers training questions that no arm was trained on, the best stays."""

import asyncio
from collections.abc import Iterable, Mapping
from pathlib import Path

from flows.endpoints import Endpoints
from lema_core import identities
from lema_core.artifacts import ArtifactRef
from lema_core.evaluation.selection_spec import SelectionSpec
from lema_core.llm.endpoints import EndpointSpec
from lema_core.run.artifacts import Lineage
from lema_core.run.spec import EvaluationSpec, RunSpec, Runtime
from lema_core.training import TrainingSpec
from tasks.evaluation import evaluation
from tasks.selection import held_out, selected, selection
from tasks.training import candidates, training


async def hold_out(run: RunSpec, at: Runtime, made: Lineage) -> None:
    """Keep training questions back, before the first arm is built, where the run chooses checkpoints."""
    if run.selection and made.questions:
        made.held_out = await held_out(at, run.selection, made.questions)


async def trained(
    run: RunSpec,
    at: Runtime,
    made: Lineage,
    arm: str,
    spec: TrainingSpec,
    tokens: ArtifactRef,
    start: ArtifactRef | None,
) -> ArtifactRef:
    """Fine-tune on an arm's tokens and return the model: the best checkpoint on what was held out, else the last."""
    choice = identities.selection(run, made)
    if choice is None or run.selection is None or run.evaluation is None:
        return await training(at, spec, arm, tokens, start)
    identity = identities.training(spec, tokens.fingerprint, start, choice)
    if ref := await selected(at, identity):
        return ref
    weights = await candidates(at, spec, arm, tokens, start, identity)
    measured = _Measuring(run, run.selection, run.evaluation, at, made, arm)
    asked = [ref for ref in (made.held_out, made.test_questions if "test" in choice else None) if ref]
    tables = await measured.all(weights, identity.fingerprint, asked)
    return await selection(at, arm, identity, tables[0], tables[1] if "test" in choice else {})


class _Measuring:
    """The checkpoints of one arm, a few of them served at a time."""

    def __init__(
        self, run: RunSpec, spec: SelectionSpec, how: EvaluationSpec, at: Runtime, made: Lineage, arm: str
    ) -> None:
        self._how, self._at, self._arm = how, at, arm
        self._tasks = {made.held_out: run.questions.task}
        if run.test_questions:
            self._tasks[made.test_questions] = run.test_questions.task
        self._models = Endpoints(run, at, made)
        self._slots: asyncio.Queue[int] = asyncio.Queue()
        for slot in range(spec.at_once):
            self._slots.put_nowait(slot)

    async def all(
        self, weights: Mapping[int, Path], model: str, asked: Iterable[ArtifactRef]
    ) -> list[dict[int, ArtifactRef]]:
        """Return for each set of questions the checkpoints' answers, by step."""
        questions = list(asked)
        steps = (self._one(step, folder, f"{model}-step-{step}", questions) for step, folder in weights.items())
        answers = await asyncio.gather(*steps, return_exceptions=True)
        # The others were let finish: what they paid for is in the store.
        failed = [one for one in answers if isinstance(one, BaseException)]
        if failed:
            raise failed[0]
        rows = [one for one in answers if not isinstance(one, BaseException)]
        return [{step: row[i] for step, row in zip(weights, rows, strict=True)} for i in range(len(questions))]

    async def _one(self, step: int, folder: Path, identity: str, asked: list[ArtifactRef]) -> list[ArtifactRef]:
        slot = await self._slots.get()
        try:
            endpoint = self._models.checkpoint(str(folder), identity, slot)
            return [await self._answers(step, endpoint, questions) for questions in asked]
        finally:
            self._slots.put_nowait(slot)

    async def _answers(self, step: int, endpoint: EndpointSpec, questions: ArtifactRef) -> ArtifactRef:
        name = f"{self._arm}, step {step}"
        return await evaluation(self._at, self._how, name, endpoint, "zero_shot", self._tasks[questions], questions)
