"""From our specs to the options of TRL and DeepSpeed, and what is refused before anything is paid or loaded."""

import dataclasses
import importlib.util
import inspect
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lema_core.errors import ConfigError, MissingDependencyError
from lema_core.training.specs import LaunchSpec, Objective, TrainingSpec, check_starts

_ORDER = "which examples a step computes, in which order and micro-batches, is planned beforehand"
_TOKENS = "the examples are tokens already, with exact masks"
_LOSS = "the loss of a step is our own"
_MODEL = "the base model is loaded by our own code"
_ASKED = "models are evaluated through an endpoint, after training"
_KEPT = "which checkpoints there are, and where a run goes on, is decided by save_steps and [launch]"
_PLACE = "precision, processes and recomputation are decided by [training].precision and [launch]"
_EVERY: Mapping[str, str] = {
    _ORDER: "accelerator_config auto_find_batch_size data_seed dataloader_drop_last dataloader_in_order "
    "dataloader_multiprocessing_context dataloader_persistent_workers dataloader_prefetch_factor ignore_data_skip "
    "length_column_name num_train_epochs parallelism_config train_sampling_strategy",
    _TOKENS: "dataset_num_proc pad_to_multiple_of",
    _LOSS: "average_tokens_across_devices label_smoothing_factor use_cache",
    _MODEL: "model_init_kwargs trust_remote_code",
    _ASKED: "batch_eval_metrics do_eval do_predict do_train eval_accumulation_steps eval_delay eval_do_concat_batches "
    "eval_on_start eval_steps eval_strategy eval_use_gather_object greater_is_better include_for_metrics label_names "
    "load_best_model_at_end metric_for_best_model per_device_eval_batch_size prediction_loss_only",
    _KEPT: "enable_jit_checkpoint hub_always_push hub_model_id hub_private_repo hub_revision hub_strategy hub_token "
    "logging_first_step logging_strategy push_to_hub restore_callback_states_from_checkpoint resume_from_checkpoint "
    "save_on_each_node save_only_model save_total_limit",
    _PLACE: "activation_checkpointing bf16_full_eval ddp_backend ddp_broadcast_buffers ddp_bucket_cap_mb "
    "ddp_find_unused_parameters ddp_static_graph fp16 fp16_full_eval fsdp fsdp_config local_rank use_cpu",
}
_OF_SFT: Mapping[str, str] = {
    _ORDER: "packing packing_strategy padding_free shuffle_dataset",
    _TOKENS: "assistant_only_loss chat_template_path completion_only_loss dataset_text_field eos_token eval_packing "
    "pad_token truncation_mode",
    _LOSS: "loss_type router_aux_loss_coef",
}
_OF_DPO: Mapping[str, str] = {
    _ORDER: "padding_free precompute_ref_batch_size precompute_ref_log_probs",
    _TOKENS: "pad_token truncation_mode",
}
_OF_KTO: Mapping[str, str] = {_ORDER: "precompute_ref_batch_size precompute_ref_log_probs"}


def overridden_options(objective: Objective) -> dict[str, str]:
    """Return by name the options of TRL that change nothing here, or break the run, and why."""
    groups = (_EVERY, {"sft": _OF_SFT, "dpo": _OF_DPO, "kto": _OF_KTO}[objective])
    return {name: why for group in groups for why, names in group.items() for name in names.split()}


