"""Corrections of mistakes: read a teacher's answer, check it, choose among several (paper, section 2.1).

Contract: ``parse_correction`` reads the three parts (incorrect step, explanation, correct solution) or, for multiple
choice, the two (mistakes, corrected answer), tolerant of markdown, missing braces and other labels.
``review_correction`` checks what was read against the mistaken path and the gold answer. It returns the accepted
correction, or a rejection with one of ``REASONS``, and raises nothing for what a model wrote. The paper's only filter
is the final answer; the other checks catch what that one lets through.
"""

from lema_core.corrections.checking import check_correction
from lema_core.corrections.parsing import (
    Fault,
    ParsedCorrection,
    Shape,
    parse_correction,
    render_choice_correction,
    render_correction,
)
from lema_core.corrections.requests import correction_requests
from lema_core.corrections.review import REASONS, first_false_step, require_agreement, review_correction, select

__all__ = [
    "REASONS",
    "Fault",
    "ParsedCorrection",
    "Shape",
    "check_correction",
    "correction_requests",
    "first_false_step",
    "parse_correction",
    "render_choice_correction",
    "render_correction",
    "require_agreement",
    "review_correction",
    "select",
]
