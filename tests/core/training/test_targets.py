"""Target tokens: what arms of equal tokens are cut by, what reports show, and what training trains are one number."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from transformers import AutoTokenizer

from lema_core.errors import ConfigError
from lema_core.records import Example, MaskedExample
from lema_core.training.data import TokenisedData, load_tokenizer, read_examples, tokenise, tokenizer_for
from lema_core.training.lengths import TrainedOn, count_training, describe_lengths
from lema_core.training.specs import TrainingSpec
from lema_core.training.targets import target_counter

ASKED = "Question: Tom has 3 apples and buys 4 more. How many?\nAnswer: Let's think step by step."
OUTPUTS = ["Step 1: 3 + 4 = 7.\nThe answer is 7.", "7", "Step 1.\nExplanation: 3 + 4 is 7.\n" * 4]


def example(number: int, output: str, **fields: str) -> Example:
    return Example(
        id=f"e{number}", kind="cot", source_id="s", question_id=f"q{number}", input=ASKED, output=output, **fields
    )


def written(rows: list[Example], place: Path) -> Path:
    """Write a mixture's Parquet."""
    names = [name for name in MaskedExample.__dataclass_fields__ if any(hasattr(row, name) for row in rows)]
    pq.write_table(pa.table({name: [getattr(row, name, None) for row in rows] for name in names}), place)
    return place


@pytest.mark.parametrize("template", ["chat", "plain"])
def test_the_counter_the_tokens_and_an_independent_query_over_parquet_agree(tiny_base, tmp_path, template):
    spec = TrainingSpec(base=tiny_base, template=template)
    rows = [example(number, output) for number, output in enumerate(OUTPUTS)]
    mixture = written(rows, tmp_path / "mixture.parquet")
    tokenise(read_examples(mixture), tokenizer_for(spec, tiny_base), spec, tmp_path / "tokens")
    data = TokenisedData(tmp_path / "tokens")
    # Independent of our encoder: the outputs as a column of the file, by transformers' own tokenizer, and one end each.
    plain = AutoTokenizer.from_pretrained(tiny_base)
    outputs = pq.read_table(mixture, columns=["output"])["output"].to_pylist()
    expected = [len(ids) + 1 for ids in plain(outputs, add_special_tokens=False)["input_ids"]]
    assert data.trained_lengths() == expected
    assert sum(expected) == data.counts["trained_tokens"]
    assert [*map(target_counter(spec), rows)] == expected
    assert len(plain(ASKED)["input_ids"]) > 1, "an input that is not counted"


def test_both_sides_of_a_pair_are_targets_and_their_prompt_is_read_twice(tiny_base, tmp_path):
    spec = TrainingSpec(base=tiny_base, objective="dpo")
    rows = [example(0, "Step 2: 7.\n", worse="Step 2: 8.\n", prefix="Step 1: 3.\n"), example(1, "7.", worse="8.")]
    tokenise(read_examples(written(rows, tmp_path / "m.parquet")), tokenizer_for(spec, tiny_base), spec, tmp_path / "t")
    data = TokenisedData(tmp_path / "t")
    plain = load_tokenizer(tiny_base)
    sides = [sum(len(plain.encode(side, add_special_tokens=False)) for side in (r.output, r.worse)) for r in rows]
    assert data.trained_lengths() == [sides[0], sides[1] + 2], "a step that others follow has no end"
    assert [*map(target_counter(spec), rows)] == data.trained_lengths()


def test_tokens_that_are_masked_are_no_targets(tiny_base, tmp_path):
    spec = TrainingSpec(base=tiny_base)
    said = "Step 1: 3 + 4 = 8.\nWait.\nStep 1: 3 + 4 = 7.\nThe answer is 7."
    rows = [
        MaskedExample(
            id="e", kind="fix_continue", source_id="s", question_id="q", input=ASKED, output=said, masked=masked
        )
        for masked in (None, (0, said.index("Wait")))
    ]
    tokenise(read_examples(written(rows, tmp_path / "m.parquet")), tokenizer_for(spec, tiny_base), spec, tmp_path / "t")
    whole, part = TokenisedData(tmp_path / "t").trained_lengths()
    assert part < whole
    counted = [*map(target_counter(spec), rows)]
    assert counted[0] == whole
    assert counted[1] == pytest.approx(part, abs=2), "a token may cross the border"


@pytest.mark.parametrize(("passes", "epochs"), [(1, None), (3, None), (2, 2.0)])
def test_what_a_run_is_trained_on_counts_each_repetition(tiny_base, tmp_path, passes, epochs):
    spec = TrainingSpec(base=tiny_base, batch_size=1, epochs=epochs or 1, max_steps=None if epochs else 3 * passes)
    rows = [example(number, output) for number, output in enumerate(OUTPUTS)]
    tokenise(read_examples(written(rows, tmp_path / "m.parquet")), tokenizer_for(spec, tiny_base), spec, tmp_path / "t")
    found, data = count_training(spec, tmp_path / "t"), TokenisedData(tmp_path / "t")
    assert (found.steps, found.examples) == (3 * passes, 3)
    assert found.target_tokens == passes * data.counts["trained_tokens"]
    assert found.target_tokens + found.input_tokens == passes * data.counts["tokens"]


def test_a_base_without_a_tokenizer_is_an_error(tmp_path):
    with pytest.raises(ConfigError, match="no tokenizer for"):
        target_counter(TrainingSpec(base=str(tmp_path / "nothing")))


def test_lengths_are_compared_in_words():
    one = TrainedOn(24, 192, 15_766, 20_000)
    assert describe_lengths(one, None) == ""
    assert describe_lengths(one, TrainedOn(24, 100, 15_900, 1)) == "at 24 optimiser steps each and equal target tokens"
    assert "unequal optimiser steps (24 against 14)" in describe_lengths(one, TrainedOn(14, 105, 5_518, 1))
