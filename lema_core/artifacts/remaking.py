"""Making artifacts again whose identity says that they are there: set aside, with everything that was made from them.

An identity follows from the identities of the inputs, not from their rows. An artifact that is made again therefore
leaves those made from the old one published under names that stay valid: all of them are set aside as well.
"""

import json
import re
from collections.abc import Iterable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from graphlib import TopologicalSorter
from pathlib import Path

from lema_core.artifacts.fingerprint import FINGERPRINT_HEX
from lema_core.artifacts.manifest import MANIFEST, Manifest, PartSummary
from lema_core.artifacts.store import ArtifactRef, Store
from lema_core.artifacts.table_files import part_name, rejected_name

_FINGERPRINT = re.compile(rf"(?<![0-9a-f])[0-9a-f]{{{FINGERPRINT_HEX}}}(?![0-9a-f])")


def derived(manifests: Sequence[Manifest], of: Iterable[ArtifactRef]) -> list[ArtifactRef]:
    """Return artifacts and all that was made from them, each before those it was made from.

    Not every input is in the identity's list of inputs: the model that answers an evaluation is named in its spec. So
    an artifact is taken to be made from every other one whose fingerprint stands anywhere in its identity.
    """
    refs = {one.fingerprint: ArtifactRef(one.stage, one.fingerprint) for one in manifests}
    parents = {
        one.fingerprint: (set(_FINGERPRINT.findall(json.dumps(one.identity))) & refs.keys()) - {one.fingerprint}
        for one in manifests
    }
    stale = {ref.fingerprint for ref in of}
    ordered = [*TopologicalSorter(parents).static_order()]
    for fingerprint in ordered:
        if parents[fingerprint] & stale:
            stale.add(fingerprint)
    return [refs[fingerprint] for fingerprint in reversed(ordered) if fingerprint in stale]


def set_aside(store: Store, refs: Sequence[ArtifactRef]) -> str:
    """Move artifacts out of the store, in order; return the folder beside the store that holds them now.

    A kill in between leaves the first of a chain published and so found again, where ``refs`` are in the order of
    `derived`.
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
    files = [path for path in store.fs.find(folder) if not path.endswith(f"/{MANIFEST}")]
    for path in (*files, f"{folder}/{MANIFEST}"):
        if store.fs.exists(path):
            store.fs.mv(path, f"{place}{path.removeprefix(folder)}")


def drop_parts(store: Store, ref: ArtifactRef, parts: Iterable[PartSummary]) -> None:
    """Remove parts of an artifact that is not published, so that their shards are made again."""
    for part in parts:
        # The part first: its rejected rows alone are no part.
        for name in (part_name(part.start, part.stop), rejected_name(part.start, part.stop)):
            with suppress(FileNotFoundError):
                store.fs.rm_file(f"{store.folder(ref)}/{name}")
