"""SmolLM2's ``.gguf`` file as an ordinary transformers checkpoint, so that the embedded student can be fine-tuned.

``from_pretrained(gguf_file=...)`` gives a model that counts as quantised and refuses ``save_pretrained``; its weights
are dequantised all the same, so they move into a fresh model of the same configuration, which saves.
"""

import os
import re
import tempfile
from pathlib import Path
from typing import Any

from lema_core.errors import ConfigError, MissingDependencyError
from lema_core.llm.embedded import EMBEDDED, cache_dir, embedded_gguf, weights_identity

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


def checkpoint_of(base: str) -> str:
    """Return what ``from_pretrained`` takes for ``base``: ``smollm2``, a ``.gguf`` file, a folder or a hub's model id.

    A ``.gguf`` file is converted once and kept in the cache by the hash of its weights.

    Raises:
        ConfigError: ``base`` is none of these.
        MissingDependencyError: the embedded student or the reader of its format is not installed.
    """
    path = Path(base)
    if base != EMBEDDED and path.suffix != ".gguf":
        if not (path / "config.json").is_file() and (path.exists() or not _HUB_ID.fullmatch(base)):
            raise ConfigError(
                f"no checkpoint at {base!r}: expected a folder with config.json,"
                f" a model id (owner/name) or {EMBEDDED!r}"
            )
        return base
    gguf = embedded_gguf() if base == EMBEDDED else path
    target = cache_dir() / "checkpoints" / weights_identity(base).replace("@", "-")
    if not (target / "config.json").is_file():
        _publish(gguf, target)
    return str(target)


def _publish(gguf: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        whole = Path(scratch) / "checkpoint"
        _dequantise(gguf, whole)
        try:
            whole.rename(target)
        except OSError:
            # Another process was first: its folder is complete, since folders only arrive by rename.
            if not (target / "config.json").is_file():
                raise


def _dequantise(gguf: Path, folder: Path) -> None:
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    try:
        import gguf as reader  # noqa: F401  transformers asks for it with a far less helpful error
        import torch
        from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
    except ImportError as error:
        raise MissingDependencyError(
            f"reading {gguf.name} needs {error.name}: run `pip install 'lema-pipeline[train,local]'`"
        ) from error
    source, name = str(gguf.parent), gguf.name
    quantised = AutoModelForCausalLM.from_pretrained(source, gguf_file=name, dtype=torch.bfloat16)
    config = AutoConfig.from_pretrained(source, gguf_file=name)
    for owner in (config, quantised.config):
        if hasattr(owner, "quantization_config"):
            del owner.quantization_config
    loader: Any = AutoModelForCausalLM
    model = loader.from_config(config, dtype=torch.bfloat16)
    model.load_state_dict(quantised.state_dict())
    model.tie_weights()
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(source, gguf_file=name).save_pretrained(folder)
