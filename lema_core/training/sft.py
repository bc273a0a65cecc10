"""Fine-tune: TRL's SFTTrainer (DPOTrainer for pairs, KTOTrainer for kto) under DeepSpeed, one process of many ranks.

By hand: ``torchrun --nproc-per-node 2 -m lema_core.training.sft --spec SPEC.json --data TOKENS --out DIR``. SPEC.json
is what ``lema_core.training.specs.dump_specs`` writes, TOKENS a folder of ``lema_core.training.data``. Then in DIR:
``model/`` (whole, for ``from_pretrained``), ``metrics.parquet`` (one row per step) and the last complete checkpoints.
The same command goes on from the newest of them. Events go to stdout as JSON lines.
"""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from lema_core.artifacts.files import atomic_local
from lema_core.artifacts.parquet import write_table
from lema_core.system.stopping import end_process
from lema_core.training.batches import Plan, plan_run
from lema_core.training.checkpoints import (
    check_continues,
    complete_checkpoints,
    delete_incomplete,
    delete_optimiser_states,
)
from lema_core.training.data import TokenisedData, tokenizer_for
from lema_core.training.options import check_machine
from lema_core.training.program import emit, metrics_row, run_program
from lema_core.training.specs import METRICS_FILE, MODEL_FOLDER, LaunchSpec, TrainingSpec, load_specs


def train(spec: TrainingSpec, launch: LaunchSpec, data_folder: Path, out: Path) -> None:
    """Run this rank's part of a training run.

    Raises:
        ConfigError: the spec cannot be used with this model, library or machine.
        TrainingError: the loss is not finite, the disk is full, or another number of ranks wrote the checkpoints.
    """
    if (out / MODEL_FOLDER).is_dir():
        # It appears by a rename when the run is complete, so every rank of a repeated command ends here.
        return
    check_continues(out, _ranks(), launch.zero_stage)
    from lema_core.training import models, options  # torch takes seconds
    from lema_core.training.models import checkpoint_of

    options.check_overrides(spec)
    check_machine(spec, launch)
    data = TokenisedData(data_folder)
    base = checkpoint_of(spec.base)
    examples = tokenizer_for(spec, base)
    tokenizer = examples.tokenizer
    attention = models.attention_of(launch)
    packed = spec.objective == "sft" and attention in ("flash_attention_2", "flex_attention")
    plan = plan_run(
        data.lengths(),
        steps=spec.steps(len(data)),
        batch_size=spec.batch_size,
        epochs=None if spec.max_steps else spec.epochs,
        seed=spec.seed,
        ranks=_ranks(),
        budget=launch.micro_batch_tokens,
        packed=packed,
    )
    bf16 = models.trains_in_bf16(spec)
    given = options.trl_options(spec, launch, plan.steps, plan.pieces, out, bf16)
    arguments = _arguments(options.trl_config(spec), given)
    model = models.load_model(base, spec, attention, bf16)
    trainer = _trainer(spec, launch, data, plan, model, tokenizer, arguments, packed)
    newest = _delete_incomplete_checkpoints(trainer, out)
    if trainer.is_world_process_zero():
        facts = {"precision": "bf16" if bf16 else "fp32", "attention": attention, **data.counts}
        facts["padding"] = plan.padding(data.lengths(), packed=packed)
        emit("start", steps=plan.steps, pieces=plan.pieces, ranks=plan.ranks, resumed_from=newest, **facts)
    trainer.train(resume_from_checkpoint=str(out / newest) if newest else None)
    if trainer.is_world_process_zero():
        rows = [metrics_row(entry) for entry in trainer.state.log_history if "loss" in entry]
        with atomic_local(out / METRICS_FILE) as local:
            write_table(pa.Table.from_pylist(rows), local)
    # Every rank takes part: under ZeRO-3 none has the whole model.
    models.save_whole(trainer, spec, base, examples, out / MODEL_FOLDER)
    if trainer.is_world_process_zero():
        delete_optimiser_states(out)
        emit("done", steps=plan.steps)


def _ranks() -> int:
    return int(os.environ.get("WORLD_SIZE", "1"))


