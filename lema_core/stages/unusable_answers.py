"""Answers that a stage cannot use: where nearly all are empty or cut off, the stage ends and nothing after it runs.

A wrong answer is data, and a weak student has many. An answer without a text, or without the form that was asked for,
is none: where a stage holds hardly anything else, the setting is at fault, and the stages after it would work on
nothing.
"""

import math
from collections import Counter
from collections.abc import Mapping

from lema_core.errors import UnusableAnswersError
from lema_core.stages.failed_requests import REJECTED, SMALL

NEARLY_ALL = 0.95
"""Of the answers; of fewer than `SMALL` all of them."""
WHOLE_SHARD = 100
"""Answers of one shard that are enough to end the stage, before the other shards are paid."""
SHOWN_SHARE = 0.03
"""Reasons of fewer rows than this are not printed at the end of a run."""
_THINKING_OFF = "switch thinking off (such as `params = {chat_template_kwargs = {enable_thinking = false}}`)"
_REMEDIES = {
    "cut_in_thinking": ("were empty: the model thought until its cap", f"raise max_tokens or {_THINKING_OFF}"),
    "only_thinking": (
        "were empty: the model wrote its thinking and no answer, or the server's reasoning parser took the answer",
        f"{_THINKING_OFF}, or start the server without that parser",
    ),
    "empty": (
        "were empty",
        f"raise max_tokens if the model thinks before it answers, or {_THINKING_OFF}; else look at the stop words",
    ),
    "cut_off": ("were cut off by their cap", "raise max_tokens"),
    "too_long": ("were longer than any stage reads", "lower max_tokens"),
    "unparsable": (
        "do not have the form that the prompt asks for",
        "look at their texts in the stage's __lema__/rejected-*.parquet; a stronger model keeps to the form",
    ),
}
UNUSABLE = frozenset(_REMEDIES)
"""Reasons of rows whose answer holds nothing to judge."""
REFUSALS = frozenset({"bad_request", "content_filter"})
"""Classes of failures in which the endpoint answered, and refused."""


def check_usable(stage: str, rows: int, reasons: Mapping[str, int], allowed: float, fewest: int = 1) -> None:
    """Make sure that a stage, or a shard of it, has answers to go on with.

    Args:
        stage: its name, for the message.
        rows: that went in.
        reasons: how many were rejected, by reason.
        allowed: ``runtime.max_failed``; 1 accepts whatever came.
        fewest: with fewer answers nothing is judged.

    Raises:
        UnusableAnswersError: nearly all answers are unusable.
    """
    unusable = Counter({reason: count for reason, count in reasons.items() if reason in _REMEDIES and count})
    answers = rows - reasons.get(REJECTED, 0)
    enough = answers if answers < SMALL else math.ceil(NEARLY_ALL * answers)
    if allowed >= 1 or answers < fewest or not unusable or unusable.total() < enough:
        return
    causes = [f"{count} of {answers} answers {_REMEDIES[reason][0]}" for reason, count in unusable.most_common()]
    remedy = _REMEDIES[unusable.most_common(1)[0][0]][1]
    raise UnusableAnswersError(stage, causes, remedy)


def shown_reasons(rows: int, reasons: Mapping[str, int]) -> dict[str, int]:
    """Return the reasons of more than a few per cent of the rows, the most frequent first."""
    often = {reason: count for reason, count in reasons.items() if count >= max(1, SHOWN_SHARE * rows)}
    return dict(sorted(often.items(), key=lambda item: -item[1]))
