"""The pool that all arms share: what each round made of one set of questions, and which of it a view takes."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from lema_core.mixture.arms import RoundEvolution, Where
from lema_core.records import Correction, ErrorType, JudgedPath, Question, content_id


@dataclass(frozen=True, slots=True)
class RoundData:
    """What one round made of one set of questions. Each field is called for a fresh reading."""

    questions: Callable[[], Iterable[Question]]
    paths: Callable[[], Iterable[JudgedPath]]
    corrections: Callable[[], Iterable[Correction]]
    round: int = 0
    evolution: RoundEvolution = "none"
    error_types: Callable[[], Iterable[ErrorType]] = tuple


Pool = Sequence[RoundData]


def selects(where: Where, round_number: int, evolution: RoundEvolution) -> bool:
    """Return whether a filter takes rows of a round."""
    return takes(where.rounds, round_number) and takes(where.evolution, evolution)


def corrections_of(source: RoundData, where: Where) -> Iterator[Correction]:
    """Yield the corrections of a round that a filter takes."""
    types = {row.path_id: row.error_type for row in source.error_types()} if where.error_types is not None else {}
    for row in source.corrections():
        by_model = takes(where.students, row.student) and takes(where.correctors, row.corrector)
        if by_model and takes(where.levels, row.level) and takes(where.error_types, types.get(row.path_id)):
            yield row


def selects_path(where: Where, path: JudgedPath) -> bool:
    """Return whether a filter takes a path, of a round that it takes."""
    return takes(where.students, path.student) and takes(where.levels, path.level)


def takes(allowed: tuple[object, ...] | None, value: object) -> bool:
    """Return whether a value passes a part of a filter; None takes all."""
    return allowed is None or value in allowed


def rank(seed: int, row_id: str) -> int:
    """Return the row's place in the seeded order, a number of 64 bits."""
    return int(content_id("o", seed, row_id).removeprefix("o-"), 16)
