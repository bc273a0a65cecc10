"""Rows of a result file: JSON lines as the API promises, and what endpoints and gateways make of them.

Read are a byte order mark, CRLF, an array instead of lines, rows without a line break between them, and rows over
several lines. What is no JSON is passed over up to the next line, and its place is kept for the error message.
"""

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

SHOWN = 80
"""Characters of an unreadable line that are shown."""
PIECE_BYTES = 2**18
WASTE_BYTES = 2**28
"""After so much was decoded in vain a row ends with its line: torn rows must not take quadratic time."""
_GAP = re.compile("(?:[\\s,\\[\\]\\x00]|\xef\xbb\xbf)*")
"""Between two rows; a byte order mark as it looks in Latin-1."""
_MARKS = {b"\xff\xfe": "utf-16-le", b"\xfe\xff": "utf-16-be"}

Redact = Callable[[bytes], bytes]


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


def rows_in(file: BinaryIO, redact: Redact, most: int) -> Iterator[Piece]:
    """Yield the rows of a file and what is none; ``most``: bytes of a row. Nothing else may read the file meanwhile."""
    offset = line = 0
    file.seek(0)
    while text := file.readline(most + 1):
        line += 1
        stripped = text.strip(b" \t\r\n").removeprefix(b"\xef\xbb\xbf").strip(b" \t\r\n")
        if stripped:
            row = read_row(stripped, redact)
            if row is None:
                # No plain JSON lines from here on: cut it by the braces.
                yield from _scanned(file, offset, line, redact, most)
                return
            yield Piece(offset + text.find(stripped), len(stripped), line, row)
        offset += len(text)


def read_row(text: bytes, redact: Redact) -> dict[str, Any] | None:
    """Return the object that a row's bytes hold, with the key taken out; None where they hold none."""
    try:
        row = json.loads(redact(text).decode("utf-8", "surrogatepass"))
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) else None


def encoding_of(start: bytes) -> str | None:
    """Return the encoding that a file's first bytes name, where it is not UTF-8."""
    return _MARKS.get(start[:2])


def _scanned(file: BinaryIO, offset: int, line: int, redact: Redact, most: int) -> Iterator[Piece]:
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
                wasted += min(len(text.rest) - text.at, size)
                goes_on = isinstance(error, json.JSONDecodeError) and _cut(error, text.rest)
                if goes_on and size <= most and wasted < WASTE_BYTES and text.more(size):
                    size *= 2
                    continue
                end = -1
            break
        if end >= 0:
            row = read_row(text.rest[text.at : end].encode("latin-1"), redact)
        if row is not None:
            length = end - text.at
            text.to(end)
            yield Piece(begin, length, here, row)
            continue
        start = text.rest[text.at : text.at + 4 * SHOWN].encode("latin-1")
        yield Piece(begin, text.to_line_end(most), here, None, start)


def _cut(error: json.JSONDecodeError, text: str) -> bool:
    # At the end of what was read so far: more may make it whole.
    return error.pos >= len(text) - 16 or error.msg.startswith("Unterminated string")


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
        """Read on, and forget what was passed; say whether there was more."""
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
        """Pass what a pattern matches; say whether anything follows."""
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
