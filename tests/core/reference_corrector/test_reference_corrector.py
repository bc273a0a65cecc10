import json
import re
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lema_core.corrections import ParsedCorrection, parse_correction, review_correction
from lema_core.llm.requests import Completion
from lema_core.records import Correction, JudgedPath
from lema_core.reference_corrector import Problem, correct
from lema_core.reference_corrector.derivation import derive, is_part_of, key
from lema_core.reference_corrector.gold_rationale import given_numbers, known_numbers
from lema_core.reference_corrector.reading import read_steps
from lema_core.step_checker.equations import equations
from lema_core.steps import split_path, strip_marks

SHARED = Path(__file__).resolve().parents[3] / ".." / "shared" / "data"
EGGS = Problem(
    "Janet's ducks lay 16 eggs per day. She eats three and bakes with four. She sells the rest for $2 an egg. "
    "How much does she make?",
    "18",
    "Step 1: Janet sells 16 - 3 - 4 = 9 eggs a day.\nStep 2: She makes 9 * 2 = $18 a day.\nThe answer is 18.",
)


def judged(problem, text, task="gsm8k"):
    return JudgedPath(
        id="p", question_id="q", task=task, question=problem.question, gold=problem.gold, candidates=problem.candidates,
        rationale=problem.rationale, level=None, student="s", sample_index=0, text=text, finish_reason="stop",
        request_key="k", prompt_tokens=0, completion_tokens=0, verdict="wrong", answer=None, decided_by="",
    )  # fmt: skip


def accepted(problem, text, family="numeric", shape="steps"):
    row = review_correction(
        judged(problem, text),
        Completion("k", correct(problem, text, shape), "stop", 1, 1, "r"),
        family=family,
        shape=shape,
    )
    assert isinstance(row, Correction), row
    return row


def test_false_arithmetic_is_named_and_mended():
    row = accepted(EGGS, "Step 1: She sells 16 - 3 - 4 = 8 eggs.\nStep 2: She makes 8 * 2 = $16.\nThe answer is 16.")
    assert row.step == 1
    assert "16 - 3 - 4 equals 8, but 16 - 3 - 4 is 9" in row.explanation
    assert split_path(row.correct_solution).steps == ("She sells 16 - 3 - 4 = 9 eggs.", "She makes 9 * 2 = $18 a day.")


def test_step_off_the_rationale_is_named_with_the_right_operation():
    row = accepted(
        EGGS, "Step 1: Left are 16 - 3 - 4 = 9 eggs.\nStep 2: She makes 9 + 2 = $11 a day.\nThe answer is 11."
    )
    assert row.step == 2
    assert row.explanation.startswith("Step 2 adds where 9 and 2 have to be multiplied: it must be 9 * 2 = $18")
    assert split_path(row.correct_solution).steps == ("She makes 9 * 2 = $18 a day.",)


def test_path_that_stops_short_goes_on():
    row = accepted(EGGS, "Step 1: Left are 16 - 3 - 4 = 9 eggs.\nThe answer is 9.")
    assert row.step == 1
    assert "stops at step 1 and takes 9 for the answer" in row.explanation
    assert split_path(row.spliced).steps == ("Left are 16 - 3 - 4 = 9 eggs.", "She makes 9 * 2 = $18 a day.")


def test_path_that_goes_too_far_is_cut():
    text = "Step 1: Left are 16 - 3 - 4 = 9.\nStep 2: That is 9 * 2 = 18.\nStep 3: Also 18 * 7 = 126.\nA: 126"
    row = accepted(EGGS, text)
    assert row.step == 3
    assert "step 2 has already arrived" in row.explanation


def test_only_the_answer_line_is_wrong():
    row = accepted(EGGS, "Step 1: Left are 16 - 3 - 4 = 9.\nStep 2: That is 9 * 2 = 18.\nThe answer is 16.")
    assert (row.step, split_path(row.correct_solution).steps) == (2, ("That is 9 * 2 = 18.",))
    assert "The solution states 16 instead" in row.explanation


def test_number_from_nowhere_is_named():
    row = accepted(EGGS, "Step 1: Left are 16 - 3 - 4 = 9.\nStep 2: She makes 9 * 35 = 315.\nThe answer is 315.")
    assert "uses 35, a number that the question does not give" in row.explanation


