"""Artifacts that hold failed requests as rejected rows: found, and set aside so that a run makes them again."""

from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass

from lema_core.artifacts import ArtifactRef, Store
from lema_core.artifacts.derivation import find_derived, set_aside
from lema_core.errors import ConfigError, LemaError
from lema_core.rating.pilot import decision_folder
from lema_core.run.plan import planned_stages
from lema_core.run.records import read_records
from lema_core.run.spec import RunContext, RunSpec
from lema_core.stages.failed_requests import failures_of, unanswered


@dataclass(frozen=True, slots=True)
class LossyArtifact:
    """An artifact in which requests failed."""

    ref: ArtifactRef
    failed: Counter[str]
    """By reason."""
    empty: bool
    """An endpoint answered nothing: everything derived from it is empty."""

    def __str__(self) -> str:
        """Return the artifact and its failures in words."""
        reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(self.failed.items()))
        return f"{self.ref.folder}: {reasons}{', and nothing was answered' if self.empty else ''}"


def find_lossy(store: Store, among: Iterable[ArtifactRef] | None = None) -> list[LossyArtifact]:
    """Return the published artifacts with failed requests: of the whole store, or among some."""
    wanted = None if among is None else set(among)
    found = []
    for manifest in store.manifests():
        ref = ArtifactRef(manifest.stage, manifest.fingerprint)
        if (wanted is None or ref in wanted) and (failed := failures_of(manifest)):
            found.append(LossyArtifact(ref, failed, bool(unanswered(manifest))))
    return found


def find_lossy_of_run(run: RunSpec, root: str) -> list[LossyArtifact]:
    """Return the artifacts of a run in which requests failed.

    Raises:
        LemaError: the run cannot be planned.
    """
    return find_lossy(
        Store(RunContext.of(run, root).root), [stage.ref for stage in planned_stages(run, root) if stage.there]
    )


def name_runs_of(refs: Iterable[ArtifactRef], root: str) -> dict[ArtifactRef, str]:
    """Return the name of a recorded run for each artifact that belongs to one, the newest one if several do."""
    wanted, names = set(refs), dict[ArtifactRef, str]()
    for record in read_records(root):
        # A run whose file or source is gone, or that another version wrote, cannot be planned; others can.
        with suppress(LemaError):
            for stage in planned_stages(record.spec, root):
                if stage.ref in wanted:
                    names.setdefault(stage.ref, record.name)
    return names


def set_aside_failed(run: RunSpec, root: str) -> list[ArtifactRef]:
    """Set aside a run's artifacts with failed requests, and everything in the store that was made from them.

    Nothing is lost: answers are in the ledger, and what was set aside stays beside the store. Failures are not in the
    ledger, so the next run asks for those again.

    Raises:
        ConfigError: a run under this root is being run.
        LemaError: the run cannot be planned.
    """
    planned = list(planned_stages(run, root))
    found = find_lossy(Store(RunContext.of(run, root).root), [stage.ref for stage in planned if stage.there])
    return set_aside_derived(
        root, RunContext.of(run, root), [artifact.ref for artifact in found], [stage.ref for stage in planned]
    )


def set_aside_derived(
    root: str, context: RunContext, found: Iterable[ArtifactRef], planned: Iterable[ArtifactRef] = ()
) -> list[ArtifactRef]:
    """Set aside artifacts and everything made from them; of ``planned`` ones also what is begun and not published.

    Raises:
        ConfigError: a run under this root is being run.
    """
    store = Store(context.root)
    stale = find_derived(list(store.manifests()), found)
    if not stale:
        return []
    if busy := [record.name for record in read_records(root) if record.running(root)]:
        raise ConfigError(f"{', '.join(busy)} is being run under {root}, and may read what would be set aside: stop it")
    # What was begun from the old rows has parts under the same name. Its identity is not written anywhere yet.
    begun = [ref for ref in planned if not store.exists(ref) and store.fs.exists(store.folder(ref))]
    place = set_aside(store, [*begun, *stale])
    for ref in stale:
        decisions = decision_folder(context.root, ref)
        if ref.stage == "corrections" and store.fs.exists(decisions):
            # An approval was of the old rows.
            store.fs.mv(decisions, f"{place}/quality_gate/{ref.fingerprint}", recursive=True)
    return stale
