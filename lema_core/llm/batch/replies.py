"""Batches as endpoints describe them: every field may have any type, and what cannot be used counts as not given.

Endpoints that speak the Batch API differ in everything but the names of the fields, and one reply of an odd type must
not make a paid batch uncollectable. So nothing here raises for a field; only a reply that is no description at all is
refused.
"""

import json
import re
from typing import Annotated, Any, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict

from lema_core.llm.responses import DETAIL
from lema_core.system.redaction import one_line

METADATA = "lema_batch"
"""The name under which our id of a batch travels in its metadata."""
QUEUE_FULL = "token_limit_exceeded"
"""The code of a refusal because too many tokens of the account wait in batches already."""
MOST_COUNT = 2**53
LONGEST_ID = 1000
LONGEST_WORD = 60
"""Characters of a status that are shown."""
_ENDED = frozenset({"completed", "expired", "cancelled", "failed"})


def words(value: Any) -> str:
    """Return what an endpoint says, whatever its shape, as one printable line; errors as ``code: message``."""
    return one_line("; ".join(_sentences(value, 4)), DETAIL)


def _sentences(value: Any, depth: int) -> list[str]:
    if value is None or depth == 0:
        return []
    if isinstance(value, list):
        return [sentence for item in value[:20] for sentence in _sentences(item, depth - 1)]
    if not isinstance(value, dict):
        return [str(value)[:DETAIL]]
    if "data" in value:
        return _sentences(value["data"], depth - 1)
    said = [str(value[name])[:DETAIL] for name in ("code", "type", "message") if isinstance(value.get(name), str | int)]
    return [": ".join(dict.fromkeys(said))] if said else [json.dumps(value)[:DETAIL]] if value else []


def _text(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int):
        return ""
    text = str(value).encode("utf-8", "replace").decode().strip()
    return text if len(text) <= LONGEST_ID else ""


def _files(value: Any) -> tuple[str, ...]:
    if isinstance(value, list | tuple):
        return tuple(dict.fromkeys(name for item in value[:20] for name in _files(item)))
    if isinstance(value, dict):
        return _files(value.get("id"))
    return (name,) if (name := _text(value)) else ()


def _word(value: Any) -> str:
    word = one_line(_text(value) or json.dumps(value), LONGEST_WORD).lower()
    return "cancelled" if word == "canceled" else word


def parse_count(value: Any) -> int | None:
    """Return a count as endpoints spell it (5, 5.0, "5"); None where it is none."""
    if isinstance(value, str) and re.fullmatch(r"\s*[0-9]{1,16}\s*", value):
        value = int(value)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    counts = isinstance(value, int) and not isinstance(value, bool) and 0 <= value < MOST_COUNT
    return value if counts else None


class _Tolerant(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")

    @classmethod
    def read(cls, content: Any, needed: str) -> Self:
        """Return what a reply says.

        Raises:
            ValueError: it is no object with the field ``needed``: a proxy's page, or an error with a good status.
        """
        if not isinstance(content, dict) or needed not in content:
            raise ValueError(needed)
        return cls.model_validate(content)


class Counts(_Tolerant):
    """How many requests of a batch came to what; None where the endpoint does not say."""

    total: Annotated[int | None, BeforeValidator(parse_count)] = None
    completed: Annotated[int | None, BeforeValidator(parse_count)] = None
    failed: Annotated[int | None, BeforeValidator(parse_count)] = None


class BatchReply(_Tolerant):
    """A batch as the endpoint describes it."""

    id: Annotated[str, BeforeValidator(_text)] = ""
    status: Annotated[str, BeforeValidator(_word)] = ""
    """In lower case; a word that the API does not have means that the batch has not ended."""
    errors: Annotated[str, BeforeValidator(words)] = ""
    input_file_id: Annotated[tuple[str, ...], BeforeValidator(_files)] = ()
    output_file_id: Annotated[tuple[str, ...], BeforeValidator(_files)] = ()
    error_file_id: Annotated[tuple[str, ...], BeforeValidator(_files)] = ()
    request_counts: Annotated[Counts, BeforeValidator(lambda value: value if isinstance(value, dict) else {})] = (
        Counts()
    )
    metadata: Annotated[str, BeforeValidator(lambda value: value if isinstance(value, str) else json.dumps(value))] = ""
    """As JSON: some endpoints give it as text or as a list."""
    expired_at: Annotated[bool, BeforeValidator(bool)] = False

    @property
    def has_ended(self) -> bool:
        """Return whether nothing more will come."""
        return self.status in _ENDED

    @property
    def has_expired(self) -> bool:
        """Return whether the endpoint ended it because its time was over: some then call it cancelled."""
        return self.status == "expired" or (self.status == "cancelled" and self.expired_at)

    @property
    def files(self) -> dict[str, bool]:
        """Return the ids of the result files; true: the file holds errors only."""
        return dict.fromkeys(self.error_file_id, True) | dict.fromkeys(self.output_file_id, False)

    def holds(self, batch_id: str, input_file: str) -> bool:
        """Return whether this is the batch of an id of ours, or of a file of ours where no id was kept."""
        if METADATA in self.metadata:
            return batch_id in self.metadata
        return batch_id in self.metadata or (bool(input_file) and input_file in self.input_file_id)

    @property
    def anonymous(self) -> bool:
        """Return whether nothing here says whose batch it is."""
        return METADATA not in self.metadata and not self.input_file_id

    def describe(self) -> str:
        """Return status, counts and files for an error message."""
        counts = self.request_counts
        said = {name: count for name, count in counts.model_dump().items() if count is not None}
        counted = ", ".join(f"{count} {name}" for name, count in said.items()) or "no counts"
        return f"{self.status}, {counted}, files {', '.join(self.files) or 'none'}"


class ListPage(_Tolerant):
    """A page of the list of batches."""

    batches: list[BatchReply]
    unread: int
    """Entries that name no batch."""
    more: bool

    @classmethod
    def of(cls, content: Any) -> Self:
        """Return a page.

        Raises:
            ValueError: the reply is no list of batches.
        """
        if not isinstance(content, dict) or not isinstance(content.get("data", 0), list | None):
            raise ValueError("data")  # noqa: TRY004 - as the JSON decoder does
        entries = [{"id": entry} if isinstance(entry, str) else entry for entry in content["data"] or []]
        batches = [BatchReply.model_validate(entry) for entry in entries if isinstance(entry, dict)]
        named = [batch for batch in batches if batch.id]
        more = content.get("has_more")
        return cls(batches=named, unread=len(entries) - len(named), more=more is True or more in ("true", 1))
