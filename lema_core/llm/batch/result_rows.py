"""The result files of a batch on disk: an index of what they say about each request, and the rows themselves.

A result file may have gigabytes, so it is never in memory as a whole: it is downloaded to disk, read once for the
index, in a thread, and its rows are read again by their offsets as they are committed.

Rows are JSON lines as the API promises, or what endpoints and gateways make of them: a byte order mark, CRLF, an array
instead of lines, rows without a line break between them, rows over several lines. What is no JSON is skipped up to the
next line, and its place is kept for the error message.
"""

import codecs
import json
import re
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any, BinaryIO, cast

from lema_core.artifacts.files import atomic_local
from lema_core.llm.batch.replies import parse_count
from lema_core.llm.ledger.database import is_postgres
from lema_core.system.redaction import one_line

SHOWN = 80
"""Characters of an unreadable line that are shown."""
PIECE_BYTES = 2**18
WASTE_BYTES = 2**28
"""Once this much was decoded in vain, a row ends with its line: torn rows must not take quadratic time."""
_GAP = re.compile("(?:[\\s,\\[\\]\\x00]|\xef\xbb\xbf)*")
"""Between two rows; a byte order mark as it looks in Latin-1."""
_MARKS = {b"\xff\xfe": "utf-16-le", b"\xfe\xff": "utf-16-be"}

Redact = Callable[[bytes], bytes]
FOREIGN_SHOWN = 3
"""Names of other requests that an error message shows."""


class RowContent(IntEnum):
    """What a row says about its request; of several rows the highest counts."""

    NOTHING = 0
    """It names the request, and neither an answer nor a failure."""
    FAILED = 1
    ANSWERED = 2


@dataclass(frozen=True, slots=True)
class RowPlace:
    """Where a row of a result file is, and what it says."""

    file: int
    offset: int
    length: int
    content: RowContent


class ResultFiles:
    """The result files of one batch. ``names`` are the keys of its requests.

    The methods read and parse files: call them in a thread.
    """

    def __init__(self, names: Collection[str], redact: Redact, row_bytes: int) -> None:
        self._names = names
        # Some gateways change the case. Our names are hashes, so a name that differs only in case is the same.
        self._normalized = {_normalize(name): name for name in names}
        self._redact = redact
        self._row_bytes = row_bytes
        self._files: list[tuple[str, BinaryIO]] = []
        self._best: dict[str, RowPlace] = {}
        self._duplicates: dict[str, list[RowPlace]] = {}
        self.foreign: Counter[str] = Counter()
        """Names that are not of this batch, the first few; under ``""`` how many rows have such a name, or none."""
        self.unreadable: list[str] = []
        """The first few places that are no row, in words."""
        self.unreadable_count = 0
        self.unread: list[str] = []
        """Files that could not be fetched as a whole, in words."""

    def add(self, label: str, file: BinaryIO, *, errors: bool) -> None:
        """Index a file, which `close` closes; ``errors``: it has only requests that failed."""
        if (encoding := detect_encoding(_read(file, 0, 2))) is not None:
            # Rows are read again by their offsets, so the file itself is rewritten, a piece at a time.
            decoder = codecs.getincrementaldecoder(encoding)("replace")
            copy = cast("BinaryIO", tempfile.TemporaryFile())  # noqa: SIM115 - closed by ResultFiles.close
            file.seek(2)
            while piece := file.read(PIECE_BYTES):
                copy.write(decoder.decode(piece).encode("utf-8", "surrogatepass"))
            file.close()
            file = copy
        self._files.append((label, file))
        for found in read_rows(file, self._redact, self._row_bytes):
            if found.row is None:
                self.unreadable_count += 1
                if len(self.unreadable) < FOREIGN_SHOWN:
                    start = one_line(self._redact(found.start).decode("utf-8", "replace"), SHOWN)
                    self.unreadable.append(f"line {found.line} of {label} is no JSON: {start!r}")
                continue
            self._index(found.row, len(self._files) - 1, found.offset, found.length, errors=errors)

    def _index(self, row: dict[str, Any], file: int, offset: int, length: int, *, errors: bool) -> None:
        name = row.get("custom_id")
        key = name if isinstance(name, str) and name in self._names else self._normalized.get(_normalize(name))
        if key is None:
            self.foreign[""] += 1
            if isinstance(name, str) and len(self.foreign) <= FOREIGN_SHOWN:
                self.foreign[one_line(name, SHOWN)] += 1
            return
        content = classify_row(row)
        # In the file of failures the name alone says enough.
        if content is RowContent.NOTHING and errors:
            content = RowContent.FAILED
        place, known = RowPlace(file, offset, length, content), self._best.get(key)
        # An answer is paid: a failure of the same request, in whichever file it comes first, must not hide it.
        if known is None or known.content < content:
            self._best[key] = place
        # Two answers may be two payments, unless they are the same row twice (`load_duplicates`).
        elif content is known.content is RowContent.ANSWERED:
            self._duplicates.setdefault(key, []).append(place)

    def content_of(self, key: str) -> RowContent:
        """Return what is said about a request; `RowContent.NOTHING` also where no row names it."""
        place = self._best.get(key)
        return RowContent.NOTHING if place is None else place.content

    def mentioned_keys(self) -> list[str]:
        """Return the requests that something is said about, in the order of the files: so they are read in one go."""
        places = [
            (place.file, place.offset, key) for key, place in self._best.items() if place.content > RowContent.NOTHING
        ]
        return [key for _, _, key in sorted(places)]

    def missing_keys(self) -> list[str]:
        """Return the requests that nothing is said about."""
        return [name for name in self._names if self.content_of(name) is RowContent.NOTHING]

    def count_answers(self) -> int:
        """Return how many requests are answered."""
        return sum(place.content is RowContent.ANSWERED for place in self._best.values())

    @property
    def is_complete(self) -> bool:
        """Return whether everything that the endpoint has of this batch was fetched, and read, and is of this batch."""
        return not self.unread and not self.unreadable_count and not self.foreign

    def load(self, keys: Iterable[str]) -> dict[str, dict[str, Any]]:
        """Return the rows of some requests that something is said about."""
        return {key: self._row(self._best[key]) for key in keys}

    def load_duplicates(self, key: str) -> list[dict[str, Any]]:
        """Return the other answers to a request, without mere repetitions of the first."""
        first = self._row(self._best[key])
        return [row for place in self._duplicates.get(key, ()) if (row := self._row(place)) != first]

    @property
    def duplicated_keys(self) -> Collection[str]:
        """Return the requests that were answered more than once."""
        return self._duplicates.keys()

    def _row(self, place: RowPlace) -> dict[str, Any]:
        row = parse_row(_read(self._files[place.file][1], place.offset, place.length), self._redact)
        if row is None:
            raise RuntimeError(f"a row of {self._files[place.file][0]} has changed since it was read")
        return row

    def save(self, folder: Path, batch_id: str) -> list[Path]:
        """Write the files into a folder, with the key taken out; return their paths."""
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        paths = []
        for index, (_, file) in enumerate(self._files):
            path = saved_path(folder, batch_id, index)
            with atomic_local(path) as local, local.open("wb") as copy:
                file.seek(0)
                # By lines, so that a key is not cut in two; bounded, since a broken file may be one line.
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


