"""The comparisons that a run file names beforehand: paired by seed, and adjusted for one another alone."""

import re
from dataclasses import replace

import pytest
from pydantic import ValidationError

from lema_core.ablation.cells import CellResult, expand, sweep_of
from lema_core.ablation.comparison import compare, likelihoods_of
from lema_core.ablation.planned import compare_planned
from lema_core.artifacts import ArtifactRef
from lema_core.errors import ConfigError
from lema_core.report.sweeps import render_sweep_html, render_sweep_markdown
from lema_core.run.spec import RunSpec

RUN = {
    "name": "sweep",
    "questions": {"task": "arithmetic", "limit": 10},
    "test_questions": {"task": "arithmetic", "split": "test", "limit": 5},
    "students": [{"endpoint": "s"}],
    "corrections": {"endpoint": "s"},
    "mixture": {"arms": ["cot", "lema"]},
    "training": {"base": "tiny"},
    "evaluation": {"base": "s", "likelihood": 5, "serve": {"model": "x", "base_url": "http://127.0.0.1:1/v1"}},
    "endpoints": {"s": {"model": "s", "base_url": "http://127.0.0.1:1/v1"}},
}
ARMS = ["cot", "cot_corrected", "lema"]
PAIRS = [["lema", "cot_corrected"], ["lema", "cot"]]
RIGHT = {"cot": 100, "cot_corrected": 118, "lema": 120}
NATS = {"cot": 0.5, "cot_corrected": 0.3, "lema": 0.3}


def _run(seeds, **ablation):
    return RunSpec.model_validate(RUN | {"ablation": {"arms": ARMS, "seeds": seeds, "planned": PAIRS} | ablation})


def _results(run):
    cells = [cell for setting in expand(run) for cell in setting.cells]
    made = [(cell, ArtifactRef("evaluation", cell.name), ArtifactRef("likelihood", cell.name)) for cell in cells]
    return [CellResult(cell=cell, evaluation=ref, likelihoods={"arithmetic": nats}) for cell, ref, nats in made]


def _cell_of(ref):
    found = re.match(r"(\w+)(?:, seed (\d+))?", ref.fingerprint)
    return found[1], int(found[2] or 0)


def _right(ref):
    arm, seed = _cell_of(ref)
    # Seeds move both sides of a pair by one or two items, so that they have a spread.
    count = RIGHT.get(arm, 50) + 7 * (seed + len(arm)) % 3
    return {f"q{item}": item < count for item in range(200)}


def _nats(ref):
    arm, seed = _cell_of(ref)
    shift = 0.001 * ((seed + len(arm)) * 5 % 3)
    return {f"q{item}": (10 * (NATS.get(arm, 1.0) + shift + 0.0001 * item), 10) for item in range(50)}


def _compared(run, results):
    return compare_planned(results, sweep_of(run).planned, "arithmetic", _right, _nats)


def test_each_pair_is_compared_seed_by_seed_and_adjusted_for_the_two_alone():
    run = _run([0, 1, 2, 3])
    primary, secondary = _compared(run, _results(run))
    assert (primary.arm, primary.to, primary.accuracy.runs) == ("lema", "cot_corrected", 4)
    assert primary.accuracy.difference.value == pytest.approx(0.01, abs=0.006)
    assert secondary.accuracy.difference.value == pytest.approx(0.1, abs=0.006)
    smaller = min(primary.accuracy.p_value, secondary.accuracy.p_value)
    assert min(primary.accuracy.holm_p, secondary.accuracy.holm_p) == pytest.approx(min(1, 2 * smaller))
    assert secondary.nats.value == pytest.approx(-0.2, abs=0.002)
    assert secondary.nats_holm_p < 0.05


def test_seeds_that_one_side_lacks_are_left_out():
    run = _run([0, 1, 2, 3])
    lacking = [
        replace(one, evaluation=None, likelihoods={}) if one.cell.name.startswith("lema, seed 2") else one
        for one in _results(run)
    ]
    primary, _ = _compared(run, lacking)
    assert primary.accuracy.runs == 3
    assert primary.nats is not None


def test_before_any_cell_has_finished_there_is_nothing():
    run = _run([0, 1])
    nothing = [replace(one, evaluation=None, likelihoods={}) for one in _results(run)]
    assert [(one.accuracy, one.nats) for one in _compared(run, nothing)] == [(None, None)] * 2


def test_an_arm_that_is_not_swept_is_refused():
    with pytest.raises(ConfigError, match=r"ablation.planned: 'placebo' is none of the arms"):
        sweep_of(_run([0], planned=[["placebo", "cot"]]))
    with pytest.raises(ValidationError):
        _run([0], planned=[["cot"]])


@pytest.mark.parametrize(("seeds", "said"), [([0], "speak of models, not of arms"), ([0, 1, 2, 3], "4 seeds, paired")])
def test_the_page_shows_them_apart(seeds, said):
    run = _run(seeds)
    results = _results(run)
    table = compare(results, "cot", _right, lambda _: None, {})
    rows = likelihoods_of(results, "cot", "arithmetic", _nats)
    shown = replace(table, planned=_compared(run, results), likelihoods=rows)
    markdown, html = render_sweep_markdown("t", shown), render_sweep_html("t", shown)
    for text in (markdown, html):
        assert "Planned comparisons" in text
        assert said in text
        assert "Likelihood of the gold solutions" in text
    assert "| lema − cot |" in markdown
    assert "Planned comparisons" not in render_sweep_markdown("t", table)
