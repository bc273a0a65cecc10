"""The tasks: what a question of each looks like, where its data come from, how an answer is checked.

A task is one ``Task``; adding one is adding a module with it and its line below (``docs/tasks.md`` shows
it). A task knows nothing of stages, endpoints or arms.
"""

from lema_core.errors import ConfigError
from lema_core.questions.tasks import generated, published
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


def get_task(name: str) -> Task:
    """Return the task of that name.

    Raises:
        ConfigError: there is none.
    """
    if name not in TASKS:
        raise ConfigError(f"There is no task {name!r}. Expected one of {', '.join(TASKS)}: correct `task`.")
    return TASKS[name]


__all__ = ["TASKS", "HubDataset", "Task", "get_task"]
