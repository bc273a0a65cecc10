"""Accuracy of the base model and of each arm on the same held-out questions, compared item by item.

Takes judged paths, gives figures; it neither runs a model nor judges an answer. A path counts as right only where its
verdict is ``right``: an answer that is missing, ambiguous or undecided is not right, and is counted by name.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import partial
from itertools import groupby
from typing import Any, NamedTuple

from lema_core.answers import judge, majority_vote
from lema_core.answers.results import Judgement
from lema_core.errors import DataError
from lema_core.evaluation import statistics
from lema_core.evaluation.statistics import Estimate, PairedDifference, Proportion
from lema_core.llm.requests import Completion, Outcome
from lema_core.questions import get_task
from lema_core.reasoning_paths import PathRequest, parse_path, path_row
from lema_core.records import JudgedPath, ReasoningPath, Rejection
from lema_core.reference_corrector.sound_paths import is_strictly_right
from lema_core.scoring.pool import Scored

FAILED = "failed"
"""The verdict of a question without an answer: the request failed for good, or the model wrote nothing."""
__all__ = ["ArmScore", "Comparison", "Evaluation", "LevelScore", "compare_models"]


def judge_answer(asked: PathRequest, model: str, outcome: Outcome) -> JudgedPath:
    """Return the answer to one question, judged by the matcher."""
    path = answer_of(asked, model, outcome)
    if isinstance(path, JudgedPath):
        return path
    return judged_answer(path, judge(path.text, path.gold, get_task(path.task).comparable, path.candidates))


def answer_of(asked: PathRequest, model: str, outcome: Outcome) -> ReasoningPath:
    """Return the answer to one question, not judged yet; already judged as ``FAILED`` where there is no text."""
    path = parse_path(asked.question, asked.sample_index, model, outcome)
    if isinstance(path, Rejection):
        if path.reason in ("cut_in_thinking", "only_thinking") and isinstance(outcome, Completion):
            # It was answered, and has no answer: never judged by a number inside its thinking.
            row = path_row(asked.question, asked.sample_index, model, path.detail, outcome)
            return _to_judged_path(row, verdict="none", answer=None, decided_by="thinking")
        row = path_row(asked.question, asked.sample_index, model, path.detail)
        return _to_judged_path(row, verdict=FAILED, answer=None, decided_by="none")
    return path


def judged_answer(path: ReasoningPath, found: Judgement | Scored) -> JudgedPath:
    """Return an answer with its verdict. One that cannot be decided is kept: it is not right, but may have a vote."""
    return _to_judged_path(path, **asdict(found))


def _to_judged_path(path: ReasoningPath, **judgement: Any) -> JudgedPath:
    return JudgedPath(**{field.name: getattr(path, field.name) for field in fields(ReasoningPath)}, **judgement)


@dataclass(frozen=True, slots=True, kw_only=True)
class PassScore:
    """One model's chance that one of ``k`` samples is right, the mean over the questions."""

    k: int
    accuracy: Proportion
    """Questions count in part, so Wilson's interval errs to the wide side."""
    difference: Estimate | None
    """To the base model on the same items (bootstrap over items); None for the base model itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VoteScore:
    """What ``k`` samples of one model reach: where their majority answers, and where one of them is right."""

    name: str
    k: int
    accuracy: Proportion | None
    """Of the majority: a tie counts by the share of the tied answers that are right. None where a scorer judges single
    texts and no two answers can be compared."""
    difference: Estimate | None
    """To the base model on the same items (bootstrap over items); None for the base model itself."""
    passes: tuple[PassScore, ...] = ()
    """pass@k, by k."""


class _Item(NamedTuple):
    """What the samples of one question give."""

    majority: float | None
    """The share of the vote that is right; None where answers cannot be compared."""
    samples: int
    right: int


def score_votes(
    tables: Mapping[str, Iterable[JudgedPath]], base: str = "base", pass_at: Sequence[int] = ()
) -> tuple[VoteScore, ...]:
    """Return maj@k and pass@k of each model, in the order of ``tables``; a model's rows come question by question.

    ``pass_at`` are the k of pass@k; empty: the powers of two up to the number of samples.

    Raises:
        DataError: no rows, questions with different numbers of samples, or models asked different questions.
    """
    if not tables:
        return ()
    voted = {name: _vote_shares(name, rows) for name, rows in tables.items()}
    first, reference = next(iter(voted.values())), voted.get(base)
    for name, found in voted.items():
        if found.keys() != first.keys():
            raise DataError(f"maj@k: {name} was asked other questions than the first model: evaluate both on the same.")
    scores = []
    for name, found in voted.items():
        items = [found[item] for item in first]
        others = [reference[item] for item in first] if reference is not None and name != base else None
        k = max(item.samples for item in items)
        powers = [2**power for power in range(k.bit_length())]
        vote = None if items[0].majority is None else _mean_share(items, others, lambda item: item.majority or 0.0)
        accuracy, difference = vote or (None, None)
        passes = [
            PassScore(k=at, accuracy=passed, difference=gained)
            for at in (pass_at or powers)
            for passed, gained in [_mean_share(items, others, partial(_passed, k=at))]
        ]
        scores.append(VoteScore(name=name, k=k, accuracy=accuracy, difference=difference, passes=tuple(passes)))
    return tuple(scores)


def _passed(item: _Item, k: int) -> float:
    return statistics.pass_at_k(item.samples, item.right, k)


def _mean_share(
    items: Sequence[_Item], reference: Sequence[_Item] | None, share: Callable[[_Item], float]
) -> tuple[Proportion, Estimate | None]:
    """Return the mean of a share over the questions, and its difference to the reference."""
    value = [share(item) for item in items]
    difference = statistics.paired_bootstrap(list(map(share, reference)), value) if reference is not None else None
    return statistics.wilson(sum(value), len(value)), difference


def _vote_shares(name: str, rows: Iterable[JudgedPath]) -> dict[str, _Item]:
    """Return what each question's samples give."""
    found: dict[str, _Item] = {}
    for question, paths in groupby(rows, key=lambda row: row.question_id):
        item = list(paths)
        right = sum(row.verdict == "right" for row in item)
        found[question] = _Item(_majority_share(item), len(item), right)
    if len({item.samples for item in found.values()}) != 1:
        raise DataError(f"maj@k: {name} has {len(found)} questions with different numbers of samples; expected one k.")
    return found


