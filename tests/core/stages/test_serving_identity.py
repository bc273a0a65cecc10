"""How a checkpoint is served, and what a page tells of prices, decides what is made anew."""

import pytest

from lema_core.artifacts import ArtifactRef, Store
from lema_core.llm.endpoints import WEIGHTS, EndpointSpec
from lema_core.pipeline import Pipeline
from lema_core.run.artifacts import RunArtifacts
from lema_core.run.endpoints import PreparedEndpoints
from lema_core.run.spec import RunContext, RunSpec
from lema_core.stages.evaluation import EvaluationSpec
from lema_core.stages.report import Report

MODEL = ArtifactRef("training", "f" * 64)
OWN, EMBEDDED = ("serve", "{model}"), ("{python}", "-m", "lema_core.llm.embedded", "--model", "{model}")


def run_with(**endpoint) -> RunSpec:
    teacher = EndpointSpec(model="m", base_url="http://127.0.0.1:1/v1", **endpoint)
    return RunSpec.model_validate({"name": "r", "questions": {"task": "arithmetic"}, "endpoints": {"teacher": teacher}})


def served(command=OWN, **changes) -> str:
    serve = EndpointSpec(model="fine-tuned", command=command, **changes)
    run = run_with().model_copy(update={"evaluation": EvaluationSpec(serve=serve)})
    return PreparedEndpoints(run, Store(RunContext.of(run, ".lema").root), RunArtifacts()).fine_tuned(MODEL).identity


def test_a_model_served_in_another_way_is_another_model():
    assert served() == served(identity=WEIGHTS) == served(("other", "{model}")) == MODEL.fingerprint
    assert len({served(), served(EMBEDDED), served(identity="fp8"), served(EMBEDDED, identity="fp16")}) == 4
    assert all(name.startswith(MODEL.fingerprint) for name in (served(EMBEDDED), served(identity="fp8")))


def test_a_checkpoint_is_chosen_by_the_answers_of_one_way_of_serving():
    made = RunArtifacts(held_out=ArtifactRef("held_out", "a" * 64))
    base = {"training": {}, "mixture": {}, "selection": {}, "test_questions": {"task": "arithmetic", "seed": 2}}
    choices = []
    for command in (OWN, EMBEDDED):
        evaluation = {"serve": {"model": "fine-tuned", "command": command}}
        run = RunSpec.model_validate(run_with().model_dump(exclude_none=True) | base | {"evaluation": evaluation})
        choices.append(Pipeline(run, ".lema", made).checkpoint_choice().fingerprints)
    assert choices[0] != choices[1]


@pytest.mark.parametrize(
    "changes", [{"price": {"input_per_million": 1, "output_per_million": 2}}, {"transport": "batch"}]
)
def test_a_corrected_price_makes_the_report_anew(changes):
    assert Report(run_with(), RunArtifacts()).ref != Report(run_with(**changes), RunArtifacts()).ref
