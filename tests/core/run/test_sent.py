"""What ``lema plan`` says is sent is what the server gets."""

import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from flows.cli import app
from lema_core.errors import ConfigError
from lema_core.llm import CompletionRequest, EndpointSpec, Engine, Sampling
from lema_core.llm.simulated import Reply, SimulatedEndpoint
from lema_core.run.files import read_run_file
from lema_core.run.plan import open_for_reading, planned_stages
from lema_core.run.sent import group_alike, sent_by

SMOKE = Path(__file__).resolve().parents[3] / "deployments" / "runs" / "smoke.toml"
OWN = Sampling(temperature=0.7, max_tokens=64, stop=("x",), params={"verbosity": "low"})
ANSWER = {"choices": [{"message": {"role": "assistant", "content": "42"}}]}


@pytest.mark.parametrize("rules", ["none", "openai-reasoning", "claude", "gemini", "qwen-thinking", "llamacpp"])
@pytest.mark.parametrize("rename", [{}, {"max_tokens": "max_new_tokens", "temperature": "temperature"}])
async def test_the_fields_of_a_plan_are_those_that_arrive(rules, rename, tmp_path) -> None:
    bodies: list[dict[str, object]] = []

    def respond(request):
        bodies.append(request.body)
        return Reply(200, ANSWER)

    async with SimulatedEndpoint(respond=respond) as endpoint:
        spec = EndpointSpec(model="m", base_url=endpoint.url, rules=rules, rename=rename, params={"top_p": 0.9})
        async with Engine.open(ledger=str(tmp_path / "l.sqlite")) as engine:
            await engine.complete(spec, CompletionRequest(({"role": "user", "content": "q"},), OWN))
    sent = sent_by("corrections", "corrections", spec, OWN)
    assert sent.fields == {name: value for name, value in bodies[0].items() if name not in {"model", "messages"}}
    # Nothing changes without a line that says so.
    whole = OWN.resolved(spec.params).body()
    missing = whole.keys() - sent.fields.keys()
    assert missing == {change.field for change in sent.changes if change.action != "note"} & whole.keys()


async def test_a_plan_knows_what_an_earlier_refusal_taught(tmp_path) -> None:
    ledger = str(tmp_path / "l.sqlite")
    async with SimulatedEndpoint(rules="openai-reasoning") as endpoint:
        spec = EndpointSpec(model="fixed", base_url=endpoint.url)
        async with Engine.open(ledger=ledger) as engine:
            await engine.complete(spec, CompletionRequest(({"role": "user", "content": "q"},), Sampling(max_tokens=9)))
    with open_for_reading(ledger) as store:
        sent = sent_by("corrections", "corrections", spec, Sampling(max_tokens=9, temperature=0), store)
    assert sent.fields == {"max_completion_tokens": 9}
    assert any("refused" in line for line in sent.lines())


def test_a_value_that_the_model_refuses_ends_a_plan() -> None:
    settings = [
        "endpoints.reference={model='gemini-3-pro-preview', base_url='https://generativelanguage.googleapis.com/v1beta/openai'}",
        "corrections.params={reasoning_effort='medium'}",
    ]
    with pytest.raises(ConfigError, match=r"corrections.*reference.*reasoning_effort = 'medium'.*low and high"):
        list(planned_stages(read_run_file(SMOKE, settings), "root"))
    settings[0] = settings[0].replace("model=", "rules='none', model=")
    assert list(planned_stages(read_run_file(SMOKE, settings), "root"))


def test_the_command_shows_fields_changes_headers_and_the_end_of_a_model(tmp_path) -> None:
    params = "params={headers={X-Title='lema'}, reasoning_effort='low'}"
    settings = [
        f"endpoints.reference={{model='gpt-6-luna', base_url='https://api.openai.com/v1', {params}}}",
        "endpoints.student={model='gpt-4-turbo', base_url='https://api.openai.com/v1'}",
    ]
    words = [word for setting in settings for word in ("--set", setting)]
    shown = CliRunner().invoke(app, ["plan", str(SMOKE), "--root", str(tmp_path), *words]).output
    text = re.sub(r"\s+", " ", shown)
    assert (
        "to reference (gpt-6-luna, rules openai-reasoning): max_completion_tokens = 1024, reasoning_effort = low"
        in text
    )
    assert "temperature = 0.0 is left out: only the default (1) is taken (https://" in text
    assert "headers X-Title" in text
    assert "seed = one per question" in text
    assert "was switched off on 2026-10-23" in text


def test_a_header_that_no_batch_carries_is_said_to_be_left_out() -> None:
    params = {"headers": {"X-Title": "lema"}}
    spec = EndpointSpec(model="m", transport="batch", params=params)
    sent = sent_by("corrections", "corrections", spec, Sampling(params={"headers": {"X-Stage": "c"}}))
    assert sent.headers == ("X-Title",)
    assert any("header X-Stage = c is left out" in line for line in sent.lines())


def test_stages_that_send_alike_are_shown_once() -> None:
    spec = EndpointSpec(model="m")
    sent = group_alike(sent_by("evaluation", f"evaluation: {arm}", spec, OWN) for arm in "abcde")
    assert [len(one.stages) for one in sent] == [5]
    assert next(sent[0].lines()).startswith("evaluation: a, evaluation: b, evaluation: c and 2 more to endpoint")
