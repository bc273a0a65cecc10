"""What a task is: its answers' family or its scorer, its data's format, and the drafts of questions made of rows.

A worked solution becomes a rationale: numbered steps and a last line ``The answer is X.``, so that it is itself a path
and the output of a CoT example.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from lema_core.answers import Family, extract
from lema_core.errors import ConfigError, DataError
from lema_core.questions.specs import FieldMapping, QuestionsSpec
from lema_core.scoring.scores import Judge, Scorer, ScorerLimits
from lema_core.steps import render_path, split_path

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
    """The source's own id: two questions of one text differ in it."""


@dataclass(frozen=True, slots=True)
class Unusable:
    """A row that the task leaves out by its own rule: it becomes a rejected row."""

    reason: str
    detail: str
    text: str


def rationale_from(solution: str, answer: str) -> str | None:
    """Return a published solution as a path that ends in ``answer``; calculator marks and drawings are cut.

    It replaces the solution's own answer line. None for a solution that is nothing but an answer.
    """
    # A drawing without an end is text. No pattern: from each of many [asy] without an end it would search to the end.
    kept: list[str] = []
    at = 0
    while (start := solution.find("[asy]", at)) >= 0 and (end := solution.find("[/asy]", start)) >= 0:
        kept += [solution[at:start], " "]
        at = end + len("[/asy]")
    steps = split_path("".join([*kept, solution[at:]])).steps
    return render_path(steps, f"The answer is {answer}.") if steps else None


def draft_by_mapping(row: Row, place: str, mapping: FieldMapping, family: Family = "text") -> Draft:
    """Return the draft that the mapping finds in the row; ``family`` says how a worked solution's answer is read.

    Raises:
        DataError: a mapped field is missing or has the wrong type.
    """
    gold = _text(row, place, mapping.gold)
    if mapping.gold == mapping.rationale:
        # One field is both: the gold is the answer that the solution ends in. Without an answer the whole text is, and
        # the check of golds refuses it with its place.
        gold = extract(gold, family).value or gold
    rationale = _optional(row, place, mapping.rationale)
    candidates: tuple[str, ...] | None = None
    if mapping.candidates is not None:
        value = _value(row, place, mapping.candidates)
        if not isinstance(value, list | tuple) or not value or not all(isinstance(text, str) for text in value):
            seen = f"{place}: the field {mapping.candidates!r} holds {str(value)[:60]!r}"
            raise DataError(f"{seen}. Expected a list of texts, one per choice.")
        candidates = tuple(value)
    return Draft(
        text=_text(row, place, mapping.question),
        gold=gold,
        rationale=rationale_from(rationale, gold) if rationale else None,
        candidates=candidates,
        level=_optional(row, place, mapping.level),
        subject=_optional(row, place, mapping.subject),
        key=_optional(row, place, mapping.id),
    )


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
        # Parquet and JSON hold 72 as 72.0 where a column holds fractions; the gold answer is 72.
        return str(int(value)) if isinstance(value, float) and value.is_integer() else repr(value)
    raise DataError(
        f"{place}: the field {path!r} holds {type(value).__name__} {str(value)[:60]!r}. Expected text or a number: "
        "correct the row or `mapping`."
    )


def _optional(row: Row, place: str, path: str | None) -> str | None:
    if path is None or _value(row, place, path) is None:
        return None
    return _text(row, place, path) or None


BundledFamily = Literal["numeric", "latex", "choice", "text"]
Shape = Literal["steps", "choice", "whole"]
Generator = Callable[[QuestionsSpec], Iterator[tuple[str, Draft]]]


@dataclass(frozen=True, slots=True)
class HubDataset:
    """A data set on the Hugging Face Hub, read as the Parquet files that the Hub makes of every data set."""

    id: str
    config: str = "default"
    train: str | None = "train"
    """The name of the split that holds the training questions, None where it has none."""
    test: str | None = "test"
    """The same for the test questions; ``*`` takes all splits together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A family of questions with one source format, one way to check an answer and one prompt set."""

    name: str
    family: BundledFamily | None = None
    """Which answers are equal: the matcher's family. None where a scorer judges and no two answers can be compared."""
    prompts: str
    """The prompt set: ``lema_core/prompts/<name>.toml``, or a TOML file beside the file of a task of one's own."""
    scorer: Scorer | None = None
    """Says whether a text is right, in the place of the matcher: ``score(question, gold, text, context)``."""
    judge: Judge | None = None
    """The endpoint that the scorer may ask, and how often."""
    limits: ScorerLimits = field(default_factory=ScorerLimits)
    """What the scorer may use for one text."""
    verbatim: bool = False
    """Its questions are whole prompts, sent word for word as one user message; no prompt of ours is around them."""
    shape: Shape = "steps"
    """Corrections name a step, or (CommonsenseQA) only the mistakes. ``whole``: the mistakes and the whole corrected
    answer, kept line by line, such as a program."""
    train: str | None = None
    """A file of training questions beside the file of a task of one's own, where the run file names none."""
    test: str | None = None
    """The same of the test questions (``split = "test"``)."""
    mapping: FieldMapping | None = None
    """Which field of a row holds what, where the run file does not say."""
    fields: tuple[str, ...] = ()
    """The columns that a row of the task's own format must have."""
    draft: Callable[[Row], Draft | Unusable] | None = None
    """How a row of the task's own format becomes a question; None where a field mapping is required."""
    hub: HubDataset | None = None
    generate: Generator | None = None
    """Generates the questions of a task without a source to read."""
    generator_version: str = ""
    """Enters the identity of generated questions."""
    on_duplicate: Literal["error", "reject"] = "error"
    """A published set may repeat itself; a user's own file should not."""
    on_gold: Literal["error", "reject"] = "error"
    """What becomes of a row whose gold answer does not parse: an error in a user's own file, a rejected row in a
    published set that has such rows."""
    repeats_texts: bool = False
    """The published set has one text under several ids, and the paper counts each."""
    revision: int = 1
    """Raised when the same rows would become other questions."""
    uses: tuple[str, ...] = ()
    """Other files that the scorer of a task of one's own reads or imports, beside its file: an edited one re-judges."""
    reference: str = ""
    """Of a task of one's own: its file or entry point, with the hash of all its files. Filled in when it is loaded."""

    @property
    def comparable(self) -> BundledFamily:
        """Return the family by which two answers are compared.

        Raises:
            ConfigError: the task has none: its scorer judges single texts.
        """
        if self.family is None:
            raise ConfigError(
                f"The task {self.name} has a scorer and no `family`: two of its answers cannot be compared, so nothing "
                "can be decided by a majority. Give the task a family too, or leave the vote out."
            )
        return self.family
