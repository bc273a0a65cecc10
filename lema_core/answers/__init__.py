"""Final answers: find them in a solution, compare them, vote over them.

The contract: model text is data (nothing is evaluated as code, no pattern backtracks, every size is bounded), nothing
here raises because of a text, and "unknown", "none", "ambiguous" and "refused" are outcomes that callers see. Heavy
libraries are imported only by the worker processes that need them. What it does not do: judge the reasoning.
"""

from lema_core.answers.extraction import extract
from lema_core.answers.judge import judge, judge_batch, majority_vote
from lema_core.answers.matching import match
from lema_core.answers.results import MAX_TEXT_CHARS, Extraction, Family, Judgement, Match, MatchPolicy, Vote

__all__ = [
    "MAX_TEXT_CHARS",
    "Extraction",
    "Family",
    "Judgement",
    "Match",
    "MatchPolicy",
    "Vote",
    "extract",
    "judge",
    "judge_batch",
    "majority_vote",
    "match",
]
