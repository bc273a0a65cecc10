"""Rounds on the run's own questions: each asks the model that was fine-tuned on the rounds before, without evolution.

The mistakes are then those that the trained model itself makes. That corrections of another model's mistakes carry over
badly is a finding of SCoRe (arXiv 2409.12917); with right paths alone this is expert iteration, as ReST (2308.08998).
There is no stage of its own: a round has the stages that every round has.
"""

from pydantic import Field

from lema_core.stages import Section


class OnPolicySpec(Section):
    """Rounds on the run's own questions with the model of the round before as the student; no [evolution] beside it."""

    rounds: int = Field(1, ge=1)
    """Round n asks the model of the arm ``round_<n-1>``, which holds the corrections of the rounds 0 to n - 1."""
