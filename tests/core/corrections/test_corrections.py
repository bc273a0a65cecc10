from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lema_core.answers import Judgement
from lema_core.corrections import (
    REASONS,
    Fault,
    ParsedCorrection,
    parse_correction,
    render_choice_correction,
    render_correction,
    require_agreement,
    review_correction,
    select,
)
from lema_core.corrections.review import without_false_steps
from lema_core.llm.requests import Completion, Failure
from lema_core.records import Correction, JudgedPath, Rejection
from lema_core.steps import split_path

PATH = JudgedPath(
    id="path-1",
    question_id="q-1",
    task="gsm8k",
    question="Tom has 3 red and 4 green apples. He eats 2 and buys 6. How many has he?",
    gold="11",
    candidates=None,
    rationale=None,
    level="2",
    student="student",
    sample_index=0,
    text="Tom has 3 + 4 = <<3+4=7>>7 apples.\nHe eats 2, so 7 + 2 = 9 are left.\nThen 9 + 6 = 15.\nA: 15",
    finish_reason="stop",
    request_key="k0",
    prompt_tokens=1,
    completion_tokens=1,
    verdict="wrong",
    answer="15",
    decided_by="string",
)
GOOD = render_correction(
    2, "Eating 2 apples takes 2 away.", ["He eats 2, so 7 - 2 = 5 are left.", "Then 5 + 6 = 11."], "The answer is 11."
)


def completed(text, finish_reason="stop"):
    return Completion("key", text, finish_reason, 10, 20, "teacher")


def reviewed(text, path=PATH, finish_reason="stop", **kwargs):
    return review_correction(path, completed(text, finish_reason), family="numeric", corrector="teacher", **kwargs)


def test_accepted_correction_holds_the_whole_story():
    row = reviewed(GOOD, attempt=1)
    assert isinstance(row, Correction)
    assert (row.step, row.n_steps, row.wrong_answer, row.attempt, row.corrector) == (2, 3, "15", 1, "teacher")
    assert row.original.startswith("Step 1: Tom has 3 + 4 = 7 apples.\nStep 2: ")
    assert row.original.endswith("\nThe answer is 15.")
    assert row.correct_solution.startswith("Step 2: He eats 2, so 7 - 2 = 5")
    assert row.spliced == (
        "Step 1: Tom has 3 + 4 = 7 apples.\nStep 2: He eats 2, so 7 - 2 = 5 are left.\n"
        "Step 3: Then 5 + 6 = 11.\nThe answer is 11."
    )
    assert row.false_step is None
    assert (row.request_key, row.prompt_tokens, row.completion_tokens) == ("key", 10, 20)


@pytest.mark.parametrize(
    "text",
    [
        GOOD,
        "Incorrect Step: " + GOOD,
        GOOD.replace("{\n", "").replace("\n}", ""),
        GOOD.replace("...\n", ""),
        GOOD.replace("Step 2.", "**Incorrect Step:** Step 2").replace("Explanation:", "**Explanation:**"),
        GOOD.replace("Step 2.", "2").replace("Correct Solution:", "## Corrected Solution\n"),
        GOOD.replace("Step 2.", "The incorrect step is Step 2: He eats 2, so 7 + 2 = 9 are left."),
        GOOD.replace("Step 2: ", "Step 1: ").replace("Step 3: ", "Step 2: "),
        GOOD.replace("Step 2: ", "").replace("Step 3: ", ""),
        GOOD.replace("...\n", "Step 1: Tom has 3+4 = 7 apples.\n"),
        GOOD.replace("{\n...", "```\n...").replace("\n}", "\n```"),
        GOOD.replace("The answer is 11.", "#### 11"),
        GOOD.replace("\n", "\r\n"),
        GOOD.replace("Explanation: ", "Explanation:\n"),
        GOOD.replace("takes 2 away.", "takes 2 away. Correct answer: 11 apples."),
        GOOD.replace("is 11.", "is \\boxed{11}"),
        GOOD.replace("{\n...", "**{**\n...").replace("\n}", "\n**}**"),
        GOOD.replace("The answer is 11.\n}", "}\nThe answer is 11.\nI hope this helps!"),
        GOOD.replace("\n", " "),
        GOOD.replace("\n", " ").replace("{ ... ", "{ "),
        GOOD + "\nI hope this helps! Let me know if you have more questions.",
        GOOD + "\n\nQuestion: How many?\nStep 1.\nExplanation: another one\nCorrect Solution:\n" + GOOD[-20:],
    ],
)
def test_tolerant_of_form(text):
    row = reviewed(text)
    assert isinstance(row, Correction), row
    assert (row.step, row.spliced.count("Step ")) == (2, 3)
    assert row.explanation.startswith("Eating 2 apples takes 2 away.")
    assert row.spliced.endswith("\nStep 3: Then 5 + 6 = 11.\nThe answer is " + row.spliced.split()[-1])


