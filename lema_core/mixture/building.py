"""From an arm and the pool to its examples: screened, brought to size, shuffled; every row left out has its reason.

The pool is read once, and for an arm that is brought to another's size three times. In memory are a few bytes a row for
the screening and one bucket of the shuffle, not the table.
"""

import re
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field
from heapq import nsmallest

from lema_core.errors import DataError
from lema_core.mixture.arms import Arm, Match, View
from lema_core.mixture.pool import Pool, examples
from lema_core.mixture.shuffling import Shuffle, rank
from lema_core.questions.near_duplicates import KnownQuestions
from lema_core.records import Example, Question, Rejection, content_id

REASONS = {
    "duplicate_example": "the arm holds an example with this input and output already",
    "test_overlap": "the question is one of the test questions",
    "held_out": "the question is held out for choosing the checkpoint",
    "no_preference": "the right step and the wrong one are the same text",
    "over_size": "left out by chance, to bring the arm to its size",
}
"""Every reason code of this stage."""

WORD = re.compile(r"\w+|[^\w\s]")
Row = Example | Rejection


def count_words(text: str) -> int:
    """Return the number of words, numbers and signs: a stand-in for tokens that needs no tokenizer."""
    return sum(1 for _ in WORD.finditer(text))


@dataclass(frozen=True, slots=True)
class MixtureRules:
    """What holds for every arm of a mixture."""

    seed: int = 0
    """Fixes the order, and what a size-matched arm leaves out."""
    test_questions: KnownQuestions = field(default_factory=KnownQuestions)
    """Examples of these questions are rejected."""
    held_out: Collection[str] = ()
    """Ids of the training questions kept back for choosing the checkpoint."""
    count_tokens: Callable[[str], int] = count_words


def build_arm(arm: Arm, pool: Pool, rules: MixtureRules) -> Iterator[Row]:
    """Yield the arm's rejections and then its examples in the seeded order.

    Raises:
        DataError: the arm has no example, or the pool is too small, or the arm's fixed part too large, for its size.
    """
    kept = rejected = 0
    with Shuffle(rules.seed) as shuffle:
        for row in _sized(arm, pool, rules):
            if isinstance(row, Rejection):
                rejected += 1
                yield row
            else:
                kept += 1
                shuffle.add(row)
        yield from shuffle.rows()
    if not kept:
        raise DataError(
            f"The arm {arm.name} has no example: {rejected} rows of the pool were rejected and none is left. "
            "Expected rationales, right paths or corrections: sample more paths, or leave the arm out."
        )


def held_out_questions(questions: Iterable[Question], count: int, seed: int = 0) -> list[Question]:
    """Return a seeded choice of training questions to choose a checkpoint on, in place of the test set."""
    return nsmallest(count, questions, key=lambda question: rank(seed, question.id))


def _views_size(views: tuple[View, ...], pool: Pool, rules: MixtureRules, by: str) -> int:
    return sum(_size(row, by, rules) for row in _screened(views, pool, rules) if isinstance(row, Example))


def _sized(arm: Arm, pool: Pool, rules: MixtureRules) -> Iterator[Row]:
    if arm.match is None:
        return _screened(arm.views, pool, rules)
    return _trimmed(arm, arm.match, pool, rules)


def _trimmed(arm: Arm, match: Match, pool: Pool, rules: MixtureRules) -> Iterator[Row]:
    """Yield the fixed part, and of the fill the rows that come first in the seeded order, up to the size."""
    limit = _last_rank(arm, match, pool, rules)
    fixed = _Reading(arm, pool, rules)
    yield from fixed.rows()
    for row in fixed.fill():
        if isinstance(row, Example) and rank(rules.seed, row.id) > limit:
            yield _reject(row, "over_size")
        else:
            yield row


def _last_rank(arm: Arm, match: Match, pool: Pool, rules: MixtureRules) -> int:
    """Return the rank of the last row of the fill that still fits; -1 where none does."""
    target = _views_size(arm.target, pool, rules, match.by)
    split = _Reading(arm, pool, rules)
    room = target - sum(_size(row, match.by, rules) for row in split.rows() if isinstance(row, Example))
    if room < 0:
        raise _too_large(arm, match, target, target - room)
    fill = [(rank(rules.seed, row.id), _size(row, match.by, rules)) for row in split.fill() if isinstance(row, Example)]
    if sum(size for _, size in fill) < room:
        raise _too_small(arm, match, target, room, sum(size for _, size in fill))
    last = -1
    for place, size in sorted(fill):
        room -= size
        if room < 0:
            break
        last = place
    return last


class _Reading:
    """One reading of an arm's two parts, screened together: a row of the fill may repeat one of the fixed part."""

    def __init__(self, arm: Arm, pool: Pool, rules: MixtureRules) -> None:
        self._arm, self._pool, self._screen = arm, pool, _Screen(rules)

    def rows(self) -> Iterator[Row]:
        return self._screen.all(self._arm.views, self._pool)

    def fill(self) -> Iterator[Row]:
        return self._screen.all(self._arm.fill, self._pool)


def _screened(views: tuple[View, ...], pool: Pool, rules: MixtureRules) -> Iterator[Row]:
    return _Screen(rules).all(views, pool)


class _Screen:
    """Rejects test questions, held-out questions, repeated examples, pairs of equals; remembers 8 bytes an example."""

    def __init__(self, rules: MixtureRules) -> None:
        self._rules = rules
        self._seen: set[int] = set()

    def all(self, views: tuple[View, ...], pool: Pool) -> Iterator[Row]:
        for view in views:
            for text, example in examples(view, pool):
                reason = self._reason_against(text, example)
                yield example if reason is None else _reject(example, reason)

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
            return "duplicate_example"
        self._seen.add(key)
        return None


def _size(example: Example, by: str, rules: MixtureRules) -> int:
    texts = (example.input, example.prefix, example.output, example.worse or "")
    return 1 if by == "rows" else sum(map(rules.count_tokens, texts))


def _reject(example: Example, reason: str) -> Rejection:
    return Rejection.of(example.source_id, reason, REASONS[reason], example.id, text=example.output)


def _too_large(arm: Arm, match: Match, target: int, fixed: int) -> DataError:
    return DataError(
        f"The arm {arm.name} must have the {target} {match.by} of {match.arm}, but its fixed part alone has {fixed}. "
        "Sample more right paths, or leave the arm out."
    )


def _too_small(arm: Arm, match: Match, target: int, room: int, there: int) -> DataError:
    return DataError(
        f"The arm {arm.name} must grow to the {target} {match.by} of {match.arm}: {room} are wanting, and the pool has "
        f"{there} more. Sample more paths a question (`samples` of a student), or leave the arm out."
    )
