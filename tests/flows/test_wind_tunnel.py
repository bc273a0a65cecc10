"""The wind tunnel, made small: from random weights to answers and likelihoods by one command."""

import subprocess
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from support import environment, lema_command, of_stage

from lema_core.artifacts import Store
from lema_core.run.files import read_run_file
from lema_core.run.plan import planned_stages
from lema_core.stages.pretraining import Pretraining

ROOT = Path(__file__).resolve().parents[2]
RUN_FILE = ROOT / "deployments" / "runs" / "wind_tunnel.toml"
SMALL = [
    "pretraining.steps=12", "pretraining.questions.limit=200", "questions.limit=24", "test_questions.limit=12",
    "evaluation.likelihood=30", "evaluation.max_tokens=24", "training.max_steps=6", "training.save_steps=6",
    'ablation.arms=["cot"]', "ablation.planned=[]", "ablation.seeds=[0]",
]  # fmt: skip


def test_the_plan_names_every_cell_and_what_it_costs(tmp_path):
    run = read_run_file(RUN_FILE, ["questions.limit=20", "test_questions.limit=9", "evaluation.likelihood=15"])
    lines = list(planned_stages(run, str(tmp_path)))
    trained = [line for line in lines if line.ref.stage == "training"]
    assert len(trained) == 7 * 12
    assert len([line for line in lines if line.ref.stage == "likelihood"]) == 7 * 12 + 1
    costs = {line.estimate(0.4) for line in (*trained, *lines) if line.estimate}
    assert all("0.4M weights" in cost and "minutes of a core" in cost for cost in costs)
    steps = {read_run_file(RUN_FILE, []).training_of(arm).max_steps for arm in run.ablation.arms}
    assert steps == {150}, "equal steps in every arm"


def test_pretraining_is_named_by_what_decides_its_weights():
    spec = read_run_file(RUN_FILE, []).pretraining
    name = Pretraining(spec).ref
    assert Pretraining(spec.model_copy()).ref == name
    changed = {"wrong": 0.2, "steps": 801, "seed": 1, "learning_rate": 1e-3}
    others = {Pretraining(spec.model_copy(update={key: value})).ref for key, value in changed.items()}
    assert len(others | {name}) == 1 + len(changed)


def test_the_share_of_wrong_solutions_is_about_what_was_asked_for():
    spec = read_run_file(RUN_FILE, ["pretraining.questions.limit=400"]).pretraining
    examples = list(Pretraining(spec).examples())
    golds = {question.id: question for question in _questions(spec)}
    wrong = [row for row in examples if not row.output.endswith(f"The answer is {golds[row.question_id].gold}.")]
    assert 0.2 < len(wrong) / len(examples) < 0.4
    assert not any("Explanation" in row.output for row in examples), "no correction is trained"


def _questions(spec):
    from lema_core.stages.stage import questions_of

    return questions_of(spec.questions)


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_from_random_weights_to_likelihoods_by_one_command(prefect_api, tmp_path):
    words = [word for setting in SMALL for word in ("--set", setting)]
    # After twelve steps the model writes nothing that could be corrected: solutions alone are trained.
    sections = RUN_FILE.read_text().split("\n\n")
    small = tmp_path / "wind_tunnel.toml"
    small.write_text("\n\n".join(text for text in sections if not text.startswith(("[[students]]", "[corrections]"))))
    sweep = lema_command("sweep", small, "--root", "out", *words)
    options = {"cwd": tmp_path, "env": environment(prefect_api, tmp_path), "timeout": 1200}
    done = subprocess.run(sweep, check=False, capture_output=True, text=True, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    store = Store(str(tmp_path / "out" / "store"))
    (base,) = of_stage(store, "pretraining")
    assert store.manifest(base).extra["ranks"] == 1
    scored = {
        ref: store.read_table(ref, "likelihood.parquet", ["nll", "tokens"]) for ref in of_stage(store, "likelihood")
    }
    assert [len(rows) for rows in scored.values()] == [30, 30], "the untouched model, and the arm"
    (table,) = of_stage(store, "ablation")
    page = (Path(store.folder(table)) / "report.md").read_text()
    assert "Likelihood of the gold solutions" in page
    cells = pq.read_table(Path(store.folder(table)) / "cells.parquet").to_pylist()
    assert {cell["arm"]: cell["error"] for cell in cells} == {"base": None, "cot": None}
    assert {cell["questions"] for cell in cells} == {12}
    assert subprocess.run(sweep, check=False, capture_output=True, **options).returncode == 0
    assert len(of_stage(store, "training")) == 1, "nothing is made again"
