"""``lema evaluate`` as users run it: on a file of LeMa's published form, at a simulated endpoint and a real one."""

import json
import re
import sys
from fnmatch import fnmatch

import pytest
from support import of_stage
from typer.testing import CliRunner

from flows.cli import app
from flows.evaluate import evaluate
from flows.registration import crash_automation
from lema_core.artifacts import Store
from lema_core.errors import ConfigError
from lema_core.llm.simulated import Library, SimulatedEndpoint
from lema_core.records import JudgedPath
from lema_core.run.single_evaluation import run_of_file, run_of_questions

pytestmark = pytest.mark.slow


@pytest.fixture
def official(tmp_path):
    """Write twelve questions in the published form."""
    file = tmp_path / "official.jsonl"
    with file.open("w") as out:
        for n in range(12):
            prompt = f"Please solve.\nQuestion: Ann has {n} pens and buys {n + 2}. How many pens has she?\nAnswer: \n"
            row = {
                "prompt": prompt,
                "completion": f"She has {n} + {n + 2} = {2 * n + 2} pens. The answer is {2 * n + 2}.",
            }
            out.write(json.dumps(row) + "\n")
    return file


def rows_of(tmp_path, stage):
    store = Store(str(tmp_path / "out" / "store"))
    (ref,) = of_stage(store, stage)
    return ref, list(store.rows(ref, JudgedPath))


def test_two_models_are_scored_and_compared_and_nothing_is_asked_twice(lema, official, tmp_path):
    with SimulatedEndpoint(Library.read([official]), error_rate=0.5).in_thread() as endpoint:
        words = ("evaluate", official, "--base-url", endpoint.url, "--root", "out", "--model")
        first = lema(*words, "simulated-student", "--samples", 3).stdout
        ref, rows = rows_of(tmp_path, "evaluation")
        right = sum(row.verdict == "right" for row in rows)
        assert len(rows) == 12
        assert f"{right} right" in first
        assert "maj@3" in first
        assert len(rows_of(tmp_path, "votes")[1]) == 36
        asked = [row.question for row in rows]
        assert asked == [json.loads(line)["prompt"] for line in official.read_text().splitlines()]

        hits = endpoint.stats.counts["hits"]
        again = lema(*words, "simulated-student", "--samples", 3)
        assert again.stdout in first  # but for the line about the Prefect server
        document = json.loads(lema(*words, "simulated-student", "--samples", 3, "--json").stdout)
        (found,) = document["test_sets"]
        assert (document["model"], found["questions"], found["pass@1"]["successes"]) == ("simulated-student", 12, right)
        assert found["votes"][0]["k"] == 3
        assert endpoint.stats.counts["hits"] == hits

        against = ("--against", ref.fingerprint[:8], "--identity", "other")
        other = lema(*words, "simulated-student", *against).stdout
        assert f"Against {ref.fingerprint[:12]}" in other
        assert "McNemar p" in other
        assert "Too few questions are answered differently" in other
        unknown = lema(*words, "simulated-student", "--against", "nothing", check=False)
    assert unknown.returncode == 1
    assert "0 evaluations" in unknown.stderr


def test_a_real_server_is_started_for_it_and_a_run_file_says_the_same(lema, official, tmp_path):
    command = "{python} -m lema_core.llm.embedded --model {model} --port {port} --threads 1"
    words = ("--max-tokens", 12, "--root", "out")
    told = lema("evaluate", official, "--model", "smollm2", "--command", command, "--limit", 2, *words).stdout
    assert "smollm2 on 2 questions (lema_official)" in told
    ref, rows = rows_of(tmp_path, "evaluation")
    assert all(0 < row.completion_tokens <= 24 for row in rows)
    assert all(re.match(r"smollm2@[0-9a-f]{16}", row.student) for row in rows)

    run = tmp_path / "run.toml"
    run.write_text(f"""
name = "same"
questions = {{ task = "lema_official", path = "{official}", limit = 2 }}
test_questions = {{ task = "lema_official", path = "{official}" }}
evaluation = {{ base = "m", max_tokens = 12 }}
[endpoints.m]
model = "smollm2"
identity = "{{weights}}"
command = "{sys.executable} -m this.is.not.started"
""")
    assert ref.fingerprint in lema("evaluate", run, "--root", "out", "--limit", 2).stdout


def test_a_run_files_model_can_be_served_by_another_command(run_file):
    asked = run_of_file(
        run_file, ["evaluation={base = 'student'}"], {}, {"command": "vllm serve {model} --port {port}"}
    )
    served = asked.endpoints["student"]
    assert (served.model, served.identity, served.base_url) == ("simulated-student", "simulated-student", None)
    assert served.command == ("vllm", "serve", "{model}", "--port", "{port}")


@pytest.mark.parametrize(
    ("words", "said"),
    [(("run.toml", "--task", "svamp"), "--set test_questions.task"), (("gsm8k", "--set", "name=x"), "of a run file")],
)
def test_options_that_would_have_no_effect_are_refused(words, said):
    refused = CliRunner().invoke(app, ["evaluate", *words])
    assert refused.exit_code == 1
    assert said in f"{refused.exception}{refused.output}"


def test_an_evaluation_that_is_killed_is_told_from_one_that_runs():
    (names,) = [
        value for key, value in crash_automation().trigger.match_related.items() if key == "prefect.resource.name"
    ]
    assert any(fnmatch(evaluate.name, name) for name in names)


URL = {"base_url": "http://127.0.0.1:9/v1"}


@pytest.mark.parametrize(
    ("source", "asking", "endpoint", "said"),
    [
        ("nothing.jsonl", {}, {"model": "m", **URL}, "is no file and no task"),
        ("{file}", {}, {"model": "m"}, "nothing says which model answers"),
        ("{file}", {}, {"model": "m", "base_url": "127.0.0.1"}, "Expected https:"),
        ("{file}", {"base_prompt": "few_shot"}, {"model": "m", **URL}, "their own prompts"),
        ("{file}", {"samples": -1}, {"model": "m", **URL}, "--samples"),
        ("gsm8k", {"base_prompt": "one_shot"}, {"model": "m", **URL}, "--prompt: "),
    ],
)
def test_bad_options_are_told_before_anything_is_started(official, source, asking, endpoint, said):
    with pytest.raises(ConfigError, match=said):
        run_of_questions(source.replace("{file}", str(official)), None, None, asking, endpoint)
