"""Tasks of one's own: a Python file that a run file names, or an entry point of the group ``lema.tasks``.

A task's *reference* names it in every process that works for a run: ``FILE.py:TASK#HASH`` or ``NAME#HASH``. The hash is
of the task's file, its prompt set and the files that it says it ``uses``; a process that finds other bytes there
refuses them. The file is the user's own code: naming it in a run file runs it, with the rights of the run.
"""

import hashlib
import inspect
import re
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from importlib.machinery import ModuleSpec, PathFinder
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import ClassVar

from lema_core import prompts
from lema_core.errors import ConfigError, LemaError
from lema_core.questions.tasks.task import Task
from lema_core.scoring.scores import ScoringContext

GROUP = "lema.tasks"
"""The entry points' group, each of which is a `Task`."""
_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")
_REFERENCE = re.compile(r"(?P<place>.+?\.py)(?::(?P<name>[A-Za-z_]\w*))?(?:#(?P<sha>[0-9a-f]{16}))?", re.DOTALL)
DEFAULT = "TASK"
"""The name of the `Task` in a file, where the reference gives none."""


def is_file_reference(reference: str) -> bool:
    """Return whether a run file's ``task`` names a Python file: ``my_task.py`` or ``my_task.py:NAME``."""
    return _REFERENCE.fullmatch(reference) is not None


def relative_to(reference: str, folder: Path) -> str:
    """Return a reference to a file with its place made absolute: a relative one is relative to ``folder``."""
    found = _REFERENCE.fullmatch(reference)
    if found is None or "://" in reference:
        return reference
    place = (folder / Path(found["place"]).expanduser()).absolute()
    return f"{place}{reference[len(found['place']) :]}"


def entry_point_of(name: str) -> EntryPoint | None:
    """Return the installed entry point of that name, None if there is none."""
    return next(iter(entry_points(group=GROUP, name=name.partition("#")[0])), None)


def load_file(reference: str) -> Task:
    """Run the file of a task and return the task, with the places of its own files made absolute.

    Raises:
        ConfigError: the file is missing, does not run, names no such task, or changed since the reference was made.
    """
    found = _REFERENCE.fullmatch(reference)
    if found is None or "://" in reference:
        raise ConfigError(f"task = {reference!r}: expected a file on this machine, as my_task.py or my_task.py:NAME")
    file, name = Path(found["place"]).expanduser().absolute(), found["name"] or DEFAULT
    if not file.is_file():
        raise ConfigError(f"task = {reference!r}: there is no file {file}. A path is relative to the run file.")
    # The bytes that are hashed are the bytes that run: reading the file twice could see two versions of it.
    code = file.read_bytes()
    called = f"lema_task_{hashlib.sha256(bytes(file) + b'|' + code).hexdigest()[:16]}"
    module = sys.modules.get(called) or _run(file, code, called)
    task = getattr(module, name, None)
    if not isinstance(task, Task):
        have = [key for key, value in vars(module).items() if isinstance(value, Task)]
        seen = f"it has {', '.join(have)}" if have else "it has no Task"
        raise ConfigError(f"{file} does not define {name} = Task(...): {seen}. Name one as {file.name}:NAME.")
    task = _completed(task, file.parent, str(file))
    return _pinned(task, f"{file}:{name}", found["sha"], [code, *_texts(task)])


