"""Loading the base model for training, and saving what came out as one plain checkpoint."""

import importlib.util
import shutil
from pathlib import Path
from typing import Any

import torch

from lema_core.artifacts.files import atomic_folder
from lema_core.training.specs import LaunchSpec, TrainingSpec


def computes_bf16() -> bool:
    """Return whether this machine multiplies matrices in bf16; a CPU that only emulates it is five times slower."""
    if torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported())
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())  # noqa: SLF001  no public name


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
        extra["quantization_config"] = four_bit()
        extra["device_map"] = {"": torch.cuda.current_device()}
    return AutoModelForCausalLM.from_pretrained(
        base,
        dtype=torch.bfloat16 if bf16 else torch.float32,
        attn_implementation=attention,
        trust_remote_code=False,
        **extra,
    )


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

    2 per weight forward, 2 for the activations' gradients, 2 for those of trained weights; dpo runs a second model.
    Looking up an embedding multiplies nothing, so input embeddings that are not the output's too are left out.
    """
    looked_up = 0 if model.config.get_text_config().tie_word_embeddings else _count(model.get_input_embeddings().weight)
    weights = sum(map(_count, model.parameters())) - looked_up
    return ((6 if spec.method == "full" else 4) + (2 if spec.objective == "dpo" else 0)) * weights


def _count(weights: Any) -> int:
    """Return how many weights a tensor represents: all of them under ZeRO-3, and two per byte where it is quantised."""
    return int(getattr(weights, "ds_numel", weights.numel())) * (2 if weights.dtype == torch.uint8 else 1)


def save_whole(trainer: Any, spec: TrainingSpec, base: str, tokenizer: Any, target: Path) -> None:
    """Save the trained model as a plain checkpoint at ``target``, whole or not at all; every rank must call this.

    An adapter is merged into the base model as it was before quantisation (QLoRA, section 3 of its paper).
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
            merge_adapter(base, trained, part)
            shutil.rmtree(trained)
        tokenizer.save_pretrained(part)


def merge_adapter(base: str, adapter: Path, target: Path) -> None:
    """Save the base model with a trained adapter merged into it as a plain checkpoint (without a tokenizer)."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM
    from transformers.integrations.deepspeed import unset_hf_deepspeed_config

    unset_hf_deepspeed_config()  # type: ignore[no-untyped-call]  # under ZeRO-3 this load would be sharded too
    plain = AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16, trust_remote_code=False)
    merged = PeftModel.from_pretrained(plain, str(adapter)).merge_and_unload()
    merged.save_pretrained(target)


def four_bit() -> Any:
    """Return the quantisation of QLoRA (arXiv 2305.14314): NF4, its scales quantised too, computed in bf16."""
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(  # type: ignore[no-untyped-call]
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )
