"""Text between a shell and a command, in a locale that may lack some of it."""

import io
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from lema_core.errors import ConfigError


def check_text(arguments: Iterable[Any]) -> None:
    """Make sure that every argument, and the working directory, is text.

    Python keeps bytes that it cannot decode as half surrogates. They fit into no record, no table and no log, so a
    command would end in the middle of its work.

    Raises:
        ConfigError: one is not.
    """
    for text in (*_texts(arguments), _working_directory()):
        if not text.isascii() and any("\ud800" <= char <= "\udfff" for char in text):
            raise ConfigError(
                f"{text!a} holds bytes that are no text in this locale. Rename the file or folder, or set "
                "LC_ALL=C.UTF-8 where its name is UTF-8"
            )


def print_any_text() -> None:
    """Print a question mark for a character that the terminal's encoding lacks; Python would end the command there."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def _texts(arguments: Iterable[Any]) -> Iterable[str]:
    for one in arguments:
        if isinstance(one, str | Path):
            yield str(one)
        elif isinstance(one, list | tuple):
            yield from _texts(one)


def _working_directory() -> str:
    try:
        return os.getcwd()  # noqa: PTH109 - the text itself
    except OSError as error:
        raise ConfigError(f"the working directory is gone or cannot be entered ({error}): go to another one") from None
