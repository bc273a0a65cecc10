import json
from dataclasses import asdict
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lema_core.errors import ConfigError, DataError
from lema_core.exporting import chat_line
from lema_core.records import Example
from lema_core.training.data import ExampleTokenizer, TokenisedData, load_tokenizer, tokenise
from lema_core.training.specs import TrainingSpec

SHARED = Path(__file__).resolve().parents[3] / ".." / "shared" / "data"


def row(text_in: str, text_out: str, kind: str = "cot", weight: float = 1.0) -> dict[str, object]:
    return {
        "id": f"example-{hash((text_in, text_out))}",
        "kind": kind,
        "input": text_in,
        "output": text_out,
        "weight": weight,
    }


def check_masks(data: TokenisedData, rows: list[dict[str, object]], tokenizer: ExampleTokenizer) -> None:
    eos = tokenizer.tokenizer.eos_token
    assert len(data) == len(rows)
    for example, given_row in zip(data, rows, strict=True):
        trained = tokenizer.tokenizer.decode(example.input_ids[example.prompt_tokens :], skip_special_tokens=False)
        prompt = tokenizer.tokenizer.decode(example.input_ids[: example.prompt_tokens], skip_special_tokens=False)
        assert trained == f"{given_row['output']}{eos}"
        assert prompt == tokenizer.prompt(str(given_row["input"]))
        assert str(given_row["input"]) in prompt


@pytest.mark.parametrize("template", ["chat", "plain"])
@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.text(max_size=80), st.text(min_size=1, max_size=80)), min_size=1, max_size=5))
def test_trained_tokens_are_the_output_and_the_end_of_sequence(
    tiny_base: str, tmp_path_factory: pytest.TempPathFactory, template: str, texts: list[tuple[str, str]]
) -> None:
    marks = ("<|im_start|>", "<|im_end|>")
    clean = [(a, b) for a, b in texts if b.strip() and not any(m in a + b for m in marks)]
    if not clean:
        return
    tokenizer = ExampleTokenizer(load_tokenizer(tiny_base), template)
    rows = [row(a.encode("utf-8", "ignore").decode(), b.encode("utf-8", "ignore").decode() or "x") for a, b in clean]
    folder = tmp_path_factory.mktemp("tokens")
    tokenise(rows, tokenizer, TrainingSpec(base=tiny_base, max_length=4096), folder)
    check_masks(TokenisedData(folder), rows, tokenizer)


@pytest.mark.shared
@pytest.mark.parametrize("template", ["chat", "plain"])
def test_masks_of_real_solutions(tiny_base: str, tmp_path: Path, template: str) -> None:
    pool = SHARED / "gsm8k" / "example_model_solutions.jsonl"
    if not pool.is_file():
        pytest.skip("the shared data folder is not beside the project")
    rows = []
    with pool.open(encoding="utf-8") as lines:
        for _, line in zip(range(200), lines, strict=False):
            record = json.loads(line)
            solution = record["175b_verification"]["solution"]
            rows.append(row(f"Question: {record['question']}\nAnswer: Let's think step by step.", solution))
    tokenizer = ExampleTokenizer(load_tokenizer(tiny_base), template)
    tokenise(rows, tokenizer, TrainingSpec(base=tiny_base, max_length=8192), tmp_path)
    check_masks(TokenisedData(tmp_path), rows, tokenizer)


