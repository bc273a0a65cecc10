"""Where nearly all answers are empty or without the form, a stage ends; a weak student that is wrong goes on."""

import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lema_core.errors import EndpointError, UnusableAnswersError
from lema_core.stages.unusable_answers import check_usable, shown_reasons


@pytest.mark.parametrize(
    ("rows", "reasons", "says"),
    [
        (12, {"cut_in_thinking": 12}, "12 of 12 answers were empty: the model thought until its cap"),
        (12, {"empty": 8, "cut_off": 4}, "8 of 12 answers were empty"),
        (3, {"unparsable": 3}, "3 of 3 answers do not have the form"),
        (1000, {"only_thinking": 951}, "951 of 1000"),
        (12, {"request_failed": 2, "empty": 10}, "10 of 10 answers were empty"),
    ],
)
def test_a_stage_without_usable_answers_ends_with_the_remedy(rows, reasons, says) -> None:
    with pytest.raises(UnusableAnswersError, match=says) as found:
        check_usable("reasoning_paths", rows, reasons, 0.2)
    assert isinstance(found.value, EndpointError), "shards that have not begun do not begin"
    assert "What to do: " in str(found.value)
    assert "--set runtime.max_failed=1" in str(found.value)
    assert str(pickle.loads(pickle.dumps(found.value))) == str(found.value)  # noqa: S301 - as a Dask worker sends it
    check_usable("reasoning_paths", rows, reasons, 1.0)


@pytest.mark.parametrize(
    ("rows", "reasons"),
    [
        (12, {"cut_in_thinking": 11}),
        (1000, {"empty": 949}),
        (1000, {"wrong_answer": 900, "false_equation": 100}),
        (12, {"request_failed": 12}),
        (0, {}),
    ],
)
def test_wrong_answers_and_some_empty_ones_end_nothing(rows, reasons) -> None:
    check_usable("corrections", rows, reasons, 0.2)


def test_a_shard_is_judged_only_where_it_is_large() -> None:
    check_usable("reasoning_paths", 99, {"empty": 99}, 0.2, fewest=100)
    with pytest.raises(UnusableAnswersError):
        check_usable("reasoning_paths", 100, {"empty": 100}, 0.2, fewest=100)


REASONS = st.dictionaries(st.sampled_from(["empty", "cut_off", "wrong_answer", "request_failed"]), st.integers(0, 50))


@given(REASONS, st.integers(0, 50))
def test_what_is_kept_or_wrong_outweighs(reasons, kept) -> None:
    rows = kept + sum(reasons.values())
    usable = kept + reasons.get("wrong_answer", 0)
    try:
        check_usable("s", rows, reasons, 0.2)
    except UnusableAnswersError:
        assert usable <= 0.05 * (rows - reasons.get("request_failed", 0))


def test_reasons_of_a_few_per_cent_are_shown() -> None:
    assert shown_reasons(1000, {"a": 29, "b": 30, "c": 500}) == {"c": 500, "b": 30}
    assert shown_reasons(12, {"a": 1, "b": 0}) == {"a": 1}