def saved_path(folder: Path, batch_id: str, index: int) -> Path:
    """Return where a result file of a batch is kept."""
    return folder / f"{batch_id}-{index}.jsonl"


def saved_files(folder: Path, batch_id: str) -> list[Path]:
    """Return the result files of a batch that are kept."""
    return sorted(folder.glob(f"{batch_id}-*.jsonl")) if folder.is_dir() else []


def free_bytes(folder: Path, most: int) -> int:
    """Return how many bytes may be written into a folder: ``most``, and never more than half of what is free."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    return min(most, shutil.disk_usage(folder).free // 2)


def scratch_file(folder: Path) -> BinaryIO:
    """Return a new file without a name: it is gone with the process, and so is a key that the endpoint put into it."""
    # typeshed's type of a temporary file is no BinaryIO, though the file is one.
    return cast("BinaryIO", tempfile.TemporaryFile(dir=folder))


def classify_row(row: dict[str, Any]) -> RowContent:
    """Return what a row says about its request, by what it holds rather than by the type of its status."""
    body, status = response_body(row)
    if status is not None and status >= 400:
        return RowContent.FAILED
    if isinstance(body, dict):
        choices = body.get("choices")
        if isinstance(choices, list) and choices and isinstance(choices[0], dict):
            return RowContent.ANSWERED
    # Gemini writes a list with one error.
    inside = body if isinstance(body, list) else [body]
    if any(isinstance(item, dict) and item.get("error") for item in inside):
        return RowContent.FAILED
    return RowContent.FAILED if row.get("error") else RowContent.NOTHING


def response_body(row: dict[str, Any]) -> tuple[Any, int | None]:
    """Return the body of a row's response and its status, None where it has none.

    Some gateways write the response, or its body, as JSON text, or leave the level of the body out.
    """
    response = _decode_nested(row.get("response"))
    if not isinstance(response, dict):
        return None, None
    body = _decode_nested(response.get("body"))
    if body is None and "choices" in response:
        body = response
    return body, parse_status(response.get("status_code"))


def parse_status(value: Any) -> int | None:
    """Return a status as endpoints spell it: 200, 200.0, "200", "200 OK"; true is 200."""
    if value is True:
        return 200
    if isinstance(value, str) and (found := re.match(r"\s*(\d{3})\b", value)):
        return int(found[1])
    return parse_count(value)


def _decode_nested(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return None


def _normalize(name: Any) -> str | None:
    return name.strip().lower() if isinstance(name, str) else None


def _read(file: BinaryIO, offset: int, length: int) -> bytes:
    file.seek(offset)
    return file.read(length)


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a result file: a row, or what is none (``row`` is None)."""

    offset: int
    length: int
    line: int
    """From 1."""
    row: dict[str, Any] | None
    start: bytes = b""
    """The first bytes of what is no row."""


