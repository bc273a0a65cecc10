"""From a spec to questions: read or generate rows, check each one, give it an id.

Everything that can be wrong with a source stops here, before any request is paid: a missing file, a malformed line, an
empty set, a mapped field that is not there, a gold answer that does not parse, two questions with one id.
"""

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from lema_core.answers import Family, extract, judge
from lema_core.artifacts.files import error_text
from lema_core.artifacts.parquet import Fault, raise_faults_as
from lema_core.errors import ConfigError, DataError
from lema_core.questions.sources import file_name, hub_commit, read_hub_rows, read_rows, source_sha256
from lema_core.questions.specs import FieldMapping, QuestionsSpec
from lema_core.questions.tasks import TASKS, Task, get_task, reference_of
from lema_core.questions.tasks.task import Draft, Row, Unusable, draft_by_mapping, shown_fields
from lema_core.records import Question, Rejection, content_id

_SHA256 = "sha256:"
OVER_ZERO = re.compile(r"/\s*0+(?:\.0*)?(?![\d.])")


def read_questions(spec: QuestionsSpec, source: str | None = None) -> Iterator[Question | Rejection]:
    """Yield the questions of a spec in the source's order, and a rejection per row that the task's rule leaves out.

    Reject reasons: ``duplicate_question`` (a published set repeats itself), ``not_numeric`` (ASDiv's rule),
    ``no_answer`` (GSM-Plus's questions that cannot be answered), ``unusable_gold`` (of a published set).

    Args:
        spec: what is read.
        source: the `source_fingerprint` that the rows must have. A file's bytes are hashed as the rows are made from
            them, and a data set of the Hub is read at this commit: a source that changed after its identity was made
            would otherwise keep wrong rows under that name for ever.

    Raises:
        ConfigError: the spec names no such task, or a source that the task does not have.
        DataError: the source cannot be used, or is not the expected one; the message names the place and the remedy.
        EndpointError: the Hub does not answer.
        MissingDependencyError: the source needs a package that is not installed.
    """
    task = get_task(spec.task)
    spec = with_own_source(spec, task)
    stop = None if spec.limit is None else spec.offset + spec.limit
    rows = islice(_drafts(spec, task, source, stop), spec.offset, None)
    checker = _Checker(task, spec.on_duplicate or task.on_duplicate)
    empty = True
    for place, draft in rows:
        empty = False
        with raise_faults_as(_row_fault(place, task)):
            question = checker.question(place, draft)
        yield question
    if empty:
        name = spec.path or spec.hub or (task.hub.id if task.hub else f"the generator of {task.name}")
        raise DataError(
            f"No question in {name} (offset {spec.offset}). Expected at least one row: "
            "check the file, `split`, `offset` and `limit`."
        )


def source_fingerprint(spec: QuestionsSpec) -> str:
    """Return what the source holds, as text: the hash of a file's bytes, the Hub's commit or the generator's version.

    Raises:
        DataError: the file cannot be read.
        EndpointError: the Hub does not answer.
    """
    task = get_task(spec.task)
    spec = with_own_source(spec, task)
    if spec.path is not None:
        return f"{_SHA256}{source_sha256(spec.path)}"
    if task.generate is not None and spec.hub is None:
        return task.generator_version
    return hub_commit(spec, task)


def identity(spec: QuestionsSpec) -> dict[str, Any]:
    """Return everything that decides the questions, as plain JSON values: for the artifact's identity.

    The path is left out (moving a file changes nothing) but for its last part, which the rows show as their origin.
    """
    task = get_task(spec.task)
    spec = with_own_source(spec, task)
    # Neither where the questions are nor what a table calls them decides them.
    unset = {"hub_split"} if spec.hub_split is None else set[str]()
    plain = spec.model_dump(mode="json", exclude={"path", "name", *unset})
    name = None if spec.path is None else file_name(spec.path)
    found = {**plain, "file": name, "source": source_fingerprint(spec), "task_revision": task.revision}
    if not task.reference:
        return found
    # Of a task of one's own the rows themselves: an edit of its file that makes the same questions makes nothing anew.
    rows = hashlib.sha256()
    for row in read_questions(spec, found["source"]):
        rows.update(repr(row).encode("utf-8", "backslashreplace") + b"\n")
    return {**found, "task": task.name, "rows": rows.hexdigest()}


