"""Useful tokens a second of our training path against TRL's defaults: same mixture, model, precision, one CPU process.

TRL's path: prompt-completion data, batches in random order padded to their longest, its own loss. Ours: the program of
``lema_core.training``. Both in the precision that this processor computes, in the same environment, without gradient
checkpointing (TRL's default recomputes activations; on a CPU nobody needs to), and with the same random order: so each
step of one has the examples of the same step of the other, and their losses are compared step by step. The two
alternate, so that other load hits both alike.

    python benchmarks/training_cpu.py --examples mixture_folder [--base smollm2] [--steps 4] [--rounds 2]
"""

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from lema_core.training import LaunchSpec, TrainingSpec, run_training
from lema_core.training.launch import clean_environment

LAUNCH = LaunchSpec(ranks=1, zero_stage=0, threads=os.cpu_count(), micro_batch_tokens=2048)


def ours(base: str, examples: Path, steps: int, batch: int) -> dict[str, Any]:
    seen: list[dict[str, Any]] = []
    spec = TrainingSpec(base=base, max_steps=steps, batch_size=batch, learning_rate=1e-4, schedule="constant")
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(run_training(spec, LAUNCH, examples, Path(folder), seen.append))
    # The first step also warms caches up; TRL's first one is left out too.
    told = [e for e in seen if e["event"] == "step"]
    timed = told[1:]
    seconds = sum(e["tokens"] / e["tokens_per_second"] for e in timed)
    return {"rate": sum(e["tokens"] for e in timed) / seconds, "losses": [e["loss"] for e in told]}


def theirs(base: str, examples: Path, steps: int, batch: int) -> dict[str, Any]:
    command = [sys.executable, str(Path(__file__).with_name("trl_defaults.py")), "--examples", str(examples)]
    command += ["--base", base, "--steps", str(steps), "--batch", str(batch), "--no-gradient-checkpointing"]
    environment = clean_environment(os.environ, LAUNCH)
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--examples", type=Path, required=True)
    parser.add_argument("--base", default="smollm2")
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=2)
    given = parser.parse_args()
    of = (given.base, given.examples, given.steps, given.batch)
    pairs = [(ours(*of), theirs(*of)) for _ in range(given.rounds)]
    for mine, trl in pairs:
        for name, one in (("ours", mine), ("TRL ", trl)):
            print(f"{name} {one['rate']:.0f} tokens/s, losses", " ".join(f"{loss:.4f}" for loss in one["losses"]))
    print(f"ratio {statistics.median(mine['rate'] / trl['rate'] for mine, trl in pairs):.2f}")


if __name__ == "__main__":
    main()
