"""A pilot of corrections, drawn, rated by people, and judged before the rest is paid for.

The paper (section 2.1 and its appendix) rated 50 pairs by hand before it ran the corrector on the rest: *excellent*
(the step and the reason are right, and the corrected steps continue the earlier ones), *good* (the same, with small
breaks) and *poor* (the step or the reason is wrong). A folder holds ``pairs.parquet``, the drawn corrections, and one
``ratings-<rater>.parquet`` per rater, replaced as a whole after every rating: killing the page loses nothing.

The pilot's mistakes are a seeded draw from all of them, and its corrections are an artifact like any other. The
ratings and the decision are stored beside the store, in one folder per pilot. Neither the gate nor its decision
enters the identity of the corrections: it decides whether they are made, not what they are.
"""

import hashlib
import heapq
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal, Protocol, Self, TypeVar

import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field, model_validator

from lema_core.artifacts import ArtifactRef, Store
from lema_core.artifacts.files import FileSystem, atomic_file, open_root
from lema_core.artifacts.parquet import (
    TableFile,
    cast_to,
    open_table,
    raise_faults_as,
    rows_from_batch,
    schema_of,
    table_of,
    translate_faults,
    write_table,
)
from lema_core.artifacts.part import part_files
from lema_core.errors import ConfigError, DataError
from lema_core.evaluation.statistics import Agreement, rater_agreement
from lema_core.records import Correction


class Identified(Protocol):
    """A row with an id made from content."""

    @property
    def id(self) -> str:
        """Return the row's id."""
        ...


T = TypeVar("T", bound=Identified)
RATINGS = ("excellent", "good", "poor")
PILOT = 50
"""The paper's number of rated pairs."""
_PAIRS = "pairs.parquet"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rating:
    """One rater's rating of one correction."""

    correction_id: str
    rater: str
    rating: str
    """excellent, good or poor."""


@dataclass(frozen=True, slots=True)
class PilotSummary:
    """What the raters found."""

    pairs: int
    by_rater: Mapping[str, Mapping[str, int]]
    """Ratings by rater and class; no class is missing."""
    agreement: Mapping[tuple[str, str], Agreement]
    """Cohen's kappa of every two raters over the pairs that both rated."""

    @property
    def poor_share(self) -> float:
        """The largest share of poor ratings of any rater; 1 without a rater, since silence is no approval."""
        shares = [counts["poor"] / sum(counts.values()) for counts in self.by_rater.values() if sum(counts.values())]
        return max(shares, default=1.0)

    def is_finished(self, raters: int = 1) -> bool:
        """Return whether at least this many raters rated every pair."""
        return sum(sum(counts.values()) >= self.pairs for counts in self.by_rater.values()) >= raters


def read_corrections(place: Path | str) -> Iterator[Correction]:
    """Yield the corrections of a Parquet file, or of an artifact's folder (its ``part-*.parquet``), by path or URL.

    Raises:
        DataError: nothing is there, or it holds no corrections.
    """
    fs, path = open_root(str(place))
    files = part_files(fs, path) if fs.isdir(path) else [path]
    if not files or not all(fs.isfile(file) for file in files):
        raise DataError(
            f"there are no corrections at {place}: expected a Parquet file, or a folder with part-*.parquet, "
            "such as .lema/store/corrections/<fingerprint>"
        )
    for file in files:
        yield from _corrections(fs, file)


def _corrections(fs: FileSystem, file: str) -> Iterator[Correction]:
    with _open_table(fs, file) as table:
        lacking = sorted(set(schema_of(Correction).names) - set(table.schema.names))
        if lacking:
            raise DataError(
                f"{file} has no columns {lacking}: it does not hold corrections; expected a Parquet file of "
                "`.lema/store/corrections/<fingerprint>`"
            )
        for batch in translate_faults(cast_to(table.batches(schema_of(Correction).names), Correction), _fault(file)):
            yield from rows_from_batch(batch, Correction)


def _fault(file: str) -> Callable[[str], DataError]:
    return lambda cause: DataError(
        f"{file} cannot be read as Parquet, or not as what it should hold ({cause}). It was damaged or changed, or is "
        "another file: restore it, or remove it to begin anew."
    )


@contextmanager
def _open_table(fs: FileSystem, file: str) -> Iterator[TableFile]:
    with ExitStack() as stack:
        with raise_faults_as(_fault(file)):
            source = stack.enter_context(fs.open(file))
        yield stack.enter_context(open_table(source, _fault(file)))


def draw_pilot(rows: Iterable[T], size: int = PILOT, seed: int = 0) -> list[T]:
    """Draw ``size`` rows without replacement, independent of the rows' order, in constant memory."""

    def chance(row: T) -> bytes:
        return hashlib.sha256(f"{seed}\0{row.id}".encode()).digest()

    return heapq.nsmallest(size, rows, key=chance)