def with_own_source(spec: QuestionsSpec, task: Task) -> QuestionsSpec:
    """Return the spec with what a task of one's own says where the run file is silent: its file and its mapping."""
    if not task.reference:
        return spec
    own: dict[str, Any] = {} if spec.mapping else {"mapping": task.mapping}
    if spec.path is None and spec.hub is None:
        own["path"] = task.train if spec.split == "train" else task.test
        if own["path"] is None and (task.train or task.test):
            raise ConfigError(f"The task {task.name} names no file of {spec.split} questions: set `path`, or `split`.")
    return spec.model_copy(update=own)


def pinned(spec: QuestionsSpec) -> QuestionsSpec:
    """Return the spec with a reference to its task that every process of a run can check."""
    return spec.model_copy(update={"task": reference_of(spec.task)})


def _row_fault(place: str, task: Task) -> Fault:
    return lambda cause: DataError(
        f"{place}: {cause}. Expected a row in the format of {task.name}: repair or remove it."
    )


def _drafts(
    spec: QuestionsSpec, task: Task, source: str | None, stop: int | None
) -> Iterator[tuple[str, Draft | Unusable]]:
    """Yield the first ``stop`` drafts of the source. Exhaust it: behind the last row it is compared with ``source``."""
    if spec.path is None and spec.hub is None and task.generate is not None:
        if spec.limit is None:
            raise ConfigError(
                f"The task {task.name} generates questions without end. Set `limit` to how many you want."
            )
        return islice(task.generate(spec), stop)
    if spec.path is None:
        rows: Iterator[tuple[str, Row]] = islice(read_hub_rows(spec, task, source), stop)
    else:
        rows = read_rows(spec.path, source.removeprefix(_SHA256) if source else None, stop)
    return ((place, _draft(row, place, task, spec.mapping)) for place, row in rows)


def _draft(row: Row, place: str, task: Task, mapping: FieldMapping | None) -> Draft | Unusable:
    if mapping is not None or task.draft is None:
        with raise_faults_as(_row_fault(place, task)):
            return draft_by_mapping(row, place, mapping or FieldMapping(), task.family or "text")
    missing = [name for name in task.fields if name not in row]
    if missing:
        raise DataError(
            f"{place} has no field {', '.join(missing)}, which the format of {task.name} needs; "
            f"it has {shown_fields(row)}. Check the file, or say in `mapping` which field holds what."
        )
    try:
        return task.draft(row)
    except DataError as error:
        raise _row_fault(place, task)(str(error)) from None
    except Exception as error:  # noqa: BLE001 - a row may hold anything, and a task reads it as its own format
        raise _row_fault(place, task)(error_text(error)) from None


def question_id(task: str, text: str, candidates: tuple[str, ...] | None = None, key: str | None = None) -> str:
    """Return a question's id, made from its text and, where the source has one, the source's own id."""
    return content_id("q", task, text, key, *(candidates or ()))


def _gold_fault(gold: str, family: Family) -> str | None:
    """Return why a path that says the gold answer, and nothing else, would not be right; None where it is."""
    statement = rf"The answer is \boxed{{{gold}}}." if family == "latex" else f"The answer is {gold}."
    found = extract(statement, family)
    if not gold or found.outcome != "value":
        return found.outcome
    if family == "text":
        return None  # a sentence's end within the gold ("St. Louis") is cut off in extraction
    verdict = judge(statement, gold, family).verdict
    if family == "numeric" and OVER_ZERO.search(gold):
        return "a division by zero"  # as text it equals itself
    return None if verdict == "right" else f"only {str(found.value)[:80]!r} is read of it"


