"""A row's ancestors, found by id: example -> correction -> path -> question, each with the artifact that holds it."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from lema_core.artifacts.store import ArtifactRef, Store
from lema_core.artifacts.table_files import part_name, rejected_name
from lema_core.errors import DataError

PARENTS = ("source_id", "path_id", "parent_id", "question_id", "seed_question_id")
"""The columns that name a row's parents, the nearest first."""


@dataclass(frozen=True, slots=True)
class Found:
    """A row, and the artifact it stands in."""

    stage: str
    fingerprint: str
    fields: dict[str, Any]


def ancestry(root: str, row_id: str) -> list[Found]:
    """Return every row of an id and its ancestors', from the row to its question.

    Raises:
        DataError: no artifact under the root holds the id.
    """
    store = Store(root)
    found: list[Found] = []
    waiting, seen = [row_id], set[str]()
    while waiting:
        one = waiting.pop(0)
        if one in seen:
            continue
        seen.add(one)
        rows = list(_rows(store, one))
        found += rows
        waiting += [row.fields[name] for row in rows for name in PARENTS if row.fields.get(name)]
    if not found:
        raise DataError(f"no row {row_id!r} in any artifact under {root}; ids look like p-0123456789abcdef")
    return found


def _rows(store: Store, row_id: str) -> Iterator[Found]:
    """Yield the rows of an id, one a stage: a judged path and its bare path are the same row, told further."""
    shown: set[str] = set()
    for manifest in store.manifests():
        ref = ArtifactRef(manifest.stage, manifest.fingerprint)
        names = (name(part.start, part.stop) for part in manifest.parts for name in (part_name, rejected_name))
        for name in names:
            for fields in store.rows_with(ref, name, "id", row_id):
                if manifest.stage not in shown:
                    shown.add(manifest.stage)
                    yield Found(manifest.stage, manifest.fingerprint, _set(fields))


def _set(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value not in (None, "", [])}