def test_forgotten_number_is_named():
    problem = Problem(
        "5 crates hold 4 boxes with 6 pens. Pens?", "120", "Step 1: 5 * 4 = 20 boxes.\nStep 2: 20 * 6 = 120 pens."
    )
    row = accepted(problem, "Step 1: There are 5 + 6 = 11 pens.\nThe answer is 11.")
    assert "It leaves out the 4 that the question gives." in row.explanation


def test_another_order_of_a_sum_is_no_mistake():
    text = "Step 1: First 16 - 3 = 13.\nStep 2: Then 13 - 4 = 9.\nStep 3: She makes 9 - 2 = $7.\nThe answer is 7."
    row = accepted(EGGS, text)
    assert row.step == 3


def test_calculator_rounding_is_no_mistake():
    problem = Problem(
        "50 is shared by 3, and 10 is added. How much?", "26.67", "Step 1: 50 / 3 = 16.67.\nStep 2: 16.67 + 10 = 26.67."
    )
    row = accepted(
        problem, "Step 1: 50 / 3 = 16.666666666666668.\nStep 2: 16.666666666666668 - 10 = 6.666666666666668.\nA: 6.67"
    )
    assert row.step == 2


def test_marks_are_read_but_never_written():
    problem = Problem(
        "A robe takes 2 bolts of blue and half that much white.",
        "3",
        "It takes <<2/2=1>>1 white bolt\nIn all <<2+1=3>>3\n#### 3",
    )
    text = correct(problem, "It takes 2*2=<<2*2=4>>4 bolts of white\nIn all 4+2=<<4+2=6>>6\nA: 6")
    assert "<<" not in text
    assert accepted(problem, "It takes 2*2=<<2*2=4>>4 bolts of white\nIn all 4+2=<<4+2=6>>6\nA: 6").step == 1


def test_rounding_up_after_the_last_computation_is_kept():
    problem = Problem(
        "27 pupils need 2 sticks each, in packs of 8. How many packs?",
        "7",
        "He needs 27 x 2 = 54 sticks.\nThat is 54 / 8 = 6.75 packs.\nHe buys whole packs, so 7.\n#### 7",
    )
    row = accepted(problem, "Step 1: 27 x 2 = 54 sticks.\nStep 2: 54 / 8 = 6.75 packs.\nThe answer is 6.")
    assert split_path(row.spliced).steps[-1] == "He buys whole packs, so 7."
    assert row.spliced.count("6.75") == 1


def test_rationale_in_prose():
    problem = Problem(
        "Is a whale a fish?", "no", "Whales breathe air. Fish do not. So a whale is no fish. The answer is no."
    )
    row = accepted(problem, "Whales breathe air. They swim like fish. The answer is yes.", family="text")
    assert row.step == 2


def test_choice_without_and_with_rationale():
    problem = Problem("Where do bankers work?", "bank", None, ("bank", "mall", "pond"))
    row = accepted(problem, "Malls are big.\nThe answer is mall.", family="choice", shape="choice")
    assert "The solution settles on mall" in row.explanation
    assert row.correct_solution.endswith("The answer is bank.")
    letter = Problem("Where do bankers work?", "A", "Banks employ bankers.\nThe answer is A.", ("bank", "mall"))
    assert "bank fits the question best" in correct(letter, "The answer is B.", "choice")
    assert "Banks employ bankers." in correct(letter, "The answer is B.", "choice")


def test_without_a_rationale_it_declines():
    problem = Problem("2 + 2?", "4")
    text = correct(problem, "Step 1: 2 + 2 = 5.\nThe answer is 5.")
    assert (
        review_correction(
            judged(problem, "Step 1: 2 + 2 = 5.\nA: 5"), Completion("k", text, "stop", 1, 1, "r"), family="numeric"
        ).reason
        == "unparsable"
    )


