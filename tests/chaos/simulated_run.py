"""A run file made fit for chaos: its endpoints simulated, its questions known to the simulated endpoint."""

import json
from collections.abc import Mapping
from typing import Any

from lema_core.llm.endpoints import EndpointSpec
from lema_core.llm.simulated import Library
from lema_core.llm.simulated.models import REPLAY, STUDENT, TEACHERS
from lema_core.questions import read_questions
from lema_core.records import Question
from lema_core.reference_corrector import Problem
from lema_core.run.spec import BudgetSpec, RunSpec

IN_FLIGHT = 16
"""The most requests in flight. A kill may cost so many: with more, a short run would have no bound worth the name."""


def simulated_run(run: RunSpec, url: str, *, with_training: bool) -> RunSpec:
    """Return the run with every endpoint simulated at ``url``, its ledger under its root, and without a budget.

    Without training, evaluation goes too: what it would measure first is the base model, of which nothing is left.
    """
    endpoints = {name: _simulated(run, name, endpoint, url) for name, endpoint in run.endpoints.items()}
    changes: dict[str, object] = {
        "endpoints": endpoints,
        "budget": BudgetSpec(),
        "runtime": run.runtime.model_copy(update={"ledger": None}),
        # Nobody is there to approve.
        "quality_gate": None,
    }
    if not with_training:
        once = run.evolution and run.evolution.model_copy(update={"rounds": 1})
        changes |= {"training": None, "selection": None, "evaluation": None, "evolution": once}
    return run.model_copy(update=changes)


def _simulated(run: RunSpec, name: str, endpoint: EndpointSpec, url: str) -> EndpointSpec:
    return EndpointSpec(
        model=_model(run, name, endpoint.model),
        base_url=url,
        concurrency=min(endpoint.concurrency, IN_FLIGHT),
        length_retry_factor=endpoint.length_retry_factor,
    )


def _model(run: RunSpec, name: str, model: str) -> str:
    """Return who plays an endpoint: what is simulated already stays, a student is told apart by its name."""
    if model in TEACHERS or model.startswith(REPLAY) or model.partition("/")[0] == STUDENT:
        return model
    samples = name in {student.endpoint for student in run.students}
    teaches = {
        *((*run.corrections.endpoints, run.corrections.second) if run.corrections else ()),
        *(run.evolution.endpoints if run.evolution else ()),
    }
    return TEACHERS[0] if name in teaches and not samples else f"{STUDENT}/{name}"


def library_for(run: RunSpec) -> Library:
    """Return what the simulated endpoint must know to play the run's endpoints.

    Raises:
        DataError: a source of questions cannot be used.
    """
    replays = any(endpoint.model.startswith(REPLAY) for endpoint in run.endpoints.values())
    library = Library.read((), [run.questions.path] if replays and run.questions.path else ())
    for source in filter(None, (run.questions, run.test_questions)):
        for row in read_questions(source):
            if isinstance(row, Question):
                library.add(Problem(row.text, row.gold, row.rationale, row.candidates))
    return library


def run_file_text(run: RunSpec) -> str:
    """Return a run as a run file, a section a line: what failed can be run again by hand."""
    document = run.model_dump(mode="json", exclude_defaults=True, exclude_none=True)
    return "".join(f"{name} = {_toml(value)}\n" for name, value in document.items())


def _toml(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{json.dumps(key)} = {_toml(inner)}" for key, inner in value.items()) + " }"
    if isinstance(value, list):
        return "[" + ", ".join(_toml(inner) for inner in value) + "]"
    # JSON's strings, numbers and truth values are TOML's, but not its escapes of signs beyond U+FFFF.
    return json.dumps(value, ensure_ascii=False)
