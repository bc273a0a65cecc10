"""A run whose student or corrector refuses everything: nothing is published, and the mended one goes on."""

import html
import json

import pytest
from support import ask, of_stage, parts, runs

from lema_core.artifacts import Store
from lema_core.llm.simulated import Library, Models, Reply, SimulatedEndpoint, UnknownQuestionError, chat

pytestmark = pytest.mark.slow
STORE = ("out", "store")
WRONG_KEY = "API key not valid. Please pass a valid API key."


EFFORT = "Unsupported value: the effort 'ultra' is not supported with this model. Use 'low' <or> 'high'."


@pytest.fixture
def refusing(monkeypatch):
    """Let the simulated endpoint answer 400 to the models in the dictionary that this gives, with their words."""
    refused: dict[str, str] = {}
    answer = Models.answer

    def answered(models, body):
        if body["model"] in refused:
            raise UnknownQuestionError(refused[body["model"]])
        return answer(models, body)

    monkeypatch.setattr(Models, "answer", answered)
    return refused


def test_nothing_is_published_of_refusals_and_the_mended_run_asks_again(
    lema, run_file, simulated, refusing, tmp_path, finished
):
    store = Store(str(tmp_path.joinpath(*STORE)))
    for refused, stage in (("simulated-student", "reasoning_paths"), ("reference-corrector", "corrections")):
        refusing.clear()
        refusing[refused] = WRONG_KEY
        hits = simulated.stats.counts["hits"]
        ended = lema("run", run_file, "--root", "out", check=False)
        assert ended.returncode == 1
        assert WRONG_KEY in ended.stderr
        assert not of_stage(store, stage)
        assert not of_stage(store, "mixture")
        assert simulated.stats.counts["hits"] - hits <= 120 + 32, "it is not asked to the end"
    refusing.clear()
    lema("run", run_file, "--root", "out")
    assert parts(tmp_path / "out") == finished.parts
    assert simulated.stats.report()["paid_twice"] == 0


@pytest.mark.parametrize(
    ("refused", "stage"), [("simulated-student", "reasoning_paths"), ("reference-corrector", "corrections")]
)
def test_terminal_state_and_page_hold_the_endpoints_sentence_its_parameter_and_the_remedy(
    lema, run_file, simulated, tmp_path, prefect_api, refused, stage
):
    error = {"message": EFFORT, "type": "invalid_request_error", "param": "reasoning_effort", "code": None}
    simulated.respond = lambda request: Reply(400, {"error": error}) if request.body["model"] == refused else None
    name = f"refused_{stage}"
    run_file.write_text(run_file.read_text() + '[training]\nbase = "tiny"\nmax_steps = 2\n[launch]\nranks = 1\n')
    ended = lema("run", run_file, "--root", "out", "--set", f"name={name}", check=False)
    (flow_run,) = runs(prefect_api, f"{name}:")
    page = tmp_path / "out" / "runs" / f"{name}.ended.html"
    markdown = page.with_suffix(".md").read_text()
    assert ended.returncode == 1
    assert flow_run["state"]["type"] == "FAILED"
    plain = markdown.replace("\\", "")
    for text in (ended.stderr, flow_run["state"]["message"], html.unescape(page.read_text()), plain):
        said = " ".join(text.split())
        assert EFFORT in said
        assert "(reasoning_effort)" in said
        assert "correct what the endpoint names" in said
    assert f"ended early, in the stage {stage.replace('_', ' ')}." in plain
    assert ("No solution was judged" in plain) == (stage == "reasoning_paths")
    store = Store(str(tmp_path.joinpath(*STORE)))
    for later in (stage, "mixture", "tokens", "training", "report"):
        assert not of_stage(store, later)
    of_the_run = {"artifacts": {"key": {"any_": ["report"]}, "flow_run_id": {"any_": [flow_run["id"]]}}}
    assert "Why it ended" in ask(prefect_api, "artifacts/filter", of_the_run)[0]["data"]


def test_the_page_of_an_early_end_goes_when_the_run_completes(lema, run_file, simulated, tmp_path):
    simulated.respond = lambda _: Reply(400, {"error": {"message": EFFORT}})
    assert lema("run", run_file, "--root", "out", check=False).returncode == 1
    page = tmp_path / "out" / "runs" / "flow_test.ended.html"
    assert page.is_file()
    simulated.respond = None
    lema("run", run_file, "--root", "out")
    assert not page.exists()


def test_three_refused_requests_of_a_small_run_are_not_published(lema, run_file, refusing, tmp_path):
    refusing["simulated-student"] = WRONG_KEY
    few = ("--set", "questions.limit=1")
    ended = lema("run", run_file, "--root", "out", *few, check=False)
    assert ended.returncode == 1
    assert "3 of 3 requests failed (3 bad_request)" in ended.stderr
    assert "API key not valid" in ended.stderr
    assert not of_stage(Store(str(tmp_path.joinpath(*STORE))), "reasoning_paths")


