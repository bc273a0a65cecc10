"""What a run would do: each artifact there or not, and how many requests to which endpoint. Nothing is sent.

Every identity follows from the run file and its sources, so the plan names the artifacts of all stages, also of those
whose inputs do not exist yet. How many rows a missing stage will give is an upper bound until its input is there.
"""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

from flows.endpoints import Endpoints
from flows.planning.corrections import CorrectionsPlan
from flows.planning.outlook import Data, of_mixture, of_pool, of_tokens, outlook, pool_rows
from flows.planning.planned import Asked, PlannedStage, Questions, named, times
from lema_core import identities
from lema_core.artifacts import ArtifactRef, Identity, Store
from lema_core.evaluation.answers import greedy_requests, vote_requests
from lema_core.evaluation.checkpoint_selection import check_training_questions_left
from lema_core.evolution import Kind
from lema_core.llm.endpoints import EndpointSpec
from lema_core.llm.requests import CompletionRequest
from lema_core.questions import QuestionsSpec, read_questions
from lema_core.reasoning_paths import path_requests
from lema_core.records import Example, Question
from lema_core.run.artifacts import Collection, Lineage
from lema_core.run.spec import EvaluationSpec, EvolutionSpec, PromptKind, RunSpec, Runtime, StudentSpec
from lema_core.training import TrainingSpec
from lema_core.training.options import check_overrides


