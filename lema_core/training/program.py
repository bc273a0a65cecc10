"""What every training program reports to the process that started it: JSON events, an exit status, a full disk."""

import argparse
import contextlib
import errno
import faulthandler
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from lema_core.errors import LemaError, TrainingError
from lema_core.questions import get_task
from lema_core.system.processes import die_with_parent, is_orphan

CLOCK_FIELDS = ("tokens_per_second", "mfu")
"""Measured by a clock, so that no two runs agree on them."""
STEP_FIELDS = ("step", "loss", "learning_rate", "grad_norm", "tokens", *CLOCK_FIELDS)
MEMORY_FIELDS = ("peak_rss_mib", "peak_device_mib")
"""Most memory that each rank has held so far, in MiB, by rank: of the process, and of its GPU where it has one."""
_OF_PAIRS = {"rewards/accuracies": "pairs_in_order", "rewards/margins": "reward_margin"}
"""TRL's names of DPO's figures, and ours."""


def emit(event: str, **fields: Any) -> None:
    """Write one event as one JSON line."""
    sys.stdout.write(json.dumps({"event": event, **fields}) + "\n")
    sys.stdout.flush()


def parse_event(line: str) -> dict[str, Any] | None:
    """Return the event in a line of output; None for whatever else libraries print."""
    if not line.startswith('{"event"'):
        return None
    try:
        found = json.loads(line)
    except json.JSONDecodeError:
        return None
    return found if isinstance(found, dict) else None


def metrics_row(entry: dict[str, Any]) -> dict[str, Any]:
    """Return the figures of one step from the trainer's log: a row of ``metrics.parquet``."""
    named = {_OF_PAIRS.get(name, name): value for name, value in entry.items()}
    figures: dict[str, Any] = {
        name: int(named[name]) if name in ("step", "tokens") else float(named[name])
        for name in (*STEP_FIELDS, *_OF_PAIRS.values())
        if name in named
    }
    return figures | {name: list(named[name]) for name in MEMORY_FIELDS if name in named}


_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_TEXTS = (*map(os.strerror, _FULL), "PytorchStreamWriter failed", "unexpected pos")
"""safetensors keeps only the system's text; torch's zip writer keeps only the position in the file."""


@contextlib.contextmanager
def report_full_disk(out: Path) -> Iterator[None]:
    """Raise a ``TrainingError`` in place of whatever a library raises when ``out`` takes no more bytes.

    Raises:
        TrainingError: the disk is full, or a quota or a limit on the size of a file is reached.
    """
    try:
        yield
    except TrainingError:
        raise
    except Exception as error:
        full = [cause for cause in _chain(error) if _is_full(cause)]
        if not full:
            raise
        cause = (str(full[-1]).splitlines() or [type(full[-1]).__name__])[0]
        existing = next(folder for folder in (out, *out.absolute().parents) if folder.is_dir())
        free = shutil.disk_usage(existing).free // 10**6
        raise TrainingError(
            f"the disk of {out} is full, or a quota or a limit on file sizes is reached: writing there failed "
            f"({cause}; {free} MB free). Complete checkpoints are kept. Free some space, or "
            "lower launch.keep_checkpoints (one more than that must fit beside the model), and run the same command "
            "again"
        ) from error


def _is_full(error: BaseException) -> bool:
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno in _FULL
    return any(text in str(error) for text in _TEXTS)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


FAILED = 3
"""The exit status of a failure that an ``error`` event describes."""


def run_program(work: Callable[[], None], out: Path) -> int:
    """Run a program's work, which writes under ``out``, and return the exit status; it dies with its parent.

    A known failure, such as a full disk, becomes an ``error`` event. Any other one goes to the log, and so does the
    place of a fatal signal (SIGABRT of a library, SIGSEGV).
    """
    die_with_parent()
    if is_orphan():
        return FAILED
    # Only the thread that caused it: a launcher's log is read for its end.
    faulthandler.enable(all_threads=False)
    try:
        with report_full_disk(out):
            work()
    except LemaError as error:
        emit("error", message=str(error))
        return FAILED
    distributed = sys.modules.get("torch.distributed")
    if (
        distributed is not None
        and distributed.is_available()
        and distributed.is_initialized()
        and distributed.get_backend() == "gloo"
    ):
        # Wait for its threads: what they still send is part of another rank's last collective.
        distributed.destroy_process_group()
    return 0


def run_scoring(
    about: str, table: str, measure: Callable[[str, Path, Path, int], None], argv: Sequence[str] | None = None
) -> int:
    """Run a program that scores rows by a model, from the command line, and return the exit status.

    Args:
        about: the program's module, for its help.
        table: the option that names the folder of rows.
        measure: takes the model, the folder, the file to write and the most rows.
        argv: the words of the command line; None: those of this process.
    """
    parser = argparse.ArgumentParser(prog=f"python -m {about}")
    parser.add_argument("--model", required=True)
    parser.add_argument(f"--{table}", type=Path, required=True, dest="rows")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--limit", type=int, required=True)
    parser.add_argument("--task", default="", help="a task of one's own, which the rows name by its name only")
    given = parser.parse_args(argv)

    def work() -> None:
        if given.task:
            get_task(given.task)
        measure(given.model, given.rows, given.out, given.limit)

    return run_program(work, given.out)
