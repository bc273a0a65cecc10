"""Real runs: torchrun, DeepSpeed, gloo, two CPU ranks, a model of some thousand weights."""

import asyncio
import json
import math
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lema_core.errors import TrainingError
from lema_core.training import LaunchSpec, TrainingResult, TrainingSpec, run_on_tokens, run_tokenising, run_training
from lema_core.training.checkpoints import MARKER, complete_checkpoints
from lema_core.training.launch import clean_environment, run_group

Event = dict[str, Any]
ALL = pytest.mark.skipif("LEMA_ALL_TESTS" not in os.environ, reason="several minutes: set LEMA_ALL_TESTS=1")


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


def assert_tensorboard_has(folder: Path, expected: list[float]) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    log = EventAccumulator(str(folder))
    log.Reload()
    assert {"train/loss", "train/learning_rate", "train/grad_norm", "train/tokens_per_second", "train/mfu"} <= set(
        log.Tags()["scalars"]
    )
    assert [point.value for point in log.Scalars("train/loss")] == pytest.approx(expected)


@pytest.fixture(scope="module")
async def alone(tiny_base: str, mixture: Path, tmp_path_factory: pytest.TempPathFactory) -> list[float]:
    result, _ = await run(spec_of(tiny_base), mixture, tmp_path_factory.mktemp("alone"), ranks=1, stage=0)
    return losses(result)


@pytest.mark.slow
async def test_two_ranks_under_zero_2_give_one_process_losses(
    tiny_base: str, mixture: Path, tmp_path: Path, alone: list[float]
) -> None:
    watched: dict[str, Any] = {"trackers": ("tensorboard",), "peak_tflops": 0.001}
    result, events = await run(spec_of(tiny_base), mixture, tmp_path, ranks=2, stage=2, **watched)
    assert losses(result) == pytest.approx(alone, abs=1e-4)
    assert result.start["ranks"] == 2
    assert_tensorboard_has(tmp_path / "tensorboard", losses(result))
    link = next(e["link"] for e in events if e["event"] == "tracker")
    assert link == (tmp_path / "tensorboard").as_uri()
    columns = {"step", "loss", "learning_rate", "grad_norm", "tokens", "tokens_per_second", "mfu"}
    assert columns <= set(pq.read_schema(result.metrics).names)
    assert alone[-1] < alone[0] - 1
    assert [e["step"] for e in events if e["event"] == "step"] == list(range(1, 21))
    assert_loads_and_generates(result.model)


ABORTING = """
import os, sys, time
if os.environ["RANK"] == "1":
    os.write(2, b"terminate called: the rank's own words\\n")
    os.abort()
time.sleep(60)
"""


@pytest.mark.slow
async def test_a_rank_that_aborts_is_named_with_its_last_words(tmp_path: Path) -> None:
    (tmp_path / "aborting.py").write_text(ABORTING)
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
    given = clean_environment(os.environ, LaunchSpec())
    with pytest.raises(TrainingError) as seen:
        await run_group([*command, str(tmp_path / "aborting.py")], tmp_path / "log.txt", given, [].append)
    said = str(seen.value)
    assert said.startswith("rank 1 of the training run was ended by SIGABRT")
    assert said.endswith("terminate called: the rank's own words")
    assert "ChildFailedError" not in said


HELPED = """
import subprocess, sys
subprocess.Popen(["sleep", "30"], start_new_session=True)
print('{"event": "done"}', flush=True)
print("the last line", flush=True)
sys.exit(3)
"""


