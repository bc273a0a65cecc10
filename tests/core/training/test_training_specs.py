import json
import os
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from lema_core.artifacts import ArtifactRef
from lema_core.errors import ConfigError, MissingDependencyError
from lema_core.run.files import read_run_file
from lema_core.run.spec import RunSpec
from lema_core.stages.training import Tokens, Training
from lema_core.training import LaunchSpec, TrainingSpec
from lema_core.training.estimate import PAPER_SHAPES, TrainingEstimate, estimate
from lema_core.training.launch import clean_environment, launcher
from lema_core.training.options import check_machine, check_overrides, deepspeed_options, trl_options
from lema_core.training.program import parse_event
from lema_core.training.specs import dump_specs, load_specs

RUNS = Path(__file__).parents[3] / "deployments" / "runs"
LLAMA_70B = "meta-llama/Llama-2-70b-hf"


def test_how_often_it_is_saved_and_an_unused_adapter_are_no_identity() -> None:
    plain = TrainingSpec().identity()
    assert TrainingSpec(save_steps=7).identity() == plain
    assert TrainingSpec.model_validate({"adapter": {"rank": 2}}).identity() == plain
    assert TrainingSpec(seed=1).identity() != plain
    assert TrainingSpec.model_validate({"method": "lora", "adapter": {"rank": 2}}).identity() != plain
    json.dumps(plain)


def test_specs_survive_the_file_between_the_processes() -> None:
    both = (TrainingSpec(max_steps=3, loss_weights={"cot": 0.5}), LaunchSpec(zero_stage=3, trackers=("trackio",)))
    assert load_specs(dump_specs(*both)) == both


def papers(name: str) -> TrainingSpec:
    spec = read_run_file(RUNS / f"llama2_70b_{name}.toml").training
    assert isinstance(spec, TrainingSpec)
    return spec


def test_the_papers_settings() -> None:
    qlora, full = papers("qlora"), papers("full")
    assert (qlora.learning_rate, qlora.batch_size, qlora.max_steps, qlora.max_length) == (1e-4, 96, 2000, 1024)
    assert (qlora.adapter.rank, qlora.adapter.alpha, qlora.adapter.dropout) == (64, 16, 0.05)
    assert (full.learning_rate, full.batch_size, full.epochs) == (1e-5, 128, 3)


