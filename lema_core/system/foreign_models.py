"""Folders with models of others: their weights and tables are read, and no code of theirs is run."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lema_core.errors import ConfigError

DATA_FILES = (
    "*.safetensors",
    "*.safetensors.index.json",
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
    "chat_template.jinja",
)
"""The files of a checkpoint that are data, all that a model of a known architecture consists of."""
_TABLES = frozenset({"tokenizer.json", "vocab.json", "added_tokens.json"})
"""Their keys are tokens."""
_CODE_KEYS = frozenset({"auto_map", "custom_pipelines"})


def data_files(folder: Path) -> Iterator[Path]:
    """Yield the files of a checkpoint folder that are data."""
    for pattern in DATA_FILES:
        yield from sorted(path for path in folder.glob(pattern) if path.is_file())


def refuse_code(folder: Path) -> None:
    """Refuse a checkpoint folder that brings code of its own: ``auto_map`` in one of its files, or Python files.

    Raises:
        ConfigError: it does, or one of its files cannot be read.
    """
    code = sorted(path.name for path in folder.rglob("*.py"))
    settings = (path for path in sorted(folder.glob("*.json")) if path.name not in _TABLES)
    named = [path.name for path in settings if _CODE_KEYS & set(_keys(_read(path)))]
    if seen := [*(f"auto_map in {name}" for name in named), *code]:
        raise ConfigError(
            f"the checkpoint {folder} brings code of its own: {', '.join(seen[:4])}. Code of a model is never run "
            "here. Expected a folder with safetensors of an architecture that transformers knows; take another "
            "checkpoint, or serve this one by a server that you trust with it, and give its base_url"
        )


def _read(path: Path) -> Any:
    # An index of weights or a vocabulary may be large, but both are flat.
    try:
        return json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(
            f"{path} cannot be read as JSON ({type(error).__name__}): the checkpoint is damaged; copy it again"
        ) from None


def _keys(value: Any) -> Iterator[str]:
    """Yield every key of nested JSON, without recursion."""
    waiting = [value]
    while waiting:
        item = waiting.pop()
        if isinstance(item, dict):
            yield from item
            waiting.extend(child for child in item.values() if isinstance(child, dict | list))
        elif isinstance(item, list):
            waiting.extend(child for child in item if isinstance(child, dict | list))
