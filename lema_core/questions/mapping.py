"""A question from a row of a user's own fields."""

from collections.abc import Mapping
from typing import Any

from lema_core.answers import Family, extract
from lema_core.errors import DataError
from lema_core.questions.drafts import Draft, Row, shown_fields
from lema_core.questions.rationales import rationale_from
from lema_core.questions.specs import FieldMapping


def draft_by_mapping(row: Row, place: str, mapping: FieldMapping, family: Family = "text") -> Draft:
    """Return the draft that the mapping finds in the row; ``family`` says how a worked solution's answer is read.

    Raises:
        DataError: a mapped field is missing or has the wrong type.
    """
    gold = _gold(row, place, mapping, family)
    rationale = _optional(row, place, mapping.rationale)
    return Draft(
        text=_text(row, place, mapping.question),
        gold=gold,
        rationale=rationale_from(rationale, gold) if rationale else None,
        candidates=None if mapping.candidates is None else _texts(row, place, mapping.candidates),
        level=_optional(row, place, mapping.level),
        subject=_optional(row, place, mapping.subject),
        key=_optional(row, place, mapping.id),
    )


def _gold(row: Row, place: str, mapping: FieldMapping, family: Family) -> str:
    """Return the final answer; where one field is both gold and rationale, the answer that the solution ends in."""
    text = _text(row, place, mapping.gold)
    if mapping.gold != mapping.rationale:
        return text
    # Without an answer the whole text is the gold, and is refused with its place where golds are checked.
    return extract(text, family).value or text


def _value(row: Row, place: str, path: str) -> Any:
    value: Any = row
    for name in path.split("."):
        if not isinstance(value, Mapping) or name not in value:
            seen = shown_fields(value) if isinstance(value, Mapping) else type(value).__name__
            raise DataError(f"{place} has no field {path!r}; seen: {seen}. Correct `mapping` in the run file.")
        value = value[name]
    return value


def _text(row: Row, place: str, path: str) -> str:
    value = _value(row, place, path)
    if isinstance(value, str):
        return value.strip()
    if isinstance(value, int | float) and not isinstance(value, bool):
        # Parquet and JSON tell 72 as 72.0 where a column holds fractions; the gold answer is 72.
        return str(int(value)) if isinstance(value, float) and value.is_integer() else repr(value)
    raise DataError(
        f"{place}: the field {path!r} holds {type(value).__name__} {str(value)[:60]!r}. Expected text or a number: "
        "correct the row or `mapping`."
    )


def _optional(row: Row, place: str, path: str | None) -> str | None:
    if path is None or _value(row, place, path) is None:
        return None
    return _text(row, place, path) or None


def _texts(row: Row, place: str, path: str) -> tuple[str, ...]:
    value = _value(row, place, path)
    if isinstance(value, list | tuple) and value and all(isinstance(one, str) for one in value):
        return tuple(value)
    raise DataError(f"{place}: the field {path!r} holds {str(value)[:60]!r}. Expected a list of texts, one a choice.")
