"""Examples as tokens, once: exact masks, nothing cut, kept as a memory-mapped Arrow file.

The prompt's tokens are what the chat template gives for one user message with a generation prompt: just what a server
computes at evaluation, default system prompt included. The trained tokens are the output's own tokens and the
end-of-sequence token. ``plain`` uses a pass-through template that is saved with the tokenizer, so that training and
every server agree there too.

``python -m lema_core.training.data --spec SPEC.json --examples DIR --out DIR`` does it by hand.
"""

import argparse
import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from lema_core.errors import ConfigError, DataError, LemaError, MissingDependencyError
from lema_core.training.specs import TrainingSpec, load_specs

TOKENS_FILE = "tokens.arrow"
REJECTED_FILE = "rejected.parquet"
META_FILE = "meta.json"

PLAIN_TEMPLATE = (
    "{{ bos }}{% for message in messages %}{{ message['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '\\n' }}{% endif %}"
)

_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("kind", pa.string()),
        ("input_ids", pa.list_(pa.int32())),
        ("prompt_tokens", pa.int32()),
        ("weight", pa.float64()),
    ]
)
_REJECTED = pa.schema([("id", pa.string()), ("reason", pa.string()), ("detail", pa.string())])


@dataclass(frozen=True, slots=True)
class TokenisedExample:
    """``input_ids[prompt_tokens:]`` is trained: the output and the end-of-sequence token."""

    id: str
    kind: str
    input_ids: list[int]
    prompt_tokens: int
    weight: float


class ExampleTokenizer:
    """Turns input and output into tokens with an exact border between what is read and what is trained.

    Raises:
        ConfigError: the model has no chat template or no end-of-sequence token, or its template ends an answer in a
            way that the end-of-sequence token does not.
    """

    def __init__(self, tokenizer: Any, template: str) -> None:
        self.tokenizer = tokenizer
        if tokenizer.eos_token_id is None:
            raise ConfigError("the tokenizer has no end-of-sequence token: the model could never learn to stop")
        if template == "plain":
            tokenizer.chat_template = _pass_through(tokenizer)
        elif not tokenizer.chat_template:
            raise ConfigError("the base model has no chat template: set template = 'plain'")
        else:
            self._check_template()

    def encode(self, text_in: str, text_out: str) -> tuple[list[int], int]:
        """Return all tokens of an example and how many of them are the prompt's."""
        prompt = self.tokenizer.encode(self.prompt(text_in), add_special_tokens=False)
        output = self.tokenizer.encode(text_out, add_special_tokens=False)
        return [*prompt, *output, self.tokenizer.eos_token_id], len(prompt)

    def prompt(self, text_in: str) -> str:
        """Return the text that a server makes of one user message before it generates."""
        messages = [{"role": "user", "content": text_in}]
        rendered: str = self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        return rendered

    def _check_template(self) -> None:
        turns = [{"role": "user", "content": "1 + 1?"}, {"role": "assistant", "content": "2."}]
        whole: str = self.tokenizer.apply_chat_template(turns, tokenize=False)
        intended = f"{self.prompt('1 + 1?')}2.{self.tokenizer.eos_token}"
        if not whole.startswith(intended):
            raise ConfigError(
                "the model's chat template does not end an answer with the tokenizer's end-of-sequence token: "
                f"expected {intended!r}, the template gives {whole!r};"
                " set the tokenizer's eos_token, or template = 'plain'"
            )


def _pass_through(tokenizer: Any) -> str:
    probe = tokenizer.encode("1")
    adds_bos = tokenizer.bos_token_id is not None and probe[:1] == [tokenizer.bos_token_id]
    return PLAIN_TEMPLATE.replace("{{ bos }}", "{{ bos_token }}" if adds_bos else "")


def load_tokenizer(base: str) -> Any:
    """Return the transformers tokenizer of ``base``, a checkpoint folder or model id; no code of the model is run."""
    try:
        from transformers import AutoTokenizer
    except ImportError as error:
        raise MissingDependencyError("training is not installed: run `pip install 'lema-pipeline[train]'`") from error
    return AutoTokenizer.from_pretrained(base, trust_remote_code=False)


