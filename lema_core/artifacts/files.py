"""Files that appear complete or not at all, on any file system of fsspec."""

import errno
import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

import fsspec
import psutil
from fsspec.implementations.local import LocalFileSystem
from fsspec.registry import available_protocols

from lema_core.errors import ArtifactError, ConfigError
from lema_core.system.processes import this_machine
from lema_core.system.urls import parse_url, scheme_of


class FileSystem:
    """The file system under a root or a path: the few calls that LeMa makes, each driver's errors turned into ours.

    Drivers raise what their libraries raise (botocore's, aiohttp's, paramiko's errors, plain OSErrors). Only
    ``FileNotFoundError`` passes, because callers ask for files that may be missing.

    Raises:
        ArtifactError: from every method, where the driver refuses.
    """

    def __init__(self, driver: fsspec.AbstractFileSystem, place: str = "") -> None:
        """Wrap a driver of fsspec; ``place`` is its name in messages."""
        self._driver, self._place = driver, place
        self.local = isinstance(driver, LocalFileSystem)

    def exists(self, path: str) -> bool:
        """Return whether a file or folder exists."""
        with self._translate_errors(path):
            return bool(self._driver.exists(path))

    def isfile(self, path: str) -> bool:
        """Return whether a file exists."""
        with self._translate_errors(path):
            return bool(self._driver.isfile(path))

    def isdir(self, path: str) -> bool:
        """Return whether a folder exists."""
        with self._translate_errors(path):
            return bool(self._driver.isdir(path))

    def glob(self, pattern: str) -> list[str]:
        """Return the paths that match, sorted."""
        with self._translate_errors(pattern):
            return sorted(map(str, self._driver.glob(pattern)))

    def cat_file(self, path: str) -> bytes:
        """Return a file's bytes.

        Raises:
            FileNotFoundError: it does not exist.
        """
        with self._translate_errors(path):
            return bytes(self._driver.cat_file(path))

    @contextmanager
    def open(self, path: str) -> Iterator[BinaryIO]:
        """Open a file for reading; the reader translates errors that occur while it is read.

        Raises:
            FileNotFoundError: it does not exist.
        """
        with self._translate_errors(path):
            file = self._driver.open(path, "rb")
        with file:
            yield file

    def find(self, folder: str) -> list[str]:
        """Return the paths of all files under a folder, sorted."""
        with self._translate_errors(folder):
            return sorted(map(str, self._driver.find(folder)))

    def mv(self, source: str, target: str, *, recursive: bool = False) -> None:
        """Move a file, or with ``recursive`` a folder."""
        with self._translate_errors(source):
            self._driver.mv(source, target, recursive=recursive)

    def rm_file(self, path: str) -> None:
        """Remove a file.

        Raises:
            FileNotFoundError: it does not exist.
        """
        with self._translate_errors(path):
            self._driver.rm_file(path)

    def put_file(self, local: str, path: str) -> None:
        """Copy a local file there."""
        with self._translate_errors(path):
            self._driver.put_file(local, path)

    def address(self, path: str) -> str:
        """Return the URL of a path."""
        return f"file://{path}" if self.local else str(self._driver.unstrip_protocol(path))

    @contextmanager
    def _translate_errors(self, path: str) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError:
            raise
        except Exception as error:  # noqa: BLE001 - drivers raise errors of many libraries
            raise ArtifactError(
                f"{shown_path(path)} cannot be used{f' (root {self._place})' if self._place else ''}: "
                f"{error_text(error)}. Expected a place that this user may read and write: check the path, its rights "
                "and, of a URL, the credentials in the environment."
            ) from None


LOCAL = FileSystem(LocalFileSystem())
"""This machine's own files."""


def error_text(error: BaseException) -> str:
    """Return a library's error in one short line: its type and message, without control characters and queries.

    A URL's query may hold a signature.
    """
    kind = type(error).__name__
    words = " ".join(str(error).encode("utf-8", "backslashreplace").decode().split())
    words = re.sub(r"\?[^\s'\"<>]*=[^\s'\"<>]*", "?...", words)
    words = "".join(char if char.isprintable() else "?" for char in words)
    return f"{kind}: {words[:300]}" if words else kind


def shown_path(path: object) -> str:
    """Return a path for a message, with undecodable bytes escaped."""
    return str(path).encode("utf-8", "backslashreplace").decode()


def open_root(root: str) -> tuple[FileSystem, str]:
    """Return the file system and the path of a root URL: a folder, ``s3://bucket/prefix``, anything fsspec knows.

    Raises:
        ConfigError: fsspec does not know the protocol, its driver is not installed or refuses, or the URL is malformed
            or holds a secret.
    """
    check_place(root, "the root")
    # Other processes write there too: a cached listing would hide their files.
    options = {"use_listings_cache": False} if "://" in root else {}
    try:
        driver, path = fsspec.core.url_to_fs(root, **options)
    except Exception as error:  # noqa: BLE001 - drivers connect, and raise errors of many libraries
        raise ConfigError(
            f"the root {shown_path(root)!r} cannot be opened ({error_text(error)}). Give a folder or a URL that fsspec "
            "knows, with its driver installed and its credentials in the environment."
        ) from None
    return FileSystem(driver, root if "://" in root else ""), str(path).rstrip("/")


