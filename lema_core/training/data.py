"""Examples as tokens, once: exact masks, nothing cut, kept as an Arrow file that every rank maps into memory.

The prompt's tokens are what the chat template gives for one user message with a generation prompt: just what a server
computes at evaluation, default system prompt included. The trained tokens are what the template writes before an
answer (`chat_format`), the output's own tokens, and the end of the turn. ``plain`` uses a pass-through template. The
template is saved with the tokenizer, so that training and every server agree.

``python -m lema_core.training.data --spec SPEC.json --examples DIR --out DIR`` does it by hand.
"""

import argparse
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa

from lema_core.artifacts import part_files
from lema_core.artifacts.files import LOCAL, atomic_local
from lema_core.artifacts.parquet import read_batches, write_table
from lema_core.errors import ConfigError, DataError, MissingDependencyError
from lema_core.system.chunking import chunked
from lema_core.system.foreign_models import TEMPLATE_DATE, render_chat
from lema_core.system.packages import install_command
from lema_core.system.stopping import end_process
from lema_core.training.chat_format import PROBE, Vocabulary, find_format, plain_format
from lema_core.training.program import emit, run_program
from lema_core.training.specs import Objective, TrainingSpec, load_specs

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
        ("masked", pa.list_(pa.int32())),
    ]
)


@dataclass(frozen=True, slots=True)
class TokenisedExample:
    """``input_ids[prompt_tokens:]`` is trained, but for ``masked``: the output and the end-of-sequence token."""

    id: str
    kind: str
    input_ids: list[int]
    prompt_tokens: int
    weight: float
    worse_ids: list[int] | None = None
    """Of a preference pair: the same prompt, then the output that is not preferred."""
    masked: list[int] | None = None
    """The first place in ``input_ids`` that is read, not trained, within the output; and the one after the last."""


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

    def trained_lengths(self) -> list[int]:
        """Return the number of trained tokens of each example, of a pair those of both outputs."""
        import pyarrow.compute as pc

        pair = pc.is_valid(self._table["worse_ids"]).to_pylist()
        # Files of older versions have no column for what is masked.
        masked = self._table["masked"].to_pylist() if _MASKED in self._table.column_names else [None] * len(self)
        read = [
            int(prompt) * (1 + two) + (span[1] - span[0] if span else 0)
            for prompt, two, span in zip(self._table["prompt_tokens"].to_pylist(), pair, masked, strict=True)
        ]
        return [whole - untrained for whole, untrained in zip(self.lengths(), read, strict=True)]


REJECTED_FILE = "rejected.parquet"

_TEXTS = ("input", "output", "prefix", "worse", "thinking")
_COLUMNS = ("id", "kind", "weight", *_TEXTS)
UNPAIRED: Mapping[str, bool] = {"desirable": True, "undesirable": False}
"""KTO's label of an example, by kind."""
_MASKED = "masked"
"""A column of mixtures that hold outputs of which a part is not trained."""
_REJECTED = pa.schema([("id", pa.string()), ("reason", pa.string()), ("detail", pa.string())])


