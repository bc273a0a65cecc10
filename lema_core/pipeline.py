"""The graph of a run: every stage in the paper's order, each with a name before anything is made.

All identities follow from the run file and its sources. So one walk serves every reader: a plan reads the stages, a run
makes them one after the other, and the gate, the choice of checkpoints, `lema evaluate` and the report ask the same
objects. A walk fills ``artifacts``; a stage that reads rows finds its inputs published when a run has come to it.
"""

from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from typing import TypeVar

from lema_core.ablation.cells import Cell
from lema_core.artifacts import ArtifactRef, Store
from lema_core.llm.endpoints import EndpointSpec
from lema_core.mixture import check_formats
from lema_core.questions import get_task
from lema_core.reasoning_paths import PromptKind
from lema_core.run.artifacts import MeasuredSet, QuestionRound, RunArtifacts
from lema_core.run.endpoints import PreparedEndpoints, Student
from lema_core.run.equal_steps import match_cells, with_equal_steps
from lema_core.run.own_tasks import with_checked_tasks
from lema_core.run.spec import BASE, RunContext, RunSpec
from lema_core.stages.corrections import Corrections, CorrectionsSpec
from lema_core.stages.error_types import ErrorTypes, ErrorTypesSpec, MistakesLike
from lema_core.stages.evaluation import Evaluation, Perplexity, SelfCorrection, Votes
from lema_core.stages.evolution import Evolution, EvolutionCreated, EvolutionNovel, EvolutionSpec
from lema_core.stages.likelihood import Likelihood
from lema_core.stages.mixture import ArmExamples, MaskedMixture, Mixture, MixtureSpec, check_distinct
from lema_core.stages.pretraining import PRETRAINED, Pretraining
from lema_core.stages.quality_gate import PilotCorrections, PilotMistakes
from lema_core.stages.questions import HeldOut, Questions
from lema_core.stages.reasoning_paths import ReasoningPaths
from lema_core.stages.report import Report
from lema_core.stages.stage import Stage
from lema_core.stages.training import CheckpointChoice, Tokens, Training
from lema_core.stages.verdicts import Mistakes, Verdicts
from lema_core.training.options import check_overrides

AnyStage = TypeVar("AnyStage", bound=Stage)


