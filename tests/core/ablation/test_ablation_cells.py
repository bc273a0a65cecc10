from itertools import product
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lema_core.ablation.cells import OWN, expand, reference_of
from lema_core.ablation.specs import AblationSpec
from lema_core.errors import ConfigError
from lema_core.mixture import ARMS
from lema_core.run.files import read_run_file
from lema_core.run.spec import BASE, RunSpec

ROOT = Path(__file__).resolve().parents[3]
RUN = {
    "name": "sweep",
    "questions": {"task": "arithmetic", "limit": 10},
    "test_questions": {"task": "arithmetic", "split": "test", "limit": 5},
    "students": [{"endpoint": "student"}],
    "corrections": {"endpoint": "a", "also": ["b"]},
    "mixture": {"arms": ["cot", "lema"], "seed": 5},
    "training": {"base": "tiny", "seed": 5},
    "evaluation": {"base": "student", "serve": {"model": "x", "base_url": "http://127.0.0.1:1/v1"}},
    "endpoints": {name: {"model": name, "base_url": "http://127.0.0.1:1/v1"} for name in ("student", "a", "b")},
}


def sweep(**ablation):
    return RunSpec.model_validate(RUN | {"ablation": ablation})


names = st.lists(st.from_regex(r"[a-z][a-z0-9_-]{0,8}", fullmatch=True), max_size=3, unique=True)


@given(
    arms=st.lists(st.sampled_from(sorted(ARMS)), max_size=4, unique=True),
    seeds=st.lists(st.integers(0, 99), min_size=1, max_size=3, unique=True),
    bases=names,
    settings=names,
)
def test_the_cells_are_the_product_and_one_untouched_model_a_base_and_setting(arms, seeds, bases, settings):
    run = sweep(
        arms=arms,
        seeds=seeds,
        bases=[{"name": name, "train": f"model-{name}", "endpoint": "student"} for name in bases],
        settings={name: {} for name in settings},
    )
    cells = [cell for setting in expand(run) for cell in setting.cells]
    coordinates = [(cell.setting, cell.base, cell.arm, cell.seed) for cell in cells]
    of_arms = product(settings or [OWN], bases or ["tiny"], arms or ["cot", "lema"], seeds)
    untouched = [(setting, base, BASE, None) for setting, base in product(settings or [OWN], bases or ["tiny"])]
    assert sorted(coordinates, key=str) == sorted([*of_arms, *untouched], key=str)
    assert len({cell.name for cell in cells}) == len(cells)


def test_a_cell_is_a_run_of_its_own():
    bases = [{"name": "one", "train": "org/one", "endpoint": "a"}, {"name": "two", "train": "org/two"}]
    run = sweep(
        seeds=[3], bases=bases, settings={"long": {"training": {"epochs": 7}}, "b": {"corrections": {"endpoint": "b"}}}
    )
    long, other = expand(run)
    untouched, *cells = long.cells
    assert (untouched.run.mixture, untouched.run.training, untouched.run.evaluation.base) == (None, None, "a")
    assert {cell.base for cell in long.cells if cell.arm == BASE} == {"one"}, (
        "a base without an endpoint is not measured"
    )
    lema = cells[-1].run
    assert (lema.mixture.arms, lema.mixture.seed) == (("lema",), 3)
    assert (lema.training.base, lema.training.seed, lema.training.epochs) == ("org/two", 3, 7)
    assert lema.evaluation.base is None, "the untouched model is asked once, in a cell of its own"
    assert (long.run.mixture.seed, long.run.training.seed) == (5, 5), "the data are those of the run's own seed"
    assert other.run.corrections.endpoint == "b"
    assert other.run.corrections.also == ("b",)


def test_an_arm_that_starts_from_anothers_model_has_that_arm_in_its_cell():
    ablation = {"arms": ["step_dpo", "cot"], "bases": [{"name": "one", "train": "org/one"}]}
    run = RunSpec.model_validate(RUN | {"ablation": ablation, "arm_training": {"step_dpo": {"base": "arm:lema"}}})
    dpo, cot = expand(run)[0].cells
    assert dpo.run.mixture.arms == ("lema", "step_dpo")
    assert cot.run.mixture.arms == ("cot",)
    assert dpo.run.training_of("lema").base == "org/one"


def test_a_recorded_sweep_has_the_cells_it_was_started_with():
    run = sweep(seeds=[0, 1], settings={"long": {"training": {"epochs": 7}}})
    again = RunSpec.model_validate_json(run.model_dump_json())
    assert expand(again) == expand(run)