class ExampleTokenizer:
    """Tokenises input and output with an exact border between what is read and what is trained.

    The tokenizer gets the template as it is saved, with arguments and date; its end-of-sequence token becomes the token
    that ends an answer.

    Raises:
        ConfigError: the model has no chat template, or one that cannot be trained exactly; or no end-of-sequence token.
    """

    def __init__(
        self,
        tokenizer: Any,
        template: str,
        arguments: Mapping[str, Any] | None = None,
        date: str = TEMPLATE_DATE,
        *,
        keep_thinking: bool = False,
    ) -> None:
        self.tokenizer = tokenizer
        if tokenizer.eos_token_id is None:
            raise ConfigError("the tokenizer has no end-of-sequence token: the model could never learn to stop")
        added = tokenizer.added_tokens_decoder.values()
        vocabulary = Vocabulary(
            {name: str(token) for name, token in tokenizer.special_tokens_map.items() if isinstance(token, str)},
            frozenset(token.content for token in added),
            frozenset(token.content for token in added if token.special),
        )
        if template == "plain":
            probe = tokenizer.encode("1")
            adds_bos = tokenizer.bos_token_id is not None and probe[:1] == [tokenizer.bos_token_id]
            self.format = plain_format(vocabulary, adds_bos=adds_bos, keep_thinking=keep_thinking)
        else:
            named = tokenizer.chat_template
            found = named.get("default") if isinstance(named, dict) else named
            self.format = find_format(found, vocabulary, arguments or {}, date, keep_thinking=keep_thinking)
        tokenizer.chat_template = self.format.template
        self.stops = self._stops_at(self.format.stop)
        self._closing: list[int] = tokenizer.encode(self.format.closing.lstrip(), add_special_tokens=False)
        self._space = self.format.closing[: -len(self.format.closing.lstrip())]
        # SentencePiece puts a space before a text: an output encoded by itself is then not what follows a prompt.
        asked, said = self.format.prompt(PROBE), self.format.output("7.")
        self._joined = self._encode(asked + said) != self._encode(asked) + self._encode(said)

    def _stops_at(self, stop: str) -> int:
        """Make the token that ends a turn the end-of-sequence token, unless that changes prompts; return its id.

        Servers stop at the tokenizer's end-of-sequence token, whatever else they read.
        """
        prompt, before = self.format.prompt(PROBE), self.tokenizer.eos_token
        if stop != before:
            special = {**self.format.vocabulary.special, "eos_token": stop}
            if render_chat(self.format.template, [{"role": "user", "content": PROBE}], special) == prompt:
                self.tokenizer.eos_token = stop
        return int(self.tokenizer.convert_tokens_to_ids(stop))

    def read(self, text_in: str, prefix: str = "") -> list[int]:
        """Return the tokens that are read, not trained: the prompt and the given prefix of the answer."""
        asked = self.prompt(text_in)
        return [*self._encode(asked), *(self._after(asked, self.format.output(prefix)) if prefix else [])]

    def trained(
        self, text_out: str, *, asked: str = "", prefix: str = "", thinking: str = "", stops: bool = True
    ) -> list[int]:
        """Return the tokens of an output, with the end of its turn unless the solution goes on.

        Args:
            text_out: what is trained.
            asked: the input, which tokenizers of SentencePiece's kind need.
            prefix: the given beginning of the answer.
            thinking: what the model thought before it, if thinking is kept.
            stops: the answer ends here.
        """
        before = self.format.output(prefix) if prefix else ""
        said = text_out if prefix else self.format.output(text_out, thinking)
        if self.control_token(text_out):
            # A row with one is rejected; a direct caller gets plain text, never a turn's mark.
            frame, text = said[: len(said) - len(text_out)], text_out
            plain = self.tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True)
            return [*self._encode(frame), *plain, *(self._closing if stops else [])]
        context = self.prompt(asked) + before if self._joined else ""
        return [*self._after(context, said + self._space * stops), *(self._closing if stops else [])]

    def tokens_of(self, span: Sequence[int], text_out: str, *, asked: str = "") -> tuple[int, int]:
        """Return which of the tokens of an output, as ``trained`` gives them, hold a character of a span of it.

        A token that crosses the span's border counts as of the span: no part of it is then trained.

        Raises:
            ConfigError: the tokenizer does not say which characters its tokens hold.
        """
        said = self.format.output(text_out)
        context = self.prompt(asked) if self._joined else ""
        skipped = len(self._encode(context))
        if self._joined and self._encode(context + said)[:skipped] != self._encode(context):
            context, skipped = "", 0
        whole = context + said
        found = self._with_offsets.encode(whole, add_special_tokens=False) if self._with_offsets else None
        if found is None or found.ids != self._encode(whole):
            raise ConfigError(
                "the base model's tokenizer does not say which characters its tokens hold, so that no part of an "
                "output can be left untrained: leave the arms with masked parts out, or train another base model"
            )
        first, stop = (len(whole) - len(text_out) + place for place in span)
        hit = [i for i, (start, end) in enumerate(found.offsets) if start < stop and end > first and i >= skipped]
        return (hit[0] - skipped, hit[-1] + 1 - skipped) if hit else (0, 0)

    @cached_property
    def _with_offsets(self) -> Any:
        """The tokenizer's fast part, with offsets that hold the white space of each token; None where it has none."""
        if not getattr(self.tokenizer, "is_fast", False):
            return None
        from tokenizers import Tokenizer, processors

        whole = Tokenizer.from_str(self.tokenizer.backend_tokenizer.to_str())
        whole.no_truncation()
        # GPT-2's kin trim offsets: the line break at a step's end would belong to none of its tokens.
        whole.post_processor = processors.ByteLevel(trim_offsets=False)
        return whole

    def control_token(self, text: str) -> str | None:
        """Return the first control token of the model that a text holds."""
        found = self.format.control_tokens.search(text) if self.format.control_tokens else None
        return found[0] if found else None

    def _after(self, context: str, text: str) -> list[int]:
        if self._joined:
            known, whole = self._encode(context), self._encode(context + text)
            if whole[: len(known)] == known:
                return whole[len(known) :]
        return self._encode(text)

    def _encode(self, text: str) -> list[int]:
        found: list[int] = self.tokenizer.encode(text, add_special_tokens=False)
        return found

    def prompt(self, text_in: str) -> str:
        """Return the prompt that a server would render from one user message."""
        return self.format.prompt(text_in)


