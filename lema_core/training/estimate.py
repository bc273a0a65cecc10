"""What a training run will need: memory a device, steps, tokens and hours, before anything is loaded or rented.

Model states by DeepSpeed's own formulas (``estimate_zero2/3_model_states_mem_needs``); activations by one stored hidden
state a layer (gradient checkpointing) and the working set of one layer and one tile of logits. Hours follow from
6 x parameters x tokens operations (8 where activations are computed twice) at a given utilisation. DPO in full adds its
reference, a second frozen model (TRL shards it under ZeRO-3 only), and always the reference's forward pass; that pass
keeps nothing, so it needs no memory beyond the working set that the backward pass needs anyway.
"""

import json
import logging
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import try_to_load_from_cache

from lema_core.errors import ConfigError, MissingDependencyError
from lema_core.llm.costs.tokenizers import names_a_path
from lema_core.system.packages import install_command
from lema_core.training.specs import FURTHER_PASSES, LaunchSpec, TrainingSpec

GIB = 2**30
_NF4_BYTES = 0.5 + 0.127 / 8  # 4 bits, and 0.127 for the doubly quantised scales (QLoRA, section 3)


@dataclass(frozen=True, slots=True)
class Shape:
    """The dimensions of a LLaMA-like model."""

    hidden: int
    intermediate: int
    layers: int
    key_value: int
    """Width of the key and value projections: their heads times the head's width."""
    vocabulary: int
    tied: bool = False

    def linears(self) -> tuple[tuple[int, int], ...]:
        """Return (in, out) of the linear maps of one layer."""
        h, m, kv = self.hidden, self.intermediate, self.key_value
        return ((h, h), (h, kv), (h, kv), (h, h), (h, m), (h, m), (m, h))

    def parameters(self) -> int:
        """Return the number of weights."""
        layer = sum(a * b for a, b in self.linears()) + 2 * self.hidden
        return self.layers * layer + self.vocabulary * self.hidden * (1 if self.tied else 2) + self.hidden

    def adapter(self, rank: int) -> int:
        """Return the number of weights of an adapter on all linear maps."""
        return self.layers * rank * sum(a + b for a, b in self.linears())

    def largest(self) -> int:
        """Return the weights of the largest single module."""
        return max(self.vocabulary * self.hidden, *(a * b for a, b in self.linears()))


PAPER_SHAPES = {
    "meta-llama/Llama-2-7b-hf": Shape(4096, 11008, 32, 4096, 32000),
    "meta-llama/Llama-2-13b-hf": Shape(5120, 13824, 40, 5120, 32000),
    "meta-llama/Llama-2-70b-hf": Shape(8192, 28672, 80, 1024, 32000),
    "codellama/CodeLlama-34b-hf": Shape(8192, 22016, 48, 1024, 32000),
    "huggyllama/llama-65b": Shape(8192, 22016, 80, 8192, 32000),
}
"""The paper's models (table 1), so that a plan for them needs neither network nor key."""


EMBEDDED_SHAPES = {
    "smollm2": Shape(576, 1536, 30, 192, 49152, tied=True),
    "tiny": Shape(64, 128, 2, 64, 49152, tied=True),
}
"""The models that need no download (``embedded_weights``)."""


@dataclass(frozen=True, slots=True)
class TrainingEstimate:
    """Bytes a device and a node, and the length of the run."""

    parameters: int
    trained_parameters: int
    device_states: int
    device_activations: int
    host_bytes: int
    """Of one node."""
    steps: int
    tokens: int
    hours: float | None
    """None where the devices' peak is not given."""

    @property
    def device_bytes(self) -> int:
        """Return what one device must hold."""
        return self.device_states + self.device_activations

    def line(self) -> str:
        """Return the estimate in one line."""
        hours = f"{self.hours:.1f} h" if self.hours is not None else "hours unknown (set peak_tflops)"
        return (
            f"{self.parameters / 1e9:.2f}B parameters ({self.trained_parameters / 1e9:.3f}B trained), "
            f"{self.device_bytes / GIB:.1f} GiB a device, {self.host_bytes / GIB:.1f} GiB a node, "
            f"{self.steps} steps, {self.tokens / 1e6:.2f}M tokens, {hours}"
        )


def shape_of(base: str) -> Shape:
    """Return the shape of a known model, of a checkpoint folder, or of a hub's model whose config is in the cache.

    Raises:
        ConfigError: ``base`` is none of them, or a model of another kind.
    """
    if base in PAPER_SHAPES:
        return PAPER_SHAPES[base]
    if base in EMBEDDED_SHAPES:
        return EMBEDDED_SHAPES[base]
    check_base(base)
    try:
        cached = try_to_load_from_cache(base, "config.json") if base.count("/") == 1 else None
    except ValueError:
        cached = None  # no id of the hub
    config = Path(cached) if isinstance(cached, str) else Path(base) / "config.json"
    if not config.is_file():
        raise ConfigError(
            f"the size of {base!r} is not known: give a checkpoint folder, fetch its config (`hf download {base} "
            f"config.json`), or name one of {', '.join(PAPER_SHAPES)}"
        )
    try:
        raw = json.loads(config.read_text())
        heads = raw["num_attention_heads"]
        width = raw.get("head_dim") or raw["hidden_size"] // heads
        return Shape(
            raw["hidden_size"],
            raw["intermediate_size"],
            raw["num_hidden_layers"],
            width * (raw.get("num_key_value_heads") or heads),
            raw["vocab_size"],
            bool(raw.get("tie_word_embeddings", False)),
        )
    except (AttributeError, KeyError, OSError, RecursionError, TypeError, ValueError, ZeroDivisionError) as error:
        raise ConfigError(f"{config} does not describe a LLaMA-like model ({error!r}): its size is not known") from None


