"""LeMa (Learning from Mistakes, arXiv 2310.20689) as a library: the whole method, without an orchestrator.

    from lema_core import Engine, QuestionsSpec, read_questions

Names are loaded when they are used: importing the package alone is light. ``docs/library.md`` shows each in use, and
``docs/examples/lema_loop.py`` the method in one flat function.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lema_core.answers import extract, judge, judge_batch, majority_vote, match
    from lema_core.artifacts import Store
    from lema_core.corrections import check_correction, correction_requests, review_correction
    from lema_core.errors import LemaError
    from lema_core.evolution import evolution_requests
    from lema_core.llm import (
        Budget,
        Completion,
        CompletionRequest,
        EndpointSpec,
        Engine,
        Failure,
        Price,
        Sampling,
    )
    from lema_core.llm.simulated import SimulatedEndpoint
    from lema_core.mixture import RoundData, build_arm, get_arm
    from lema_core.pipeline import Pipeline
    from lema_core.questions import FieldMapping, QuestionsSpec, Task, get_task, read_questions
    from lema_core.reasoning_paths import parse_path, path_requests
    from lema_core.records import Correction, Example, JudgedPath, Question, ReasoningPath, Rejection
    from lema_core.run.files import read_run_file
    from lema_core.run.results import ResultTable, RunResults, load_run
    from lema_core.run.spec import RunSpec
    from lema_core.scoring import Judge, JudgeFailedError, Score, ScorerLimits, ScoringContext
    from lema_core.scoring.pool import TextToScore, score_all
    from lema_core.step_checker import false_equations
    from lema_core.system.untrusted import ProgramLimits, ProgramResult, run_untrusted
    from lema_core.verdicts import judge_path, select_mistakes

__version__ = "0.1.0"

_HOMES = {
    "lema_core.answers": ("extract", "judge", "judge_batch", "majority_vote", "match"),
    "lema_core.artifacts": ("Store",),
    "lema_core.corrections": ("check_correction", "correction_requests", "review_correction"),
    "lema_core.errors": ("LemaError",),
    "lema_core.evolution": ("evolution_requests",),
    "lema_core.llm": (
        "Budget", "Completion", "CompletionRequest", "EndpointSpec", "Engine", "Failure", "Price", "Sampling",
    ),
    "lema_core.llm.simulated": ("SimulatedEndpoint",),
    "lema_core.mixture": ("RoundData", "build_arm", "get_arm"),
    "lema_core.pipeline": ("Pipeline",),
    "lema_core.questions": ("FieldMapping", "QuestionsSpec", "Task", "get_task", "read_questions"),
    "lema_core.reasoning_paths": ("parse_path", "path_requests"),
    "lema_core.records": ("Correction", "Example", "JudgedPath", "Question", "ReasoningPath", "Rejection"),
    "lema_core.run.files": ("read_run_file",),
    "lema_core.run.results": ("ResultTable", "RunResults", "load_run"),
    "lema_core.run.spec": ("RunSpec",),
    "lema_core.scoring": ("Judge", "JudgeFailedError", "Score", "ScorerLimits", "ScoringContext"),
    "lema_core.scoring.pool": ("TextToScore", "score_all"),
    "lema_core.step_checker": ("false_equations",),
    "lema_core.system.untrusted": ("ProgramLimits", "ProgramResult", "run_untrusted"),
    "lema_core.verdicts": ("judge_path", "select_mistakes"),
}  # fmt: skip
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "Budget",
    "Completion",
    "CompletionRequest",
    "Correction",
    "EndpointSpec",
    "Engine",
    "Example",
    "Failure",
    "FieldMapping",
    "Judge",
    "JudgeFailedError",
    "JudgedPath",
    "LemaError",
    "Pipeline",
    "Price",
    "ProgramLimits",
    "ProgramResult",
    "Question",
    "QuestionsSpec",
    "ReasoningPath",
    "Rejection",
    "ResultTable",
    "RoundData",
    "RunResults",
    "RunSpec",
    "Sampling",
    "Score",
    "ScorerLimits",
    "ScoringContext",
    "SimulatedEndpoint",
    "Store",
    "Task",
    "TextToScore",
    "build_arm",
    "check_correction",
    "correction_requests",
    "evolution_requests",
    "extract",
    "false_equations",
    "get_arm",
    "get_task",
    "judge",
    "judge_batch",
    "judge_path",
    "load_run",
    "majority_vote",
    "match",
    "parse_path",
    "path_requests",
    "read_questions",
    "read_run_file",
    "review_correction",
    "run_untrusted",
    "score_all",
    "select_mistakes",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'lema_core' has no attribute {name!r}")
    return getattr(import_module(_HOME_OF[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
