"""Base models: found or converted to an ordinary checkpoint, loaded for training, and saved as one plain checkpoint.

The embedded student's ``.gguf`` file is converted once. ``from_pretrained(gguf_file=...)`` gives a model that counts
as quantised and refuses ``save_pretrained``; its weights are dequantised all the same, so they move into a fresh
model of the same configuration, which saves.
"""

import contextlib
import copy
import importlib.util
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch

from lema_core.artifacts.files import atomic_folder, atomic_local
from lema_core.errors import ConfigError, MissingDependencyError
from lema_core.llm.embedded import EMBEDDED, TINY, TINY_VERSION, cache_dir, embedded_gguf, weights_identity
from lema_core.system.foreign_models import refuse_code
from lema_core.system.packages import install_command
from lema_core.training.data import ExampleTokenizer
from lema_core.training.specs import FURTHER_PASSES, LaunchSpec, TrainingSpec


def computes_bf16() -> bool:
    """Return whether this machine multiplies matrices in bf16; a CPU that only emulates it is five times slower."""
    if torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported())
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())  # noqa: SLF001  no public name


def trains_in_bf16(spec: TrainingSpec) -> bool:
    """Return whether this machine trains by ``spec`` in bf16."""
    return spec.precision == "bf16" or (spec.precision == "auto" and computes_bf16())


def attention_of(launch: LaunchSpec) -> str:
    """Return the attention implementation to load the model with."""
    if launch.attention != "auto":
        return launch.attention
    flash = torch.cuda.is_available() and importlib.util.find_spec("flash_attn") is not None
    return "flash_attention_2" if flash else "sdpa"


def load_model(base: str, spec: TrainingSpec, attention: str, bf16: bool) -> Any:
    """Return the base model, ready for the method; under ZeRO-3 each rank holds its shard only."""
    from transformers import AutoModelForCausalLM

    extra: dict[str, Any] = {}
    if spec.method == "qlora":
        extra["quantization_config"] = four_bit(bf16)
        extra["device_map"] = {"": torch.cuda.current_device() if torch.cuda.is_available() else "cpu"}
    return AutoModelForCausalLM.from_pretrained(
        base,
        dtype=torch.bfloat16 if bf16 else torch.float32,
        attn_implementation=attention,
        trust_remote_code=False,
        **extra,
    )


@contextlib.contextmanager
def project_only(head: Any, wanted: torch.Tensor) -> Iterator[None]:
    """Give the output projection only the positions whose next token is wanted, as (wanted, hidden).

    ``wanted`` is of shape (rows, longest - 1), True where the token after the position counts.
    """
    hook = head.register_forward_pre_hook(lambda _, given: (given[0][:, :-1][wanted],))
    try:
        yield
    finally:
        hook.remove()


def peft_config(spec: TrainingSpec) -> Any:
    """Return the adapter's configuration for lora and qlora, None for full fine-tuning."""
    if spec.method == "full":
        return None
    from peft import LoraConfig

    adapter = spec.adapter
    targets = adapter.target_modules if isinstance(adapter.target_modules, str) else list(adapter.target_modules)
    return LoraConfig(
        r=adapter.rank,
        lora_alpha=adapter.alpha,
        lora_dropout=adapter.dropout,
        target_modules=targets,
        task_type="CAUSAL_LM",
    )


def operations_per_token(model: Any, spec: TrainingSpec) -> int:
    """Return the floating-point operations of training per token; recomputed activations do not count.

    2 per weight forward, 2 for the activations' gradients, 2 for those of trained weights; dpo and kto run a reference.
    Looking up an embedding multiplies nothing, so input embeddings that are not the output's too are left out.
    """
    looked_up = 0 if model.config.get_text_config().tie_word_embeddings else _count(model.get_input_embeddings().weight)
    weights = sum(map(_count, model.parameters())) - looked_up
    return ((6 if spec.method == "full" else 4) + FURTHER_PASSES[spec.objective]) * weights


def _count(weights: Any) -> int:
    """Return how many weights a tensor represents: all of them under ZeRO-3, and two per byte where it is quantised."""
    return int(getattr(weights, "ds_numel", weights.numel())) * (2 if weights.dtype == torch.uint8 else 1)


