"""What a run would do: each artifact there or not, and how many requests to which endpoint. Nothing is sent.

Every identity follows from the run file and its sources, so the plan names the artifacts of all stages, also of those
whose inputs do not exist yet. How many rows a missing stage will give is an upper bound until its input is there.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial

from flows.endpoints import Endpoints
from lema_core import identities
from lema_core.artifacts import ArtifactRef, Identity, Store
from lema_core.corrections.requesting import correction_requests
from lema_core.greedy import greedy_requests
from lema_core.lineage import Lineage
from lema_core.llm.endpoints import EndpointSpec
from lema_core.llm.requests import CompletionRequest
from lema_core.questions import QuestionsSpec, get_task, read_questions
from lema_core.reasoning_paths import path_requests
from lema_core.records import JudgedPath, Question
from lema_core.specs import CorrectionsSpec, MixtureSpec, PromptKind, RunSpec, Runtime, StudentSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedStage:
    """One artifact of a run."""

    name: str
    ref: ArtifactRef
    there: bool
    rows: int | None
    """Rows of the artifact if it is there, else at most so many; None where nobody can say."""
    endpoint: EndpointSpec | None = None
    requests: int = 0
    """At most so many requests; 0 if it is there."""
    asked: Callable[[], Iterable[CompletionRequest]] | None = None
    """The very requests, where the inputs are there to write them from."""
    max_tokens: int = 0
    """The cap of an answer."""


class Planner:
    """Walks a run file in the flow's order."""

    def __init__(self, run: RunSpec, root: str) -> None:
        self.run = run
        self.runtime = Runtime.of(run, root)
        self.store = Store(self.runtime.root)
        self.made = Lineage()
        self._known: dict[ArtifactRef, int | None] = {}

    def stages(self) -> Iterator[PlannedStage]:
        """Yield every stage with what it needs.

        Raises:
            DataError: a source cannot be used.
            ConfigError: an endpoint or a task cannot be used.
        """
        questions = self._questions("questions", self.run.questions)
        yield questions
        self.made.questions = questions.ref
        if self.run.test_questions:
            held_out = self._questions("test_questions", self.run.test_questions)
            yield held_out
            self.made.test_questions = held_out.ref
        models = Endpoints(self.run, self.runtime, self.made)
        yield from self._data(models, questions)
        yield from self._arms(models)

    def _questions(self, name: str, spec: QuestionsSpec) -> PlannedStage:
        # Reading the source costs no request, and a source that cannot be used has to be told now.
        rows = sum(1 for _ in _questions_of(spec))
        return self._stage(name, identities.questions(spec), rows)

    def _data(self, models: Endpoints, questions: PlannedStage) -> Iterator[PlannedStage]:
        task, made = self.run.questions.task, self.made
        for student in self.run.students:
            model = models[student.endpoint]
            identity = identities.reasoning_paths(student, model.identity, task, questions.ref.fingerprint)
            paths = self._stage(
                "reasoning_paths", identity, _times(questions.rows, student.samples), model,
                asked=partial(self._path_requests, student), max_tokens=student.max_tokens,
            )  # fmt: skip
            verdicts = self._stage(
                "verdicts", identities.verdicts(self.run.verdicts, task, paths.ref.fingerprint), paths.rows
            )
            made.reasoning_paths.append(paths.ref)
            made.verdicts.append(verdicts.ref)
            yield from (paths, verdicts)
        if self.run.corrections:
            yield from self._corrections(models[self.run.corrections.endpoint])

    def _corrections(self, teacher: EndpointSpec) -> Iterator[PlannedStage]:
        spec, made = self.run.corrections, self.made
        if spec is None:
            return
        rows = sum(self._rows(ref) or 0 for ref in made.verdicts)
        if self.run.mistakes.per_question and made.questions:
            rows = min(rows, self.run.mistakes.per_question * (self._rows(made.questions) or 0))
        prints = [ref.fingerprint for ref in made.verdicts]
        mistakes = self._stage("mistakes", identities.mistakes(self.run.mistakes, prints), rows)
        made.mistakes = mistakes.ref
        identity = identities.corrections(spec, teacher.identity, self.run.questions.task, mistakes.ref.fingerprint)
        asked = partial(self._correction_requests, spec, mistakes.ref) if mistakes.there else None
        corrections = self._stage(
            "corrections", identity, _times(mistakes.rows, spec.tries), teacher, asked=asked, max_tokens=spec.max_tokens
        )
        made.corrections = corrections.ref
        yield from (mistakes, corrections)

    def _arms(self, models: Endpoints) -> Iterator[PlannedStage]:
        run, made = self.run, self.made
        if run.mixture:
            for arm in run.mixture.arms:
                yield from self._arm(run.mixture, arm)
        if run.evaluation and made.test_questions:
            held_out = self._rows(made.test_questions)
            for name, endpoint, prompt in models.evaluated(made.models):
                identity = identities.evaluation(
                    run.evaluation, endpoint.identity, prompt, run.questions.task, made.test_questions.fingerprint
                )
                asked = partial(self._greedy_requests, run.evaluation.max_tokens, prompt)
                yield self._stage(
                    f"evaluation: {name}", identity, held_out, endpoint, asked=asked,
                    max_tokens=run.evaluation.max_tokens,
                )  # fmt: skip

    def _arm(self, spec: MixtureSpec, arm: str) -> Iterator[PlannedStage]:
        made, run = self.made, self.run
        mixture = self._stage(f"mixture: {arm}", identities.mixture(spec, arm, run.questions.task, made), None)
        made.mixtures[arm] = mixture.ref
        yield mixture
        if run.training:
            identity = identities.training(run.training, mixture.ref.fingerprint)
            model = self._stage(f"training: {arm}", identity, None)
            made.models[arm] = model.ref
            yield model

    def _path_requests(self, student: StudentSpec) -> Iterator[CompletionRequest]:
        rows = _questions_of(self.run.questions)
        return (one.request for one in path_requests(rows, student.sampling(), student.samples, student.prompt))

    def _correction_requests(self, spec: CorrectionsSpec, mistakes: ArtifactRef) -> Iterator[CompletionRequest]:
        rows = self.store.rows(mistakes, JudgedPath)
        return correction_requests(rows, get_task(self.run.questions.task), spec.sampling(), spec.tries)

    def _greedy_requests(self, max_tokens: int, prompt: PromptKind) -> Iterator[CompletionRequest]:
        rows = _questions_of(self.run.test_questions) if self.run.test_questions else ()
        return (one.request for one in greedy_requests(rows, max_tokens, prompt))

    def _rows(self, ref: ArtifactRef) -> int | None:
        return self._known.get(ref)

    def _stage(
        self,
        name: str,
        identity: Identity,
        at_most: int | None,
        endpoint: EndpointSpec | None = None,
        *,
        asked: Callable[[], Iterable[CompletionRequest]] | None = None,
        max_tokens: int = 0,
    ) -> PlannedStage:
        ref = ArtifactRef(identity.stage, identity.fingerprint)
        there = self.store.exists(ref)
        rows = self.store.manifest(ref).rows_out if there else at_most
        self._known[ref] = rows
        requests = 0 if there or endpoint is None else at_most or 0
        return PlannedStage(
            name=name, ref=ref, there=there, rows=rows, endpoint=endpoint, requests=requests, asked=asked,
            max_tokens=max_tokens,
        )  # fmt: skip


def _questions_of(spec: QuestionsSpec) -> Iterator[Question]:
    return (row for row in read_questions(spec) if isinstance(row, Question))


def _times(rows: int | None, factor: int) -> int | None:
    return None if rows is None else rows * factor
