"""What a task makes of one row of its source: a draft of a question, or the reason why the row cannot be one."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

Row = Mapping[str, Any]


def shown_fields(row: Row) -> str:
    """Return a row's field names for a message: a few, short, with what is no text spelled out."""
    names = [str(name)[:40].encode("utf-8", "backslashreplace").decode() for name in [*row][:20]]
    return ", ".join(names) + (", ..." if len(row) > 20 else "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """A question before it has an id and a place."""

    text: str
    gold: str
    rationale: str | None = None
    candidates: tuple[str, ...] | None = None
    level: str | None = None
    subject: str | None = None
    key: str | None = None
    """The source's own id: it tells two questions of one text apart."""


@dataclass(frozen=True, slots=True)
class Unusable:
    """A row that the task leaves out by its own rule: it becomes a rejected row."""

    reason: str
    detail: str
    text: str
