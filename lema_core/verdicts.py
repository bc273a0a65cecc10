"""Verdicts on reasoning paths, and the mistakes among them (paper, section 2.1: Ans(r) != a).

A path without an answer, with several or with a refusal is a class of its own and by default no mistake: there is no
wrong step to find in it. Mistakes are selected as a stream: equal ones once, with caps, the first ones first.
"""

import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from operator import attrgetter
from typing import Literal

from lema_core.answers import judge
from lema_core.answers.results import Judgement
from lema_core.questions import get_task
from lema_core.records import Correction, JudgedPath, ReasoningPath, Rejection, content_id
from lema_core.scoring.pool import Scored
from lema_core.scoring.scores import SCORER_REASONS
from lema_core.steps import split_path

REASONS = SCORER_REASONS | {
    "unknown_verdict": "it could not be decided whether the answer is right",
    "right": "the answer is right",
    "wrong": "the answer is wrong, and wrong answers were not asked for",
    "none": "the path gives no answer",
    "ambiguous": "the path gives more than one answer",
    "refused": "the student declined to answer",
    "unknown": "it could not be decided whether the answer is right",
    "equal_mistake": "an earlier path reaches the same wrong answer by the same steps",
    "question_cap": "enough mistakes of this question were selected",
    "student_cap": "enough mistakes of this student on this question were selected",
}
"""Every reason code of the verdicts (of a scorer, and ``unknown_verdict``) and of the selection of mistakes."""

EQUATION = re.compile(r"(?<![\d,.])[,.]*+(\d[\d,.]*+(?:\s*+(?:[^\W\d_]++\s++){0,4}[-+*/×÷x^=%$]++\s*+\$?\d[\d,.]*+)+)")
"""Tried only where a number begins: from every digit of a long one the search would take quadratic time."""
UNIT_WORDS = re.compile(r"[^\W\d_]{2,}")
"""A letter alone is an unknown or a sign of multiplication."""
OPERATORS = r"+\-−*·×÷/=<>≤≥≠^"
LETTERS = re.compile(rf"[^\w{OPERATORS}]+")
AROUND_OPERATORS = re.compile(rf" ?([{OPERATORS}]) ?")
PATH_FIELDS = tuple(item.name for item in fields(ReasoningPath))
PATH_VALUES = attrgetter(*PATH_FIELDS)


def judge_path(
    path: ReasoningPath, unknown: Literal["reject", "wrong"] = "reject", found: Judgement | Scored | None = None
) -> JudgedPath | Rejection:
    """Return the path with its verdict against the gold answer.

    Args:
        path: a path of a task that ``get_task`` knows by its name.
        unknown: what becomes of a path that the matcher or the scorer cannot decide: a rejection, or a wrong path.
        found: the verdict of the task's scorer. None: the matcher decides, by the task's family.

    Raises:
        ConfigError: no verdict is given and the task has no family.
    """
    if found is None:
        found = judge(path.text, path.gold, get_task(path.task).comparable, path.candidates)
    reason = found.reason if isinstance(found, Scored) else ""
    if found.verdict == "unknown" and unknown == "reject":
        code = found.decided_by if isinstance(found, Scored) else "unknown_verdict"
        detail = reason or f"{REASONS[code]}: {found.answer!r} against {path.gold!r}"
        return Rejection.of(path.id, code, detail, text=path.text, request_key=path.request_key)
    verdict = "wrong" if found.verdict == "unknown" else found.verdict
    plain = zip(PATH_FIELDS, PATH_VALUES(path), strict=True)
    return JudgedPath(**dict(plain), verdict=verdict, answer=found.answer, decided_by=found.decided_by, reason=reason)


@dataclass(slots=True)
class MistakeSelection:
    """Selects mistakes from a stream of judged paths; remembers 8 bytes per mistake, per cap a count per question."""

    verdicts: Collection[str] = ("wrong",)
    """Which verdicts are mistakes."""
    per_question: int | None = None
    """Up to this many per question."""
    per_student: int | None = None
    """Up to this many per student and question."""
    _seen: set[int] = field(default_factory=set)
    _counts: Counter[tuple[str, str]] = field(default_factory=Counter)

    def select(self, paths: Iterable[JudgedPath]) -> Iterator[JudgedPath | Rejection]:
        """Yield each path that is a selected mistake, and a rejection without text for each other one."""
        for path in paths:
            reason = self._reason_against(path)
            if reason is None:
                yield path
            else:
                yield Rejection.of(path.id, reason, REASONS[reason], request_key=path.request_key)

    def _reason_against(self, path: JudgedPath) -> str | None:
        if path.verdict not in self.verdicts:
            return path.verdict
        key = mistake_key(path)
        if key in self._seen:
            return "equal_mistake"
        of_question, of_student = (path.question_id, ""), (path.question_id, path.student)
        caps = (("question_cap", of_question, self.per_question), ("student_cap", of_student, self.per_student))
        for reason, counted, cap in caps:
            if cap is not None and self._counts[counted] >= cap:
                return reason
        self._seen.add(key)
        self._counts.update(counted for _, counted, cap in caps if cap is not None)
        return None


