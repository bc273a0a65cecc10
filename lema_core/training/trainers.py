"""TRL's SFTTrainer, DPOTrainer and KTOTrainer with our data order, our loss normalisation and a stream of events."""

import math
import os
import resource
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Sampler, SequentialSampler
from transformers import TrainerCallback
from trl.trainer.dpo_trainer import DPOTrainer
from trl.trainer.kto_trainer import KTOTrainer
from trl.trainer.sft_trainer import SFTTrainer

from lema_core.errors import TrainingError
from lema_core.training.batches import Plan
from lema_core.training.checkpoints import delete_old, mark_complete
from lema_core.training.data import UNPAIRED, TokenisedData
from lema_core.training.models import project_only
from lema_core.training.program import MEMORY_FIELDS, emit, metrics_row
from lema_core.training.specs import LaunchSpec


class Throughput:
    """Tokens per second and model FLOPs utilisation, from the end of one step to the end of the next.

    Loading data counts; writing checkpoints does not.
    """

    def __init__(self, plan: Plan, lengths: Sequence[int], peak: float | None, operations: int) -> None:
        self._tokens = plan.tokens_by_step(lengths)
        self._peak, self._operations = peak, operations
        self._mark = time.monotonic()

    def start(self) -> None:
        """Restart the clock."""
        self._mark = time.monotonic()

    def figures(self, step: int) -> dict[str, float]:
        """Return the figures of the step (from 1) that has just ended."""
        ended = time.monotonic()
        tokens = self._tokens[step - 1]
        rate = tokens / max(ended - self._mark, 1e-9)
        self._mark = ended
        seen = {"tokens": float(tokens), "tokens_per_second": rate}
        return seen | {"mfu": self._operations * rate / self._peak} if self._peak else seen


class EventCallback(TrainerCallback):
    """Sends events, marks checkpoints complete and removes old ones."""

    def __init__(self, throughput: Throughput, launch: LaunchSpec) -> None:
        self._throughput, self._launch = throughput, launch

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
        """Start the clock and report the links of the trackers, which are set up by now."""
        self._throughput.start()
        if state.is_world_process_zero:
            for name in args.report_to:
                emit("tracker", name=name, link=_link(name, args))

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:  # noqa: ARG002
        """Send a step's figures; stop before a checkpoint of a run that has diverged."""
        if not logs or "loss" not in logs:
            return
        if not all(math.isfinite(float(logs[name])) for name in ("loss", "grad_norm") if name in logs):
            raise divergence_error(state.global_step, f"loss {logs['loss']}, gradient norm {logs.get('grad_norm')}")
        # Every rank takes part; the entry is the one that becomes the step's row of metrics.
        state.log_history[-1].update(measure_peak_memory())
        if state.is_world_process_zero:
            emit("step", **metrics_row(state.log_history[-1]), steps=state.max_steps)

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
        """Wait for every rank, then mark the checkpoint complete."""
        if torch.distributed.is_initialized():
            torch.distributed.barrier()
        if state.is_world_process_zero:
            out = Path(args.output_dir)
            mark_complete(out / f"checkpoint-{state.global_step}", args.world_size, self._launch.zero_stage)
            delete_old(out, self._launch.keep_checkpoints, spare_weights=self._launch.keep_weights)
            emit("checkpoint", step=state.global_step)
        self._throughput.start()


