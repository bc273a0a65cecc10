"""delta-PPL by a forward pass over the tiny model: the numbers are those of one path alone, whatever is beside it."""

import dataclasses
import math

import pyarrow.parquet as pq
import pytest

torch = pytest.importorskip("torch")

from lema_core.artifacts.parquet import table_of  # noqa: E402
from lema_core.records import Correction  # noqa: E402
from lema_core.training.perplexity import measure, perplexities  # noqa: E402

ROW = Correction(
    id="c-0", path_id="p", question_id="q", task="numeric", question="What is 2 + 3?", gold="5", candidates=None,
    level=None, student="s", corrector="c", attempt=0, original="Step 1: 2 + 3 = 6\nThe answer is 6.", wrong_answer="6",
    step=1, n_steps=1, explanation="e", correct_solution="Step 1: 2 + 3 = 5\nThe answer is 5.",
    spliced="Step 1: 2 + 3 = 5\nThe answer is 5.", false_step=None, request_key="k", prompt_tokens=1,
    completion_tokens=1,
)  # fmt: skip


class Uniform(torch.nn.Module):
    """Knows nothing: each of 50 tokens is as likely as any other."""

    def forward(self, input_ids, attention_mask):
        return type("Out", (), {"logits": torch.zeros(*input_ids.shape, 50)})


def test_a_model_that_knows_nothing_has_the_perplexity_of_its_vocabulary():
    found = perplexities(Uniform(), "cpu", [([1, 2, 3, 4], 2), ([5, 6, 7], 1)])
    assert found == pytest.approx([50, 50])


class Certain(torch.nn.Module):
    """Is sure that the next token is one more than the last."""

    def forward(self, input_ids, attention_mask):
        return type("Out", (), {"logits": 30.0 * torch.nn.functional.one_hot(input_ids + 1, 50).float()})


def test_only_the_paths_own_tokens_count():
    # The given tokens are surprising (9 after 2), the path's are not; then the other way round.
    given, path = perplexities(Certain(), "cpu", [([2, 9, 10, 11], 2), ([2, 3, 9], 2)])
    assert given == pytest.approx(1, abs=1e-3)
    assert math.log(path) == pytest.approx(30, abs=1e-3)


def test_pairs_are_measured_alike_alone_and_beside_longer_ones(tmp_path):
    rows = [dataclasses.replace(ROW, id=f"c-{n}", question="What is 2 + 3? " + "Think. " * 9 * n) for n in range(3)]
    for name, chosen in (("all", rows), ("one", rows[:1])):
        (tmp_path / name).mkdir()
        pq.write_table(table_of(chosen, Correction), tmp_path / name / "part-00000.parquet")
        measure("tiny", tmp_path / name, tmp_path / f"{name}.parquet", limit=10)
    together, alone = (pq.read_table(tmp_path / f"{name}.parquet").to_pylist() for name in ("all", "one"))
    assert [row["id"] for row in together] == ["c-0", "c-1", "c-2"]
    assert together[0]["mistaken"] == pytest.approx(alone[0]["mistaken"], rel=1e-4)
    assert all(row["mistaken"] > 1 and row["corrected"] > 1 for row in together)
    measure("tiny", tmp_path / "all", tmp_path / "two.parquet", limit=2)
    assert pq.read_table(tmp_path / "two.parquet").num_rows == 2


def test_where_no_pair_fits_the_table_is_empty(tmp_path):
    (tmp_path / "all").mkdir()
    row = dataclasses.replace(ROW, question="Think. " * 5000)
    pq.write_table(table_of([row], Correction), tmp_path / "all" / "part-00000.parquet")
    measure("tiny", tmp_path / "all", tmp_path / "none.parquet", limit=10)
    found = pq.read_table(tmp_path / "none.parquet")
    assert (found.num_rows, found.column_names) == (0, ["id", "mistaken", "corrected"])
