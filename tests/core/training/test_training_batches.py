import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lema_core.training.batches import Plan, plan_run
from lema_core.training.specs import TrainingSpec

LENGTHS = st.lists(st.integers(3, 400), min_size=1, max_size=60)


def plan(lengths: list[int], ranks: int, *, packed: bool = False, budget: int = 2000, batch: int = 8) -> Plan:
    steps = -(-2 * len(lengths) // batch)
    return plan_run(lengths, steps=steps, batch_size=batch, epochs=2, seed=7, ranks=ranks, budget=budget, packed=packed)


def step_examples(made: Plan) -> list[list[int]]:
    width = made.ranks * made.pieces
    cut = [made.micro_batches[s * width : (s + 1) * width] for s in range(made.steps)]
    return [sorted(i for micro in step for i in micro) for step in cut]


@settings(max_examples=60, deadline=None)
@given(LENGTHS, st.integers(1, 5), st.booleans())
def test_every_step_has_the_same_examples_on_any_number_of_ranks(lengths: list[int], ranks: int, packed: bool) -> None:
    alone, shared = plan(lengths, 1, packed=packed), plan(lengths, ranks, packed=packed, budget=500)
    assert step_examples(alone) == step_examples(shared)


@settings(max_examples=60, deadline=None)
@given(LENGTHS, st.integers(1, 4))
def test_two_epochs_hold_every_example_twice(lengths: list[int], ranks: int) -> None:
    seen = sorted(i for micro in plan(lengths, ranks).micro_batches for i in micro)
    assert seen == sorted([*range(len(lengths))] * 2)


@settings(max_examples=60, deadline=None)
@given(LENGTHS, st.integers(1, 3), st.booleans())
def test_no_micro_batch_passes_the_budget_unless_one_example_does(lengths: list[int], ranks: int, packed: bool) -> None:
    made = plan(lengths, ranks, packed=packed, budget=450)
    for micro in made.micro_batches:
        sizes = [lengths[i] for i in micro]
        cost = sum(sizes) if packed else len(sizes) * max(sizes, default=0)
        assert cost <= 450 or made.pieces * ranks >= 8


def test_neighbours_in_length_share_rows_so_that_little_is_padding() -> None:
    lengths = [50 + (37 * i) % 300 for i in range(512)]
    made = plan(lengths, 2, batch=64, budget=2048)
    in_order = 1 - sum(lengths) / (len(lengths) * max(lengths))
    assert made.padding(lengths, packed=False) < in_order / 3


def test_the_order_depends_on_the_seed() -> None:
    lengths = [10] * 40
    first, second = (
        plan_run(lengths, steps=5, batch_size=8, epochs=1, seed=s, ranks=1, budget=999, packed=False) for s in (1, 2)
    )
    assert step_examples(first) != step_examples(second)


def test_steps_without_epochs_go_round_the_data_as_often_as_needed() -> None:
    made = plan_run([10] * 5, steps=7, batch_size=4, epochs=None, seed=0, ranks=2, budget=999, packed=False)
    assert made.steps == 7
    assert sum(len(micro) for micro in made.micro_batches) == 28


@pytest.mark.parametrize("packed", [True, False])
def test_a_small_part_of_an_epoch_is_one_example_at_least(packed: bool) -> None:
    steps = TrainingSpec(epochs=0.1).steps(4)
    made = plan_run([5, 6, 7, 8], steps=steps, batch_size=32, epochs=0.1, seed=0, ranks=2, budget=99, packed=packed)
    assert made.steps == steps == 1
    assert [len(step) for step in step_examples(made)] == [1]
