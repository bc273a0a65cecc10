"""The simulated models: which text answers a chat request. A pure function of the request and the seed.

- ``replay/<name>``: the solutions recorded of a model, sample by sample (``seed`` modulo their number).
- ``simulated-student`` or ``simulated-student/<any>``: paths with seeded mistakes; asked for a correction or a new
  question it does as the others do.
- ``reference-corrector``, ``simulated-teacher``: corrections by the reference corrector, paths without mistakes.
- ``fixed``: one short solution to whatever is asked, for load tests.

A prompt with ``#Given Question#:`` is answered with a variant of that question, but by ``replay`` and ``fixed``.
"""

import random
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from lema_core.artifacts import part_files
from lema_core.artifacts.files import LOCAL
from lema_core.corrections import Shape
from lema_core.corrections.structured import render_structured
from lema_core.errors import ConfigError, DataError
from lema_core.llm.simulated.solutions import LEAD_IN, Skeletons, solve, vary
from lema_core.questions.sources import READERS, read_rows
from lema_core.questions.tasks import TASKS
from lema_core.questions.tasks.task import Draft
from lema_core.records import Question
from lema_core.reference_corrector import Problem, correct
from lema_core.steps import strip_marks

_QUESTION_LABEL = re.compile(r"(?:^|\n)[#* ]{0,4}Question[*]{0,2}:[ \t]*", re.IGNORECASE)
_ORIGINAL = re.compile(r"\n[#* ]{0,4}Original Solution[*]{0,2}:?", re.IGNORECASE)
_END_OF_QUESTION = re.compile(
    r"\n[#* ]{0,4}(?:Candidate Answers|Answer Choices|Answer|Original Solution)[*]{0,2}:", re.IGNORECASE
)
_CUE = re.compile(r"\n[#* ]{0,4}Incorrect Step[*]{0,2}:\s*$", re.IGNORECASE)
_GIVEN = re.compile(r"#\s*Given Question\s*#?:", re.IGNORECASE)
_CREATED = re.compile(r"#\s*Created Question\s*#?:", re.IGNORECASE)
_CHOICES = re.compile(r"\s*\[[^\[\]]*;[^\[\]]*\]\s*$")
_MIXED_COLUMNS = frozenset({"question", "ground_truth"})
_RECORDED = frozenset({"question", "gold_answer", "model", "solution"})
_PATH = frozenset({"question", "gold", "student", "text"})
_QUESTION = frozenset({"text", "gold"})
STUDENT = "simulated-student"
TEACHERS = ("reference-corrector", "simulated-teacher")
FIXED = "fixed"
FIXED_TEXT = "Step 1: 40 + 2 = 42.\nThe answer is 42."
REPLAY = "replay/"
_TOKEN = re.compile(r"\w+|[^\w\s]")


@dataclass(frozen=True, slots=True)
class Asked:
    """What is asked for: a path to a question, the correction of a path, or a new question like a given one."""

    kind: Literal["path", "correction", "evolution"]
    question: str
    original: str = ""
    steps: bool = True
    """Whether a correction is asked for with a step number (the prompt ends in its cue)."""


def last_user_text(messages: Sequence[Mapping[str, Any]]) -> str:
    """Return the text of the last user message, or the empty string."""
    for message in reversed(messages):
        if message.get("role") == "user":
            content = message.get("content")
            if isinstance(content, list):
                return "\n".join(str(part.get("text", "")) for part in content if isinstance(part, Mapping))
            return content if isinstance(content, str) else ""
    return ""


def read_request(text: str) -> Asked:
    """Return what the text of a prompt, its last user message, asks for; other instructions may surround the labels."""
    if given := list(_GIVEN.finditer(text)):
        seed = _CREATED.split(text[given[-1].end() :])[0]
        return Asked("evolution", _CHOICES.sub("", seed).strip())
    if original := list(_ORIGINAL.finditer(text)):
        head, tail = text[: original[-1].start()], text[original[-1].end() :]
        body = _CUE.sub("", tail)
        # Some prompts put the original solution into braces.
        solution = body.strip().removeprefix("{")
        solution = solution[:-1].strip() if solution.endswith("}") else solution.strip()
        return Asked("correction", _question(head), solution, steps=body != tail)
    return Asked("path", _question(text))


def _question(text: str) -> str:
    # The last label: worked examples in the same message have labels too.
    marks = list(_QUESTION_LABEL.finditer(text))
    start = marks[-1].end() if marks else 0
    end = _END_OF_QUESTION.search(text, start)
    return text[start : end.start() if end else len(text)].strip()


def lookup_key(text: str) -> str:
    """Return what two spellings of one question share."""
    return " ".join(text.split()).casefold()