class Pipeline:
    """The stages of one run under a root.

    A walk records references in ``artifacts``. Of most steps after they were yielded, so that a failed one leaves none.

    Raises:
        DataError: while it is walked, a source cannot be used; nothing was sent.
        ConfigError: likewise, an endpoint, an arm or a task cannot be used.
    """

    def __init__(self, run: RunSpec, root: str, artifacts: RunArtifacts | None = None) -> None:
        self.run = with_checked_tasks(run)
        self.root = root
        self.store = Store(RunContext.of(run, root).root)
        self.artifacts = artifacts or RunArtifacts()
        """The references that the walk has come to."""
        self._stages: dict[ArtifactRef, Stage] = {}
        self._rows: dict[ArtifactRef, int | None] = {}
        self._mixtures: dict[str, Mixture] = {}
        """By arm: two arms may have one artifact."""

    def stages(self) -> Iterator[Stage]:
        """Yield every stage but the report."""
        yield from self.collection()
        yield from self.evolution()
        yield from self.fine_tuning()
        yield from self.evaluation()

    def on_the_same_data(self, run: RunSpec) -> "Pipeline":
        """Return the pipeline of another run's fine-tuning and evaluation on the data that this one collects."""
        other = Pipeline(run, self.root, self.artifacts.collected())
        # Shared: a row bound of a data stage is then computed once per setting, not once per cell.
        other._stages, other._rows = self._stages, self._rows
        return other

    @property
    def endpoints(self) -> PreparedEndpoints:
        """The run's endpoints, ready to be asked."""
        return PreparedEndpoints(self.run, self.store, self.artifacts)

    def rows(self, ref: ArtifactRef) -> int | None:
        """Return the rows of an artifact: exact if published, else an upper bound; None if unknown."""
        if ref not in self._rows:
            # Asked only for inputs of the step that the walk has come to: in a run they are published by then, so a
            # bound is never kept where the exact number would follow.
            if self.store.exists(ref):
                self._rows[ref] = self.store.manifest(ref).rows_out
            else:
                stage = self._stages.get(ref)
                self._rows[ref] = stage.row_bound(self.rows) if stage else None
        return self._rows[ref]

    def _add(self, stage: AnyStage) -> AnyStage:
        self._stages[stage.ref] = stage
        return stage

    def _judge(self, task: str) -> EndpointSpec | None:
        """Return what a task's scorer asks, None where it asks nothing."""
        judge = get_task(task).judge
        return self.endpoints[judge.endpoint] if judge else None

    def collection(self) -> Iterator[Stage]:
        """Yield the questions, and the mistakes on them with their corrections (paper, section 2.1)."""
        yield from self.questions()
        run, artifacts = self.run, self.artifacts
        if artifacts.questions is None:
            return
        if run.selection:
            # Before anything is paid: there may be too few questions to keep some back.
            tests = artifacts.all_test_questions
            # One test set has always been left to the arms' own screening, and a new name would train every arm anew.
            overlap = tests if len(tests) > 1 else ()
            yield (held_out := self._add(HeldOut(run.selection, artifacts.questions, overlap)))
            artifacts.held_out = held_out.ref
        for arm in run.warm_arms:
            yield from self._warm_student(arm, QuestionRound(artifacts.questions))
        first = artifacts.add_round(QuestionRound(artifacts.questions))
        yield from self._mistakes_and_corrections(first, self.endpoints.students(first.round))

    def _warm_student(self, arm: str, before: QuestionRound) -> Iterator[Stage]:
        """Yield the model that is a student of the first round: the arm on the rationales, before there are paths.

        The arm itself, if the run trains it, is built of the whole pool: two artifacts, unless it has rationales alone.
        """
        label = f"{arm}, a student"
        mixture = self._examples(arm, (before,), f"mixture: {label}")
        yield mixture
        model = yield from self._training(arm, mixture, label)
        self.artifacts.warm_models[arm] = model.ref

    def questions(self) -> Iterator[Stage]:
        """Yield the questions, and the held-out ones that models are measured on."""
        yield from self.pretraining()
        yield (questions := self._add(Questions(self.run.questions)))
        self.artifacts.questions = questions.ref
        yield from self._test_questions()

    def pretraining(self) -> Iterator[Stage]:
        """Yield the base model that the run itself trains from random weights, if it has one."""
        if self.run.pretraining:
            yield (base := self._add(Pretraining(self.run.pretraining)))
            self.artifacts.others[Pretraining.name] = base.ref

    def _test_questions(self) -> Iterator[Stage]:
        test_sets = self.run.test_sets
        for number, (name, spec) in enumerate(test_sets.items()):
            label = "test_questions" if len(test_sets) == 1 else f"test_questions: {name}"
            yield (tests := self._add(Questions(spec, label=label)))
            if number == 0:
                self.artifacts.test_questions = tests.ref
            else:
                self.artifacts.further_sets.setdefault(name, MeasuredSet()).questions = tests.ref
            scored = self.run.evaluation.likelihood if self.run.evaluation else 0
            if spec.limit is not None and scored > spec.limit:
                more = spec.model_copy(update={"limit": scored})
                yield (known := self._add(Questions(more, label=f"{label}, scored")))
                self.artifacts.scored_questions[name] = known.ref

    def _mistakes_and_corrections(self, question_round: QuestionRound, students: Iterable[Student]) -> Iterator[Stage]:
        """Yield the paths to a round's questions, their verdicts, and the corrections of the mistakes."""
        run, task, mistaken = self.run, self.run.questions.task, list[ArtifactRef]()
        source, identities = None if question_round.round else run.questions, dict[str | None, str]()
        for student in students:
            identities[student.name] = student.endpoint.identity
            paths = ReasoningPaths(
                student.spec,
                student.endpoint,
                task,
                question_round.questions,
                source,
                label=question_round.label("reasoning_paths"),
            )
            yield self._add(paths)
            verdicts = Verdicts(
                run.verdicts, task, paths.ref, self._judge(task), label=question_round.label("verdicts")
            )
            yield self._add(verdicts)
            question_round.students.append(student.name)
            question_round.reasoning_paths.append(paths.ref)
            question_round.verdicts.append(verdicts.ref)
            mistaken += [verdicts.ref] if student.spec.mistakes else []
        if run.corrections:
            mistakes = Mistakes(
                run.mistakes, question_round.questions, mistaken, label=question_round.label("mistakes")
            )
            yield self._add(mistakes)
            question_round.mistakes = mistakes.ref
            if run.error_types:
                yield from self._typed_mistakes(run.error_types, question_round, identities)
            for name in run.corrections.endpoints:
                yield from self._corrections(run.corrections, name, question_round, question_round.mistakes)

    def _typed_mistakes(
        self, spec: ErrorTypesSpec, question_round: QuestionRound, students: Mapping[str | None, str]
    ) -> Iterator[Stage]:
        """Yield the types of a round's mistakes, and the draw by one student's shares of them, if there is one."""
        if (mistakes := question_round.mistakes) is None:
            raise LookupError("mistakes have types only once the walk has come to them")
        teacher = self.endpoints[spec.endpoint] if spec.endpoint else None
        types = ErrorTypes(spec, teacher, self.run.questions.task, mistakes, label=question_round.label("error_types"))
        yield self._add(types)
        question_round.error_types = types.ref
        # A later round may ask another model alone.
        if spec.like in students:
            drawn = MistakesLike(
                students[spec.like], spec.seed, mistakes, types.ref, label=question_round.label("mistakes_like")
            )
            yield self._add(drawn)
            question_round.mistakes = drawn.ref

    def _corrections(
        self, spec: CorrectionsSpec, name: str, question_round: QuestionRound, mistakes: ArtifactRef
    ) -> Iterator[Stage]:
        """Yield a corrector's corrections; of the run's own questions a pilot first, if the run has a gate."""
        second = self.endpoints[spec.second] if spec.second else None
        whole = Corrections(
            spec,
            self.endpoints[name],
            second,
            self.run.questions.task,
            mistakes,
            judge=self._judge(self.run.questions.task),
            label=question_round.label("corrections"),
        )
        gate = self.run.quality_gate if question_round.round == 0 else None
        if gate:
            pilot = PilotMistakes(gate, mistakes, only_before=whole.ref)
            yield self._add(pilot)
            piloted = PilotCorrections(
                spec, whole.corrector, second, whole.task, pilot.ref, gate, judge=whole.judge,
                label="corrections of the pilot", only_before=whole.ref,
            )  # fmt: skip
            yield self._add(piloted)
            question_round.pilots[name] = piloted.ref
        yield self._add(whole)
        question_round.corrections[name] = whole.ref

    def evolution(self) -> Iterator[Stage]:
        """Yield the later rounds: on evolved questions (paper, section 2.2), or on the own ones again."""
        if self.run.on_policy:
            yield from self._on_policy_rounds(self.run.on_policy.rounds)
        if self.run.evolution:
            yield from self._evolved_rounds(self.run.evolution)

    def _on_policy_rounds(self, rounds: int) -> Iterator[Stage]:
        """Yield the rounds on the run's own questions: the student is the model of the round before."""
        questions = self.artifacts.rounds[0].questions
        for number in range(1, rounds + 1):
            yield from self._arm(f"round_{number - 1}")
            again = self.artifacts.add_round(QuestionRound(questions, number, "on_policy"))
            yield from self._mistakes_and_corrections(again, self.endpoints.students(number, "on_policy"))

    def _evolved_rounds(self, spec: EvolutionSpec) -> Iterator[Stage]:
        """Yield the rounds on evolved questions: from round 2 on the student is the model of the round before."""
        for number in range(1, spec.rounds + 1):
            if number > 1:
                yield from self._arm(f"round_{number - 1}")
            for kind in spec.kinds_in(number):
                # What creates questions from the seeds of the first round, keeps the new ones, and answers them.
                artifacts, task = self.artifacts, self.run.questions.task
                first, (writer, answerer) = artifacts.rounds[0], (self.endpoints[name] for name in spec.endpoints)
                created = EvolutionCreated(
                    spec, kind, number, writer, task, first.questions, first.main_corrections,
                    label=f"evolution_created: {kind} {number}",
                )  # fmt: skip
                yield self._add(created)
                known, tests = artifacts.known_questions(kind), artifacts.all_test_questions
                novel = EvolutionNovel(spec, created.ref, known, tests, label=f"evolution_novel: {kind} {number}")
                yield self._add(novel)
                evolved = Evolution(spec, answerer, task, novel.ref, label=f"evolution: {kind} {number}")
                yield self._add(evolved)
                artifacts.add_round(QuestionRound(evolved.ref, number, kind, (created.ref, novel.ref)))
                yield from self._mistakes_and_corrections(self.artifacts.rounds[-1], self.endpoints.students(number))

    def fine_tuning(self) -> Iterator[Stage]:
        """Yield the examples and the model of each arm (paper, section 2.3)."""
        # Before any training, as far as the examples exist: a run makes them all before it comes here.
        examples = self.on_the_same_data(self.run)
        for _ in examples.mixtures():
            pass
        examples.check_arms()
        # A round's student was trained before the others' examples existed: it keeps its own steps.
        rows = {arm: count for arm, count in examples.example_rows().items() if arm not in self.artifacts.models}
        self.run = with_equal_steps(self.run, rows)
        for arm in self.run.mixture.arms if self.run.mixture else ():
            yield from self._arm(arm)

    def check_arms(self) -> None:
        """Make sure that the arms that are to be trained hold what their definitions say, and differ.

        Raises:
            DataError: an arm holds no corrections though its definition has them, or two arms are the same.
        """
        if self.run.training is None:
            return
        for mixture in self._mixtures.values():
            if self.store.exists(mixture.ref):
                mixture.check_corrections(self.store)
        check_distinct(self.store, [self.examples_of(arm) for arm in self._mixtures])

    def examples_of(self, arm: str) -> ArmExamples:
        """Return an arm's examples, which the walk has come to, and how it is trained."""
        training = self.run.training_of(arm).model_dump(mode="json") if self.run.training else None
        mixture = self._mixtures[arm]
        return ArmExamples(arm, mixture.ref, self.run.arm(arm).identity, training, mixture.record)

    def example_rows(self) -> dict[str, int]:
        """Return how many examples each arm has that the walk has come to; before they are made, at most."""
        return {arm: self.rows(mixture.ref) or 0 for arm, mixture in self._mixtures.items()}

    def mixtures(self) -> Iterator[Mixture]:
        """Yield the examples of each arm alone."""
        for arm in self.run.mixture.arms if self.run.mixture else ():
            if mixture := self._mixture(arm):
                yield mixture

    def _mixture(self, arm: str) -> Mixture | None:
        """Return the examples of an arm; None if the walk has been there."""
        run, artifacts = self.run, self.artifacts
        if run.mixture is None or arm in artifacts.mixtures:
            return None
        mixture = self._examples(arm, tuple(artifacts.rounds), f"mixture: {arm}")
        # Before the stage is yielded: fine_tuning comes to the arm of an evolution round again, and must not repeat it.
        artifacts.mixtures[arm] = mixture.ref
        self._mixtures[arm] = mixture
        return mixture

    def _examples(self, arm: str, pool: tuple[QuestionRound, ...], label: str) -> Mixture:
        """Return the stage of an arm's examples on a pool."""
        run, artifacts, definition = self.run, self.artifacts, self.run.arm(arm)
        check_formats(definition, run.questions.task)
        stage = MaskedMixture if definition.masked else Mixture
        mixture = stage(
            run.mixture or MixtureSpec(), definition, run.questions.task, pool, artifacts.all_test_questions,
            artifacts.held_out, run.training, label=label,
        )  # fmt: skip
        return self._add(mixture)

    def _arm(self, arm: str) -> Iterator[Stage]:
        mixture, artifacts = self._mixture(arm), self.artifacts
        if mixture is None:
            return
        yield mixture
        if self.run.training is None:
            return
        model = yield from self._training(arm, mixture, arm)
        artifacts.tokens[arm] = model.tokens
        artifacts.models[arm] = model.ref

    def _training(self, arm: str, mixture: Mixture, label: str) -> Generator[Stage, None, Training]:
        """Yield the tokens and the model of an arm's examples; return the stage of the model."""
        spec = self.run.training_of(arm)
        check_overrides(spec)
        # The arm that this one starts from stands earlier in the run file, so the walk has its model.
        start = self.artifacts.models[spec.starts_from_arm] if spec.starts_from_arm else None
        if spec.base == PRETRAINED:
            start = self.artifacts.others[Pretraining.name]
        yield (tokens := self._add(Tokens(spec, arm, mixture.ref, start, label=f"tokens: {label}")))
        model = Training(spec, arm, tokens.ref, start, self.checkpoint_choice(), label=f"training: {label}")
        yield self._add(model)
        return model

    def mixture_of(self, tokens: ArtifactRef) -> Mixture:
        """Return the stage of the examples of tokens that the walk has come to.

        Raises:
            LookupError: the walk has not come to them.
        """
        stage = self._stages.get(tokens)
        mixture = self._stages.get(stage.mixture) if isinstance(stage, Tokens) else None
        if isinstance(mixture, Mixture):
            return mixture
        raise LookupError(f"the walk has not come to {tokens}")

    def checkpoint_choice(self) -> CheckpointChoice | None:
        """Return how a run's checkpoint is chosen; None: the last one becomes the model."""
        run, artifacts = self.run, self.artifacts
        if run.selection is None or run.evaluation is None or artifacts.held_out is None:
            return None
        questions = {"held_out": (run.questions.task, artifacts.held_out)}
        if run.selection.protocol == "best_on_test" and artifacts.test_questions:
            first = next(iter(run.test_sets.values()))
            questions["test"] = (first.task, artifacts.test_questions)
        judges = {task: judge for task, _ in questions.values() if (judge := self._judge(task))}
        return CheckpointChoice(run.selection, self.endpoints.evaluation, questions, judges)

    def evaluation(self) -> Iterator[Stage]:
        """Yield what measures the base model and every arm on the same test sets (paper, section 3.3)."""
        spec, artifacts = self.run.evaluation, self.artifacts
        if spec is None or artifacts.test_questions is None:
            return
        for name, endpoint, prompt in self.endpoints.evaluated(artifacts.models):
            yield from self._measured(name, endpoint, prompt)
        corrections = artifacts.main_corrections
        if spec.perplexity and corrections and self.rows(corrections) != 0:
            for arm, model in artifacts.models.items():
                measured = Perplexity(
                    arm, spec.perplexity, model, corrections, self.run.questions.task, label=f"perplexity: {arm}"
                )
                yield self._add(measured)
                artifacts.perplexities[arm] = measured.ref
        base = spec.base and self.run.endpoints[spec.base].model == PRETRAINED
        scored = {BASE: artifacts.others[Pretraining.name]} if base else {}
        for name, model in (scored | artifacts.models).items():
            yield from self._likelihoods(name, model)

    def _likelihoods(self, name: str, model: ArtifactRef) -> Iterator[Stage]:
        """Yield what scores the gold solutions of each test set by a model."""
        artifacts, items = self.artifacts, self.endpoints.evaluation.likelihood
        for test_set, measured in artifacts.measured_on(self.run.test_sets).items() if items else ():
            questions = artifacts.scored_questions.get(test_set, measured.questions)
            if questions is None:
                raise LookupError(f"the walk has not come to the test set {test_set}")
            label = f"likelihood: {name}" + (f" on {test_set}" if len(self.run.test_sets) > 1 else "")
            task = self.run.test_sets[test_set].task
            yield (scored := self._add(Likelihood(name, items, model, questions, task, label=label)))
            artifacts.likelihoods.setdefault(test_set, {})[name] = scored.ref

    def base_evaluation(self) -> Iterator[Stage]:
        """Yield what measures the base model alone: `lema evaluate`."""
        spec = self.run.evaluation
        if spec is None or spec.base is None:
            return
        yield from self.pretraining()
        yield from self._test_questions()
        if self.artifacts.test_questions:
            yield from self._measured(spec.base, self.endpoints[spec.base], spec.base_prompt)

    def _measured(self, name: str, model: EndpointSpec, prompt: PromptKind) -> Iterator[Stage]:
        """Yield what measures a model, test set by test set."""
        spec, test_sets = self.endpoints.evaluation, self.run.test_sets
        for test_set, measured in self.artifacts.measured_on(test_sets).items():
            if measured.questions is None:
                raise LookupError(f"the walk has not come to the test set {test_set}")
            source = test_sets[test_set]
            label = name if len(test_sets) == 1 else f"{name} on {test_set}"
            asked = (spec, name, model, prompt, source.task, measured.questions, source, self._judge(source.task))
            yield (greedy := self._add(Evaluation(*asked, label=f"evaluation: {label}")))
            measured.evaluations[name] = greedy.ref
            if spec.samples:
                yield (sampled := self._add(Votes(*asked, label=f"votes: {label}")))
                measured.votes[name] = sampled.ref
            if spec.two_turns:
                turn = SelfCorrection(*asked, first=greedy.ref, label=f"second turn: {label}")
                yield self._add(turn)
                measured.second_turns[name] = turn.ref

    def report(self) -> Report:
        """Return the report of what the walk has come to."""
        return Report(self.run, self.artifacts)


def match_steps(data: Pipeline, cells: Sequence[Cell]) -> list[Cell]:
    """Return a setting's cells at equal optimiser steps, by the examples of their arms on the setting's data."""

    def rows_of(cell: Cell) -> Mapping[str, int]:
        pipeline = data.on_the_same_data(cell.run)
        for _ in pipeline.mixtures():
            pass
        return pipeline.example_rows()

    return match_cells(cells, rows_of)


def cell_stages(pipeline: Pipeline, cell: Cell) -> Iterator[Stage]:
    """Yield the stages of a sweep's cell on data that are collected: a sweep is the union of its cells' graphs."""
    yield from pipeline.fine_tuning()
    # A model that the cell's own starts from is measured in a cell of its own.
    models = pipeline.artifacts.models
    pipeline.artifacts.models = {arm: model for arm, model in models.items() if arm == cell.arm}
    yield from pipeline.evaluation()