def save_whole(trainer: Any, spec: TrainingSpec, base: str, examples: ExampleTokenizer, target: Path) -> None:
    """Save the trained model as a plain checkpoint at ``target``, whole or not at all; every rank must call this.

    An adapter is merged into the weights that it was trained on: see `merge_adapter`.
    """
    # Under ZeRO-3 no rank has the weights, so all ranks gather them; else rank 0 has them, with tied ones still tied.
    sharded = trainer.deepspeed is not None and trainer.deepspeed.zero_optimization_partition_weights()
    state = trainer.accelerator.get_state_dict(trainer.deepspeed) if sharded else None
    if not trainer.is_world_process_zero():
        return
    with atomic_folder(target) as part:
        trained = part if spec.method == "full" else part / "adapter"
        trainer.model.save_pretrained(trained, state_dict=state)
        if spec.method != "full":
            merge_adapter(base, trained, part, trainer.model)
            shutil.rmtree(trained)
        examples.tokenizer.save_pretrained(part)
        save_stop(part, examples.stops)


def save_stop(folder: Path, stop: int) -> None:
    """Add the token that ends an answer to those at which a server of the checkpoint stops; the base's stay."""
    for name in ("generation_config.json", "config.json"):
        file = folder / name
        held = json.loads(file.read_text("utf-8")) if file.is_file() else {}
        found = held.get("eos_token_id")
        known = found if isinstance(found, list) else [] if found is None else [found]
        # Left alone where it is there already: a base whose turns end with its own token is saved as it is.
        if known[:1] == [stop] or (name == "config.json" and stop in known):
            continue
        # config.json takes one token: llama.cpp's converter reads no list there.
        held["eos_token_id"] = stop if name == "config.json" else [stop, *(token for token in known if token != stop)]
        with atomic_local(file) as local:
            local.write_text(json.dumps(held, indent=2, sort_keys=True) + "\n", "utf-8")


def merge_adapter(base: str, adapter: Path, target: Path, trained: Any | None) -> None:
    """Save the base model with a trained adapter merged into it as a plain checkpoint (without a tokenizer).

    Each sum is computed in float32 and rounded once, to the type that the base was saved in. An adapter of QLoRA is
    added to the dequantised NF4 weights. It was trained on those, so this checkpoint is the model whose loss was
    measured; added to the weights before quantisation it would be another model, by the quantisation's error.

    Args:
        base: what ``from_pretrained`` takes.
        adapter: the folder of the adapter's weights.
        target: the folder of the checkpoint.
        trained: a model with the 4-bit weights that the adapter was trained on, if it was.
    """
    from peft import PeftModel
    from transformers import AutoModelForCausalLM
    from transformers.integrations.deepspeed import unset_hf_deepspeed_config

    unset_hf_deepspeed_config()  # type: ignore[no-untyped-call]  # under ZeRO-3 this load would be sharded too
    plain = AutoModelForCausalLM.from_pretrained(base, dtype="auto", trust_remote_code=False)
    merged: Any = PeftModel.from_pretrained(plain, str(adapter))
    quantised = _quantised_layers(trained)
    layers: Iterator[tuple[str, Any]] = merged.named_modules()
    for name, layer in layers:
        if hasattr(layer, "get_delta_weight"):
            weight = layer.get_base_layer().weight
            values = quantised[name]() if name in quantised else weight.data
            # One layer at a time: a whole model in float32 would take twice the memory of one in bf16.
            weight.data = (values.float() + layer.get_delta_weight("default").float()).to(weight.dtype)
    merged.unload().save_pretrained(target)


def _quantised_layers(model: Any | None) -> dict[str, Callable[[], torch.Tensor]]:
    """Return by name the layers with 4-bit weights, each as a function that computes its values on the CPU."""
    if model is None or importlib.util.find_spec("bitsandbytes") is None:
        return {}
    from bitsandbytes.functional import dequantize_4bit
    from bitsandbytes.nn.modules import Linear4bit

    def values_of(layer: Any) -> torch.Tensor:
        values: torch.Tensor = dequantize_4bit(layer.weight.data, layer.weight.quant_state)
        return values.cpu()

    # In a model with adapters each is the base of the layer that holds the adapter.
    return {
        name.removesuffix(".base_layer"): partial(values_of, layer)
        for name, layer in model.named_modules()
        if isinstance(layer, Linear4bit)
    }


def four_bit(bf16: bool) -> Any:
    """Return the quantisation of QLoRA (arXiv 2305.14314): NF4, its scales quantised too, to compute in either type."""
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(  # type: ignore[no-untyped-call]
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16 if bf16 else torch.float32,
    )


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
            f"reading {gguf.name} needs {error.name}: run `{install_command('train', 'local')}`"
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
