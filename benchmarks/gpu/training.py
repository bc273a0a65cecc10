"""Tokens a second and model FLOPs utilisation of fine-tuning on this machine's GPUs, by method and ZeRO stage.

The peak is a matrix product measured in the same run. Models have random weights: speed does not depend on them.

    python benchmarks/gpu/training.py                     # 0.1B and 1.1B: full under ZeRO-2 and ZeRO-3, LoRA
    python benchmarks/gpu/training.py --dry-run           # the same code on a CPU with a toy model
"""

import argparse
import asyncio
import tempfile
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from lema_core.training import LaunchSpec, TrainingSpec, run_training
from lema_core.training.embedded_weights import checkpoint_of
from lema_core.training.estimate import Shape

TOY = Shape(64, 128, 2, 64, 49152, tied=True)
SHAPES = {"0.1B": Shape(576, 1536, 30, 192, 49152, tied=True), "1.1B": Shape(2048, 5632, 22, 256, 49152)}
RUNS: list[tuple[str, int]] = [("full", 2), ("full", 3), ("lora", 2)]


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
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
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


def measure(
    base: str, examples: Path, out: Path, method: str, launch: LaunchSpec, steps: int, batch: int
) -> dict[str, float]:
    seen: list[dict[str, Any]] = []
    spec = TrainingSpec.model_validate({"base": base, "method": method, "max_steps": steps, "batch_size": batch})
    asyncio.run(run_training(spec, launch, examples, out, seen.append))
    timed = [e for e in seen if e["event"] == "step"][2:]
    return {name: sum(e[name] for e in timed) / len(timed) for name in ("tokens_per_second", "mfu")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dry-run", action="store_true")
    parser.add_argument("--micro-batch-tokens", type=int, default=16384)
    given = parser.parse_args()
    shapes, steps, batch = ({"toy": TOY}, 4, 4) if given.dry_run else (SHAPES, 12, 128)
    peak = peak_tflops(512 if given.dry_run else 8192)
    print(f"peak {peak:.2f} TFLOP/s a device, measured")
    with tempfile.TemporaryDirectory() as scratch:
        examples = mixture(Path(scratch) / "mixture", 32 if given.dry_run else 4096)
        for name, shape in shapes.items():
            base = random_model(shape, Path(scratch) / name)
            for method, stage in RUNS:
                launch = LaunchSpec(
                    zero_stage=stage,
                    micro_batch_tokens=given.micro_batch_tokens,
                    peak_tflops=peak,  # type: ignore[arg-type]
                )
                seen = measure(base, examples, Path(scratch) / f"{name}-{method}-{stage}", method, launch, steps, batch)
                print(f"{name} {method} ZeRO-{stage}: {seen['tokens_per_second']:.0f} tokens/s, MFU {seen['mfu']:.1%}")


if __name__ == "__main__":
    main()