def test_math_solution():
    problem = Problem(
        "What is the difference between $120\\%$ of 30 and $130\\%$ of 20?",
        "10",
        "$120\\cdot30\\cdot\\frac{1}{100}=36$, $130\\cdot 20\\cdot\\frac{1}{100}=26$.  So $36-26=10$.",
    )
    row = accepted(
        problem,
        "Step 1: $120\\cdot30/100=36$.\nStep 2: $130\\cdot20/100=28$.\nStep 3: $36-28=8$.\nThe answer is 8.",
        "latex",
    )
    assert row.step == 2


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Janet sells 16 - 3 - 4 = <<16-3-4=9>>9 eggs", [("16 - 3 - 4 = 9", 9)]),
        ("20 sheep + 160 sheep = 180 sheep", [("20 sheep + 160 sheep = 180", 180)]),
        ("$20/hour * 35 hours/week = $700/week", [("$20/hour * 35 hours/week = $700", 700)]),
        ("-50 candies + 100 candies = 50", [("-50 candies + 100 candies = 50", 50)]),
        ("(5 - 3) x 7 = 14, so 14 / 2 = 7", [("(5 - 3) x 7 = 14", 14), ("14 / 2 = 7", 7)]),
        ("29 + X = 40", []),
        ("$x^2 + 4 = 6$", []),
        ("x = 5", []),
    ],
)
def test_equations_of_a_step(text, expected):
    assert [(one.text, one.computed) for one in equations(text)] == expected


def test_numbers_in_words_and_units():
    assert {key(Fraction(number)) for number in (3, 12, 2)} <= given_numbers("three dozen, doubled")
    assert key(Fraction(7)) in known_numbers("per week") - given_numbers("per week")


def nodes(text, question):
    return derive(read_steps(f"Step 1: {text}"), frozenset(known_numbers(question)))


@pytest.mark.parametrize(
    ("one", "other", "question", "same"),
    [
        ("12 + 4 = 16, so 20 - 16 = 4", "20 - 12 = 8, then 8 - 4 = 4", "20, 12 and 4", True),
        ("8 + 10 = 18", "8 - 5 = 3, 3 + 10 = 13, 13 + 5 = 18", "8, 5, 10 and 5", False),
        ("3 + 3 = 6", "2 * 3 = 6", "2 boxes of 3", True),
        ("0.8 * 50 = 40", "50 * 20% = 10, 50 - 10 = 40", "20% off 50", True),
        ("95 - 5 = 90", "100 - 5 = 95, 95 - 5 = 90", "100, twice less 5", False),
        ("$150 / 75 = 2", "150 + 150 = 300, 300 / 75 = 4", "150 miles at 75", False),
    ],
)
def test_two_computations_are_one_by_what_they_compute(one, other, question, same):
    assert nodes(one, question)[-1].arrives_at(nodes(other, question)[-1]) is same


@pytest.mark.parametrize(
    ("part", "whole", "question", "holds"),
    [
        ("20 - 12 = 8", "12 + 4 = 16, so 20 - 16 = 4", "20, 12 and 4", True),
        ("20 + 12 = 32", "12 + 4 = 16, so 20 - 16 = 4", "20, 12 and 4", False),
        ("6 * 4 = 24", "4 / 5 = 0.8, 6 * 0.8 = 4.8", "6, 4 and 5", True),
        ("8 * 20 = 160", "8 - 3 = 5, 5 * 20 = 100", "8, 3 and 20", True),
        ("4 * 4 = 16", "3 * 4 = 12", "3 and 4", False),
    ],
)
def test_part_of_a_computation_is_recognised(part, whole, question, holds):
    assert is_part_of(nodes(part, question)[-1].terms, nodes(whole, question)[-1].terms) is holds


def test_a_right_answer_without_a_false_step_is_declined():
    for text in (
        "Step 1: She sells 16 - 7 = 9 eggs.\nStep 2: That is 18.\nThe answer is 18.",
        "Step 1: All eggs would bring 16 * 2 = 32.\nStep 2: 32 - 14 = $18.\nThe answer is 18.",
    ):
        assert not isinstance(parse_correction(correct(EGGS, text)), ParsedCorrection)
    lucky = correct(EGGS, "Step 1: Left are 16 - 3 - 4 = 8 eggs.\nStep 2: She makes 9 * 2 = 18.\nThe answer is 18.")
    assert parse_correction(lucky).step == 1