@pytest.mark.parametrize(
    "answer", [r"\boxed{7}", r"$\frac{1}{2}$", r"\frac{1}{2}", r"$\{1,2\}$", r"\left\{x:x>0\right."]
)
@pytest.mark.parametrize("end", ["\n}", "}", " }\nDone.", ""])
def test_braces_of_a_formula_are_no_braces_of_the_solution(answer, end):
    text = f"Step 2.\nExplanation: he adds\nCorrect Solution:\n{{\nStep 2: So it is.\nThe answer is {answer}{end}"
    parsed = parse_correction(text)
    assert (parsed.steps, parsed.answer_line) == (("So it is.",), f"The answer is {answer}")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "unparsable"),
        ("I cannot see any mistake here.", "unparsable"),
        (GOOD.replace("Explanation:", ""), "unparsable"),
        ("Step 2.\nExplanation: two words and more\nCorrect Solution:\n{\n}", "unparsable"),
        (GOOD.replace("Step 2.", "None of them."), "step_missing"),
        (GOOD.replace("Step 2.", "Step 4."), "step_does_not_exist"),
        (GOOD.replace("Step 2.", "Step 0."), "step_does_not_exist"),
        (GOOD.replace("Step 2.", "Step 1."), "starts_elsewhere"),
        (GOOD.replace("...", "Step 1: Tom has 5 apples."), "earlier_steps_changed"),
        (GOOD.replace("Eating 2 apples takes 2 away.", "Step 2 is wrong."), "explanation_empty"),
        (GOOD.replace("Eating 2 apples takes 2 away.", ""), "explanation_empty"),
        (GOOD.replace("The answer is 11.", "The answer is 12."), "wrong_answer"),
        (GOOD.replace("7 - 2 = 5 are left", "7 + 2 = 9 are left"), "mistake_unchanged"),
        (
            render_correction(
                2, "The sum must be 11 at the end.", ["So 7 + 2 = 9.", "Then 9 + 6 = 15."], "The answer is 11."
            ),
            "gold_pasted",
        ),
        (
            render_correction(3, "The sum must be 11 at the end.", ["Then 9 + 6 = 15."], "The answer is 11."),
            "gold_pasted",
        ),
    ],
)
def test_reasons(text, reason):
    row = reviewed(text)
    assert isinstance(row, Rejection), row
    assert row.reason == reason
    assert row.reason in REASONS
    assert row.detail.startswith(REASONS[reason])
    assert (row.parent_id, row.text, row.request_key) == ("path-1", text, "key")


def test_a_right_step_that_is_repeated_below_a_right_answer_line_is_no_correction():
    path = replace(PATH, text="Step 1: 3 + 4 = 7.\nStep 2: 7 - 2 + 6 = 11.\nThe answer is 15.")
    repeated = render_correction(2, "What holds here is the step.", ["7 - 2 + 6 = 11."], "The answer is 11.")
    assert reviewed(repeated, path, rule="strict").reason == "only_the_answer"
    for rule in ("checks", "answer"):
        assert isinstance(reviewed(repeated, path, rule=rule), Correction), "the paper keeps it too"
    further = render_correction(2, "It stops short there.", ["7 - 2 + 6 = 11.", "So 11 are left."], "The answer is 11.")
    assert isinstance(reviewed(further, path, rule="strict"), Correction)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (GOOD.replace("Step 2.", "Step 1."), None),
        (GOOD.replace("...", "Step 1: Tom has 5 apples."), None),
        (GOOD.replace("Eating 2 apples takes 2 away.", "Step 2 is wrong."), None),
        (GOOD.replace("7 - 2 = 5 are left", "7 + 2 = 9 are left"), None),
        (GOOD.replace("The answer is 11.", "The answer is 12."), "wrong_answer"),
        (GOOD.replace("Step 2.", "Step 4."), "step_does_not_exist"),
        ("I cannot see any mistake here.", "unparsable"),
    ],
)
def test_the_papers_filter_asks_for_a_readable_correction_that_ends_in_the_gold_answer(text, reason):
    row = reviewed(text, rule="answer")
    assert (row.reason if isinstance(row, Rejection) else None) == reason
    if isinstance(row, Correction):
        assert row.spliced.endswith("The answer is 11.")
        assert isinstance(reviewed(text), Rejection), "the checks turn it down"


