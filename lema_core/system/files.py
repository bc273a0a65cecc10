"""Files and folders that only their owner may read: what holds secrets, prompts and answers.

The umask decides about artifacts, which users share on purpose. It must not decide about a database with API keys.
"""

import hashlib
import os
import stat
import tempfile
from contextlib import suppress
from pathlib import Path

from lema_core.errors import ConfigError

__all__ = ["make_private_file", "make_private_folder", "restrict_file", "write_private_once"]

FOLDER, FILE = 0o700, 0o600


def make_private_folder(path: Path) -> Path:
    """Create a folder that only its owner can enter, and return it; an existing one and its files are closed.

    Raises:
        ConfigError: the folder belongs to another user, who could read and replace everything in it.
    """
    path.mkdir(mode=FOLDER, parents=True, exist_ok=True)
    owner = path.stat().st_uid
    if os.geteuid() not in (owner, 0):
        raise ConfigError(
            f"{path.absolute()} belongs to the user with the id {owner}, who can read what is kept there. Expected a "
            "folder of your own: change to another folder, or remove that one"
        )
    _close(path, FOLDER)
    for entry in path.iterdir():
        if entry.is_file() and not entry.is_symlink():
            restrict_file(entry)
    return path


def make_private_file(path: Path) -> None:
    """Create a file with the rights 0600 where it is missing; take the others' rights from an existing one.

    Raises:
        OSError: the file cannot be created.
    """
    # An existing file is not opened: closing it would release the locks that SQLite in this process has on it.
    with suppress(FileExistsError):
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, FILE))
    restrict_file(path)


def write_private_once(path: Path, text: str) -> None:
    """Write a file with the rights 0600, whole or not at all; a file that exists already, or appears meanwhile, stays.

    Raises:
        OSError: the file cannot be written.
    """
    handle, name = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)  # 0600
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        # A link fails where rename would replace what another process wrote first.
        with suppress(FileExistsError):
            os.link(name, path)
    finally:
        Path(name).unlink()


def restrict_file(path: Path) -> None:
    """Take the rights of group and others from a file; one that is missing or another user's stays as it is."""
    _close(path, FILE)


def _close(path: Path, wanted: int) -> None:
    """Take all rights from group and others; a file of another user is left to that user."""
    with suppress(PermissionError, FileNotFoundError):
        mode = stat.S_IMODE(path.stat().st_mode)
        if mode & 0o077:
            path.chmod(mode & wanted)


def file_sha256(path: Path) -> str:
    """Return the hash of a file's bytes as hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
