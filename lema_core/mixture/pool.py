"""The shared pool: everything the rounds made, readable as often as an arm needs, never held in memory."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from lema_core.mixture.arms import Arm, RoundEvolution, Rows, View
from lema_core.mixture.formats import example_of_correction, example_of_path, example_of_rationale
from lema_core.records import Correction, Example, JudgedPath, Question


@dataclass(frozen=True, slots=True)
class RoundData:
    """What one round made of one set of questions. Each field is called for a fresh reading."""

    questions: Callable[[], Iterable[Question]]
    paths: Callable[[], Iterable[JudgedPath]]
    corrections: Callable[[], Iterable[Correction]]
    round: int = 0
    evolution: RoundEvolution = "none"


Pool = Sequence[RoundData]


def examples(view: View, pool: Pool) -> Iterator[tuple[str, Example]]:
    """Yield (question text, example) of the view in the pool's order: the same each time it is called."""
    taken: Counter[str] = Counter()
    for source in pool:
        where = view.where
        if not (_in(where.rounds, source.round) and _in(where.evolution, source.evolution)):
            continue
        for text, example in _rows(view, source):
            taken[example.question_id] += 1
            rank = taken[example.question_id] - where.skip_per_question
            if rank > 0 and (where.per_question is None or rank <= where.per_question):
                yield text, example


def reads(arm: Arm, round_number: int, evolution: RoundEvolution) -> frozenset[Rows]:
    """Return which rows of a source an arm, or the arm whose size it is brought to, reads: only they decide it."""
    views = (*arm.views, *arm.fill, *arm.target)
    return frozenset(
        view.rows for view in views if _in(view.where.rounds, round_number) and _in(view.where.evolution, evolution)
    )


def _rows(view: View, source: RoundData) -> Iterator[tuple[str, Example]]:
    """Yield (question text, example) of the source's rows that the view's filter takes."""
    where, weight = view.where, view.weight
    if view.rows == "rationales":
        for question in source.questions():
            example = example_of_rationale(question, weight)
            if example is not None and _in(where.levels, question.level):
                yield question.text, example
    elif view.rows == "right_paths":
        for path in source.paths():
            if path.verdict == "right" and _in(where.students, path.student) and _in(where.levels, path.level):
                yield path.question, example_of_path(path, view.format, weight)
    else:
        for row in source.corrections():
            by_model = _in(where.students, row.student) and _in(where.correctors, row.corrector)
            if by_model and _in(where.levels, row.level):
                yield row.question, example_of_correction(row, view.format, weight)


def _in(allowed: tuple[object, ...] | None, value: object) -> bool:
    return allowed is None or value in allowed
