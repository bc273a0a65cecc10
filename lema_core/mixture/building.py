"""From an arm and the shared pool to its examples: screened, brought to size, shuffled; rows left out have a reason.

The pool is what the rounds made, read again for each arm and never held in memory: once, and three times for an arm
that is brought to another's size. In memory are a few bytes per row for the screening and one bucket of the shuffle.
"""

import json
import re
import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field, fields
from heapq import nsmallest
from operator import attrgetter
from typing import IO, Self

from lema_core.errors import DataError
from lema_core.mixture.arms import PATHS_PER_QUESTION, Arm, RoundEvolution, Rows, SizeMatch, View, Where
from lema_core.mixture.exchange import exchanged
from lema_core.mixture.formats import (
    example_of_correction,
    example_of_path,
    example_of_rationale,
    preference_of_paths,
)
from lema_core.mixture.pool import Pool, RoundData, corrections_of, rank, selects, selects_path, takes
from lema_core.questions.near_duplicates import KnownQuestions
from lema_core.records import Correction, Example, JudgedPath, MaskedExample, Question, Rejection, content_id
from lema_core.reference_corrector.sound_paths import is_sound


def examples(view: View, pool: Pool) -> Iterator[tuple[str, Example]]:
    """Yield (question text, example) of the view in the pool's order: the same each time it is called."""
    taken: Counter[str] = Counter()
    for source in pool:
        where = view.where
        if not selects(where, source.round, source.evolution):
            continue
        for text, example in _rows(view, source):
            taken[example.question_id] += 1
            number = taken[example.question_id] - where.skip_per_question
            if number > 0 and (where.per_question is None or number <= where.per_question):
                yield text, example


def reads(arm: Arm, round_number: int, evolution: RoundEvolution) -> frozenset[Rows]:
    """Return which rows of a source an arm, or the arm whose size it is brought to, reads: only they decide it."""
    views = [view for view in (*arm.views, *arm.fill, *arm.target) if selects(view.where, round_number, evolution)]
    restarts: frozenset[Rows] = frozenset({"rationales", "right_paths"})
    also = restarts if any(view.format == "fresh_restart" for view in views) else frozenset()
    return also.union(view.rows for view in views)


def _rows(view: View, source: RoundData) -> Iterator[tuple[str, Example]]:
    """Yield (question text, example) of the source's rows that the view's filter takes."""
    where, weight = view.where, view.weight
    if view.rows == "rationales":
        for question in source.questions():
            example = example_of_rationale(question, weight)
            if example is not None and takes(where.levels, question.level):
                yield question.text, example
    elif view.format == "outcome_preference":
        yield from _outcome_pairs(where, source)
    elif view.rows == "right_paths":
        for path in _right_paths(where, source):
            yield path.question, example_of_path(path, view.format, weight)
    elif view.rows == "wrong_paths":
        for path in source.paths():
            if path.verdict == "wrong" and selects_path(where, path):
                yield path.question, example_of_path(path, view.format, weight)
    else:
        solutions = _solutions(source) if view.format == "fresh_restart" else None
        for row in corrections_of(source, where):
            example = example_of_correction(row, view.format, weight, solutions)
            if example is not None:
                yield row.question, example


def _outcome_pairs(where: Where, source: RoundData) -> Iterator[tuple[str, Example]]:
    """Yield (question text, pair): a question's first right path against its first wrong one, and so on.

    In memory are the wrong paths of up to `PATHS_PER_QUESTION` per question.
    """
    wrong = defaultdict[str, list[JudgedPath]](list)
    for path in source.paths():
        if path.verdict == "wrong" and selects_path(where, path):
            known = wrong[path.question_id]
            if len(known) < (where.per_question or PATHS_PER_QUESTION):
                known.append(path)
    for path in source.paths():
        if path.verdict == "right" and selects_path(where, path) and wrong[path.question_id]:
            yield path.question, preference_of_paths(path, wrong[path.question_id].pop(0))


def _right_paths(where: Where, source: RoundData) -> Iterator[JudgedPath]:
    """Yield the right paths that a view's filter takes: those of preferred models first, read once for each."""
    preferred = where.prefer or ()
    for wanted in (*preferred, None):
        for path in source.paths():
            named = path.student == wanted if wanted is not None else path.student not in preferred
            if not (named and path.verdict == "right" and selects_path(where, path)):
                continue
            if where.sound is None or where.sound is is_sound(path):
                yield path


