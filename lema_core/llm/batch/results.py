"""What the result files of a batch say about each of its requests: an index over files on disk.

A result file may have gigabytes, so it is never in memory as a whole: it is downloaded to disk, read once for the
index, in a thread, and its rows are read again by their places as they are booked.
"""

import codecs
import json
import re
import shutil
import tempfile
from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any, BinaryIO, cast

from lema_core.artifacts.files import atomic_local
from lema_core.llm.batch.replies import count_of
from lema_core.llm.batch.rows import SHOWN, Redact, encoding_of, read_row, rows_in
from lema_core.llm.ledger.database import is_postgres
from lema_core.system.messages import one_line

FOREIGN_SHOWN = 3
"""Names of other requests that an error message shows."""


class Says(IntEnum):
    """What a row says about its request; the higher one counts where there are several."""

    NOTHING = 0
    """It names the request and says neither what was answered nor that it failed."""
    FAILED = 1
    ANSWERED = 2


@dataclass(frozen=True, slots=True)
class Place:
    """Where a row is."""

    file: int
    offset: int
    length: int
    says: Says


class ResultFiles:
    """The result files of one batch. ``names`` are the requests that it holds; one reading after the other.

    The methods read and parse files: call them in a thread.
    """

    def __init__(self, names: Collection[str], redact: Redact, row_bytes: int) -> None:
        self._names = names
        # Some gateways change the case. Our names are hashes, so what differs in nothing else is the same.
        self._folded = {_folded(name): name for name in names}
        self._redact = redact
        self._row_bytes = row_bytes
        self._files: list[tuple[str, BinaryIO]] = []
        self._best: dict[str, Place] = {}
        self._doubled: dict[str, list[Place]] = {}
        self.foreign: Counter[str] = Counter()
        """Names that are not of this batch, the first few; under ``""`` how many rows have such a name, or none."""
        self.unreadable: list[str] = []
        """The first few places that are no row, in words."""
        self.unreadable_count = 0
        self.unread: list[str] = []
        """Files that could not be fetched as a whole, in words."""

    def add(self, label: str, file: BinaryIO, *, errors: bool) -> None:
        """Read a file, which is closed by `close`; ``errors``: it holds only requests that failed."""
        file = _as_utf8(file)
        self._files.append((label, file))
        for piece in rows_in(file, self._redact, self._row_bytes):
            if piece.row is None:
                self.unreadable_count += 1
                if len(self.unreadable) < FOREIGN_SHOWN:
                    start = one_line(self._redact(piece.start).decode("utf-8", "replace"), SHOWN)
                    self.unreadable.append(f"line {piece.line} of {label} is no JSON: {start!r}")
                continue
            self._take(piece.row, len(self._files) - 1, piece.offset, piece.length, errors=errors)

    def _take(self, row: dict[str, Any], file: int, offset: int, length: int, *, errors: bool) -> None:
        name = row.get("custom_id")
        key = name if isinstance(name, str) and name in self._names else self._folded.get(_folded(name))
        if key is None:
            self.foreign[""] += 1
            if isinstance(name, str) and len(self.foreign) <= FOREIGN_SHOWN:
                self.foreign[one_line(name, SHOWN)] += 1
            return
        says = what_says(row)
        if says is Says.NOTHING and errors:
            says = Says.FAILED
        place, known = Place(file, offset, length, says), self._best.get(key)
        if known is None or known.says < says:
            self._best[key] = place
        elif says is known.says is Says.ANSWERED:
            self._doubled.setdefault(key, []).append(place)

    def says(self, key: str) -> Says:
        """Return what is said about a request; `Says.NOTHING` also where no row names it."""
        place = self._best.get(key)
        return Says.NOTHING if place is None else place.says

    def told(self) -> list[str]:
        """Return the requests that something is said about, in the order of the files: so they are read in one go."""
        places = [(place.file, place.offset, key) for key, place in self._best.items() if place.says > Says.NOTHING]
        return [key for _, _, key in sorted(places)]

    def missing(self) -> list[str]:
        """Return the requests that nothing is said about."""
        return [name for name in self._names if self.says(name) is Says.NOTHING]

    def answers(self) -> int:
        """Return how many requests are answered."""
        return sum(place.says is Says.ANSWERED for place in self._best.values())

    @property
    def whole(self) -> bool:
        """Say whether everything that the endpoint has of this batch was fetched, and read, and is of this batch."""
        return not self.unread and not self.unreadable_count and not self.foreign

    def load(self, keys: Iterable[str]) -> dict[str, dict[str, Any]]:
        """Return the rows of some requests that something is said about."""
        return {key: self._row(self._best[key]) for key in keys}

    def others(self, key: str) -> list[dict[str, Any]]:
        """Return the other answers to a request, without mere repetitions of the first."""
        first = self._row(self._best[key])
        return [row for place in self._doubled.get(key, ()) if (row := self._row(place)) != first]

    @property
    def doubled(self) -> Collection[str]:
        """Return the requests that were answered more than once."""
        return self._doubled.keys()

    def _row(self, place: Place) -> dict[str, Any]:
        row = read_row(_read(self._files[place.file][1], place.offset, place.length), self._redact)
        if row is None:
            raise RuntimeError(f"a row of {self._files[place.file][0]} has changed since it was read")
        return row

    def keep(self, folder: Path, batch_id: str) -> list[Path]:
        """Write the files into a folder, with the key taken out; return their paths."""
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        paths = []
        for index, (_, file) in enumerate(self._files):
            path = kept(folder, batch_id, index)
            with atomic_local(path) as local, local.open("wb") as copy:
                file.seek(0)
                while line := file.readline(self._row_bytes):
                    copy.write(self._redact(line))
            path.chmod(0o600)
            paths.append(path)
        return paths

    def close(self) -> None:
        """Close the files, which have no names on disk."""
        for _, file in self._files:
            file.close()