@dataclass(slots=True)
class _Checker:
    """Turns drafts into questions and remembers which it has seen: one or two keys of 8 bytes and a place for each."""

    task: Task
    on_duplicate: str
    places: dict[int, str] = field(default_factory=dict)

    def question(self, place: str, draft: Draft | Unusable) -> Question | Rejection:
        if isinstance(draft, Unusable):
            return self._reject(place, draft.text, draft.reason, draft.detail)
        text = draft.text.strip()
        if not text:
            raise DataError(f"{place}: the question is empty. Expected its text: fill or remove the row.")
        gold = self._gold(place, draft)
        if isinstance(gold, Unusable):
            return self._reject(place, gold.text, gold.reason, gold.detail)
        # What no other row may have: the source's id, and the text where the set does not repeat itself
        parts = [["id", draft.key]] if draft.key is not None else []
        if draft.key is None or not self.task.repeats_texts:
            parts.append(["text", text, *(draft.candidates or ())])
        for part in parts:
            key = int.from_bytes(hashlib.sha256(json.dumps(part).encode()).digest()[:8])
            first = self.places.setdefault(key, place)
            if first is place:
                continue
            if self.on_duplicate == "error":
                raise DataError(
                    f"{place} and {first} are the same question or have one id: {text[:80]!r}. Remove one of them, "
                    'or set on_duplicate = "reject" to keep the first.'
                )
            return self._reject(place, text, "duplicate_question", f"the same question stands at {first}")
        return Question(
            id=question_id(self.task.name, text, draft.candidates, draft.key),
            task=self.task.name,
            # What is sent word for word keeps its white space too.
            text=draft.text if self.task.verbatim else text,
            gold=gold,
            rationale=draft.rationale,
            candidates=draft.candidates,
            level=draft.level,
            subject=draft.subject,
            origin=place,
        )

    def _gold(self, place: str, draft: Draft) -> str | Unusable:
        """Return the gold answer; of a choice its text, also where the source gives its letter."""
        if self.task.family == "choice":
            candidates = draft.candidates or ()
            wanted = draft.gold.strip().casefold()
            by_text = {text.strip().casefold(): text for text in candidates}
            by_letter = dict(zip("abcdefghijklmnopqrstuvwxyz", candidates, strict=False))
            # A choice may itself be a single letter: its text goes before its place.
            if found := by_text.get(wanted) or by_letter.get(wanted):
                return found
            shown = [text if text.isprintable() and len(text) <= 80 else f"{text[:80]!r}" for text in candidates[:26]]
            listed = ", ".join(shown) or "there are none"
            raise DataError(
                f"{place}: the gold answer {draft.gold[:80]!r} is none of the choices ({listed}). "
                "Expected a choice's text or letter: correct the row, or set mapping.candidates."
            )
        gold = draft.gold.strip()
        if self.task.family is None:
            return gold  # whatever the scorer compares with, perhaps nothing
        fault = _gold_fault(gold, self.task.family)
        if fault is not None and self.task.on_gold == "reject":
            return Unusable("unusable_gold", f"the answer {gold[:80]!r} is no {self.task.family} ({fault})", draft.text)
        if fault is not None:
            raise DataError(
                f"{place}: the gold answer {draft.gold[:80]!r} does not parse as {self.task.family} ({fault}). "
                "Expected one answer such as 72, 1,000, 5.5 or 3/4: correct the row, or the task in the run file."
            )
        return gold

    def _reject(self, place: str, text: str, reason: str, detail: str) -> Rejection:
        name = content_id("x", self.task.name, place, text)
        return Rejection(id=name, parent_id=place, reason=reason, detail=detail, text=text)


def detect_task(path: str) -> str:
    """Return the name of the one task whose own format the file's first row has.

    Raises:
        ConfigError: no task has that format, or several have.
        DataError: the file cannot be read or is empty.
    """
    first = next(iter(read_rows(path)), None)
    if first is None:
        raise DataError(f"{path} holds no rows. Expected one question per row.")
    _, row = first
    matching = [task for task in TASKS.values() if _has_format_of(task, row)]
    # MATH-500 has the fields of MATH and more: the format that needs the most fields is it.
    most = max((len(task.fields) for task in matching), default=0)
    found = [task.name for task in matching if len(task.fields) == most]
    if len(found) == 1:
        return found[0]
    seen = f"the formats of {', '.join(found)}" if found else "the format of no published task"
    raise ConfigError(
        f"{Path(path).name} has the fields {shown_fields(row)}: {seen}. Say which task it is: numeric, latex, "
        f"choice and text read the fields question and answer; there are also {', '.join(TASKS)}."
    )


def _has_format_of(task: Task, row: Row) -> bool:
    if task.draft is None or not task.fields or not row.keys() >= set(task.fields):
        return False
    try:
        return not isinstance(task.draft(row), Unusable)
    except Exception:  # noqa: BLE001 - the row of another format may hold anything
        return False