def read_rows(file: BinaryIO, redact: Redact, most: int) -> Iterator[Piece]:
    """Yield the rows of a file and what is none; ``most``: bytes of a row. Nothing else may read the file meanwhile."""
    offset = line = 0
    file.seek(0)
    while text := file.readline(most + 1):
        line += 1
        stripped = text.strip(b" \t\r\n").removeprefix(b"\xef\xbb\xbf").strip(b" \t\r\n")
        if stripped:
            row = parse_row(stripped, redact)
            if row is None:
                # No plain JSON lines from here on: cut it by the braces.
                yield from _scan(file, offset, line, redact, most)
                return
            yield Piece(offset + text.find(stripped), len(stripped), line, row)
        offset += len(text)


def parse_row(text: bytes, redact: Redact) -> dict[str, Any] | None:
    """Return the object that a row's bytes hold, with the key taken out; None where they hold none."""
    try:
        row = json.loads(redact(text).decode("utf-8", "surrogatepass"))
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) else None


def detect_encoding(start: bytes) -> str | None:
    """Return the encoding that a file's first bytes name, where it is not UTF-8."""
    return _MARKS.get(start[:2])


def _scan(file: BinaryIO, offset: int, line: int, redact: Redact, most: int) -> Iterator[Piece]:
    """Cut a file into rows from an offset on.

    In Latin-1 a character is a byte, and the structure of JSON is ASCII: so offsets are those of the file.
    """
    text = _Text(file, offset)
    decode, wasted = json.JSONDecoder().raw_decode, 0
    while text.skip(_GAP):
        begin, here = text.offset, line + text.lines
        row, size = None, PIECE_BYTES
        while True:
            try:
                _, end = decode(text.rest, text.at)
            except (ValueError, RecursionError) as error:
                # An unfinished row is decoded anew with each piece, which doubles: linear in the row's length.
                wasted += min(len(text.rest) - text.at, size)
                # At the end of what was read so far: more may make it whole.
                goes_on = isinstance(error, json.JSONDecodeError) and (
                    error.pos >= len(text.rest) - 16 or error.msg.startswith("Unterminated string")
                )
                if goes_on and size <= most and wasted < WASTE_BYTES and text.more(size):
                    size *= 2
                    continue
                end = -1
            break
        if end >= 0:
            row = parse_row(text.rest[text.at : end].encode("latin-1"), redact)
        # Not an object (a number, a text): passed like what is no JSON, up to the end of its line.
        if row is not None:
            length = end - text.at
            text.to(end)
            yield Piece(begin, length, here, row)
            continue
        start = text.rest[text.at : text.at + 4 * SHOWN].encode("latin-1")
        yield Piece(begin, text.to_line_end(most), here, None, start)


class _Text:
    """A part of a file as Latin-1, and a place in it. The place in the file is ``offset``."""

    def __init__(self, file: BinaryIO, offset: int) -> None:
        self._file = file
        self._base = offset
        self.rest = ""
        self.at = 0
        self.lines = 0
        """Line breaks that were passed."""
        file.seek(offset)

    @property
    def offset(self) -> int:
        return self._base + self.at

    def more(self, size: int) -> bool:
        """Read on, and forget what was passed; return whether there was more."""
        piece = self._file.read(size)
        self.rest = self.rest[self.at :] + piece.decode("latin-1")
        self._base += self.at
        self.at = 0
        return bool(piece)

    def to(self, end: int) -> None:
        """Go on to a place in ``rest``."""
        self.lines += self.rest.count("\n", self.at, end)
        self.at = end

    def skip(self, pattern: re.Pattern[str]) -> bool:
        """Pass what a pattern matches; return whether anything follows."""
        while True:
            found = pattern.match(self.rest, self.at)
            self.to(found.end() if found else self.at)
            # A mark of three bytes may be cut.
            if self.at < len(self.rest) - 2 or not self.more(PIECE_BYTES):
                return self.at < len(self.rest)

    def to_line_end(self, most: int) -> int:
        """Pass the rest of the line, at least one character; return how much of it, at most ``most``."""
        passed = 0
        while (end := self.rest.find("\n", self.at)) < 0:
            passed += len(self.rest) - self.at
            self.to(len(self.rest))
            if not self.more(PIECE_BYTES):
                return min(passed, most)
        passed += end - self.at
        self.to(end + 1)
        return min(passed, most)