async def test_a_helper_that_holds_the_output_does_not_hold_up_the_end(tmp_path: Path) -> None:
    events: list[Event] = []
    async with asyncio.timeout(25):
        with pytest.raises(TrainingError, match=r"ended with status 3.*\nthe last line$"):
            await run_group([sys.executable, "-c", HELPED], tmp_path / "log.txt", os.environ, events.append)
    assert events == [{"event": "done"}]


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
    with pytest.raises(TrainingError, match=r"written by 2 ranks under ZeRO 2, but now there are 1 ranks under ZeRO 2"):
        await run(spec_of(tiny_base), mixture, tmp_path, ranks=1, stage=2)
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
import asyncio, json, sys
from pathlib import Path
from lema_core.training import LaunchSpec, TrainingSpec, run_training
spec = TrainingSpec.model_validate_json(sys.argv[1])
told = lambda event: print(json.dumps(event), flush=True)
asyncio.run(run_training(spec, LaunchSpec(ranks=2, threads=1), Path(sys.argv[2]), Path(sys.argv[3]), told))
"""


def start_run(spec: TrainingSpec, mixture: Path, out: Path) -> subprocess.Popen[str]:
    """Start a run in a process of its own, as a Prefect task has one."""
    command = [sys.executable, "-c", PARENT, spec.model_dump_json(), str(mixture), str(out)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def wait_for_step(parent: subprocess.Popen[str], step: int) -> None:
    assert parent.stdout is not None
    for line in parent.stdout:
        event = json.loads(line)
        if event["event"] == "step" and event["step"] == step:
            return
    raise AssertionError(f"the run ended before step {step}")


def kill(victim: str, parent: subprocess.Popen[str]) -> list[psutil.Process]:
    """Kill -9 the victim; return every process of the run."""
    whole = [psutil.Process(parent.pid), *psutil.Process(parent.pid).children(recursive=True)]
    ranks = [process for process in whole if _is_rank(process)]
    assert len(ranks) == 2
    for process in {"a rank": ranks[-1:], "all ranks": ranks, "the task": whole[:1]}[victim]:
        process.kill()
    return whole


def assert_all_end(whole: list[psutil.Process]) -> None:
    _, alive = psutil.wait_procs(whole, timeout=60)
    assert not alive


@pytest.mark.slow
def test_kill_9_of_the_process_that_started_it_ends_the_ranks_too(
    tiny_base: str, mixture: Path, tmp_path: Path
) -> None:
    parent = start_run(spec_of(tiny_base, max_steps=5000), mixture, tmp_path)
    wait_for_step(parent, 1)
    assert_all_end(kill("the task", parent))


@pytest.mark.slow
@ALL
@pytest.mark.parametrize("point", ["before a checkpoint", "between checkpoints", "while one is written"])
@pytest.mark.parametrize("victim", ["a rank", "all ranks", "the task"])
async def test_kill_9_at_any_point_and_the_same_command_give_the_undisturbed_losses(
    tiny_base: str, mixture: Path, tmp_path: Path, alone: list[float], victim: str, point: str
) -> None:
    parent = start_run(spec_of(tiny_base), mixture, tmp_path)
    wait_for_step(parent, {"before a checkpoint": 3, "between checkpoints": 8, "while one is written": 10}[point])
    while point == "while one is written" and not (tmp_path / "checkpoint-10").exists():
        assert parent.poll() is None
    assert_all_end(kill(victim, parent))
    result, events = await run(spec_of(tiny_base), mixture, tmp_path, ranks=2, stage=2)
    at_least = {"before a checkpoint": None, "between checkpoints": "checkpoint-5"}
    if point in at_least:
        assert result.start["resumed_from"] == at_least[point]
    else:
        assert result.start["resumed_from"] in ("checkpoint-5", "checkpoint-10")
    assert losses(result) == pytest.approx(alone, abs=1e-4)
    assert events[-1]["event"] == "done"
    assert not _ranks()


@pytest.mark.slow
@ALL
async def test_two_nodes_give_one_process_losses(
    tiny_base: str, mixture: Path, tmp_path: Path, alone: list[float]
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        meeting = f"127.0.0.1:{free.getsockname()[1]}"
    nodes: list[dict[str, Any]] = [{"nodes": 2, "node_rank": rank, "rendezvous": meeting} for rank in (0, 1)]
    spec, tokens = spec_of(tiny_base), tmp_path / "tokens"
    await run_tokenising(spec, mixture, tokens)
    told: list[Event] = []
    untold: list[Event] = []
    starts = zip(nodes, (told, untold), strict=True)
    launches = [(LaunchSpec(ranks=1, threads=1, zero_stage=3, **node), heard) for node, heard in starts]
    runs = (run_on_tokens(spec, launch, tokens, tmp_path / "out", heard.append) for launch, heard in launches)
    first, _ = await asyncio.gather(*runs)
    assert first.start["ranks"] == 2
    assert losses(first) == pytest.approx(alone, abs=1e-4)
    assert [e["step"] for e in told if e["event"] == "step"] == list(range(1, 21)), "node 0 tells"
    assert not [e for e in untold if e["event"] == "step"]
    assert_loads_and_generates(first.model)


@pytest.mark.slow
@ALL
async def test_a_hostfile_starts_the_ranks_by_deepspeeds_launcher(
    tiny_base: str, mixture: Path, tmp_path: Path, alone: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    # DeepSpeed asks the first host for its address by ssh; the ranks of this machine it starts itself.
    ssh = tmp_path / "bin" / "ssh"
    ssh.parent.mkdir()
    ssh.write_text("#!/bin/sh\necho 127.0.0.1\n")
    ssh.chmod(0o755)
    monkeypatch.setenv("PATH", f"{ssh.parent}:{os.environ['PATH']}")
    hosts = tmp_path / "hosts"
    hosts.write_text("localhost slots=2\n")
    result, _ = await run(spec_of(tiny_base), mixture, tmp_path / "out", ranks=2, stage=2, hostfile=str(hosts))
    assert result.start["ranks"] == 2
    assert losses(result) == pytest.approx(alone, abs=1e-4)


def limit_files(megabytes: float) -> None:
    """Let the ranks write no file beyond a size: to the libraries that is a full disk, but for the system's text."""
    size = int(megabytes * 2**20)
    for pid in _ranks():
        psutil.Process(pid).rlimit(psutil.RLIMIT_FSIZE, (size, size))


