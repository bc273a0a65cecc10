"""Adapters, also on 4-bit weights: what is loaded, how it trains, what the merged checkpoint computes.

The reference is PEFT's own way of training: its preparation of the model, its adapters, a plain loop of AdamW.
"""

import os
import signal
from pathlib import Path
from typing import Any

import psutil
import pyarrow.parquet as pq
import pytest
import torch

from lema_core.errors import TrainingError
from lema_core.training import LaunchSpec, TrainingSpec, run_training
from lema_core.training.batches import plan_run
from lema_core.training.data import TokenisedData
from lema_core.training.models import load_model, peft_config
from lema_core.training.trainers import Collator

pytest.importorskip("bitsandbytes", reason="QLoRA is not installed (lema-pipeline[train])")
STEPS, RATE = 8, 5e-3


def spec_of(base: str, method: str) -> TrainingSpec:
    return TrainingSpec.model_validate({
        "base": base, "method": method, "max_steps": STEPS, "batch_size": 8, "learning_rate": RATE,
        "schedule": "constant", "warmup_ratio": 0, "max_grad_norm": 0.3, "precision": "fp32", "save_steps": 4,
        "adapter": {"rank": 8, "alpha": 16, "dropout": 0.0},
    })  # fmt: skip


def quantised_layers(model: Any) -> dict[str, Any]:
    from bitsandbytes.nn.modules import Linear4bit

    return {name: layer for name, layer in model.named_modules() if isinstance(layer, Linear4bit)}


def test_every_linear_layer_is_nf4_in_blocks_of_64_with_quantised_scales(tiny_base: str) -> None:
    model = load_model(tiny_base, spec_of(tiny_base, "qlora"), "sdpa", bf16=False)
    layers = quantised_layers(model)
    linear = {name for name, layer in model.named_modules() if isinstance(layer, torch.nn.Linear)}
    assert len(layers) == 2 * 7
    assert linear - layers.keys() == {"lm_head"}
    for layer in layers.values():
        state = layer.weight.quant_state
        assert (layer.weight.dtype, state.quant_type, state.blocksize) == (torch.uint8, "nf4", 64)
        assert state.nested
        assert state.absmax.dtype == torch.uint8, "the scales of the blocks are 8-bit numbers themselves"
        assert layer.compute_dtype == torch.float32
        assert layer.weight.numel() * 2 == layer.in_features * layer.out_features


def reference_losses(spec: TrainingSpec, tokens: Path) -> list[float]:
    """Return the loss of each step of a plain loop over a model that PEFT prepares."""
    from peft import get_peft_model, prepare_model_for_kbit_training
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig, set_seed

    extra: dict[str, Any] = {}
    if spec.method == "qlora":
        extra["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.float32,
        )  # fmt: skip
    set_seed(spec.seed)
    model: Any = AutoModelForCausalLM.from_pretrained(spec.base, dtype=torch.float32, **extra)
    if spec.method == "qlora":
        model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
    model = get_peft_model(model, peft_config(spec))
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    if spec.method == "qlora":
        # TRL rounds the first values of such adapters to bf16.
        for weight in weights:
            weight.data = weight.data.bfloat16().float()
    optimiser = torch.optim.AdamW(weights, lr=spec.learning_rate, weight_decay=0.0)
    data = TokenisedData(tokens)
    plan = plan_run(data.lengths(), steps=STEPS, batch_size=8, epochs=None, seed=0, ranks=1, budget=4096, packed=False)
    collate, losses = Collator(data, plan, pad=1, packed=False), []
    for step in range(STEPS):
        batch = collate([{"micro_batch": step}])
        loss = model(input_ids=batch["input_ids"], labels=batch["labels"]).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, spec.max_grad_norm)
        optimiser.step()
        optimiser.zero_grad()
        losses.append(float(loss.detach()))
    return losses


def ranks_of_this_test() -> list[int]:
    family = psutil.Process().children(recursive=True)
    return [one.pid for one in family if one.is_running() and "lema_core.training.sft" in " ".join(one.cmdline())]


async def train(
    spec: TrainingSpec, mixture: Path, out: Path, ranks: int, on_event: Any = lambda _: None
) -> list[float]:
    launch = LaunchSpec(ranks=ranks, zero_stage=2, threads=1)
    result = await run_training(spec, launch, mixture, out, on_event)
    metrics = pq.read_table(result.metrics)
    for peaks in metrics["peak_rss_mib"].to_pylist():
        assert len(peaks) == ranks
        assert min(peaks) > 100
    return list(metrics["loss"].to_pylist())


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model.eval()(torch.arange(3, 203).reshape(4, 50)).logits.float()
    return found


@pytest.mark.slow
async def test_qlora_on_two_ranks_killed_and_resumed_trains_as_pefts_own_loop_does(
    tiny_base: str, mixture: Path, tmp_path: Path
) -> None:
    spec, out = spec_of(tiny_base, "qlora"), tmp_path / "out"

    def kill_a_rank(event: Any) -> None:
        if event["event"] == "step" and event["step"] == 6:
            os.kill(ranks_of_this_test()[-1], signal.SIGKILL)

    with pytest.raises(TrainingError, match="goes on from the newest checkpoint"):
        await train(spec, mixture, out, 2, kill_a_rank)
    assert await train(spec, mixture, out, 2) == pytest.approx(reference_losses(spec, out / "tokens"), abs=1e-4)
    _check_merged(spec, out)


def _check_merged(spec: TrainingSpec, out: Path) -> None:
    """The plain checkpoint computes what the adapter on 4-bit weights computes."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    adapter = out / f"checkpoint-{STEPS}"
    trained = logits(PeftModel.from_pretrained(load_model(spec.base, spec, "sdpa", bf16=False), str(adapter)))
    plain = AutoModelForCausalLM.from_pretrained(out / "model")
    assert plain.dtype == torch.float32, "as the base was saved"
    assert not quantised_layers(plain)
    gap = (logits(plain) - trained).abs().max().item()
    elsewhere = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(spec.base), str(adapter))
    gap_of_original = (logits(elsewhere) - trained).abs().max().item()
    spread = trained.std().item()
    assert gap < 1e-4 * spread
    assert gap_of_original > 100 * gap, "merged into the weights before quantisation it is another model"


@pytest.mark.slow
async def test_lora_trains_as_pefts_own_loop_does_and_is_merged_in_float32(
    tiny_base: str, mixture: Path, tmp_path: Path
) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    spec, out = spec_of(tiny_base, "lora"), tmp_path / "out"
    assert await train(spec, mixture, out, 1) == pytest.approx(reference_losses(spec, out / "tokens"), abs=1e-4)
    base = AutoModelForCausalLM.from_pretrained(tiny_base)
    trained = logits(PeftModel.from_pretrained(base, str(out / f"checkpoint-{STEPS}")))
    plain = AutoModelForCausalLM.from_pretrained(out / "model")
    assert plain.dtype == torch.float32, "as the base was saved"
    assert (logits(plain) - trained).abs().max().item() < 1e-5