def tokenise(
    examples: Iterable[Mapping[str, Any]], tokenizer: ExampleTokenizer, spec: TrainingSpec, out: Path
) -> dict[str, Any]:
    """Write the examples (fields of ``records.Example``) as tokens into the folder ``out``; return its counts.

    An example that is too long, or has no output, becomes a rejected row with a reason: ``too_long``, ``no_output``.

    Raises:
        DataError: no example is left to train on.
    """
    out.mkdir(parents=True, exist_ok=True)
    rejected: list[dict[str, str]] = []
    counts: dict[str, Any] = {"examples": 0, "tokens": 0, "trained_tokens": 0, "longest": 0}
    part = out / f"{TOKENS_FILE}.part"
    with pa.OSFile(str(part), "wb") as sink, pa.ipc.new_file(sink, _SCHEMA) as writer:
        for rows in _chunks(_encode_all(examples, tokenizer, spec, rejected), 1000):
            writer.write_batch(pa.RecordBatch.from_pylist(rows, schema=_SCHEMA))
            counts["examples"] += len(rows)
            counts["tokens"] += sum(len(row["input_ids"]) for row in rows)
            counts["trained_tokens"] += sum(len(row["input_ids"]) - row["prompt_tokens"] for row in rows)
            counts["longest"] = max(counts["longest"], *(len(row["input_ids"]) for row in rows))
    counts["rejected"] = len(rejected)
    if not counts["examples"]:
        raise DataError(
            f"no example to train on: {len(rejected)} rejected"
            + (f", the first because {rejected[0]['detail']}" if rejected else ", none given")
        )
    pq.write_table(pa.Table.from_pylist(rejected, schema=_REJECTED), out / REJECTED_FILE)
    part.replace(out / TOKENS_FILE)
    _write_meta(out, counts)
    return counts


def _encode_all(
    examples: Iterable[Mapping[str, Any]],
    tokenizer: ExampleTokenizer,
    spec: TrainingSpec,
    rejected: list[dict[str, str]],
) -> Iterator[dict[str, Any]]:
    for example in examples:
        if not example["output"].strip():
            rejected.append({"id": example["id"], "reason": "no_output", "detail": "the output is empty"})
            continue
        ids, prompt = tokenizer.encode(example["input"], example["output"])
        if len(ids) > spec.max_length:
            detail = f"{len(ids)} tokens, at most {spec.max_length} are allowed (training.max_length)"
            rejected.append({"id": example["id"], "reason": "too_long", "detail": detail})
            continue
        weight = example.get("weight", 1.0) * spec.loss_weights.get(example["kind"], 1.0)
        yield {
            "id": example["id"],
            "kind": example["kind"],
            "input_ids": ids,
            "prompt_tokens": prompt,
            "weight": weight,
        }


def _chunks(rows: Iterable[dict[str, Any]], size: int) -> Iterator[list[dict[str, Any]]]:
    held: list[dict[str, Any]] = []
    for row in rows:
        held.append(row)
        if len(held) == size:
            yield held
            held = []
    if held:
        yield held


def _write_meta(out: Path, counts: Mapping[str, Any]) -> None:
    part = out / f"{META_FILE}.part"
    part.write_text(json.dumps(counts, sort_keys=True))
    part.replace(out / META_FILE)


class TokenisedData(Sequence[TokenisedExample]):
    """The tokenised examples of a folder; the tokens stay on disk and are mapped into memory.

    Raises:
        DataError: the folder is not complete.
    """

    def __init__(self, folder: Path) -> None:
        if not (folder / META_FILE).is_file():
            raise DataError(f"{folder} holds no tokenised examples: run `python -m lema_core.training.data` first")
        self.counts: dict[str, Any] = json.loads((folder / META_FILE).read_text())
        self._table = pa.ipc.open_file(pa.memory_map(str(folder / TOKENS_FILE))).read_all()

    def __len__(self) -> int:
        return int(self._table.num_rows)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        row = self._table.slice(index, 1).to_pylist()[0]
        return TokenisedExample(**row)

    def lengths(self) -> list[int]:
        """Return the number of tokens of each example."""
        import pyarrow.compute as pc

        return [int(n) for n in pc.list_value_length(self._table["input_ids"]).to_pylist()]


def read_examples(folder: Path) -> Iterator[dict[str, Any]]:
    """Yield the rows of all ``part-*.parquet`` in a mixture's artifact folder, part by part."""
    parts = sorted(folder.glob("part-*.parquet")) if folder.is_dir() else [folder]
    if not parts:
        raise DataError(f"no part-*.parquet in {folder}: expected the folder of a mixture")
    for part in parts:
        for batch in pq.ParquetFile(part).iter_batches(columns=["id", "kind", "input", "output", "weight"]):
            yield from batch.to_pylist()


def main(argv: Sequence[str] | None = None) -> int:
    """Tokenise a mixture from the command line."""
    parser = argparse.ArgumentParser(prog="python -m lema_core.training.data")
    parser.add_argument("--spec", type=Path, required=True)
    parser.add_argument("--examples", type=Path, required=True, help="a mixture's folder, or one Parquet file")
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args(argv)
    try:
        from lema_core.training.embedded_weights import checkpoint_of

        spec, _ = load_specs(given.spec.read_text())
        tokenizer = ExampleTokenizer(load_tokenizer(checkpoint_of(spec.base)), spec.template)
        counts = tokenise(read_examples(given.examples), tokenizer, spec, given.out)
    except LemaError as error:
        sys.stdout.write(json.dumps({"event": "error", "message": str(error)}) + "\n")
        return 3
    sys.stdout.write(json.dumps({"event": "tokenised", **counts}) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
