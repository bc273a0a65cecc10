"""What is refused where the run file is read: options without effect, and settings that do not go together."""

import dataclasses
import tomllib
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import ValidationError

from lema_core.errors import ConfigError
from lema_core.run.spec import RunSpec
from lema_core.training import LaunchSpec, TrainingSpec
from lema_core.training.options import (
    check_machine,
    check_options,
    check_overrides,
    deepspeed_options,
    overridden_options,
    trl_config,
    trl_options,
)
from lema_core.training.specs import Objective

# Of TRL's options those that change something here.
ACT = """
activation_checkpointing_kwargs activation_offloading adam_beta1 adam_beta2 adam_epsilon dataloader_pin_memory
ddp_timeout debug full_determinism gradient_checkpointing_kwargs include_num_input_tokens_seen liger_kernel_config
log_level log_level_replica log_on_each_node lr_scheduler_kwargs neftune_noise_alpha optim optim_args
optim_target_modules project run_name skip_memory_metrics tf32 torch_compile torch_compile_backend torch_compile_mode
torch_empty_cache_steps trackio_bucket_id trackio_space_id trackio_static_space_id use_liger_kernel
"""
ACT_IN_KTO = """
desirable_weight disable_dropout ref_model_mixup_alpha ref_model_sync_steps router_aux_loss_coef sync_ref_model
undesirable_weight
"""
ACT_IN_DPO = """
disable_dropout discopop_tau f_alpha_divergence_coef f_divergence_type label_smoothing ld_alpha loss_type loss_weights
ref_model_mixup_alpha ref_model_sync_steps router_aux_loss_coef sync_ref_model use_weighting
"""

RUN = """
name = "checked"
[questions]
task = "arithmetic"
[mixture]
arms = ["lema", "step_dpo"]
[training]
learning_rate = 1e-5
"""


@pytest.mark.parametrize("objective", get_args(Objective))
def test_every_option_of_trl_acts_or_is_ours_or_is_refused(objective: Objective) -> None:
    spec = TrainingSpec(objective=objective)
    known = {field.name for field in dataclasses.fields(trl_config(spec)) if field.init}
    ours = set(trl_options(spec, LaunchSpec(), 1, 1, Path("out"), bf16=False)) - {"project", "run_name"}
    refused = set(overridden_options(objective))
    assert refused <= known - ours
    assert known - ours - refused == set((ACT + {"sft": "", "dpo": ACT_IN_DPO, "kto": ACT_IN_KTO}[objective]).split())


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ("[training.trl]\nloss_type = 'dft'", "arm 'lema'.*trl.loss_type.*our own"),
        ("[training.trl]\nlabel_smoothing_factor = 0.1", "trl.label_smoothing_factor"),
        ("[training.trl]\naverage_tokens_across_devices = false", "trl.average_tokens_across_devices"),
        ("[training.trl]\npacking = true", "trl.packing"),
        ("[training.trl]\ntrain_sampling_strategy = 'group_by_length'", "trl.train_sampling_strategy"),
        ("[arm_training.step_dpo.trl]\nprecompute_ref_log_probs = true", "arm 'step_dpo'.*precompute_ref_log_probs"),
        ("[training.deepspeed.zero_optimization]\nstage = 3", "launch.zero_stage"),
        ("[training.loss_weights]\ncorrections = 0.5", "'correction'"),
        ("[training.loss_weights]\ncorrection = 0.5", "loss_weights do not apply to dpo.*arm_training"),
        ("[arm_training.lema]\nmethod = 'qlora'\n[launch]\nzero_stage = 3", "arm 'lema'.*zero_stage = 2"),
        ("[training.trl]\noptim = 'adafactor'\n[launch]\noffload_optimizer = true", "'adafactor'.*AdamW only"),
    ],
)
def test_it_is_refused_where_the_run_file_is_read(section: str, said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        RunSpec.model_validate(tomllib.loads(f"{RUN}{section}"))


@pytest.mark.parametrize(
    "section",
    [
        "[training.trl]\nneftune_noise_alpha = 5\noptim = 'adafactor'",
        "[arm_training.step_dpo.trl]\nloss_type = ['ipo']",
        "[training.loss_weights]\ncorrection = 0.5\n[arm_training.step_dpo]\nloss_weights = {}",
        "[arm_training.lema]\nmethod = 'qlora'\n[launch]\nzero_stage = 2",
        "[launch]\nzero_stage = 3\noffload_optimizer = true",
    ],
)
def test_what_acts_is_taken(section: str) -> None:
    RunSpec.model_validate(tomllib.loads(f"{RUN}{section}"))


def test_by_hand_it_is_refused_before_the_model_is_loaded() -> None:
    dft = TrainingSpec(trl={"loss_type": "dft"})
    for check in (check_options, check_overrides):
        with pytest.raises(ConfigError, match=r"trl\.loss_type"):
            check(dft)
    with pytest.raises(ConfigError, match="zero_stage = 2"):
        check_machine(TrainingSpec(method="qlora"), LaunchSpec(zero_stage=3))
    with pytest.raises(ConfigError, match=r"trl\.loss_type"):
        check_machine(dft, LaunchSpec())


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_deepspeed_is_given_no_optimiser_of_its_own(stage: Any) -> None:
    """With one, transformers hands over all parameters in one group: norms and biases would decay."""
    launch = LaunchSpec(zero_stage=stage, offload_optimizer=True)
    made = deepspeed_options(TrainingSpec(weight_decay=0.1), launch, bf16=True)
    assert "optimizer" not in made
    assert made["zero_optimization"]["offload_optimizer"]["device"] == "cpu"
