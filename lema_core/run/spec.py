"""The run file: everything one run of the paper is made from, as frozen pydantic models.

A section's fields are content and enter the identity of the stage's artifact, but for the sections that say where and
how the work is done: ``endpoints`` (only an endpoint's identity counts), ``launch``, ``budget`` and ``runtime``.
"""

from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from lema_core.ablation.specs import AblationSpec, Name
from lema_core.corrections.specs import CorrectionsSpec
from lema_core.errors import ConfigError
from lema_core.evaluation.selection_spec import SelectionSpec
from lema_core.llm.endpoints import EndpointSpec
from lema_core.llm.requests import Sampling
from lema_core.mixture.arms import ARMS, Arm, ArmSpec, get_arm
from lema_core.questions.specs import QuestionsSpec
from lema_core.rating.gate_spec import QualityGateSpec
from lema_core.run.runtime import BudgetSpec, RuntimeSpec, ledger_at
from lema_core.training.checks import check_arms
from lema_core.training.specs import LaunchSpec, TrainingSpec

PromptKind = Literal["few_shot", "zero_shot"]
BASE = "base"
"""What the model that was not fine-tuned is called beside the arms."""


class Section(BaseModel):
    """A section of a run file: frozen, and an unknown option is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


class StudentSpec(Section):
    """How reasoning paths are sampled from one student (the paper's M_r)."""

    endpoint: str
    """A name from ``[endpoints]``."""
    samples: int = Field(4, ge=1)
    """Paths a question."""
    temperature: float = Field(0.7, ge=0)
    top_p: float | None = Field(None, gt=0, le=1)
    max_tokens: int = Field(512, ge=1)
    prompt: PromptKind = "few_shot"
    mistakes: bool = True
    """false: a teacher, whose right paths are CoT data (paper, section 3.2) and whose mistakes are not collected."""

    def sampling(self) -> Sampling:
        """Return the sampling parameters of a path; each question brings its own seed."""
        return Sampling(temperature=self.temperature, top_p=self.top_p, max_tokens=self.max_tokens)


class VerdictsSpec(Section):
    """How a path's final answer is judged."""

    unknown: Literal["reject", "wrong"] = "reject"
    """What becomes of a path whose answer the matcher can neither equal to nor tell from the gold answer."""


class MistakesSpec(Section):
    """Which judged paths are corrected."""

    verdicts: tuple[Literal["wrong", "none", "ambiguous"], ...] = ("wrong",)
    """A path without an answer is its own class and by default no mistake."""
    per_question: int | None = Field(None, ge=1)
    """At most so many mistakes of one question."""
    per_student: int | None = Field(None, ge=1)
    """At most so many mistakes of one student on one question."""


class EvolutionSpec(Section):
    """New questions from those that models fail on, and the rounds on them (paper, section 2.4 and appendix)."""

    endpoint: str
    """Writes the new questions (the paper's M_e)."""
    answers: str | None = None
    """Answers them; None: the endpoint that wrote them."""
    kinds: tuple[Literal["centric", "general"], ...] = Field(("centric",), min_length=1)
    """How seeds are drawn: from the questions in the accepted corrections, by their count there, or from all questions
    alike (the control). Of several the first is carried through all rounds, the others through round 1."""
    rounds: int = Field(1, ge=1)
    """Round 1 asks the run's students; each later one the model fine-tuned on the rounds before."""
    draws: int = Field(10_000, ge=1)
    """Seeds drawn a round, with replacement; every round takes the same seeds."""
    seed: int = Field(0, ge=0)
    """Fixes the draw."""
    similarity: float = Field(0.6, gt=0, le=1)
    """Jaccard similarity of word triples from which on two questions count as repetitions; one word changed in a
    question of 20 words leaves 0.71."""
    temperature: float = Field(0.7, ge=0)
    """Of the new questions."""
    max_tokens: int = Field(512, ge=1)
    votes: int = Field(3, ge=1)
    """Answers sampled for each new question; more than half must agree."""
    answer_temperature: float = Field(0.7, ge=0)
    answer_max_tokens: int = Field(1024, ge=1)

    @property
    def endpoints(self) -> tuple[str, str]:
        """Return who writes the new questions, and who answers them."""
        return self.endpoint, self.answers or self.endpoint

    def kinds_in(self, round_number: int) -> tuple[Literal["centric", "general"], ...]:
        """Return the kinds of a round."""
        return self.kinds if round_number == 1 else self.kinds[:1]

    def writing(self) -> Sampling:
        """Return the sampling parameters of a new question."""
        return Sampling(temperature=self.temperature, max_tokens=self.max_tokens)

    def answering(self) -> Sampling:
        """Return the sampling parameters of an answer to it."""
        return Sampling(temperature=self.answer_temperature, max_tokens=self.answer_max_tokens)


class MixtureSpec(Section):
    """How the training examples of the arms are made."""

    arms: tuple[str, ...] = ("cot", "lema")
    seed: int = 0
    """Fixes the order of the examples and what a size-matched arm leaves out."""


class EvaluationSpec(Section):
    """How the base model and the arms are measured: greedily, on the same held-out questions."""

    base: str | None = None
    """The endpoint of the base model; None leaves it out."""
    base_prompt: PromptKind = "few_shot"
    """The base model was never trained on our format: four examples give it its best chance."""
    serve: EndpointSpec | None = None
    """How a fine-tuned checkpoint is served: a command with ``{model}`` (its folder) and ``{port}``. Its ``identity``
    tells one way of serving from another: under a new one everything is measured anew."""
    max_tokens: int = Field(2048, ge=1)
    samples: int = Field(0, ge=0)
    """Sampled answers a question for maj@k, beside the greedy one; 0 asks for none."""
    temperature: float = Field(0.7, gt=0)
    """Of the sampled answers."""
    perplexity: int = Field(0, ge=0)
    """delta-PPL of each arm on so many pairs of a mistaken and a corrected path; 0 leaves it out."""
    top_p: float | None = Field(None, gt=0, le=1)


class RunSpec(Section):
    """One run file."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]*$")
    """Lower-case letters, digits, - and _."""
    title: str = ""
    questions: QuestionsSpec
    test_questions: QuestionsSpec | None = None
    endpoints: dict[Name, EndpointSpec] = {}
    """Where completions come from, by name (letters, digits, ., _ and -; the same for arms). Only
    ``model``/``identity`` say *what* answers and enter a request's key."""
    students: tuple[StudentSpec, ...] = ()
    verdicts: VerdictsSpec = VerdictsSpec()
    mistakes: MistakesSpec = MistakesSpec()
    corrections: CorrectionsSpec | None = None
    evolution: EvolutionSpec | None = None
    arms: dict[Name, ArmSpec] = {}
    """Arms of one's own, by name, beside the bundled ones."""
    quality_gate: QualityGateSpec | None = None
    mixture: MixtureSpec | None = None
    training: TrainingSpec | None = None
    arm_training: dict[str, dict[str, Any]] = {}
    """By arm: the options of [training] that are others for it, such as base = "arm:lema"."""
    launch: LaunchSpec = LaunchSpec()
    selection: SelectionSpec | None = None
    evaluation: EvaluationSpec | None = None
    ablation: AblationSpec | None = None
    licences: dict[str, str] = {}
    """For the cards, as the Hub's identifiers: of ``data``, ``model``, ``questions``, and of endpoints by name."""
    budget: BudgetSpec = BudgetSpec()
    runtime: RuntimeSpec = RuntimeSpec()

    @model_validator(mode="after")
    def _stages_have_what_they_need(self) -> Self:
        self._endpoints_exist()
        self._arms_exist()
        needs: list[tuple[str, object, str, object]] = [
            ("corrections", self.corrections, "students with mistakes", self.mistaken_students),
            ("evolution", self.evolution, "corrections", self.corrections),
            ("quality_gate", self.quality_gate, "corrections", self.corrections),
            ("training", self.training, "mixture", self.mixture),
            ("selection", self.selection, "training", self.training),
            ("selection", self.selection, "evaluation", self.evaluation),
            ("evaluation", self.evaluation, "test_questions", self.test_questions),
        ]
        for name, section, needed, there in needs:
            if section and not there:
                raise ValueError(f"[{name}] needs [{needed}]; add it or remove [{name}]")
        if self.training and self.evaluation and self.evaluation.serve is None:
            raise ValueError("[evaluation] has no serve: say how a fine-tuned checkpoint is served")
        check_arms({arm: self.training_of(arm) for arm in self.mixture.arms} if self.mixture else {}, self.launch)
        if self.evolution and self.evolution.rounds > 1 and not (self.training and self.evaluation):
            raise ValueError(
                f"[evolution] has {self.evolution.rounds} rounds: from the second on the student is the model that was "
                "fine-tuned in the round before; add [training] and [evaluation] with its serve, or set rounds = 1"
            )
        return self

    @property
    def mistaken_students(self) -> tuple[StudentSpec, ...]:
        """Return the students whose mistakes are collected: all but the teachers of CoT data."""
        return tuple(student for student in self.students if student.mistakes)

    def _endpoints_exist(self) -> None:
        used = {student.endpoint for student in self.students}
        used |= set(self.corrections.endpoints) if self.corrections else set()
        used |= {self.corrections.second} if self.corrections and self.corrections.second else set()
        used |= set(self.evolution.endpoints) if self.evolution else set()
        used |= {self.evaluation.base} if self.evaluation and self.evaluation.base else set()
        if missing := sorted(used - self.endpoints.keys()):
            raise ValueError(f"no [endpoints.{missing[0]}]; there are {sorted(self.endpoints)}")

    def _arms_exist(self) -> None:
        if taken := sorted(self.arms.keys() & {*ARMS, BASE}):
            raise ValueError(f"[arms.{taken[0]}]: the name is taken; give your arm another one")
        try:
            swept = (*self.arm_training, *(self.ablation.arms if self.ablation else ()))
            for name in (*self.arms, *swept, *(self.mixture.arms if self.mixture else ())):
                self.arm(name)
        except ConfigError as error:
            raise ValueError(str(error)) from error

    def arm(self, name: str) -> Arm:
        """Return an arm of the run file or a bundled one, with the identities of the models that it names.

        Raises:
            ConfigError: there is no such arm, or it names a corrector that the run does not have.
        """
        arm = get_arm(name, self.arms, self.evolution.kinds[0] if self.evolution else "centric")
        teachers = self.corrections.endpoints if self.corrections else ()
        if (wanted := name.removeprefix("corrector_")) != name and name not in self.arms and wanted not in teachers:
            have = ", ".join(teachers) or "none"
            raise ConfigError(f"the arm {name!r} needs the corrector {wanted!r}; the run's are: {have}")
        return arm.of({model: self.endpoints[model].answers_as for model in arm.models if model in self.endpoints})

    def training_of(self, arm: str) -> TrainingSpec:
        """Return how an arm is trained: [training], what differs for the arm, and the objective that its rows need."""
        changes = self.arm_training.get(arm, {}) | {"objective": "dpo" if self.arm(arm).preferences else "sft"}
        return TrainingSpec.model_validate((self.training.model_dump() if self.training else {}) | changes)

    def endpoint(self, name: str) -> EndpointSpec:
        """Return an endpoint of the run file under the name it has there."""
        return self.endpoints[name].model_copy(update={"name": name})


class Runtime(BaseModel):
    """Where and how a run works: handed to every task, small and plain, never part of an identity."""

    model_config = ConfigDict(frozen=True)

    root: str
    ledger: str
    run: str
    budget: BudgetSpec = BudgetSpec()
    shard_requests: int = 512
    shards_in_flight: int = 8
    max_failed: float = 0.2
    workers: int | None = None
    scheduler: str | None = None
    launch: LaunchSpec = LaunchSpec()
    go_on: str = ""
    """What a person does to go on where a run stopped; empty: ``lema resume``."""

    @classmethod
    def of(cls, spec: RunSpec, root: str) -> Self:
        """Return the runtime of a run file under a root; the ledger lies beside the artifacts if that is a folder.

        Places on this machine are absolute: worker processes may have another working directory.
        """
        local = "://" not in root
        root = str(Path(root).absolute()) if local else root.rstrip("/")
        return cls(
            root=f"{root}/store",
            ledger=ledger_at(root, spec.runtime.ledger),
            run=spec.name,
            budget=spec.budget,
            shard_requests=spec.runtime.shard_requests,
            shards_in_flight=spec.runtime.shards_in_flight,
            max_failed=spec.runtime.max_failed,
            workers=spec.runtime.workers,
            scheduler=spec.runtime.scheduler,
            launch=spec.launch,
        )
