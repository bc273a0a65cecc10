"""The run file: everything one run of the paper is made from, as frozen pydantic models; and where a run works.

A section's fields are content and enter the identity of the stage's artifact, but for the sections that say where and
how the work is done: ``endpoints`` (only an endpoint's identity counts), ``launch``, ``budget`` and ``runtime``. Those
become a run's context under its root, which every task is given.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, field_validator, model_validator

from lema_core.ablation.specs import AblationSpec, Name
from lema_core.error_types import DIAGNOSES, TYPES
from lema_core.errors import ConfigError
from lema_core.llm.endpoints import EndpointSpec
from lema_core.llm.ledger.database import is_postgres
from lema_core.mixture.arms import ARMS, Arm, ArmSpec, RoundEvolution, get_arm
from lema_core.questions.specs import QuestionsSpec, TestSet
from lema_core.stages import Section
from lema_core.stages.corrections import CorrectionsSpec
from lema_core.stages.error_types import ErrorTypesSpec
from lema_core.stages.evaluation import EvaluationSpec
from lema_core.stages.evolution import EvolutionSpec
from lema_core.stages.mixture import MixtureSpec
from lema_core.stages.on_policy import OnPolicySpec
from lema_core.stages.pretraining import PRETRAINED, PretrainingSpec
from lema_core.stages.quality_gate import QualityGateSpec
from lema_core.stages.questions import SelectionSpec
from lema_core.stages.reasoning_paths import StudentSpec
from lema_core.stages.verdicts import MistakesSpec, VerdictsSpec
from lema_core.system.urls import parse_url
from lema_core.training.options import check_arms
from lema_core.training.specs import LaunchSpec, TrainingSpec, apply_preset

SCHEDULERS = frozenset({"tcp", "tls", "ucx", "ws", "wss"})
LOOPBACK = {"127.0.0.1", "localhost", "::1"}
BASE = "base"
"""What the model that was not fine-tuned is called beside the arms."""


class BudgetSpec(BaseModel):
    """The most a run may cost, over all its endpoints, counted from its first request."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    usd: float | None = Field(None, gt=0)
    tokens: int | None = Field(None, gt=0)


class RuntimeSpec(BaseModel):
    """How the work is cut up, and where it is done. None of it changes a row."""

    # A ledger's URL may hold a password, which pydantic's own text of an error would repeat.
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    shard_requests: int = Field(512, ge=1)
    """Requests in one Prefect task."""
    shards_in_flight: int = Field(8, ge=1)
    """Shards that one process deals with at a time."""
    max_failed: float = Field(0.2, ge=0, le=1)
    """The largest share of requests that may fail and become rejected rows, of a shard and of a whole stage; what a
    content filter stopped does not count. Where more fail, or an endpoint answers nothing, nothing is published: the
    run ends as failed with the endpoint's words, and ``lema resume`` asks for them again. Fewer than 20 requests count
    as 20. 1 lets any number pass."""
    ledger: str | None = None
    """A PostgreSQL URL or a file; by default what ``ledger.url`` under the root names, else ``ledger.sqlite`` there."""
    workers: int | None = Field(None, ge=1)
    """Worker processes on this machine to deal with the shards; None: the flow's own process does."""
    scheduler: str | None = Field(None, pattern=r"^[a-z]+://.+:\d+$")
    """``tcp://host:port``: the scheduler of a Dask cluster to deal with the shards, in place of ``workers``."""

    @field_validator("ledger")
    @classmethod
    def _ledger_is_a_place(cls, ledger: str | None) -> str | None:
        if ledger is not None:
            try:
                is_postgres(ledger)
            except ConfigError as error:
                raise ValueError(str(error)) from None
        return ledger

    @model_validator(mode="after")
    def _one_cluster_and_one_ledger(self) -> Self:
        if self.workers and self.scheduler:
            raise ValueError("workers starts processes here and scheduler names a cluster; set one of them")
        host = _scheduler_host(self.scheduler) if self.scheduler else ""
        if host and host not in LOOPBACK and not (self.ledger and is_postgres(self.ledger)):
            raise ValueError(
                f"workers on other machines ({host}) need one ledger for all, or each would pay for itself; set "
                "ledger to a PostgreSQL URL"
            )
        return self


