"""Files that are there whole or not at all, on any fsspec file system."""

import errno
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import fsspec
import psutil
from fsspec.implementations.local import LocalFileSystem

from lema_core.errors import ArtifactError, ConfigError
from lema_core.machine import this_machine


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

UMASK = os.umask(0o077)
os.umask(UMASK)  # it can be read only by being set

_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS, errno.ESTALE}
"""What is wrong with a disk; writing tells it without a file's name."""


def _prefix(writer: object = "") -> str:
    """Return how a temporary file's name begins: with its machine, for another one's process ids say nothing here."""
    machine = hashlib.sha256(this_machine().encode()).hexdigest()[:8]
    return f"{_WRITING}{machine}-{writer}"


def sweep(fs: fsspec.AbstractFileSystem, folder: str) -> None:
    """Remove what processes of this machine that are gone had begun to write into a local folder."""
    if not isinstance(fs, LocalFileSystem):
        return
    for file in Path(folder).glob(f"{_prefix()}*"):
        writer = file.name.removeprefix(_prefix()).partition("-")[0]
        if writer.isdecimal() and not psutil.pid_exists(int(writer)):
            with suppress(OSError):  # another user's, in a folder that is shared
                file.unlink()


@contextmanager
def atomic_file(fs: fsspec.AbstractFileSystem, path: str) -> Iterator[Path]:
    """Give a local file to write; on leaving without an error it appears at ``path`` in one step.

    Object stores put a whole object at once; on a local disk the file is synced and then renamed, so neither a crash
    nor a power cut leaves half a file under the final name.

    Raises:
        ArtifactError: if the disk is full or the place cannot be written; nothing is left under ``path``. Other errors
            of who writes (an endpoint that does not answer) stay what they are.
    """
    with _told(path):
        name = _temporary(fs, path)
    try:
        with _told(path, name):
            yield Path(name)
        with _told(path):
            _place(fs, name, path)
    finally:
        Path(name).unlink(missing_ok=True)


@contextmanager
def atomic_local(path: Path) -> Iterator[Path]:
    """Do what ``atomic_file`` does for a path of this machine; what a kill left of an earlier attempt is removed.

    Raises:
        ArtifactError: as ``atomic_file``, and if something that is no file is in the place.
    """
    place = path.resolve()  # a link stays one
    if place.exists() and not place.is_file():
        raise ArtifactError(f"{path} is no ordinary file, so none can be written there. Name another one.")
    sweep(LocalFileSystem(), str(place.parent))
    with atomic_file(LocalFileSystem(), str(place)) as local:
        yield local


@contextmanager
def atomic_folder(target: Path) -> Iterator[Path]:
    """Give an empty folder to fill; on leaving without an error it takes the place of ``target``.

    For one writer at a time: what a kill left of an earlier attempt has the same name and is removed, for it is large.
    """
    part = target.with_name(f"{target.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    yield part
    shutil.rmtree(target, ignore_errors=True)
    part.rename(target)


@contextmanager
def _told(path: str, name: str | None = None) -> Iterator[None]:
    """Turn an error of writing ``path`` into ours; with ``name`` only one of that temporary file or of a disk."""
    try:
        yield
    except OSError as error:
        if name is not None and str(error.filename) != name and error.errno not in _DISK:
            raise
        raise ArtifactError(
            f"{path} could not be written ({error}). Free space or choose another --root or --out; run again to go on."
        ) from error


def _temporary(fs: fsspec.AbstractFileSystem, path: str) -> str:
    folder = path.rsplit("/", 1)[0] if isinstance(fs, LocalFileSystem) else None
    if folder:
        Path(folder).mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=_prefix(f"{os.getpid()}-"), dir=folder)
    os.close(handle)
    return name


def _place(fs: fsspec.AbstractFileSystem, name: str, path: str) -> None:
    if not isinstance(fs, LocalFileSystem):
        fs.put_file(name, path)
        return
    with Path(name).open("rb") as written:
        os.fsync(written.fileno())
    # mkstemp is stricter than what other programs of this user would write.
    Path(name).chmod(0o666 & ~UMASK)
    Path(name).replace(path)