def measure_peak_memory() -> dict[str, list[int]]:
    """Return the most memory that each rank has held so far, in MiB, by rank; every rank must call this."""
    # The kernel counts in KiB on Linux, in bytes on macOS.
    unit = 2**20 if sys.platform == "darwin" else 2**10
    own = [resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // unit]
    if torch.cuda.is_available():
        own.append(torch.cuda.max_memory_allocated() // 2**20)
    ranks: list[list[int]] = [own]
    if torch.distributed.is_initialized():
        ranks = [[]] * torch.distributed.get_world_size()
        torch.distributed.all_gather_object(ranks, own)
    return {name: list(peaks) for name, peaks in zip(MEMORY_FIELDS, zip(*ranks, strict=True), strict=False)}


def divergence_error(step: int, seen: str) -> TrainingError:
    """Return the error of a step whose figures are not finite."""
    return TrainingError(
        f"training diverged at step {step}: {seen}; the last complete checkpoint is kept. "
        "Lower learning_rate or max_grad_norm and start over with a new output folder"
    )


def _link(tracker: str, args: Any) -> str | None:
    """Return where a tracker shows the run, None where it has no page until a person opens one."""
    if tracker == "tensorboard":
        return Path(os.environ["TENSORBOARD_LOGGING_DIR"]).absolute().as_uri()
    if tracker == "trackio":
        return f"https://huggingface.co/spaces/{args.trackio_space_id}" if args.trackio_space_id else None
    run = getattr(sys.modules.get(tracker), "run", None)
    return getattr(run, "url", None)


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
        if example.masked:
            labels[slice(*example.masked)] = IGNORED
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
    # An example's first token is part of its prompt and so never trained: none is predicted from the neighbour's last.
    positions = torch.cat([torch.arange(len(row[0])) for row in rows])[None]
    return {"input_ids": ids, "labels": labels, "loss_weights": weights, "position_ids": positions}


class Planned:
    """Mixin of every trainer here: the plan's order, and the throughput in every log, so that trackers see it."""

    throughput: Throughput

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[int]:
        trainer: Any = self
        return SequentialSampler(trainer.train_dataset if train_dataset is None else train_dataset)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the figures of the step that has ended."""
        trainer: Any = self
        if "loss" in logs:
            logs |= self.throughput.figures(trainer.state.global_step)
        super().log(logs, start_time)  # type: ignore[misc]


class LemaTrainer(Planned, SFTTrainer):
    """Computes the weighted loss of the trained tokens only.

    A step's loss is ``sum(weight * token loss) / trained tokens`` over all ranks and micro-batches. Where there is no
    GPU, TRL's own loss projects every position to the vocabulary; here only the trained ones are.
    """

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> torch.Tensor:
        """Return this rank's part of the step's loss, times the number of ranks (gradients are averaged over them).

        Raises:
            TrainingError: the loss is no number, or is asked of what is not trained on.
        """
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
            raise divergence_error(self.state.global_step + 1, f"the loss is {loss.item()}")
        return loss

    def _loss_of_trained(
        self, model: Any, inputs: dict[str, Any], labels: torch.Tensor, weights: torch.Tensor
    ) -> torch.Tensor:
        trained = labels != IGNORED
        whole: Any = self.model
        with project_only(whole.get_output_embeddings(), trained):
            logits = model(**inputs, use_cache=False).logits
        losses = functional.cross_entropy(logits.float(), labels[trained], reduction="none")
        return (losses * weights[trained]).sum()


class UnpairedCollator:
    """Turns the number of a micro-batch of the plan into KTO's tensors, each of shape (examples, longest).

    ``KL_input_ids`` are the same prompts, each with the answer of the step's next example: KTO's reference point is
    how far the model has moved on answers that do not belong to the prompt. ``share`` is that of `PairCollator`.
    """

    def __init__(self, data: TokenisedData, plan: Plan, pad: int) -> None:
        self._data, self._plan, self._pad = data, plan, pad

    def __call__(self, items: Sequence[dict[str, int]]) -> dict[str, torch.Tensor]:
        """Return the tensors of the one micro-batch that ``items`` names."""
        number = items[0]["micro_batch"]
        width = self._plan.ranks * self._plan.pieces
        step = [i for micro in self._plan.micro_batches[number // width * width :][:width] for i in micro]
        chosen = list(self._plan.micro_batches[number])
        examples = [self._data[i] for i in chosen or [0]]
        # A step of one example takes the next one of the data: with its own answer the reference point would be moot.
        ring = step if len(step) > 1 else [*step, *(i for i in range(min(2, len(self._data))) if i not in step)]
        others = [self._data[ring[(ring.index(i) + 1) % len(ring)]] for i in chosen or ring[:1]]
        own = [(e.input_ids, e.prompt_tokens) for e in examples]
        mixed = [
            ([*e.input_ids[: e.prompt_tokens], *other.input_ids[other.prompt_tokens :]], e.prompt_tokens)
            for e, other in zip(examples, others, strict=True)
        ]
        return {
            **self._padded(own),
            **{f"KL_{name}": tensor for name, tensor in self._padded(mixed).items()},
            "label": torch.tensor([UNPAIRED[e.kind] for e in examples]),
            "share": torch.tensor(len(chosen) * width / len(step)),
        }

    def _padded(self, rows: Sequence[tuple[list[int], int]]) -> dict[str, torch.Tensor]:
        ids = pad_sequence([torch.tensor(row) for row, _ in rows], batch_first=True, padding_value=self._pad)
        places = torch.arange(ids.shape[1])[None]
        there = places < torch.tensor([len(row) for row, _ in rows])[:, None]
        trained = there & (places >= torch.tensor([read for _, read in rows])[:, None])
        return {"input_ids": ids, "attention_mask": there.long(), "completion_mask": trained.long()}


class PairCollator:
    """Turns the number of a micro-batch of the plan into TRL's tensors of shape (2 x pairs, longest).

    The preferred outputs come first. ``share`` makes of TRL's mean over the micro-batch's pairs its part of the mean
    over the step's pairs: micro-batches need not be of equal size.
    """

    def __init__(self, data: TokenisedData, plan: Plan, pad: int) -> None:
        self._data, self._plan, self._pad = data, plan, pad

    def __call__(self, items: Sequence[dict[str, int]]) -> dict[str, torch.Tensor]:
        """Return the tensors of the one micro-batch that ``items`` names."""
        number = items[0]["micro_batch"]
        chosen = self._plan.micro_batches[number]
        pairs = [self._data[i] for i in chosen] or [self._data[0]]
        rows = [torch.tensor(p.input_ids) for p in pairs] + [torch.tensor(p.worse_ids) for p in pairs]
        read = torch.tensor([p.prompt_tokens for p in pairs] * 2)[:, None]
        ids = pad_sequence(rows, batch_first=True, padding_value=self._pad)
        there = torch.arange(ids.shape[1])[None] < torch.tensor([len(row) for row in rows])[:, None]
        trained = there & (torch.arange(ids.shape[1])[None] >= read)
        width = self._plan.ranks * self._plan.pieces
        step = self._plan.micro_batches[number // width * width :][:width]
        return {
            "input_ids": ids,
            "attention_mask": there.long(),
            "completion_mask": trained.long(),
            "share": torch.tensor(len(self._plan.micro_batches[number]) * width / sum(map(len, step))),
        }


class OfStep(Planned):
    """Mixin of trainers whose loss is TRL's mean over rows: it becomes the mean over the rows of a step."""

    def _prepare_dataset(self, dataset: Any, *_: Any, **__: Any) -> Any:
        return dataset

    def compute_loss(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> torch.Tensor:
        """Return this micro-batch's part of the step's loss, which is averaged over ranks and micro-batches."""
        trainer: Any = self
        share = inputs.pop("share")
        loss: torch.Tensor = super().compute_loss(model, inputs, *args, **kwargs) * share  # type: ignore[misc]
        if not torch.isfinite(loss):
            raise divergence_error(trainer.state.global_step + 1, f"the loss is {loss.item()}")
        return loss


class PreferenceTrainer(OfStep, DPOTrainer):
    """Averages TRL's loss over the pairs of a step."""


class UnpairedTrainer(OfStep, KTOTrainer):
    """Averages KTO's loss over the rows of a step; its reference point is that of a micro-batch, over all ranks."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.loss_type, self.calculate_KL = "kto", True
