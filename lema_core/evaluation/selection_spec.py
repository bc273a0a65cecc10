"""The run file's ``[selection]``: on what a checkpoint is chosen."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class SelectionSpec(BaseModel):
    """How an arm's checkpoint is chosen: on training questions that no arm is trained on. Without it: the last one."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    questions: int = Field(200, ge=1)
    """Training questions kept back from every arm."""
    seed: int = Field(0, ge=0)
    """Fixes which."""
    protocol: Literal["held_out", "best_on_test"] = "held_out"
    """best_on_test: every checkpoint answers the test questions too, and the paper's figure, the best of them, stands
    in an extra column that says that it leaks. It never decides."""
    at_once: int = Field(1, ge=1)
    """Checkpoints served and measured at the same time; each takes the memory of a server. ``{slot}`` in the command of
    [evaluation.serve] counts them from 0, as in ``env CUDA_VISIBLE_DEVICES={slot} vllm serve ...``. Never identity."""