def _arguments(config: Any, options: dict[str, Any]) -> Any:
    import torch

    if not torch.cuda.is_available():
        _join_on_cpu()
        options["accelerator_config"] = {"use_configured_state": True}
        options["use_cpu"] = True  # else transformers refuses bf16 on processors that compute in it
        # The default buckets of 5e8 values take 2 GB per rank, whatever the size of the model.
        for bucket in ("reduce_bucket_size", "allgather_bucket_size"):
            options["deepspeed"]["zero_optimization"].setdefault(bucket, 50_000_000)
    return config(**options)


def _join_on_cpu() -> None:
    """Make the CPU ranks one run.

    Left alone, accelerate sees DeepSpeed without a GPU as a single process: every rank would silently train on all the
    data by itself.
    """
    import deepspeed.ops
    from accelerate import PartialState

    # Compiling this operator takes a minute of two cores; only DeepSpeed's inference uses it.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    os.environ.setdefault("LOCAL_RANK", "0")
    os.environ["ACCELERATE_USE_DEEPSPEED"] = "true"
    PartialState(backend="gloo")


def _trainer(
    spec: TrainingSpec,
    launch: LaunchSpec,
    data: TokenisedData,
    plan: Plan,
    model: Any,
    tokenizer: Any,
    arguments: Any,
    packed: bool,
) -> Any:
    from datasets import Dataset

    from lema_core.training.models import operations_per_token, peft_config
    from lema_core.training.trainers import (
        Collator,
        EventCallback,
        LemaTrainer,
        PairCollator,
        PreferenceTrainer,
        Throughput,
        UnpairedCollator,
        UnpairedTrainer,
    )

    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    peak = launch.peak_tflops * 1e12 * plan.ranks if launch.peak_tflops else None
    throughput = Throughput(plan, data.lengths(), peak, operations_per_token(model, spec))
    kinds: dict[str, tuple[Any, Any]] = {
        "sft": (LemaTrainer, Collator(data, plan, pad, packed=packed)),
        "dpo": (PreferenceTrainer, PairCollator(data, plan, pad)),
        "kto": (UnpairedTrainer, UnpairedCollator(data, plan, pad)),
    }
    trainer, collator = kinds[spec.objective]
    made = trainer(
        model=model,
        args=arguments,
        train_dataset=Dataset.from_dict({"micro_batch": list(range(len(plan.micro_batches)))}),
        data_collator=collator,
        processing_class=tokenizer,
        peft_config=peft_config(spec),
        callbacks=[EventCallback(throughput, launch)],
    )
    made.throughput = throughput
    if spec.method == "qlora" and arguments.bf16 is False:
        # TRL rounds the adapters of a quantised model to bf16, in which small updates of theirs would be lost: only
        # DeepSpeed's bf16 keeps float32 copies of them.
        for weights in made.model.parameters():
            if weights.requires_grad:
                weights.data = weights.data.float()
    return made


def _delete_incomplete_checkpoints(trainer: Any, out: Path) -> str | None:
    """Delete them on rank 0, before any rank reads the folder; return the name of the newest complete one."""
    out.mkdir(parents=True, exist_ok=True)
    if trainer.is_world_process_zero():
        for name in delete_incomplete(out):
            emit("torn_checkpoint_removed", name=name)
    trainer.accelerator.wait_for_everyone()
    newest = complete_checkpoints(out)[-1:]
    return newest[0].name if newest else None


def main(argv: Sequence[str] | None = None) -> int:
    """Run from the command line, on every rank; a known failure ends with an ``error`` event and status 3."""
    parser = argparse.ArgumentParser(prog="python -m lema_core.training.sft", description=(__doc__ or "")[:200])
    parser.add_argument("--spec", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--local_rank", type=int, help="given by DeepSpeed's launcher; the environment says the same")
    given = parser.parse_args(argv)

    def work() -> None:
        spec, launch = load_specs(given.spec.read_text())
        train(spec, launch, given.data, given.out)

    return run_program(work, given.out)


if __name__ == "__main__":
    end_process(main())
