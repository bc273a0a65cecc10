import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from markupsafe import escape

from lema_core.ablation.cells import CellResult, expand
from lema_core.ablation.comparison import compare
from lema_core.artifacts import ArtifactRef
from lema_core.errors import DataError
from lema_core.evaluation import statistics
from lema_core.report.sweeps import (
    cells_table,
    format_detectable,
    render_sweep_html,
    render_sweep_markdown,
    row_label,
    rows_table,
    summarize_sweep,
    sweep_text,
)
from lema_core.run.spec import RunSpec
from lema_core.training.lengths import TrainedOn

N = 200
RUN = {
    "name": "sweep",
    "questions": {"task": "arithmetic", "limit": 10},
    "test_questions": {"task": "arithmetic", "split": "test", "limit": 5},
    "students": [{"endpoint": "s"}],
    "corrections": {"endpoint": "s"},
    "mixture": {"arms": ["cot", "lema"]},
    "training": {"base": "tiny"},
    "evaluation": {"base": "s", "serve": {"model": "x", "base_url": "http://127.0.0.1:1/v1"}},
    "endpoints": {"s": {"model": "s", "base_url": "http://127.0.0.1:1/v1"}},
}
RIGHT = {"base": 40, "cot": 90, "lema": 120}
LEVELS = {f"q{i}": "easy" if i < 100 else "hard" for i in range(N)}


def table(failing=(), right=None, trained=None, **ablation):
    """Return a table in which a cell has its first questions right: as many as RIGHT of its arm, and its seed, say."""
    run = RunSpec.model_validate(RUN | {"ablation": ablation})
    cells = [cell for setting in expand(run) for cell in setting.cells]
    results = [
        CellResult(cell=cell, error="the pool is too small")
        if cell.name in failing
        else CellResult(
            cell=cell,
            mixture=None if cell.seed is None else ArtifactRef("mixture", cell.name),
            evaluation=ArtifactRef("evaluation", cell.name),
        )
        for cell in cells
    ]
    of = {cell.name: cell for cell in cells}

    def right_of(ref):
        cell = of[ref.fingerprint]
        counts, place = right or RIGHT, (cell.arm, cell.seed)
        count = counts[place] if place in counts else counts[cell.arm] + (cell.seed or 0)
        return {f"q{i}": i < count for i in range(N)}

    reference, examples = run.ablation.reference or "cot", lambda one: (77, 0) if one.mixture else None
    return compare(results, reference, right_of, examples, LEVELS, lambda one: (trained or {}).get(one.cell.arm))


def test_accuracy_by_difficulty_is_over_the_seeds():
    found = table(seeds=[0, 1])
    assert found.levels == {"easy": 100, "hard": 100}
    assert row_of(found, "lema").by_level == {"easy": 1.0, "hard": pytest.approx((0.20 + 0.21) / 2)}
    assert "| lema | 100 % | 20 % |" in render_sweep_markdown("t", found).replace("\u202f", " ")
    assert "By difficulty" in render_sweep_html("t", found)


def row_of(found, arm, setting=None):
    (row,) = [row for row in found.rows if row.arm == arm and setting in (None, row.setting)]
    return row


def test_one_seed_has_the_intervals_of_a_single_pair():
    found = table(seeds=[0])
    lema = row_of(found, "lema")
    pair = statistics.paired_difference([i < 90 for i in range(N)], [i < 120 for i in range(N)])
    assert lema.accuracy == statistics.wilson(120, N)
    assert lema.to_reference.difference == pair
    assert lema.to_reference.p_value == pair.p_value
    assert (lema.to_reference.won, lema.to_reference.lost) == (30, 0)
    assert row_of(found, "cot").to_reference is None
    assert row_of(found, "base").to_reference.difference.value == pytest.approx(-0.25)
    assert lema.examples == 77


def test_the_table_and_the_headline_say_how_long_each_arm_was_trained():
    lengths = {"cot": TrainedOn(14, 105, 5_518, 9_000), "lema": TrainedOn(24, 192, 15_766, 21_000)}
    found = table(seeds=[0, 1, 2], trained=lengths)
    assert row_of(found, "lema").trained == lengths["lema"]
    assert row_of(found, "base").trained is None
    assert "at unequal optimiser steps (24 against 14)" in summarize_sweep(found)
    assert "2.9 times as many" in summarize_sweep(found)
    rows = {row["arm"]: row for row in rows_table(found).to_pylist()}
    assert (rows["lema"]["steps"], rows["lema"]["target_tokens"], rows["lema"]["input_tokens"]) == (24, 15_766, 21_000)
    assert rows["base"]["steps"] is None
    assert {row["steps"] for row in cells_table(found).to_pylist() if row["arm"] == "cot"} == {14}
    for text in (render_sweep_markdown("t", found), render_sweep_html("t", found), sweep_text(found)):
        assert "15,766" in text
        assert "target" in text
    equal = table(seeds=[0, 1, 2], trained=dict.fromkeys(lengths, lengths["lema"]))
    assert "at 24 optimiser steps each and equal target tokens" in summarize_sweep(equal)