@dataclass(slots=True)
class Library:
    """Questions by text, and recorded solutions by model and question.

    A row of its files (JSONL, JSON, Parquet, XML) may be a `Question` or `ReasoningPath` as LeMa's artifacts have them,
    or a row of a task's own source (GSM8K, MATH, CSQA, ...). It may be one of GSM8K's recorded solutions
    (``example_model_solutions.jsonl``: a column per model), or have the columns ``question``, ``gold_answer``,
    ``gold_solution``, ``model`` and ``solution``.
    """

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
            # Built from all problems at the next look-up, not once per added one.
            self._skeletons = None

    def record(self, model: str, question: str, solution: str) -> None:
        """Add one recorded solution; a model's solutions to a question are its samples, in this order."""
        self.recorded.setdefault(model, {}).setdefault(lookup_key(question), []).append(solution)

    def add_row(self, row: Mapping[str, Any], place: str) -> None:
        """Add what a row of a file holds.

        Raises:
            DataError: the row has none of the known formats.
        """
        # From the most to the least specific: a recorded path has the columns of a question as well.
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
                # The first task whose fields the row has: a row without a usable question adds nothing.
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


class UnknownModelError(Exception):
    """No simulated model has this name."""


class UnknownQuestionError(Exception):
    """The question is not among those the endpoint knows."""


def _wanted_fields(body: Mapping[str, Any]) -> Collection[str]:
    """Return the fields of the JSON schema that a request asks for; none without one."""
    found: Any = body.get("response_format")
    for name in ("json_schema", "schema", "properties"):
        found = found.get(name) if isinstance(found, Mapping) else None
    return found if isinstance(found, Mapping) else ()


@lru_cache(maxsize=2048)
def count_tokens(text: str) -> int:
    """Return a token count that is the same everywhere: words and single signs. Real tokenizers count more."""
    return len(_TOKEN.findall(text))


@dataclass(frozen=True, slots=True)
class Models:
    """All simulated models over one library."""

    library: Library
    seed: int = 0
    error_rate: float = 0.5
    """Share of the simulated student's paths that are wrong."""

    def names(self) -> list[str]:
        """Return the names of the models."""
        return [*TEACHERS, STUDENT, FIXED, *(REPLAY + name for name in sorted(self.library.recorded))]

    def describe(self) -> dict[str, Any]:
        """Return the list of models as the API writes it."""
        data = [{"id": name, "object": "model", "created": 0, "owned_by": "lema"} for name in self.names()]
        return {"object": "list", "data": data}

    def answer(self, body: Mapping[str, Any]) -> str:
        """Return the text that answers a chat completion request.

        Raises:
            UnknownModelError: there is no such model.
            UnknownQuestionError: the question is not among those the endpoint knows.
        """
        model = str(body.get("model", ""))
        if model == FIXED:
            return FIXED_TEXT
        asked = read_request(last_user_text(body["messages"]))
        # Greedy answers do not depend on the seed, as with a real server.
        sample = 0 if body.get("temperature") == 0 else int(body.get("seed") or 0)
        if model.startswith(REPLAY):
            name = model.removeprefix(REPLAY)
            if name not in self.library.recorded:
                raise UnknownModelError(f"nothing is recorded of {name!r}; there are {', '.join(self.names())}")
            solutions = self.library.samples(name, asked.question)
            if not solutions:
                raise UnknownQuestionError(f"{name!r} has no recorded solution to {asked.question[:80]!r}")
            return solutions[sample % len(solutions)]
        if model not in TEACHERS and model.partition("/")[0] != STUDENT:
            raise UnknownModelError(f"the model {model!r} does not exist; there are {', '.join(self.names())}")
        problem = self.library.find(asked.question)
        if problem is None:
            raise UnknownQuestionError(f"the question is not known here: {asked.question[:80]!r}")
        if asked.kind == "correction":
            shape: Shape = "choice" if problem.candidates and not asked.steps else "steps"
            wanted = _wanted_fields(body)
            if wanted:
                shape = "steps" if "step" in wanted else "choice"
            text = correct(problem, asked.original, shape)
            return render_structured(text, shape) if wanted else text
        rng = random.Random(f"{self.seed}|{model}|{sample}|{asked.kind}|{problem.question}")  # noqa: S311  # reproducible
        if asked.kind == "evolution":
            created = vary(problem, rng)
            # A variant of a variant must not pile up lead-ins: its origin would not be found again.
            while created.startswith(LEAD_IN + LEAD_IN):
                created = created.removeprefix(LEAD_IN)
            return f"#Created Question#: {created}"
        return solve(problem, rng, 0.0 if model in TEACHERS else self.error_rate)