def _scheduler_host(url: str) -> str:
    try:
        return parse_url(url, "scheduler", SCHEDULERS, "give certificates in Dask's own configuration").host
    except ConfigError as error:
        raise ValueError(str(error)) from None


def ledger_under(root: str) -> str:
    """Return the ledger that all runs under a root share: what ``ledger.url`` there names, else ``ledger.sqlite``.

    Raises:
        ConfigError: ``ledger.url`` cannot be read.
    """
    folder = Path(root if "://" not in root else ".lema")
    named = folder / "ledger.url"
    try:
        return named.read_text(encoding="utf-8").strip() if named.is_file() else str(folder / "ledger.sqlite")
    except (OSError, UnicodeError) as error:
        raise ConfigError(
            f"{named} cannot be read ({error}). It holds one line, a postgresql:// URL: correct it, or remove it to go "
            "back to ledger.sqlite"
        ) from None


def ledger_at(root: str, own: str | None) -> str:
    """Return the ledger of a run under a root: its own, or the one that all runs there share."""
    ledger = own or ledger_under(root)
    return ledger if is_postgres(ledger) else str(Path(ledger).absolute())


TABLE, LIST = "one table", "a list"
"""The two forms of [test_questions]; part of the places of pydantic's errors, never shown."""


def _form_of(value: Any) -> str:
    return LIST if isinstance(value, list | tuple) else TABLE


TestQuestions = Annotated[
    Annotated[QuestionsSpec, Tag(TABLE)] | Annotated[tuple[TestSet, ...], Tag(LIST)],
    Discriminator(_form_of),
]


