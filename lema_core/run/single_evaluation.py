"""What ``lema evaluate`` asks for, as a run of its own: questions, a model, how it is asked. Nothing is sent here."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lema_core.artifacts import ArtifactRef
from lema_core.errors import ConfigError
from lema_core.llm.embedded import EMBEDDED, weights_identity
from lema_core.llm.endpoints import EndpointSpec
from lema_core.pipeline import Pipeline
from lema_core.questions import TASKS, QuestionsSpec, TestSet, detect_task, get_task
from lema_core.questions.sources import file_name
from lema_core.questions.tasks.own import is_file_reference, relative_to
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
    """The artifacts of one model's answers to a test set."""

    greedy: ArtifactRef
    sampled: ArtifactRef | None
    """For maj@k and pass@k."""
    second: ArtifactRef | None = None
    """After the model has checked its own greedy answers."""

    def __iter__(self) -> Iterator[ArtifactRef]:
        """Yield those that there are."""
        yield from (ref for ref in (self.greedy, self.sampled, self.second) if ref)


def measured_by(pipeline: Pipeline) -> dict[str, Measured]:
    """Return what a walk over the evaluation of one model has come to, by test set."""
    found = {}
    for name, answers in pipeline.artifacts.measured_on(pipeline.run.test_sets).items():
        (greedy,) = answers.evaluations.values()
        further = (next(iter(table.values()), None) for table in (answers.votes, answers.second_turns))
        found[name] = Measured(greedy, *further)
    return found


def run_of_questions(
    sources: str | Sequence[str],
    task: str | None,
    limit: int | None,
    asking: Mapping[str, Any],
    endpoint: Mapping[str, Any],
) -> RunSpec:
    """Return the run that asks a model the questions of some files, or of some tasks' test parts.

    Args:
        sources: a file or URL of questions, or the name of a task; or several of them.
        task: the files' task; None detects it from a file's fields.
        limit: only the first ``limit`` questions of each.
        asking: options of ``EvaluationSpec`` that were given.
        endpoint: options of ``EndpointSpec`` that were given.

    Raises:
        ConfigError: an option cannot be used, or the file's task cannot be detected.
        DataError: the file cannot be read.
    """
    named = [sources] if isinstance(sources, str) else sources
    held_out = [_questions(source, task, limit) for source in named]
    if whole := [spec.task for spec in held_out if get_task(spec.task).verbatim and "base_prompt" in asking]:
        raise ConfigError(f"the questions of {whole[0]} bring their own prompts: leave --prompt out")
    if "model" not in endpoint or not ({"base_url", "command"} & endpoint.keys()):
        raise ConfigError("nothing says which model answers: give --model, and --base-url or --command")
    model = of_options(EndpointSpec, {"name": MODEL, **endpoint, **_identity(endpoint)})
    how = of_options(EvaluationSpec, {"base": MODEL, **asking}, CALLED)
    return RunSpec(
        name="evaluate",
        questions=held_out[0],
        test_questions=held_out[0] if len(held_out) == 1 else _named(held_out),
        evaluation=how,
        endpoints={MODEL: model},
    )


def _named(specs: Iterable[QuestionsSpec]) -> tuple[TestSet, ...]:
    """Return test sets with a name each: the task's, or the file's where two have one task."""
    found = dict[str, TestSet]()
    for spec in specs:
        name = spec.called
        if name in found and spec.path:
            name = file_name(spec.path)
        if name in found:
            raise ConfigError(f"the questions {name} are named twice; name each file and task once")
        found[name] = TestSet.model_validate({**spec.model_dump(exclude_unset=True), "name": name})
    return tuple(found.values())


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
            own = {name: value for name, value in own.items() if name not in {"base_url", "command", "replicas"}}
        changed["endpoints"] = {
            **run.endpoints,
            base: of_options(EndpointSpec, {**own, **endpoint, **_identity(endpoint)}),
        }
    return run.model_copy(update=changed)


def asked_for(run: RunSpec) -> tuple[Mapping[str, QuestionsSpec], EvaluationSpec, str]:
    """Return the test sets by name, how they are asked, and the name of the endpoint that is asked.

    Raises:
        ConfigError: the run has no held-out questions, or evaluates no base model.
    """
    spec = run.evaluation
    if run.test_questions is None or spec is None or spec.base is None:
        raise ConfigError(
            f"the run {run.name} has no [test_questions] or no evaluation.base: nothing says which model answers what. "
            "Add them, or name a file of questions and give --base-url and --model."
        )
    return run.test_sets, spec, spec.base


def already_there(run: RunSpec, root: str) -> dict[str, Measured] | None:
    """Return the evaluation by test set if the store has the whole of it, so that nothing has to be started.

    Raises:
        ConfigError: see ``asked_for``.
        DataError: the questions' file cannot be read.
    """
    asked_for(run)
    pipeline = Pipeline(run, root)
    for _ in pipeline.base_evaluation():
        pass
    measured = measured_by(pipeline)
    return measured if all(pipeline.store.exists(ref) for answers in measured.values() for ref in answers) else None


def _questions(source: str, task: str | None, limit: int | None) -> QuestionsSpec:
    if source in TASKS:
        return QuestionsSpec(task=source, split="test", limit=limit)
    if is_file_reference(source):
        return QuestionsSpec(task=relative_to(source, Path.cwd()), split="test", limit=limit)
    if "://" not in source and not Path(source).exists():
        raise ConfigError(f"{source!r} is no file and no task; the tasks are {', '.join(TASKS)}")
    named = relative_to(task, Path.cwd()) if task else detect_task(source)
    return QuestionsSpec(task=named, path=source, limit=limit)


def _identity(endpoint: Mapping[str, Any]) -> dict[str, str]:
    """Return the identity of weights on this machine: their hash, so that a retrained folder is another model."""
    if not {"model", "command"} <= endpoint.keys() or "identity" in endpoint:
        return {}
    model = str(endpoint["model"])
    return {"identity": weights_identity(model)} if model == EMBEDDED or Path(model).exists() else {}