def load_tokenizer(base: str) -> Any:
    """Return the transformers tokenizer of ``base``, a checkpoint folder or model id; no code of the model is run.

    Raises:
        MissingDependencyError: training is not installed.
    """
    try:
        from transformers import AutoTokenizer
    except ImportError as error:
        raise MissingDependencyError(f"training is not installed: run `{install_command('train')}`") from error
    return AutoTokenizer.from_pretrained(base, trust_remote_code=False)


def tokenizer_for(spec: TrainingSpec, base: str) -> ExampleTokenizer:
    """Return the tokenizer of the checkpoint ``base`` with the template that the spec names."""
    return ExampleTokenizer(
        load_tokenizer(base), spec.template, spec.template_arguments, spec.template_date,
        keep_thinking=spec.thinking == "keep",
    )  # fmt: skip


def tokenise(
    examples: Iterable[Mapping[str, Any]], tokenizer: ExampleTokenizer, spec: TrainingSpec, out: Path
) -> dict[str, Any]:
    """Write the examples (fields of ``records.Example``) as tokens into the folder ``out``; return its counts.

    An example that is too long, has no output, or holds a control token of the tokenizer becomes a rejected row with a
    reason: ``too_long``, ``no_output``, ``control_token``.

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
                    first, stop = row["masked"] or (0, 0)
                    counts["trained_tokens"] -= stop - first
        counts["rejected"] = len(rejected)
        counts["prompt_hash"] = tokenizer.format.prompt_hash
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
    # Thinking that is not trained may hold anything.
    texts = _TEXTS if tokenizer.format.thinking else _TEXTS[:-1]
    for example in examples:
        wanted = _objective_of(example)
        if wanted != spec.objective:
            seen = {"dpo": "a preference pair", "kto": "an output marked right or wrong", "sft": "a single output"}
            raise ConfigError(
                f"objective = {spec.objective!r}, but {example['id']} holds {seen[wanted]}: pairs need 'dpo'"
                if "dpo" in (wanted, spec.objective)
                else f"objective = {spec.objective!r}, but {example['id']} holds {seen[wanted]}: that is {wanted!r}"
            )
        if not example["output"].strip():
            rejected.append({"id": example["id"], "reason": "no_output", "detail": "the output is empty"})
            continue
        if found := next(filter(None, (tokenizer.control_token(example.get(name) or "") for name in texts)), None):
            # Not encoded as plain text: a server reads the same text as a turn, and trained and served would differ.
            detail = f"the text holds {found!r}, a control token of the model: a server would read a turn's mark there"
            rejected.append({"id": example["id"], "reason": "control_token", "detail": detail})
            continue
        row = _encode(example, tokenizer, spec)
        longest = max(len(row["input_ids"]), len(row["worse_ids"] or ()))
        if longest > spec.max_length:
            detail = f"{longest} tokens, at most {spec.max_length} are allowed (training.max_length)"
            rejected.append({"id": example["id"], "reason": "too_long", "detail": detail})
            continue
        yield row


def _objective_of(example: Mapping[str, Any]) -> Objective:
    if example.get("worse") is not None:
        return "dpo"
    return "kto" if example["kind"] in UNPAIRED else "sft"


def _encode(example: Mapping[str, Any], tokenizer: ExampleTokenizer, spec: TrainingSpec) -> dict[str, Any]:
    asked, prefix = example["input"], example.get("prefix") or ""
    read = tokenizer.read(asked, prefix)
    row = {"id": example["id"], "kind": example["kind"], "prompt_tokens": len(read), "worse_ids": None, "masked": None}
    row["weight"] = example.get("weight", 1.0) * spec.loss_weights.get(example["kind"], 1.0)
    if spec.objective != "dpo":
        thinking = example.get("thinking") or ""
        if span := example.get(_MASKED):
            row["masked"] = [len(read) + place for place in tokenizer.tokens_of(span, example["output"], asked=asked)]
        return row | {"input_ids": [*read, *tokenizer.trained(example["output"], asked=asked, thinking=thinking)]}
    better, worse = (
        tokenizer.trained(text, asked=asked, prefix=prefix, stops=not text.endswith("\n"))
        for text in (example["output"], example["worse"])
    )
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
        for batch in read_batches(part, _COLUMNS, optional=(_MASKED,)):
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
        tokenizer = tokenizer_for(spec, checkpoint_of(spec.base))
        emit("tokenised", **tokenise(read_examples(given.examples), tokenizer, spec, given.out))

    return run_program(work, given.out)


if __name__ == "__main__":
    end_process(main())
