"""SmolLM2's ``.gguf`` file as an ordinary transformers checkpoint, so that the embedded student can be fine-tuned.

``from_pretrained(gguf_file=...)`` gives a model that counts as quantised and refuses ``save_pretrained``; its weights
are dequantised all the same, so they move into a fresh model of the same configuration, which saves.
"""

import copy
import os
import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lema_core.errors import ConfigError, MissingDependencyError
from lema_core.llm.embedded import EMBEDDED, TINY, TINY_VERSION, cache_dir, embedded_gguf, weights_identity
from lema_core.system.foreign_models import refuse_code

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


def checkpoint_of(base: str) -> str:
    """Return what ``from_pretrained`` takes for ``base``: ``smollm2``, a ``.gguf`` file, a folder or a hub's model id.

    A ``.gguf`` file is converted once and kept in the cache by the hash of its weights.

    Raises:
        ConfigError: ``base`` is none of these, or a folder that brings code of its own.
        MissingDependencyError: the embedded student or the reader of its format is not installed.
    """
    if base == TINY:
        target = cache_dir() / "checkpoints" / weights_identity(TINY).replace("@", "-")
        if not (target / "config.json").is_file():
            _publish(target, _random_weights)
        return str(target)
    path = Path(base)
    if base != EMBEDDED and path.suffix != ".gguf":
        if not (path / "config.json").is_file() and (path.exists() or not _HUB_ID.fullmatch(base)):
            raise ConfigError(
                f"no checkpoint at {base!r}: expected a folder with config.json,"
                f" a model id (owner/name) or {EMBEDDED!r}"
            )
        if path.is_dir():
            refuse_code(path)
        return base
    gguf = embedded_gguf() if base == EMBEDDED else path
    target = cache_dir() / "checkpoints" / weights_identity(base).replace("@", "-")
    if not (target / "config.json").is_file():
        _publish(target, lambda folder: _dequantise(gguf, folder))
    return str(target)


def _publish(target: Path, write: Callable[[Path], None]) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        whole = Path(scratch) / "checkpoint"
        write(whole)
        try:
            whole.rename(target)
        except OSError:
            # Another process was first: its folder is complete, since folders only arrive by rename.
            if not (target / "config.json").is_file():
                raise


def _random_weights(folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig

    gguf = embedded_gguf()
    tokenizer = AutoTokenizer.from_pretrained(str(gguf.parent), gguf_file=gguf.name)
    shape: dict[str, Any] = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2}
    heads: dict[str, Any] = {"num_attention_heads": 2, "num_key_value_heads": 2}
    config = LlamaConfig(vocab_size=len(tokenizer), tie_word_embeddings=True, **shape, **heads)
    config.bos_token_id, config.eos_token_id = tokenizer.bos_token_id, tokenizer.eos_token_id
    torch.manual_seed(TINY_VERSION)
    loader: Any = AutoModelForCausalLM
    loader.from_config(config, dtype=torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _dequantise(gguf: Path, folder: Path) -> None:
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    try:
        import gguf as reader  # noqa: F401  transformers asks for it with a far less helpful error
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer
    except ImportError as error:
        raise MissingDependencyError(
            f"reading {gguf.name} needs {error.name}: run `pip install -c requirements.lock -e '.[train,local]'`"
        ) from error
    source, name = str(gguf.parent), gguf.name
    quantised = AutoModelForCausalLM.from_pretrained(source, gguf_file=name, dtype=torch.bfloat16)
    config = copy.deepcopy(quantised.config)
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    loader: Any = AutoModelForCausalLM
    with torch.device("meta"):  # its own weights would be thrown away: make none
        model = loader.from_config(config, dtype=torch.bfloat16)
    model.load_state_dict(quantised.state_dict(), assign=True)
    model.tie_weights()
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(source, gguf_file=name).save_pretrained(folder)