def _majority_share(item: Sequence[JudgedPath]) -> float | None:
    """Return the share of a question's vote that is right."""
    family = get_task(item[0].task).family
    if family is None:
        return None
    # Two spellings of one wrong answer vote together.
    vote = majority_vote([row.answer for row in item], family, item[0].candidates)
    class_of = {position: str(number) for number, members in enumerate(vote.classes) for position in members}
    return statistics.majority_credit(
        [(class_of.get(position), row.verdict == "right") for position, row in enumerate(item)]
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ArmScore:
    """One model's accuracy on the items."""

    name: str
    accuracy: Proportion
    verdicts: Mapping[str, int]
    """How many paths got each verdict; sums to the number of items."""
    strict: Proportion | None = None
    """Right, and no step states false arithmetic: a right answer by luck is not counted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """One arm against a reference on the same items."""

    arm: str
    reference: str
    difference: PairedDifference
    holm_p: float
    """McNemar's p adjusted for all arms compared with the same reference."""
    family: int = 1
    """Comparisons that it is adjusted for; of one alone there is nothing to adjust."""

    @property
    def shown(self) -> bool:
        """True where the interval excludes zero and so does the adjusted p: with several arms one alone may be luck."""
        return self.difference.resolved and self.holm_p < statistics.SIGNIFICANCE_LEVEL


@dataclass(frozen=True, slots=True, kw_only=True)
class LevelScore:
    """One model's accuracy on the items of one difficulty."""

    level: str
    arm: str
    accuracy: Proportion


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """The figures of one evaluation: scores in the order base, arms."""

    base: str | None
    """None where only arms were evaluated."""
    n: int
    scores: tuple[ArmScore, ...]
    comparisons: tuple[Comparison, ...]
    levels: tuple[LevelScore, ...]
    detectable: float
    """The smallest difference this many items show with 80 % power, at the largest share of disagreements seen; 1 where
    nothing was compared."""

    def score(self, name: str) -> ArmScore:
        """Return the score of ``name``; KeyError where there is none."""
        return {score.name: score for score in self.scores}[name]

    def comparison(self, arm: str, reference: str | None) -> Comparison | None:
        """Return the comparison of two names; None where there is none."""
        return next((c for c in self.comparisons if (c.arm, c.reference) == (arm, reference)), None)


def compare_models(
    base: Iterable[JudgedPath] | None,
    arms: Mapping[str, Iterable[JudgedPath]],
    base_name: str = "base",
    pairs: Sequence[tuple[str, str]] = (("lema", "cot"),),
) -> Evaluation:
    """Compare every arm with the base model, and the arms of ``pairs`` (arm, reference) where both are there.

    Args:
        base: one judged greedy path a question; None: only the arms are compared.
        arms: the same for each arm, by name.
        base_name: what the base model is called.
        pairs: further comparisons; those naming an absent arm are left out.

    Raises:
        DataError: no items, an item twice, or arms that were not asked the same questions.
    """
    if base_name in arms:
        raise DataError(f"An arm is called {base_name!r} like the base model. Give it another name.")
    given = arms if base is None else {base_name: base, **arms}
    if not given:
        raise DataError("There is nothing to evaluate: expected a base model, an arm, or both.")
    tables = {name: _by_question(name, rows) for name, rows in given.items()}
    items = _same_items(tables)
    right = {name: [table[i].verdict == "right" for i in items] for name, table in tables.items()}
    to_base = [] if base is None else [(arm, base_name) for arm in arms]
    asked = to_base + [(a, b) for a, b in pairs if a in arms and b in arms]
    comparisons = _compare(right, asked)
    return Evaluation(
        base=None if base is None else base_name,
        n=len(items),
        scores=tuple(
            ArmScore(
                name=name,
                accuracy=statistics.wilson(sum(right[name]), len(items)),
                verdicts=dict(sorted(Counter(row.verdict for row in table.values()).items())),
                strict=statistics.wilson(sum(map(is_strictly_right, table.values())), len(items)),
            )
            for name, table in tables.items()
        ),
        comparisons=comparisons,
        levels=_by_level(tables, items),
        detectable=_detectable(comparisons, len(items)),
    )


def _by_question(name: str, rows: Iterable[JudgedPath]) -> dict[str, JudgedPath]:
    table: dict[str, JudgedPath] = {}
    for row in rows:
        if row.question_id in table:
            raise DataError(
                f"{name} has two paths for question {row.question_id}; an evaluation takes one greedy path a question. "
                "Evaluate with one sample at temperature 0."
            )
        table[row.question_id] = row
    if not table:
        raise DataError(
            f"{name} has no judged paths: there is nothing to evaluate. Expected one greedy answer a test question: "
            "see the rejected rows of its evaluation, or ask more test questions."
        )
    return table


def _same_items(tables: Mapping[str, Mapping[str, JudgedPath]]) -> list[str]:
    first = next(iter(tables))
    base = tables[first].keys()
    for name, table in tables.items():
        missing, extra = sorted(base - table.keys()), sorted(table.keys() - base)
        if missing or extra:
            raise DataError(
                f"{first} and {name} were not asked the same questions: {name} lacks {len(missing)} "
                f"{missing[:3]} and has {len(extra)} others {extra[:3]}. A paired comparison needs the same items: "
                "evaluate both on the same test questions."
            )
    return sorted(base)


def _compare(right: Mapping[str, Sequence[bool]], asked: Sequence[tuple[str, str]]) -> tuple[Comparison, ...]:
    found = {(a, b): statistics.paired_difference(right[b], right[a]) for a, b in asked}
    adjusted: dict[tuple[str, str], float] = {}
    families = Counter(b for _, b in asked)
    # Holm's correction per reference: the comparisons to the base are one family, those between arms others.
    for reference in {b for _, b in asked}:
        family = {a: d.p_value for (a, b), d in found.items() if b == reference}
        adjusted |= {(a, reference): p for a, p in statistics.adjust_by_holm(family).items()}
    return tuple(
        Comparison(arm=a, reference=b, difference=d, holm_p=adjusted[a, b], family=families[b])
        for (a, b), d in found.items()
    )


def _detectable(comparisons: Sequence[Comparison], n: int) -> float:
    if not comparisons:
        return 1.0
    shares = [(c.difference.only_arm + c.difference.only_reference) / n for c in comparisons]
    # Without a single disagreement the data say nothing about the spread; one item is the least it can be.
    return statistics.minimal_detectable_difference(n, max([*shares, 1 / n]))


def _by_level(tables: Mapping[str, Mapping[str, JudgedPath]], items: Sequence[str]) -> tuple[LevelScore, ...]:
    first = next(iter(tables.values()))
    levels: dict[str, list[str]] = {}
    for item in items:
        level = first[item].level
        if level is None:
            # The length of the gold rationale: the only difficulty that is always known.
            steps = len(re.findall(r"^Step \d+:", first[item].rationale or "", flags=re.MULTILINE))
            level = "unknown" if steps == 0 else f"{steps} step{'s' if steps > 1 else ''}"
        levels.setdefault(level, []).append(item)
    # One level is the whole set, which the accuracies show already.
    if len(levels) < 2:
        return ()
    scores = []
    for level, members in sorted(levels.items(), key=lambda pair: _natural(pair[0])):
        for name, table in tables.items():
            right = sum(table[item].verdict == "right" for item in members)
            scores.append(LevelScore(level=level, arm=name, accuracy=statistics.wilson(right, len(members))))
    return tuple(scores)


def _natural(text: str) -> list[tuple[int, int, str]]:
    """Order "Level 2" before "Level 10"."""
    return [(0, int(s), "") if s.isdigit() else (1, 0, s) for s in re.split(r"(\d+)", text)]