class RatingSheet:
    """The pilot of one folder, and the ratings of one rater."""

    def __init__(self, folder: Path | str, rater: str, pairs: list[Correction]) -> None:
        """Open the folder (a path or a URL), or begin it with ``pairs``.

        Raises:
            ConfigError: the rater's name cannot name a file, or the folder was begun with other pairs.
            DataError: there is nothing to rate.
        """
        if not re.fullmatch(r"[\w-]{1,40}", rater):
            raise ConfigError(f"the rater {rater!r} must be 1 to 40 letters, digits, _ or -: it names a file")
        if not pairs:
            raise DataError("there is nothing to rate: no accepted corrections were given")
        self.folder, self.rater, self.pairs = folder, rater, pairs
        self._fs, self._path = open_root(str(folder))
        held = f"{self._path}/{_PAIRS}"
        if not self._fs.exists(held):
            _write(self._fs, held, table_of(self.pairs, Correction))
        elif [row.id for row in _corrections(self._fs, held)] != [pair.id for pair in self.pairs]:
            raise ConfigError(
                f"{self.folder} was begun with other pairs (another artifact, --pairs or --seed). Give the ones it was "
                "begun with, or another --out."
            )
        self._ratings = {rating.correction_id: rating.rating for rating in _ratings_of(self._fs, self._file)}

    @property
    def _file(self) -> str:
        return f"{self._path}/ratings-{self.rater}.parquet"

    def rating(self, number: int) -> str | None:
        """Return this rater's rating of pair ``number`` (from 0), None where there is none yet."""
        return self._ratings.get(self.pairs[number].id)

    def rate(self, number: int, rating: str) -> None:
        """Keep a rating of pair ``number``; it is on disk when this returns. A later one replaces it.

        Raises:
            DataError: there is no such pair or no such rating.
        """
        if rating not in RATINGS or not 0 <= number < len(self.pairs):
            raise DataError(
                f"expected a pair in 0..{len(self.pairs) - 1} and one of {RATINGS}; got {number}, {rating!r}"
            )
        self._ratings[self.pairs[number].id] = rating
        rows = [
            Rating(correction_id=pair.id, rater=self.rater, rating=self._ratings[pair.id])
            for pair in self.pairs
            if pair.id in self._ratings
        ]
        _write(self._fs, self._file, table_of(rows, Rating))

    @property
    def rated(self) -> int:
        """How many pairs this rater has rated."""
        return len(self._ratings)

    def next_unrated(self, after: int = -1) -> int | None:
        """Return the next pair without a rating, looking on from ``after`` and then from the start."""
        order = [*range(after + 1, len(self.pairs)), *range(min(after + 1, len(self.pairs)))]
        return next((number for number in order if self.rating(number) is None), None)


def is_begun(folder: Path | str) -> bool:
    """Return whether a folder holds a pilot."""
    fs, path = open_root(str(folder))
    return bool(fs.exists(f"{path}/{_PAIRS}"))


def summarize_ratings(folder: Path | str) -> PilotSummary:
    """Count all raters' ratings in a folder and compare every two of them on what both rated.

    Raises:
        DataError: no rating has begun there.
    """
    if not is_begun(folder):
        raise DataError(f"{folder} holds no pilot: begin one with `lema rate CORRECTIONS --out {folder}`")
    fs, path = open_root(str(folder))
    files = fs.glob(f"{path}/ratings-*.parquet")
    tables = {PurePosixPath(file).stem.removeprefix("ratings-"): _ratings_of(fs, file) for file in files}
    words = {rater: {row.correction_id: row.rating for row in rows} for rater, rows in tables.items()}
    counts = {rater: {name: Counter(said.values())[name] for name in RATINGS} for rater, said in words.items()}
    raters = list(words)
    pairs = [(a, b) for position, a in enumerate(raters) for b in raters[position + 1 :]]
    agreement = {}
    for a, b in pairs:
        if both := sorted(words[a].keys() & words[b].keys()):
            agreement[a, b] = rater_agreement([words[a][i] for i in both], [words[b][i] for i in both])
    with _open_table(fs, f"{path}/{_PAIRS}") as drawn:
        return PilotSummary(drawn.rows, counts, agreement)


def _ratings_of(fs: FileSystem, file: str) -> list[Rating]:
    if not fs.isfile(file):
        return []
    with _open_table(fs, file) as table, raise_faults_as(_fault(file)):
        rows = [row for batch in cast_to(table.batches(), Rating) for row in rows_from_batch(batch, Rating)]
        if unknown := {row.rating for row in rows} - {*RATINGS}:
            raise ValueError(f"it holds ratings {sorted(unknown)[:3]}, expected {RATINGS}")
        return rows