def results_folder(ledger: str) -> Path:
    """Return where result files are kept that could not be read: beside the ledger, or under ``.lema``."""
    return (Path(".lema") if is_postgres(ledger) else Path(ledger).parent) / "batch-results"


def kept(folder: Path, batch_id: str, index: int) -> Path:
    """Return where a result file of a batch is kept."""
    return folder / f"{batch_id}-{index}.jsonl"


def kept_files(folder: Path, batch_id: str) -> list[Path]:
    """Return the result files of a batch that are kept."""
    return sorted(folder.glob(f"{batch_id}-*.jsonl")) if folder.is_dir() else []


def room_in(folder: Path, most: int) -> int:
    """Return how many bytes may be written into a folder: ``most``, and never more than half of what is free."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    return min(most, shutil.disk_usage(folder).free // 2)


def scratch_file(folder: Path) -> BinaryIO:
    """Return a new file without a name: it is gone with the process, and so is a key that the endpoint put into it."""
    # The type of a temporary file says less than what it is.
    return cast("BinaryIO", tempfile.TemporaryFile(dir=folder))


def what_says(row: dict[str, Any]) -> Says:
    """Return what a row says about its request, by what it holds rather than by the type of its status."""
    body, status = body_of(row)
    if status is not None and status >= 400:
        return Says.FAILED
    if isinstance(body, dict):
        choices = body.get("choices")
        if isinstance(choices, list) and choices and isinstance(choices[0], dict):
            return Says.ANSWERED
    inside = body if isinstance(body, list) else [body]
    if any(isinstance(one, dict) and one.get("error") for one in inside):
        return Says.FAILED
    return Says.FAILED if row.get("error") else Says.NOTHING


def body_of(row: dict[str, Any]) -> tuple[Any, int | None]:
    """Return the body of a row's response and its status, None where it has none.

    Some gateways write the response, or its body, as JSON text, or leave the level of the body out.
    """
    response = _opened(row.get("response"))
    if not isinstance(response, dict):
        return None, None
    body = _opened(response.get("body"))
    if body is None and "choices" in response:
        body = response
    return body, status_of(response.get("status_code"))


def status_of(value: Any) -> int | None:
    """Return a status as endpoints spell it: 200, 200.0, "200", "200 OK"; true is 200."""
    if value is True:
        return 200
    if isinstance(value, str) and (found := re.match(r"\s*(\d{3})\b", value)):
        return int(found[1])
    return count_of(value)


def _opened(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return None


def _folded(name: Any) -> str | None:
    return name.strip().lower() if isinstance(name, str) else None


def _read(file: BinaryIO, offset: int, length: int) -> bytes:
    file.seek(offset)
    return file.read(length)


def _as_utf8(file: BinaryIO) -> BinaryIO:
    encoding = encoding_of(_read(file, 0, 2))
    if encoding is None:
        return file
    decoder = codecs.getincrementaldecoder(encoding)("replace")
    copy = cast("BinaryIO", tempfile.TemporaryFile())  # noqa: SIM115 - closed by ResultFiles.close
    file.seek(2)
    while piece := file.read(2**18):
        copy.write(decoder.decode(piece).encode("utf-8", "surrogatepass"))
    file.close()
    return copy
