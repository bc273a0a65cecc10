"""Examples as tokens, once: exact masks, nothing cut, kept as an Arrow file that every rank maps into memory.

The prompt's tokens are what the chat template gives for one user message with a generation prompt: just what a server
computes at evaluation, default system prompt included. The trained tokens are the output's own tokens and the
end-of-sequence token. ``plain`` uses a pass-through template that is saved with the tokenizer, so that training and
every server agree there too.

``python -m lema_core.training.data --spec SPEC.json --examples DIR --out DIR`` does it by hand.
"""

import argparse
import json
import signal
import sys
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from lema_core.artifacts import part_files
from lema_core.artifacts.files import LOCAL, atomic_local
from lema_core.artifacts.parquet import read_batches, write_table
from lema_core.errors import ConfigError, DataError, MissingDependencyError
from lema_core.system.chunking import chunked
from lema_core.system.foreign_models import RENDER_CPU_SECONDS, render_chat
from lema_core.training.program import emit, run_program
from lema_core.training.specs import TrainingSpec, load_specs

TOKENS_FILE = "tokens.arrow"
META_FILE = "meta.json"

SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("kind", pa.string()),
        ("input_ids", pa.list_(pa.int32())),
        ("prompt_tokens", pa.int32()),
        ("weight", pa.float64()),
        ("worse_ids", pa.list_(pa.int32())),
    ]
)


@dataclass(frozen=True, slots=True)
class TokenisedExample:
    """``input_ids[prompt_tokens:]`` is trained: the output and the end-of-sequence token."""

    id: str
    kind: str
    input_ids: list[int]
    prompt_tokens: int
    weight: float
    worse_ids: list[int] | None = None
    """Of a preference pair: the same prompt, then the output that is not preferred."""


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
        """Return the number of tokens of each example, of a pair those of both."""
        import pyarrow.compute as pc

        ours, worse = (pc.list_value_length(self._table[name]).to_pylist() for name in ("input_ids", "worse_ids"))
        return [int(one) + int(other or 0) for one, other in zip(ours, worse, strict=True)]


REJECTED_FILE = "rejected.parquet"

PLAIN_TEMPLATE = (
    "{{ bos }}{% for message in messages %}{{ message['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '\\n' }}{% endif %}"
)

_COLUMNS = ("id", "kind", "input", "output", "weight", "prefix", "worse")
_REJECTED = pa.schema([("id", pa.string()), ("reason", pa.string()), ("detail", pa.string())])


class ExampleTokenizer:
    """Tokenises input and output with an exact border between what is read and what is trained.

    Raises:
        ConfigError: the model has no chat template or no end-of-sequence token, or its template ends an answer in a
            way that the end-of-sequence token does not.
    """

    def __init__(self, tokenizer: Any, template: str) -> None:
        self.tokenizer = tokenizer
        if tokenizer.eos_token_id is None:
            raise ConfigError("the tokenizer has no end-of-sequence token: the model could never learn to stop")
        if template == "plain":
            probe = tokenizer.encode("1")
            adds_bos = tokenizer.bos_token_id is not None and probe[:1] == [tokenizer.bos_token_id]
            tokenizer.chat_template = PLAIN_TEMPLATE.replace("{{ bos }}", "{{ bos_token }}" if adds_bos else "")
        elif not tokenizer.chat_template:
            raise ConfigError("the base model has no chat template: set template = 'plain'")
        else:
            turns = [{"role": "user", "content": "1 + 1?"}, {"role": "assistant", "content": "2."}]
            # First within limits of memory as well, for the library has none.
            render_chat(self.tokenizer.chat_template, turns, self.tokenizer.special_tokens_map, generation_prompt=False)
            with _limit_time():
                whole: str = self.tokenizer.apply_chat_template(turns, tokenize=False)
            intended = f"{self.prompt('1 + 1?')}2.{self.tokenizer.eos_token}"
            if not whole.startswith(intended):
                raise ConfigError(
                    "the model's chat template does not end an answer with the tokenizer's end-of-sequence token: "
                    f"expected {intended!r}, the template gives {whole!r};"
                    " set the tokenizer's eos_token, or template = 'plain'"
                )

    def read(self, text_in: str, prefix: str = "") -> list[int]:
        """Return the tokens that are read, not trained: the prompt and the given prefix of the answer."""
        return [*self._tokens(self.prompt(text_in)), *self._tokens(prefix)]

    def trained(self, text_out: str, *, stops: bool = True) -> list[int]:
        """Return the tokens of an output, with the end-of-sequence token unless the solution goes on."""
        return [*self._tokens(text_out), *([self.tokenizer.eos_token_id] if stops else [])]

    def _tokens(self, text: str) -> list[int]:
        found: list[int] = self.tokenizer.encode(text, add_special_tokens=False)
        return found

    def prompt(self, text_in: str) -> str:
        """Return the prompt that a server would render from one user message."""
        messages = [{"role": "user", "content": text_in}]
        with _limit_time():
            rendered: str = self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        return rendered


