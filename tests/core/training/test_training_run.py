"""Real runs: torchrun, DeepSpeed, gloo, two CPU ranks, a model of some thousand weights."""

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pyarrow.parquet as pq
import pytest

from lema_core.errors import TrainingError
from lema_core.training import LaunchSpec, TrainingResult, TrainingSpec, run_training
from lema_core.training.checkpoints import MARKER

Event = dict[str, Any]


def spec_of(base: str, **changes: Any) -> TrainingSpec:
    fields: dict[str, Any] = {
        "base": base,
        "max_steps": 20,
        "batch_size": 8,
        "learning_rate": 5e-3,
        "precision": "fp32",
        "save_steps": 5,
    }
    return TrainingSpec(**fields | changes)


def losses(result: TrainingResult) -> list[float]:
    table = pq.read_table(result.metrics).to_pydict()
    assert table["step"] == list(range(1, len(table["step"]) + 1))
    return list(table["loss"])


async def run(
    spec: TrainingSpec, mixture: Path, out: Path, ranks: int, stage: int, **launch: Any
) -> tuple[TrainingResult, list[Event]]:
    events: list[Event] = []
    made = LaunchSpec(ranks=ranks, zero_stage=stage, threads=1, **launch)
    return await run_training(spec, made, mixture, out, events.append), events


def assert_loads_and_generates(folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    ids = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Question: 3 + 4?"}], add_generation_prompt=True, return_tensors="pt"
    )["input_ids"]
    with torch.no_grad():
        made = model.generate(ids, max_new_tokens=4, do_sample=False)
    assert made.shape[1] > ids.shape[1]


@pytest.fixture(scope="module")
async def alone(tiny_base: str, mixture: Path, tmp_path_factory: pytest.TempPathFactory) -> list[float]:
    result, _ = await run(spec_of(tiny_base), mixture, tmp_path_factory.mktemp("alone"), ranks=1, stage=0)
    return losses(result)


@pytest.mark.slow
async def test_two_ranks_under_zero_2_give_one_process_losses(
    tiny_base: str, mixture: Path, tmp_path: Path, alone: list[float]
) -> None:
    result, events = await run(spec_of(tiny_base), mixture, tmp_path, ranks=2, stage=2)
    assert losses(result) == pytest.approx(alone, abs=1e-4)
    assert result.start["ranks"] == 2
    assert alone[-1] < alone[0] - 1
    assert [e["step"] for e in events if e["event"] == "step"] == list(range(1, 21))
    assert_loads_and_generates(result.model)


@pytest.mark.slow
async def test_kill_9_and_the_same_command_give_the_undisturbed_losses(
    tiny_base: str, mixture: Path, tmp_path: Path, alone: list[float]
) -> None:
    first: list[Event] = []

    def kill_a_rank(event: Event) -> None:
        first.append(event)
        if event["event"] == "step" and event["step"] == 8:
            os.kill(_ranks()[-1], signal.SIGKILL)

    launch = LaunchSpec(ranks=2, threads=1)
    with pytest.raises(TrainingError, match="goes on from the newest checkpoint"):
        await run_training(spec_of(tiny_base), launch, mixture, tmp_path, kill_a_rank)
    assert not _ranks()
    result, events = await run(spec_of(tiny_base), mixture, tmp_path, ranks=2, stage=2)
    assert result.start["resumed_from"] == "checkpoint-5"
    assert losses(result) == pytest.approx(alone, abs=1e-4)
    assert next(e["step"] for e in events if e["event"] == "step") == 6


@pytest.mark.slow
async def test_a_cancelled_run_leaves_no_process_and_no_torn_checkpoint_counts(
    tiny_base: str, mixture: Path, tmp_path: Path
) -> None:
    going = asyncio.Event()

    def wait_for_step(event: Event) -> None:
        if event["event"] == "step":
            going.set()

    task = asyncio.create_task(
        run_training(
            spec_of(tiny_base, max_steps=5000), LaunchSpec(ranks=2, threads=1), mixture, tmp_path, wait_for_step
        )
    )
    await asyncio.wait_for(going.wait(), 200)
    assert len(_ranks()) == 2
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not _ranks()


