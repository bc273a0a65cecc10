"""A model of a few thousand weights and its tokenizer, made on the fly: no network, no package with weights."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

pytest.importorskip("trl", reason="training is not installed (lema-pipeline[train])")

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
TEXT = [
    "Question: Tom has 3 apples and buys 4 more. How many apples does he have?\nAnswer: Let's think step by step.",
    "Step 1: 3 + 4 = 7.\nStep 2: 7 - 2 = 5.\nThe answer is 5.",
    "Original Solution:\n{\nStep 1: 3 + 4 = 8.\n}\nIncorrect Step:",
    "Step 1.\nExplanation: 3 + 4 is 7.\nCorrect Solution:\n{\n...\nThe answer is 7.\n}",
]


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> str:
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("tiny") / "base"
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    special = ["<|im_start|>", "<|im_end|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    core.train_from_iterator(
        TEXT, trainers.BpeTrainer(vocab_size=320, special_tokens=special, initial_alphabet=alphabet)
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token=special[0], eos_token=special[1], pad_token=special[1]
    )
    tokenizer.chat_template = CHATML
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=tokenizer.bos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return str(folder)


def example_rows(count: int) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    for i in range(count):
        a, b = 3 + i % 17, 2 + i % 11
        question = f"Question: Tom has {a} apples and buys {b} more{' today' * (i % 5)}. How many?\nAnswer:"
        output = f"Step 1: {a} + {b} = {a + b}.\nThe answer is {a + b}."
        rows.append(
            {
                "id": f"example-{i:04d}",
                "kind": "correction" if i % 3 == 0 else "cot",
                "source_id": f"s{i}",
                "question_id": f"q{i}",
                "input": question,
                "output": output,
                "weight": 1.0,
            }
        )
    return rows


@pytest.fixture(scope="session")
def mixture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mixture")
    pq.write_table(pa.Table.from_pylist(example_rows(48)), folder / "part-0000.parquet")
    return folder
