"""A small decoder of random weights and a vocabulary made from the texts that it is to read: where pre-training begins.

``python -m lema_core.training.scratch --shape SHAPE.json --texts FILE.parquet --out DIR`` writes a checkpoint that
every program here reads: `models.checkpoint_of` takes its folder as a base. Numbers and words of the texts become
tokens of their own, as far as the vocabulary reaches; any other text is spelled in bytes, so nothing is unknown.
"""

import argparse
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from lema_core.artifacts.files import atomic_folder
from lema_core.artifacts.parquet import read_batches
from lema_core.system.stopping import end_process
from lema_core.training.program import emit, run_program

TEXT_COLUMNS = ("input", "output")
END = "<|end|>"
"""Ends an answer, and fills up a batch's rows."""
PIECES = r" ?\p{L}+| ?\p{N}+|[^\s\p{L}\p{N}]|\s"
"""What can be one token: a word or a number with the space before it, a single sign, a single space."""


class ShapeSpec(BaseModel):
    """The size of a decoder: with the defaults about a million weights."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    hidden: int = Field(128, ge=8)
    """The width of a layer; a multiple of `heads`."""
    layers: int = Field(4, ge=1)
    heads: int = Field(4, ge=1)
    intermediate: int = Field(384, ge=8)
    """The width inside a layer's feed-forward part."""
    vocabulary: int = Field(768, ge=300)
    """Tokens at most, the 256 bytes included: the most frequent words and numbers of the texts."""
    context: int = Field(1024, ge=64)
    """Tokens of a prompt and its answer together."""
    seed: int = Field(0, ge=0)
    """Of the random weights."""

    @property
    def weights(self) -> int:
        """The number of weights."""
        layer = 4 * self.hidden**2 + 3 * self.hidden * self.intermediate + 2 * self.hidden
        return self.layers * layer + self.vocabulary * self.hidden + self.hidden

    @model_validator(mode="after")
    def _heads_share_the_width(self) -> "ShapeSpec":
        if self.hidden % (2 * self.heads):
            raise ValueError(f"hidden is {self.hidden}: expected an even multiple of heads ({self.heads})")
        return self


def make_tokenizer(texts: Iterable[str], size: int) -> Any:
    """Return a tokenizer whose tokens are the texts' words and numbers, at most ``size`` of them.

    The same texts in the same order give the same tokens. Text that was encoded is decoded to the same characters.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PIECES), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=[END], show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )  # fmt: skip
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer, eos_token=END, pad_token=END, clean_up_tokenization_spaces=False
    )


def write_blank(shape: ShapeSpec, texts: Iterable[str], out: Path) -> int:
    """Write a checkpoint of random weights at ``out``, whole or not at all; return the number of its weights."""
    import torch
    from transformers import AutoModelForCausalLM, LlamaConfig

    tokenizer = make_tokenizer(texts, shape.vocabulary)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.heads,
        max_position_embeddings=shape.context,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    torch.manual_seed(shape.seed)
    loader: Any = AutoModelForCausalLM
    model = loader.from_config(config, dtype=torch.float32)
    with atomic_folder(out) as part:
        model.save_pretrained(part)
        tokenizer.save_pretrained(part)
    return sum(weight.numel() for weight in model.parameters())


def _texts(file: Path) -> Iterator[str]:
    for batch in read_batches(str(file), TEXT_COLUMNS):
        for row in batch.to_pylist():
            yield "\n".join(row[name] for name in TEXT_COLUMNS)


def main(argv: Sequence[str] | None = None) -> int:
    """Write a checkpoint from the command line."""
    parser = argparse.ArgumentParser(prog="python -m lema_core.training.scratch")
    parser.add_argument("--shape", type=Path, required=True)
    parser.add_argument("--texts", type=Path, required=True, help="Parquet with the columns input and output")
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args(argv)

    def work() -> None:
        shape = ShapeSpec.model_validate_json(given.shape.read_text("utf-8"))
        emit("blank", weights=write_blank(shape, _texts(given.texts), given.out))

    return run_program(work, given.out)


if __name__ == "__main__":
    end_process(main())
