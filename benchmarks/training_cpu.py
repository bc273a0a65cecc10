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
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from lema_core.training import LaunchSpec, TrainingSpec, run_training
from lema_core.training.batches import plan_run
from lema_core.training.data import read_examples
from lema_core.training.embedded_weights import checkpoint_of
from lema_core.training.launch import clean_environment

MICRO = 8


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
    command = [sys.executable, __file__, "--examples", str(examples), "--base", base]
    command += ["--steps", str(steps), "--batch", str(batch), "--only-trl"]
    environment = clean_environment(os.environ, LAUNCH)
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def in_our_order(examples: Path, steps: int, batch: int) -> list[dict[str, Any]]:
    """Return the mixture's rows step by step as a run of ours takes them: a random order, fixed by the seed."""
    rows = list(read_examples(examples))
    plan = plan_run(
        [1] * len(rows), steps=steps, batch_size=batch, epochs=None, seed=0, ranks=1, budget=batch, packed=True
    )
    order = [i for step in plan.micro_batches for i in step]
    # Within a step the plan sorts; a random order is what TRL's batches would have.
    for start in range(0, len(order), batch):
        chunk = order[start : start + batch]
        random.Random(start).shuffle(chunk)  # noqa: S311  not for secrets
        order[start : start + batch] = chunk
    return [rows[i] for i in order]


def trl_alone(base: str, examples: Path, steps: int, batch: int) -> dict[str, Any]:
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
        for row in in_our_order(examples, steps, batch)
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
            train_sampling_strategy="sequential",
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
    return {"rate": tokens / seconds, "losses": [float(e["loss"]) for e in trainer.state.log_history if "loss" in e]}


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
        for name, one in (("ours", mine), ("TRL ", trl)):
            print(f"{name} {one['rate']:.0f} tokens/s, losses", " ".join(f"{loss:.4f}" for loss in one["losses"]))
    print(f"ratio {statistics.median(mine['rate'] / trl['rate'] for mine, trl in pairs):.2f}")


if __name__ == "__main__":
    main()
