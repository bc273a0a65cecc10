"""Verdicts, the selection of mistakes, and difficulty."""

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lema_core.records import JudgedPath, ReasoningPath, Rejection
from lema_core.verdicts import MistakeSelection, difficulty, judge_path, mistake_key, right_shares

PATH = ReasoningPath(
    id="p",
    question_id="q",
    task="gsm8k",
    question="How many?",
    gold="7",
    candidates=None,
    rationale=None,
    level="2",
    student="s",
    sample_index=0,
    text="Step 1: 3 + 4 = 7.\nThe answer is 7.",
    finish_reason="stop",
    request_key="k",
    prompt_tokens=1,
    completion_tokens=1,
)


def judged(text="Step 1: 3 + 4 = 8.\nThe answer is 8.", **changes) -> JudgedPath:
    row = judge_path(replace(PATH, text=text, **changes))
    assert isinstance(row, JudgedPath)
    return row


@pytest.mark.parametrize(
    ("text", "verdict", "answer"),
    [
        ("The answer is 7.", "right", "7"),
        ("The answer is 7.0.", "right", "7.0"),
        ("The answer is 8.", "wrong", "8"),
        ("Step 1: I am not sure.", "none", None),
        ("The answer is 7, 8.", "ambiguous", None),
    ],
)
def test_a_path_gets_its_class(text, verdict, answer):
    row = judged(text)
    assert (row.verdict, row.answer) == (verdict, answer)


def test_an_undecidable_path_is_rejected_or_by_choice_wrong(monkeypatch):
    from lema_core.answers import Judgement

    monkeypatch.setattr("lema_core.verdicts.judge", lambda *_: Judgement("unknown", "x+y", "symbolic"))
    rejected = judge_path(PATH)
    assert isinstance(rejected, Rejection)
    assert (rejected.reason, rejected.parent_id) == ("unknown_verdict", "p")
    wrong = judge_path(PATH, unknown="wrong")
    assert isinstance(wrong, JudgedPath)
    assert wrong.verdict == "wrong"


def test_equal_mistakes_have_one_key_whatever_the_words():
    first = judged("Step 1: Tom has 3 + 4 = 8 apples.\nThe answer is 8.")
    same = judged("Step 1: He has 3+4 = 8.\nThe answer is 8.")
    times = judged("Step 1: He has 3 × 4 = 8.\nThe answer is 8.")
    star = judged("Step 1: He has 3 * 4 = 8.\nThe answer is 8.")
    words = judged("Step 1: It must be eight.\nThe answer is 8.")
    other = judged("Step 1: Tom has 3 + 4 = 8 apples.\nThe answer is 9.")
    assert mistake_key(first) == mistake_key(same)
    assert mistake_key(times) == mistake_key(star)
    assert len({mistake_key(path) for path in (first, times, words, other)}) == 4
    units = [judged(f"Step 1: {sum_} = 8.\nThe answer is 8.") for sum_ in ("3 + 4", "3 apples + 4", "5 apples + 4")]
    assert mistake_key(units[0]) == mistake_key(units[1]) != mistake_key(units[2])
    assert mistake_key(first) != mistake_key(replace(first, question_id="q2"))


@pytest.mark.parametrize(
    ("one", "other"), [("$a+b=c$", "$a-b=c$"), ("$x^2 < 4$", "$x^2 > 4$"), ("$a \\cdot b$", "$a / b$"), ("2*n", "2÷n")]
)
def test_steps_of_other_operators_are_other_mistakes(one, other):
    first, second = (judged(f"Step 1: Then {math}, so 8.\nThe answer is 8.") for math in (one, other))
    spaced = judged(f"Step 1: then {one.replace('+', ' + ')}; so 8!\nThe answer is 8.")
    assert mistake_key(first) != mistake_key(second)
    assert mistake_key(first) == mistake_key(spaced)


def test_only_wrong_paths_are_mistakes_by_default_and_the_others_keep_their_class():
    rows = [judged(text) for text in ("The answer is 7.", "The answer is 8.", "No idea.", "The answer is 7, 8.")]
    selected = list(MistakeSelection().select(rows))
    assert [type(row).__name__ for row in selected] == ["Rejection", "JudgedPath", "Rejection", "Rejection"]
    assert [row.reason for row in selected if isinstance(row, Rejection)] == ["right", "none", "ambiguous"]
    with_none = list(MistakeSelection(verdicts=("wrong", "none")).select(rows))
    assert sum(isinstance(row, JudgedPath) for row in with_none) == 2


def test_caps_count_per_question_and_per_student_on_it():
    rows = [
        judged(f"Step 1: 3 + {n} = 8.\nThe answer is 8.", id=f"p{n}", student="a" if n < 5 else "b") for n in range(8)
    ]
    kept = [row for row in MistakeSelection(per_student=2).select(rows) if isinstance(row, JudgedPath)]
    assert [row.id for row in kept] == ["p0", "p1", "p5", "p6"]
    reasons = Counter(row.reason for row in MistakeSelection(per_question=3).select(rows) if isinstance(row, Rejection))
    assert reasons == {"question_cap": 5}


@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2), st.integers(5, 9)), max_size=40),
    st.none() | st.integers(1, 3),
    st.none() | st.integers(1, 3),
)
def test_every_path_comes_out_once_and_no_cap_is_passed(rows, per_question, per_student):
    paths = [
        judged(f"Step 1: 1 + {n} = {n}.\nThe answer is {n}.", id=f"p{i}", question_id=f"q{q}", student=f"s{s}")
        for i, (q, s, n) in enumerate(rows)
    ]
    out = list(MistakeSelection(per_question=per_question, per_student=per_student).select(paths))
    assert [row.id if isinstance(row, JudgedPath) else row.parent_id for row in out] == [path.id for path in paths]
    kept = [row for row in out if isinstance(row, JudgedPath)]
    assert len({mistake_key(row) for row in kept}) == len(kept)
    assert max(Counter(row.question_id for row in kept).values(), default=0) <= (per_question or 99)
    assert max(Counter((r.question_id, r.student) for r in kept).values(), default=0) <= (per_student or 99)


def test_difficulty_counts_by_level():
    rows = [judged("The answer is 7.", level="1"), judged(level="2"), judged(level="10"), judged(level=None)]
    table = difficulty([*rows, judged("The answer is 7.", level="2", question_id="q2")])
    assert [row.level for row in table] == ["-", "1", "2", "10"]
    two = next(row for row in table if row.level == "2")
    assert (two.questions, two.paths, two.verdicts, two.right_rate) == (2, 2, {"right": 1, "wrong": 1}, 0.5)


def test_difficulty_by_the_share_of_right_samples():
    right, wrong = "The answer is 7.", "The answer is 8."
    asked = {"a": (right, right), "b": (right, wrong), "c": (right, wrong, wrong), "d": (wrong, "No idea.")}
    rows = [
        judged(text, question_id=name, id=f"{name}{n}") for name, texts in asked.items() for n, text in enumerate(texts)
    ]
    table = difficulty(rows, classes=right_shares(rows))
    assert [(row.level, row.questions, row.paths, round(row.right_rate, 2)) for row in table] == [
        ("never right", 1, 2, 0.0),
        ("right in less than half", 1, 3, 0.33),
        ("right in half or more", 1, 2, 0.5),
        ("always right", 1, 2, 1.0),
    ]
