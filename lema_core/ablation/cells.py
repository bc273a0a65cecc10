"""From a run file with ``[ablation]`` to its cells: pure, so that a plan and a run see the same ones.

A setting is the run file with some options changed, and collects its data once, with the run file's own seed and base
model: cells differ from there on. What two settings have in common upstream has the same identity and is made once.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError

from lema_core.ablation.specs import AblationSpec, BaseModelSpec
from lema_core.artifacts import ArtifactRef
from lema_core.errors import ConfigError
from lema_core.questions import get_task
from lema_core.run.files import problems
from lema_core.run.spec import BASE, RunSpec
from lema_core.stages.evaluation import GREEDY_ONLY

OWN = "as in the run file"
"""The only setting of a sweep that names none."""
FIXED = ("name", "title", "endpoints", "launch", "budget", "runtime", "ablation")
"""Sections that no setting changes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One model of the sweep: an arm, or the untouched base model, with everything that decides it."""

    arm: str
    """``base`` for the untouched model."""
    seed: int | None
    """None for the untouched model, which has no randomness."""
    base: str
    setting: str
    run: RunSpec
    """What the fine-tuning and the evaluation of this cell are."""

    @property
    def name(self) -> str:
        """Return its name for people."""
        seed = "" if self.seed is None else f"seed {self.seed}"
        setting = "" if self.setting == OWN else self.setting
        return ", ".join(filter(None, (self.arm, seed, self.base, setting)))

    @property
    def replicate(self) -> tuple[object, ...]:
        """Return what cells that are compared with one another have in common."""
        return self.setting, self.base, self.seed


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """A run file with some options changed: the data are collected once for all its cells."""

    name: str
    run: RunSpec
    cells: tuple[Cell, ...]


def sweep_of(run: RunSpec) -> AblationSpec:
    """Return the section with its defaults filled in from the rest of the run file.

    Raises:
        ConfigError: the run file has nothing to vary.
    """
    if run.mixture is None:
        raise ConfigError("a sweep compares arms: add [mixture] (its arms are the default of ablation.arms)")
    sweep = run.ablation or AblationSpec()
    arms = sweep.arms or run.mixture.arms
    if sweep.reference and sweep.reference not in arms:
        raise ConfigError(f"ablation.reference: {sweep.reference!r} is none of the arms {list(arms)}")
    if unknown := [arm for pair in sweep.planned for arm in pair if arm not in arms]:
        raise ConfigError(f"ablation.planned: {unknown[0]!r} is none of the arms {list(arms)}")
    if sweep.bases and run.training is None:
        raise ConfigError("ablation.bases: nothing is fine-tuned from them; add [training] or remove them")
    return sweep.model_copy(update={"arms": arms})


def reference_of(run: RunSpec) -> str:
    """Return the arm that the others of a sweep are compared with."""
    sweep = sweep_of(run)
    return sweep.reference or sweep.arms[0]


def expand(run: RunSpec) -> tuple[Setting, ...]:
    """Return the settings of a sweep with their cells, the untouched base models first; one for each of its data seeds.

    Raises:
        ConfigError: an arm, a base model or an option of a setting cannot be used; the message names its place.
    """
    sweep = sweep_of(run)
    for arm in sweep.arms:
        run.arm(arm)
    changes = sweep.settings or {OWN: {}}
    varied = [(name, _change_options(run, name, change)) for name, change in changes.items()]
    _check_test_sets(run, dict(varied))
    settings: list[Setting] = []
    for name, one in varied:
        for number, (data, seeds) in enumerate(_data_sets(one, sweep)):
            cells = _cells(name, data, sweep.model_copy(update={"seeds": seeds}))
            # The untouched model is the same one on all data: it is measured once.
            own = tuple(cell for cell in cells if not number or cell.arm != BASE)
            settings.append(Setting(name=name, run=data, cells=own))
    return tuple(settings)


def _data_sets(run: RunSpec, sweep: AblationSpec) -> Iterator[tuple[RunSpec, tuple[int, ...]]]:
    """Yield a setting's run with each of its data sets, and the seeds that are trained on it.

    Raises:
        ConfigError: the run's questions are not generated, so that a seed would change nothing.
    """
    if not sweep.data_seeds:
        yield run, sweep.seeds
        return
    if get_task(run.questions.task).generate is None or run.questions.path or run.questions.hub:
        raise ConfigError(
            f"ablation.data_seeds: the questions of {run.questions.task} are not generated, so a seed gives no "
            "other ones; leave data_seeds out, or name other rows in [ablation.settings]"
        )
    dealt: dict[int, list[int]] = {}
    for place, seed in enumerate(sweep.seeds):
        dealt.setdefault(sweep.data_seeds[place % len(sweep.data_seeds)], []).append(seed)
    for data, seeds in dealt.items():
        yield _validate(run, {"questions": {"seed": data}}), tuple(seeds)


def cell_runs(run: RunSpec) -> list[RunSpec]:
    """Return the run of every cell of a sweep."""
    return [cell.run for setting in expand(run) for cell in setting.cells]


def _change_options(run: RunSpec, name: str, change: Mapping[str, Any]) -> RunSpec:
    place = f"ablation.settings.{name}"
    if fixed := [section for section in FIXED if section in change]:
        raise ConfigError(
            f"{place}.{fixed[0]}: a setting cannot change [{fixed[0]}]: it decides no result, or holds for all cells. "
            "Another model is another [endpoints.<name>], named by the setting (corrections.endpoint = ...)."
        )
    document = run.model_dump(exclude_unset=True, exclude={"ablation"})
    try:
        return RunSpec.model_validate(_merge(document, change))
    except ValidationError as error:
        raise ConfigError("\n".join([f"{place}:", *problems(error)])) from error


def _check_test_sets(run: RunSpec, settings: Mapping[str, RunSpec]) -> None:
    """Refuse a test set that has other questions in one setting than in another: they would share a column."""
    first = dict(run.test_sets)
    for setting, changed in settings.items():
        for name, spec in changed.test_sets.items():
            if first.setdefault(name, spec) != spec:
                raise ConfigError(
                    f"ablation.settings.{setting}.test_questions: a setting cannot change the test set {name!r}, which "
                    "holds for all cells. Give other questions a name of their own: test_questions = [{ name = ..., "
                    "task = ... }]"
                )


def _merge(document: Mapping[str, Any], change: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(document)
    for key, value in change.items():
        inner = merged.get(key)
        merged[key] = _merge(inner, value) if isinstance(inner, Mapping) and isinstance(value, Mapping) else value
    return merged


def _cells(setting: str, run: RunSpec, sweep: AblationSpec) -> Iterator[Cell]:
    bases = sweep.bases or (_own_base(run),)
    for base in bases:
        if run.evaluation and base.endpoint:
            yield Cell(arm=BASE, seed=None, base=base.name, setting=setting, run=_base_run(run, base))
    for base in bases:
        for arm in sweep.arms:
            for seed in sweep.seeds:
                # The arm behind those whose models its training starts from.
                chain, start = [arm], run.training_of(arm).starts_from_arm
                while start and start not in chain:
                    chain.insert(0, start)
                    start = run.training_of(start).starts_from_arm
                change: dict[str, Any] = {"mixture": {"arms": tuple(chain), "seed": seed}}
                if run.training:
                    change["training"] = {"base": base.train, "seed": seed}
                if run.evaluation:
                    change["evaluation"] = {"base": None} | GREEDY_ONLY
                one = _validate(run, change)
                yield Cell(arm=arm, seed=seed, base=base.name, setting=setting, run=one)


def _own_base(run: RunSpec) -> BaseModelSpec:
    endpoint = run.evaluation.base if run.evaluation else None
    train = run.training.base if run.training else endpoint or ""
    return BaseModelSpec.model_construct(name=train, train=train, endpoint=endpoint)


def _base_run(run: RunSpec, base: BaseModelSpec) -> RunSpec:
    nothing: dict[str, Any] = dict.fromkeys(("evolution", "mixture", "training", "selection"))
    return _validate(run, nothing | {"evaluation": {"base": base.endpoint} | GREEDY_ONLY})


def _validate(run: RunSpec, change: Mapping[str, Any]) -> RunSpec:
    try:
        return RunSpec.model_validate(_merge(run.model_dump(exclude_unset=True), change))
    except ValidationError as error:
        raise ConfigError("\n".join(["ablation:", *problems(error)])) from error


@dataclass(frozen=True, slots=True, kw_only=True)
class CellResult:
    """The result of a cell."""

    cell: Cell
    mixture: ArtifactRef | None = None
    tokens: ArtifactRef | None = None
    model: ArtifactRef | None = None
    evaluation: ArtifactRef | None = None
    """On the first test set; in a table of another set, on that one."""
    evaluations: Mapping[str, ArtifactRef] = field(default_factory=dict)
    """On each test set, by its name."""
    likelihoods: Mapping[str, ArtifactRef] = field(default_factory=dict)
    """Of the gold solutions of each test set, by its name, where the run asks for it."""
    error: str = ""
    """Why it failed; empty if it did not."""
    waiting: bool = False
    """It waits: a batch is submitted, and a later run collects it."""