@pytest.mark.slow
@ALL
async def test_a_full_disk_while_a_checkpoint_is_written_keeps_the_last_one(
    tiny_base: str, mixture: Path, tmp_path: Path
) -> None:
    def fill(event: Event) -> None:
        if event["event"] == "checkpoint":
            limit_files(0.02)

    spec, launch = spec_of(tiny_base, max_steps=60), LaunchSpec(ranks=2, threads=1)
    with pytest.raises(TrainingError, match=r"disk of .* is full.*Free some space"):
        await run_training(spec, launch, mixture, tmp_path, fill)
    assert not _ranks()
    newest = complete_checkpoints(tmp_path)[-1].name
    result, _ = await run(spec, mixture, tmp_path, ranks=2, stage=2)
    assert result.start["resumed_from"] == newest
    assert_loads_and_generates(result.model)


@pytest.mark.slow
@ALL
async def test_a_full_disk_while_the_model_is_written_keeps_the_last_checkpoint(
    tiny_base: str, mixture: Path, tmp_path: Path
) -> None:
    def fill(event: Event) -> None:
        if event["event"] == "start":
            limit_files(0.05)

    # An adapter's checkpoints are smaller than the model that it is merged into.
    spec = spec_of(tiny_base, max_steps=5, method="lora", adapter={"rank": 1, "target_modules": ("q_proj",)})
    with pytest.raises(TrainingError, match=r"disk of .* is full.*Free some space"):
        await run_training(spec, LaunchSpec(ranks=1, threads=1), mixture, tmp_path, fill)
    assert [path.name for path in complete_checkpoints(tmp_path)] == ["checkpoint-5"]
    assert not (tmp_path / "model").exists()
    result, events = await run(spec, mixture, tmp_path, ranks=1, stage=2)
    assert result.start["resumed_from"] == "checkpoint-5"
    assert not [e for e in events if e["event"] == "step"]
    assert_loads_and_generates(result.model)


@pytest.mark.slow
async def test_a_loss_that_is_not_a_number_ends_with_a_clear_error(
    tiny_base: str, mixture: Path, tmp_path: Path
) -> None:
    spec = spec_of(tiny_base, learning_rate=1e30, max_grad_norm=1e30, max_steps=10)
    with pytest.raises(TrainingError, match=r"diverged at step \d+.*learning_rate"):
        await run(spec, mixture, tmp_path, ranks=1, stage=0)


@pytest.mark.slow
@ALL
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


@pytest.mark.slow
async def test_a_processor_trains_in_bf16(tiny_base: str, mixture: Path, tmp_path: Path, alone: list[float]) -> None:
    result, _ = await run(spec_of(tiny_base, max_steps=3, precision="bf16"), mixture, tmp_path, ranks=1, stage=2)
    assert result.start["precision"] == "bf16"
    assert losses(result)[0] == pytest.approx(alone[0], abs=1e-2)
    assert losses(result)[2] < losses(result)[0]


@pytest.mark.slow
@ALL
async def test_without_zero_a_run_goes_on_with_another_number_of_ranks(
    tiny_base: str, mixture: Path, tmp_path: Path, alone: list[float]
) -> None:
    def kill_a_rank(event: Event) -> None:
        if event["event"] == "step" and event["step"] == 8:
            os.kill(_ranks()[-1], signal.SIGKILL)

    launch = LaunchSpec(ranks=2, threads=1, zero_stage=0)
    with pytest.raises(TrainingError, match="goes on from the newest checkpoint"):
        await run_training(spec_of(tiny_base), launch, mixture, tmp_path, kill_a_rank)
    result, _ = await run(spec_of(tiny_base), mixture, tmp_path, ranks=1, stage=0)
    assert result.start["resumed_from"] == "checkpoint-5"
    assert losses(result) == pytest.approx(alone, abs=1e-4)


