"""Several test sets: each compared item by item by itself, and all of them together.

Over all sets each set counts alike, as in an average of the columns: else the largest one would be nearly all of it. A
question that an earlier set has too (MATH-500 is a part of MATH) counts there only: twice, it would make the interval
too narrow.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import sqrt

from lema_core.evaluation import statistics
from lema_core.evaluation.accuracy import Comparison, Evaluation, compare_models
from lema_core.evaluation.statistics import Estimate, PairedDifference, paired_difference
from lema_core.questions.near_duplicates import with_signs
from lema_core.records import JudgedPath

Right = Mapping[str, Mapping[str, bool]]
"""By model and question id: whether the answer is right."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Averaged:
    """A model's accuracy over several test sets, each counted alike."""

    name: str
    accuracy: Estimate
    """The intervals of the sets, combined."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OverallComparison:
    """One arm against a reference over several test sets."""

    arm: str
    reference: str
    difference: Estimate
    """The mean of the sets' differences, each set counted alike; its interval combines theirs."""
    p_value: float
    """McNemar's exact p over the questions of all sets together: here a large set weighs more."""
    holm_p: float
    """The same, adjusted for all arms compared with the same reference."""
    only_arm: int
    only_reference: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Overall:
    """What several test sets say together."""

    sets: Mapping[str, int]
    """The questions that count, by set."""
    repeated: int
    """Questions left out because an earlier set has them."""
    scores: tuple[Averaged, ...]
    comparisons: tuple[OverallComparison, ...]

    @property
    def n(self) -> int:
        """Return the questions that count, of all sets."""
        return sum(self.sets.values())

    def score(self, name: str) -> Averaged | None:
        """Return a model's average; None where one of the sets has no answers of it."""
        return next((score for score in self.scores if score.name == name), None)

    def comparison(self, arm: str, reference: str | None) -> OverallComparison | None:
        """Return the comparison of two models; None where there is none."""
        return next((c for c in self.comparisons if (c.arm, c.reference) == (arm, reference)), None)


def compare_on_sets(
    tables: Mapping[str, Mapping[str, Iterable[JudgedPath]]], base: str = "base"
) -> tuple[dict[str, Evaluation], Overall | None]:
    """Compare the models on each test set, and over all; None for the latter with one set or none.

    With several sets Holm's p is adjusted for the comparisons of all of them: a reader looks at every column.

    Args:
        tables: by test set and model, one judged greedy path a question.
        base: what the base model is called.

    Raises:
        DataError: see ``compare_models``.
    """
    evaluations, right, texts = dict[str, Evaluation](), dict[str, Right](), dict[str, dict[str, str]]()
    for test_set, models in tables.items():
        rows = {name: list(table) for name, table in models.items()}
        right[test_set] = {name: {row.question_id: row.verdict == "right" for row in rows[name]} for name in rows}
        # Ids hold the task's name: only the text shows that two sets have one question.
        texts[test_set] = {row.question_id: with_signs(row.question) for row in next(iter(rows.values()), ())}
        own_base = rows.pop(base, None)
        evaluations[test_set] = compare_models(own_base, rows, base)
    if len(evaluations) < 2:
        return evaluations, None
    asked = [(c.arm, c.reference) for c in next(iter(evaluations.values())).comparisons]
    return adjust_over_sets(evaluations), _compare_overall(right, texts, asked)


def adjust_over_sets(evaluations: Mapping[str, Evaluation]) -> dict[str, Evaluation]:
    """Return the evaluations with each p adjusted for the comparisons with its reference on all test sets."""
    found = {
        (test_set, c.arm, c.reference): c.difference.p_value
        for test_set, evaluation in evaluations.items()
        for c in evaluation.comparisons
    }
    adjusted = dict[tuple[str, str, str], float]()
    for reference in {key[2] for key in found}:
        family = {str(number): key for number, key in enumerate(found) if key[2] == reference}
        values = statistics.adjust_by_holm({number: found[key] for number, key in family.items()})
        adjusted |= {family[number]: p for number, p in values.items()}

    def with_holm(test_set: str, comparison: Comparison) -> Comparison:
        family = sum(reference == comparison.reference for *_, reference in found)
        return replace(comparison, holm_p=adjusted[test_set, comparison.arm, comparison.reference], family=family)

    return {
        test_set: replace(evaluation, comparisons=tuple(with_holm(test_set, c) for c in evaluation.comparisons))
        for test_set, evaluation in evaluations.items()
    }


def mean_of(estimates: Sequence[Estimate]) -> Estimate:
    """Return the mean of independent estimates with its interval.

    The distances of each limit from its value add in squares (the MOVER of Zou and Donner, Statistics in Medicine 27,
    2008): that keeps the intervals' asymmetry, which a normal approximation loses near 0 and 1.
    """
    k = len(estimates)
    value = sum(estimate.value for estimate in estimates) / k
    below = sqrt(sum((estimate.value - estimate.low) ** 2 for estimate in estimates)) / k
    above = sqrt(sum((estimate.high - estimate.value) ** 2 for estimate in estimates)) / k
    return Estimate(value, value - below, value + above)


def _compare_overall(
    right: Mapping[str, Right], texts: Mapping[str, Mapping[str, str]], asked: Sequence[tuple[str, str]]
) -> Overall:
    items, seen = dict[str, list[str]](), set[str]()
    for test_set, text_of in texts.items():
        items[test_set] = sorted(question for question, text in text_of.items() if text not in seen)
        seen.update(text_of.values())
    repeated = sum(len(text_of) - len(items[test_set]) for test_set, text_of in texts.items())
    counted = {test_set: questions for test_set, questions in items.items() if questions}
    models = [name for name in next(iter(right.values())) if all(name in right[test_set] for test_set in counted)]

    def answers(name: str, test_set: str) -> list[bool]:
        return [right[test_set][name][question] for question in counted[test_set]]

    scores = tuple(
        Averaged(name=name, accuracy=mean_of([statistics.wilson(sum(a), len(a)) for a in found]))
        for name in models
        if (found := [answers(name, test_set) for test_set in counted])
    )
    pairs = [(arm, reference) for arm, reference in asked if arm in models and reference in models]
    compared = {
        (arm, reference): [paired_difference(answers(reference, name), answers(arm, name)) for name in counted]
        for arm, reference in pairs
    }
    return Overall(
        sets={test_set: len(questions) for test_set, questions in counted.items()},
        repeated=repeated,
        scores=scores,
        comparisons=_with_holm(compared),
    )


def _with_holm(compared: Mapping[tuple[str, str], Sequence[PairedDifference]]) -> tuple[OverallComparison, ...]:
    found = []
    for (arm, reference), differences in compared.items():
        won, lost = sum(d.only_arm for d in differences), sum(d.only_reference for d in differences)
        # All sets in one table: under chance alone each disagreement falls either way, whichever set it is from.
        p_value = statistics.mcnemar_p(won, lost)
        found.append(
            OverallComparison(
                arm=arm, reference=reference, difference=mean_of(differences), p_value=p_value, holm_p=p_value,
                only_arm=won, only_reference=lost,
            )
        )  # fmt: skip
    adjusted = dict[tuple[str, str], float]()
    for reference in {c.reference for c in found}:
        family = {c.arm: c.p_value for c in found if c.reference == reference}
        adjusted |= {(arm, reference): p for arm, p in statistics.adjust_by_holm(family).items()}
    return tuple(replace(c, holm_p=adjusted[c.arm, c.reference]) for c in found)
