"""The files of `lema complete`: JSON lines of requests in; completions, rejected rows and a manifest out.

A line is ``{"id": ..., "messages": [...], "params": {...}}``. The whole file is checked before anything is sent; then
it is read again, line by line, so that memory stays flat.

Result files get their names when they are complete, the manifest last. Nothing in them depends on times, on how often
the command was killed, or on who answered first: the same ledger gives the same bytes.
"""

import hashlib
import json
from codecs import BOM_UTF8
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from io import BufferedReader
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from pydantic import ValidationError

from lema_core.artifacts.files import atomic_local
from lema_core.errors import ArtifactError, DataError, LemaError, UnstableValueError
from lema_core.llm.requests import Completion, CompletionRequest, Outcome, Sampling, key_json, refuse_constant
from lema_core.system.files import file_sha256

FIELDS = {"id", "messages", "params"}
DEEPEST = 100
"""Levels of lists and objects in a line; the libraries that read and write it end at some hundreds."""
_decode = json.JSONDecoder(parse_constant=refuse_constant).decode
COMPLETIONS, REJECTED, MANIFEST = "completions.parquet", "rejected.parquet", "manifest.json"
GROUP = 2000
"""Rows in a row group, which is in memory as a whole."""
GROUP_CHARS = 16 * 2**20
"""Long answers make smaller row groups, by their lengths alone: the same rows give the same bytes."""
_COLUMNS = {
    COMPLETIONS: {
        "id": "string",
        "text": "string",
        "finish_reason": "string",
        "prompt_tokens": "int64",
        "completion_tokens": "int64",
        "model": "string",
        "request_key": "string",
        "thinking": "string",
        "cached_tokens": "int64",
        "reasoning_tokens": "int64",
    },
    REJECTED: {"id": "string", "reason": "string", "detail": "string", "request_key": "string"},
}


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
        name = self._require_unicode(number, str(name), "id")
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
        return RequestLine(name, CompletionRequest(tuple(messages), self._parse_sampling(number, row.get("params"))))

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
            key_json(value)
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
    return key_json([line.request.messages, line.request.sampling.model_dump()])


def load_finished(folder: Path, inputs: dict[str, Any]) -> dict[str, Any] | None:
    """Return the manifest if the folder already holds exactly these inputs' answers, none rejected, else None."""
    from lema_core.artifacts.parquet import open_table

    try:
        manifest: dict[str, Any] = json.loads((folder / MANIFEST).read_text("utf-8"))
        rows = manifest["rows"] if isinstance(manifest["rows"], int) else -1
        whole = all(file_sha256(folder / name) == digest for name, digest in manifest["files"].items())
        same = manifest["inputs"] == inputs and manifest["rejected"] == 0
        with (folder / COMPLETIONS).open("rb") as file, open_table(file, ArtifactError) as table:
            whole = whole and table.rows == rows
    except (LemaError, OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    return manifest if whole and same else None


class ResultWriter:
    """Writes one folder. Left without an error, the files get their names, the manifest last; else nothing is left.

    Raises:
        ArtifactError: the folder cannot be written.
    """

    def __init__(self, folder: Path, inputs: dict[str, Any]) -> None:
        import pyarrow as pa

        self.folder = folder
        self.rows = {COMPLETIONS: 0, REJECTED: 0}
        self.reasons: dict[str, int] = {}
        self._inputs = inputs
        self._chars = 0
        """In the buffers since the last flush of any of them."""
        self._buffers: dict[str, list[tuple[Any, ...]]] = {COMPLETIONS: [], REJECTED: []}
        self._schemas = {name: pa.schema(list(columns.items())) for name, columns in _COLUMNS.items()}

    def __enter__(self) -> Self:
        from lema_core.artifacts.parquet import TableWriter

        with self._report_errors(), ExitStack() as files:
            self._paths = {name: files.enter_context(atomic_local(self.folder / name)) for name in _COLUMNS}
            self._writers: dict[str, Any] = {}
            for name, schema in self._schemas.items():
                self._writers[name] = TableWriter(self._paths[name], schema)
                files.callback(self._writers[name].abandon)
            self._files = files.pop_all()
        return self

    def add(self, name: str, outcome: Outcome) -> None:
        """Add the outcome of one row.

        Raises:
            ArtifactError: the folder cannot be written.
        """
        if isinstance(outcome, Completion):
            tokens = (outcome.prompt_tokens, outcome.completion_tokens)
            details = (outcome.thinking, outcome.cached_tokens, outcome.reasoning_tokens)
            row = (name, outcome.text, outcome.finish_reason, *tokens, outcome.model, outcome.key, *details)
            self._append(COMPLETIONS, row)
        else:
            self.reasons[outcome.reason] = self.reasons.get(outcome.reason, 0) + 1
            self._append(REJECTED, (name, outcome.reason, outcome.detail, outcome.key))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self._files.__exit__(kind, error, trace)
            return
        with self._report_errors():
            with self._files:
                for name, writer in self._writers.items():
                    self._flush(name)
                    writer.close()
                manifest = {
                    "inputs": self._inputs,
                    "rows": self.rows[COMPLETIONS],
                    "rejected": self.rows[REJECTED],
                    "files": {name: file_sha256(path) for name, path in self._paths.items()},
                }
                # An older manifest must not vouch for files that are being replaced.
                (self.folder / MANIFEST).unlink(missing_ok=True)
            with atomic_local(self.folder / MANIFEST) as local:
                local.write_text(json.dumps(manifest, indent=1, sort_keys=True) + "\n", "utf-8")

    def _append(self, name: str, row: tuple[Any, ...]) -> None:
        self._buffers[name].append(row)
        self._chars += sum(len(cell) for cell in row if isinstance(cell, str))
        self.rows[name] += 1
        if len(self._buffers[name]) >= GROUP or self._chars >= GROUP_CHARS:
            with self._report_errors():
                self._flush(name)

    @contextmanager
    def _report_errors(self) -> Iterator[None]:
        try:
            yield
        except (OSError, ArtifactError) as error:
            raise ArtifactError(
                f"cannot write into {self.folder}: {str(error).rstrip('.')}. The ledger keeps what was paid"
            ) from error

    def _flush(self, name: str) -> None:
        import pyarrow as pa

        rows, self._buffers[name] = self._buffers[name], []
        self._chars = 0
        if rows:
            arrays = [
                pa.array(column, field.type)
                for column, field in zip(zip(*rows, strict=True), self._schemas[name], strict=True)
            ]
            self._writers[name].write(pa.Table.from_arrays(arrays, schema=self._schemas[name]))