def test_what_is_too_long_is_rejected_with_its_length_and_never_cut(tiny_base: str, tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    tokenizer = ExampleTokenizer(load_tokenizer(tiny_base), "chat")
    rows = [row("short", "answer"), row("long " * 400, "answer"), row("empty", "  ")]
    counts = tokenise(rows, tokenizer, TrainingSpec(base=tiny_base, max_length=100), tmp_path)
    rejected = pq.read_table(tmp_path / "rejected.parquet").to_pylist()
    assert (counts["examples"], counts["rejected"]) == (1, 2)
    assert [r["reason"] for r in rejected] == ["too_long", "no_output"]
    assert "at most 100" in rejected[0]["detail"]


def test_nothing_left_to_train_on_is_an_error_that_says_why(tiny_base: str, tmp_path: Path) -> None:
    tokenizer = ExampleTokenizer(load_tokenizer(tiny_base), "chat")
    with pytest.raises(DataError, match="1 rejected, the first because"):
        tokenise([row("long " * 400, "x")], tokenizer, TrainingSpec(max_length=50), tmp_path)


def test_loss_weights_multiply_by_kind(tiny_base: str, tmp_path: Path) -> None:
    tokenizer = ExampleTokenizer(load_tokenizer(tiny_base), "chat")
    rows = [row("a", "b", "cot", 2.0), row("c", "d", "correction", 1.0)]
    tokenise(rows, tokenizer, TrainingSpec(loss_weights={"correction": 0.25}), tmp_path)
    assert [example.weight for example in TokenisedData(tmp_path)] == [2.0, 0.25]


def test_a_template_that_ends_answers_otherwise_is_refused(tiny_base: str) -> None:
    tokenizer = load_tokenizer(tiny_base)
    tokenizer.chat_template = tokenizer.chat_template.replace("<|im_end|>", "<end>")
    with pytest.raises(ConfigError, match="end-of-sequence"):
        ExampleTokenizer(tokenizer, "chat")


def test_the_plain_template_is_saved_with_the_tokenizer_for_the_server(tiny_base: str, tmp_path: Path) -> None:
    made = ExampleTokenizer(load_tokenizer(tiny_base), "plain")
    made.tokenizer.save_pretrained(tmp_path)
    again = load_tokenizer(str(tmp_path))
    messages = [{"role": "user", "content": "1 + 1?"}]
    assert again.apply_chat_template(messages, tokenize=False, add_generation_prompt=True) == "1 + 1?\n"


def test_an_incomplete_folder_of_tokens_is_refused(tmp_path: Path) -> None:
    (tmp_path / "tokens.arrow").write_bytes(b"torn")
    with pytest.raises(DataError, match="no tokenised examples"):
        TokenisedData(tmp_path)


def test_a_pair_shares_what_is_read_and_stops_only_where_its_solution_does(tiny_base: str, tmp_path: Path) -> None:
    tokenizer = ExampleTokenizer(load_tokenizer(tiny_base), "chat")
    pair = row("Question: 3 + 4?", "Step 2: 3 + 4 = 7.\n", "preference")
    pair |= {"prefix": "Step 1: add.\n", "worse": "Step 2: 3 + 4 = 8."}
    tokenise([pair], tokenizer, TrainingSpec(objective="dpo"), tmp_path)
    (made,) = TokenisedData(tmp_path)
    decode = tokenizer.tokenizer.decode
    assert decode(made.input_ids[: made.prompt_tokens]) == tokenizer.prompt("Question: 3 + 4?") + "Step 1: add.\n"
    assert made.input_ids[: made.prompt_tokens] == made.worse_ids[: made.prompt_tokens]
    assert decode(made.input_ids[made.prompt_tokens :]) == "Step 2: 3 + 4 = 7.\n"
    assert decode(made.worse_ids[made.prompt_tokens :]) == "Step 2: 3 + 4 = 8.<|im_end|>"
    assert TokenisedData(tmp_path).lengths() == [len(made.input_ids) + len(made.worse_ids)]


@pytest.mark.parametrize(
    ("changes", "fields", "said"),
    [
        ({}, {"worse": "b"}, "holds a preference pair"),
        ({"objective": "dpo"}, {}, "holds a single output"),
    ],
)
def test_examples_of_another_objective_are_refused(
    tiny_base: str, tmp_path: Path, changes: dict[str, object], fields: dict[str, object], said: str
) -> None:
    tokenizer = ExampleTokenizer(load_tokenizer(tiny_base), "chat")
    with pytest.raises(ConfigError, match=said):
        tokenise([row("a", "c") | fields], tokenizer, TrainingSpec.model_validate(changes), tmp_path)


@pytest.mark.parametrize("last", [False, True])
def test_trl_makes_of_an_exported_pair_the_tokens_that_are_trained_here(
    tiny_base: str, tmp_path: Path, *, last: bool
) -> None:
    from trl.data_utils import apply_chat_template

    end = "" if last else "\n"
    pair = Example(
        id="e", kind="preference", source_id="c", question_id="q", input="2 + 3 + 4?", prefix="Step 1: 2 + 3 = 5.\n",
        output=f"Step 2: 5 + 4 = 9.{end}", worse=f"Step 2: 5 + 4 = 10.{end}",
    )  # fmt: skip
    tokenizer = ExampleTokenizer(load_tokenizer(tiny_base), "chat")
    tokenise([asdict(pair)], tokenizer, TrainingSpec(base=tiny_base, objective="dpo"), tmp_path)
    (ours,) = TokenisedData(tmp_path)
    theirs = apply_chat_template(chat_line(pair), tokenizer.tokenizer)
    for side, ids in (("chosen", ours.input_ids), ("rejected", ours.worse_ids)):
        text = tokenizer.tokenizer.decode(ids, skip_special_tokens=False)
        assert theirs["prompt"] + theirs[side] == f"{text}{'' if last else tokenizer.tokenizer.eos_token}\n"


OUTPUT = "Step 1: 3 + 4 = 7.\nStep 2: 7 − 2 = 6 «é».\nWait: Step 2 is wrong. 7 less 2 is 5.\nStep 2: 7 - 2 = 5."
WRONG = "Step 2: 7 − 2 = 6 «é».\n"


def parts_of(data: TokenisedData, tokenizer: ExampleTokenizer) -> tuple[str, str, int]:
    """Return what is trained, what is masked, and how many tokens are trained, of the one example."""
    (example,) = data[:]
    labels = list(example.input_ids[example.prompt_tokens :])
    first, stop = (place - example.prompt_tokens for place in example.masked)
    masked, labels[first:stop] = labels[first:stop], []
    decode = tokenizer.tokenizer.decode
    return decode(labels, skip_special_tokens=False), decode(masked, skip_special_tokens=False), len(labels)


@pytest.mark.parametrize("template", ["chat", "plain"])
def test_a_masked_step_is_read_and_the_rest_is_trained(tiny_base: str, tmp_path: Path, template: str) -> None:
    tokenizer = ExampleTokenizer(load_tokenizer(tiny_base), template)
    start = OUTPUT.index(WRONG)
    masked = row("Question: 3 + 4 - 2?", OUTPUT) | {"masked": [start, start + len(WRONG)]}
    counts = tokenise([masked], tokenizer, TrainingSpec(base=tiny_base), tmp_path)
    trained, left_out, count = parts_of(TokenisedData(tmp_path), tokenizer)
    assert (trained, left_out) == (OUTPUT.replace(WRONG, "") + tokenizer.tokenizer.eos_token, WRONG)
    assert counts["trained_tokens"] == count


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=40), st.text(min_size=1, max_size=40), st.text(max_size=40))
def test_no_token_of_a_masked_span_is_trained(tiny_base: str, before: str, span: str, after: str) -> None:
    tokenizer = ExampleTokenizer(load_tokenizer(tiny_base), "chat")
    text = (before + span + after).encode("utf-8", "ignore").decode()
    if text != before + span + after or tokenizer.control_token(text):
        return
    ids = tokenizer.trained(text)
    first, stop = tokenizer.tokens_of((len(before), len(before) + len(span)), text)
    # Bytes, not characters: a token may hold a part of one.
    of_tokens = [len(piece) for piece in tokenizer.tokenizer.convert_ids_to_tokens(ids)]
    end = len((before + span).encode())
    assert sum(of_tokens[:first]) <= len(before.encode()) < sum(of_tokens[: first + 1])
    assert sum(of_tokens[: stop - 1]) < end <= sum(of_tokens[:stop])


def test_a_tokenizer_without_offsets_masks_nothing(tiny_base: str, tmp_path: Path) -> None:
    tokenizer = ExampleTokenizer(load_tokenizer(tiny_base), "chat")
    tokenizer.__dict__["_with_offsets"] = None
    masked = row("Question", OUTPUT) | {"masked": [0, 3]}
    with pytest.raises(ConfigError, match="which characters its tokens hold"):
        tokenise([masked], tokenizer, TrainingSpec(base=tiny_base), tmp_path)
