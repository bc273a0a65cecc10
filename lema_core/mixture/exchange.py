"""Corrections of other questions' paths: the control that has the form of corrections and none of their content.

Every correction is used once, so that the trained tokens of the arm are those of the arm with the true ones. A path
gets one of the same step and about the same length. The view's corrections are held in memory.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from lema_core.errors import DataError
from lema_core.mixture.arms import Where
from lema_core.mixture.pool import Pool, RoundData, corrections_of, rank, selects
from lema_core.records import Correction

LENGTH_STEP = 40
"""Characters: outputs whose lengths differ by less count as of one length, and the seed decides among them."""


def exchanged(where: Where, pool: Pool, usable: Callable[[Correction], bool], seed: int) -> Pool:
    """Return the pool in which each correction that a filter takes has the content of another question's.

    Args:
        where: the filter.
        pool: of all rounds; corrections are exchanged over the rounds that the filter takes.
        usable: whether a correction may be trained on; the others stay as they are, to be rejected.
        seed: decides between corrections of one length.

    Raises:
        DataError: all corrections are of one question.
    """
    rows = [
        row
        for source in pool
        if selects(where, source.round, source.evolution)
        for row in corrections_of(source, where)
        if usable(row)
    ]
    rows.sort(key=lambda row: (row.step, _length(row) // LENGTH_STEP, rank(seed, row.id)))
    partners = pair_with_others([row.question_id for row in rows])
    donors = {row.id: rows[partner] for row, partner in zip(rows, partners, strict=True)}
    return [_with_donors(source, donors) for source in pool]


def pair_with_others(groups: Sequence[str]) -> list[int]:
    """Return for each place another one whose group differs, as near as possible; each is taken once where that can be.

    Raises:
        DataError: all places have the same group.
    """
    if groups and len(set(groups)) == 1:
        raise DataError(
            f"The {len(groups)} corrections are all of one question: none can stand for another question's. Expected "
            "corrections of two questions at least: sample more paths, or leave the arm placebo out."
        )
    partners = [(place + 1) % len(groups) for place in range(len(groups))]
    for place in range(len(groups)):
        if groups[partners[place]] == groups[place]:
            _exchange(place, partners, groups)
    return partners


def _exchange(place: int, partners: list[int], groups: Sequence[str]) -> None:
    """Exchange the partner of a place with that of the nearest place at which both then differ from their own."""
    for near in _outwards(place, len(groups)):
        ours, theirs = groups[partners[near]], groups[partners[place]]
        if ours != groups[place] and theirs != groups[near]:
            partners[place], partners[near] = partners[near], partners[place]
            return
    # One question has more than half of the corrections: some of the others' are used twice.
    partners[place] = next(near for near in _outwards(place, len(groups)) if groups[near] != groups[place])


def _outwards(place: int, count: int) -> Iterator[int]:
    for distance in range(1, count):
        yield from (near for near in (place + distance, place - distance) if 0 <= near < count)


def _length(row: Correction) -> int:
    return len(row.explanation) + len(row.correct_solution)


def _with_donors(source: RoundData, donors: dict[str, Correction]) -> RoundData:
    def corrections() -> Iterator[Correction]:
        for row in source.corrections():
            donor = donors.get(row.id)
            yield row if donor is None else _with_content(row, donor)

    return replace(source, corrections=corrections)


def _with_content(row: Correction, donor: Correction) -> Correction:
    """Return a correction of the row's path in the words of the donor; its id stays, for its origin."""
    return replace(
        row,
        step=donor.step,
        explanation=donor.explanation,
        correct_solution=donor.correct_solution,
        spliced=donor.spliced,
        thinking=donor.thinking,
    )