class Planner:
    """Walks a run file in the flow's order."""

    def __init__(self, run: RunSpec, root: str) -> None:
        self.run = run
        self.root = root
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
        yield from self.collected()
        yield from self.fine_tuned()
        yield from self.evaluated()

    def on_the_same_data(self, run: RunSpec) -> "Planner":
        """Return a planner of another run's fine-tuning and evaluation on the data that this one has planned."""
        other = Planner(run, self.root)
        other.made = replace(self.made, mixtures={}, models={}, evaluations={}, votes={})
        other._known = self._known
        return other

    def collected(self) -> Iterator[PlannedStage]:
        """Yield the stages that collect the data."""
        questions = self._questions("questions", self.run.questions)
        yield questions
        self.made.questions = questions.ref
        if self.run.test_questions:
            held_out = self._questions("test_questions", self.run.test_questions)
            yield held_out
            self.made.test_questions = held_out.ref
        yield from self._held_out()
        models = Endpoints(self.run, self.runtime, self.made)
        first = self.made.collect(Collection(questions.ref))
        yield from self._data(models, first, partial(_questions_of, self.run.questions))
        yield from self._rounds(models)

    def fine_tuned(self) -> Iterator[PlannedStage]:
        """Yield the stages of the arms."""
        for arm in self.run.mixture.arms if self.run.mixture else ():
            yield from self._arm(arm)

    def _questions(self, name: str, spec: QuestionsSpec) -> PlannedStage:
        # Reading the source costs no request, and a source that cannot be used has to be told now.
        rows = sum(1 for _ in _questions_of(spec))
        return self._stage(name, identities.questions(spec), rows)

    def _data(self, models: Endpoints, into: Collection, questions: Questions | None) -> Iterator[PlannedStage]:
        task, mistaken = self.run.questions.task, list[ArtifactRef]()
        for student in models.students(into.round):
            identity = identities.reasoning_paths(
                student.spec, student.endpoint.identity, task, into.questions.fingerprint
            )
            paths = self._stage(
                named("reasoning_paths", into), identity, times(self._rows(into.questions), student.spec.samples),
                student.endpoint, asked=partial(_path_requests, questions, student.spec) if questions else None,
                max_tokens=student.spec.max_tokens,
            )  # fmt: skip
            verdicts = self._stage(
                named("verdicts", into),
                identities.verdicts(self.run.verdicts, task, paths.ref.fingerprint),
                paths.rows,
            )
            into.students.append(student.name)
            into.reasoning_paths.append(paths.ref)
            into.verdicts.append(verdicts.ref)
            mistaken += [verdicts.ref] if student.spec.mistakes else []
            yield from (paths, verdicts)
        if self.run.corrections:
            plan = CorrectionsPlan(self.run, self.run.corrections, self.store, models, self._stage, self._rows)
            yield from plan.stages(into, mistaken)

    def _rounds(self, models: Endpoints) -> Iterator[PlannedStage]:
        spec = self.run.evolution
        if spec is None:
            return
        for number in range(1, spec.rounds + 1):
            if number > 1:
                yield from self._arm(f"round_{number - 1}")
            for kind in spec.kinds_in(number):
                yield from self._evolved(models, spec, kind, number)

    def _evolved(self, models: Endpoints, spec: EvolutionSpec, kind: Kind, number: int) -> Iterator[PlannedStage]:
        made, task = self.made, self.run.questions.task
        writer, answerer = models[spec.endpoint], models[spec.endpoints[1]]
        created = self._stage(
            f"evolution_created: {kind} {number}",
            identities.evolution_created(spec, kind, number, writer.identity, task, made.collections[0]),
            spec.draws, writer, max_tokens=spec.max_tokens,
        )  # fmt: skip
        known = made.known_questions(kind) + ([made.test_questions] if made.test_questions else [])
        novel = self._stage(
            f"evolution_novel: {kind} {number}", identities.evolution_novel(spec, created.ref, known), created.rows
        )
        evolved = self._stage(
            f"evolution: {kind} {number}", identities.evolution(spec, answerer.identity, task, novel.ref), novel.rows,
            answerer, per_row=spec.votes, asked=self._vote_requests(spec, novel), max_tokens=spec.answer_max_tokens,
        )  # fmt: skip
        yield from (created, novel, evolved)
        into = made.collect(Collection(evolved.ref, number, kind, (created.ref, novel.ref)))
        yield from self._data(models, into, partial(self.store.rows, evolved.ref, Question) if evolved.there else None)

    def _held_out(self) -> Iterator[PlannedStage]:
        made, spec = self.made, self.run.selection
        if spec is None or made.questions is None:
            return
        check_training_questions_left(self._rows(made.questions) or 0, spec.questions)
        held_out = self._stage("held_out", identities.held_out(spec, made.questions.fingerprint), spec.questions)
        made.held_out = held_out.ref
        yield held_out

    def _arm(self, arm: str) -> Iterator[PlannedStage]:
        made, run = self.made, self.run
        if run.mixture is None or arm in made.mixtures:
            return
        base = run.training.base if run.training else None
        identity = identities.mixture(run.mixture, run.arm(arm), run.questions.task, made, base)
        mixture = self._stage(f"mixture: {arm}", identity, None)
        made.mixtures[arm] = mixture.ref
        yield mixture
        if run.training:
            yield from self._training(arm, run.training, mixture)

    def _training(self, arm: str, common: TrainingSpec, mixture: PlannedStage) -> Iterator[PlannedStage]:
        made, run, spec = self.made, self.run, self.run.training_of(arm)
        check_overrides(spec)
        start = made.models[spec.starts_from_arm] if spec.starts_from_arm else None
        choice = identities.selection(run, made)
        tokens = self._stage(f"tokens: {arm}", identities.tokens(spec, mixture.ref.fingerprint, start), None)
        identity = identities.training(spec, tokens.ref.fingerprint, start, choice)
        model = self._stage(f"training: {arm}", identity, None)
        made.models[arm] = model.ref
        # Another arm's model has the base's shape and tokenizer, and may not be there yet.
        shaped = spec.model_copy(update={"base": common.base}) if start else spec
        yield from (tokens, model if model.there else self._with_needs(model, shaped, arm, mixture, tokens))

    def _with_needs(
        self, model: PlannedStage, spec: TrainingSpec, arm: str, mixture: PlannedStage, tokens: PlannedStage
    ) -> PlannedStage:
        """Add what a training run takes, and what its checkpoints are asked where one of them is chosen."""
        made, run = self.made, self.run
        data = self._examples(arm, mixture, tokens)
        model = replace(model, outlook=partial(outlook, spec, run.launch, data))
        choice = identities.selection(run, made)
        if choice is None or run.evaluation is None or run.evaluation.serve is None:
            return model
        sets = [made.held_out, made.test_questions] if "test" in choice else [made.held_out]
        asked = sum(self._rows(ref) or 0 for ref in sets if ref)
        checkpoints = spec.checkpoints(spec.steps(data.rows)) if data.rows or spec.max_steps else 0
        return replace(
            model, endpoint=run.evaluation.serve.model_copy(update={"name": "fine-tuned"}), trained=False,
            requests=checkpoints * asked, max_tokens=run.evaluation.max_tokens, tokenizer=spec.base,
        )  # fmt: skip

    def _examples(self, arm: str, mixture: PlannedStage, tokens: PlannedStage) -> Data:
        if tokens.there:
            return of_tokens(self.store.manifest(tokens.ref).extra)
        if mixture.there:
            return of_mixture(mixture.rows or 0, partial(self.store.rows, mixture.ref, Example))
        made = self.run.arm(arm)
        pool = pool_rows(made, self.made.collections, lambda ref: self._rows(ref) or 0)
        return of_pool(pool, partial(_questions_of, self.run.questions), pairs=made.preferences)

    def evaluated(self) -> Iterator[PlannedStage]:
        """Yield the evaluations."""
        models = Endpoints(self.run, self.runtime, self.made)
        run, tests = self.run, self.made.test_questions
        if run.evaluation is None or run.test_questions is None or tests is None:
            return
        task = run.test_questions.task
        for name, endpoint, prompt in models.evaluated(self.made.models):
            identity = identities.evaluation(run.evaluation, endpoint.identity, prompt, task, tests.fingerprint)
            asked = partial(self._greedy_requests, run.evaluation.max_tokens, prompt)
            yield self._stage(
                f"evaluation: {name}", identity, self._rows(tests), endpoint, asked=asked,
                max_tokens=run.evaluation.max_tokens,
            )  # fmt: skip
            if run.evaluation.samples:
                yield self._votes(run.evaluation, name, endpoint, prompt, run.test_questions, tests)
        yield from self._perplexities(run.evaluation.perplexity)

    def _perplexities(self, pairs: int) -> Iterator[PlannedStage]:
        corrections = self.made.main_corrections
        if not pairs or corrections is None or self._rows(corrections) == 0:
            return
        for arm, model in self.made.models.items():
            identity = identities.perplexity(pairs, model.fingerprint, corrections.fingerprint)
            yield self._stage(f"perplexity: {arm}", identity, pairs)

    def _votes(
        self, spec: EvaluationSpec, name: str, endpoint: EndpointSpec, prompt: PromptKind, source: QuestionsSpec,
        tests: ArtifactRef,
    ) -> PlannedStage:  # fmt: skip
        identity = identities.votes(spec, endpoint.identity, prompt, source.task, tests.fingerprint)
        rows = _questions_of(source)
        return self._stage(
            f"votes: {name}", identity, times(self._rows(tests), spec.samples), endpoint,
            asked=lambda: (one.request for one in vote_requests(rows, spec, prompt)), max_tokens=spec.max_tokens,
        )  # fmt: skip

    def _vote_requests(self, spec: EvolutionSpec, novel: PlannedStage) -> Asked | None:
        if not novel.there:
            return None
        rows = partial(self.store.rows, novel.ref, Question)
        return lambda: (one.request for one in path_requests(rows(), spec.answering(), spec.votes))

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
        per_row: int = 1,
        asked: Asked | None = None,
        max_tokens: int = 0,
    ) -> PlannedStage:
        ref = ArtifactRef(identity.stage, identity.fingerprint)
        there = self.store.exists(ref)
        rows = self.store.manifest(ref).rows_out if there else at_most
        self._known[ref] = rows
        requests = 0 if there or endpoint is None else (at_most or 0) * per_row
        return PlannedStage(
            name=name, ref=ref, there=there, rows=rows, endpoint=endpoint, requests=requests, asked=asked,
            max_tokens=max_tokens, **self._model(endpoint),
        )  # fmt: skip

    def _model(self, endpoint: EndpointSpec | None) -> dict[str, Any]:
        """Return which model's tokenizer counts an endpoint's prompts, and whether the model is there to answer."""
        if endpoint is None:
            return {}
        how, models = self.run.evaluation, Endpoints(self.run, self.runtime, self.made)
        for ref in self.made.models.values() if how and how.serve else ():
            if self.run.training and models.fine_tuned(ref).identity == endpoint.identity:
                return {"tokenizer": self.run.training.base, "trained": self.store.exists(ref)}
        return {"tokenizer": endpoint.model}


def _questions_of(spec: QuestionsSpec) -> Iterator[Question]:
    return (row for row in read_questions(spec) if isinstance(row, Question))


def _path_requests(questions: Questions, spec: StudentSpec) -> Iterator[CompletionRequest]:
    return (one.request for one in path_requests(questions(), spec.sampling(), spec.samples, spec.prompt))
