"""What every stage of a run has: the name of its artifact, a bound on its rows, its requests, and its work.

A stage is a frozen value: what decides the rows is in its fields, with references to the artifacts it reads. So its
artifact has a name before anything is made, and a plan and a run walk the same objects. Adding one:

1. A module here: its section of the run file, and a `RowStage` (rows, cut into shards) or a `FileStage`.
2. A line in ``lema_core/pipeline.py`` that yields it in its place.
3. A field of ``RunSpec`` for its section.
4. What the report says of it, if anything.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from lema_core.artifacts import ArtifactRef, Identity, PartWriter, Shard, Store
from lema_core.llm.embedded import EMBEDDED, TINY, weights_identity
from lema_core.llm.endpoints import EndpointSpec
from lema_core.llm.requests import CompletionRequest, Outcome, Sampling
from lema_core.questions import QuestionsSpec, read_questions
from lema_core.records import Question
from lema_core.stages.failed_requests import SECOND, tally_outcomes
from lema_core.training.specs import LaunchSpec

if TYPE_CHECKING:
    from lema_core.llm.engine import Engine

RowCount = Callable[[ArtifactRef], int | None]
"""Returns the rows of an artifact: exact if published, else an upper bound; None if unknown."""
OnEvent = Callable[[dict[str, Any]], None]
"""Receives what a program reports while it runs."""


@dataclass(frozen=True, slots=True)
class StageContext:
    """What a shard works with."""

    store: Store
    engine: "Engine | None" = None
    endpoints: Sequence[EndpointSpec] = ()
    """As they can be reached now, in the order of the stage's own."""
    max_failed: float = 0.2

    def ask(
        self,
        endpoint: EndpointSpec,
        requests: Iterable[CompletionRequest],
        count: int,
        part: PartWriter,
        prefix: str = "",
    ) -> AsyncIterator[Outcome]:
        """Send ``count`` requests and yield their outcomes in order, tallied in the part."""
        if self.engine is None:
            raise LookupError("a stage that asks a model runs in a session with an engine")
        return tally_outcomes(self.engine.stream(endpoint, requests), part, count, self.max_failed, prefix)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelCalls:
    """What a stage asks one endpoint, before anything is sent."""

    endpoint: EndpointSpec
    rows: int | None
    """Rows that the answers give at most; None if unknown."""
    per_row: int = 1
    """Requests for each of them."""
    max_tokens: int
    requests: Callable[[], Iterable[CompletionRequest]] | None = None
    """The very requests, if the inputs to write them from exist."""
    role: str = ""
    """Of an endpoint beside the first one, in a plan."""
    sampling: Sampling | None = None
    """How the answers are drawn, before the endpoint's parameters; a plan shows it."""


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One step of a run, which makes one artifact."""

    name: ClassVar[str]
    """Names the artifact's folder."""
    revision: ClassVar[int]
    """Raised when the code changes what the rows mean: part of the identity."""
    label: str = ""
    """The name of the step in a plan, if the run has several of this stage."""
    only_before: ArtifactRef | None = None
    """The stage is needed only while this artifact is missing."""

    @cached_property
    def identity(self) -> Identity:
        """What decides the artifact's rows.

        An endpoint enters by its identity, never by its URL; shards, ranks and keys do not enter. Computed once: a
        source that changes later must not change the name of what was read from it.
        """
        raise NotImplementedError

    @property
    def ref(self) -> ArtifactRef:
        """The artifact."""
        return ArtifactRef(self.name, self.identity.fingerprint)

    @property
    def title(self) -> str:
        """What a plan and a terminal call the step."""
        return self.label or self.name

    @property
    def run_name(self) -> str:
        """What the Prefect UI calls a run of the step."""
        return self.name

    def row_bound(self, rows: RowCount) -> int | None:  # noqa: ARG002  a stage of files has no rows
        """Return how many rows the artifact has at most; None if unknown. ``rows`` knows the inputs' rows."""
        return None

    def calls(self, store: Store, rows: RowCount) -> Sequence[ModelCalls]:  # noqa: ARG002  most stages ask no model
        """Return what is asked of each endpoint."""
        return ()

    def _identity(self, spec: object, inputs: Iterable[ArtifactRef] = (), texts: str = "") -> Identity:
        fingerprints = tuple(ref.fingerprint for ref in inputs)
        return Identity(self.name, spec, fingerprints, texts, self.revision)


@dataclass(frozen=True, kw_only=True)
class RowStage(Stage):
    """A stage of rows: its input is cut into shards, and each shard writes one part."""

    record: ClassVar[type]
    prefixes: ClassVar[Sequence[str]] = ("", SECOND)
    """What the parts' counts of each endpoint begin with."""

    @property
    def scored(self) -> bool:
        """Whether a task's scorer judges the rows, which takes up to minutes for each."""
        return False

    @property
    def endpoints(self) -> Sequence[EndpointSpec]:
        """The endpoints that a shard needs; none: no model is asked, and a row takes microseconds."""
        return ()

    def requests_per_row(self, store: Store) -> int:  # noqa: ARG002
        """Requests for each input row, so that a shard holds about ``runtime.shard_requests`` of them."""
        return 1

    def input_rows(self, store: Store) -> int:  # noqa: ARG002
        """Return how many rows are cut into shards; 0: one shard reads its inputs as a whole, on this machine."""
        return 0

    async def run_shard(self, context: StageContext, shard: Shard, part: PartWriter) -> None:
        """Write the part of a range of input rows."""
        # In a thread: judging and screening take seconds, and the event loop has requests to look after.
        await asyncio.to_thread(self.write, context.store, shard, part)

    def write(self, store: Store, shard: Shard, part: PartWriter) -> None:
        """Write a part without asking a model."""
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class FileContext:
    """What a stage of plain files works with."""

    store: Store
    ledger: str
    launch: LaunchSpec
    on_event: OnEvent
    """Receives what a program of the stage reports."""


@dataclass(frozen=True, kw_only=True)
class FileStage(Stage):
    """A stage of plain files, made as a whole."""

    exclusive: ClassVar[bool] = True
    """The files are written in place, in a local folder: only one process may do so at a time."""

    async def make(self, context: FileContext) -> str:
        """Make and publish the files; return a line on what they are."""
        raise NotImplementedError

    def publish(
        self, store: Store, files: Sequence[str], started: float, extra: Mapping[str, Any] | None = None
    ) -> None:
        """Publish files of the artifact's folder; ``started`` is what ``time.monotonic`` said."""
        store.publish_files(self.identity, list(files), seconds=time.monotonic() - started, extra=dict(extra or {}))


def fingerprint_of_model(model: str) -> str:
    """Return what names a base model: weights on this machine by their hash, not by their place."""
    return weights_identity(model) if model in {EMBEDDED, TINY} or Path(model).exists() else model


def questions_of(spec: QuestionsSpec) -> Iterator[Question]:
    """Yield the usable questions of a source."""
    return (row for row in read_questions(spec) if isinstance(row, Question))


def questions_now(
    store: Store, questions: ArtifactRef, source: QuestionsSpec | None
) -> Callable[[], Iterator[Question]] | None:
    """Return a reader of questions before the run: of their source, else of their artifact; None if it is missing."""
    if source is not None:
        return lambda: questions_of(source)
    return (lambda: store.rows(questions, Question)) if store.exists(questions) else None


def times(rows: int | None, factor: int) -> int | None:
    """Return the product; None if the rows are unknown."""
    return None if rows is None else rows * factor
