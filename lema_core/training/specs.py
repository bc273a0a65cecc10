"""What a training run is (``TrainingSpec``: identity) and how it is run (``LaunchSpec``: never identity).

Two runs with equal specs and equal data give the same model up to rounding, whatever the number of ranks, the size of
a micro-batch, the ZeRO stage or the offload: these only say where the same sums are computed.
"""

import datetime as dt
import json
from collections.abc import Mapping
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from lema_core.system.foreign_models import TEMPLATE_DATE

MODEL_FOLDER = "model"
METRICS_FILE = "metrics.parquet"
SPEC_FILE = "spec.json"
"""What a finished run leaves in its output folder: the whole model, one row per step, the spec."""

Method = Literal["full", "lora", "qlora"]
Template = Literal["chat", "plain"]
Objective = Literal["sft", "dpo", "kto"]
FURTHER_PASSES: Mapping[Objective, int] = {"sft": 0, "dpo": 2, "kto": 6}
"""Operations per weight and token beside training's own: the reference's pass, and KTO's two of mismatched answers."""
Precision = Literal["auto", "bf16", "fp32"]
Tracker = Literal["trackio", "wandb", "tensorboard"]
Preset = Literal["paper_qlora", "paper_full"]
PRESETS: Mapping[Preset, Mapping[str, Any]] = {
    "paper_qlora": {
        "method": "qlora", "learning_rate": 1e-4, "schedule": "constant", "warmup_ratio": 0.0, "max_grad_norm": 0.3,
        "weight_decay": 0.01, "batch_size": 96, "max_steps": 2000, "save_steps": 100,
        "adapter": {"rank": 64, "alpha": 16, "dropout": 0.05, "target_modules": "all-linear"},
    },
    "paper_full": {
        "method": "full", "learning_rate": 1e-5, "schedule": "constant", "warmup_ratio": 0.0, "max_grad_norm": 0.3,
        "weight_decay": 0.01, "batch_size": 128, "epochs": 3.0,
    },
}  # fmt: skip
"""The paper's settings for its 70B models (section 3.3)."""
WeightedKind = Literal["cot", "correction", "critique", "refinement", "fix_continue", "fresh_restart"]
"""Kinds of examples (``records.Example.kind``) whose loss can be weighted: not preference pairs."""
_ARM = "arm:"


