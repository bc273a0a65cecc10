"""What a training run tells while it goes on, and which of its checkpoints count."""

import math
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

from lema_core.errors import TrainingError
from lema_core.training.batches import Plan
from lema_core.training.checkpoints import drop_old, mark_complete
from lema_core.training.events import emit, step_row
from lema_core.training.specs import LaunchSpec


class Pace:
    """Tokens a second and model FLOPs utilisation, from the end of one step to the end of the next.

    So loading data counts; writing checkpoints does not.
    """

    def __init__(self, plan: Plan, lengths: Sequence[int], peak: float | None, operations: int) -> None:
        self._tokens = plan.tokens_by_step(lengths)
        self._peak, self._operations = peak, operations
        self._mark = time.monotonic()

    def start(self) -> None:
        """Start the clock anew."""
        self._mark = time.monotonic()

    def figures(self, step: int) -> dict[str, float]:
        """Return the figures of the step (from 1) that has just ended."""
        ended = time.monotonic()
        tokens = self._tokens[step - 1]
        rate = tokens / max(ended - self._mark, 1e-9)
        self._mark = ended
        seen = {"tokens": float(tokens), "tokens_per_second": rate}
        return seen | {"mfu": self._operations * rate / self._peak} if self._peak else seen


class Watch(TrainerCallback):
    """Sends events, marks checkpoints complete and removes old ones."""

    def __init__(self, pace: Pace, launch: LaunchSpec) -> None:
        self._pace, self._launch = pace, launch

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
        """Start the clock and tell where the trackers can be watched; they have been set up by now."""
        self._pace.start()
        if state.is_world_process_zero:
            for name in args.report_to:
                emit("tracker", name=name, link=_link(name, args))

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:  # noqa: ARG002
        """Send a step's figures; stop before a checkpoint of a run that has diverged."""
        if not logs or "loss" not in logs:
            return
        if not all(math.isfinite(float(logs[name])) for name in ("loss", "grad_norm") if name in logs):
            raise diverged(state.global_step, f"loss {logs['loss']}, gradient norm {logs.get('grad_norm')}")
        if state.is_world_process_zero:
            emit("step", **step_row(state.log_history[-1]), steps=state.max_steps)

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
        """Wait for every rank, then declare the checkpoint complete."""
        if torch.distributed.is_initialized():
            torch.distributed.barrier()
        if state.is_world_process_zero:
            out = Path(args.output_dir)
            mark_complete(out / f"checkpoint-{state.global_step}", args.world_size, self._launch.zero_stage)
            drop_old(out, self._launch.keep_checkpoints, spare_weights=self._launch.keep_weights)
            emit("checkpoint", step=state.global_step)
        self._pace.start()


def diverged(step: int, seen: str) -> TrainingError:
    """Return the error of a step whose figures are not finite."""
    return TrainingError(
        f"training diverged at step {step}: {seen}; the last complete checkpoint is kept. "
        "Lower learning_rate or max_grad_norm and start over with a new output folder"
    )


def _link(tracker: str, args: Any) -> str | None:
    """Return where a tracker shows the run, None where it has no page of its own until somebody opens one."""
    if tracker == "tensorboard":
        return Path(os.environ["TENSORBOARD_LOGGING_DIR"]).absolute().as_uri()
    if tracker == "trackio":
        return f"https://huggingface.co/spaces/{args.trackio_space_id}" if args.trackio_space_id else None
    run = getattr(sys.modules.get(tracker), "run", None)
    return getattr(run, "url", None)
