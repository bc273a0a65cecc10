"""Arms that are compared take equal optimiser steps, whatever their numbers of examples."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import RUN

from lema_core.ablation.cells import expand
from lema_core.pipeline import Pipeline
from lema_core.run.equal_steps import match_cells, with_equal_steps
from lema_core.run.files import read_run_file
from lema_core.run.plan import planned_stages
from lema_core.training import TrainingSpec

TRAINED = """
[training]
base = "tiny"
epochs = 1
batch_size = 8
[evaluation.serve]
model = "fine-tuned"
command = "serve {model} {port}"
"""
DPO = {"mixture.arms": '["cot", "lema", "step_dpo"]', "arm_training.step_dpo.base": '"arm:lema"'}


@pytest.fixture
def run_of(tmp_path):
    def read(more="", **options):
        file = tmp_path / "run.toml"
        file.write_text(RUN.replace("{url}", "http://127.0.0.1:1/v1") + TRAINED + more)
        return read_run_file(file, [f"{name}={value}" for name, value in options.items()])

    return read


def steps(run, arms):
    return {arm: (run.training_of(arm).max_steps, run.training_of(arm).steps(1)) for arm in arms}


@given(st.dictionaries(st.sampled_from(["cot", "lema", "critique", "refinement"]), st.integers(0, 500), min_size=2))
def test_every_arm_takes_the_steps_of_the_arm_with_most_examples(run_once, rows):
    matched = with_equal_steps(run_once, rows)
    largest = max(1, -(-max(rows.values()) // 8))
    assert steps(matched, rows) == dict.fromkeys(rows, (largest, largest))


@pytest.fixture(scope="module")
def run_once(tmp_path_factory):
    file = tmp_path_factory.mktemp("run") / "run.toml"
    file.write_text(RUN.replace("{url}", "http://127.0.0.1:1/v1") + TRAINED)
    return read_run_file(file)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, {"cot": 25, "lema": 25}),
        ({"training.match_steps": "false"}, {"cot": None, "lema": None}),
        ({"training.max_steps": "7"}, {"cot": 7, "lema": 7}),
        ({"arm_training.lema.epochs": "3"}, {"cot": None, "lema": None}),
        ({"arm_training.lema.max_steps": "9"}, {"cot": None, "lema": 9}),
        ({"arm_training.lema.learning_rate": "1e-3"}, {"cot": 25, "lema": 25}),
    ],
)
def test_an_arm_keeps_the_length_that_the_run_file_gives_it(run_of, options, expected):
    matched = with_equal_steps(run_of(**options), {"cot": 100, "lema": 200})
    assert {arm: matched.training_of(arm).max_steps for arm in expected} == expected


def test_an_arm_alone_keeps_its_epochs_and_one_from_another_arms_model_is_matched_with_its_like(run_of):
    run = run_of(**DPO)
    assert with_equal_steps(run, {"lema": 200}).training_of("lema") == run.training_of("lema")
    matched = with_equal_steps(run, {"cot": 100, "lema": 200, "step_dpo": 900})
    assert [matched.training_of(arm).max_steps for arm in ("cot", "lema", "step_dpo")] == [25, 25, None]


def models(run, root):
    return {s.name: s.ref for s in planned_stages(run, str(root)) if s.ref.stage == "training"}


def test_the_number_of_steps_is_the_identity_and_the_option_is_not(run_of, tmp_path):
    both = models(run_of(), tmp_path)
    (rows,) = {s.rows for s in planned_stages(run_of(), str(tmp_path)) if s.name == "mixture: lema"}
    alone = {"mixture.arms": '["cot"]', "training.max_steps": -(-rows // 8), "training.epochs": 2}
    assert models(run_of(**alone), tmp_path)["training: cot"] == both["training: cot"]
    own = models(run_of(**{"training.match_steps": "false"}), tmp_path)
    assert own["training: cot"] == models(run_of(**{"mixture.arms": '["cot"]'}), tmp_path)["training: cot"]
    assert not set(own.values()) & set(both.values())


def test_a_plan_says_the_steps_of_each_arm(run_of, tmp_path):
    (shown,) = {
        line.estimate(0.4).partition(" steps")[0].rpartition(" ")[2]
        for line in planned_stages(run_of(), str(tmp_path))
        if line.estimate
    }
    assert int(shown) > 1


def test_a_sweep_matches_the_arms_of_one_seed_and_base_and_leaves_settings_apart(run_of):
    run = run_of("[ablation]\nseeds = [1, 2]\n[ablation.settings.one]\n[ablation.settings.two.training]\nepochs = 3\n")
    rows = {("cot", 1): 80, ("lema", 1): 160, ("cot", 2): 88, ("lema", 2): 240}
    for setting, epochs in zip(expand(run), (1, 3), strict=True):
        cells = match_cells(setting.cells, lambda cell: {cell.arm: rows[cell.arm, cell.seed]})
        found = {(cell.arm, cell.seed): cell.run.training_of(cell.arm).max_steps for cell in cells}
        seeds = {1: 20 * epochs, 2: 30 * epochs}
        assert found == {(arm, seed): seeds[seed] for arm, seed in rows}


def test_a_cell_of_a_sweep_is_the_model_of_the_run(run_of, tmp_path):
    run, sweep = run_of(), run_of('[ablation]\narms = ["cot", "lema"]\nseeds = [0]\n')
    assert set(models(run, tmp_path).values()) == set(models(sweep, tmp_path).values())


def test_the_walk_of_one_arm_more_changes_no_model_but_by_its_steps(run_of, tmp_path):
    two, three = (Pipeline(run_of(**{"mixture.arms": arms}), str(tmp_path)) for arms in (
        '["cot", "lema"]', '["cot", "lema", "without_step"]'))  # fmt: skip
    refs = [{s.title: s.ref for s in pipeline.stages() if s.name == "training"} for pipeline in (two, three)]
    assert refs[0].items() <= refs[1].items()


def test_the_option_is_no_part_of_a_spec():
    assert TrainingSpec(match_steps=False).identity() == TrainingSpec().identity()
