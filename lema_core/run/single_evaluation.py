"""What ``lema evaluate`` asks for, as a run of its own: questions, a model, how it is asked. Nothing is sent here."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from lema_core.artifacts import ArtifactRef
from lema_core.errors import ConfigError
from lema_core.llm.embedded import EMBEDDED, weights_identity
from lema_core.llm.endpoints import EndpointSpec
from lema_core.pipeline import Pipeline
from lema_core.questions import TASKS, QuestionsSpec, detect_task, get_task
from lema_core.run.files import of_options, read_run_file
from lema_core.run.spec import RunSpec
from lema_core.stages.evaluation import EvaluationSpec

GO_ON = "the same command again"
"""Nothing records an evaluation: what it needs to go on is the ledger and the store."""
MODEL = "model"
"""The endpoint's name in a run that was made from options."""
CALLED = {"base_prompt": "prompt"}
"""Options by the field they set, where the names differ."""


@dataclass(frozen=True, slots=True)
class Measured:
    """The artifacts of one model's answers."""

    greedy: ArtifactRef
    sampled: ArtifactRef | None
    """For maj@k."""

    @classmethod
    def by(cls, pipeline: Pipeline) -> Self:
        """Return what a walk over the evaluation of one model has come to."""
        (greedy,) = pipeline.artifacts.evaluations.values()
        return cls(greedy, next(iter(pipeline.artifacts.votes.values()), None))


def run_of_questions(
    source: str, task: str | None, limit: int | None, asking: Mapping[str, Any], endpoint: Mapping[str, Any]
) -> RunSpec:
    """Return the run that asks a model a file's questions, or those of a task's test part.

    Args:
        source: a file or URL of questions, or the name of a task.
        task: the questions' task; None detects it from the file's fields.
        limit: only the first ``limit`` questions.
        asking: options of ``EvaluationSpec`` that were given.
        endpoint: options of ``EndpointSpec`` that were given.

    Raises:
        ConfigError: an option cannot be used, or the file's task cannot be detected.
        DataError: the file cannot be read.
    """
    held_out = _questions(source, task, limit)
    if get_task(held_out.task).verbatim and "base_prompt" in asking:
        raise ConfigError(f"the questions of {held_out.task} bring their own prompts: leave --prompt out")
    if "model" not in endpoint or not ({"base_url", "command"} & endpoint.keys()):
        raise ConfigError("nothing says which model answers: give --model, and --base-url or --command")
    model = of_options(EndpointSpec, {"name": MODEL, **endpoint, **_identity(endpoint)})
    how = of_options(EvaluationSpec, {"base": MODEL, **asking}, CALLED)
    return RunSpec(
        name="evaluate", questions=held_out, test_questions=held_out, evaluation=how, endpoints={MODEL: model}
    )


def run_of_file(path: Path, settings: Iterable[str], asking: Mapping[str, Any], endpoint: Mapping[str, Any]) -> RunSpec:
    """Return a run file's evaluation of its base model, or of another model that was named, with options laid over it.

    Raises:
        ConfigError: the run file or an option cannot be used.
    """
    run = read_run_file(path, settings)
    _, spec, base = asked_for(run)
    how = spec.model_copy(update=of_options(EvaluationSpec, asking, CALLED).model_dump(include=set(asking)))
    changed: dict[str, Any] = {"evaluation": how}
    if endpoint:
        own = run.endpoints[base].model_dump(exclude_unset=True)
        if "model" in endpoint:
            own.pop("identity", None)
        if {"base_url", "command"} & endpoint.keys():
            own = {name: value for name, value in own.items() if name not in {"base_url", "command"}}
        changed["endpoints"] = {
            **run.endpoints,
            base: of_options(EndpointSpec, {**own, **endpoint, **_identity(endpoint)}),
        }
    return run.model_copy(update=changed)


def asked_for(run: RunSpec) -> tuple[QuestionsSpec, EvaluationSpec, str]:
    """Return the held-out questions, how they are asked, and the name of the endpoint that is asked.

    Raises:
        ConfigError: the run has no held-out questions, or evaluates no base model.
    """
    spec = run.evaluation
    if run.test_questions is None or spec is None or spec.base is None:
        raise ConfigError(
            f"the run {run.name} has no [test_questions] or no evaluation.base: nothing says which model answers what. "
            "Add them, or name a file of questions and give --base-url and --model."
        )
    return run.test_questions, spec, spec.base


def already_there(run: RunSpec, root: str) -> Measured | None:
    """Return the evaluation if the store has the whole of it, so that nothing has to be started.

    Raises:
        ConfigError: see ``asked_for``.
        DataError: the questions' file cannot be read.
    """
    asked_for(run)
    pipeline = Pipeline(run, root)
    for _ in pipeline.base_evaluation():
        pass
    measured = Measured.by(pipeline)
    exists = all(pipeline.store.exists(ref) for ref in (measured.greedy, measured.sampled) if ref)
    return measured if exists else None


def _questions(source: str, task: str | None, limit: int | None) -> QuestionsSpec:
    if source in TASKS:
        return QuestionsSpec(task=source, split="test", limit=limit)
    if "://" not in source and not Path(source).exists():
        raise ConfigError(f"{source!r} is no file and no task; the tasks are {', '.join(TASKS)}")
    return QuestionsSpec(task=task or detect_task(source), path=source, limit=limit)


def _identity(endpoint: Mapping[str, Any]) -> dict[str, str]:
    """Return the identity of weights on this machine: their hash, so that a retrained folder is another model."""
    if not {"model", "command"} <= endpoint.keys() or "identity" in endpoint:
        return {}
    model = str(endpoint["model"])
    return {"identity": weights_identity(model)} if model == EMBEDDED or Path(model).exists() else {}
