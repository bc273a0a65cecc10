"""TRL's SFTTrainer as it comes, on a mixture: what the training benchmarks compare with. Prints one JSON line.

Prompt-completion data, 8 examples at a time padded to their longest, TRL's own loss; bf16 where this machine computes
in it. The order is given, so that each step has the same examples as the same step of a run of ours.
"""

import argparse
import json
import random
import tempfile
import time
from pathlib import Path
from typing import Any

from lema_core.training.batches import plan_run
from lema_core.training.data import read_examples
from lema_core.training.models import checkpoint_of

MICRO = 8


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


def train(given: argparse.Namespace) -> dict[str, Any]:
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoTokenizer, TrainerCallback
    from trl.trainer.sft_config import SFTConfig
    from trl.trainer.sft_trainer import SFTTrainer

    from lema_core.training.models import computes_bf16

    folder = checkpoint_of(given.base)
    rows = [
        {
            "prompt": [{"role": "user", "content": row["input"]}],
            "completion": [{"role": "assistant", "content": row["output"]}],
        }
        for row in in_our_order(given.examples, given.steps, given.batch)
    ]
    marks: list[tuple[float, float]] = []

    class Clock(TrainerCallback):
        def on_log(self, *_: Any, logs: Any = None, **__: Any) -> None:
            if logs and "num_tokens" in logs:
                marks.append((time.monotonic(), float(logs["num_tokens"])))

    with tempfile.TemporaryDirectory() as out:
        config = SFTConfig(
            output_dir=out,
            max_steps=given.steps,
            per_device_train_batch_size=MICRO,
            gradient_accumulation_steps=given.batch // MICRO,
            learning_rate=1e-4,
            lr_scheduler_type="constant",
            logging_steps=1,
            save_strategy="no",
            train_sampling_strategy="sequential",
            report_to="none",
            gradient_checkpointing=given.gradient_checkpointing,
            bf16=computes_bf16(),
            disable_tqdm=True,
        )
        trainer = SFTTrainer(
            model=folder,
            args=config,
            train_dataset=Dataset.from_list(rows),
            processing_class=AutoTokenizer.from_pretrained(folder),
            callbacks=[Clock()],
            peft_config=LoraConfig(r=64, target_modules="all-linear") if given.lora else None,
        )
        trainer.train()
    (began, first), (ended, last) = marks[given.warm_up - 1], marks[-1]
    return {
        "rate": (last - first) / (ended - began),
        "losses": [float(e["loss"]) for e in trainer.state.log_history if "loss" in e],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", required=True)
    parser.add_argument("--examples", type=Path, required=True)
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--batch", type=int, required=True)
    parser.add_argument("--warm-up", type=int, default=1, help="steps that are left out of the rate")
    parser.add_argument("--lora", action="store_true")
    parser.add_argument("--gradient-checkpointing", action=argparse.BooleanOptionalAction, default=True)
    print(json.dumps(train(parser.parse_args())))


if __name__ == "__main__":
    main()