def test_the_reference_is_the_first_arm_unless_named():
    assert reference_of(sweep()) == "cot"
    assert reference_of(sweep(arms=["lema", "cot"])) == "lema"
    assert reference_of(sweep(reference="lema")) == "lema"


@pytest.mark.parametrize(
    ("ablation", "message"),
    [
        ({"arms": ["lemma"]}, "Did you mean 'lema'"),
        ({"arms": ["cot", "cot"]}, "'cot' stands there twice"),
        ({"seeds": [1, 1]}, "1 stands there twice"),
        ({"reference": "critique"}, "none of the arms"),
        ({"arms": ["cot"], "reference": "lema"}, "none of the arms"),
        ({"settings": {"x": {"training": {"epocs": 2}}}}, r"settings\.x:\n  training\.epocs: .*mean 'epochs'"),
        ({"settings": {"x": {"trainng": {"epochs": 2}}}}, "did you mean 'training'"),
        ({"settings": {"x": {"corrections": {"endpoint": "c"}}}}, r"no \[endpoints\.c\]"),
        ({"settings": {"x": {"launch": {"zero_stage": 3}}}}, r"settings\.x\.launch: a setting cannot change"),
        ({"settings": {"x": {"test_questions": {"limit": 3}}}}, "holds for all cells"),
        ({"settings": {"a b": {}}}, "pattern"),
        ({"bases": [{"name": "x", "train": "m", "endpoint": "nobody"}]}, r"no \[endpoints\.nobody\]"),
        ({"bases": [{"name": n, "train": "m"} for n in "ab"]}, "'m' stands there twice"),
        ({"parallel": 0}, "greater than or equal to 1"),
    ],
)  # fmt: skip
def test_a_wrong_sweep_is_told_before_anything_is_paid(ablation, message):
    with pytest.raises((ConfigError, ValueError), match=message):
        expand(sweep(**ablation))


def test_a_sweep_without_arms_to_compare_is_told():
    with pytest.raises(ConfigError, match=r"add \[mixture\]"):
        expand(RunSpec.model_validate(RUN | {"mixture": None, "training": None, "evaluation": None}))
    without_training = RUN | {"training": None, "ablation": {"bases": [{"name": "x", "train": "m"}]}}
    with pytest.raises(ConfigError, match=r"add \[training\]"):
        expand(RunSpec.model_validate(without_training))


def test_the_untouched_model_has_no_checkpoint_to_choose():
    run = RunSpec.model_validate(RUN | {"selection": {"questions": 3}})
    untouched, *others = expand(run)[0].cells
    assert untouched.run.selection is None
    assert {cell.run.selection for cell in others} == {run.selection}


@pytest.mark.parametrize("run_file", sorted((ROOT / "deployments" / "runs").glob("*.toml")), ids=lambda path: path.stem)
def test_every_shipped_run_file_with_arms_can_be_swept(run_file):
    run = read_run_file(run_file)
    if run.mixture is None:
        pytest.skip("it has no arms")
    swept = run.ablation or AblationSpec(arms=run.mixture.arms)
    cells = [cell for setting in expand(run) for cell in setting.cells]
    untouched = run.evaluation is not None and run.evaluation.base is not None
    assert len(cells) == untouched + len(swept.arms) * len(swept.seeds)


def test_data_seeds_are_dealt_out_to_the_seeds_by_their_place():
    one, other = expand(sweep(seeds=[0, 1, 2, 3, 4], data_seeds=[7, 7, 9]))
    assert [one.run.questions.seed, other.run.questions.seed] == [7, 9]
    assert {cell.seed for cell in one.cells} == {None, 0, 1, 3, 4}
    assert {cell.seed for cell in other.cells} == {2}, "and the untouched model is measured once"
    assert {cell.setting for cell in (*one.cells, *other.cells)} == {one.name}
    assert {cell.run.questions.seed for cell in other.cells} == {9}
    # A sweep of the first seeds alone has the same cells: it can be extended.
    (first,) = expand(sweep(seeds=[0, 1], data_seeds=[7, 7, 9]))
    assert [cell.run for cell in first.cells if cell.seed == 1] == [cell.run for cell in one.cells if cell.seed == 1]


def test_data_seeds_need_questions_that_are_generated():
    run = sweep(data_seeds=[1, 2])
    from_file = run.questions.model_copy(update={"task": "gsm8k", "path": "questions.jsonl"})
    with pytest.raises(ConfigError, match=r"ablation.data_seeds: the questions of gsm8k are not generated"):
        expand(run.model_copy(update={"questions": from_file}))
