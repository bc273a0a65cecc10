"""Arms whose paths go wrong and are put right in the same answer, and the control with other questions' corrections."""

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rows import correction_of, judged_path

from lema_core.answers import judge
from lema_core.errors import ConfigError, DataError
from lema_core.mixture import ArmSpec, MixtureRules, RoundData, View, build_arm, check_formats, get_arm
from lema_core.mixture.exchange import pair_with_others
from lema_core.mixture.formats import example_of_correction
from lema_core.prompts import path_input
from lema_core.questions import QuestionsSpec, get_task, read_questions
from lema_core.questions.near_duplicates import KnownQuestions
from lema_core.records import Example, MaskedExample, Rejection

QUESTIONS = list(read_questions(QuestionsSpec(task="arithmetic", limit=40, seed=5)))


def correction(question, student="s1"):
    return correction_of(
        question,
        id=f"c-{question.id}-{student}",
        path_id=f"p-{question.id}",
        student=student,
        corrector="gpt",
        original=question.rationale.replace(f"= {question.gold}", "= 77").replace(f"is {question.gold}", "is 77"),
        explanation=f"{student}: the last sum of {question.id}\nis not 77.",
        spliced=question.rationale.replace("has", "now has"),
    )


CORRECTIONS = [correction(q) for q in QUESTIONS[:30]] + [correction(q, "s2") for q in QUESTIONS[:6]]
PATHS = [judged_path(q, id=f"r-{q.id}", text=q.rationale) for q in QUESTIONS]
BY_ID = {row.id: row for row in CORRECTIONS}


def pool(corrections=CORRECTIONS, questions=QUESTIONS, paths=PATHS):
    return (RoundData(lambda: iter(questions), lambda: iter(paths), lambda: iter(corrections)),)


def built(name, data=None, rules=MixtureRules(seed=1)):  # noqa: B008  a frozen value
    rows = list(build_arm(get_arm(name), data or pool(), rules))
    return [row for row in rows if isinstance(row, Example)], [row for row in rows if isinstance(row, Rejection)]


def of_corrections(examples):
    return [row for row in examples if row.kind != "cot"]


def test_a_path_that_is_continued_holds_the_mistake_its_explanation_and_the_rest():
    examples = of_corrections(built("fix_continue")[0])
    assert Counter(row.source_id for row in examples) == Counter(BY_ID.keys())
    for example in examples:
        row = BY_ID[example.source_id]
        original, spliced = row.original.splitlines(), row.spliced.splitlines()
        lines = example.output.splitlines()
        assert example.input == path_input(get_task(row.task).prompts, row.question, None)
        assert lines[: row.step] == original[: row.step]
        assert lines[row.step].startswith(f"Wait: Step {row.step} is wrong. {row.student}: the last sum of")
        assert lines[row.step + 1 :] == spliced[row.step - 1 :]
        assert judge(example.output, row.gold).verdict == "right", "the last answer counts"


def test_only_the_wrong_step_is_masked():
    plain = {row.source_id: row for row in of_corrections(built("fix_continue")[0])}
    rows = built("fix_continue_masked")[0]
    assert [row.masked for row in rows if row.kind == "cot"] == [None] * (len(rows) - len(plain)), "one record an arm"
    masked = of_corrections(rows)
    assert len(masked) == len(plain)
    for example in masked:
        assert isinstance(example, MaskedExample)
        row, (start, stop) = BY_ID[example.source_id], example.masked
        assert example.output[start:stop] == row.original.splitlines()[row.step - 1] + "\n"
        assert example.output == plain[row.id].output
        assert example.id != plain[row.id].id


def test_a_fresh_start_ends_with_a_whole_solution_of_the_same_question():
    first = QUESTIONS[0]
    bare = [replace(first, rationale=None), *QUESTIONS[1:]]
    assert all(
        row.output.endswith(f"is wrong. Let me start again.\n{question.rationale}")
        for row in of_corrections(built("fresh_restart", pool(questions=bare))[0])
        for question in QUESTIONS
        if question.id == row.question_id
    ), "without a rationale it is the right path, here of the same text"
    neither = pool(questions=bare, paths=PATHS[1:])
    left = {row.question_id for row in of_corrections(built("fresh_restart", neither)[0])}
    assert left == {row.question_id for row in CORRECTIONS} - {first.id}


def test_the_answer_of_a_choice_that_was_wrong_is_not_repeated():
    row = replace(
        CORRECTIONS[0], task="csqa", step=0, n_steps=0, candidates=("ink", "desk"), gold="A",
        original="Ink dries. A desk is large. So the answer is (B).",
        spliced="Ink is kept in it. So the answer is (A).",
    )  # fmt: skip
    example = example_of_correction(row, "fix_continue_masked")
    assert example.output.startswith("Ink dries. A desk is large.\nWait: this reasoning is wrong. ")
    assert example.output[slice(*example.masked)] == "Ink dries. A desk is large.\n"
    assert "(B)" not in example.output
    assert example.output.endswith("Ink is kept in it. So the answer is (A).")