def _solutions(source: RoundData) -> dict[str, str]:
    """Return a whole solution of each question that has a correction: its rationale, else its first right path."""
    wanted = {row.question_id for row in source.corrections()}
    found = {
        question.id: question.rationale
        for question in source.questions()
        if question.id in wanted and question.rationale is not None
    }
    for path in source.paths():
        if path.verdict == "right" and path.question_id in wanted and path.question_id not in found:
            found[path.question_id] = example_of_path(path, "cot").output
    return found


REASONS = {
    "duplicate_example": "the arm holds an example with this input and output already",
    "duplicate_but_thinking": "the arm holds this input and output already; thinking is trained with the first only",
    "test_overlap": "the question is one of the test questions",
    "held_out": "the question is held out for choosing the checkpoint",
    "no_preference": "the right step and the wrong one are the same text",
    "over_size": "left out by chance, to bring the arm to its size",
}
"""Every reason code of this stage."""
WORD = re.compile(r"\w+|[^\w\s]")
Row = Example | Rejection
BUCKETS = 16
NAMES = tuple(item.name for item in fields(Example))
VALUES = attrgetter(*NAMES)
MASKED_VALUES = attrgetter(*NAMES, "masked")


def count_words(text: str) -> int:
    """Return the number of words, numbers and signs: a stand-in for tokens that needs no tokenizer."""
    return sum(1 for _ in WORD.finditer(text))


def count_target_words(example: Example) -> int:
    """Return the words of what an example trains: its output, of a pair both sides."""
    return count_words(example.output) + count_words(example.worse or "")


@dataclass(frozen=True, slots=True)
class MixtureRules:
    """What holds for every arm of a mixture."""

    seed: int = 0
    """Fixes the order, and what a size-matched arm leaves out."""
    test_questions: KnownQuestions = field(default_factory=KnownQuestions)
    """Examples of these questions are rejected."""
    held_out: Collection[str] = ()
    """Ids of the training questions kept back for choosing the checkpoint."""
    count_targets: Callable[[Example], int] = count_target_words
    """Of an example's trained tokens, for arms that are matched by tokens."""


_DEFAULT_RULES = MixtureRules()


def build_arm(arm: Arm, pool: Pool, rules: MixtureRules = _DEFAULT_RULES) -> Iterator[Row]:
    """Yield the arm's rejections and then its examples in the seeded order.

    Raises:
        DataError: the arm has no example, or the pool is too small, or the arm's fixed part too large, for its size.
    """
    kept = rejected = 0
    with Shuffle(rules.seed) as shuffle:
        sized = _Screen(rules).rows(arm.views, pool) if arm.match is None else _trimmed(arm, arm.match, pool, rules)
        for row in sized:
            if isinstance(row, Rejection):
                rejected += 1
                yield row
            else:
                kept += 1
                # One record per arm: its table has the column for all rows or for none.
                shuffle.add(_with_mask(row) if arm.masked else row)
        yield from shuffle.rows()
    if not kept:
        raise DataError(
            f"The arm {arm.name} has no example: {rejected} rows of the pool were rejected and none is left. "
            "Expected rationales, right paths or corrections: sample more paths, or leave the arm out."
        )


def _with_mask(row: Example) -> MaskedExample:
    return row if isinstance(row, MaskedExample) else MaskedExample(**dict(zip(NAMES, VALUES(row), strict=True)))


def held_out_questions(questions: Iterable[Question], count: int, seed: int = 0) -> list[Question]:
    """Return a seeded choice of training questions to choose a checkpoint on, in place of the test set."""
    return nsmallest(count, questions, key=lambda question: rank(seed, question.id))


def _trimmed(arm: Arm, match: SizeMatch, pool: Pool, rules: MixtureRules) -> Iterator[Row]:
    """Yield the fixed part, and of the fill the rows that come first in the seeded order, up to the size."""
    limit = _last_rank(arm, match, pool, rules)
    screen = _Screen(rules)
    yield from screen.rows(arm.views, pool)
    for row in screen.rows(arm.fill, pool):
        if isinstance(row, Example) and rank(rules.seed, row.id) > limit:
            yield _reject(row, "over_size")
        else:
            yield row


