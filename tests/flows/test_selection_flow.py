import json
import os

import pytest
from support import environment, killed_at, lema_command, of_stage

from lema_core.artifacts import ArtifactRef, Store
from lema_core.evaluation.checkpoint_selection import read_selection
from lema_core.records import Example, Question

pytest.importorskip("trl", reason="training is not installed (lema-pipeline[train])")
pytestmark = pytest.mark.slow

SELECTION = """
[selection]
questions = 6
[training]
base = "tiny"
max_steps = 2
save_steps = 1
batch_size = 8
learning_rate = 1e-3
[launch]
ranks = 1
trackers = ["tensorboard"]
[evaluation]
max_tokens = 8
[evaluation.serve]
model = "fine-tuned"
command = "{python} -m lema_core.llm.embedded --model {model} --port {port} --context 1024"
concurrency = 4
"""
SMALL = ("--set", 'mixture.arms=["cot"]', "--set", "students.0.samples=1", "--set", "test_questions.limit=3")


def weights(store: Store, model: ArtifactRef) -> bytes:
    return (store.local_folder(model) / "model" / "model.safetensors").read_bytes()


@pytest.mark.skipif("LEMA_ALL_TESTS" not in os.environ, reason="a minute of two cores; LEMA_ALL_TESTS=1 runs it")
def test_the_best_checkpoint_on_held_out_questions_becomes_the_model(lema, run_file, tmp_path):
    run_file.write_text(run_file.read_text() + SELECTION)
    leaking = ("--set", "selection.protocol=best_on_test")
    lema("run", run_file, "--root", "out", *SMALL, *leaking)
    store = Store(str(tmp_path / "out" / "store"))
    (held_out,), (mixture,), (model,) = (of_stage(store, stage) for stage in ("held_out", "mixture", "training"))

    kept_back = {row.id for row in store.rows(held_out, Question)}
    assert len(kept_back) == 6
    assert not kept_back & {row.question_id for row in store.rows(mixture, Example)}
    assert store.manifest(mixture).reasons["held_out"] >= 6

    folder = store.local_folder(model)
    table = read_selection(store, model)
    assert [row.step for row in table] == [1, 2]
    (chosen,) = (row for row in table if row.chosen)
    assert chosen.right == max(row.right for row in table)
    assert store.manifest(model).extra["chosen_step"] == chosen.step
    assert all(row.test is not None for row in table)
    asked = [json.dumps(store.manifest(ref).identity) for ref in of_stage(store, "evaluation")]
    assert len(asked) == 5, "two checkpoints on two sets of questions, and the arm on the test questions"
    assert sum(f"{model.fingerprint}-step-" in one for one in asked) == 4
    assert not (folder / "run").exists(), "the checkpoints that lost are gone"
    assert list((folder / "tensorboard").glob("events.*")), "what the tracker wrote stays"
    assert (folder / "log.txt").stat().st_size, "and so does the log"
    assert "model/model.safetensors" in store.manifest(model).files
    assert not [name for name in store.manifest(model).files if "rng_state" in name or "global_step" in name]
    report = next((tmp_path / "out" / "store" / "report").glob("*/report.html")).read_text()
    assert "best on test (leaks)" in report

    # The same again trains and measures nothing; what a kill before the clean-up left is removed.
    (folder / "run").mkdir()
    before = weights(store, model)
    assert "miss" not in lema("plan", run_file, "--root", "out", *SMALL, *leaking).stdout
    lema("run", run_file, "--root", "out", *SMALL, *leaking)
    assert weights(store, model) == before
    assert of_stage(store, "training") == [model]
    assert not (folder / "run").exists()


def test_too_few_questions_are_told_before_anything_is_paid(lema, run_file, simulated):
    run_file.write_text(run_file.read_text() + SELECTION)
    refused = lema("run", run_file, "--root", "out", *SMALL, "--set", "selection.questions=40", check=False)
    assert refused.returncode == 1
    assert "keeps back 40 questions and there are 40" in refused.stderr
    assert simulated.stats.counts["hits"] == 0


def test_selection_without_training_is_refused(lema, run_file):
    run_file.write_text(run_file.read_text() + "[selection]\n")
    refused = lema("plan", run_file, "--root", "out", check=False)
    assert "[selection] needs [training]" in refused.stderr


@pytest.mark.skipif("LEMA_ALL_TESTS" not in os.environ, reason="two minutes; LEMA_ALL_TESTS=1 runs it")
@pytest.mark.parametrize("method", ["full", "lora"])
def test_kill_9_while_checkpoints_are_measured_chooses_the_same_one(lema, run_file, tmp_path, prefect_api, method):
    run_file.write_text(run_file.read_text() + SELECTION)
    settings = (*SMALL, "--set", f"training.method={method}", "--set", "training.adapter.dropout=0.0")
    lema("run", run_file, "--root", "calm", *settings)
    calm, killed = Store(str(tmp_path / "calm" / "store")), Store(str(tmp_path / "killed" / "store"))
    killed_at(
        "a checkpoint's score", lambda: of_stage(killed, "evaluation"),
        lema_command("run", run_file, "--root", "killed", *settings), cwd=tmp_path,
        env=environment(prefect_api, tmp_path),
    )  # fmt: skip
    assert not of_stage(killed, "training"), "a model without its choice is no model"
    lema("run", run_file, "--root", "killed", *settings)
    (one,), (other,) = of_stage(calm, "training"), of_stage(killed, "training")
    assert one == other
    assert weights(calm, one) == weights(killed, other)
    tables = [store.local_folder(one) / "selection.parquet" for store in (calm, killed)]
    assert tables[0].read_bytes() == tables[1].read_bytes()
