"""Majority vote by equivalence."""

from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lema_core.answers import majority_vote


def test_equivalent_answers_vote_together():
    vote = majority_vote(["0.5", "2", "1/2", None, "50%"], "numeric")
    assert (vote.answer, vote.count, vote.total, vote.tied) == ("0.5", 3, 4, False)
    assert vote.classes == ((0, 2, 4), (1,))


def test_a_tie_goes_to_the_answer_seen_first_and_says_so():
    vote = majority_vote(["3", "4", "4", "3"])
    assert (vote.answer, vote.tied) == ("3", True)


@pytest.mark.parametrize("answers", permutations(["50%", "0.5", "50"]))
def test_a_class_holds_only_answers_that_all_equal_each_other(answers):
    assert majority_vote(answers).count == 2


def test_nothing_to_vote_for():
    vote = majority_vote([None, " "])
    assert (vote.answer, vote.count, vote.total) == (None, 0, 0)


@given(st.lists(st.integers(0, 3), min_size=1, max_size=12))
def test_the_winner_has_most_votes(numbers):
    vote = majority_vote([str(number) for number in numbers])
    assert vote.count == max(numbers.count(number) for number in numbers)
    assert sum(map(len, vote.classes)) == len(numbers)
