"""Which task a file of questions belongs to, told from its first row: published files name their fields themselves."""

from pathlib import Path

from lema_core.errors import ConfigError, DataError
from lema_core.questions.drafts import Row, Unusable, shown_fields
from lema_core.questions.files import read_rows
from lema_core.questions.tasks import TASKS, Task


def detect_task(path: str) -> str:
    """Return the name of the one task whose own format the file's first row has.

    Raises:
        ConfigError: no task has that format, or several have.
        DataError: the file cannot be read or is empty.
    """
    first = next(iter(read_rows(path)), None)
    if first is None:
        raise DataError(f"{path} holds no rows. Expected one question a row.")
    _, row = first
    found = [task.name for task in TASKS.values() if _reads(task, row)]
    if len(found) == 1:
        return found[0]
    seen = f"the formats of {', '.join(found)}" if found else "the format of no published task"
    raise ConfigError(
        f"{Path(path).name} has the fields {shown_fields(row)}: {seen}. Say which task it is: numeric, latex, "
        f"choice and text read the fields question and answer; there are also {', '.join(TASKS)}."
    )


def _reads(task: Task, row: Row) -> bool:
    if task.draft is None or not task.fields or not row.keys() >= set(task.fields):
        return False
    try:
        return not isinstance(task.draft(row), Unusable)
    except Exception:  # noqa: BLE001 - the row of another format may hold anything
        return False