def test_what_an_older_version_published_empty_is_found_and_made_again(
    lema, run_file, simulated, refusing, tmp_path, finished
):
    # What the prompts may be to blame for is asked to the end, and here accepted: as before, the stages after it work
    # on nothing.
    refusing["reference-corrector"] = "This model's maximum context length is 16 tokens"
    lema("run", run_file, "--root", "out", "--set", "runtime.max_failed=1")
    refusing.clear()
    again = lema("run", run_file, "--root", "out", check=False)
    assert again.returncode == 1
    assert "none of its" in again.stderr
    assert "--remake-failed" in again.stderr
    seen = lema("doctor", "--root", "out", check=False)
    assert seen.returncode == 1
    assert "lema resume flow_test --remake-failed --root out" in seen.stdout
    paid = simulated.stats.counts["ok"]
    told = lema("resume", "flow_test", "--root", "out", "--remake-failed").stdout
    assert "artifacts are made again" in told
    assert parts(tmp_path.joinpath(*STORE)) == {
        name.removeprefix("store/"): content for name, content in finished.parts.items()
    }
    # Only the corrections, which were never answered, are paid now.
    store = Store(str(tmp_path.joinpath(*STORE)))
    (corrections,) = of_stage(store, "corrections")
    assert simulated.stats.counts["ok"] - paid == store.manifest(corrections).counts["completions"] > 0
    assert simulated.stats.report()["paid_twice"] == 0
    assert "failed requests" not in lema("doctor", "--root", "out", check=False).stdout


def test_a_model_that_gives_only_errors_has_no_accuracy(lema, refusing, tmp_path):
    refusing["simulated-student"] = WRONG_KEY
    file = tmp_path / "questions.jsonl"
    rows = [
        {
            "prompt": f"Question: Ann has {n} pens and buys 2. How many?\nAnswer:",
            "completion": f"The answer is {n + 2}.",
        }
        for n in range(6)
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with SimulatedEndpoint(Library.read([file])).in_thread() as endpoint:
        words = ("evaluate", file, "--base-url", endpoint.url, "--model", "simulated-student", "--root", "out")
        ended = lema(*words, check=False)
        assert ended.returncode == 1
        assert "6 of 6 requests failed (6 bad_request)" in ended.stderr
        assert "pass@1" not in ended.stdout
        accepted = lema(*words, "--max-failed", 1).stdout
        assert "6 requests failed (6 bad_request) and count as not right" in accepted
        assert lema(*words, check=False).returncode == 1, "also where it is there already"
        refusing.clear()
        assert "pass@1" in lema(*words, "--remake-failed").stdout


def test_a_student_that_only_thinks_ends_the_run_with_the_remedy(lema, run_file, simulated, monkeypatch, tmp_path):
    """A thinking model with a small cap: every answer is null, and its thinking used up the cap."""
    complete = chat._chat_completion

    def thinking(stats, key, body, *args):
        content = complete(stats, key, body, *args)
        if body["model"] == "simulated-student":
            message = {"role": "assistant", "content": None, "reasoning_content": "Okay, the user wants"}
            content["choices"] = [{"index": 0, "message": message, "finish_reason": "length"}]
        return content

    monkeypatch.setattr(chat, "_chat_completion", thinking)
    ended = lema("run", run_file, "--root", "out", "--set", "questions.limit=4", check=False)
    said = " ".join(ended.stderr.split())
    assert ended.returncode == 1
    assert "12 of 12 answers were empty: the model thought until its cap" in said
    assert "raise max_tokens or switch thinking off" in said
    store = Store(str(tmp_path.joinpath(*STORE)))
    assert not of_stage(store, "reasoning_paths")
    assert not of_stage(store, "verdicts")
    paid = simulated.stats.counts["ok"]
    assert lema("run", run_file, "--root", "out", "--set", "questions.limit=4", check=False).returncode == 1
    assert simulated.stats.counts["ok"] == paid, "the second run asks for nothing"


TRAINED = '[training]\nbase = "tiny"\nmax_steps = 2\n[launch]\nranks = 1\n'
VIEWS = 'views = [{ rows = "rationales", format = "cot" }]'
SAME = f"[arms.mine]\n{VIEWS}\n[arms.other]\n{VIEWS}\n"


def test_an_arm_without_the_corrections_of_its_definition_is_not_trained(lema, run_file, refusing, tmp_path):
    run_file.write_text(run_file.read_text() + TRAINED)
    refusing["reference-corrector"] = "This model's maximum context length is 16 tokens"
    ended = lema("run", run_file, "--root", "out", "--set", "runtime.max_failed=1", check=False)
    said = " ".join(ended.stderr.split())
    assert ended.returncode == 1
    assert "The arm 'lema' holds no corrections although its definition has them" in said
    assert "request_failed" in said
    store = Store(str(tmp_path.joinpath(*STORE)))
    assert not of_stage(store, "tokens")
    assert not of_stage(store, "training")


def test_two_arms_of_one_definition_are_refused_before_anything_is_asked(lema, run_file, simulated):
    run_file.write_text(run_file.read_text().replace('["cot", "lema"]', '["mine", "other"]') + TRAINED + SAME)
    hits = simulated.stats.counts["hits"]
    planned = lema("plan", run_file, "--root", "out", check=False)
    ended = lema("run", run_file, "--root", "out", check=False)
    for one in (planned, ended):
        said = " ".join(one.stderr.split())
        assert one.returncode == 1
        assert "The arms 'mine' and 'other' hold the same examples: both have the same definition" in said
    assert simulated.stats.counts["hits"] == hits
