"""One line of a plan: an artifact, and what it takes to make it."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from lema_core.artifacts import ArtifactRef
from lema_core.llm.endpoints import EndpointSpec
from lema_core.llm.requests import CompletionRequest
from lema_core.records import Question
from lema_core.run.artifacts import Collection

Asked = Callable[[], Iterable[CompletionRequest]]
Questions = Callable[[], Iterable[Question]]


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedStage:
    """One artifact of a run."""

    name: str
    ref: ArtifactRef
    there: bool
    rows: int | None
    """Rows of the artifact if it is there, else at most so many; None where nobody can say."""
    endpoint: EndpointSpec | None = None
    requests: int = 0
    """At most so many requests; 0 if it is there."""
    asked: Asked | None = None
    """The very requests, where the inputs are there to write them from."""
    max_tokens: int = 0
    """The cap of an answer."""
    tokenizer: str = ""
    """The model whose tokenizer counts the prompts."""
    outlook: Callable[[float], str] | None = None
    """Of a training stage that is missing: what it needs in one line, at a share of the devices' peak (MFU)."""
    trained: bool = True
    """The model that answers exists; a fine-tuned one is a stage of its own."""


def named(stage: str, collection: Collection) -> str:
    """Return what a stage of a collection is called in a plan."""
    return f"{stage}: {collection.evolution} {collection.round}" if collection.round else stage


def times(rows: int | None, factor: int) -> int | None:
    """Return so many times the rows, None where nobody knows them."""
    return None if rows is None else rows * factor
