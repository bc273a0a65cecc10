"""The artifacts of one run, by what they are: what a flow fills in as it goes, and what a report is made from."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Self

from lema_core.artifacts import ArtifactRef, Store
from lema_core.mixture.arms import RoundEvolution


@dataclass(slots=True)
class QuestionRound:
    """What one round made of one set of questions: paths, their mistakes, and the corrections (paper, section 2)."""

    questions: ArtifactRef
    round: int = 0
    """0: the task's own questions; from 1 on questions that were evolved, or the own ones again."""
    evolution: RoundEvolution = "none"
    made_by: tuple[ArtifactRef, ...] = ()
    """The artifacts that evolved questions went through before their answers: created, and found to be new."""
    students: list[str] = field(default_factory=list)
    """Who was asked: the endpoint's name, ``arm:NAME``, or the arm of the model that was fine-tuned in the round
    before."""
    reasoning_paths: list[ArtifactRef] = field(default_factory=list)
    """One a student."""
    verdicts: list[ArtifactRef] = field(default_factory=list)
    """One a student."""
    mistakes: ArtifactRef | None = None
    """Those that go to the correctors."""
    error_types: ArtifactRef | None = None
    """The types of the mistakes, where the run asks for them."""
    corrections: dict[str, ArtifactRef] = field(default_factory=dict)
    """By the corrector's endpoint."""
    pilots: dict[str, ArtifactRef] = field(default_factory=dict)
    """By the corrector's endpoint: the corrections that the quality gate judges."""

    @property
    def main_corrections(self) -> ArtifactRef | None:
        """Return the main corrector's corrections."""
        return next(iter(self.corrections.values()), None)

    def label(self, stage: str) -> str:
        """Return what a plan calls a stage of the round."""
        return f"{stage}: {self.evolution} {self.round}" if self.round else stage

    @property
    def name(self) -> str:
        """Return what people call it."""
        if self.evolution == "on_policy":
            return f"round {self.round}, own questions on policy"
        return f"round {self.round}, {self.evolution} evolution" if self.round else "own questions"

    def __iter__(self) -> Iterator[ArtifactRef]:
        """Yield what was made after the questions, in the paper's order."""
        yield from (*self.reasoning_paths, *self.verdicts)
        yield from (ref for ref in (self.mistakes, self.error_types) if ref)
        yield from self.corrections.values()


@dataclass(slots=True)
class MeasuredSet:
    """A test set, and what models answered to it: each table by arm, and ``base``."""

    questions: ArtifactRef | None = None
    evaluations: dict[str, ArtifactRef] = field(default_factory=dict)
    votes: dict[str, ArtifactRef] = field(default_factory=dict)
    second_turns: dict[str, ArtifactRef] = field(default_factory=dict)

    def __iter__(self) -> Iterator[ArtifactRef]:
        """Yield the answers."""
        yield from (*self.evaluations.values(), *self.votes.values(), *self.second_turns.values())

    def only(self, wanted: Callable[[ArtifactRef], bool]) -> Self:
        """Return the set with those of the answers that are wanted."""

        def some(refs: dict[str, ArtifactRef]) -> dict[str, ArtifactRef]:
            return {name: ref for name, ref in refs.items() if wanted(ref)}

        evaluations, votes, second_turns = map(some, (self.evaluations, self.votes, self.second_turns))
        return replace(self, evaluations=evaluations, votes=votes, second_turns=second_turns)