def test_one_comparison_has_no_adjusted_p_and_one_seed_no_smallest_difference():
    two_arms = table(seeds=[0, 1, 2], arms=["cot", "lema"], bases=[{"name": "tiny", "train": "tiny"}])
    for text in (render_sweep_markdown("t", two_arms), render_sweep_html("t", two_arms), sweep_text(two_arms)):
        assert "Holm" not in text
    assert "Holm" not in summarize_sweep(two_arms)
    assert "Holm p" in sweep_text(table(seeds=[0, 1, 2]))
    one = row_of(table(seeds=[0]), "lema").to_reference
    assert format_detectable(one) == "–"
    assert row_of(table(seeds=[0, 1, 2]), "lema").to_reference.detectable < 1


def test_several_seeds_are_paired_seed_by_seed_over_items_and_seeds():
    found = table(seeds=[0, 1, 7])
    lema = row_of(found, "lema")
    assert lema.per_seed == (120 / N, 121 / N, 127 / N)
    assert lema.accuracy.value == pytest.approx((120 + 121 + 127) / 3 / N)
    assert lema.accuracy.low < lema.accuracy.value < lema.accuracy.high
    contrast = lema.to_reference
    assert contrast.difference.value == pytest.approx(30 / N)
    assert (contrast.won, contrast.lost, contrast.runs) == (90, 0, 3)
    assert contrast.shown
    base = row_of(found, "base").to_reference
    assert base.runs == 3, "the untouched model stands against every seed"


def test_seeds_that_point_both_ways_show_nothing():
    found = table(seeds=[0, 1], right=RIGHT | {("lema", 0): 130, ("lema", 1): 50, ("cot", 1): 90})
    contrast = row_of(found, "lema").to_reference
    assert (contrast.won, contrast.lost, contrast.difference.value) == (40, 40, 0)
    assert contrast.p_value == contrast.holm_p == 1, "each seed alone has a McNemar p below 0.001"
    assert not contrast.shown


@settings(max_examples=15)
@given(st.tuples(*[st.integers(0, N)] * 5))
def test_the_interval_excludes_zero_exactly_where_p_is_below_a_twentieth(counts):
    cells = [("base", None), ("cot", 0), ("cot", 1), ("lema", 0), ("lema", 1)]
    for contrast in table(seeds=[0, 1], right=dict(zip(cells, counts, strict=True))).contrasts:
        low, high = contrast.difference.low, contrast.difference.high
        assert (low > 0 or high < 0) is (contrast.p_value < statistics.SIGNIFICANCE_LEVEL)


def test_a_failed_seed_leaves_a_pair_of_models_and_no_claim():
    found = table(seeds=[0, 30], failing=["lema, seed 30, tiny"])
    lema = row_of(found, "lema")
    assert lema.accuracy == statistics.wilson(120, N)
    assert lema.to_reference.runs == 1
    assert not lema.to_reference.shown
    assert row_of(found, "base").accuracy == statistics.wilson(40, N), "no seed moves the untouched model"
    assert found.pairs == {1, 2}
    text = render_sweep_markdown("t", found)
    assert "Of one seed" in text
    assert "Two seeds say little" in text


@pytest.mark.parametrize(("seeds", "said"), [([0], "with one seed"), ([0, 1], "with two seeds"), ([0, 1, 2], "Holm")])
def test_only_three_seeds_or_more_compare_arms(seeds, said):
    found = table(seeds=seeds)
    assert said in summarize_sweep(found)
    assert row_of(found, "lema").to_reference.shown is (len(seeds) >= 3)


def test_holm_looks_at_every_comparison_of_the_table():
    right = {"base": 80, "cot": 90, "lema": 95}
    found = table(seeds=[0], right=right)
    values = {c.to + str(c.p_value): c.p_value for c in found.contrasts}
    adjusted = statistics.adjust_by_holm(values)
    assert len(found.contrasts) == 2
    assert [c.holm_p for c in found.contrasts] == [adjusted[c.to + str(c.p_value)] for c in found.contrasts]
    assert any(c.holm_p > c.p_value for c in found.contrasts)


def test_a_setting_is_compared_with_the_first_and_with_its_own_reference():
    found = table(seeds=[0, 1], settings={"short": {}, "long": {"training": {"epochs": 4}}})
    long = row_of(found, "lema", "long")
    assert long.to_first_setting.to == "short"
    assert long.to_first_setting.difference.value == 0
    assert long.to_first_setting.p_value == 1
    assert long.to_reference.difference.value == pytest.approx(30 / N)
    assert row_of(found, "lema", "short").to_first_setting is None
    assert row_label(long, found) == "lema, long"


def test_failed_cells_leave_the_others_their_figures():
    found = table(failing=["cot, seed 1, tiny", "lema, seed 0, tiny"], seeds=[0, 1])
    assert [one.cell.name for one in found.failed] == ["cot, seed 1, tiny", "lema, seed 0, tiny"]
    lema = row_of(found, "lema")
    assert (lema.seeds, lema.missing) == ((1,), 1)
    assert lema.to_reference is None, "no seed is left that both have"
    assert row_of(found, "base").to_reference.runs == 1
    nothing = table(failing=[f"{arm}, seed 0, tiny" for arm in ("cot", "lema")] + ["base, tiny"], seeds=[0])
    assert nothing.n == 0
    for text in (render_sweep_html("t", nothing), render_sweep_markdown("t", nothing)):
        assert "the pool is too small" in text