@contextmanager
def _limit_time() -> Iterator[None]:
    """Interrupt a chat template that loops, as it may for some texts only. Works in the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def refuse(signum: int, frame: object) -> None:  # noqa: ARG001  as a handler is called
        raise ConfigError(
            f"the base model's chat template took more than {RENDER_CPU_SECONDS} s of CPU time for one prompt: "
            "it loops; take another checkpoint, or set template = 'plain'"
        )

    before = signal.signal(signal.SIGVTALRM, refuse)
    signal.setitimer(signal.ITIMER_VIRTUAL, RENDER_CPU_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


def load_tokenizer(base: str) -> Any:
    """Return the transformers tokenizer of ``base``, a checkpoint folder or model id; no code of the model is run.

    Raises:
        MissingDependencyError: training is not installed.
    """
    try:
        from transformers import AutoTokenizer
    except ImportError as error:
        raise MissingDependencyError(
            "training is not installed: run `pip install -c requirements.lock -e '.[train]'`"
        ) from error
    return AutoTokenizer.from_pretrained(base, trust_remote_code=False)


def tokenise(
    examples: Iterable[Mapping[str, Any]], tokenizer: ExampleTokenizer, spec: TrainingSpec, out: Path
) -> dict[str, Any]:
    """Write the examples (fields of ``records.Example``) as tokens into the folder ``out``; return its counts.

    An example that is too long, or has no output, becomes a rejected row with a reason: ``too_long``, ``no_output``.

    Raises:
        DataError: no example is left to train on.
    """
    rejected: list[dict[str, str]] = []
    counts: dict[str, Any] = {"examples": 0, "tokens": 0, "trained_tokens": 0, "longest": 0}
    with atomic_local(out / TOKENS_FILE) as local:
        with pa.OSFile(str(local), "wb") as sink, pa.ipc.new_file(sink, SCHEMA) as writer:
            for rows in chunked(_encode_all(examples, tokenizer, spec, rejected), 1000):
                writer.write_batch(pa.RecordBatch.from_pylist(rows, schema=SCHEMA))
                counts["examples"] += len(rows)
                for row in rows:
                    for ids in filter(None, (row["input_ids"], row["worse_ids"])):
                        counts["tokens"] += len(ids)
                        counts["trained_tokens"] += len(ids) - row["prompt_tokens"]
                        counts["longest"] = max(counts["longest"], len(ids))
        counts["rejected"] = len(rejected)
        if not counts["examples"]:
            raise DataError(
                f"no example to train on: {len(rejected)} rejected"
                + (f", the first because {rejected[0]['detail']}" if rejected else ", none given")
            )
        write_table(pa.Table.from_pylist(rejected, schema=_REJECTED), out / REJECTED_FILE)
    # Last: the folder is complete with its counts.
    with atomic_local(out / META_FILE) as local:
        local.write_text(json.dumps(counts, sort_keys=True))
    return counts


def _encode_all(
    examples: Iterable[Mapping[str, Any]],
    tokenizer: ExampleTokenizer,
    spec: TrainingSpec,
    rejected: list[dict[str, str]],
) -> Iterator[dict[str, Any]]:
    for example in examples:
        pair = example.get("worse") is not None
        if pair != (spec.objective == "dpo"):
            seen = "a preference pair" if pair else "a single output"
            raise ConfigError(f"objective = {spec.objective!r}, but {example['id']} holds {seen}: pairs need 'dpo'")
        if not example["output"].strip():
            rejected.append({"id": example["id"], "reason": "no_output", "detail": "the output is empty"})
            continue
        row = _encode(example, tokenizer, spec)
        longest = max(len(row["input_ids"]), len(row["worse_ids"] or ()))
        if longest > spec.max_length:
            detail = f"{longest} tokens, at most {spec.max_length} are allowed (training.max_length)"
            rejected.append({"id": example["id"], "reason": "too_long", "detail": detail})
            continue
        yield row


def _encode(example: Mapping[str, Any], tokenizer: ExampleTokenizer, spec: TrainingSpec) -> dict[str, Any]:
    read = tokenizer.read(example["input"], example.get("prefix") or "")
    row = {"id": example["id"], "kind": example["kind"], "prompt_tokens": len(read), "worse_ids": None}
    row["weight"] = example.get("weight", 1.0) * spec.loss_weights.get(example["kind"], 1.0)
    if spec.objective == "sft":
        return row | {"input_ids": [*read, *tokenizer.trained(example["output"])]}
    better, worse = (tokenizer.trained(t, stops=not t.endswith("\n")) for t in (example["output"], example["worse"]))
    return row | {"input_ids": [*read, *better], "worse_ids": [*read, *worse]}


def read_examples(folder: Path) -> Iterator[dict[str, Any]]:
    """Yield the rows of a mixture's artifact folder, part by part, or of one Parquet file.

    Raises:
        DataError: the folder has no parts.
        ArtifactError: a part is missing or damaged.
    """
    parts = part_files(LOCAL, str(folder)) if folder.is_dir() else [str(folder)]
    if not parts:
        raise DataError(f"no part-*.parquet in {folder}: expected the folder of a mixture")
    for part in parts:
        for batch in read_batches(part, _COLUMNS):
            yield from batch.to_pylist()


def main(argv: Sequence[str] | None = None) -> int:
    """Tokenise a mixture from the command line."""
    parser = argparse.ArgumentParser(prog="python -m lema_core.training.data")
    parser.add_argument("--spec", type=Path, required=True)
    parser.add_argument("--examples", type=Path, required=True, help="a mixture's folder, or one Parquet file")
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args(argv)

    def work() -> None:
        from lema_core.training.models import checkpoint_of

        spec, _ = load_specs(given.spec.read_text())
        tokenizer = ExampleTokenizer(load_tokenizer(checkpoint_of(spec.base)), spec.template)
        emit("tokenised", **tokenise(read_examples(given.examples), tokenizer, spec, given.out))

    return run_program(work, given.out)


if __name__ == "__main__":
    sys.exit(main())