def apply_preset(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return options with those of their preset filled in where they are not given; an unknown preset stays."""
    filled = dict(options)
    name = filled.pop("preset", None)
    if name is None:
        return filled
    return dict(PRESETS[name]) | filled if name in PRESETS else filled | {"preset": name}


class Adapter(BaseModel):
    """A low-rank adapter; the defaults are the paper's (section 3.3)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rank: int = Field(64, ge=1)
    alpha: int = Field(16, gt=0)
    dropout: float = Field(0.05, ge=0, lt=1)
    target_modules: tuple[str, ...] | Literal["all-linear"] = "all-linear"


class TrainingSpec(BaseModel):
    """Everything that decides which weights come out."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    base: str = "smollm2"
    """``smollm2`` (the embedded student), a checkpoint folder, a model id of the Hugging Face hub; in a run file also
    ``arm:NAME``, the model that an earlier arm gave."""
    preset: Preset | None = None
    """Settings of the paper (section 3.3) by one name; an option that is given takes the place of the preset's.
    paper_qlora: rank 64, alpha 16, dropout 0.05 on all linear layers, NF4, constant rate 1e-4 (below 34B the paper
    takes 2e-4), norm of gradients cut at 0.3, 2,000 steps of 96. paper_full: constant rate 1e-5, 3 epochs (2 at 34B and
    below) of batches of 128."""
    objective: Objective = "sft"
    """Optional in a run file: arms of preference pairs are trained by dpo (arXiv 2305.18290), those of format kto by
    kto (arXiv 2402.01306), all others by sft."""
    beta: float = Field(0.1, gt=0)
    """Of dpo and kto: how dear it is to leave the model that training starts from. Step-DPO takes 0.5."""
    method: Method = "full"
    adapter: Adapter = Adapter()
    """Used by lora and qlora."""
    template: Template = "chat"
    """chat: the model's own chat template around input and output; plain: input, a line break, output."""
    template_arguments: dict[str, Any] = Field(default_factory=dict)
    """The chat template's own switches, such as ``{enable_thinking = false}``: the same in training and, set in the
    template that is saved with the checkpoint, at every server of it. The base model's endpoint needs the same ones as
    ``params.chat_template_kwargs``."""
    template_date: str = Field(TEMPLATE_DATE, pattern=r"^\d{4}-\d\d-\d\d$")
    """What a chat template that asks for today's date gets, in training and at every server of the checkpoint."""
    thinking: Literal["drop", "keep"] = "drop"
    """keep: the thinking of a right path is trained before its steps, where the chat template puts it; drop: steps and
    answer only."""
    max_length: int = Field(1024, ge=8)
    """Tokens of one example; a longer one is rejected before training, never cut."""
    epochs: float = Field(2.0, gt=0)
    max_steps: int | None = Field(None, ge=1)
    """Optimiser steps; where given, it takes the place of ``epochs``."""
    match_steps: bool = True
    """Without ``max_steps``, all arms of a run or of a sweep's seed that start from one model take as many optimiser
    steps as the arm with most examples takes for its ``epochs``; an arm with fewer repeats them in a new order. An arm
    alone, one with epochs, max_steps or batch_size of its own in [arm_training], and a round's student keep theirs.
    false: each arm takes its own epochs, so that an arm with more rows is also trained longer."""
    batch_size: int = Field(32, ge=1)
    """Examples of one optimiser step, over all ranks."""
    learning_rate: float = Field(1e-5, gt=0)
    schedule: Literal["constant", "linear", "cosine", "constant_with_warmup"] = "cosine"
    warmup_ratio: float = Field(0.03, ge=0, lt=1)
    weight_decay: float = Field(0.0, ge=0)
    max_grad_norm: float = Field(1.0, gt=0)
    precision: Precision = "auto"
    """auto: bf16 with float32 master weights where the processor computes in bf16, else float32."""
    seed: int = Field(0, ge=0)
    loss_weights: dict[WeightedKind, float] = Field(default_factory=dict)
    """By kind of example (cot, correction, critique, refinement, fix_continue, fresh_restart); multiplies the example's
    own weight. Kinds not named weigh 1."""
    save_steps: int | None = Field(None, ge=1)
    """Steps between two checkpoints; None: ten checkpoints per run, at least ten steps apart."""
    trl: dict[str, Any] = Field(default_factory=dict)
    """Further options of TRL's SFTConfig (DPOConfig for pairs, KTOConfig for kto); an unknown one, one that this spec
    already decides, or one that our trainers override, is an error."""
    deepspeed: dict[str, Any] = Field(default_factory=dict)
    """Merged into DeepSpeed's configuration; an unknown key is an error."""

    @model_validator(mode="before")
    @classmethod
    def _fill_preset(cls, data: Any) -> Any:
        return apply_preset(data) if isinstance(data, Mapping) else data

    @model_validator(mode="after")
    def _check(self) -> Self:
        if any(weight < 0 for weight in self.loss_weights.values()):
            raise ValueError(f"loss_weights must not be negative, seen: {self.loss_weights}")
        if self.loss_weights and self.objective != "sft":
            raise ValueError(
                f"loss_weights do not apply to {self.objective}: TRL's loss is a plain mean over its rows; "
                "set loss_weights = {} in the [arm_training] of their arm"
            )
        if self.template == "plain" and self.template_arguments:
            raise ValueError(
                f"template = 'plain' takes no arguments, seen: template_arguments = {self.template_arguments}. Take "
                "them out, or set template = 'chat'"
            )
        if wrong := [name for name in self.template_arguments if not name.isidentifier()]:
            raise ValueError(f"template_arguments holds the name {wrong[0]!r}: expected a name as 'enable_thinking'")
        dt.date.fromisoformat(self.template_date)
        return self

    def identity(self) -> dict[str, Any]:
        """Return the part that decides the weights.

        ``save_steps`` only decides how often they are saved; ``match_steps`` has become ``max_steps`` by then.
        """
        no_identity = {"preset", "save_steps", "match_steps", *self._unchanged()}
        plain = self.model_dump(mode="json", exclude=no_identity)
        # Adapters were merged in bf16 before, and those of qlora into weights that they were not trained on.
        merged = {} if self.method == "full" else {"merge": "float32"}
        unused = {"adapter"} if self.method == "full" else set()
        unused |= {"beta"} if self.objective == "sft" else set()
        return {name: value for name, value in plain.items() if name not in unused} | merged

    def tokens_identity(self) -> dict[str, Any]:
        """Return the part that decides the tokenised examples, but for the tokenizer of ``base``."""
        decides = {"objective", "template", "max_length", "loss_weights", *_FORMAT_OPTIONS}
        return self.model_dump(mode="json", include=decides - self._unchanged())

    def _unchanged(self) -> set[str]:
        """Return the options of the format that are as they were before there was a choice: identities stay."""
        return {name for name in _FORMAT_OPTIONS if getattr(self, name) == getattr(_DEFAULTS, name)}

    @property
    def starts_from_arm(self) -> str | None:
        """Return the arm whose model this run starts from; None where ``base`` is a model."""
        return arm_named(self.base)

    def steps(self, examples: int) -> int:
        """Return the number of optimiser steps over ``examples`` examples; the last one may be smaller."""
        if self.max_steps is not None:
            return self.max_steps
        return max(1, -(-round(examples * self.epochs) // self.batch_size))

    def save_every(self, steps: int) -> int:
        """Return after how many steps a checkpoint is written."""
        return self.save_steps or max(10, -(-steps // 10))

    def checkpoints(self, steps: int) -> int:
        """Return how many checkpoints a run of ``steps`` steps writes; the last step has one."""
        return -(-steps // self.save_every(steps))


_FORMAT_OPTIONS = ("template_arguments", "template_date", "thinking")
_DEFAULTS = TrainingSpec()


class LaunchSpec(BaseModel):
    """Where and how a run is computed. None of it is identity: results agree up to rounding."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    ranks: int | None = Field(None, ge=1)
    """Processes on this machine; None: one per GPU; without GPUs one per core, but at most two."""
    zero_stage: Literal[0, 1, 2, 3] = 2
    offload_optimizer: bool = False
    offload_parameters: bool = False
    micro_batch_tokens: int = Field(4096, ge=1)
    """Tokens, padding included, that one rank computes at a time; steps are split until every piece fits."""
    attention: Literal["auto", "sdpa", "eager", "flash_attention_2", "flex_attention"] = "auto"
    """auto: flash_attention_2 where it is installed and there is a GPU, else sdpa."""
    gradient_checkpointing: bool | None = None
    """None: on GPUs only."""
    threads: int | None = Field(None, ge=1)
    """CPU threads a rank; None: the cores shared out."""
    nodes: int = Field(1, ge=1)
    node_rank: int = Field(0, ge=0)
    """This node's number, where torchrun is started by hand on each."""
    rendezvous: str | None = Field(None, pattern=r"^[^\s/]+:\d+$")
    """``host:port`` of node 0, needed with several nodes."""
    through: tuple[str, ...] = ()
    """Words before torchrun's command that start it on every node, such as ["srun", "--ntasks-per-node=1"]."""
    hostfile: str | None = None
    """A DeepSpeed hostfile (``host slots=8`` a line): DeepSpeed's own launcher starts the run on all its hosts."""
    hostfile_launcher: Literal["pdsh", "openmpi", "mpich", "impi", "mvapich", "slurm"] = "pdsh"
    """How DeepSpeed's launcher reaches the hosts."""
    environment: tuple[str, ...] = ()
    """Names of environment variables that training runs get beside the usual ones and HF_TOKEN and WANDB_API_KEY."""
    trackers: tuple[Tracker, ...] = ()
    """Where the figures of each step go besides Parquet and the UI; the package has to be installed."""
    keep_checkpoints: int = Field(2, ge=2)
    """At least two, so that one is complete while the next is written."""
    keep_weights: bool = False
    """Keep the weights of every checkpoint until the end, to choose among them; [selection] sets it."""
    peak_tflops: float | None = Field(None, gt=0)
    """Of one device at the run's precision; where given, the model FLOPs utilisation (MFU) is reported."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.nodes > 1 and not (self.rendezvous or self.hostfile):
            raise ValueError("several nodes need rendezvous = 'host:port' of node 0, or a hostfile")
        if self.offload_parameters and self.zero_stage != 3:
            raise ValueError(
                "offload_parameters needs zero_stage = 3: other stages keep whole parameters on the device"
            )
        return self


def arm_named(model: str) -> str | None:
    """Return the arm of ``arm:NAME``; None where a model is named in another way."""
    return model.removeprefix(_ARM) if model.startswith(_ARM) else None


def check_starts(arms: Mapping[str, TrainingSpec]) -> None:
    """Refuse an arm that starts from the model of an arm that is not trained before it; arms in the order of training.

    Raises:
        ValueError: one does.
    """
    before: set[str] = set()
    for arm, spec in arms.items():
        start = spec.starts_from_arm
        # The rounds' own models are made first, while questions still evolve.
        if start is not None and (start not in before or arm.startswith("round_")):
            raise ValueError(
                f"arm {arm!r} starts from {start!r}: name an arm that stands before it in mixture.arms "
                "(a round's arm is trained before all others)"
            )
        before.add(arm)


def dump_specs(spec: TrainingSpec, launch: LaunchSpec) -> str:
    """Return both specs as the JSON text that ``lema_core.training.sft --spec`` reads."""
    both = {"training": spec.model_dump(mode="json"), "launch": launch.model_dump(mode="json")}
    return json.dumps(both, sort_keys=True, indent=1)


def load_specs(text: str) -> tuple[TrainingSpec, LaunchSpec]:
    """Read what ``dump_specs`` wrote; ``launch`` may be left out."""
    raw = json.loads(text)
    return TrainingSpec.model_validate(raw["training"]), LaunchSpec.model_validate(raw.get("launch", {}))
