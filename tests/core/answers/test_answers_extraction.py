"""Extraction: four outcomes, cues, what is cut, and the faults of the published evaluator."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lema_core.answers import extract, judge
from lema_core.answers.extraction import read_answer
from lema_core.answers.results import MAX_TEXT_CHARS


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("Step 1: 3 + 4 = 7.\nThe answer is 7.", "7"),
        ("so 5 apples.\n#### 5", "5"),
        ("#### 1,234", "1,234"),
        ("x\nA: 18", "18"),
        ("The answer is: **18**", "18"),
        ("**The answer is** $18$.", "18"),
        ("THE ANSWER IS 18 DOLLARS", "18"),
        (r"So we get \boxed{18}.", "18"),
        (r"\boxed{4} is a guess. Finally \boxed{18}", "18"),
        ("The answer is $18 per day.", "18"),
        ("The answer is 18 of the 20 apples.", "18"),
        ("The answer is 5 + 13 = 18.", "18"),
        ("The answer is 40%.", "40%"),
        ("The answer is 1 1/2.", "1 1/2"),
        ("The answer is 3/4 of the cake.", "3/4"),
        ("The answer is 10:30.", "10:30"),
        ("The answer is 1e3.", "1*10^{3}"),
        ("The answer is 1.5 million dollars.", "1500000"),
        ("The answer is 5 - 3.", "5 - 3"),
        ("The answer is −18.", "-18"),
        ("The answer is ١٨.", "18"),
        ("The answer is 18 because 3 * 6 = 18.", "18"),
        ("The answer is 5.\nWait, the answer is not unique.", "5"),
        ("#### 18\n\nQuestion: Tom has 4 apples.\n#### 4", "18"),
        ("The answer is 18.\n\nQ: And now?\nA: 4", "18"),
        ("Step 2.\nExplanation: it adds.\nCorrect Solution:\n{\n...\nStep 2: 3 + 3 = 6.\nThe answer is 6.\n}", "6"),
    ],
)
def test_numeric_values(text, value):
    found = extract(text, "numeric")
    assert (found.outcome, found.value) == ("value", value)


@pytest.mark.parametrize(
    ("text", "outcome"),
    [
        ("", "none"),
        ("I do not know.", "none"),
        ("He has 18 apples.", "none"),
        ("The answer is unclear.", "none"),
        ("The answer is 18 or 19.", "ambiguous"),
        *[
            (f"The answer is {phrase}.", "ambiguous")
            for phrase in (
                *("not 5", "less than 5", "twice 5", "a decrease of 5", "half of 10", "the square root of 16", "+-5"),
                *("18; 19", "10~12", "10...12", "5 feet 3 inches", "3 dollars 50 cents", "3 remainder 2", "18 & 19"),
                *("5 to the power of 2", "20% of 50", "10 through 12", "3 packs with 4 left", "5 and a half"),
                *("5 if it rains or 10 if not", "x = 5, y = 6", "Ann = 5 and Bob = 6", "x != 5", "5 (or 6)"),
                *("18 (20 with tax)", "2x5", "1'234", "5 squared", "5 dollars and 50 cents"),
            )
        ],
        ("I don't think the answer is 5.", "ambiguous"),
        (r"\boxed{x<5}", "ambiguous"),
        (r"\boxed{5\text{ or }6}", "ambiguous"),
        (r"\boxed{5 \text{ dollars and } 50 \text{ cents}}", "ambiguous"),
        ("Step 1: The result is 18.\nStep 2: Adding 3 gives 21 in total.", "none"),
        ("The result is 7 apples.\nStep 3: Tom eats 2 and has 5.", "none"),
        ("The answer is between 5 and 6.", "ambiguous"),
        ("The answer is 10-12.", "ambiguous"),
        (r"\boxed{18", "none"),
        ("#### " + "(" * 5000, "refused"),
        ("x" * (MAX_TEXT_CHARS + 1), "refused"),
        ("The answer is 18\x00.", "refused"),
        ("The answer is __import__('os').system('id').", "refused"),
        ("The answer is ｅｖａｌ（'1'）.", "refused"),
    ],
)
def test_outcomes_without_a_value(text, outcome):
    assert extract(text, "numeric").outcome == outcome


@pytest.mark.parametrize(
    ("text", "gold", "verdict"),
    [
        ("I cannot say.", "0", "none"),
        ("The answer is 1 1/2.", "5.5", "wrong"),
        ("The answer is 1 1/2.", "1.5", "right"),
        ("The answer is 1e3.", "13", "wrong"),
        ("The answer is 18 or 19.", "1819", "ambiguous"),
        ("The answer is 10:30.", "10", "wrong"),
        ("The answer is 2 hours 30 minutes.", "230", "wrong"),
        ("The answer is 2 hours and 30 minutes.", "150", "right"),
        ("The answer is 2 hours 30 minutes.", "2.5", "right"),
        ("The answer is **18**.", "18", "right"),
        (r"\boxed{18}", "18", "right"),
        ("The answer is −18.", "-18", "right"),
        ("The answer is 9**9**9**9.", "1", "unknown"),
        ("The answer is 5 + 13.", "18", "right"),
        ("The answer is 5 + 5.", "5", "wrong"),
        *[
            (cue + negative, "-5", "right")
            for cue in ("#### ", "The answer is ")
            for negative in ("minus 5", "negative 5", "[-5]", "{-5}", "Tom:-5", "USD-5")
        ],
        *[
            (f"The answer is {scaled}.", gold, "right")
            for scaled, gold in (("$1.5M", "1500000"), ("5k", "5000"), ("3 hundred", "300"), ("2 dozen", "24"))
        ],
        ("The answer is 5 hundred thousand.", "500000", "right"),
        ("The answer is 18 minus 3.", "18", "ambiguous"),
        ("The answer is 18 out of 20.", "18", "right"),
        ("The answer is 18 apples in 3 days.", "18", "right"),
        ("The answer is 18 (3 * 6 = 18).", "18", "right"),
        ("It is not hard to see that the answer is 5.", "5", "right"),
        (r"\boxed{25_{6}}", "25", "wrong"),
        (r"\boxed{3!}", "6", "right"),
        ("The answer is 5.\n\nNote: the result is 3 more than before.", "5", "right"),
        ("The result is 12 so far.\nQuestion: how many more?\nWe add. The answer is 15.", "15", "right"),
        (r"The answer is \boxed 3.5", "3.5", "right"),
    ],
)
def test_the_published_evaluators_faults_are_not_ours(text, gold, verdict):
    assert judge(text, gold).verdict == verdict


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (r"Thus \boxed{\frac{1}{2}}.", r"\frac{1}{2}"),
        (r"\boxed{\{1,2\}}", r"\{1,2\}"),
        (r"\boxed 5$ done", "5"),
        ("$\\boxed{5}$\n\n$\\boxed{5}$", "5"),
        ("The answer is $3$ or $5$.", "3, 5"),
        ("The answer is $1$, $2$, and $3$.", "1, 2, 3"),
        ("The answer is $2$-$3$.", "2-3"),
        (r"Hence the probability is $1$ - $\frac13$.", r"1 - \frac13"),
        ("The answer is $3$ million.", "3 million"),
        (r"\boxed{1} and \boxed{2}", "1, 2"),
        (r"The final answer is $(-6, \frac52)$. I hope it is correct.", r"(-6, \frac52)"),
        (r"The answer is: \sqrt{117}.", r"\sqrt{117}"),
        ("Final Answer: The largest $n$ is 34.", "34"),
        ("Q: what is x?\nWe solve. The answer is $x=3$.", "x=3"),
        ("We integrate. Therefore, the area is $75$ square units.", "75"),
        ("So we add. Thus there are **12,441,600** ways.", "12,441,600"),
    ],
)
def test_latex_values(text, value):
    assert extract(text, "latex").value == value


def test_a_last_sentence_that_rejects_something_concludes_nothing():
    assert extract("We try. So, $x = 14$ and $y = 15$ is not a solution.", "latex").outcome == "none"


def test_loose_takes_the_last_formula_or_number():
    assert extract("So there are 12 ways.", "numeric", loose=True).value == "12"
    assert extract("We find that $x < 3$ holds for it.", "latex", loose=True).value == "x < 3"


@pytest.mark.parametrize(("text", "value"), [("[1,2]", "[1,2]"), ("The angle is [90].", "90"), ("odd", "odd")])
def test_a_bare_answer_is_read_whole_and_a_sentence_is_not(text, value):
    assert read_answer(text).value.strip("[]") == value.strip("[]")


@given(
    st.integers(-(10**9), 10**9),
    st.sampled_from(["#### {}", "The answer is {}.", r"\boxed{{{}}}", "\nA: {}", "**Answer:** {}"]),
)
@settings(max_examples=200, deadline=None)
def test_every_number_behind_every_cue_is_found(number, cue):
    assert judge("Step 1: 2 + 2 = 4.\n" + cue.format(number), str(number)).verdict == "right"
    assert judge("Step 1: 2 + 2 = 4.\n" + cue.format(number), str(number + 1)).verdict == "wrong"


@given(st.text(max_size=200), st.sampled_from(["numeric", "latex", "choice", "text"]), st.booleans())
@settings(max_examples=400, deadline=None)
def test_no_text_raises(text, family, loose):
    for whole in (text, "The answer is " + text, "\\boxed{" + text + "}", "#### " + text):
        found = extract(whole, family, ("a", "b c"), loose=loose)
        assert (found.value is not None) == (found.outcome == "value")
        assert found.cue != "error"  # the guard hides a defect from users, not from here
