"""How surprised a model is by a mistaken path and by its correction (the delta-PPL of the paper's appendix).

``python -m lema_core.training.perplexity --model CHECKPOINT --corrections FOLDER --out FILE.parquet``: one forward pass
over pairs, no sampling. A path's perplexity is ``exp`` of the mean negative log-likelihood of its tokens, given the
question in the form of a CoT example. Of ``--limit`` pairs the first ones are taken.
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
from lema_core.system.chunking import chunked
from lema_core.system.stopping import end_process
from lema_core.training.data import ExampleTokenizer, load_tokenizer
from lema_core.training.models import checkpoint_of
from lema_core.training.program import emit, run_scoring

BATCH = 8
"""Pairs in one forward pass."""
MAX_TOKENS = 2048
"""Longer pairs are left out and counted: truncated ones would be other texts."""
SCHEMA = pa.schema([("id", pa.string()), ("mistaken", pa.float64()), ("corrected", pa.float64())])
COLUMNS = ["id", "task", "question", "candidates", "original", "spliced"]


def measure(checkpoint: str, corrections: Path, out: Path, limit: int) -> None:
    """Write one row per pair that fits: ``id`` of the correction, ``mistaken`` and ``corrected`` perplexity."""
    from transformers import AutoModelForCausalLM

    folder = checkpoint_of(checkpoint)
    tokenizer = load_tokenizer(folder)
    examples = ExampleTokenizer(tokenizer, "chat" if tokenizer.chat_template else "plain")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    kind = torch.bfloat16 if device == "cuda" else torch.float32
    # Without dropout: from_pretrained gives a model that does not train.
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=kind, trust_remote_code=False)
    model = model.to(device)
    longest = min(MAX_TOKENS, int(getattr(model.config, "max_position_embeddings", MAX_TOKENS)))
    rows: list[dict[str, Any]] = []
    left_out = 0
    for batch in chunked(islice(_pairs(corrections, examples), limit), BATCH):
        fitting = [pair for pair in batch if max(len(pair.mistaken), len(pair.corrected)) <= longest]
        left_out += len(batch) - len(fitting)
        if fitting:
            mistaken = perplexities(model, device, [(pair.mistaken, pair.prompt_tokens) for pair in fitting])
            corrected = perplexities(model, device, [(pair.corrected, pair.prompt_tokens) for pair in fitting])
            rows += [
                {"id": pair.id, "mistaken": before, "corrected": after}
                for pair, before, after in zip(fitting, mistaken, corrected, strict=True)
            ]
            emit("pairs", done=len(rows))
    with atomic_local(out) as local:
        write_table(pa.Table.from_pylist(rows, schema=SCHEMA), local)
    emit("done", pairs=len(rows), left_out=left_out)


def perplexities(model: Any, device: str, sequences: Sequence[tuple[list[int], int]]) -> list[float]:
    """Return the perplexity of each sequence's tokens from its start position on, in one padded forward pass.

    Args:
        model: a causal language model.
        device: where it is.
        sequences: token ids, and how many of them are only given.
    """
    width = max(len(tokens) for tokens, _ in sequences)
    ids = torch.tensor([tokens + [0] * (width - len(tokens)) for tokens, _ in sequences], device=device)
    mask = torch.tensor([[1] * len(tokens) + [0] * (width - len(tokens)) for tokens, _ in sequences], device=device)
    with torch.inference_mode():
        logits = model(input_ids=ids, attention_mask=mask).logits[:, :-1].float()
    losses = torch.nn.functional.cross_entropy(logits.transpose(1, 2), ids[:, 1:], reduction="none")
    # The loss at position t is that of token t + 1.
    return [
        float(losses[row, given - 1 : len(tokens) - 1].mean().exp()) for row, (tokens, given) in enumerate(sequences)
    ]


class TokenPair(NamedTuple):
    """A correction as tokens: the question with the mistaken path, and with the corrected one."""

    id: str
    mistaken: list[int]
    corrected: list[int]
    prompt_tokens: int
    """How many tokens of both are the question."""


def _pairs(corrections: Path, examples: ExampleTokenizer) -> Iterator[TokenPair]:
    for file in part_files(LOCAL, str(corrections)):
        for batch in read_batches(file, COLUMNS):
            for row in batch.to_pylist():
                candidates = tuple(row["candidates"]) if row["candidates"] else None
                text = path_input(get_task(row["task"]).prompts, row["question"], candidates)
                # As in training: the prompt, then what the template writes before an answer. Neither is of the path.
                prompt = examples.read(text)
                opening = examples.trained("", asked=text, stops=False)
                paths = [examples.trained(row[name], asked=text, stops=False) for name in ("original", "spliced")]
                given = len(opening) * all(path[: len(opening)] == opening for path in paths)
                if all(len(path) > given for path in paths):
                    yield TokenPair(row["id"], prompt + paths[0], prompt + paths[1], len(prompt) + given)


if __name__ == "__main__":
    end_process(run_scoring("lema_core.training.perplexity", "corrections", measure))
