"""What the simulated endpoint knows: questions with their rationales, and recorded solutions to replay.

Reads files (JSONL, JSON, Parquet, XML) and folders of them. A row may be a `Question` or `ReasoningPath` as LeMa's
artifacts hold them, a row of a task's own source (GSM8K, MATH, CSQA, ...), one of GSM8K's recorded solutions
(``example_model_solutions.jsonl``: a column a model), or ``question, gold_answer, gold_solution, model, solution``.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lema_core.artifacts import part_files
from lema_core.artifacts.files import LOCAL
from lema_core.errors import ConfigError, DataError
from lema_core.llm.simulated.requests import read_request
from lema_core.llm.simulated.solutions import Skeletons
from lema_core.questions.drafts import Draft
from lema_core.questions.files import READERS, read_rows
from lema_core.questions.tasks import TASKS
from lema_core.records import Question
from lema_core.reference_corrector import Problem
from lema_core.steps import strip_marks

_MIXED_COLUMNS = frozenset({"question", "ground_truth"})
_RECORDED = frozenset({"question", "gold_answer", "model", "solution"})
_PATH = frozenset({"question", "gold", "student", "text"})
_QUESTION = frozenset({"text", "gold"})


def lookup_key(text: str) -> str:
    """Return what two spellings of one question share."""
    return " ".join(text.split()).casefold()


@dataclass(slots=True)
class Library:
    """Questions by text, and recorded solutions by model and question."""

    problems: dict[str, Problem] = field(default_factory=dict)
    recorded: dict[str, dict[str, list[str]]] = field(default_factory=dict)
    _skeletons: Skeletons | None = None

    @classmethod
    def of(cls, questions: Iterable[Question]) -> "Library":
        """Return what knows these questions, their gold answers and rationales."""
        library = cls()
        for question in questions:
            library.add(Problem(question.text, question.gold, question.rationale, question.candidates))
        return library

    @classmethod
    def read(cls, questions: Iterable[str | Path] = (), replay: Iterable[str | Path] = ()) -> "Library":
        """Read question files and files of recorded solutions.

        Raises:
            ConfigError: a path does not exist.
            DataError: a file or a row cannot be used.
        """
        library = cls()
        for path in [*questions, *replay]:
            for place, row in _rows(Path(path)):
                library.add_row(row, place)
        return library

    def add(self, problem: Problem) -> None:
        """Add a question. One that is known keeps what it has, but for a rationale that it lacked."""
        key = lookup_key(problem.question)
        known = self.problems.get(key)
        if known is None or (known.rationale is None and problem.rationale is not None):
            self.problems[key] = problem
            self._skeletons = None

    def record(self, model: str, question: str, solution: str) -> None:
        """Add one recorded solution; a model's solutions to a question are its samples, in this order."""
        self.recorded.setdefault(model, {}).setdefault(lookup_key(question), []).append(solution)

    def add_row(self, row: Mapping[str, Any], place: str) -> None:
        """Add what a row of a file holds.

        Raises:
            DataError: the row has none of the known formats.
        """
        if row.keys() >= _MIXED_COLUMNS:
            rationale, _, gold = row["ground_truth"].rpartition("A:")
            self._add_worked(row["question"], gold.strip(), rationale)
            for model, solution in row.items():
                if isinstance(solution, Mapping) and "solution" in solution:
                    self.record(model, row["question"], solution["solution"])
        elif row.keys() >= _RECORDED:
            self.record(row["model"], row["question"], row["solution"])
            self._add_worked(row["question"], row["gold_answer"], row.get("gold_solution"))
        elif row.keys() >= _PATH:
            self.record(row["student"], row["question"], row["text"])
            self.add(_problem(row["question"], row))
        elif row.keys() >= _QUESTION:
            self.add(_problem(row["text"], row))
        else:
            self._add_source_row(row, place)

    def _add_worked(self, question: str, gold: str, rationale: str | None) -> None:
        self.add(Problem(question, gold, strip_marks(rationale) if rationale else None))

    def _add_source_row(self, row: Mapping[str, Any], place: str) -> None:
        for task in TASKS.values():
            if task.draft is not None and task.fields and row.keys() >= set(task.fields):
                draft = task.draft(row)
                if isinstance(draft, Draft):
                    text = read_request(draft.text).question if task.verbatim else draft.text
                    self.add(Problem(text, draft.gold, draft.rationale, draft.candidates))
                return
        raise DataError(
            f"{place} has the fields {', '.join(row)}, which are no known format. Expected questions (text, gold, "
            "rationale), recorded solutions (question, gold_answer, model, solution), or rows of a task's source."
        )

    def find(self, question: str) -> Problem | None:
        """Return the question, also one that the variant generator made from a known one."""
        known = self.problems.get(lookup_key(question))
        if known is not None:
            return known
        if self._skeletons is None:
            self._skeletons = Skeletons(self.problems.values())
        return self._skeletons.derive(question)

    def samples(self, model: str, question: str) -> list[str]:
        """Return a model's recorded solutions to a question."""
        return self.recorded.get(model, {}).get(lookup_key(question), [])


def _problem(text: str, row: Mapping[str, Any]) -> Problem:
    candidates = row.get("candidates")
    return Problem(text, row["gold"], row.get("rationale"), tuple(candidates) if candidates else None)


def _rows(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    if path.is_dir():
        parts = part_files(LOCAL, str(path))
        files = parts or sorted(str(p) for p in path.iterdir() if p.suffix[1:] in READERS)
        if not files:
            raise ConfigError(f"the folder {path} holds no questions: expected part-*.parquet or other data files")
        for file in files:
            yield from read_rows(file)
    elif path.exists():
        yield from read_rows(str(path))
    else:
        raise ConfigError(f"{path} does not exist: give a file or a folder of questions or recorded solutions")
