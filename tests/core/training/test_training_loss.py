"""The loss of our trainer against one that is computed by hand, and packed against padded."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from lema_core.training.batches import Plan
from lema_core.training.data import ExampleTokenizer, TokenisedData, load_tokenizer, tokenise
from lema_core.training.specs import TrainingSpec
from lema_core.training.trainers import Collator, LemaTrainer

ROWS: list[dict[str, Any]] = [
    {"id": "a", "kind": "cot", "input": "Question: 3 + 4?", "output": "Step 1: 3 + 4 = 7.", "weight": 1.0},
    {"id": "b", "kind": "correction", "input": "Original Solution: 8", "output": "Step 1.", "weight": 0.5},
    {"id": "c", "kind": "cot", "input": "x", "output": "The answer is 7. " * 4, "weight": 2.0},
]
WEIGHTS = {"correction": 0.2}


@pytest.fixture
def model(tiny_base: str) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(tiny_base).eval()


@pytest.fixture
def data(tiny_base: str, tmp_path: Path) -> TokenisedData:
    tokenizer = ExampleTokenizer(load_tokenizer(tiny_base), "chat")
    tokenise(ROWS, tokenizer, TrainingSpec(base=tiny_base, loss_weights=WEIGHTS), tmp_path)
    return TokenisedData(tmp_path)


def batch_of(data: TokenisedData, *, packed: bool) -> dict[str, torch.Tensor]:
    plan = Plan(steps=1, pieces=1, ranks=1, micro_batches=((0, 1, 2),))
    return Collator(data, plan, pad=1, packed=packed)([{"micro_batch": 0}])


def by_hand(model: Any, data: TokenisedData) -> float:
    """Sum weight * -log p over the trained tokens, one example and one token at a time."""
    total, trained = 0.0, 0
    for example, given in zip(data, ROWS, strict=True):
        with torch.no_grad():
            scores = model(torch.tensor([example.input_ids])).logits[0].double().log_softmax(-1)
        tokens = range(example.prompt_tokens, len(example.input_ids))
        weight = given["weight"] * WEIGHTS.get(given["kind"], 1.0)
        total -= weight * sum(float(scores[i - 1, example.input_ids[i]]) for i in tokens)
        trained += len(tokens)
    return total / trained


def test_weights_of_views_and_of_kinds_reach_the_loss_exactly(model: Any, data: TokenisedData) -> None:
    batch = batch_of(data, packed=False)
    trained = int((batch["labels"] != -100).sum())
    trainer = SimpleNamespace(
        model=model, accelerator=SimpleNamespace(num_processes=1), state=SimpleNamespace(global_step=0)
    )
    trainer._loss_of_trained = LemaTrainer._loss_of_trained.__get__(trainer)
    loss = LemaTrainer.compute_loss(trainer, model, batch, num_items_in_batch=torch.tensor(trained))
    assert loss.item() == pytest.approx(by_hand(model, data), abs=1e-5)
    assert by_hand(model, data) != pytest.approx(unweighted(model, data), abs=0.1), "the weights matter here"


def unweighted(model: Any, data: TokenisedData) -> float:
    batch = batch_of(data, packed=False)
    with torch.no_grad():
        return float(model(input_ids=batch["input_ids"], labels=batch["labels"]).loss)


def test_no_example_of_a_packed_row_sees_another(model: Any, data: TokenisedData) -> None:
    """Position ids that start anew are all that keeps examples apart; transformers makes a block mask of them."""
    rows, packed = batch_of(data, packed=False), batch_of(data, packed=True)
    assert packed["input_ids"].shape == (1, sum(data.lengths()))
    with torch.no_grad():
        apart = model(input_ids=rows["input_ids"]).logits[:, :-1][rows["labels"][:, 1:] != -100]
        inputs = {name: packed[name] for name in ("input_ids", "position_ids")}
        together = model(**inputs, use_cache=False).logits[:, :-1][packed["labels"][:, 1:] != -100]
        blind = model(input_ids=packed["input_ids"]).logits[:, :-1][packed["labels"][:, 1:] != -100]
    assert torch.allclose(apart, together, atol=1e-5)
    assert not torch.allclose(apart, blind, atol=1e-2), "without the position ids they do see each other"
