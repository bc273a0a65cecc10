"""A process that has imported the commands of ``lema``, and forks once for each command that a test runs.

Imports are 5 of the 8 CPU seconds of a run that finds everything made. ``support.run_lema`` starts this source with
``python -P -c``, so that ``__main__`` has no file, as in a command of its own: processes that a command spawns import
``__main__``. The standard input has one JSON line for each command, the standard output the child's process id and
then its exit status.
"""

import gc
import importlib
import json
import os
import sys
import threading
from typing import Any

MODULES = (
    "flows.cli", "flows.preflight", "flows.cancelling", "flows.cli.print_results", "flows.evaluate", "flows.lema",
    "flows.sweep", "lema_core.run.files", "lema_core.run.records", "lema_core.report.figures", "prefect.engine",
    "prefect.flow_engine", "prefect.task_engine", "graphviz", "matplotlib.backends.backend_svg", "pandas",
)  # fmt: skip
ON_PREFECT = ("run", "sweep", "resume", "evaluate")
"""The commands that set the level of Prefect's console log before they import it."""


def write_line(word: object) -> None:
    sys.stdout.write(f"{word}\n")
    sys.stdout.flush()


def await_command() -> dict[str, Any] | None:
    """Fork for each line; return the command in the child, and None in the parent at the end of the input."""
    for name in MODULES:
        importlib.import_module(name)
    assert threading.active_count() == 1, "a fork copies no other thread"
    gc.collect()
    gc.freeze()
    write_line("ready")
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            return json.loads(line)
        write_line(child)
        write_line(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    return None


def enter(command: dict[str, Any]) -> None:
    """Take on the command's environment, folder, files and arguments, and let Prefect read its settings again."""
    os.environ.clear()
    os.environ.update(command["env"])
    os.chdir(command["cwd"])
    files = (os.open(os.devnull, os.O_RDONLY), *(os.open(command[name], os.O_WRONLY) for name in ("stdout", "stderr")))
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    sys.stdin = os.fdopen(0)
    sys.argv = ["-c", *command["words"]]
    if command["words"][:1] and command["words"][0] in ON_PREFECT:
        os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")
        os.environ.setdefault("PREFECT_LOGGING_INTERNAL_LEVEL", "CRITICAL")
    import prefect.context
    from prefect.logging.configuration import setup_logging

    prefect.context.refresh_global_settings_context()
    setup_logging(incremental=False)


if command := await_command():
    enter(command)
    del command
    from flows.cli import app

    app()