def _write(fs: FileSystem, path: str, table: pa.Table) -> None:
    with atomic_file(fs, path) as local:
        write_table(table, local)


DECISION = "decision.json"


@dataclass(frozen=True, slots=True)
class Findings:
    """What is known about a pilot when it is judged."""

    mistakes: int
    corrected: int
    """Mistakes with an accepted correction."""
    reasons: Mapping[str, int]
    """Rejected tries by reason."""
    ratings: PilotSummary | None
    """None where no rating has begun."""

    @property
    def accepted_share(self) -> float:
        """Return the share of mistakes with an accepted correction; 1 where there are no mistakes to correct."""
        return self.corrected / self.mistakes if self.mistakes else 1.0

    def describe(self) -> str:
        """Return the findings as sentences."""
        found = f"{self.corrected} of {self.mistakes} mistakes have an accepted correction ({self.accepted_share:.0%})."
        if self.reasons:
            by_count = sorted(self.reasons.items(), key=lambda item: -item[1])
            found += f" Rejected: {', '.join(f'{n} {reason}' for reason, n in by_count)}."
        for rater, counts in self.ratings.by_rater.items() if self.ratings else ():
            found += f" {rater}: {', '.join(f'{n} {name}' for name, n in counts.items())}."
        for (first, second), agreement in self.ratings.agreement.items() if self.ratings else ():
            found += f" {first} and {second} agree on {agreement.share_equal:.0%} (kappa {agreement.value:.2f})."
        return found


class GateRule(BaseModel):
    """What lets a pilot pass without a person. Each bound is a share, 0 to 1."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    min_accepted: float | None = Field(None, ge=0, le=1)
    """Of the pilot's mistakes at least this share has an accepted correction."""
    max_poor: float | None = Field(None, ge=0, le=1)
    """No rater calls more than this share poor; without ratings it holds."""

    @model_validator(mode="after")
    def _bounds_something(self) -> Self:
        if self.min_accepted is None and self.max_poor is None:
            raise ValueError("an empty rule lets everything pass: set min_accepted, max_poor or both")
        return self


class Decision(BaseModel):
    """The decision on a pilot, and the findings that it was based on."""

    model_config = ConfigDict(frozen=True)

    approved: bool
    by: Literal["person", "rule"]
    note: str = ""
    """A person's note, or the bounds that the pilot does not meet."""
    findings: str
    bounds: GateRule | None = None
    """Of the rule that decided; the run file may have changed since."""


def findings(store: Store, pilot: ArtifactRef, corrections: ArtifactRef, ratings: str) -> Findings:
    """Return what is known of a pilot: its drawn mistakes, their corrections, and the folder of its ratings."""
    paths = {row.path_id for row in store.rows(corrections, Correction)}
    return Findings(
        mistakes=store.manifest(pilot).rows_out,
        corrected=len(paths),
        reasons=store.manifest(corrections).reasons,
        ratings=summarize_ratings(ratings) if is_begun(ratings) else None,
    )


def objections(rule: GateRule, found: Findings) -> list[str]:
    """Return the bounds of a rule that a pilot does not meet, in words; empty: it passes."""
    against = []
    if rule.min_accepted is not None and found.accepted_share < rule.min_accepted:
        against.append(f"{found.accepted_share:.0%} accepted, min_accepted is {rule.min_accepted:.0%}")
    rated = found.ratings is not None and any(sum(counts.values()) for counts in found.ratings.by_rater.values())
    if rule.max_poor is not None and found.ratings is not None and rated and found.ratings.poor_share > rule.max_poor:
        against.append(f"{found.ratings.poor_share:.0%} rated poor, max_poor is {rule.max_poor:.0%}")
    return against


def decision_folder(root: str, corrections: ArtifactRef) -> str:
    """Return the folder of a pilot's ratings and decision: beside the store, since no stage made them."""
    return f"{root.removesuffix('/store')}/quality_gate/{corrections.fingerprint}"


def read_decision(folder: str) -> Decision | None:
    """Return the decision on the pilot of a folder; None where there is none.

    Raises:
        DataError: the file exists and cannot be read.
    """
    fs, path = open_root(folder)
    try:
        return Decision.model_validate_json(fs.cat_file(f"{path}/{DECISION}"))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise DataError(
            f"{path}/{DECISION} holds no decision ({error}). Delete it: the run then asks for one."
        ) from error


def write_decision(folder: str, decision: Decision) -> None:
    """Store the decision on a pilot in one step."""
    fs, path = open_root(folder)
    with atomic_file(fs, f"{path}/{DECISION}") as local:
        local.write_text(decision.model_dump_json(indent=2) + "\n", encoding="utf-8")
