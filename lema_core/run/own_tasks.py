"""Tasks of one's own in a run: loaded, pinned to their files' text, and checked, before anything is asked or made."""

from collections.abc import Iterator

from lema_core import prompts
from lema_core.errors import ConfigError
from lema_core.questions import TASKS, QuestionsSpec, Task, get_task, pinned
from lema_core.run.spec import RunSpec
from lema_core.system.untrusted import isolation


def with_checked_tasks(run: RunSpec) -> RunSpec:
    """Return the run with references to its own tasks that every process can check; unchanged without such tasks.

    Raises:
        ConfigError: a task's file cannot be used, or the run asks for what the task cannot do.
    """
    if all(spec.task in TASKS for spec in _sources(run)):
        return run
    tested = run.test_questions
    pinned_tests = tuple(map(pinned, tested)) if isinstance(tested, tuple) else tested and pinned(tested)
    changed = run.model_copy(update={"questions": pinned(run.questions), "test_questions": pinned_tests})
    named: dict[str, str] = {}
    for task in own_tasks(changed):
        if named.setdefault(task.name, task.reference) != task.reference:
            raise ConfigError(f"two tasks of the run are called {task.name!r}: {named[task.name]} and {task.reference}")
        if task.judge and task.judge.endpoint not in run.endpoints:
            raise ConfigError(
                f"the task {task.name} asks a judge: there is no [endpoints.{task.judge.endpoint}]; there are "
                f"{', '.join(run.endpoints) or 'none'}"
            )
    _check_evolution(run, get_task(changed.questions.task))
    return changed


def _sources(run: RunSpec) -> Iterator[QuestionsSpec]:
    yield run.questions
    yield from run.test_sets.values()


def own_tasks(run: RunSpec) -> list[Task]:
    """Return the tasks of a run that are the user's own, each once.

    Raises:
        ConfigError: a task's file cannot be used.
    """
    names = dict.fromkeys(spec.task for spec in _sources(run) if spec.task not in TASKS)
    return list({task.reference: task for task in map(get_task, names)}.values())


def _check_evolution(run: RunSpec, task: Task) -> None:
    if run.evolution is None or not task.reference:
        return
    if task.family is None:
        raise ConfigError(
            f"[evolution] answers new questions by a majority, and the task {task.name} has a scorer and no family: "
            "two of its answers cannot be compared. Give the task a family too, or remove [evolution]."
        )
    if not prompts.load(task.prompts).evolution.instruction:
        raise ConfigError(
            f"[evolution] needs a prompt, and the prompt set of {task.name} has no part [evolution]: add one with an "
            "instruction and examples (docs/tasks.md), or remove [evolution] from the run file."
        )


def describe_own_tasks(run: RunSpec) -> Iterator[str]:
    """Yield a line on each task of one's own: whose code runs, and what isolates it.

    Raises:
        ConfigError: a task's file cannot be used.
    """
    for task in own_tasks(run):
        place, _, sha = task.reference.rpartition("#")
        line = f"Task {task.name}: code of your own, in {place} ({sha[:8]}). It runs on this machine."
        if task.scorer is None:
            yield line
            continue
        judge = f" Its judge is the endpoint {task.judge.endpoint}." if task.judge else ""
        yield f"{line} Its scorer runs in processes of its own.{judge} {isolation()}"
