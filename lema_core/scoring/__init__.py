"""Scorers of one's own: what they are given and return, and the guarded processes that they run in."""

from lema_core.scoring.scores import Judge, JudgeFailedError, Score, ScorerLimits, ScoringContext

__all__ = ["Judge", "JudgeFailedError", "Score", "ScorerLimits", "ScoringContext"]
