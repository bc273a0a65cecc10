"""The stages of a run, a module each: its section of the run file, what names its artifact, its requests, its work.

``lema_core.pipeline`` puts them into the paper's order. Nothing here knows Prefect: ``tasks`` runs what is here.
"""

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """A section of a run file: frozen; an unknown option is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)
