"""What a training run cannot be, told from its specs alone: nothing is loaded, no training library is needed."""

from collections.abc import Mapping
from typing import Any

from lema_core.errors import ConfigError
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
    "length_column_name num_train_epochs padding_free parallelism_config train_sampling_strategy",
    _TOKENS: "dataset_num_proc pad_to_multiple_of pad_token truncation_mode",
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
    _ORDER: "packing packing_strategy shuffle_dataset",
    _TOKENS: "assistant_only_loss chat_template_path completion_only_loss dataset_text_field eos_token eval_packing",
    _LOSS: "loss_type router_aux_loss_coef",
}
_OF_DPO: Mapping[str, str] = {_ORDER: "precompute_ref_batch_size precompute_ref_log_probs"}
_TORCH_ADAMW = ("adamw_torch", "adamw_torch_fused")


def overridden(objective: Objective) -> dict[str, str]:
    """Return by name the options of TRL that change nothing here, or break the run, and why."""
    groups = (_EVERY, _OF_SFT if objective == "sft" else _OF_DPO)
    return {name: why for group in groups for why, names in group.items() for name in names.split()}


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


def check_options(spec: TrainingSpec) -> None:
    """Refuse options of TRL and DeepSpeed that another setting, or our trainers, decide.

    Raises:
        ConfigError: there is one.
    """
    refused = overridden(spec.objective)
    for name in spec.trl:
        if name in refused:
            raise ConfigError(f"trl.{name} has no place in training by {spec.objective}: {refused[name]}. Take it out")
    zero: Any = spec.deepspeed.get("zero_optimization")
    if isinstance(zero, Mapping) and "stage" in zero:
        raise ConfigError("deepspeed.zero_optimization.stage is decided by launch.zero_stage: set it there")
