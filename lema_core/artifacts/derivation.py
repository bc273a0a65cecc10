"""What was made from what: a row's ancestors, found by id, and the artifacts to make again when one is made again.

An identity follows from the identities of the inputs, not from their rows. An artifact that is made again therefore
leaves those made from the old one published under names that stay valid: all of them are set aside as well.
"""

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

from lema_core.artifacts.fingerprint import FINGERPRINT_HEX
from lema_core.artifacts.manifest import EARLIER_MANIFEST, MANIFEST, Manifest, PartSummary
from lema_core.artifacts.part import earlier_rejected_name, part_name, rejected_name
from lema_core.artifacts.store import ArtifactRef, Store
from lema_core.errors import DataError

PARENTS = ("source_id", "path_id", "parent_id", "question_id", "seed_question_id")
"""Columns that name a row's parents, the nearest first."""


@dataclass(frozen=True, slots=True)
class AncestorRow:
    """A row, and the artifact that holds it."""

    stage: str
    fingerprint: str
    fields: dict[str, Any]


def trace_ancestry(root: str, row_id: str) -> list[AncestorRow]:
    """Return every row of an id and its ancestors', from the row to its question.

    Raises:
        DataError: no artifact under the root holds the id.
    """
    store = Store(root)
    found: list[AncestorRow] = []
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
        raise DataError(f"no row {row_id!r} in any artifact under {root}; ids look like path-0123456789abcdef")
    return found


def _rows(store: Store, row_id: str) -> Iterator[AncestorRow]:
    """Yield the rows of an id, one per stage: a judged path is the sampled path with more columns."""
    shown: set[str] = set()
    for manifest in store.manifests():
        ref = ArtifactRef(manifest.stage, manifest.fingerprint)
        names = (name(ref, part) for part in manifest.parts for name in (store.part_file, store.rejected_file))
        for name in names:
            for fields in store.rows_with(ref, name, "id", row_id):
                if manifest.stage not in shown:
                    shown.add(manifest.stage)
                    yield AncestorRow(manifest.stage, manifest.fingerprint, _set(fields))


def _set(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value not in (None, "", [])}


_FINGERPRINT = re.compile(rf"(?<![0-9a-f])[0-9a-f]{{{FINGERPRINT_HEX}}}(?![0-9a-f])")


def find_derived(manifests: Sequence[Manifest], of: Iterable[ArtifactRef]) -> list[ArtifactRef]:
    """Return artifacts and all that was made from them, each before those it was made from.

    Not every input is in the identity's list of inputs: the model that answers an evaluation is named in its spec. So
    an artifact is taken to be made from every other one whose fingerprint stands anywhere in its identity.
    """
    refs = {manifest.fingerprint: ArtifactRef(manifest.stage, manifest.fingerprint) for manifest in manifests}
    parents = {
        manifest.fingerprint: (set(_FINGERPRINT.findall(json.dumps(manifest.identity))) & refs.keys())
        - {manifest.fingerprint}
        for manifest in manifests
    }
    stale = {ref.fingerprint for ref in of}
    ordered = [*TopologicalSorter(parents).static_order()]
    # Parents come before their children in the order, so one pass finds whole chains.
    for fingerprint in ordered:
        if parents[fingerprint] & stale:
            stale.add(fingerprint)
    return [refs[fingerprint] for fingerprint in reversed(ordered) if fingerprint in stale]


def set_aside(store: Store, refs: Sequence[ArtifactRef]) -> str:
    """Move artifacts out of the store, in order; return the folder beside the store that holds them now.

    A kill in between leaves the first of a chain published and so found again, where ``refs`` are in the order of
    `find_derived`.
    """
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S%f")
    place = f"{store.path.removesuffix('/store')}/replaced/{stamp}"
    for ref in refs:
        _move(store, store.folder(ref), f"{place}/{ref.folder}")
    return place


def _move(store: Store, folder: str, place: str) -> None:
    if store.fs.local:
        Path(place).parent.mkdir(parents=True, exist_ok=True)
        Path(folder).rename(place)
        return
    # An object store moves file by file. The manifest goes last: without it the parts of a stage that is made again
    # would be taken for its own, unfinished work.
    last = [f"{folder}/{name}" for name in (EARLIER_MANIFEST, MANIFEST)]
    files = [path for path in store.fs.find(folder) if path not in last]
    for path in (*files, *last):
        if store.fs.exists(path):
            store.fs.mv(path, f"{place}{path.removeprefix(folder)}")


def drop_parts(store: Store, ref: ArtifactRef, parts: Iterable[PartSummary]) -> None:
    """Remove parts of an artifact that is not published, so that their shards are made again."""
    for part in parts:
        # The part first: its rejected rows alone are no part.
        for name in (part_name, rejected_name, earlier_rejected_name):
            with suppress(FileNotFoundError):
                store.fs.rm_file(f"{store.folder(ref)}/{name(part.start, part.stop)}")