class _ModulesBesideTasks:
    """Finds modules in the folders of tasks where no other finder does: they hide none of Python's and none of ours.

    A folder at the end of ``sys.path`` would: a package that is installed in editable form has a finder of its own,
    which is asked after all of ``sys.path``.
    """

    folders: ClassVar[list[str]] = []

    @classmethod
    def find_spec(
        cls, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return where a module at the top of such a folder is."""
        return PathFinder.find_spec(name, cls.folders, target) if path is None else None


def _run(file: Path, code: bytes, called: str) -> ModuleType:
    if _ModulesBesideTasks not in sys.meta_path:
        sys.meta_path.append(_ModulesBesideTasks)
    if str(file.parent) not in _ModulesBesideTasks.folders:
        _ModulesBesideTasks.folders.append(str(file.parent))
    module = ModuleType(called)
    module.__file__ = str(file)
    # Before it runs: dataclasses look up the module of their class there.
    sys.modules[called] = module
    try:
        with _explained(file):
            exec(compile(code, str(file), "exec"), module.__dict__)  # noqa: S102  the user's own code, by the run file
    except BaseException:
        del sys.modules[called]
        raise
    return module


def load_entry_point(point: EntryPoint, sha: str = "") -> Task:
    """Return the task of an installed package.

    Raises:
        ConfigError: it cannot be imported, is no `Task`, or changed since the reference was made.
    """
    with _explained(point.value):
        task = point.load()
        if not isinstance(task, Task):
            raise ConfigError(f"the entry point {point.name} = {point.value} is {type(task).__name__}, expected a Task")
    module = sys.modules[point.module]
    file = Path(inspect.getfile(module))
    task = _completed(task, file.parent, f"entry point {point.value}")
    return _pinned(task, point.name, sha, [file.read_bytes(), *_texts(task)])


@contextmanager
def _explained(place: Path | str) -> Iterator[None]:
    """Turn whatever the user's module raises into one error with the line that raised it."""
    try:
        yield
    except LemaError as error:
        raise ConfigError(f"{place}: {error}") from error
    except SyntaxError as error:
        raise ConfigError(f"{place}:{error.lineno}: {error.msg}. Correct the task's file.") from None
    except (Exception, SystemExit) as error:
        frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(place)]
        line = f":{frames[-1].lineno}" if frames else ""
        raise ConfigError(f"{place}{line}: {type(error).__name__}: {error}. Correct the task's file.") from error


def _completed(task: Task, folder: Path, place: str) -> Task:
    """Return the task with absolute places, once everything that can be wrong with it has been looked at."""
    if not _NAME.fullmatch(task.name):
        raise ConfigError(f"{place}: name={task.name!r}: expected lower-case letters, digits and _, at most 64")
    if task.family is None and task.scorer is None:
        raise ConfigError(
            f"{place}: {task.name} has neither a family nor a scorer: nothing says which answers are right"
        )
    if task.family is not None and task.family not in ("numeric", "latex", "choice", "text"):
        raise ConfigError(f"{place}: family={task.family!r}: expected numeric, latex, choice or text")
    if task.shape not in ("steps", "choice", "whole"):
        raise ConfigError(f"{place}: shape={task.shape!r}: expected steps, choice or whole")
    if task.scorer is not None:
        _check_scorer(task, place)
    elif task.judge is not None:
        raise ConfigError(f"{place}: {task.name} has a judge and no scorer that could ask it")
    named = task.prompts
    if named.endswith(".toml"):
        named = prompts.set_in_file(folder / named)
    elif named not in prompts.names():
        bundled = ", ".join(prompts.names())
        raise ConfigError(f"{place}: prompts={named!r}: expected a .toml file beside the task, or one of {bundled}")
    train, test = (file if file is None or "://" in file else str(folder / file) for file in (task.train, task.test))
    uses = tuple(str(folder / file) for file in task.uses)
    return replace(task, prompts=named, uses=uses, train=train, test=test)


def _check_scorer(task: Task, place: str) -> None:
    scorer = task.scorer
    try:
        inspect.signature(scorer).bind("question", "gold", "text", ScoringContext())  # type: ignore[arg-type]
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"{place}: the scorer of {task.name} cannot be called as score(question, gold, text, context): {error}"
        ) from None
    if task.judge is not None and not inspect.iscoroutinefunction(scorer):
        raise ConfigError(f"{place}: the scorer of {task.name} asks a judge: define it with `async def`")


def _texts(task: Task) -> Iterator[bytes]:
    """Yield what decides a scorer's verdicts beside the task's file."""
    yield repr(sorted(prompts.load(task.prompts).texts.items())).encode()
    for file in task.uses:
        try:
            yield Path(file).read_bytes()
        except OSError as error:
            raise ConfigError(f"the task {task.name} uses {file}, which cannot be read: {error}") from None


def _pinned(task: Task, place: str, expected: str | None, texts: list[bytes]) -> Task:
    hashed = hashlib.sha256()
    for text in texts:
        hashed.update(len(text).to_bytes(8, "big") + text)
    sha = hashed.hexdigest()[:16]
    if expected and expected != sha:
        raise ConfigError(f"the task {place} changed while the run was under way. Run again, with files that stay.")
    return replace(task, reference=f"{place}#{sha}")
