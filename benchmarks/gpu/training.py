"""Useful tokens a second and model FLOPs utilisation on one GPU: full, LoRA, ZeRO-2 and ZeRO-3 against TRL's defaults.

The peak is a matrix product measured in the same run. Models have random weights: speed does not depend on them. TRL
runs as it comes (batches of 8 padded to their longest, gradient checkpointing, no DeepSpeed) on the same examples.

    python benchmarks/gpu/training.py [--examples MIXTURE]   # 0.1B, 1.1B and 2.8B; without a mixture, a made-up one
    python benchmarks/gpu/training.py --profile              # and where the time of full fine-tuning goes, by kernel
    python benchmarks/gpu/training.py --dry-run              # the same code on a CPU, a toy model: no figure counts
"""

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from lema_core.training import LaunchSpec, TrainingSpec, run_training
from lema_core.training.estimate import Shape
from lema_core.training.launch import clean_environment
from lema_core.training.models import checkpoint_of

TOY = Shape(64, 128, 2, 64, 49152, tied=True)
SHAPES = {
    "0.1B": Shape(576, 1536, 30, 192, 49152, tied=True),
    "1.1B": Shape(2048, 5632, 22, 256, 49152),
    "2.8B": Shape(2560, 8704, 32, 640, 49152),
}
RUNS: list[tuple[str, int]] = [("full", 2), ("full", 3), ("lora", 2)]
WARM_UP = 2
TRL = Path(__file__).parents[1] / "trl_defaults.py"


def peak_tflops(size: int) -> float:
    gpu = torch.cuda.is_available()
    kind: dict[str, Any] = {"device": "cuda", "dtype": torch.bfloat16} if gpu else {}
    a, b = torch.randn(size, size, **kind), torch.randn(size, size, **kind)
    for repeats in (3, 30):
        started = time.perf_counter()
        for _ in range(repeats):
            a @ b
        if gpu:
            torch.cuda.synchronize()
    return 2 * size**3 * 30 / (time.perf_counter() - started) / 1e12


def random_model(shape: Shape, folder: Path) -> str:
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    head = min(64, shape.key_value)
    config = LlamaConfig(
        vocab_size=shape.vocabulary,
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.hidden // head,
        num_key_value_heads=shape.key_value // head,
        tie_word_embeddings=shape.tied,
        max_position_embeddings=4096,
    )
    LlamaForCausalLM(config).bfloat16().save_pretrained(folder)
    AutoTokenizer.from_pretrained(checkpoint_of("smollm2")).save_pretrained(folder)
    return str(folder)


def mixture(folder: Path, count: int) -> Path:
    rows = [
        {
            "id": f"e{i}",
            "kind": "cot",
            "input": f"Question: Tom has {i} apples{' and some pears' * (i % 40)}. How many?",
            "output": "\n".join(f"Step {k}: {i} + {k} = {i + k}." for k in range(1, 3 + i % 12)),
            "weight": 1.0,
        }
        for i in range(count)
    ]
    folder.mkdir()
    pq.write_table(pa.Table.from_pylist(rows), folder / "part-0000.parquet")
    return folder


def measure(spec: TrainingSpec, launch: LaunchSpec, examples: Path, out: Path) -> dict[str, float]:
    seen: list[dict[str, Any]] = []
    asyncio.run(run_training(spec, launch, examples, out, seen.append))
    timed = [e for e in seen if e["event"] == "step"][WARM_UP:]
    seconds = sum(e["tokens"] / e["tokens_per_second"] for e in timed)
    return {
        "rate": sum(e["tokens"] for e in timed) / seconds,
        "mfu": sum(e["mfu"] * e["tokens"] / e["tokens_per_second"] for e in timed) / seconds,
        "loss": timed[-1]["loss"],
    }


def trl_rate(spec: TrainingSpec, examples: Path) -> dict[str, Any]:
    command = [sys.executable, str(TRL), "--base", spec.base, "--examples", str(examples)]
    command += ["--steps", str(spec.max_steps), "--batch", str(spec.batch_size), "--warm-up", str(WARM_UP)]
    command += ["--lora"] if spec.method == "lora" else []
    environment = clean_environment(os.environ, LaunchSpec(ranks=1))
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        # Out of memory, most likely: a result, too.
        return {"rate": float("nan"), "error": done.stderr.strip().splitlines()[-1]}
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def profile(spec: TrainingSpec, launch: LaunchSpec, tokens: Path, out: Path) -> str:
    """Return what takes the time of a run, by operator: the run itself, in this process."""
    from lema_core.training.sft import train

    alone = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29517"}
    os.environ |= alone | clean_environment(os.environ, launch)
    gpu = torch.cuda.is_available()
    kinds = [torch.profiler.ProfilerActivity.CUDA if gpu else torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=kinds) as seen:
        train(spec, launch, tokens, out)
    by = "self_device_time_total" if gpu else "self_cpu_time_total"
    table: str = seen.key_averages().table(sort_by=by, row_limit=20, max_name_column_width=60)
    return table


def show(name: str, spec: TrainingSpec, launch: LaunchSpec, examples: Path, out: Path) -> None:
    seen = measure(spec, launch, examples, out)
    print(f"{name} ours, ZeRO-{launch.zero_stage}: {seen['rate']:.0f} tokens/s, MFU {seen['mfu']:.1%}", flush=True)
    if launch.zero_stage == 2:
        trl = trl_rate(spec, examples)
        told = trl.get("error") or f"{seen['rate'] / trl['rate']:.2f} x as many are ours"
        print(f"{name} TRL's defaults: {trl['rate']:.0f} tokens/s; {told}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dry-run", action="store_true")
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--examples", type=Path, help="a mixture's folder")
    parser.add_argument("--micro-batch-tokens", type=int, default=16384)
    parser.add_argument("--gradient-checkpointing", action="store_true", help="ours too; TRL's defaults have it")
    parser.add_argument("--models", nargs="*", default=list(SHAPES))
    given = parser.parse_args()
    shapes = {"toy": TOY} if given.dry_run else {name: SHAPES[name] for name in given.models}
    size: dict[str, Any] = {"max_steps": 4, "batch_size": 8} if given.dry_run else {"max_steps": 12, "batch_size": 128}
    peak = peak_tflops(512 if given.dry_run else 8192)
    print(f"peak {peak:.2f} TFLOP/s, measured", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        examples = given.examples or mixture(scratch / "mixture", 32 if given.dry_run else 4096)
        for name, shape in shapes.items():
            base = random_model(shape, scratch / name)
            for method, stage in RUNS:
                launch = LaunchSpec(
                    ranks=1,
                    zero_stage=stage,
                    micro_batch_tokens=given.micro_batch_tokens,
                    gradient_checkpointing=given.gradient_checkpointing,
                    peak_tflops=peak,
                )
                spec = TrainingSpec.model_validate({"base": base, "method": method, **size})
                show(f"{name} {method}", spec, launch, examples, scratch / f"{name}-{method}-{stage}")
            if given.profile:
                spec = TrainingSpec.model_validate({"base": base, **size})
                print(profile(spec, launch, scratch / f"{name}-full-2" / "tokens", scratch / f"{name}-profile"))


if __name__ == "__main__":
    main()
