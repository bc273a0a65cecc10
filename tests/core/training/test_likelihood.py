"""The likelihood of gold solutions: a batch gives what each solution gets alone, and only its own tokens count."""

import dataclasses

import pyarrow.parquet as pq
import pytest

torch = pytest.importorskip("torch")

from lema_core.artifacts.parquet import table_of  # noqa: E402
from lema_core.questions import QuestionsSpec, read_questions  # noqa: E402
from lema_core.records import Question  # noqa: E402
from lema_core.training.likelihood import Scored, batches, measure, negative_log_likelihoods  # noqa: E402
from lema_core.training.scratch import ShapeSpec, write_blank  # noqa: E402

QUESTIONS = [row for row in read_questions(QuestionsSpec(task="arithmetic", limit=12)) if isinstance(row, Question)]


@pytest.fixture(scope="module")
def blank(tmp_path_factory):
    folder = tmp_path_factory.mktemp("blank") / "model"
    texts = [f"{row.text}\n{row.rationale}" for row in QUESTIONS]
    write_blank(ShapeSpec(hidden=32, layers=2, heads=2, intermediate=48, vocabulary=400), texts, folder)
    return folder


def _alone(model, item: Scored) -> float:
    with torch.inference_mode():
        logits = model(input_ids=torch.tensor([item.tokens])).logits[0].log_softmax(-1)
    return -sum(float(logits[place - 1, item.tokens[place]]) for place in range(item.given, len(item.tokens)))


def test_a_batch_gives_what_each_solution_gets_alone(blank):
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(blank)
    items = [Scored("a", list(range(5, 30)), 7), Scored("b", [9, 8, 7, 6], 1), Scored("c", list(range(40, 99)), 58)]
    found = negative_log_likelihoods(model, "cpu", items)
    assert found == pytest.approx([_alone(model, item) for item in items], rel=1e-4)


def test_batches_hold_every_item_once_and_keep_the_budget():
    items = [Scored(str(n), [0] * (1 + n * 7 % 40), 1) for n in range(30)]
    found = list(batches(items, 64))
    assert sorted(item.id for batch in found for item in batch) == sorted(item.id for item in items)
    assert all(len(batch) == 1 or len(batch) * max(len(item.tokens) for item in batch) <= 64 for batch in found)


def test_each_question_with_a_rationale_is_a_row(blank, tmp_path):
    rows = [*QUESTIONS[:-2], dataclasses.replace(QUESTIONS[-2], rationale=None)]
    too_long = dataclasses.replace(QUESTIONS[-1], id="q-long", text="Think. " * 2000)
    (tmp_path / "questions").mkdir()
    pq.write_table(table_of([*rows, too_long], Question), tmp_path / "questions" / "part-00000.parquet")
    measure(str(blank), tmp_path / "questions", tmp_path / "out.parquet", limit=100)
    found = {row["question_id"]: row for row in pq.read_table(tmp_path / "out.parquet").to_pylist()}
    assert found.keys() == {row.id for row in QUESTIONS[:-2]}
    # A model that knows nothing finds every token about as likely as any other of the vocabulary.
    nats = sum(row["nll"] for row in found.values()) / sum(row["tokens"] for row in found.values())
    assert nats == pytest.approx(torch.log(torch.tensor(400.0)).item(), abs=0.5)
    measure(str(blank), tmp_path / "questions", tmp_path / "first.parquet", limit=3)
    assert pq.read_table(tmp_path / "first.parquet").num_rows == 3


def test_the_end_of_the_answer_is_scored(blank, tmp_path):
    from transformers import AutoTokenizer

    (tmp_path / "questions").mkdir()
    pq.write_table(table_of(QUESTIONS[:1], Question), tmp_path / "questions" / "part-00000.parquet")
    measure(str(blank), tmp_path / "questions", tmp_path / "out.parquet", limit=1)
    (row,) = pq.read_table(tmp_path / "out.parquet").to_pylist()
    words = AutoTokenizer.from_pretrained(blank).encode(QUESTIONS[0].rationale, add_special_tokens=False)
    assert row["tokens"] == len(words) + 1
