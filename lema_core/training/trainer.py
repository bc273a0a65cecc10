"""TRL's SFTTrainer with our data order, our loss normalisation and a stream of events."""

import contextlib
import math
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional
from torch.utils.data import Sampler, SequentialSampler
from transformers import TrainerCallback
from trl.trainer.sft_trainer import SFTTrainer

from lema_core.errors import TrainingError
from lema_core.training.batches import Plan
from lema_core.training.checkpoints import drop_old, mark_complete
from lema_core.training.data import TokenisedData
from lema_core.training.events import emit, step_row

IGNORED = -100
_Row = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


class Collator:
    """Turns the number of a micro-batch of the plan into tensors.

    In rows: ``input_ids``, ``labels`` and ``loss_weights`` of shape (examples, longest), padded on the right; a causal
    model never looks right, so no attention mask is needed. Packed: one row (1, tokens) with ``position_ids`` that
    start anew with each example, from which the attention kernel keeps examples apart.
    """

    def __init__(self, data: TokenisedData, plan: Plan, pad: int, *, packed: bool) -> None:
        self._data, self._plan, self._pad, self._packed = data, plan, pad, packed

    def __call__(self, items: Sequence[dict[str, int]]) -> dict[str, torch.Tensor]:
        """Return the tensors of the one micro-batch that ``items`` names."""
        chosen = self._plan.micro_batches[items[0]["micro_batch"]]
        # A rank without examples in this step still takes part in its sums: one example, nothing of it trained.
        rows = [self._row(i) for i in chosen] or [self._row(0, trained=False)]
        return _end_to_end(rows) if self._packed else _in_rows(rows, self._pad)

    def _row(self, index: int, *, trained: bool = True) -> _Row:
        example = self._data[index]
        ids = torch.tensor(example.input_ids, dtype=torch.long)
        labels = ids.clone()
        labels[: example.prompt_tokens if trained else len(ids)] = IGNORED
        return ids, labels, torch.full(ids.shape, example.weight)


def _in_rows(rows: Sequence[_Row], pad: int) -> dict[str, torch.Tensor]:
    fill: dict[str, float] = {"input_ids": pad, "labels": IGNORED, "loss_weights": 0.0}
    columns = zip(*rows, strict=True)
    return {
        name: torch.nn.utils.rnn.pad_sequence(list(column), batch_first=True, padding_value=fill[name])
        for name, column in zip(fill, columns, strict=True)
    }


def _end_to_end(rows: Sequence[_Row]) -> dict[str, torch.Tensor]:
    ids, labels, weights = (torch.cat(column)[None] for column in zip(*rows, strict=True))
    # An example's first token is part of its prompt, so none is predicted from the neighbour's last.
    positions = torch.cat([torch.arange(len(row[0])) for row in rows])[None]
    return {"input_ids": ids, "labels": labels, "loss_weights": weights, "position_ids": positions}


class LemaTrainer(SFTTrainer):
    """Keeps the plan's order and computes the weighted loss of the trained tokens only.

    A step's loss is ``sum(weight * token loss) / trained tokens`` over all ranks and micro-batches. Where there is no
    GPU, TRL's own loss projects every position to the vocabulary; here only the trained ones are.
    """

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[int]:
        chosen: Any = train_dataset if train_dataset is not None else self.train_dataset
        return SequentialSampler(chosen)

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> torch.Tensor:
        """Return this rank's part of the step's loss, times the number of ranks (gradients are averaged over them)."""
        if return_outputs or num_items_in_batch is None:
            raise TrainingError("this trainer computes training losses only: evaluate through an endpoint")
        labels, weights = inputs.pop("labels"), inputs.pop("loss_weights")
        if labels.is_cuda:
            scored = model(**inputs, labels=labels, fused_lm_head=True, use_cache=False)
            total = -(scored.log_probs * weights[:, 1:]).sum()
        else:
            total = self._loss_of_trained(model, inputs, labels[:, 1:], weights[:, 1:])
        loss: torch.Tensor = total / num_items_in_batch * self.accelerator.num_processes
        if not torch.isfinite(loss):
            raise _diverged(self.state.global_step + 1, f"the loss is {loss.item()}")
        return loss

    def _loss_of_trained(
        self, model: Any, inputs: dict[str, Any], labels: torch.Tensor, weights: torch.Tensor
    ) -> torch.Tensor:
        trained = labels != IGNORED
        whole: Any = self.model
        with _only(whole.get_output_embeddings(), trained):
            logits = model(**inputs, use_cache=False).logits
        losses = functional.cross_entropy(logits.float(), labels[trained], reduction="none")
        return (losses * weights[trained]).sum()


@contextlib.contextmanager
def _only(head: Any, trained: torch.Tensor) -> Iterator[None]:
    """Give the output projection only the positions whose next token is trained, as (trained, hidden)."""
    hook = head.register_forward_pre_hook(lambda _, given: (given[0][:, :-1][trained],))
    try:
        yield
    finally:
        hook.remove()


def _diverged(step: int, seen: str) -> TrainingError:
    return TrainingError(
        f"training diverged at step {step}: {seen}; the last complete checkpoint is kept. "
        "Lower learning_rate or max_grad_norm and start over with a new output folder"
    )


class Watch(TrainerCallback):
    """Sends events, marks checkpoints complete and removes old ones."""

    def __init__(self, plan: Plan, lengths: Sequence[int], keep: int, peak: float | None, operations: int) -> None:
        self._tokens = plan.tokens_by_step(lengths)
        self._keep, self._peak, self._operations = keep, peak, operations
        self._started = 0.0

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
        """Start the clock of a step."""
        self._started = time.monotonic()

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:  # noqa: ARG002
        """Send a step's figures, and keep them in the trainer's own history, which checkpoints carry."""
        if not logs or "loss" not in logs:
            return
        entry = state.log_history[-1]
        entry["tokens"] = self._tokens[state.global_step - 1]
        entry["tokens_per_second"] = entry["tokens"] / max(time.monotonic() - self._started, 1e-9)
        if self._peak:
            entry["mfu"] = self._operations * entry["tokens_per_second"] / self._peak
        if not all(math.isfinite(float(logs[name])) for name in ("loss", "grad_norm") if name in logs):
            raise _diverged(state.global_step, f"loss {logs['loss']}, gradient norm {logs.get('grad_norm')}")
        if state.is_world_process_zero:
            emit("step", **step_row(entry), steps=state.max_steps)

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
        """Wait for every rank, then declare the checkpoint complete."""
        if torch.distributed.is_initialized():
            torch.distributed.barrier()
        if state.is_world_process_zero:
            out = Path(args.output_dir)
            mark_complete(out / f"checkpoint-{state.global_step}")
            drop_old(out, self._keep)
            emit("checkpoint", step=state.global_step)
