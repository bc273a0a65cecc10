"""Rounds on the run's own questions, and students that the run itself has fine-tuned."""

import subprocess

import pytest
from support import environment, lema_command, of_stage

from lema_core.artifacts import Store
from lema_core.errors import ConfigError
from lema_core.pipeline import Pipeline
from lema_core.records import ReasoningPath
from lema_core.run.files import read_run_file
from lema_core.run.plan import planned_stages

TRAINED = """
[training]
base = "tiny"
max_steps = 2
batch_size = 8
learning_rate = 1e-4
[evaluation]
max_tokens = 8
[evaluation.serve]
model = "fine-tuned"
command = "{python} -m lema_core.llm.embedded --model {model} --port {port} --context 1024"
concurrency = 4
"""
ON_POLICY = TRAINED + "[on_policy]\nrounds = 2\n"
WARM = '[[students]]\nendpoint = "arm:cot"\nprompt = "zero_shot"\nsamples = 1\nmax_tokens = 24\n'


def written(run_file, more, *settings):
    text = run_file.read_text()
    if "warm" in settings:
        text = text.replace("[corrections]", f"{WARM}[corrections]")
    run_file.write_text(text + more)
    return read_run_file(run_file, [s for s in settings if s != "warm"])


def test_each_round_asks_the_model_of_the_round_before(run_file, tmp_path):
    run = written(run_file, ON_POLICY)
    pipeline = Pipeline(run, str(tmp_path / "out"))
    names = [stage.title for stage in pipeline.stages()]
    first, second, third = pipeline.artifacts.rounds
    assert [r.evolution for r in (first, second, third)] == ["none", "on_policy", "on_policy"]
    assert {r.questions for r in (first, second, third)} == {pipeline.artifacts.questions}
    assert (second.students, third.students) == (["round_0"], ["round_1"])
    order = [names.index(n) for n in ("training: round_0", "reasoning_paths: on_policy 1", "training: round_1")]
    assert order == sorted(order)
    assert run.arm("round_1").views[-1].where.evolution == ("none", "on_policy")
    assert len(names) == len(set(names)), "no stage comes twice"
    assert [line.name for line in planned_stages(run, str(tmp_path / "out"))][: len(names)]


def test_a_warm_student_is_trained_before_it_is_asked_and_the_arm_stays_what_it_was(run_file, tmp_path):
    plain = Pipeline(written(run_file, TRAINED), str(tmp_path))
    before = {stage.title: stage.ref for stage in plain.stages()}
    warm = Pipeline(written(run_file, "", "warm"), str(tmp_path))
    names = [stage.title for stage in warm.stages()]
    assert names.index("training: cot, a student") < names.index("reasoning_paths")
    assert warm.artifacts.warm_models["cot"] != warm.artifacts.models["cot"]
    assert warm.artifacts.rounds[0].reasoning_paths[0] == before["reasoning_paths"], (
        "the other student's paths are those that are paid already"
    )
    assert warm.artifacts.rounds[0].students == ["student", "arm:cot"]
    lines = {line.name: line for line in planned_stages(warm.run, str(tmp_path))}
    asked = lines["reasoning_paths"]
    assert (asked.tokenizer, asked.trained) == ("tiny", False), "the second student's"


@pytest.mark.parametrize(
    ("more", "settings", "message"),
    [
        ("[on_policy]\n", (), r"\[on_policy\].*add \[mixture\], \[training\] and \[evaluation\]"),
        (ON_POLICY + '[evolution]\nendpoint = "reference"\n', (), "rounds are of one kind"),
        ("", ("warm",), r"endpoint = 'arm:cot': the student is a model that this run fine-tunes"),
        (TRAINED, ("warm", "students.1.endpoint='arm:lema'"), "the arm 'lema' holds corrections"),
        (TRAINED, ("warm", "students.1.endpoint='arm:rft'"), "the arm 'rft' holds right_paths"),
        (TRAINED, ("warm", "students.1.endpoint='arm:lemma'"), "Did you mean 'lema'"),
    ],
)
def test_a_student_that_cannot_be_trained_is_an_error_before_anything_is_paid(run_file, more, settings, message):
    with pytest.raises(ConfigError, match=f"(?s){message}"):
        written(run_file, more, *settings)


@pytest.mark.slow
@pytest.mark.timeout(1000)
def test_a_fine_tuned_model_is_asked_the_own_questions_again(prefect_api, run_file, tmp_path):
    pytest.importorskip("trl", reason="training is not installed (lema-pipeline[train])")
    short = ("questions.limit=12", "test_questions.limit=2", "on_policy.rounds=1", "launch.ranks=1",
             "students.0.samples=1", "students.0.max_tokens=40", 'mixture.arms=["round_0"]')  # fmt: skip
    written(run_file, ON_POLICY)
    command = lema_command("run", run_file, "--root", "out", *(word for s in short for word in ("--set", s)))
    # Two trainings, and a server of the model: minutes where the machine does other work too.
    done = subprocess.run(command, cwd=tmp_path, env=environment(prefect_api, tmp_path), check=False, timeout=900)
    assert done.returncode == 0
    store = Store(str(tmp_path / "out" / "store"))
    before, again = (list(store.rows(ref, ReasoningPath)) for ref in of_stage(store, "reasoning_paths"))
    assert {row.question_id for row in before} == {row.question_id for row in again}
    assert {row.student for row in before}.isdisjoint(row.student for row in again)
    (report,) = of_stage(store, "report")
    page = (tmp_path / "out" / "store" / "report" / report.fingerprint / "report.html").read_text()
    assert "Rounds on the own questions" in page