def test_value_equal_to_the_gold_by_coincidence_is_no_arrival():
    problem = Problem(
        "Ella has 8 pens. Then she gives away 5. She finds 10 more. Nina gives her 5 more. How many pens has Ella now?",
        "18",
        "Step 1: Ella has 8 - 5 = 3 pens.\nStep 2: Ella has 3 + 10 = 13 pens.\nStep 3: Ella has 13 + 5 = 18 pens.",
    )
    text = "Step 1: 8 + 10 = 18 pens.\nStep 2: 18 - 10 = 8 pens.\nStep 3: 8 + 5 = 13 pens.\nThe answer is 13."
    row = accepted(problem, text)
    assert row.step == 2
    assert "nothing more has to be computed" not in row.correct_solution


def test_the_first_step_that_states_the_wrong_answer_is_named():
    text = "Step 1: Left are 16 - 3 - 4 = 9 eggs.\nStep 2: #### 9\nThe answer is: 9"
    assert accepted(EGGS, text).step == 1


@st.composite
def problems(draw):
    """A chain of operations with its rationale, and a path to it that goes wrong somewhere."""
    value = draw(st.integers(2, 50))
    question, right = f"Tom has {value}.", []
    for _ in range(draw(st.integers(1, 5))):
        sign = draw(st.sampled_from("+*-"))
        number = draw(st.integers(2, 9)) if sign != "-" else draw(st.integers(1, max(1, value - 1)))
        after = {"+": value + number, "*": value * number, "-": value - number}[sign]
        right.append((value, sign, number, after))
        question += f" Then {sign} {number}."
        value = after
    return question, right


def told(steps):
    return "\n".join(f"Step {k}: Now it is {a} {sign} {b} = {c}." for k, (a, sign, b, c) in enumerate(steps, 1))


@given(problems(), st.data())
def test_every_mistake_on_a_generated_problem_is_corrected(made, data):
    question, right = made
    gold = right[-1][3]
    wrong = list(right)
    at = data.draw(st.integers(0, len(right) - 1))
    kind = data.draw(st.sampled_from(["result", "operator", "short", "far", "answer"]))
    a, sign, b, c = right[at]
    answer = c + data.draw(st.integers(1, 9))
    if kind == "result":
        wrong = [*right[:at], (a, sign, b, answer)]
    elif kind == "operator":
        other = data.draw(st.sampled_from([one for one in "+-*" if one != sign]))
        answer = {"+": a + b, "*": a * b, "-": a - b}[other]
        wrong = [*right[:at], (a, other, b, answer)]
    elif kind == "short":
        wrong, answer = right[: at + 1], c
    elif kind == "far":
        wrong, answer = [*right, (gold, "+", 11, gold + 11)], gold + 11
    if answer == gold:
        return
    problem = Problem(question, str(gold), f"{told(right)}\nThe answer is {gold}.")
    row = accepted(problem, f"{told(wrong)}\nThe answer is {answer}.")
    assert row.spliced.endswith(f"The answer is {gold}.")
    assert correct(problem, told(wrong)) == correct(problem, told(wrong))


@given(st.text(max_size=300), st.text(max_size=100), st.sampled_from(["steps", "choice"]))
def test_no_path_breaks_it(path, rationale, shape):
    text = correct(Problem("How many is 3 and 4?", "7", f"{rationale}\nSo 3 + 4 = 7.", ("7", "8")), path, shape)
    parse_correction(text, shape)


def gsm8k_mistakes():
    with (SHARED / "gsm8k" / "example_model_solutions.jsonl").open() as lines:
        for row in map(json.loads, lines):
            rationale, _, gold = row["ground_truth"].rpartition("A:")
            for solution in row.values():
                if isinstance(solution, dict) and not solution["is_correct"]:
                    yield Problem(row["question"], gold.strip(), strip_marks(rationale)), solution["solution"]


@pytest.mark.shared
@pytest.mark.skipif(not SHARED.exists(), reason="the shared data folder is not beside the project")
def test_real_mistakes_get_accepted_corrections():
    rows = [
        review_correction(
            judged(problem, text), Completion("k", correct(problem, text), "stop", 1, 1, "r"), family="numeric"
        )
        for problem, text in list(gsm8k_mistakes())[::4]
    ]
    corrections = [row for row in rows if isinstance(row, Correction)]
    assert len(corrections) >= 0.99 * len(rows) > 0
    assert all(re.search(r"\d|Let|What", row.explanation) for row in corrections)
