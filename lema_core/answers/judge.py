"""Verdicts: on a solution text, on a pair of texts (``lema verify``), and over several answers by a vote."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

from lema_core.answers.extraction import extract, read_answer
from lema_core.answers.matching import CACHE, match
from lema_core.answers.results import (
    DEFAULT_POLICY,
    Extraction,
    Family,
    Judgement,
    Match,
    MatchOutcome,
    MatchPolicy,
    Verdict,
    Vote,
)
from lema_core.answers.worker_pool import Workers

_VERDICTS: Mapping[MatchOutcome, Verdict] = {"equal": "right", "different": "wrong", "unknown": "unknown"}


def judge(
    text: str,
    gold: str,
    family: Family = "numeric",
    candidates: tuple[str, ...] | None = None,
    *,
    workers: Workers | None = None,
    policy: MatchPolicy | None = None,
) -> Judgement:
    """Return the verdict on one solution: right, wrong, or why there is none (none, ambiguous, refused, unknown).

    ``policy`` says what an answer and the gold answer may differ in; None is the default policy.
    """
    found = extract(text, family, candidates)
    judged = None if found.value is None else _compared(gold, found.value, family, candidates, workers, policy)
    if judged is not None and judged.verdict == "right":
        return judged
    if found.alternative is not None:
        other = _compared(gold, found.alternative, family, candidates, workers, policy)
        # Only the gold answer can confirm this reading; that several letters are wrong, a gold of several letters says
        if other.verdict == "right" or (judged is None and other.verdict == "wrong"):
            return other
    if judged is None:
        verdict: Any = found.outcome
        return Judgement(verdict, None, "extraction")
    return judged


@lru_cache(maxsize=CACHE)
def _compared(
    gold: str,
    answer: str,
    family: Family,
    candidates: tuple[str, ...] | None,
    workers: Workers | None,
    policy: MatchPolicy | None,
) -> Judgement:
    result = match(gold, answer, family, candidates, workers=workers, policy=policy or DEFAULT_POLICY)
    return Judgement(_VERDICTS[result.outcome], answer, result.layer)


def judge_batch(
    texts: Any,
    golds: Any,
    family: Family = "numeric",
    candidates: Any = None,
    *,
    workers: Workers | None = None,
    policy: MatchPolicy | None = None,
) -> Any:
    """Judge Arrow columns; return an Arrow table of ``verdict``, ``answer`` and ``decided_by``, row for row.

    ``texts`` and ``golds`` are arrays or chunked arrays of strings of one length, ``candidates`` an array of lists of
    strings. A null text has the verdict "none".
    """
    import pyarrow as pa

    choices = candidates.to_pylist() if candidates is not None else [None] * len(texts)
    judged = [
        judge(text or "", gold, family, tuple(choice) if choice is not None else None, workers=workers, policy=policy)
        for text, gold, choice in zip(texts.to_pylist(), golds.to_pylist(), choices, strict=True)
    ]
    columns = {
        name: pa.array([getattr(judgement, name) for judgement in judged], pa.string()) for name in Judgement.__slots__
    }
    return pa.table(columns)


@dataclass(frozen=True, slots=True)
class Verification:
    """One pair with everything that led to its verdict."""

    family: Family
    gold: Extraction
    pred: Extraction
    match: Match

    @property
    def verdict(self) -> str:
        """Equal, different or unknown."""
        return self.match.outcome


def verify_pair(
    gold: str,
    pred: str,
    family: Family = "latex",
    candidates: tuple[str, ...] | None = None,
    *,
    workers: Workers | None = None,
    policy: MatchPolicy = DEFAULT_POLICY,
) -> Verification:
    """Compare two texts, each a bare answer or a whole solution. ``gold`` comes first."""
    left, right = read_answer(gold, family, candidates), read_answer(pred, family, candidates)
    if left.outcome == "none" and left.cue == "boxed":
        left = Extraction("value", gold.strip(), "whole")  # a box that is not closed cuts off a prediction, not a gold
    matched = partial(match, family=family, candidates=candidates, workers=workers, policy=policy)
    return Verification(family, left, right, _compare_readings(left, right, matched))


def _compare_readings(left: Extraction, right: Extraction, matched: Callable[[str, str], Match]) -> Match:
    """Compare what was read; another reading of the prediction counts where it is the gold answer."""
    if left.value is None and left.alternative is None:
        return Match("unknown", "extraction", f"gold: {left.outcome}, {left.detail}")
    gold = left.value if left.value is not None else left.alternative or ""
    first = None if right.value is None else matched(gold, right.value)
    if right.alternative is not None and (first is None or first.outcome != "equal"):
        other = matched(gold, right.alternative)
        if other.outcome == "equal" or (first is None and other.outcome == "different"):
            return other
    if first is not None:
        return first
    if right.cue == "thinking":
        # Cut off before it said anything: another answer was never given
        return Match("unknown", "extraction", f"pred: no answer, {right.detail}")
    # A text without an answer is no right answer; one that was taken back or has several is undecided
    outcome: MatchOutcome = "different" if right.outcome == "none" else "unknown"
    return Match(outcome, "extraction", f"pred: {right.outcome}, {right.detail}")


def majority_vote(
    answers: Sequence[str | None],
    family: Family = "numeric",
    candidates: tuple[str, ...] | None = None,
    *,
    policy: MatchPolicy = DEFAULT_POLICY,
) -> Vote:
    """Return the answer that most of ``answers`` agree on; None entries (no answer) do not vote.

    Deterministic: an answer joins the first class of which it equals every member, as equality is not transitive (50%
    is 0.5 and is 50); among classes of one size the one that was seen first wins (``tied`` says so).
    """
    classes: list[list[int]] = []
    for position, answer in enumerate(answers):
        if answer is None or not answer.strip():
            continue
        for members in classes:
            # Distinct spellings only: solutions repeat a handful of answers
            others = (str(answers[member]) for member in members)
            matches = (match(other, answer, family, candidates, policy=policy) for other in dict.fromkeys(others))
            if all(found.outcome == "equal" for found in matches):
                members.append(position)
                break
        else:
            classes.append([position])
    classes.sort(key=lambda members: (-len(members), members[0]))
    total = sum(map(len, classes))
    if not classes:
        return Vote(None, 0, 0, tied=False, classes=())
    tied = len(classes) > 1 and len(classes[1]) == len(classes[0])
    return Vote(answers[classes[0][0]], len(classes[0]), total, tied, tuple(map(tuple, classes)))
