import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lema_core.steps import (
    StepPath,
    number_steps,
    numbered_path,
    render_path,
    same_step,
    same_steps,
    sentences,
    splice,
    split_path,
    strip_marks,
)

OURS = "Step 1: Tom has 3 + 4 = 7 apples.\nStep 2: He eats 2, so 7 - 2 = 5 are left.\nThe answer is 5."
STEPS = ("Tom has 3 + 4 = 7 apples.", "He eats 2, so 7 - 2 = 5 are left.")


@pytest.mark.parametrize(
    "text",
    [
        OURS,
        OURS.replace("\n", "\n\n"),
        OURS.replace("\n", "\r\n"),
        OURS.replace("\n", " "),
        "Let's think step by step.\n" + OURS,
        "**Step 1:** Tom has 3 + 4 = 7 apples.\n**Step 2:** He eats 2, so 7 - 2 = 5 are left.\n\nThe answer is 5.",
        "### Step 1\nTom has 3 + 4 = 7 apples.\n### Step 2\nHe eats 2, so 7 - 2 = 5 are left.\nThe answer is 5.",
        "step 1. Tom has 3 + 4 = 7 apples.\nstep 2. He eats 2, so 7 - 2 = 5 are left.\n#### 5",
        "1. Tom has 3 + 4 = 7 apples.\n2. He eats 2,\nso 7 - 2 = 5 are left.\nA: 5",
        "Tom has 3 + 4 = <<3+4=7>>7 apples.\nHe eats 2, so 7 - 2 = <<7-2=5>>5 are left.\n#### 5",
        "Tom has 3 + 4 = 7 apples. He eats 2, so 7 - 2 = 5 are left. The answer is 5.",
        "Step 1: Tom has 3 + 4 = 7 apples.\nStep 2: He eats 2, so 7 - 2 = 5 are left.\nStep 3: The answer is 5.",
        "Step 1: Tom has 3 + 4 = 7 apples.\nStep 2: He eats 2, so 7 - 2 = 5 are left. The answer is 5.",
    ],
)
def test_many_ways_to_write_one_path(text):
    assert split_path(text) == StepPath(STEPS, "The answer is 5.")
    assert numbered_path(text) == OURS


@pytest.mark.parametrize(
    ("line", "answer"),
    [
        ("The answer is $18.50.", "The answer is $18.50."),
        ("So the answer is 3", "So the answer is 3"),
        ("**Final Answer:** 7", "**Final Answer:** 7"),
        ("Therefore, the final answer is \\boxed{4}.", "Therefore, the final answer is \\boxed{4}."),
        ("#### 1,875", "The answer is 1,875."),
        ("A: 40", "The answer is 40."),
        ("Answer: 12 apples", "Answer: 12 apples"),
    ],
)
def test_final_answer_line_is_kept_apart(line, answer):
    assert split_path(f"Some step.\nAnother one.\n{line}").answer_line == answer


@pytest.mark.parametrize("line", ["A dog has 4 legs.", "Answering takes 5 minutes.", "The answers are many", "Ann: 5"])
def test_ordinary_last_line_is_a_step(line):
    assert split_path(f"Some step.\n{line}").answer_line is None


def test_path_of_only_an_answer_has_one_step():
    assert split_path("The answer is 5.") == StepPath(("The answer is 5.",), None)
    assert split_path("  \n ") == StepPath((), None)


def test_text_before_the_first_label_goes_with_the_first_step():
    assert split_path("We know the price.\nStep 1: It is 5.\nStep 2: Twice is 10.\nso 10.").steps == (
        "We know the price. It is 5.",
        "Twice is 10. so 10.",
    )


def test_mention_of_a_step_is_not_a_label():
    text = "Step 1: Buy 2. Step 1: again\nStep 2 of the plan costs 3.\nStep 2: From Step 1: 2, so 5."
    assert split_path(text).steps == ("Buy 2. Step 1: again Step 2 of the plan costs 3.", "From Step 1: 2, so 5.")


def test_latex_displays_and_paragraphs_stay_whole():
    display = "We have\n\\[\nx = 2\n\\]\nso $x^2 = 4.$"
    assert split_path(display).steps == ("We have", "\\[ x = 2 \\]", "so $x^2 = 4.$")
    assert split_path("First line\nsecond line\n\nOther paragraph").steps == (
        "First line second line",
        "Other paragraph",
    )


def test_sentences_respect_latex_and_money():
    assert sentences("Let $f(x) = 2. A$ be. Then Mr. B pays.") == ["Let $f(x) = 2. A$ be.", "Then Mr. B pays."]
    assert sentences("It costs $5. He pays $10. Good.") == ["It costs $5.", "He pays $10.", "Good."]


def test_splice_keeps_earlier_steps_and_renumbers():
    original = split_path("a is 1.\nb is 2.\nc is 3.\nA: 3")
    assert splice(original, 2, ["b is 4.", "c is 5.", "d is 6."], "The answer is 6.") == (
        "Step 1: a is 1.\nStep 2: b is 4.\nStep 3: c is 5.\nStep 4: d is 6.\nThe answer is 6."
    )
    for step in (0, 4):
        with pytest.raises(ValueError, match=r"not in 1\.\.3"):
            splice(original, step, ["x"], None)


def test_same_steps():
    assert same_step("Step 2: 3 + 4 = <<3+4=7>>7  apples.", "3+4=7 apples")
    assert not same_step("3 + 4 = 7", "3 + 4 = 8")
    assert same_steps(["a", "b"], ["A.", "b"])
    assert not same_steps(["a"], ["a", "b"])


def test_marks_are_stripped():
    assert strip_marks("3*4 = $<<3*4=12>>12, if a << b") == "3*4 = $12, if a << b"


STEP = st.text(alphabet="abc XYZ0123456789+-*/=$,%()", min_size=1, max_size=40).map(
    lambda t: " ".join(("q " + t).split())
)


@given(st.lists(STEP, min_size=1, max_size=8), st.one_of(st.none(), st.integers().map("The answer is {}.".format)))
def test_numbering_and_splitting_are_inverse(steps, answer):
    split = split_path(render_path(steps, answer))
    assert split == StepPath(tuple(steps), answer)
    assert numbered_path(render_path(steps, answer)) == render_path(steps, answer)


@given(st.lists(STEP, min_size=1, max_size=8), st.lists(STEP, min_size=1, max_size=8), st.data())
def test_splicing_leaves_the_earlier_steps(original, corrected, data):
    step = data.draw(st.integers(1, len(original)))
    spliced = split_path(splice(StepPath(tuple(original), None), step, corrected, "The answer is 1."))
    assert spliced.steps == (*original[: step - 1], *corrected)
    assert number_steps(corrected, step) in render_path(spliced.steps, None)


@given(st.text(max_size=400))
def test_any_text_splits_and_settles(text):
    once = numbered_path(text)
    assert all("\n" not in step for step in split_path(text).steps)
    assert split_path(once) == split_path(once + "\n")


@pytest.mark.parametrize(
    "unit", ["Step 1: ", "<<", "The answer is ", "$ ", "1. ", "\\[", "* ", "so the answer ", "A:\n", ". A", " \t"]
)
def test_hostile_text_takes_linear_time(unit):
    started = time.process_time()
    split_path(unit * (300_000 // len(unit)))
    assert time.process_time() - started < 3