@dataclass(slots=True)
class RunArtifacts:
    """References to everything a run has made so far, in the paper's order."""

    questions: ArtifactRef | None = None
    test_questions: ArtifactRef | None = None
    """Of the first test set."""
    held_out: ArtifactRef | None = None
    """The training questions kept back for choosing checkpoints."""
    rounds: list[QuestionRound] = field(default_factory=list)
    """The first is on the task's own questions."""
    mixtures: dict[str, ArtifactRef] = field(default_factory=dict)
    """By arm."""
    tokens: dict[str, ArtifactRef] = field(default_factory=dict)
    """By arm: its examples as it was trained on them, without those that were too long."""
    models: dict[str, ArtifactRef] = field(default_factory=dict)
    """By arm."""
    warm_models: dict[str, ArtifactRef] = field(default_factory=dict)
    """By arm: the models that are students of the first round (``endpoint = "arm:NAME"``); none is measured."""
    evaluations: dict[str, ArtifactRef] = field(default_factory=dict)
    """By arm, and ``base``, on the first test set."""
    votes: dict[str, ArtifactRef] = field(default_factory=dict)
    """By arm, and ``base``: sampled answers for maj@k, where the run asks for them; on the first test set."""
    second_turns: dict[str, ArtifactRef] = field(default_factory=dict)
    """By arm, and ``base``: the answers after a look at the first ones, where the run asks for them; likewise."""
    further_sets: dict[str, MeasuredSet] = field(default_factory=dict)
    """The other test sets, by name."""
    perplexities: dict[str, ArtifactRef] = field(default_factory=dict)
    """By arm: of mistaken and corrected paths, where the run asks for it."""
    scored_questions: dict[str, ArtifactRef] = field(default_factory=dict)
    """By test set: the questions whose gold solutions are scored, where they are more than those that are asked."""
    likelihoods: dict[str, dict[str, ArtifactRef]] = field(default_factory=dict)
    """By test set and arm: the negative log-likelihood of the gold solutions, where the run asks for it."""
    others: dict[str, ArtifactRef] = field(default_factory=dict)
    """By stage: artifacts of stages without a field of their own."""
    report: ArtifactRef | None = None

    def add_round(self, question_round: QuestionRound) -> QuestionRound:
        """Add a round to be filled."""
        self.rounds.append(question_round)
        return question_round

    def collected(self) -> Self:
        """Return what was collected, with no model made from it yet."""
        return replace(self.unmeasured(), mixtures={}, tokens={}, models={})

    def unmeasured(self) -> Self:
        """Return what was made, with no model measured yet."""
        further = {name: MeasuredSet(one.questions) for name, one in self.further_sets.items()}
        return replace(
            self, evaluations={}, votes={}, second_turns={}, further_sets=further, perplexities={}, likelihoods={}
        )

    def published(self, store: Store) -> Self:
        """Return the artifacts by arm that exist, with everything that was collected."""

        def existing(refs: dict[str, ArtifactRef]) -> dict[str, ArtifactRef]:
            return {arm: ref for arm, ref in refs.items() if store.exists(ref)}

        return replace(
            self,
            mixtures=existing(self.mixtures),
            tokens=existing(self.tokens),
            models=existing(self.models),
            evaluations=existing(self.evaluations),
            votes=existing(self.votes),
            second_turns=existing(self.second_turns),
            further_sets={name: one.only(store.exists) for name, one in self.further_sets.items()},
            perplexities=existing(self.perplexities),
            likelihoods={name: existing(arms) for name, arms in self.likelihoods.items()},
            others=existing(self.others),
        )

    def measured_on(self, test_sets: Iterable[str]) -> dict[str, MeasuredSet]:
        """Return what was measured, by test set; ``test_sets`` names all of the run's in its order."""
        first = MeasuredSet(self.test_questions, self.evaluations, self.votes, self.second_turns)
        return {name: self.further_sets.get(name, MeasuredSet()) if n else first for n, name in enumerate(test_sets)}

    @property
    def all_test_questions(self) -> tuple[ArtifactRef, ...]:
        """Return the questions of every test set: what no arm may be trained on."""
        refs = (self.test_questions, *(measured.questions for measured in self.further_sets.values()))
        return (*(ref for ref in refs if ref), *self.scored_questions.values())

    @property
    def main_corrections(self) -> ArtifactRef | None:
        """Return the main corrector's corrections of the task's own questions."""
        return self.rounds[0].main_corrections if self.rounds else None

    def known_questions(self, evolution: RoundEvolution) -> list[ArtifactRef]:
        """Return the own questions and those that were evolved in this way: what a new one must not repeat."""
        return [known.questions for known in self.rounds if known.evolution in ("none", evolution)]

    def __iter__(self) -> Iterator[ArtifactRef]:
        """Yield what the report is made from, in the paper's order."""
        yield from (ref for ref in (self.questions, *self.all_test_questions, self.held_out) if ref)
        for question_round in self.rounds:
            if question_round.round and question_round.evolution != "on_policy":
                yield from (*question_round.made_by, question_round.questions)
            yield from question_round
        yield from (*self.mixtures.values(), *self.models.values(), *self.evaluations.values(), *self.votes.values())
        yield from self.second_turns.values()
        yield from (ref for measured in self.further_sets.values() for ref in measured)
        yield from (ref for arms in self.likelihoods.values() for ref in arms.values())
        yield from (*self.perplexities.values(), *self.others.values())
