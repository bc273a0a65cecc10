import pytest
from hypothesis import given
from hypothesis import strategies as st

from lema_core.artifacts import ArtifactRef, Identity, Store
from lema_core.errors import DataError
from lema_core.evaluation.checkpoint_selection import hold_out, read_selection, score_checkpoints, write_selection
from lema_core.records import JudgedPath, Question


def answers(right: int, n: int) -> list[JudgedPath]:
    shared = dict.fromkeys(JudgedPath.__dataclass_fields__, "")
    return [
        JudgedPath(**shared | {"question_id": f"q-{i}", "verdict": "right" if i < right else "wrong"}) for i in range(n)
    ]


def questions(n: int) -> list[Question]:
    return [Question(id=f"q-{i}", task="gsm8k", text=str(i), gold="1") for i in range(n)]


@given(st.dictionaries(st.integers(1, 3000), st.integers(0, 12), min_size=1, max_size=12), st.data())
def test_the_best_on_the_held_out_questions_is_chosen_whatever_the_test_set_says(right, data):
    on_test = {step: data.draw(st.integers(0, 5)) for step in right}
    plain = score_checkpoints({step: answers(k, 12) for step, k in right.items()}, {})
    leaking = score_checkpoints(
        {step: answers(k, 12) for step, k in right.items()}, {step: answers(k, 5) for step, k in on_test.items()}
    )
    (best,) = (row for row in plain if row.chosen)
    assert best.right == max(right.values())
    assert best.step == min(step for step in right if right[step] == best.right), "of equals the earliest"
    assert [row.chosen for row in leaking] == [row.chosen for row in plain]
    (reported,) = (row for row in leaking if row.best_on_test)
    assert on_test[reported.step] == max(on_test.values())
    assert not any(row.best_on_test or row.test for row in plain)
    assert [row.step for row in plain] == sorted(right)
    assert all(row.low - 1e-9 <= row.accuracy <= row.high + 1e-9 for row in plain)


def test_the_table_comes_back_from_parquet(tmp_path):
    rows = score_checkpoints({10: answers(1, 4), 20: answers(3, 4)}, {10: answers(2, 3), 20: answers(0, 3)})
    store, identity = Store(str(tmp_path)), Identity("training", {})
    model = ArtifactRef("training", identity.fingerprint)
    write_selection(rows, store.local_folder(model) / "selection.parquet")
    store.publish_files(identity, ["selection.parquet"], seconds=0)
    assert read_selection(store, model) == tuple(rows)


def test_without_a_checkpoint_or_an_answer_nothing_is_chosen():
    with pytest.raises(DataError, match="no checkpoint"):
        score_checkpoints({}, {})
    with pytest.raises(DataError, match="n > 0"):
        score_checkpoints({10: answers(0, 0)}, {})


def test_held_out_questions_leave_some_to_train_on():
    kept = hold_out(questions(10), 9, seed=1)
    assert len({row.id for row in kept}) == 9
    with pytest.raises(DataError, match="keeps back 10 questions and there are 10"):
        hold_out(questions(10), 10, seed=1)
