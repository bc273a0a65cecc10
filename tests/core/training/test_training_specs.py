import json
import os
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from lema_core.errors import ConfigError
from lema_core.training import LaunchSpec, TrainingSpec
from lema_core.training.estimate import PAPER_SHAPES, estimate
from lema_core.training.events import parse
from lema_core.training.launch import clean_environment, launcher
from lema_core.training.options import check_overrides, deepspeed_options, sft_options
from lema_core.training.specs import dump_specs, load_specs, paper_preset

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


def test_the_papers_settings() -> None:
    qlora = TrainingSpec(base=LLAMA_70B, **paper_preset("math", 70, "qlora"))
    assert (qlora.learning_rate, qlora.batch_size, qlora.max_steps, qlora.max_length) == (1e-4, 96, 2000, 1536)
    assert (qlora.adapter.rank, qlora.adapter.alpha, qlora.adapter.dropout) == (64, 16, 0.05)
    full = TrainingSpec(base=LLAMA_70B, **paper_preset("gsm8k", 70, "full"))
    assert (full.learning_rate, full.batch_size, full.epochs) == (1e-5, 128, 3)
    assert paper_preset("gsm8k", 7, "qlora")["learning_rate"] == 2e-4
    with pytest.raises(ConfigError, match="no preset"):
        paper_preset("chess", 7, "full")


@pytest.mark.parametrize(
    ("section", "given", "said"),
    [
        ("trl", {"learning_rat": 1}, "did you mean 'learning_rate'"),
        ("trl", {"learning_rate": 1}, "decided by the training section"),
        ("deepspeed", {"zero_optimisation": {}}, "did you mean 'zero_optimization'"),
    ],
)
def test_an_option_that_nobody_knows_is_an_error(section: str, given: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        check_overrides(TrainingSpec.model_validate({section: given}))


def test_options_of_trl_and_deepspeed_arrive() -> None:
    spec = TrainingSpec(trl={"adam_beta2": 0.95}, deepspeed={"zero_optimization": {"overlap_comm": True}})
    made = sft_options(spec, LaunchSpec(zero_stage=3), 10, 2, Path("out"), bf16=True)
    assert made["adam_beta2"] == 0.95
    zero = made["deepspeed"]["zero_optimization"]
    assert zero == {"stage": 3, "stage3_gather_16bit_weights_on_model_save": True, "overlap_comm": True}
    offload = deepspeed_options(TrainingSpec(), LaunchSpec(offload_optimizer=True), bf16=True)
    assert offload["zero_optimization"]["offload_optimizer"]["device"] == "cpu"


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
    assert many[many.index("--rdzv-endpoint") + 1] == "host:29400"
    assert launcher(LaunchSpec(hostfile="hosts")) == ["deepspeed", "--hostfile", "hosts", "--module"]


def test_the_size_and_memory_of_the_papers_largest_runs() -> None:
    assert PAPER_SHAPES[LLAMA_70B].parameters() == 68_976_648_192
    qlora = TrainingSpec(base=LLAMA_70B, **paper_preset("gsm8k", 70, "qlora"))
    small = estimate(qlora, LaunchSpec(ranks=4, peak_tflops=312), 44_944, 230, 4)
    assert 35 * 2**30 < small.device_bytes < 80 * 2**30
    assert small.trained_parameters == 828_375_040
    full = TrainingSpec(base=LLAMA_70B, **paper_preset("gsm8k", 70, "full"))
    launch = LaunchSpec(ranks=8, nodes=8, rendezvous="host:1", zero_stage=3)
    large = estimate(full, launch, 44_944, 230, 8)
    assert 18 * 2**30 < large.device_bytes < 80 * 2**30
    assert large.hours is None


def test_only_our_events_are_events() -> None:
    assert parse('{"event": "step", "step": 1}\n') == {"event": "step", "step": 1}
    assert parse("{'loss': 1.0}") is None
    assert parse('{"event": torn') is None