def check_place(place: str, what: str) -> None:
    """Refuse a root or a source that is neither a path nor a URL of a known protocol without a secret.

    Raises:
        ConfigError: it is neither.
    """
    if "\0" in place:
        raise ConfigError(f"{what} holds a NUL character. Give a path or a URL.")
    for link in place.split("::"):
        scheme = scheme_of(link)
        if scheme is None and "://" not in link:
            continue
        if scheme is None or scheme not in available_protocols():
            raise ConfigError(
                f"{what} names the protocol {f'{scheme}://' if scheme else 'of no known form'}, which fsspec does not "
                f"know. Expected a path, or a URL such as s3://bucket/folder; known are {', '.join(_COMMON)}, ..."
            )
        parse_url(link, what, {scheme}, "give its credentials in the environment, as the protocol's driver reads them")


_COMMON = ("s3", "gs", "az", "abfs", "hf", "https", "sftp")

_WRITING = ".writing-"

UMASK = os.umask(0o077)
os.umask(UMASK)  # it can only be read by setting it

_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS, errno.ESTALE}
"""Errors of a disk; an OSError of these names no file."""


def _prefix(writer: object = "") -> str:
    """Return the prefix of a temporary file's name; it names the machine, since process ids are valid on one only."""
    machine = hashlib.sha256(this_machine().encode()).hexdigest()[:8]
    return f"{_WRITING}{machine}-{writer}"


def remove_leftovers(fs: FileSystem, folder: str) -> None:
    """Remove temporary files that dead processes of this machine left in a local folder."""
    if not fs.local:
        return
    for file in Path(folder).glob(f"{_prefix()}*"):
        writer = file.name.removeprefix(_prefix()).partition("-")[0]
        if writer.isdecimal() and not psutil.pid_exists(int(writer)):
            with suppress(OSError):  # another user's, in a folder that is shared
                file.unlink()


@contextmanager
def atomic_file(fs: FileSystem, path: str, *, private: bool = False) -> Iterator[Path]:
    """Yield a local file to write; when the block ends without an error it appears at ``path`` in one step.

    ``private``: only its owner may read it; else the umask decides.

    Object stores write a whole object at once. On a local disk the file is synced and then renamed, so neither a crash
    nor a power failure leaves half a file under the final name.

    Raises:
        ArtifactError: the disk is full or the place cannot be written; nothing is left under ``path``. Other errors of
            the block (an endpoint that does not answer) pass unchanged.
    """
    with _translate_write_errors(path):
        name = _temporary(fs, path)
    try:
        with _translate_write_errors(path, name):
            yield Path(name)
        with _translate_write_errors(path):
            if not private:
                # mkstemp creates files with 0600; other programs of this user expect the umask's rights.
                Path(name).chmod(0o666 & ~UMASK)
            _place(fs, name, path)
    finally:
        Path(name).unlink(missing_ok=True)


@contextmanager
def atomic_local(path: Path, *, private: bool = False) -> Iterator[Path]:
    """Do what ``atomic_file`` does for a path of this machine, and remove what a killed attempt left there.

    Raises:
        ArtifactError: as ``atomic_file``, or the path exists and is no file.
    """
    place = path.resolve()  # a link stays one
    if place.exists() and not place.is_file():
        raise ArtifactError(f"{path} is no ordinary file, so none can be written there. Name another one.")
    remove_leftovers(LOCAL, str(place.parent))
    with atomic_file(LOCAL, str(place), private=private) as local:
        yield local


@contextmanager
def atomic_folder(target: Path) -> Iterator[Path]:
    """Yield an empty folder to fill; when the block ends without an error it replaces ``target``.

    For one writer at a time: a killed attempt left a folder of the same name, which is removed because it is large.
    """
    part = target.with_name(f"{target.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    yield part
    shutil.rmtree(target, ignore_errors=True)
    part.rename(target)


@contextmanager
def _translate_write_errors(path: str, name: str | None = None) -> Iterator[None]:
    """Translate an error of writing ``path``; with ``name`` only errors of that temporary file or of the disk."""
    try:
        yield
    except OSError as error:
        if name is not None and str(error.filename) != name and error.errno not in _DISK:
            raise
        raise ArtifactError(
            f"{path} could not be written ({error}). Free space or choose another --root or --out; run again to go on."
        ) from None


def _temporary(fs: FileSystem, path: str) -> str:
    folder = path.rsplit("/", 1)[0] if fs.local else None
    if folder:
        Path(folder).mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=_prefix(f"{os.getpid()}-"), dir=folder)
    os.close(handle)
    return name


def _place(fs: FileSystem, name: str, path: str) -> None:
    if not fs.local:
        fs.put_file(name, path)
        return
    with Path(name).open("rb") as written:
        os.fsync(written.fileno())
    Path(name).replace(path)