class RunSpec(Section):
    """One run file."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]*$")
    """Lower-case letters, digits, - and _."""
    title: str = ""
    questions: QuestionsSpec
    test_questions: TestQuestions | None = None
    """What models are measured on: one table, or several test sets as [[test_questions]], which may have a `name`
    each; there, a task without `path` means its test part. A task's name alone will do:
    `test_questions = ["gsm8k", "svamp", "asdiv"]`. The first set comes first in the report, and is the one that
    selection.protocol = "best_on_test" shows."""
    endpoints: dict[Name, EndpointSpec] = Field(default_factory=dict)
    """Where completions come from, by name (letters, digits, ., _ and -; the same for arms). Only
    ``model``/``identity`` say *what* answers and enter a request's key."""
    pretraining: PretrainingSpec | None = None
    students: tuple[StudentSpec, ...] = ()
    verdicts: VerdictsSpec = VerdictsSpec()
    mistakes: MistakesSpec = MistakesSpec()
    corrections: CorrectionsSpec | None = None
    error_types: ErrorTypesSpec | None = None
    evolution: EvolutionSpec | None = None
    on_policy: OnPolicySpec | None = None
    arms: dict[Name, ArmSpec] = Field(default_factory=dict)
    """Arms of one's own, by name, beside the bundled ones."""
    quality_gate: QualityGateSpec | None = None
    mixture: MixtureSpec | None = None
    training: TrainingSpec | None = None
    arm_training: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """By arm: the options of [training] that are others for it, such as base = "arm:lema"."""
    launch: LaunchSpec = LaunchSpec()
    selection: SelectionSpec | None = None
    evaluation: EvaluationSpec | None = None
    ablation: AblationSpec | None = None
    licences: dict[str, str] = Field(default_factory=dict)
    """For the cards, as the Hub's identifiers: of ``data``, ``model``, ``questions``, and of endpoints by name."""
    budget: BudgetSpec = BudgetSpec()
    runtime: RuntimeSpec = RuntimeSpec()

    @model_validator(mode="after")
    def _stages_have_what_they_need(self) -> Self:
        used = {student.endpoint for student in self.students if student.arm is None}
        used |= set(self.corrections.endpoints) if self.corrections else set()
        used |= {self.corrections.second} if self.corrections and self.corrections.second else set()
        used |= {self.error_types.endpoint} if self.error_types and self.error_types.endpoint else set()
        used |= set(self.evolution.endpoints) if self.evolution else set()
        used |= {self.evaluation.base} if self.evaluation and self.evaluation.base else set()
        if missing := sorted(used - self.endpoints.keys()):
            raise ValueError(f"no [endpoints.{missing[0]}]; there are {sorted(self.endpoints)}")
        self._arms_exist()
        if self.uses_pretrained and self.pretraining is None:
            raise ValueError(f"{PRETRAINED!r} is named as a model, and there is no [pretraining] that makes it; add it")
        if self.test_questions == ():
            raise ValueError("test_questions is an empty list; name a test set, or remove it")
        names = [spec.called for spec in _test_sets(self.test_questions)]
        if twice := [name for name in names if names.count(name) > 1]:
            raise ValueError(f"two test sets are called {twice[0]!r}: give each of them a name of its own")
        needs: list[tuple[str, object, str, object]] = [
            ("corrections", self.corrections, "students with mistakes", self.mistaken_students),
            ("evolution", self.evolution, "corrections", self.corrections),
            ("on_policy", self.on_policy, "corrections", self.corrections),
            ("error_types", self.error_types, "corrections", self.corrections),
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
        self._fine_tuned_students_can_be_asked()
        self._error_types_are_known()
        if self.evolution and self.evolution.rounds > 1 and not (self.training and self.evaluation):
            raise ValueError(
                f"[evolution] has {self.evolution.rounds} rounds: from the second on the student is the model that was "
                "fine-tuned in the round before; add [training] and [evaluation] with its serve, or set rounds = 1"
            )
        return self

    @property
    def uses_pretrained(self) -> bool:
        """Whether a base or an endpoint is the model that the run itself pre-trains."""
        bases = [base.train for base in self.ablation.bases] if self.ablation else []
        models = [endpoint.model for endpoint in self.endpoints.values()]
        return PRETRAINED in [*bases, *models, *([self.training.base] if self.training else [])]

    @property
    def test_sets(self) -> Mapping[str, QuestionsSpec]:
        """Return the test sets by name, in the run file's order."""
        return {spec.called: spec for spec in _test_sets(self.test_questions)}

    @property
    def mistaken_students(self) -> tuple[StudentSpec, ...]:
        """Return the students whose mistakes are collected: all but the teachers of CoT data."""
        return tuple(student for student in self.students if student.mistakes)

    @property
    def warm_arms(self) -> tuple[str, ...]:
        """Return the arms whose models are students of the first round."""
        return tuple(dict.fromkeys(student.arm for student in self.students if student.arm is not None))

    def called(self, student: str) -> str:
        """Return what a student is called: the model of an endpoint's name, an arm's by ``arm:NAME``."""
        return self.endpoints[student].model if student in self.endpoints else student

    def _fine_tuned_students_can_be_asked(self) -> None:
        if self.on_policy and self.evolution:
            raise ValueError("[on_policy] and [evolution] are both given: rounds are of one kind; remove one of them")
        asked = "[on_policy]" if self.on_policy else f"endpoint = 'arm:{self.warm_arms[0]}'" if self.warm_arms else ""
        if asked and not (self.mixture and self.training and self.evaluation):
            raise ValueError(
                f"{asked}: the student is a model that this run fine-tunes; add [mixture], [training] and [evaluation] "
                "with its serve"
            )
        for name in self.warm_arms:
            arm = self.arm(name)
            rows = {view.rows for view in (*arm.views, *arm.fill, *arm.target)}
            if "rationales" not in rows or "corrections" in rows:
                raise ValueError(
                    f"[[students]] endpoint = 'arm:{name}': before its student is asked there are rationales alone, "
                    f"and the arm {name!r} holds {', '.join(sorted(rows))}; expected an arm such as cot"
                )
            if (start := self.training_of(name).starts_from_arm) is not None:
                raise ValueError(
                    f"[[students]] endpoint = 'arm:{name}': the arm starts from the model of {start!r}, which is "
                    "trained later; expected an arm that starts from a model"
                )

    def _error_types_are_known(self) -> None:
        wanted = {name for arm in self.arms.values() for view in (*arm.views, *arm.fill)
                  for name in view.where.error_types or ()}  # fmt: skip
        if wanted and self.error_types is None:
            raise ValueError("where.error_types needs [error_types], which says who names the types; add it")
        if self.error_types is None:
            return
        named = tuple(TYPES) if self.error_types.endpoint else DIAGNOSES
        if unknown := sorted(wanted - set(named)):
            raise ValueError(f"where.error_types has {unknown[0]!r}; expected some of {', '.join(named)}")
        students = [student.endpoint for student in self.mistaken_students]
        if self.error_types.like is not None and self.error_types.like not in students:
            raise ValueError(
                f"error_types.like = {self.error_types.like!r} is no student whose mistakes are collected; "
                f"expected one of {', '.join(students)}"
            )

    def _arms_exist(self) -> None:
        if taken := sorted(self.arms.keys() & {*ARMS, BASE}):
            raise ValueError(f"[arms.{taken[0]}]: the name is taken; give your arm another one")
        try:
            swept = (*self.arm_training, *(self.ablation.arms if self.ablation else ()))
            for name in (*self.arms, *swept, *self.warm_arms, *(self.mixture.arms if self.mixture else ())):
                self.arm(name)
        except ConfigError as error:
            raise ValueError(str(error)) from error

    def arm(self, name: str) -> Arm:
        """Return an arm of the run file or a bundled one, with the identities of the models that it names.

        Raises:
            ConfigError: there is no such arm, or it names a corrector that the run does not have.
        """
        rounds_of: RoundEvolution = "on_policy" if self.on_policy else "centric"
        arm = get_arm(name, self.arms, self.evolution.kinds[0] if self.evolution else rounds_of)
        teachers = self.corrections.endpoints if self.corrections else ()
        if (wanted := name.removeprefix("corrector_")) != name and name not in self.arms and wanted not in teachers:
            have = ", ".join(teachers) or "none"
            raise ConfigError(f"the arm {name!r} needs the corrector {wanted!r}; the run's are: {have}")
        if self.mixture and (self.mixture.sound_paths or self.mixture.teachers_first):
            known = tuple(student.endpoint for student in self.students if not student.mistakes)
            prefer = known if self.mixture.teachers_first else ()
            arm = arm.with_paths(sound=self.mixture.sound_paths, prefer=prefer)
        return arm.of({model: self.endpoints[model].answers_as for model in arm.models if model in self.endpoints})

    def training_of(self, arm: str) -> TrainingSpec:
        """Return how an arm is trained: [training], what differs for the arm, and the objective that its rows need."""
        changes = apply_preset(self.arm_training.get(arm, {})) | {"objective": self.arm(arm).objective}
        return TrainingSpec.model_validate((self.training.model_dump() if self.training else {}) | changes)

    def endpoint(self, name: str) -> EndpointSpec:
        """Return an endpoint of the run file under the name it has there."""
        return self.endpoints[name].model_copy(update={"name": name})


def _test_sets(questions: QuestionsSpec | tuple[TestSet, ...] | None) -> tuple[QuestionsSpec, ...]:
    if questions is None:
        return ()
    return questions if isinstance(questions, tuple) else (questions,)


class RunContext(BaseModel):
    """A root, a ledger, limits and devices; small and plain."""

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
        """Return the context of a run file under a root; the ledger lies beside the artifacts if that is a folder.

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
