"""A disk that is full, told as what it is: the libraries that write a checkpoint each hide it in their own way."""

import contextlib
import errno
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from lema_core.errors import TrainingError

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_TEXTS = (*map(os.strerror, _FULL), "PytorchStreamWriter failed", "unexpected pos")
"""safetensors keeps the system's text only. torch's zip writer loses that too and tells where in the file it stood."""


@contextlib.contextmanager
def told_when_full(out: Path) -> Iterator[None]:
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
        raise TrainingError(
            f"the disk of {out} is full, or a quota or a limit on file sizes is reached: writing there failed "
            f"({_first_line(full[-1])}; {_free(out)} MB free). Complete checkpoints are kept. Free some space, or "
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


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _free(out: Path) -> int:
    there = next(folder for folder in (out, *out.absolute().parents) if folder.is_dir())
    return shutil.disk_usage(there).free // 10**6
