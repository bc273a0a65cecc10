"""TRL's DPOTrainer on pairs that are tokenised already, in the plan's order, the same steps on any number of ranks."""

from collections.abc import Sequence
from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence
from trl.trainer.dpo_trainer import DPOTrainer

from lema_core.training.batches import Plan
from lema_core.training.token_file import TokenisedData
from lema_core.training.trainer import Planned
from lema_core.training.watch import diverged


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
        return {
            "input_ids": ids,
            "attention_mask": there.long(),
            "completion_mask": trained.long(),
            "share": torch.tensor(self._share(number)),
        }

    def _share(self, number: int) -> float:
        width = self._plan.ranks * self._plan.pieces
        step = self._plan.micro_batches[number // width * width :][:width]
        return len(self._plan.micro_batches[number]) * width / sum(map(len, step))


class PreferenceTrainer(Planned, DPOTrainer):
    """Averages TRL's loss over the pairs of a step."""

    def _prepare_dataset(self, dataset: Any, *_: Any, **__: Any) -> Any:
        return dataset

    def compute_loss(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> torch.Tensor:
        """Return this micro-batch's part of the step's loss, which is averaged over ranks and micro-batches."""
        share = inputs.pop("share")
        loss: torch.Tensor = super().compute_loss(model, inputs, *args, **kwargs) * share  # type: ignore[no-untyped-call]
        if not torch.isfinite(loss):
            raise diverged(self.state.global_step + 1, f"the loss is {loss.item()}")
        return loss