def test_no_answer():
    text = "Step 1.\nExplanation: eating takes away\nCorrect Solution:\n{\nStep 1: He eats some of them.\n}"
    assert reviewed(text).reason == "no_answer"


@pytest.mark.parametrize(
    ("verdict", "reason"),
    [("ambiguous", "ambiguous_answer"), ("refused", "refused"), ("unknown", "unknown_equality")],
)
def test_every_other_verdict_has_its_reason(monkeypatch, verdict, reason):
    judgement = Judgement(verdict, "11 or 12", "test")
    monkeypatch.setattr("lema_core.corrections.review.judge", lambda *_: judgement)
    row = reviewed(GOOD)
    assert (row.reason, "11 or 12" in row.detail) == (reason, True)


def test_failed_and_cut_off_answers():
    assert reviewed(GOOD, finish_reason="length").reason == "cut_off"
    assert reviewed(GOOD, finish_reason="content_filter").reason == "refused"
    failed = review_correction(PATH, Failure("key", "rate_limit", "HTTP 429", 5), family="numeric")
    assert (failed.reason, failed.text, failed.request_key) == ("request_failed", "", "key")
    assert "rate_limit, HTTP 429" in failed.detail


def test_path_that_stopped_short_is_continued():
    path = replace(PATH, text="Step 1: Tom has 3 + 4 = 7.\nStep 2: He keeps 7 - 2 = 5.\nThe answer is 5.", answer="5")
    text = render_correction(
        2, "The 6 apples he buys are missing.", ["He keeps 7 - 2 = 5.", "Then 5 + 6 = 11."], "The answer is 11."
    )
    row = reviewed(text, path)
    assert isinstance(row, Correction), row
    assert split_path(row.spliced).steps[-1] == "Then 5 + 6 = 11."


def test_first_false_step_is_noted():
    path = replace(PATH, text="Step 1: Tom has 3 + 4 = 8.\nStep 2: Then 8 + 2 = 10.\nThe answer is 10.")
    text = render_correction(
        1, "3 + 4 is 7, not 8.", ["Tom has 3 + 4 = 7.", "Then 7 - 2 + 6 = 11."], "The answer is 11."
    )
    row = reviewed(text, path)
    assert (row.false_step, row.step_agrees) == (1, True)
    path = replace(path, text="Step 1: Tom has 3 + 4 = 7.\nStep 2: He eats 2, so 9.\nStep 3: Then 9 + 6 = 16.\nA: 16")
    row = reviewed(GOOD, path)
    assert (row.step, row.false_step, row.step_agrees) == (2, 3, False)


@pytest.mark.parametrize("step", ["He eats 2, so 7 - 2 = 4 are left.", "He eats 2, so 7 - 2 = 5 - 100 = 12."])
def test_a_false_equation_under_a_right_answer_is_rejected_where_asked_for(step):
    row = reviewed(GOOD.replace("He eats 2, so 7 - 2 = 5 are left.", step))
    assert isinstance(row, Correction)
    rejected = without_false_steps(row)
    assert (rejected.reason, rejected.parent_id, rejected.request_key) == ("false_equation", "path-1", "key")
    assert without_false_steps(rejected) is rejected
    assert without_false_steps(good := reviewed(GOOD)) is good


