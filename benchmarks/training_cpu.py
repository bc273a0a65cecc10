"""Useful tokens a second of our training path against TRL's defaults: same mixture, model, precision, one CPU process.

TRL's path: prompt-completion data, batches in random order padded to their longest, its own loss. Ours: the program of
``lema_core.training``. Both in the precision that this processor computes, without gradient checkpointing (TRL's
default recomputes activations; on a CPU nobody needs to). The two alternate, so that other load hits both alike.

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
import time
from pathlib import Path
from typing import Any

from lema_core.training import LaunchSpec, TrainingSpec, run_training
from lema_core.training.data import read_examples
from lema_core.training.embedded_weights import checkpoint_of

MICRO = 8


def ours(base: str, examples: Path, steps: int, batch: int) -> dict[str, float]:
    seen: list[dict[str, Any]] = []
    spec = TrainingSpec(base=base, max_steps=steps, batch_size=batch, learning_rate=1e-4, schedule="constant")
    launch = LaunchSpec(ranks=1, zero_stage=0, threads=os.cpu_count(), micro_batch_tokens=2048)
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(run_training(spec, launch, examples, Path(folder), seen.append))
    # The first step also warms caches up; TRL's first one is left out too.
    timed = [e for e in seen if e["event"] == "step"][1:]
    seconds = sum(e["tokens"] / e["tokens_per_second"] for e in timed)
    return {"rate": sum(e["tokens"] for e in timed) / seconds, "loss": timed[-1]["loss"]}


def theirs(base: str, examples: Path, steps: int, batch: int) -> dict[str, float]:
    command = [sys.executable, __file__, "--examples", str(examples), "--base", base]
    command += ["--steps", str(steps), "--batch", str(batch), "--only-trl"]
    threads = {"OMP_NUM_THREADS": str(os.cpu_count())}
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=os.environ | threads)
    result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return result


def trl_alone(base: str, examples: Path, steps: int, batch: int) -> dict[str, float]:
    from datasets import Dataset
    from transformers import AutoTokenizer, TrainerCallback
    from trl import SFTConfig, SFTTrainer

    from lema_core.training.models import computes_bf16

    folder = checkpoint_of(base)
    rows = [
        {
            "prompt": [{"role": "user", "content": row["input"]}],
            "completion": [{"role": "assistant", "content": row["output"]}],
        }
        for row in read_examples(examples)
    ]
    marks: list[tuple[float, float]] = []

    class Clock(TrainerCallback):
        def on_log(self, *_: Any, logs: Any = None, **__: Any) -> None:
            if logs and "num_tokens" in logs:
                marks.append((time.monotonic(), float(logs["num_tokens"])))

    with tempfile.TemporaryDirectory() as out:
        config = SFTConfig(
            output_dir=out,
            max_steps=steps,
            per_device_train_batch_size=MICRO,
            gradient_accumulation_steps=batch // MICRO,
            learning_rate=1e-4,
            lr_scheduler_type="constant",
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            gradient_checkpointing=False,
            bf16=computes_bf16(),
            disable_tqdm=True,
        )
        trainer = SFTTrainer(
            model=folder,
            args=config,
            train_dataset=Dataset.from_list(rows),
            processing_class=AutoTokenizer.from_pretrained(folder),
            callbacks=[Clock()],
        )
        trainer.train()
    seconds, tokens = marks[-1][0] - marks[0][0], marks[-1][1] - marks[0][1]
    return {"rate": tokens / seconds, "loss": float(trainer.state.log_history[-2]["loss"])}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--examples", type=Path, required=True)
    parser.add_argument("--base", default="smollm2")
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--only-trl", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    of = (given.base, given.examples, given.steps, given.batch)
    if given.only_trl:
        print(json.dumps(trl_alone(*of)))
        return
    pairs = [(ours(*of), theirs(*of)) for _ in range(given.rounds)]
    for mine, trl in pairs:
        print(f"ours {mine['rate']:.0f} tokens/s, loss {mine['loss']:.3f}")
        print(f"TRL  {trl['rate']:.0f} tokens/s, loss {trl['loss']:.3f}")
    print(f"ratio {statistics.median(mine['rate'] / trl['rate'] for mine, trl in pairs):.2f}")


if __name__ == "__main__":
    main()
