"""Exact token counts of a model's prompts and texts, without the model and without torch.

A tokenizer is found by the model's name: the embedded student, its ``.gguf`` file, a checkpoint folder, or a model id
of the Hugging Face hub whose ``tokenizer.json`` is in the cache already. Nothing is downloaded unless asked for.
"""

import importlib.util
import json
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import tokenizers
from huggingface_hub import hf_hub_download, try_to_load_from_cache
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

from lema_core.errors import ConfigError, MissingDependencyError
from lema_core.llm.embedded import EMBEDDED, TINY, cache_dir, embedded_gguf
from lema_core.system.files import file_sha256
from lema_core.system.foreign_models import render_chat
from lema_core.thinking import PAIRS

VOCABULARY, TEMPLATE, CONFIG = "tokenizer.json", "chat_template.jinja", "tokenizer_config.json"
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
SMOLLM = "smollm"
"""The splitting rule, by llama.cpp's name, that we can rebuild from a ``.gguf`` file: single digits, then GPT-2's."""


_OPENS_THINKING = re.compile(r"deepseek-r1|r1-distill|qwq|qwen-?3.*thinking", re.IGNORECASE)
"""Models whose chat templates on the hub end the prompt with ``<think>``."""


@dataclass(frozen=True)
class ModelTokenizer:
    """A model's tokenizer, and its chat template if it has one."""

    model: str
    vocabulary: Path
    template: str | None
    special: Mapping[str, str]
    """The template's names for special tokens, as ``bos_token``."""

    @cached_property
    def _tokenizer(self) -> tokenizers.Tokenizer:
        return tokenizers.Tokenizer.from_file(str(self.vocabulary))

    @property
    def added(self) -> dict[str, bool]:
        """The tokens that are split off a text before it is cut into others; True for control tokens."""
        return {token.content: token.special for token in self._tokenizer.get_added_tokens_decoder().values()}

    def count(self, text: str) -> int:
        """Return the tokens of a plain text."""
        return len(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def count_prompt(self, messages: Sequence[Mapping[str, Any]]) -> int:
        """Return the tokens of a chat as a server bills them: the template around it, the answer's opening included.

        Raises:
            ConfigError: the model has no chat template, or the template refuses these messages.
        """
        if self.template is None:
            raise ConfigError(f"the tokenizer of {self.model!r} has no chat template: expected {TEMPLATE} beside it")
        return self.count(render_chat(self.template, messages, self.special))


@lru_cache(maxsize=8)
def tokenizer_of(model: str, *, download: bool = False) -> ModelTokenizer | None:
    """Return the tokenizer of a model, None where it is not on this machine.

    Args:
        model: as an endpoint or a training run names it.
        download: fetch the few files of a model id of the hub that are not in the cache.

    Raises:
        ConfigError: there are tokenizer files, and they cannot be read.
    """
    path = Path(model)
    if model in {EMBEDDED, TINY} or path.suffix == ".gguf":
        folder = _of_gguf(path if path.suffix == ".gguf" else None)
        return _read(model, {name: folder / name for name in (VOCABULARY, TEMPLATE)}) if folder else None
    if path.is_dir():
        return _read(model, {name: path / name for name in (VOCABULARY, TEMPLATE, CONFIG)})
    if not HUB_ID.fullmatch(model) or names_a_path(model):
        return None
    return _read(model, {name: _of_hub(model, name, download) for name in (VOCABULARY, TEMPLATE, CONFIG)})


@lru_cache(maxsize=64)
def opens_thinking(model: str, arguments: str = "{}") -> bool:
    """Return whether a model's prompt ends inside a block of thinking, which its answers then only close.

    By its template, or by its name where its tokenizer is not on this machine.

    Args:
        model: as an endpoint names it.
        arguments: the template's arguments, as JSON.
    """
    try:
        known = tokenizer_of(model)
        if known is None or known.template is None:
            return _OPENS_THINKING.search(model) is not None
        chat = [{"role": "user", "content": "1 + 1?"}]
        prompt = render_chat(known.template, chat, known.special, arguments=json.loads(arguments))
    except ConfigError:
        return False
    return prompt.rstrip().endswith(tuple(PAIRS))


def need_tokenizer(model: str) -> ModelTokenizer:
    """Return the tokenizer of a model; the files of a model id are fetched from the hub if they are not cached.

    Raises:
        ConfigError: there is none.
    """
    if found := tokenizer_of(model, download=True):
        return found
    raise ConfigError(
        f"no tokenizer for {model!r}: expected a folder with {VOCABULARY}, {EMBEDDED!r}, or a model id of the Hugging "
        f"Face hub that is in its cache or can be fetched (`hf download OWNER/NAME {VOCABULARY}`)"
    )


def names_a_path(model: str) -> bool:
    """Return whether a model's name can only be the path of a folder, not an id of the hub."""
    return model.startswith(("/", "./", "../", "~"))


def _of_hub(model: str, name: str, download: bool) -> Path | None:
    try:
        found = try_to_load_from_cache(model, name)
        if isinstance(found, str):
            return Path(found)
        return Path(hf_hub_download(model, name)) if download else None
    # HFValidationError, a ValueError: what the hub takes for no id.
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError):
        return None


