"""The run file's ``[corrections]``: who corrects mistakes, how often, and what is kept."""

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from lema_core.llm.requests import Sampling


class CorrectionsSpec(BaseModel):
    """How mistakes are corrected (the paper's M_c)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    endpoint: str
    tries: int = Field(1, ge=1)
    """Corrections sampled for one mistake (k)."""
    keep: Literal["shortest", "all"] = "shortest"
    """Which of the accepted ones of a mistake."""
    reject_false_steps: bool = False
    """Reject a correction of which a step holds a false equation; the paper checks the final answer only."""
    also: tuple[str, ...] = ()
    """Further correctors of the same mistakes. Every arm with corrections takes those of all correctors, but for the
    arms ``corrector_<endpoint>`` that compare them, and own arms with ``where.correctors``."""
    second: str | None = None
    """A second teacher: a correction is accepted only if this endpoint's own correction names the same step."""
    temperature: float = Field(0.0, ge=0)
    top_p: float | None = Field(None, gt=0, le=1)
    max_tokens: int = Field(1024, ge=1)

    @property
    def endpoints(self) -> tuple[str, ...]:
        """Return every corrector's endpoint, the main one first."""
        return (self.endpoint, *self.also)

    @model_validator(mode="after")
    def _teachers_and_tries_differ(self) -> Self:
        if self.second in self.endpoints:
            raise ValueError(f"second is a corrector itself ({self.second}): it would agree; name another endpoint")
        if self.tries > 1 and self.temperature == 0:
            raise ValueError(f"{self.tries} tries at temperature 0 are {self.tries} times the same; raise temperature")
        return self

    def sampling(self) -> Sampling:
        """Return the sampling parameters of a correction; several tries differ by their seed where it is honoured."""
        seed = 0 if self.tries > 1 else None
        return Sampling(temperature=self.temperature, top_p=self.top_p, max_tokens=self.max_tokens, seed=seed)