@pytest.mark.slow
@ALL
@pytest.mark.parametrize("stage", [2, 3])
async def test_offloaded_states_give_the_same_model(tiny_base: str, mixture: Path, tmp_path: Path, stage: int) -> None:
    """With decay, so that norms and biases must be left out of it, and a beta that is not the default."""
    spec = spec_of(tiny_base, max_steps=12, weight_decay=0.3, trl={"adam_beta2": 0.9})
    here, _ = await run(spec, mixture, tmp_path / "here", ranks=1, stage=stage)
    away, _ = await run(spec, mixture, tmp_path / "away", ranks=2, stage=stage, offload_optimizer=True)
    assert losses(away) == pytest.approx(losses(here), abs=1e-4)
    _assert_same_weights(here.model, away.model)


def _assert_same_weights(first: Path, second: Path) -> None:
    from safetensors.torch import load_file

    one, two = load_file(first / "model.safetensors"), load_file(second / "model.safetensors")
    assert one.keys() == two.keys()
    for name, tensor in one.items():
        assert (tensor.float() - two[name].float()).abs().max() < 2e-2, name


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pairs")
    rows = [
        {
            "id": f"p{i}",
            "kind": "preference",
            "input": f"Question: {i} + 3?",
            "prefix": "Step 1: think.\n" * (i % 2),
            "output": f"Step {1 + i % 2}: {i} + 3 = {i + 3}.\n",
            "worse": f"Step {1 + i % 2}: {i} + 3 = {i + 4}, as everybody knows." + "\n" * (i % 3),
            "weight": 1.0,
        }
        for i in range(14)
    ]
    pq.write_table(pa.Table.from_pylist(rows), folder / "part-0000.parquet")
    return folder


async def run_dpo(base: str, pairs: Path, out: Path, ranks: int, stage: int) -> tuple[TrainingResult, list[Event]]:
    spec = spec_of(base, objective="dpo", epochs=1, max_steps=None, batch_size=6, learning_rate=1e-3)
    return await run(spec, pairs, out, ranks, stage, micro_batch_tokens=300)


@pytest.mark.slow
async def test_dpo_moves_from_its_reference_towards_the_right_steps(
    tiny_base: str, pairs: Path, tmp_path: Path
) -> None:
    made, events = await run_dpo(tiny_base, pairs, tmp_path, ranks=2, stage=2)
    assert losses(made)[0] == pytest.approx(math.log(2), abs=1e-5), "before the first step it is its own reference"
    assert losses(made)[-1] < losses(made)[0]
    assert next(e for e in events if e["event"] == "step" and e["step"] == 3)["reward_margin"] > 0
    assert_loads_and_generates(made.model)


@pytest.mark.slow
@ALL
@pytest.mark.parametrize("stage", [1, 2, 3])
async def test_dpo_gives_the_same_losses_on_two_ranks(tiny_base: str, pairs: Path, tmp_path: Path, stage: int) -> None:
    one, _ = await run_dpo(tiny_base, pairs, tmp_path / "one", ranks=1, stage=0)
    two, _ = await run_dpo(tiny_base, pairs, tmp_path / "two", ranks=2, stage=stage)
    assert losses(two) == pytest.approx(losses(one), abs=1e-4)
    _assert_same_weights(one.model, two.model)


def _ranks() -> list[int]:
    """Return the process ids of the ranks that descend from this test."""
    return [c.pid for c in psutil.Process().children(recursive=True) if _is_rank(c)]


def _is_rank(process: psutil.Process) -> bool:
    words = process.cmdline()
    return "lema_core.training.sft" in words and "--nproc-per-node" not in words


def test_a_checkpoint_without_its_marker_does_not_count(tmp_path: Path) -> None:
    from lema_core.training.checkpoints import delete_incomplete

    for step in (5, 10, 15):
        (tmp_path / f"checkpoint-{step}").mkdir()
    for step in (5, 10):
        (tmp_path / f"checkpoint-{step}" / MARKER).touch()
    assert [p.name for p in complete_checkpoints(tmp_path)] == ["checkpoint-5", "checkpoint-10"]
    assert delete_incomplete(tmp_path) == ["checkpoint-15"]
