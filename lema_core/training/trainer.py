"""TRL's SFTTrainer with our data order, our loss normalisation and a stream of events."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch.nn import functional
from torch.utils.data import Sampler, SequentialSampler
from trl.trainer.sft_trainer import SFTTrainer

from lema_core.errors import TrainingError
from lema_core.training.batches import Plan
from lema_core.training.token_file import TokenisedData
from lema_core.training.watch import Pace, diverged

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


class Planned:
    """Of every trainer here: the plan's order, and its pace in every log, so that trackers see it too."""

    pace: Pace

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[int]:
        trainer: Any = self
        return SequentialSampler(trainer.train_dataset if train_dataset is None else train_dataset)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the figures of the step that has ended."""
        trainer: Any = self
        if "loss" in logs:
            logs |= self.pace.figures(trainer.state.global_step)
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
            raise diverged(self.state.global_step + 1, f"the loss is {loss.item()}")
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