def _last_rank(arm: Arm, match: SizeMatch, pool: Pool, rules: MixtureRules) -> int:
    """Return the rank of the last row of the fill that still fits; -1 where none does."""

    def sizes(views: tuple[View, ...], screen: _Screen) -> Iterator[tuple[int, int]]:
        """Yield (rank, size) of each example that the views give."""
        for row in screen.rows(views, pool):
            if isinstance(row, Example):
                size = 1 if match.by == "rows" else rules.count_targets(row)
                yield rank(rules.seed, row.id), size

    counted = "rows" if match.by == "rows" else "target tokens"
    target = sum(size for _, size in sizes(arm.target, _Screen(rules)))
    screen = _Screen(rules)  # of both parts together: a row of the fill may repeat one of the fixed part
    fixed = sum(size for _, size in sizes(arm.views, screen))
    room = target - fixed
    if room < 0:
        raise DataError(
            f"The arm {arm.name} must have the {target} {counted} of {match.arm}, but its fixed part alone has "
            f"{fixed}. Sample more right paths, or leave the arm out."
        )
    fill = list(sizes(arm.fill, screen))
    available = sum(size for _, size in fill)
    if available < room:
        raise DataError(
            f"The arm {arm.name} needs {target} {counted} to match {match.arm}: {room} more are required, but the "
            f"pool has only {available}. Sample more paths per question (`samples` of a student), or leave the arm out."
        )
    last = -1
    # In the seeded order, not greedily by size: a shorter row further on must not be favoured
    for place, size in sorted(fill):
        room -= size
        if room < 0:
            break
        last = place
    return last


class _Screen:
    """Rejects test questions, held-out questions, repeated examples, pairs of equals; remembers 8 bytes per example."""

    def __init__(self, rules: MixtureRules) -> None:
        self._rules = rules
        self._seen: set[int] = set()

    def rows(self, views: tuple[View, ...], pool: Pool) -> Iterator[Row]:
        for view in views:
            for text, example in examples(view, self._exchanged(view, pool)):
                reason = self._reason_against(text, example)
                yield example if reason is None else _reject(example, reason)

    def _exchanged(self, view: View, pool: Pool) -> Pool:
        """Return the pool that the view reads: of a view of others' corrections, with each in another one's place."""
        if not view.of_others:
            return pool
        rules = self._rules

        def usable(row: Correction) -> bool:
            # What must not be trained on must not come in as the correction of another path either.
            return row.question not in rules.test_questions and row.question_id not in rules.held_out

        return exchanged(view.where, pool, usable, rules.seed)

    def _reason_against(self, question: str, example: Example) -> str | None:
        if question in self._rules.test_questions:
            return "test_overlap"
        if example.question_id in self._rules.held_out:
            return "held_out"
        if example.worse == example.output:
            return "no_preference"
        text = (example.input, example.prefix, example.output, example.worse)
        key = int(content_id("e", *text).removeprefix("e-"), 16)
        if key in self._seen:
            # Its thinking is lost with it, also where training keeps thinking
            return "duplicate_but_thinking" if example.thinking else "duplicate_example"
        self._seen.add(key)
        return None


def _reject(example: Example, reason: str) -> Rejection:
    return Rejection.of(example.source_id, reason, REASONS[reason], example.id, text=example.output)


class Shuffle:
    """Takes rows in any order and gives them in the seeded one: a context manager, for its files."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        self._files = [self._stack.enter_context(_temporary_file()) for _ in range(BUCKETS)]
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def add(self, row: Example) -> None:
        """Take a row."""
        place = rank(self._seed, row.id)
        values = (MASKED_VALUES if isinstance(row, MaskedExample) else VALUES)(row)
        self._files[place * BUCKETS >> 64].write(json.dumps([place, row.id, values]) + "\n")

    def rows(self) -> Iterator[Example]:
        """Yield what was taken, in the seeded order."""
        # A bucket is a range of the order: rows sorted within each bucket are sorted altogether
        for file in self._files:
            file.seek(0)
            for _, _, values in sorted((json.loads(line) for line in file), key=lambda line: line[:2]):
                plain = dict(zip(NAMES, values, strict=False))
                masked = values[len(NAMES) :]
                yield MaskedExample(**plain, masked=masked[0] and tuple(masked[0])) if masked else Example(**plain)


def _temporary_file() -> IO[str]:
    # ASCII JSON holds any text, a lone surrogate of model text included.
    return tempfile.TemporaryFile("w+", encoding="ascii")