def select_mistakes(
    paths: Iterable[JudgedPath], per_question: int | None = None, per_student: int | None = None
) -> Iterator[JudgedPath | Rejection]:
    """Yield each wrong path that is a mistake to correct, and a rejection for each other path.

    Equal mistakes count once. ``per_question`` and ``per_student`` (on one question) are caps.
    """
    return MistakeSelection(per_question=per_question, per_student=per_student).select(paths)


def mistake_key(path: JudgedPath) -> int:
    """Return a number that is equal for equal mistakes: the same wrong value by the same steps.

    Two steps are the same if they compute the same: a step with equations of numbers counts by these, one without by
    its words and operators.
    """
    steps = (_step_key(step) for step in split_path(path.text).steps)
    return int(content_id("m", path.question_id, path.answer, *steps).removeprefix("m-"), 16)


def _step_key(step: str) -> str:
    equations = EQUATION.findall(step)
    if not equations:
        return AROUND_OPERATORS.sub(r"\1", LETTERS.sub(" ", step.casefold())).strip()
    joined = " ".join("".join(UNIT_WORDS.sub("", equation).split()) for equation in equations)
    return joined.replace(",", "").replace("$", "").replace("×", "*").replace("x", "*").replace("÷", "/").rstrip(".")


@dataclass(frozen=True, slots=True)
class Difficulty:
    """What the students made of the questions of one level, and how many of their mistakes were corrected."""

    level: str
    questions: int
    paths: int
    verdicts: dict[str, int]
    """Paths by verdict."""
    mistakes: int
    """Mistaken paths that were sent to the corrector: those that repeat another or exceed a cap were not."""
    corrected: int
    """... with an accepted correction."""

    @property
    def right_rate(self) -> float:
        """Return the share of right paths, 0 to 1."""
        return self.verdicts.get("right", 0) / self.paths if self.paths else 0.0


SHARES = ("never right", "right in less than half", "right in half or more", "always right")
"""Classes of a question by the share of its samples that are right: a difficulty that every task has."""


def right_shares(paths: Iterable[JudgedPath]) -> dict[str, str]:
    """Return the class in ``SHARES`` of each question, by id."""
    right: Counter[str] = Counter()
    total: Counter[str] = Counter()
    for path in paths:
        total[path.question_id] += 1
        right[path.question_id] += path.verdict == "right"
    never, less, more, always = SHARES
    return {
        question: (always if right[question] else never)
        if right[question] in (0, count)
        else (more if 2 * right[question] >= count else less)
        for question, count in total.items()
    }


def difficulty(
    paths: Iterable[JudgedPath],
    mistakes: Iterable[JudgedPath] = (),
    corrections: Iterable[Correction] = (),
    classes: Mapping[str, str] | None = None,
) -> list[Difficulty]:
    """Return the statistics by level, in the levels' order; a question without a level is under ``-``.

    ``mistakes`` are the paths that were sent to the corrector. ``classes`` puts another class in the place of a
    question's level, by id, as ``right_shares`` does.
    """

    def named(row: JudgedPath | Correction) -> str:
        return classes[row.question_id] if classes is not None else row.level or "-"

    questions: dict[str, set[str]] = {}
    verdicts: dict[str, Counter[str]] = {}
    corrected: dict[str, set[str]] = {}
    for path in paths:
        questions.setdefault(named(path), set()).add(path.question_id)
        verdicts.setdefault(named(path), Counter())[path.verdict] += 1
    for correction in corrections:
        corrected.setdefault(named(correction), set()).add(correction.path_id)
    sent = Counter(named(path) for path in mistakes)

    def place(item: tuple[str, object]) -> tuple[int, int, str]:
        level = item[0]
        return (SHARES.index(level) if level in SHARES else 0, len(level), level)

    return [
        Difficulty(
            level, len(questions[level]), sum(counts.values()), dict(counts), sent[level], len(corrected.get(level, ()))
        )
        for level, counts in sorted(verdicts.items(), key=place)
    ]
