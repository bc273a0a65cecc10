"""Multiple choice: it names a candidate or it abstains."""

import pytest

from lema_core.answers import extract, judge, match

CANDIDATES = ("bank", "library", "department store", "mall", "new york")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("The answer is bank.", "bank"),
        ("The answer is (C).", "department store"),
        ("The answer is C.", "department store"),
        ("The answer is D) mall", "mall"),
        ("The answer is **New York**.", "new york"),
        ("Corrected Answer: library", "library"),
        ("The bank has doors. The answer is mall", "mall"),
        (r"The answer is \boxed{\text{C}}", "department store"),
        ("The answer is option C", "department store"),
        ("The answer is choice (C)", "department store"),
        ("The answer is C, not B", "department store"),
        ("The answer is mall, not library.", "mall"),
        ("The answer is (A) bank because banks have doors.", "bank"),
        ("The answer is (A) bank and (A).", "bank"),
    ],
)
def test_choices(text, value):
    assert extract(text, "choice", CANDIDATES).value == value


@pytest.mark.parametrize(
    ("text", "outcome"),
    [
        ("", "none"),
        ("The answer is none of the above.", "none"),
        ("The answer is banks and money.", "none"),
        ("The answer is a bank or a mall.", "ambiguous"),
        ("The answer is (A) mall.", "ambiguous"),
        ("The answer is F.", "none"),
        ("Revolving doors are nice.", "none"),
        ("The answer is (A) or (C).", "ambiguous"),
        ("The answer is (A)? No, (C).", "ambiguous"),
        ("The answer is (A) bank or mall", "ambiguous"),
        ("The answer is (A) is wrong.", "none"),
        ("The answer is (A) is not right", "none"),
        ("The answer is anything but a bank", "none"),
        ("The answer is hardly a bank", "none"),
    ],
)
def test_it_abstains(text, outcome):
    assert extract(text, "choice", CANDIDATES).outcome == outcome


def test_a_candidate_inside_a_longer_one_is_not_named():
    candidates = ("store", "department store", "door")
    assert extract("The answer is a department store.", "choice", candidates).value == "department store"


def test_verdict_and_match():
    assert judge("The answer is (A).", "bank", "choice", CANDIDATES).verdict == "right"
    assert judge("The answer is (B).", "bank", "choice", CANDIDATES).verdict == "wrong"
    assert match("A", "bank", "choice", CANDIDATES).outcome == "equal"
    assert match("(D) Alina", "D", "choice").outcome == "equal"
    assert match("(D) Alina", "C", "choice").outcome == "different"
