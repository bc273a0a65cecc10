"""Mixtures: what each arm is fine-tuned on, as views over one pool of rationales, paths and corrections.

``get_arm`` gives an arm by name, ``build_arm`` its examples in a seeded order and the rows it leaves out, with reasons.
An arm never samples, corrects or changes a row; two arms over one pool share everything upstream.
"""

from lema_core.mixture.arms import ARMS, Arm, ArmSpec, Rows, SizeMatch, View, Where, get_arm
from lema_core.mixture.building import (
    REASONS,
    MixtureRules,
    build_arm,
    count_target_words,
    count_words,
    held_out_questions,
    reads,
)
from lema_core.mixture.formats import (
    check_formats,
    example_of_correction,
    example_of_path,
    example_of_rationale,
    preference_of_correction,
    prompt_identity,
)
from lema_core.mixture.pool import Pool, RoundData

__all__ = [
    "ARMS",
    "REASONS",
    "Arm",
    "ArmSpec",
    "MixtureRules",
    "Pool",
    "RoundData",
    "Rows",
    "SizeMatch",
    "View",
    "Where",
    "build_arm",
    "check_formats",
    "count_target_words",
    "count_words",
    "example_of_correction",
    "example_of_path",
    "example_of_rationale",
    "get_arm",
    "held_out_questions",
    "preference_of_correction",
    "prompt_identity",
    "reads",
]