CHOICE = replace(
    PATH,
    task="csqa",
    question="Where do bankers work?",
    gold="bank",
    candidates=("bank", "mall", "pond"),
    text="Malls have many doors.\nThe answer is mall.",
    answer="mall",
)


@pytest.mark.parametrize(
    "text",
    [
        render_choice_correction("A mall sells goods.", "In a bank.\nThe answer is bank."),
        "**Mistakes:** A mall sells goods.\n\n**Corrected Answer:**\n{\nIn a bank.\nThe answer is bank.\n}",
    ],
)
def test_choice_shape(text):
    row = review_correction(CHOICE, completed(text), family="choice", shape="choice")
    assert isinstance(row, Correction), row
    assert (row.step, row.explanation) == (0, "A mall sells goods.")
    assert row.spliced == row.correct_solution == "In a bank.\nThe answer is bank."


def test_choice_shape_rejects():
    wrong = render_choice_correction("A mall sells goods.", "It is a pond.\nThe answer is pond.")
    assert review_correction(CHOICE, completed(wrong), family="choice", shape="choice").reason == "wrong_answer"
    assert review_correction(CHOICE, completed("bank"), family="choice", shape="choice").reason == "unparsable"
    empty = render_choice_correction("", "The answer is bank.")
    assert review_correction(CHOICE, completed(empty), family="choice", shape="choice").reason == "explanation_empty"


def test_latex_family():
    path = replace(
        PATH,
        task="math",
        gold="\\frac{1}{9}",
        text="There are $36$ pairs.\nSo $\\frac{3}{36} = \\boxed{\\frac{1}{12}}$.",
    )
    text = render_correction(
        2,
        "Four pairs have the sum 9, not three.",
        ["So $\\frac{4}{36} = \\boxed{\\frac{1}{9}}$."],
        "The answer is $\\frac{1}{9}$.",
    )
    assert isinstance(review_correction(path, completed(text), family="latex"), Correction)


def tries():
    short = reviewed(GOOD, attempt=1)
    longer = reviewed(GOOD.replace("takes 2 away.", "takes 2 of the 7 away, so 5 remain."), attempt=0)
    rejected = reviewed("no", attempt=2)
    return [longer, short, rejected, reviewed(GOOD, attempt=3)]


def test_select_shortest_and_all():
    rows = tries()
    shortest = select(rows, "shortest")
    assert [getattr(row, "reason", "kept") for row in shortest] == ["not_shortest", "kept", "unparsable", "duplicate"]
    every = select(rows, "all")
    assert [getattr(row, "reason", "kept") for row in every] == ["kept", "kept", "unparsable", "duplicate"]
    assert len({row.id for row in every}) == 4
    assert select([rows[2]], "shortest") == [rows[2]]


def test_second_teacher_must_agree():
    first = reviewed(GOOD)
    assert require_agreement(first, reviewed(GOOD, attempt=1)) == replace(first, second_key="key")
    other = replace(first, step=3)
    disagreed = require_agreement(first, other)
    assert (disagreed.reason, disagreed.request_key) == ("teachers_disagree", first.request_key)
    assert "step 2 and step 3" in disagreed.detail
    faulty = require_agreement(first, reviewed("no"))
    assert faulty.reason == "second_teacher_faulty"
    assert "unparsable" in faulty.detail


WORDS = st.text(alphabet="abcdef 0123456789+=", min_size=3, max_size=40).map(lambda text: "q " + " ".join(text.split()))


@given(st.integers(1, 9), WORDS, st.lists(WORDS, min_size=1, max_size=5), st.integers())
def test_rendering_and_parsing_are_inverse(step, explanation, steps, answer):
    line = f"The answer is {answer}."
    parsed = parse_correction(render_correction(step, explanation, steps, line))
    assert parsed == ParsedCorrection(step, explanation, tuple(steps), line, step, elided=step > 1)


@given(st.text(max_size=300), st.sampled_from(["steps", "choice"]))
def test_no_text_breaks_the_parser(text, shape):
    assert isinstance(parse_correction(text, shape), ParsedCorrection | Fault)
    wrapped = f"Step 1.\nExplanation: {text}\nCorrect Solution:\n{{\n{text}\n}}"
    assert isinstance(review_correction(PATH, completed(wrapped), family="numeric"), Correction | Rejection)