def trl_options(
    spec: TrainingSpec, launch: LaunchSpec, steps: int, pieces: int, out: Path, bf16: bool
) -> dict[str, Any]:
    """Return the keyword arguments of TRL's configuration for a run of ``steps`` steps in ``pieces`` micro-batches.

    It is ``SFTConfig``, or ``DPOConfig`` where the objective is dpo.

    Raises:
        ConfigError: ``trl`` holds an option that it does not know, or one that the spec already decides.
    """
    import torch

    ours: dict[str, Any] = {
        "output_dir": str(out),
        "max_steps": steps,
        "per_device_train_batch_size": 1,  # one item of our data set is a whole micro-batch
        "gradient_accumulation_steps": pieces,
        "learning_rate": spec.learning_rate,
        "lr_scheduler_type": spec.schedule,
        "warmup_steps": round(steps * spec.warmup_ratio) if spec.schedule != "constant" else 0,
        "weight_decay": spec.weight_decay,
        "max_grad_norm": spec.max_grad_norm,
        "seed": spec.seed,
        "bf16": bf16,
        "gradient_checkpointing": (
            torch.cuda.is_available() if launch.gradient_checkpointing is None else launch.gradient_checkpointing
        ),
        "logging_steps": 1,
        "logging_nan_inf_filter": False,  # a NaN must be seen
        "save_strategy": "steps",
        "save_steps": spec.save_every(steps),
        "report_to": list(launch.trackers) or "none",
        "max_length": None,
        "remove_unused_columns": False,
        "dataloader_num_workers": 0,
        "disable_tqdm": True,
        "deepspeed": deepspeed_options(spec, launch, bf16),
    }
    if spec.objective != "sft":
        ours["beta"] = spec.beta
    if spec.objective == "kto":
        # TRL would want several rows per item of the data set, where an item is a whole micro-batch here. Its check is
        # skipped with the loss that needs no mismatched answers; UnpairedTrainer sets the loss to KTO's own.
        ours["loss_type"] = "apo_zero_unpaired"
    if spec.objective == "sft":
        ours["dataset_kwargs"] = {"skip_prepare_dataset": True}  # tokenised already, masks included
    _check_known("trl", spec.trl, {field.name for field in dataclasses.fields(trl_config(spec)) if field.init})
    taken = sorted(set(spec.trl) & set(ours))
    if taken:
        raise ConfigError(f"trl.{taken[0]} is decided by the training section itself: set it there")
    return {"project": "lema", "run_name": out.name} | ours | spec.trl


def trl_config(spec: TrainingSpec) -> Any:
    """Return the class of TRL's configuration for the objective."""
    if spec.objective == "kto":
        from trl.trainer.kto_config import KTOConfig

        return KTOConfig
    if spec.objective == "dpo":
        from trl.trainer.dpo_config import DPOConfig

        return DPOConfig
    from trl.trainer.sft_config import SFTConfig

    return SFTConfig


def deepspeed_options(spec: TrainingSpec, launch: LaunchSpec, bf16: bool) -> dict[str, Any]:
    """Return DeepSpeed's configuration.

    Raises:
        ConfigError: ``deepspeed`` holds a key that DeepSpeed does not know (it would ignore it silently).
    """
    zero: dict[str, Any] = {"stage": launch.zero_stage}
    if launch.zero_stage == 3:
        # Without it save_model writes shards and a script, and no model.safetensors.
        zero["stage3_gather_16bit_weights_on_model_save"] = True
    if launch.offload_optimizer:
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": True}
    if launch.offload_parameters:
        zero["offload_param"] = {"device": "cpu", "pin_memory": True}
    options: dict[str, Any] = {
        "zero_optimization": zero,
        "bf16": {"enabled": bf16},
        "fp16": {"enabled": False},
        "train_micro_batch_size_per_gpu": "auto",
        "gradient_accumulation_steps": "auto",
        "gradient_clipping": "auto",
        "zero_allow_untested_optimizer": True,
        "steps_per_print": 10**9,
    }
    # No "optimizer": transformers then makes torch's AdamW with its groups (no decay of norms and biases), and for
    # offloaded states accelerate makes DeepSpeed's CPU Adam of the same groups.
    _check_known("deepspeed", spec.deepspeed, _deepspeed_keys())
    return _merge(options, spec.deepspeed)


def check_options(spec: TrainingSpec) -> None:
    """Refuse options of TRL and DeepSpeed that another setting, or our trainers, decide.

    Raises:
        ConfigError: there is one.
    """
    refused = overridden_options(spec.objective)
    for name in spec.trl:
        if name in refused:
            raise ConfigError(f"trl.{name} has no place in training by {spec.objective}: {refused[name]}. Take it out")
    zero: Any = spec.deepspeed.get("zero_optimization")
    if isinstance(zero, Mapping) and "stage" in zero:
        raise ConfigError("deepspeed.zero_optimization.stage is decided by launch.zero_stage: set it there")


def check_overrides(spec: TrainingSpec) -> None:
    """Refuse unknown options, also those inside DeepSpeed's ZeRO section, before anything is paid or loaded.

    Raises:
        ConfigError: an option that is unknown or has no place here, or a value of a wrong type.
    """
    check_options(spec)
    if spec.trl or spec.deepspeed:
        made = trl_options(spec, LaunchSpec(), 1, 1, Path("unused"), bf16=False)
        from deepspeed.runtime.zero.config import DeepSpeedZeroConfig
        from pydantic import ValidationError

        try:
            DeepSpeedZeroConfig.model_validate(made["deepspeed"]["zero_optimization"])
        except ValidationError as error:
            seen = error.errors()[0]
            place = ".".join(map(str, ("deepspeed.zero_optimization", *seen["loc"])))
            raise ConfigError(f"{place} = {seen['input']!r}: {seen['msg']}") from error