def check_base(base: str) -> None:
    """Refuse a base model whose path does not exist, before the run pays for its data.

    Raises:
        ConfigError: the path does not exist, or is no folder.
    """
    if names_a_path(base) and not Path(base).expanduser().is_dir():
        raise ConfigError(
            f"training.base {base!r} is the path of a checkpoint folder, and there is no folder. Give one that exists, "
            "or a model id of the Hugging Face hub"
        )


def estimate(
    spec: TrainingSpec, launch: LaunchSpec, examples: int, mean_tokens: float, ranks: int, utilisation: float = 0.4
) -> TrainingEstimate:
    """Estimate a run.

    Args:
        spec: what is trained.
        launch: how.
        examples: number of examples after tokenising.
        mean_tokens: tokens of an example, on average; of a preference pair those of both its sequences.
        ranks: devices of one node.
        utilisation: the share of the devices' peak that is reached (MFU).

    Raises:
        ConfigError: the size of the base model is not known.
        MissingDependencyError: DeepSpeed is not installed.
    """
    shape = shape_of(spec.base)
    total = shape.parameters()
    trained = total if spec.method == "full" else shape.adapter(spec.adapter.rank)
    states, host = _states(spec, launch, shape, ranks)
    reference, reference_host = _reference(spec, launch, total, ranks)
    steps = spec.steps(examples)
    tokens = round(min(steps * spec.batch_size, examples * spec.epochs if not spec.max_steps else 1e18) * mean_tokens)
    # Twice forward for checkpointing; frozen weights need no gradient of their own.
    passes = (8 if spec.method == "full" else 6) + FURTHER_PASSES[spec.objective]
    operations = passes * total * tokens
    speed = launch.peak_tflops * 1e12 * utilisation * ranks * launch.nodes if launch.peak_tflops else None
    hours = operations / speed / 3600 if speed else None
    device, node = states + reference, host + reference_host
    return TrainingEstimate(total, trained, device, _activations(launch, shape), node, steps, tokens, hours)


def _reference(spec: TrainingSpec, launch: LaunchSpec, total: int, ranks: int) -> tuple[int, int]:
    """Return bytes of DPO's reference: of a device, of a node's memory. An adapter's is the base without it."""
    if spec.objective == "sft" or spec.method != "full":
        return 0, 0
    weights = 2 * total
    if launch.offload_parameters:
        return 0, weights // launch.nodes
    return weights // (ranks * launch.nodes if launch.zero_stage == 3 else 1), 0


def _states(spec: TrainingSpec, launch: LaunchSpec, shape: Shape, ranks: int) -> tuple[int, int]:
    """Return bytes of weights, gradients and optimiser states: of a device, of a node's memory."""
    # On its import DeepSpeed writes to standard output that it found no GPU; a plan needs none.
    logging.disable(logging.WARNING)
    try:
        from deepspeed.runtime.zero.stage3 import estimate_zero3_model_states_mem_needs as zero3
        from deepspeed.runtime.zero.stage_1_and_2 import estimate_zero2_model_states_mem_needs as zero2
    except ImportError as error:
        raise MissingDependencyError(f"estimates need DeepSpeed: run `{install_command('train')}`") from error
    finally:
        logging.disable(logging.NOTSET)
    total = shape.parameters()
    frozen = 0.0 if spec.method == "full" else total * (_NF4_BYTES if spec.method == "qlora" else 2)
    trained = total if spec.method == "full" else shape.adapter(spec.adapter.rank)
    if launch.zero_stage == 3:
        host, device, _ = zero3(
            trained, shape.largest(), ranks, launch.nodes, launch.offload_optimizer, launch.offload_parameters
        )
        return int(device + frozen / (ranks * launch.nodes)), int(host)
    # Stages 0 and 1 keep more on each device than stage 2: one device's share is then the whole.
    sharing = ranks * launch.nodes if launch.zero_stage == 2 else 1
    host, device = zero2(trained, sharing, 1, launch.offload_optimizer)
    return int(device + frozen), int(host)


def _activations(launch: LaunchSpec, shape: Shape) -> int:
    tokens = launch.micro_batch_tokens
    kept = tokens * shape.hidden * 2 * shape.layers
    one_layer = tokens * 2 * (8 * shape.hidden + 4 * shape.intermediate)
    logits = min(tokens * shape.vocabulary, 32768 * shape.hidden) * 4
    return kept + one_layer + logits
