"""Files that are there whole or not at all, on any fsspec file system."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import fsspec
import psutil
from fsspec.implementations.local import LocalFileSystem

from lema_core.errors import ArtifactError, ConfigError


def open_root(root: str) -> tuple[fsspec.AbstractFileSystem, str]:
    """Return the file system and the path of a root URL: a folder, ``s3://bucket/prefix``, anything fsspec knows.

    Raises:
        ConfigError: if fsspec does not know the protocol or its driver is not installed.
    """
    # Other processes write there too: a listing that is kept would hide what they have made.
    options = {"use_listings_cache": False} if "://" in root else {}
    try:
        fs, path = fsspec.core.url_to_fs(root, **options)
    except (ValueError, ImportError) as error:
        raise ConfigError(
            f"the root {root!r} cannot be opened: {error}. Give a folder or a URL that fsspec knows."
        ) from error
    return fs, str(path).rstrip("/")


_WRITING = ".writing-"


def sweep(fs: fsspec.AbstractFileSystem, folder: str) -> None:
    """Remove what processes that are gone had begun to write into a local folder."""
    if not isinstance(fs, LocalFileSystem):
        return
    for file in Path(folder).glob(f"{_WRITING}*"):
        writer = file.name.removeprefix(_WRITING).partition("-")[0]
        if writer.isdigit() and not psutil.pid_exists(int(writer)):
            file.unlink(missing_ok=True)


@contextmanager
def atomic_file(fs: fsspec.AbstractFileSystem, path: str) -> Iterator[Path]:
    """Give a local file to write; on leaving without an error it appears at ``path`` in one step.

    Object stores put a whole object at once; on a local disk the file is synced and then renamed, so neither a crash
    nor a power cut leaves half a file under the final name.

    Raises:
        ArtifactError: if the disk is full or the place cannot be written; nothing is left under ``path``.
    """
    local = isinstance(fs, LocalFileSystem)
    folder = path.rsplit("/", 1)[0] if local else None
    if folder:
        Path(folder).mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f"{_WRITING}{os.getpid()}-", dir=folder)
    os.close(handle)
    try:
        yield Path(name)
        _place(fs, name, path, local=local)
    except OSError as error:
        raise ArtifactError(
            f"{path} could not be written ({error}). Free space or choose another --root; run again to go on."
        ) from error
    finally:
        Path(name).unlink(missing_ok=True)


def _place(fs: fsspec.AbstractFileSystem, name: str, path: str, *, local: bool) -> None:
    if not local:
        fs.put_file(name, path)
        return
    with Path(name).open("rb") as written:
        os.fsync(written.fileno())
    Path(name).chmod(0o644)
    Path(name).replace(path)