def test_examples_are_those_trained_on_and_what_was_too_long_is_told():
    run = RunSpec.model_validate(RUN)
    results = [CellResult(cell=cell) for cell in expand(run)[0].cells]
    sizes = {"base": None, "cot": (1200, 0), "lema": (1163, 37)}
    found = compare(results, "cot", lambda _: {}, lambda one: sizes[one.cell.arm], {})
    assert [row.examples for row in found.rows] == [None, 1200, 1163]
    text = render_sweep_markdown("t", found)
    assert "longer than training.max" in text
    assert "lema, seed 0, tiny: 37" in text
    assert "cot, seed 0, tiny: " not in text


def test_a_cell_asks_nothing_that_the_table_does_not_show():
    asked = RUN | {"evaluation": RUN["evaluation"] | {"samples": 8, "perplexity": 50}}
    runs = [cell.run for cell in expand(RunSpec.model_validate(asked))[0].cells]
    assert {(one.evaluation.samples, one.evaluation.perplexity) for one in runs} == {(0, 0)}


def test_cells_of_other_questions_are_not_compared():
    run = RunSpec.model_validate(RUN)
    results = [CellResult(cell=cell, evaluation=ArtifactRef("evaluation", cell.name)) for cell in expand(run)[0].cells]
    with pytest.raises(DataError, match="0 are among the 1 of the cells before it"):
        compare(results, "cot", lambda ref: {ref.fingerprint: True}, lambda _: None, {})


def test_page_markdown_and_tables_have_the_same_figures():
    found = table(failing=["cot, seed 1, tiny"], seeds=[0, 1])
    html, markdown = render_sweep_html("A <title>", found), render_sweep_markdown("A <title>", found)
    assert "A &lt;title&gt;" in html
    assert html.count("<svg") == 1
    assert escape(summarize_sweep(found)) in html
    for figure in ("60 %", "45 %", "+15", "the pool is too small"):
        assert figure in html.replace("\u202f", " "), figure
        assert figure in markdown.replace("\u202f", " ").replace("\\", ""), figure
    assert render_sweep_html("A <title>", found) == html
    header, rule, *rows = [line for line in markdown.split("\n") if line.startswith("|")][:5]
    assert len({line.replace("\\|", "").count("|") for line in (header, rule, *rows)}) == 1
    cells = cells_table(found).to_pylist()
    assert len(cells) == 5
    assert [one["error"] for one in cells if one["error"]] == ["the pool is too small"]
    arms = rows_table(found).to_pylist()
    assert [one["arm"] for one in arms] == ["base", "cot", "lema"]
    assert arms[2]["difference"] == pytest.approx(30 / N)
    assert arms[1]["failed"] == 1


def test_the_headline_says_what_the_sweep_can_tell():
    assert "lema is 15.0 points above cot" in summarize_sweep(table(seeds=[0]))
    same = summarize_sweep(table(seeds=[0], right=RIGHT | {"lema": 91}))
    assert "cannot tell from chance" in same
    assert "nothing to compare" in summarize_sweep(table(seeds=[0], arms=["cot"]))


def test_a_comparison_learns_from_its_own_seeds_alone():
    right = RIGHT | {"critique": 120, ("cot", 1): 10, ("cot", 2): 150}
    calm = table(seeds=[0, 1, 2], arms=["cot", "lema", "critique"], right=RIGHT | {"critique": 120}, reference="lema")
    wild = table(seeds=[0, 1, 2], arms=["cot", "lema", "critique"], right=right, reference="lema")
    of_critique = [row_of(found, "critique").to_reference.difference for found in (calm, wild)]
    of_cot = [row_of(found, "cot").to_reference.difference for found in (calm, wild)]
    assert of_critique[0] == of_critique[1], "the seeds of cot say nothing about critique against lema"
    assert of_cot[1].high - of_cot[1].low > 5 * (of_cot[0].high - of_cot[0].low)


def test_a_model_that_two_rows_share_is_not_compared_with_itself():
    run = RunSpec.model_validate(RUN | {"ablation": {"seeds": [0], "settings": {"a": {}, "b": {}}}})
    cells = [cell for setting in expand(run) for cell in setting.cells]
    results = [CellResult(cell=c, evaluation=ArtifactRef("evaluation", f"{c.arm} {c.seed}")) for c in cells]
    found = compare(results, "cot", lambda ref: {"q0": "cot" in ref.fingerprint, "q1": True}, lambda _: None, {})
    assert [row.to_first_setting for row in found.rows] == [None] * 6
    assert sum(row.to_reference is not None for row in found.rows) == 4


def test_an_accuracy_over_seeds_stays_a_share():
    row = row_of(table(seeds=[0, 1], right={"base": 0, "cot": 0, "lema": N - 1}), "cot")
    assert row.accuracy.low == 0