@pytest.mark.parametrize(
    ("section", "given", "said"),
    [
        ("trl", {"learning_rat": 1}, "did you mean 'learning_rate'"),
        ("trl", {"learning_rate": 1}, "decided by the training section"),
        ("deepspeed", {"zero_optimisation": {}}, "did you mean 'zero_optimization'"),
        ("deepspeed", {"zero_optimization": {"overlap_com": True}}, r"zero_optimization\.overlap_com"),
    ],
)
def test_an_option_that_nobody_knows_is_an_error(section: str, given: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        check_overrides(TrainingSpec.model_validate({section: given}))


def test_options_of_trl_and_deepspeed_arrive() -> None:
    spec = TrainingSpec(trl={"adam_beta2": 0.95}, deepspeed={"zero_optimization": {"overlap_comm": True}})
    made = trl_options(spec, LaunchSpec(zero_stage=3), 10, 2, Path("out"), bf16=True)
    assert made["adam_beta2"] == 0.95
    zero = made["deepspeed"]["zero_optimization"]
    assert zero == {"stage": 3, "stage3_gather_16bit_weights_on_model_save": True, "overlap_comm": True}
    offload = deepspeed_options(TrainingSpec(), LaunchSpec(offload_optimizer=True), bf16=True)
    assert offload["zero_optimization"]["offload_optimizer"]["device"] == "cpu"


def test_activations_are_recomputed_on_gpus_unless_the_run_file_says_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    def seen(given: bool | None) -> bool:
        launch = LaunchSpec(gradient_checkpointing=given)
        return bool(trl_options(TrainingSpec(), launch, 1, 1, Path("out"), bf16=False)["gradient_checkpointing"])

    for gpu in (True, False):
        monkeypatch.setattr(torch.cuda, "is_available", lambda there=gpu: there)
        assert [seen(None), seen(True), seen(False)] == [gpu, True, False]


def test_what_cannot_work_is_refused_when_the_run_file_is_read() -> None:
    with pytest.raises(ValidationError, match="zero_stage = 3"):
        LaunchSpec(offload_parameters=True)
    with pytest.raises(ValidationError, match="rendezvous"):
        LaunchSpec(nodes=2)
    with pytest.raises(ValidationError, match="epoch"):
        TrainingSpec.model_validate({"epoch": 3})


def test_keys_of_model_providers_do_not_reach_the_ranks() -> None:
    given = {"OPENAI_API_KEY": "k", "MY_PASSWORD": "p", "HF_TOKEN": "h", "PATH": os.environ["PATH"], "RANK": "3"}
    kept = clean_environment(given, LaunchSpec(ranks=1))
    assert {"OPENAI_API_KEY", "MY_PASSWORD", "RANK"}.isdisjoint(kept)
    assert kept["HF_TOKEN"] == "h"


def test_the_launcher_follows_nodes_and_hostfile() -> None:
    assert launcher(LaunchSpec(ranks=2))[:2] == [sys.executable, "-m"]
    assert "--standalone" in launcher(LaunchSpec(ranks=2))
    many = launcher(LaunchSpec(ranks=8, nodes=4, node_rank=1, rendezvous="host:29400"))
    words = ["--nproc-per-node", "8", "--nnodes", "4", "--node-rank", "1"]
    assert many[3:] == [*words, "--master-addr", "host", "--master-port", "29400", "-m"]
    slurm = launcher(LaunchSpec(ranks=8, nodes=2, rendezvous="host:29400", through=("srun", "--ntasks-per-node=1")))
    assert slurm[:4] == ["srun", "--ntasks-per-node=1", sys.executable, "-m"]
    assert slurm[slurm.index("--rdzv-endpoint") + 1] == "host:29400"
    hosts = launcher(LaunchSpec(hostfile="hosts", hostfile_launcher="openmpi"))
    assert hosts[1:] == ["-m", "deepspeed.launcher.runner", "--hostfile", "hosts", "--launcher", "openmpi", "--module"]


@pytest.mark.parametrize(
    ("text", "said"),
    [(None, "no such file"), ("", "names no host"), ("a slots=8\nb\n", "the line 'b'"), ("a slots=0", "slots=0")],
)
def test_a_hostfile_that_deepspeed_would_pass_over_is_refused(tmp_path: Path, text: str | None, said: str) -> None:
    file = tmp_path / "hosts"
    if text is not None:
        file.write_text(text)
    with pytest.raises(ConfigError, match=said):
        check_machine(TrainingSpec(), LaunchSpec(hostfile=str(file)))


def test_offload_and_stages_reach_deepspeeds_own_configuration() -> None:
    from deepspeed.runtime.zero.config import DeepSpeedZeroConfig

    launch = LaunchSpec(zero_stage=3, offload_optimizer=True, offload_parameters=True)
    made = deepspeed_options(TrainingSpec(), launch, bf16=True)
    zero = DeepSpeedZeroConfig.model_validate(made["zero_optimization"])
    assert (zero.stage, zero.offload_optimizer.device, zero.offload_param.device) == (3, "cpu", "cpu")
    assert zero.gather_16bit_weights_on_model_save
    assert made["bf16"] == {"enabled": True}
    for stage in (1, 2):
        plain = deepspeed_options(TrainingSpec(), LaunchSpec(zero_stage=stage), bf16=False)["zero_optimization"]
        assert DeepSpeedZeroConfig.model_validate(plain).offload_optimizer is None


def test_the_size_and_memory_of_the_papers_largest_runs() -> None:
    assert PAPER_SHAPES[LLAMA_70B].parameters() == 68_976_648_192
    qlora, full = papers("qlora"), papers("full")
    small = estimate(qlora, LaunchSpec(ranks=4, peak_tflops=312), 44_944, 230, 4)
    assert 35 * 2**30 < small.device_bytes < 80 * 2**30
    assert small.trained_parameters == 828_375_040
    launch = LaunchSpec(ranks=8, nodes=8, rendezvous="host:1", zero_stage=3)
    large = estimate(full, launch, 44_944, 230, 8)
    assert 18 * 2**30 < large.device_bytes < 80 * 2**30
    assert large.hours is None


def test_the_reference_of_dpo_is_counted() -> None:
    weights, steps = 2 * PAPER_SHAPES[LLAMA_70B].parameters(), {"max_steps": 10, "base": LLAMA_70B}

    def seen(stage: Any, **changes: Any) -> tuple[TrainingEstimate, TrainingEstimate]:
        offload = changes.pop("offload_parameters", False)
        launch = LaunchSpec(zero_stage=stage, ranks=8, peak_tflops=312, offload_parameters=offload)
        specs = (TrainingSpec(objective=name, **steps, **changes) for name in ("sft", "dpo"))
        sft, dpo = (estimate(spec, launch, 1000, 400, 8) for spec in specs)
        return sft, dpo

    for stage, share in ((1, 1), (2, 1), (3, 8)):
        sft, dpo = seen(stage)
        assert dpo.device_bytes - sft.device_bytes == weights // share
        assert dpo.hours == pytest.approx(sft.hours * 10 / 8)
    sft, dpo = seen(3, offload_parameters=True)
    assert (dpo.device_bytes, dpo.host_bytes) == (sft.device_bytes, sft.host_bytes + weights)
    sft, dpo = seen(2, method="lora")
    assert dpo.device_bytes == sft.device_bytes, "the base without its adapter is the reference"
    assert dpo.hours == pytest.approx(sft.hours * 8 / 6)


def test_only_our_events_are_events() -> None:
    assert parse_event('{"event": "step", "step": 1}\n') == {"event": "step", "step": 1}
    assert parse_event("{'loss': 1.0}") is None
    assert parse_event('{"event": torn') is None


def test_qlora_and_absent_trackers_are_refused_before_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import importlib.util

    hosts = tmp_path / "hosts"
    hosts.write_text("# two\nnode1 slots=8\nnode2 slots=8\n")
    check_machine(TrainingSpec(method="qlora"), LaunchSpec(hostfile=str(hosts)))
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(MissingDependencyError, match=r"pip install .*bitsandbytes"):
        check_machine(TrainingSpec(method="qlora"), LaunchSpec())
    with pytest.raises(MissingDependencyError, match="pip install wandb"):
        check_machine(TrainingSpec(), LaunchSpec(trackers=("wandb",)))


def test_a_preset_gives_the_papers_settings_and_what_is_given_wins() -> None:
    paper, own = TrainingSpec(preset="paper_qlora"), TrainingSpec(preset="paper_qlora", learning_rate=2e-4)
    assert (paper.method, paper.schedule, paper.max_grad_norm, paper.batch_size) == ("qlora", "constant", 0.3, 96)
    assert (paper.adapter.rank, paper.adapter.alpha, paper.adapter.dropout) == (64, 16, 0.05)
    assert paper.adapter.target_modules == "all-linear"
    assert own == paper.model_copy(update={"learning_rate": 2e-4})
    written_out = TrainingSpec.model_validate(own.model_dump())
    assert written_out == own
    assert written_out.identity() == own.identity()
    assert "preset" not in own.identity()
    run = RunSpec.model_validate(
        tomllib.loads(ARMS_OF_A_RUN + "[arm_training.lema]\npreset = 'paper_full'\nbatch_size = 7")
    )
    lema = run.training_of("lema")
    assert (lema.learning_rate, lema.batch_size, lema.max_grad_norm) == (1e-5, 7, 0.3)
    with pytest.raises(ValueError, match="preset"):
        TrainingSpec.model_validate({"preset": "papers_qlora"})


ARMS_OF_A_RUN = """
name = "arms"
[questions]
task = "arithmetic"
[mixture]
arms = ["lema", "step_dpo"]
[training]
learning_rate = 1e-5
[arm_training.step_dpo]
base = "arm:lema"
learning_rate = 5e-7
beta = 0.5
"""


def test_an_arm_of_pairs_is_trained_by_dpo_on_the_model_of_another_arm() -> None:
    run = RunSpec.model_validate(tomllib.loads(ARMS_OF_A_RUN))
    dpo = run.training_of("step_dpo")
    assert (dpo.objective, dpo.learning_rate, dpo.beta, dpo.starts_from_arm) == ("dpo", 5e-7, 0.5, "lema")
    assert run.training_of("lema") == run.training
    made = ArtifactRef("training", "f00d")
    tokens, another = ArtifactRef("tokens", "t"), ArtifactRef("training", "beef")
    assert Training(dpo, "step_dpo", tokens, made).ref != Training(dpo, "step_dpo", tokens, another).ref
    assert TrainingSpec(beta=0.3).identity() == TrainingSpec().identity(), "sft has no beta"
    mixture = ArtifactRef("mixture", "m")
    assert Tokens(TrainingSpec(seed=1, learning_rate=1), "a", mixture).ref == Tokens(TrainingSpec(), "a", mixture).ref


@pytest.mark.parametrize(
    ("written", "said"),
    [
        (ARMS_OF_A_RUN.replace('["lema", "step_dpo"]', '["step_dpo", "lema"]'), "stands before it"),
        (ARMS_OF_A_RUN.replace("arm_training.step_dpo", "arm_training.step_dp"), "step_dp"),
        (ARMS_OF_A_RUN.replace("beta =", "beata ="), "beata"),
    ],
)
def test_what_an_arm_cannot_be_trained_by_is_refused(written: str, said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        RunSpec.model_validate(tomllib.loads(written))
