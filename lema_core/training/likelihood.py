"""How likely a model finds the gold solutions of questions: their negative log-likelihood, teacher-forced.

``python -m lema_core.training.likelihood --model CHECKPOINT --questions FOLDER --out FILE.parquet``: one forward pass
over each question with its rationale, in the form of a CoT example, and no sampling. Its noise is far below that of
right and wrong answers, so it can part two models where these cannot.
"""

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import torch

from lema_core.artifacts import part_files
from lema_core.artifacts.files import LOCAL, atomic_local
from lema_core.artifacts.parquet import read_batches, write_table
from lema_core.prompts import path_input
from lema_core.questions import get_task
from lema_core.system.stopping import end_process
from lema_core.training.data import ExampleTokenizer, load_tokenizer
from lema_core.training.models import checkpoint_of, project_only
from lema_core.training.program import emit, run_scoring

BATCH_TOKENS = 8192
"""Tokens of one forward pass, padding included."""
MAX_TOKENS = 4096
"""A longer question with its solution is left out and counted: a truncated one would be another text."""
SCHEMA = pa.schema([("question_id", pa.string()), ("nll", pa.float64()), ("tokens", pa.int32())])
COLUMNS = ["id", "task", "text", "candidates", "rationale"]


class Scored(NamedTuple):
    """A question and its gold solution as tokens."""

    id: str
    tokens: list[int]
    given: int
    """How many of them are the question; the others are scored, the end of the answer among them."""


def measure(checkpoint: str, questions: Path, out: Path, limit: int) -> None:
    """Write one row per question that has a rationale and fits: ``nll`` in nats, summed over ``tokens`` tokens."""
    from transformers import AutoModelForCausalLM

    folder = checkpoint_of(checkpoint)
    tokenizer = load_tokenizer(folder)
    examples = ExampleTokenizer(tokenizer, "chat" if tokenizer.chat_template else "plain")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    kind = torch.bfloat16 if device == "cuda" else torch.float32
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=kind, trust_remote_code=False)
    model = model.to(device)
    longest = min(MAX_TOKENS, int(getattr(model.config, "max_position_embeddings", MAX_TOKENS)))
    asked = list(islice(_read(questions), limit))
    items = [item for row in asked if row["rationale"] for item in _scored(row, examples)]
    fitting = [item for item in items if len(item.tokens) <= longest]
    rows: list[dict[str, Any]] = []
    for batch in batches(fitting, BATCH_TOKENS):
        for item, nll in zip(batch, negative_log_likelihoods(model, device, batch), strict=True):
            rows.append({"question_id": item.id, "nll": nll, "tokens": len(item.tokens) - item.given})
        emit("scored", done=len(rows), of=len(fitting))
    rows.sort(key=lambda row: str(row["question_id"]))
    with atomic_local(out) as local:
        write_table(pa.Table.from_pylist(rows, schema=SCHEMA), local)
    total = {name: sum(row[name] for row in rows) for name in ("nll", "tokens")}
    emit("done", scored=len(rows), left_out=len(asked) - len(rows), **total)


def batches(items: Sequence[Scored], budget: int) -> Iterator[list[Scored]]:
    """Yield items of similar lengths together, as many as ``budget`` padded tokens hold, one at least."""
    batch: list[Scored] = []
    for item in sorted(items, key=lambda one: (len(one.tokens), one.id)):
        # In the order of lengths the new item is the longest of its batch.
        if batch and (len(batch) + 1) * len(item.tokens) > budget:
            yield batch
            batch = []
        batch.append(item)
    if batch:
        yield batch


def negative_log_likelihoods(model: Any, device: str, items: Sequence[Scored]) -> list[float]:
    """Return the negative log-likelihood of each item's scored tokens, in nats, in one padded forward pass."""
    width = max(len(item.tokens) for item in items)
    ids = torch.zeros((len(items), width), dtype=torch.long)
    wanted = torch.zeros((len(items), width), dtype=torch.bool)
    for row, item in enumerate(items):
        ids[row, : len(item.tokens)] = torch.tensor(item.tokens)
        wanted[row, item.given : len(item.tokens)] = True
    ids, wanted = ids.to(device), wanted.to(device)[:, 1:]
    # Padded on the right: a causal model never looks there, so no mask is needed.
    with torch.inference_mode(), project_only(model.get_output_embeddings(), wanted):
        logits = model(input_ids=ids, use_cache=False).logits.float()
    losses = torch.nn.functional.cross_entropy(logits, ids[:, 1:][wanted], reduction="none").double()
    sums = torch.zeros(len(items), dtype=torch.double, device=losses.device)
    sums.index_add_(0, wanted.nonzero()[:, 0], losses)
    return [float(value) for value in sums]


def _read(questions: Path) -> Iterator[dict[str, Any]]:
    for file in part_files(LOCAL, str(questions)):
        for batch in read_batches(file, COLUMNS):
            yield from batch.to_pylist()


def _scored(row: dict[str, Any], examples: ExampleTokenizer) -> Iterator[Scored]:
    """Yield the question as an item, none where a control token in its solution would be read as a turn's mark."""
    candidates = tuple(row["candidates"]) if row["candidates"] else None
    text = path_input(get_task(row["task"]).prompts, row["text"], candidates)
    if examples.control_token(text) or examples.control_token(row["rationale"]):
        return
    prompt = examples.read(text)
    yield Scored(row["id"], prompt + examples.trained(row["rationale"], asked=text), len(prompt))


if __name__ == "__main__":
    end_process(run_scoring("lema_core.training.likelihood", "questions", measure))
