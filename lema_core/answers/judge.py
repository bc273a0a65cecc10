"""The verdict on a solution text: extract its answer, compare it with the gold answer."""

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from lema_core.answers.extraction import extract
from lema_core.answers.matching import CACHE, match
from lema_core.answers.results import DEFAULT_POLICY, Family, Judgement, MatchOutcome, MatchPolicy, Verdict
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
    columns = {name: pa.array([getattr(one, name) for one in judged], pa.string()) for name in Judgement.__slots__}
    return pa.table(columns)