def _merge(base: dict[str, Any], extra: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in extra.items():
        nested = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merge(merged[key], value) if nested else value
    return merged


def _check_known(section: str, given: dict[str, Any], known: set[str]) -> None:
    import difflib

    for key in given:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ConfigError(f"{section} has no option {key!r}{hint}")


def _deepspeed_keys() -> set[str]:
    """Return DeepSpeed's top-level keys; they are only known as string constants of two of its modules.

    Keys below the top level are checked by DeepSpeed itself, whose sections forbid unknown fields.
    """
    from deepspeed.runtime import constants
    from deepspeed.runtime.zero import config as zero

    named = {value for _, value in inspect.getmembers(constants) if isinstance(value, str) and value.islower()}
    sections = {"flops_profiler", "activation_checkpointing", "comms_logger", "tensorboard", "wandb", "csv_monitor"}
    return named | sections | {zero.ZERO_OPTIMIZATION, "optimizer", "scheduler", "fp16", "bf16"}


_TORCH_ADAMW = ("adamw_torch", "adamw_torch_fused")


def check_arms(arms: Mapping[str, TrainingSpec], launch: LaunchSpec) -> None:
    """Refuse what no arm of a run file can be trained by; arms in the order of training.

    Raises:
        ValueError: an arm starts from a model that is not there yet, or ``check_possible`` refuses its training.
    """
    check_starts(arms)
    for arm, spec in arms.items():
        try:
            check_possible(spec, launch)
        except ConfigError as error:
            raise ValueError(f"the training of the arm {arm!r}: {error}") from error


def check_possible(spec: TrainingSpec, launch: LaunchSpec) -> None:
    """Refuse what would fail late, or would be another run only by its name.

    Raises:
        ConfigError: qlora under ZeRO-3, an option that our trainers override, or an optimiser that cannot be offloaded.
    """
    check_options(spec)
    if spec.method == "qlora" and launch.zero_stage == 3:
        # transformers refuses a device map under ZeRO-3, and bitsandbytes' weights are not sharded by it.
        raise ConfigError(
            "method = 'qlora' with launch.zero_stage = 3: ZeRO-3 cannot share out 4-bit weights. "
            "Set launch.zero_stage = 2, or method = 'lora'"
        )
    optimiser = spec.trl.get("optim", _TORCH_ADAMW[0])
    if launch.offload_optimizer and optimiser not in _TORCH_ADAMW:
        raise ConfigError(
            f"trl.optim = {optimiser!r} with launch.offload_optimizer: on the host DeepSpeed computes AdamW only. "
            "Take one of them out"
        )


_HOST = re.compile(r"\S+\s+slots=[1-9]\d*(\s*#.*)?")


def check_machine(spec: TrainingSpec, launch: LaunchSpec) -> None:
    """Refuse a run that this machine cannot do.

    Raises:
        ConfigError: the specs do not go together, or the hostfile names no hosts.
        MissingDependencyError: a tracker is asked for that is not installed, or qlora without bitsandbytes.
    """
    check_possible(spec, launch)
    for tracker in launch.trackers:
        if importlib.util.find_spec(tracker) is None:
            raise MissingDependencyError(
                f"launch.trackers has {tracker!r}, which is not installed: run `pip install {tracker}`, or take it out"
            )
    if launch.hostfile:
        # DeepSpeed would run on this machine alone, with no more than a line in its log.
        file = Path(launch.hostfile)
        if not file.is_file():
            raise ConfigError(
                f"launch.hostfile = '{file}': there is no such file; expected a line `host slots=8` a node"
            )
        lines = [line for line in map(str.strip, file.read_text().splitlines()) if line and not line.startswith("#")]
        if wrong := [line for line in lines if not _HOST.fullmatch(line)]:
            raise ConfigError(f"{file} has the line {wrong[0]!r}: expected `host slots=8`")
        if not lines:
            raise ConfigError(f"{file} names no host: expected a line `host slots=8` a node")
    # With a hostfile the ranks are on other machines than the one that starts them.
    if spec.method == "qlora" and not launch.hostfile and importlib.util.find_spec("bitsandbytes") is None:
        raise MissingDependencyError(
            "method = 'qlora' needs bitsandbytes: run `pip install -c requirements.lock bitsandbytes`"
        )
