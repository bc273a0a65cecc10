"""The base of every section of a run file."""

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """A section of a run file: frozen; an unknown option is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)
