"""The types of mistakes: named by the reference corrector or a teacher, a filter of arms, and shares to draw by."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rows import correction_of, judged_path

from lema_core.error_types import DIAGNOSES, TYPES, diagnose_type, draw_alike, parse_type, type_of, type_requests
from lema_core.errors import ConfigError
from lema_core.llm.requests import Completion, Failure, Sampling
from lema_core.mixture import ArmSpec, RoundData, View, Where, build_arm, get_arm
from lema_core.pipeline import Pipeline
from lema_core.questions import QuestionsSpec, read_questions
from lema_core.records import ErrorType, Example, Rejection
from lema_core.run.files import read_run_file

QUESTIONS = list(read_questions(QuestionsSpec(task="arithmetic", limit=12, seed=4)))
RUN = """
name = "typed"
[questions]
task = "arithmetic"
limit = 10
[[students]]
endpoint = "a"
[[students]]
endpoint = "b"
[corrections]
endpoint = "t"
[mixture]
arms = ["sums", "lema"]
[error_types]
like = "a"
[arms.sums]
views = [{ rows = "corrections", format = "correction", where = { error_types = ["arithmetic"] } }]
"""
ENDPOINTS = "".join(f'[endpoints.{n}]\nmodel = "m-{n}"\nbase_url = "http://127.0.0.1:1/v1"\n' for n in "abt")


def mistake(question, text, student="s", **fields):
    return judged_path(question, right=False, id=f"m-{question.id}", text=text, student=student, **fields)


def completion(text):
    return Completion(key="k", text=text, finish_reason="stop", prompt_tokens=1, completion_tokens=1, model="m")


def test_the_reference_diagnosis_is_a_type():
    question = QUESTIONS[0]
    false_sum = mistake(question, question.rationale.replace(f"= {question.gold}", "= 77"))
    assert diagnose_type(false_sum).error_type == "arithmetic"
    assert {diagnose_type(mistake(q, "Step 1: 1 + 1 = 2.\nThe answer is 2.")).error_type for q in QUESTIONS} <= set(
        DIAGNOSES
    )
    unknown = mistake(question, "Step 1: 3 + 4 = 8.\nThe answer is 8.", rationale=None)
    assert diagnose_type(unknown).error_type == "undiagnosed"


def test_a_teacher_names_the_type_and_what_is_none_is_rejected():
    path = mistake(QUESTIONS[0], "Step 1: 3 + 4 = 8.")
    (request,) = type_requests([path], Sampling())
    asked = request.messages[0]["content"]
    assert path.question in asked
    assert all(f"{name}: " in asked for name in TYPES)
    assert QUESTIONS[0].gold not in asked.split("Question:")[0], "a teacher is not given the gold answer"
    assert parse_type(path, completion("Not units but a **Calculation** error"), "t").error_type == "calculation"
    for outcome, reason in (
        (completion("It is wrong."), "unparsable"),
        (Failure("k", "timeout", "x", 1), "request_failed"),
    ):
        row = parse_type(path, outcome, "t")
        assert isinstance(row, Rejection)
        assert (row.reason, row.parent_id) == (reason, path.id)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("xyz"), st.sampled_from("ab")), max_size=60), st.integers(0, 3))
def test_the_mistakes_that_are_drawn_have_the_shares_of_the_student(rows, seed):
    types = {f"m{i}": kind for i, (kind, _) in enumerate(rows)}
    students = {f"m{i}": student for i, (_, student) in enumerate(rows)}
    kept = draw_alike(types, students, "a", seed)
    wanted = Counter(kind for kind, student in rows if student == "a")
    drawn = Counter(types[m] for m in kept)
    assert set(drawn) == set(wanted)
    assert len(kept) >= wanted.total()
    for kind, count in wanted.items():
        assert abs(drawn[kind] / len(kept) - count / wanted.total()) <= len(wanted) / len(kept)
    assert kept == draw_alike(dict(reversed(types.items())), students, "a", seed), "the order of rows does not count"


def test_an_arm_takes_the_corrections_of_one_type():
    corrections = [
        correction_of(q, id=f"c-{q.id}", path_id=f"m-{q.id}", corrector="t", original=q.rationale, explanation="No.",
                      spliced=q.rationale)
        for q in QUESTIONS
    ]  # fmt: skip
    types = [
        type_of(mistake(q, "x"), "arithmetic" if i % 3 else "off_course", "reference") for i, q in enumerate(QUESTIONS)
    ]
    data = RoundData(
        lambda: iter(QUESTIONS), lambda: iter(()), lambda: iter(corrections), error_types=lambda: iter(types)
    )
    views = (View(rows="corrections", format="correction", where=Where(error_types=("off_course",))),)
    rows = [
        row for row in build_arm(get_arm("own", {"own": ArmSpec(views=views)}), (data,)) if isinstance(row, Example)
    ]
    assert {row.question_id for row in rows} == {q.id for q in QUESTIONS[::3]}
    assert isinstance(types[0], ErrorType)


def test_the_types_come_before_the_corrections_and_decide_only_the_arms_that_read_them(tmp_path):
    file = tmp_path / "run.toml"
    file.write_text(RUN + ENDPOINTS)
    pipeline = Pipeline(read_run_file(file, []), str(tmp_path))
    refs = {stage.title: stage.ref for stage in pipeline.stages()}
    order = list(refs)
    assert order.index("mistakes") < order.index("error_types") < order.index("mistakes_like")
    assert order.index("mistakes_like") < order.index("corrections")
    file.write_text(RUN.replace('like = "a"', 'endpoint = "t"').replace('"arithmetic"] }', '"units"] }') + ENDPOINTS)
    taught = {stage.title: stage.ref for stage in Pipeline(read_run_file(file, []), str(tmp_path)).stages()}
    file.write_text(
        RUN.replace('[error_types]\nlike = "a"', "").replace(', where = { error_types = ["arithmetic"] }', "")
        + ENDPOINTS
    )
    without = {stage.title: stage.ref for stage in Pipeline(read_run_file(file, []), str(tmp_path)).stages()}
    assert taught["corrections"] == without["corrections"]
    assert taught["mixture: lema"] == without["mixture: lema"]
    assert taught["mixture: sums"] != without["mixture: sums"]


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('[error_types]\nlike = "a"', "", r"needs \[error_types\]"),
        ('"arithmetic"] }', '"units"] }', "where.error_types has 'units'; expected some of arithmetic"),
        ('like = "a"', 'like = "c"', "error_types.like = 'c' is no student"),
        ('like = "a"', 'endpoint = "c"', r"no \[endpoints.c\]"),
    ],
)
def test_a_type_that_is_not_known_is_an_error_before_anything_is_paid(tmp_path, old, new, said):
    file = tmp_path / "run.toml"
    file.write_text(RUN.replace(old, new) + ENDPOINTS)
    with pytest.raises(ConfigError, match=said):
        read_run_file(file, [])
