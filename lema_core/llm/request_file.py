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
        with _opened(path) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from None


def unchanged(path: Path, sha256: str) -> None:
    """Make sure that a file is what it was when it was checked.

    Raises:
        DataError: it is not, or cannot be read.
    """
    if digest(path) != sha256:
        raise DataError(f"{path} {CHANGED}")


CHANGED = "changed while it was answered. What was paid is in the ledger: run again, with a file that stays as it is"


def _opened(path: Path) -> BufferedReader:
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
        for number, raw in self._raw():
            line = self._line(number, raw)
            if line is not None:
                self.rows += 1
                there = first.setdefault(hash(line.id), (number, place))
                if there[0] != number:
                    self._same(line, number, *there)
            place += len(raw)
        if self.rows == 0:
            raise DataError(f"{path} holds no request; expected one JSON object a line with id and messages")
        self._checked = True

    def __iter__(self) -> Iterator[RequestLine]:
        """Yield the lines in order, as many as were checked: a file that grows meanwhile is told at the end."""
        lines = (self._line(number, raw) for number, raw in self._raw())
        return islice((line for line in lines if line is not None), self.rows)

    def __len__(self) -> int:
        return self.rows

    def _raw(self) -> Iterator[tuple[int, bytes]]:
        try:
            with _opened(self.path) as file:
                yield from enumerate(file, start=1)
        except OSError as error:
            raise DataError(f"cannot read {self.path}: {error.strerror}") from None

    def _same(self, line: RequestLine, number: int, first: int, place: int) -> None:
        """Compare a line with the first one of its id, which is read once more: few files repeat an id."""
        with self.path.open("rb") as file:
            file.seek(place)
            other = self._line(first, file.readline())
        if other is not None and other.id == line.id and _content(other) != _content(line):
            raise self._bad(
                number, f"the id {line.id!r} stands for another request on line {first}; ids must be unique"
            )

    def _line(self, number: int, raw: bytes) -> RequestLine | None:
        if not raw.strip():
            return None
        try:
            row = _decode(raw.removeprefix(BOM_UTF8).decode())
        except ValueError as error:
            raise self._bad(number, f"this is no JSON ({error})") from None
        except RecursionError:
            raise self._too_deep(number) from None
        # Brackets are quickly counted; only a line with many of them can be deep.
        if raw.count(b"{") + raw.count(b"[") > DEEPEST and _depth(row) > DEEPEST:
            raise self._too_deep(number)
        if not isinstance(row, dict):
            raise self._bad(number, f"expected a JSON object, found {type(row).__name__}")
        if unknown := sorted(row.keys() - FIELDS):
            raise self._bad(number, f"unknown fields {unknown}; expected id, messages and optionally params")
        return RequestLine(self._id(number, row), self._request(number, row))

    def _id(self, number: int, row: dict[str, Any]) -> str:
        name = row.get("id")
        if not isinstance(name, str | int) or isinstance(name, bool) or name == "":
            raise self._bad(number, f"id must be a text or a whole number, found {name!r}")
        return self._text(number, str(name), "id")

    def _request(self, number: int, row: dict[str, Any]) -> CompletionRequest:
        messages = row.get("messages")
        if not isinstance(messages, list) or not messages:
            raise self._bad(number, "messages must be a list with at least one message")
        for message in messages:
            if not isinstance(message, dict) or not isinstance(message.get("role"), str) or "content" not in message:
                raise self._bad(number, f"each message needs role and content, found {str(message)[:80]!r}")
            if isinstance(message["content"], str):
                self._text(number, message["content"], "messages")
            if len(message) > 2 or not isinstance(message["content"], str):
                self._finite(number, message)
        return CompletionRequest(tuple(messages), self._sampling(number, row.get("params")))

    def _sampling(self, number: int, params: Any) -> Sampling:
        if not isinstance(params, dict | None):
            raise self._bad(number, f"params must be an object, found {type(params).__name__}")
        text = repr(params)
        if text not in self._samplings:
            self._finite(number, params)
            try:
                sampling = Sampling.from_params(params or {})
            except ValidationError as error:
                first = error.errors()[0]
                place = ".".join(str(part) for part in first["loc"])
                raise self._bad(number, f"params.{place}: {first['msg']}") from None
            if len(self._samplings) >= 1024:
                self._samplings.clear()
            self._samplings[text] = sampling
        return self._samplings[text]

    def _finite(self, number: int, value: Any) -> None:
        """Refuse 1e999, which is read as infinity: no key can be made of it, and no body."""
        try:
            canonical_json(value)
        except UnstableValueError as error:
            raise self._bad(number, str(error)) from None

    def _text(self, number: int, text: str, where: str) -> str:
        # Cheap for nearly all lines: only an escape can smuggle half a surrogate pair into a UTF-8 file.
        if not text.isascii():
            try:
                text.encode()
            except UnicodeEncodeError:
                raise self._bad(number, f"{where} holds half a surrogate pair: not valid Unicode") from None
        return text

    def _too_deep(self, number: int) -> DataError:
        return self._bad(number, f"lists and objects lie in each other more than {DEEPEST} levels deep")

    def _bad(self, number: int, what: str) -> DataError:
        if self._checked:
            return DataError(f"{self.path} {CHANGED} (line {number}: {what})")
        return DataError(f"{self.path}, line {number}: {what}. Nothing was sent")


def _depth(value: Any) -> int:
    level, depth = [value], 0
    while level := [one for one in level if isinstance(one, dict | list)]:
        level = [child for one in level for child in (one.values() if isinstance(one, dict) else one)]
        depth += 1
    return depth


def _content(line: RequestLine) -> str:
    return canonical_json([line.request.messages, line.request.sampling.model_dump()])
