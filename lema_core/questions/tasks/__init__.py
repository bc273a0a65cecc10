"""The tasks: what a question of each looks like, where its data come from, how an answer is checked.

A task is one small module that defines ``TASK``; adding one is adding such a module and its line below
(``docs/tasks.md`` shows it). A task knows nothing of stages, endpoints or arms.
"""

from lema_core.errors import ConfigError
from lema_core.questions.tasks import (
    arithmetic,
    asdiv,
    csqa,
    generic,
    gsm8k,
    gsm_symbolic,
    lema_official,
    math,
    svamp,
)
from lema_core.questions.tasks.task import HubDataset, Task

TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        arithmetic.TASK,
        gsm8k.TASK,
        math.TASK,
        csqa.TASK,
        svamp.TASK,
        asdiv.TASK,
        gsm_symbolic.TASK,
        lema_official.TASK,
        lema_official.CHOICE_TASK,
        generic.NUMERIC,
        generic.LATEX,
        generic.CHOICE,
        generic.TEXT,
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
