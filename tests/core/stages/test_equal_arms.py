"""Arms that would be one model under two names are found by their rows, whatever their definitions and order."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import kept

from lema_core.artifacts import ArtifactRef, Store
from lema_core.errors import DataError
from lema_core.records import Example
from lema_core.stages.mixture import ArmExamples, check_distinct, find_equal


def example(number: int, output: str = "4", weight: float = 1.0) -> Example:
    return Example(
        id=f"example-{number}-{output}", kind="cot", source_id=f"s-{number}", question_id=f"q-{number}",
        input=f"What is {number}?", output=output, weight=weight,
    )  # fmt: skip


def arm(
    store: Store, name: str, rows: list[Example], training: object = "sft", definition: object = None
) -> ArmExamples:
    ref = kept(store, "mixture", rows, Example, name)
    return ArmExamples(name, ref, definition or name, training)


@pytest.fixture
def store(tmp_path) -> Store:
    return Store(str(tmp_path / "store"))


def test_equal_rows_in_another_order_are_one_arm_and_the_error_names_both(store) -> None:
    rows = [example(number) for number in range(5)]
    arms = [arm(store, "cot", rows), arm(store, "lema", rows[::-1])]
    with pytest.raises(DataError, match="'cot' and 'lema' hold the same examples: the rows by which") as found:
        check_distinct(store, arms)
    assert "no corrections" in str(found.value)


def test_the_same_definition_is_named_before_anything_exists(store) -> None:
    ref = ArtifactRef("mixture", "0" * 64)
    arms = [ArmExamples("cot", ref, {"views": 1}, "sft"), ArmExamples("mine", ref, {"views": 1}, "sft")]
    with pytest.raises(DataError, match="both have the same definition"):
        check_distinct(store, arms)


@pytest.mark.parametrize("other", [example(4, "5"), example(4, weight=0.5), example(9)])
def test_one_other_row_is_another_arm(store, other) -> None:
    rows = [example(number) for number in range(5)]
    check_distinct(store, [arm(store, "cot", rows), arm(store, "lema", [*rows[:-1], other])])


def test_the_same_rows_trained_in_another_way_are_another_model(store) -> None:
    rows = [example(number) for number in range(3)]
    check_distinct(store, [arm(store, "short", rows, {"epochs": 1}), arm(store, "long", rows, {"epochs": 3})])


@settings(max_examples=30, deadline=None)
@given(st.lists(st.sets(st.integers(0, 6), min_size=1), min_size=2, max_size=4))
def test_a_pair_is_found_exactly_where_two_arms_hold_the_same_rows(tmp_path_factory, sets) -> None:
    store = Store(str(tmp_path_factory.mktemp("arms")))
    arms = [arm(store, f"arm{place}", [example(n) for n in sorted(rows)]) for place, rows in enumerate(sets)]
    pair = find_equal(store, arms)
    assert (pair is not None) == (len(set(map(frozenset, sets))) < len(sets))
    if pair:
        one, other = (sets[int(found.name.removeprefix("arm"))] for found in pair)
        assert one == other