def test_a_placebo_has_each_correction_once_and_never_its_own_questions():
    (true, _), (placebo, _) = built("lema"), built("placebo")
    theirs, others = of_corrections(true), of_corrections(placebo)
    assert Counter(row.output for row in theirs) == Counter(row.output for row in others)
    assert Counter(row.input for row in theirs) == Counter(row.input for row in others)
    donors = {row.output: row.question_id for row in theirs}
    assert all(donors[row.output] != row.question_id for row in others)
    step = {row.output: BY_ID[row.source_id].step for row in theirs}
    same = sum(step[row.output] == BY_ID[row.source_id].step for row in others)
    assert same >= len(others) - 4, "but for the borders between the steps, a path gets one of its own step"
    again, other_seed = built("placebo")[0], built("placebo", rules=MixtureRules(seed=2))[0]
    assert placebo == again
    assert {(r.input, r.output) for r in placebo} != {(r.input, r.output) for r in other_seed}


def test_a_placebo_takes_nothing_from_test_and_held_out_questions():
    asked, kept = QUESTIONS[0], QUESTIONS[1]
    rules = MixtureRules(seed=1, test_questions=KnownQuestions([asked.text]), held_out={kept.id})
    examples, rejected = built("placebo", rules=rules)
    assert not [row for row in of_corrections(examples) if asked.id in row.output or kept.id in row.output]
    assert Counter(r.reason for r in rejected if r.parent_id in BY_ID) == {"test_overlap": 2, "held_out": 2}


def test_a_placebo_of_one_question_is_refused():
    with pytest.raises(DataError, match="all of one question"):
        built("placebo", pool([correction(QUESTIONS[0]), correction(QUESTIONS[0], "s2")]))


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from("abcd"), min_size=2, max_size=40))
def test_partners_differ_and_each_is_taken_once_where_that_can_be(groups):
    if len(set(groups)) == 1:
        with pytest.raises(DataError):
            pair_with_others(groups)
        return
    partners = pair_with_others(groups)
    assert all(groups[partner] != group for group, partner in zip(groups, partners, strict=True))
    if 2 * max(Counter(groups).values()) <= len(groups):
        assert sorted(partners) == list(range(len(groups)))


def test_right_paths_alone_are_rejection_sampling():
    examples, _ = built("rft")
    assert Counter(row.source_id for row in examples) == Counter(row.id for row in PATHS)


def test_no_second_solution_where_the_whole_text_is_the_answer(monkeypatch):
    whole = ArmSpec(views=(View(rows="corrections", format="fix_continue"),))
    check_formats(get_arm("own", {"own": whole}), "arithmetic")
    code = replace(get_task("arithmetic"), shape="whole")
    monkeypatch.setattr("lema_core.mixture.formats.get_task", lambda _: code)
    check_formats(get_arm("lema"), "arithmetic")
    with pytest.raises(ConfigError, match=r"'own' has the format 'fix_continue'.*the whole text is the answer"):
        check_formats(get_arm("own", {"own": whole}), "arithmetic")
    with pytest.raises(ValueError, match=r"format = 'fix_continue' is of rows = 'corrections'"):
        View(rows="right_paths", format="fix_continue")
    with pytest.raises(ValueError, match=r"of_others is of rows = 'corrections'"):
        View(rows="rationales", format="cot", of_others=True)


def test_outcomes_are_paired_within_a_question_and_need_no_teacher():
    several = [
        judged_path(q, id=f"r{i}-{q.id}", text=f"{q.rationale}{' ' * i}") for q in QUESTIONS[:5] for i in range(3)
    ]
    texts = [f"Step 1: {i}.\nThe answer is 77." for i in range(2)]
    bad = [judged_path(q, right=False, id=f"w-{q.id}-{t}", text=t) for q in QUESTIONS[:4] for t in texts]
    pairs, rejected = built("dpo_outcome", pool(corrections=[], paths=[*several, *bad]))
    assert Counter(row.question_id for row in pairs) == {q.id: 2 for q in QUESTIONS[:4]}
    assert not rejected
    assert all(judge(row.output, gold).verdict == "right" for row in pairs for gold in [gold_of(row)])
    assert all(row.worse.endswith("77.") and not row.prefix for row in pairs)
    rows, _ = built("kto", pool(corrections=[], paths=[*several, *bad]))
    assert Counter(row.kind for row in rows) == {"desirable": 5, "undesirable": 8}, "equal right paths count once"
    assert (get_arm("dpo_outcome").objective, get_arm("kto").objective) == ("dpo", "kto")
    for wrong in ({"rows": "wrong_paths", "format": "cot"}, {"rows": "corrections", "format": "kto"}):
        with pytest.raises(ValueError, match="go together"):
            View(**wrong)
    with pytest.raises(ValueError, match="an arm of their own"):
        ArmSpec(views=(View(rows="rationales", format="cot"), View(rows="wrong_paths", format="kto")))


def gold_of(row):
    return next(question.gold for question in QUESTIONS if question.id == row.question_id)
