"""Token counts against transformers, and against files as the hub writes them."""

import json
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from lema_core.errors import ConfigError
from lema_core.llm.costs import tokenizers
from lema_core.llm.costs.tokenizers import need_tokenizer, tokenizer_of
from lema_core.llm.embedded import embedded_gguf

TEMPLATE = (
    "{% for one in messages %}<{{ one.role }}> {{ one.content }} {% endfor %}{% if add_generation_prompt %}>{% endif %}"
)
CHAT = [{"role": "user", "content": "one two"}]


@pytest.fixture(autouse=True)
def _nothing_remembered():
    tokenizer_of.cache_clear()


def checkpoint(folder: Path, template: str | None = TEMPLATE) -> Path:
    """Write a tokenizer that knows no word: each run of word signs and each run of other signs is one token."""
    folder.mkdir(parents=True, exist_ok=True)
    made = Tokenizer(models.WordLevel({"?": 0}, unk_token="?"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.save(str(folder / "tokenizer.json"))
    if template is not None:
        (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": template, "bos_token": "<s>"}))
    return folder


def test_a_folder_counts_texts_and_chats(tmp_path) -> None:
    found = tokenizer_of(str(checkpoint(tmp_path / "m")))
    assert found is not None
    assert found.count("one two three!") == 4
    # < user > one two >
    assert found.count_prompt(CHAT) == 6


def test_a_template_file_goes_before_the_configuration(tmp_path) -> None:
    folder = checkpoint(tmp_path / "m")
    (folder / "chat_template.jinja").write_text("{{ bos_token }}{% for one in messages %}{{ one.content }}{% endfor %}")
    found = tokenizer_of(str(folder))
    assert found is not None
    assert found.count_prompt(CHAT) == 5  # < s > one two


def test_a_model_of_the_hub_counts_when_it_is_in_the_cache(tmp_path, monkeypatch) -> None:
    snapshot = tmp_path / "models--some--model" / "snapshots" / "abc"
    checkpoint(snapshot)
    (tmp_path / "models--some--model" / "refs").mkdir()
    (tmp_path / "models--some--model" / "refs" / "main").write_text("abc")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    found = tokenizer_of("some/model")
    assert found is not None
    assert found.count_prompt(CHAT) == 6
    assert tokenizer_of("another/model") is None


def test_models_without_files_here_are_not_counted(tmp_path) -> None:
    assert tokenizer_of("gpt-4.1") is None
    assert tokenizer_of(str(tmp_path)) is None
    with pytest.raises(ConfigError, match=r"no tokenizer for 'gpt-4.1'.*hf download"):
        need_tokenizer("gpt-4.1")


def test_a_torn_tokenizer_is_named(tmp_path) -> None:
    (checkpoint(tmp_path / "m") / "tokenizer.json").write_text('{"version": ')
    with pytest.raises(ConfigError, match=r"tokenizer of .* cannot be read"):
        tokenizer_of(str(tmp_path / "m"))


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("{{ raise_exception('System role not supported') }}", "System role not supported"),
        ("{{ ''.__class__.__mro__[1].__subclasses__() }}", "unsafe"),
        ("{{ messages.append(1) }}", "unsafe"),
        ("{% if %}", "template"),
    ],
)
def test_a_template_that_refuses_or_breaks_out_is_an_error(tmp_path, template, said) -> None:
    found = tokenizer_of(str(checkpoint(tmp_path / "m", template)))
    assert found is not None
    with pytest.raises(ConfigError, match=said):
        found.count_prompt(CHAT)


def test_a_checkpoint_counts_as_transformers_does() -> None:
    pytest.importorskip("trl", reason="training is not installed")
    pytest.importorskip("gguf")
    from transformers import AutoTokenizer

    from lema_core.training.models import checkpoint_of

    folder = checkpoint_of("tiny")
    theirs, ours = AutoTokenizer.from_pretrained(folder), tokenizer_of(folder)
    assert ours is not None
    for chat in (
        [{"role": "user", "content": "Tom has 12 apples.\n\n  7 are “green”, 1.5 kg."}],
        [{"role": "system", "content": "S"}, *CHAT, {"role": "assistant", "content": "ok"}, *CHAT],
    ):
        text = theirs.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
        assert ours.count_prompt(chat) == len(theirs.encode(text, add_special_tokens=False))


def test_the_embedded_tokenizer_is_taken_out_of_its_weights_once(tmp_path, monkeypatch) -> None:
    pytest.importorskip("gguf")
    try:
        embedded_gguf()
    except tokenizers.MissingDependencyError:
        pytest.skip("the embedded student is not installed")
    monkeypatch.setenv("LEMA_CACHE", str(tmp_path))
    first = tokenizer_of("smollm2")
    assert first is not None
    # Single digits, and white space before a digit in one piece: what GPT-2's rule alone would cut otherwise.
    assert [first.count(text) for text in ("1234", "x\n\n1", "a  5 b")] == [4, 3, 4]
    monkeypatch.setattr(tokenizers, "_extract", lambda *_: pytest.fail("taken out again"))
    tokenizer_of.cache_clear()
    again = tokenizer_of("smollm2")
    assert again is not None
    assert again.vocabulary == first.vocabulary
