"""The tasks: what a question of each looks like, where its data come from, how an answer is checked.

A run file names a bundled task, a file of its own (``my_task.py``) or an installed entry point (``own``).

A task is one ``Task``; adding one is adding a module with it and its line below (``docs/tasks.md`` shows
it). A task knows nothing of stages, endpoints or arms.
"""

from lema_core.errors import ConfigError
from lema_core.questions.tasks import generated, own, published
from lema_core.questions.tasks.task import HubDataset, Task

TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        generated.ARITHMETIC,
        published.GSM8K,
        published.MATH,
        published.CSQA,
        published.SVAMP,
        published.ASDIV,
        published.MATH500,
        published.GSM_PLUS,
        published.GSM_PLUS_MINI,
        published.AIME24,
        published.AIME25,
        generated.GSM_SYMBOLIC,
        published.LEMA_OFFICIAL,
        published.LEMA_OFFICIAL_CSQA,
        # For a user's own file: name the answer family, map the fields.
        Task(name="numeric", family="numeric", prompts="gsm8k"),
        Task(name="latex", family="latex", prompts="math"),
        Task(name="choice", family="choice", shape="choice", prompts="csqa"),
        Task(name="text", family="text", prompts="gsm8k"),
    )
}
"""Every bundled task by its name."""


_own: dict[str, Task] = {}
"""Tasks of one's own that this process has loaded, by reference and, the last one of a name, by name: rows hold a name.
"""


def get_task(name: str) -> Task:
    """Return the task of that name; of a file or an entry point, by its reference or once it is loaded by its name.

    A reference with a hash is run once per process. One without is run each time, for its file may have changed.

    Raises:
        ConfigError: there is none, or the file of a task of one's own cannot be used.
    """
    if name in TASKS:
        return TASKS[name]
    if name in _own:
        task = _own[name]
    elif own.is_file_reference(name):
        task = own.load_file(name)
    elif point := own.entry_point_of(name):
        task = own.load_entry_point(point, name.partition("#")[2])
    else:
        raise ConfigError(
            f"There is no task {name!r}. Expected one of {', '.join(TASKS)}, a file (my_task.py or my_task.py:NAME) or "
            f"an entry point of the group {own.GROUP}: correct `task`."
        )
    if task.name in TASKS:
        raise ConfigError(
            f"{task.reference}: the name {task.name!r} is that of a bundled task. Give yours another one."
        )
    _own[task.name] = _own[task.reference] = task
    return task


def reference_of(name: str) -> str:
    """Return what names a task in every process of a run: the name of a bundled one, else its reference with a hash."""
    return name if name in TASKS else get_task(name).reference


__all__ = ["TASKS", "HubDataset", "Task", "get_task", "reference_of"]
