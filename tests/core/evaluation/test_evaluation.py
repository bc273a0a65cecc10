import dataclasses

import pytest

from lema_core.errors import DataError
from lema_core.evaluation.accuracy import compare_models
from lema_core.records import JudgedPath


def judged(number, verdict, level=None, rationale=None):
    return JudgedPath(
        id=f"path-{number}", question_id=f"question-{number:03d}", task="t", question="Q", gold="4", candidates=None,
        rationale=rationale, level=level, student="s", sample_index=0, text="Step 1: ...", finish_reason="stop",
        request_key="k", prompt_tokens=1, completion_tokens=1, verdict=verdict, answer=None, decided_by="exact",
    )  # fmt: skip


def model(rights, n=100, **fields):
    return [judged(i, "right" if i in rights else "wrong", **fields) for i in range(n)]


def test_arms_are_compared_with_base_and_lema_with_cot():
    base, cot, lema = model(range(5)), model(range(30)), model(range(40))
    found = compare_models(base, {"cot": cot, "lema": lema}, base_name="SmolLM2")
    assert [(s.name, s.accuracy.value) for s in found.scores] == [("SmolLM2", 0.05), ("cot", 0.3), ("lema", 0.4)]
    assert [(c.arm, c.reference) for c in found.comparisons] == [
        ("cot", "SmolLM2"), ("lema", "SmolLM2"), ("lema", "cot"),
    ]  # fmt: skip
    gain = found.comparison("lema", "SmolLM2")
    assert gain.difference.value == pytest.approx(0.35)
    assert gain.difference.resolved
    assert gain.difference.p_value <= gain.holm_p < 0.05
    assert 0 < found.detectable < 0.35


def test_the_order_of_rows_does_not_matter():
    base, lema = model(range(5)), model(range(40))
    assert compare_models(base, {"lema": lema}) == compare_models(base[::-1], {"lema": lema[::-1]})


def test_only_the_verdict_right_is_right_and_every_verdict_is_counted():
    rows = [judged(i, v) for i, v in enumerate(["right", "none", "ambiguous", "unknown", "wrong", "wrong"])]
    score = compare_models(rows, {"lema": rows}).score("base")
    assert score.accuracy.successes == 1
    assert score.verdicts == {"ambiguous": 1, "none": 1, "right": 1, "unknown": 1, "wrong": 2}


def test_other_questions_are_refused_by_name():
    with pytest.raises(DataError, match=r"lema lacks 1 \['question-099'\] and has 0 others"):
        compare_models(model([1]), {"lema": model([1], n=99)})


def test_two_paths_for_a_question_are_refused():
    rows = model([1], n=3)
    with pytest.raises(DataError, match="lema has two paths for question question-000"):
        compare_models(rows, {"lema": [*rows, rows[0]]})


def test_nothing_to_evaluate_is_an_error():
    with pytest.raises(DataError, match="no judged paths"):
        compare_models([], {})


def test_an_arm_cannot_take_the_base_models_name():
    with pytest.raises(DataError, match="another name"):
        compare_models(model([1]), {"base": model([1])})


def test_difficulty_is_the_level_in_natural_order():
    rows = [dataclasses.replace(row, level=f"Level {i % 3 * 5}") for i, row in enumerate(model(range(50)))]
    found = compare_models(rows, {"lema": rows})
    assert [(x.level, x.arm) for x in found.levels][::2] == [(f"Level {k}", "base") for k in (0, 5, 10)]
    assert sum(x.accuracy.n for x in found.levels if x.arm == "lema") == 100


def test_without_a_level_difficulty_is_the_length_of_the_gold_rationale():
    short, long = "Step 1: a", "Step 1: a\nStep 2: b\nStep 3: c"
    rows = [dataclasses.replace(r, rationale=short if i % 2 else long) for i, r in enumerate(model([1], n=10))]
    assert {x.level for x in compare_models(rows, {}).levels} == {"1 step", "3 steps"}


def test_one_level_alone_is_no_breakdown():
    assert compare_models(model([1]), {}).levels == ()


def test_models_that_never_disagree_leave_nothing_detectable():
    assert compare_models(model([1]), {"lema": model([1])}).detectable == float("inf")
