"""The ``[ablation]`` section of a run file: what is varied, and what is compared with what."""

from collections import Counter
from collections.abc import Sequence
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"
Name = Annotated[str, Field(pattern=NAME)]


class BaseModelSpec(BaseModel):
    """A model that every arm is fine-tuned from."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    name: Name
    """What the table calls it."""
    train: str
    """What is fine-tuned, in the place of ``training.base``."""
    endpoint: str | None = None
    """Where the untouched model answers, in the place of ``evaluation.base``; None: it is not measured."""


class AblationSpec(BaseModel):
    """A sweep: every arm with every seed from every base model in every setting is a cell."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    arms: tuple[str, ...] = ()
    """Bundled arms or the run file's own; none given: those of ``[mixture]``."""
    seeds: tuple[Annotated[int, Field(ge=0)], ...] = Field((0,), min_length=1)
    """Of the order of the examples, of what a size-matched arm leaves out, and of the training."""
    reference: str | None = None
    """The arm that the others are compared with; None: the first."""
    data_seeds: tuple[Annotated[int, Field(ge=0)], ...] = ()
    """`questions.seed` of each of `seeds` by its place, the list repeated as often as needed: so a replicate can have
    other questions, other sampled mistakes and other corrections too, and intervals hold for more than one data set.
    For tasks whose questions are generated. None given: all seeds have the data of the run file."""
    planned: tuple[tuple[str, str], ...] = ()
    """Comparisons that are decided before the sweep runs, each as [arm, the arm that it is compared with]; the report
    shows them apart, with a p that is adjusted for these alone (Holm). All others are exploratory."""
    bases: tuple[BaseModelSpec, ...] = ()
    """None given: the run file's own."""
    settings: dict[Name, dict[str, Any]] = {}
    """Options of the run file to change, by the setting's name; the first is what the others are compared with."""
    parallel: int = Field(1, ge=1)
    """Cells at a time. GPUs are shared out among them; on one GPU or none, more than one needs room to spare."""

    @model_validator(mode="after")
    def _nothing_twice(self) -> Self:
        varied: dict[str, Sequence[object]] = {
            "arms": self.arms,
            "seeds": self.seeds,
            "bases": [base.name for base in self.bases],
            "bases.train": [base.train for base in self.bases],
        }
        for name, values in varied.items():
            if twice := [value for value, times in Counter(values).items() if times > 1]:
                raise ValueError(f"{name}: {twice[0]!r} stands there twice; a cell is made once")
        if self.reference is not None and self.arms and self.reference not in self.arms:
            raise ValueError(f"reference: {self.reference!r} is none of the arms {list(self.arms)}")
        return self