def _read(model: str, files: Mapping[str, Path | None]) -> ModelTokenizer | None:
    there = {name: path for name, path in files.items() if path is not None and path.is_file()}
    if VOCABULARY not in there:
        return None
    try:
        config = json.loads(there[CONFIG].read_text("utf-8")) if CONFIG in there else {}
        template = there[TEMPLATE].read_text("utf-8") if TEMPLATE in there else config.get("chat_template")
        if isinstance(template, list):
            # Older configuration files name several templates.
            template = next((item["template"] for item in template if item.get("name") == "default"), None)
        template = None if template is None else str(template)
        special = {}
        for name, value in config.items():
            text = value.get("content", "") if isinstance(value, dict) else value
            if name.endswith("_token") and value and isinstance(text, str):
                special[name] = text
        found = ModelTokenizer(model, there[VOCABULARY], template, special)
        found.count("")
    except Exception as error:  # noqa: BLE001  the library raises plain Exception for a file that it cannot read
        raise ConfigError(
            f"the tokenizer of {model!r} at {there[VOCABULARY].parent} cannot be read ({error})"
        ) from None
    return found


def _of_gguf(path: Path | None) -> Path | None:
    """Return a folder with a ``.gguf`` file's tokenizer, made once: reading 50,000 tokens out of it takes seconds."""
    if importlib.util.find_spec("gguf") is None:
        return None
    try:
        path = path or embedded_gguf()
    except MissingDependencyError:
        return None
    target = cache_dir() / "tokenizers" / file_sha256(path)[:16]
    there = (target / VOCABULARY).is_file() or _extract(path, target)
    return target if there else None


def _extract(path: Path, target: Path) -> bool:
    """Write the tokenizer of a ``.gguf`` file in the common form; return whether its splitting rule is one we know."""
    from gguf import GGUFReader

    fields = GGUFReader(path).fields
    held = {name: fields[key].contents() for name in _GGUF if (key := f"tokenizer.{name}") in fields}
    if held.get("ggml.pre") != SMOLLM:
        return False
    target.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=target.parent) as scratch:
        whole = Path(scratch) / "tokenizer"
        whole.mkdir()
        if "chat_template" in held:
            (whole / TEMPLATE).write_text(held["chat_template"], "utf-8")
        tokens, kinds = held["ggml.tokens"], held["ggml.token_type"]
        pairs = [(left, right) for left, right in (merge.split(" ") for merge in held["ggml.merges"])]
        model = tokenizers.models.BPE(vocab={token: place for place, token in enumerate(tokens)}, merges=pairs)
        rebuilt = tokenizers.Tokenizer(model)
        split = tokenizers.pre_tokenizers
        rebuilt.pre_tokenizer = split.Sequence(
            [split.Digits(individual_digits=True), split.ByteLevel(add_prefix_space=False)]
        )
        special = [token for token, kind in zip(tokens, kinds, strict=True) if kind != _NORMAL]
        rebuilt.add_special_tokens([tokenizers.AddedToken(token, special=True, normalized=False) for token in special])
        rebuilt.save(str(whole / VOCABULARY))
        with suppress(OSError):  # another process was first, and its folder came whole
            whole.rename(target)
    return True


_GGUF = ("ggml.pre", "ggml.tokens", "ggml.token_type", "ggml.merges", "chat_template")
_NORMAL = 1
"""llama.cpp's type of a token that is no special one."""