PARENT = """
import asyncio, sys
from pathlib import Path
from lema_core.training import LaunchSpec, TrainingSpec, run_training
spec = TrainingSpec(base=sys.argv[1], max_steps=5000, batch_size=8, precision="fp32")
told = lambda event: print(event["event"], flush=True)
asyncio.run(run_training(spec, LaunchSpec(ranks=2, threads=1), Path(sys.argv[2]), Path(sys.argv[3]), told))
"""


@pytest.mark.slow
def test_kill_9_of_the_process_that_started_it_ends_the_ranks_too(
    tiny_base: str, mixture: Path, tmp_path: Path
) -> None:
    command = [sys.executable, "-c", PARENT, tiny_base, str(mixture), str(tmp_path)]
    parent = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    while parent.stdout.readline().strip() != "step":
        assert parent.poll() is None
    group = psutil.Process(parent.pid).children(recursive=True)
    assert len(group) >= 3
    parent.kill()
    _, alive = psutil.wait_procs(group, timeout=60)
    assert not alive


@pytest.mark.slow
async def test_a_loss_that_is_not_a_number_ends_with_a_clear_error(
    tiny_base: str, mixture: Path, tmp_path: Path
) -> None:
    spec = spec_of(tiny_base, learning_rate=1e30, max_grad_norm=1e30, max_steps=10)
    with pytest.raises(TrainingError, match=r"diverged at step \d+.*learning_rate"):
        await run(spec, mixture, tmp_path, ranks=1, stage=0)


@pytest.mark.slow
@pytest.mark.skipif("LEMA_ALL_TESTS" not in os.environ, reason="several minutes: set LEMA_ALL_TESTS=1")
@pytest.mark.parametrize("method", ["full", "lora"])
@pytest.mark.parametrize("stage", [1, 2, 3])
async def test_every_zero_stage_gives_one_process_losses_and_whole_weights(
    tiny_base: str, mixture: Path, tmp_path: Path, stage: int, method: str
) -> None:
    spec = spec_of(tiny_base, method=method, adapter={"rank": 4, "dropout": 0.0})
    expected, _ = await run(spec, mixture, tmp_path / "one", ranks=1, stage=0)
    seen, _ = await run(spec, mixture, tmp_path / "two", ranks=2, stage=stage)
    assert losses(seen) == pytest.approx(losses(expected), abs=1e-4)
    _assert_same_weights(expected.model, seen.model)
    assert_loads_and_generates(seen.model)


def _assert_same_weights(first: Path, second: Path) -> None:
    from safetensors.torch import load_file

    one, two = load_file(first / "model.safetensors"), load_file(second / "model.safetensors")
    assert one.keys() == two.keys()
    for name, tensor in one.items():
        assert (tensor.float() - two[name].float()).abs().max() < 2e-2, name


def _ranks() -> list[int]:
    """Return the process ids of the ranks that descend from this test."""
    children = psutil.Process().children(recursive=True)
    return [
        c.pid for c in children if "lema_core.training.sft" in c.cmdline() and "--nproc-per-node" not in c.cmdline()
    ]


def test_a_checkpoint_without_its_marker_does_not_count(tmp_path: Path) -> None:
    from lema_core.training.checkpoints import complete_checkpoints, remove_torn

    for step in (5, 10, 15):
        (tmp_path / f"checkpoint-{step}").mkdir()
    for step in (5, 10):
        (tmp_path / f"checkpoint-{step}" / MARKER).touch()
    assert [p.name for p in complete_checkpoints(tmp_path)] == ["checkpoint-5", "checkpoint-10"]
    assert remove_torn(tmp_path) == ["checkpoint-15"]
