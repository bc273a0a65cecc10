"""Requests as JSON lines: ``{"id": ..., "messages": [...], "params": {...}}``, one a line.

The whole file is checked before anything is sent; then it is read again, line by line, so that memory stays flat.
"""

import hashlib
import json
from codecs import BOM_UTF8
from collections.abc import Iterator
from dataclasses import dataclass
from io import BufferedReader
from itertools import islice
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from lema_core.errors import DataError, UnstableValueError
from lema_core.llm.requests import CompletionRequest, Sampling, canonical_json, refuse_constant

FIELDS = {"id", "messages", "params"}
DEEPEST = 100
"""Levels of lists and objects in a line; the libraries that read and write it end at some hundreds."""


_decode = json.JSONDecoder(parse_constant=refuse_constant).decode


@dataclass(frozen=True, slots=True)
class RequestLine:
    """One line: its id and what it asks."""

    id: str
    request: CompletionRequest


def digest(path: Path) -> str:
    """Return the SHA-256 of a file of requests.

    Raises:
        DataError: it cannot be read.
    """
    try:
        with _open_file(path) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from None


def require_unchanged(path: Path, sha256: str) -> None:
    """Make sure that a file is what it was when it was checked.

    Raises:
        DataError: it is not, or cannot be read.
    """
    if digest(path) != sha256:
        raise DataError(f"{path} {CHANGED}")


CHANGED = "changed while it was answered. What was paid is in the ledger: run again, with a file that stays as it is"


def _open_file(path: Path) -> BufferedReader:
    if path.exists() and not path.is_file():
        raise DataError(f"{path} is no regular file, and it is read more than once: write the requests to a file first")
    return path.open("rb")


class RequestFile:
    """A file of requests that was checked.

    Raises:
        DataError: it is missing or empty, a line is malformed, or an id stands for two different requests; the text
            names the line.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._samplings: dict[str, Sampling] = {}
        self._checked = False
        # Hashes, not the ids: a hundred thousand ids would show in the memory figures.
        first: dict[int, tuple[int, int]] = {}
        self.rows = place = 0
        for number, raw in self._read_lines():
            line = self._parse_line(number, raw)
            if line is not None:
                self.rows += 1
                there = first.setdefault(hash(line.id), (number, place))
                if there[0] != number:
                    self._compare_with_first(line, number, *there)
            place += len(raw)
        if self.rows == 0:
            raise DataError(f"{path} holds no request; expected one JSON object a line with id and messages")
        self._checked = True

    def __iter__(self) -> Iterator[RequestLine]:
        """Yield the lines in order, as many as were checked. `require_unchanged` then finds a file that grew."""
        lines = (self._parse_line(number, raw) for number, raw in self._read_lines())
        return islice((line for line in lines if line is not None), self.rows)

    def __len__(self) -> int:
        return self.rows

    def _read_lines(self) -> Iterator[tuple[int, bytes]]:
        try:
            with _open_file(self.path) as file:
                yield from enumerate(file, start=1)
        except OSError as error:
            raise DataError(f"cannot read {self.path}: {error.strerror}") from None

    def _compare_with_first(self, line: RequestLine, number: int, first: int, place: int) -> None:
        """Compare a line with the first one of its id, which is read once more: few files repeat an id."""
        with self.path.open("rb") as file:
            file.seek(place)
            other = self._parse_line(first, file.readline())
        if other is not None and other.id == line.id and _content(other) != _content(line):
            raise self._line_error(
                number, f"the id {line.id!r} stands for another request on line {first}; ids must be unique"
            )

    def _parse_line(self, number: int, raw: bytes) -> RequestLine | None:
        if not raw.strip():
            return None
        try:
            row = _decode(raw.removeprefix(BOM_UTF8).decode())
        except ValueError as error:
            raise self._line_error(number, f"this is no JSON ({error})") from None
        except RecursionError:
            raise self._depth_error(number) from None
        # Brackets are quickly counted; only a line with many of them can be deep.
        if raw.count(b"{") + raw.count(b"[") > DEEPEST and _depth(row) > DEEPEST:
            raise self._depth_error(number)
        if not isinstance(row, dict):
            raise self._line_error(number, f"expected a JSON object, found {type(row).__name__}")
        if unknown := sorted(row.keys() - FIELDS):
            raise self._line_error(number, f"unknown fields {unknown}; expected id, messages and optionally params")
        name = row.get("id")
        if not isinstance(name, str | int) or isinstance(name, bool) or name == "":
            raise self._line_error(number, f"id must be a text or a whole number, found {name!r}")
        return RequestLine(self._require_unicode(number, str(name), "id"), self._parse_request(number, row))

    def _parse_request(self, number: int, row: dict[str, Any]) -> CompletionRequest:
        messages = row.get("messages")
        if not isinstance(messages, list) or not messages:
            raise self._line_error(number, "messages must be a list with at least one message")
        for message in messages:
            if not isinstance(message, dict) or not isinstance(message.get("role"), str) or "content" not in message:
                raise self._line_error(number, f"each message needs role and content, found {str(message)[:80]!r}")
            if isinstance(message["content"], str):
                self._require_unicode(number, message["content"], "messages")
            if len(message) > 2 or not isinstance(message["content"], str):
                self._require_finite(number, message)
        return CompletionRequest(tuple(messages), self._parse_sampling(number, row.get("params")))

    def _parse_sampling(self, number: int, params: Any) -> Sampling:
        if not isinstance(params, dict | None):
            raise self._line_error(number, f"params must be an object, found {type(params).__name__}")
        text = repr(params)
        if text not in self._samplings:
            self._require_finite(number, params)
            try:
                sampling = Sampling.from_params(params or {})
            except ValidationError as error:
                first = error.errors()[0]
                place = ".".join(str(part) for part in first["loc"])
                raise self._line_error(number, f"params.{place}: {first['msg']}") from None
            if len(self._samplings) >= 1024:
                self._samplings.clear()
            self._samplings[text] = sampling
        return self._samplings[text]

    def _require_finite(self, number: int, value: Any) -> None:
        """Refuse 1e999, which is read as infinity: no key can be made of it, and no body."""
        try:
            canonical_json(value)
        except UnstableValueError as error:
            raise self._line_error(number, str(error)) from None

    def _require_unicode(self, number: int, text: str, where: str) -> str:
        # Cheap for nearly all lines: only an escape can smuggle half a surrogate pair into a UTF-8 file.
        if not text.isascii():
            try:
                text.encode()
            except UnicodeEncodeError:
                raise self._line_error(number, f"{where} holds half a surrogate pair: not valid Unicode") from None
        return text

    def _depth_error(self, number: int) -> DataError:
        return self._line_error(number, f"lists and objects lie in each other more than {DEEPEST} levels deep")

    def _line_error(self, number: int, what: str) -> DataError:
        if self._checked:
            return DataError(f"{self.path} {CHANGED} (line {number}: {what})")
        return DataError(f"{self.path}, line {number}: {what}. Nothing was sent")


def _depth(value: Any) -> int:
    level, depth = [value], 0
    while level := [node for node in level if isinstance(node, dict | list)]:
        level = [child for node in level for child in (node.values() if isinstance(node, dict) else node)]
        depth += 1
    return depth


def _content(line: RequestLine) -> str:
    return canonical_json([line.request.messages, line.request.sampling.model_dump()])
