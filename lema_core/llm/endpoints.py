"""An endpoint is a URL, or a command that starts a server; its identity is what answers, not where.

``running(spec)`` yields the URL to use: at once for a URL, after a readiness check for a command, whose whole process
group is stopped at the end.
"""

import os
import shlex
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from lema_core.errors import ConfigError
from lema_core.llm.embedded import weights_identity
from lema_core.llm.model_server import serving
from lema_core.llm.settings import BatchSettings
from lema_core.system.redaction import get_redactor
from lema_core.system.urls import parse_base_url


class Price(BaseModel):
    """Dollars for a million tokens. The batch price is half of it, as at OpenAI, unless given."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    input_per_million: float = Field(ge=0)
    output_per_million: float = Field(ge=0)
    batch_factor: float = Field(0.5, gt=0, le=1)


WEIGHTS = "{weights}"
"""As an endpoint's identity: the hash of the weights that ``model`` names, wherever they lie."""


class EndpointSpec(BaseModel):
    """Where completions come from. Only ``model``/``identity`` say *what* answers and enter a request's key."""

    # A URL that is refused may hold a key.
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    name: str = "endpoint"
    """What the run file and the reports call it: teacher, student, corrector."""
    model: str = Field(min_length=1)
    """The model's name as the API expects it."""
    base_url: str | None = None
    """``http(s)://host:port/v1``."""
    command: tuple[str, ...] | None = None
    """A server to start; ``{model}`` and ``{port}`` are filled in. Written as words or as one string."""
    identity: str = ""
    """What answers: by default the model's name; ``{weights}`` is the hash of the weights of a local model."""
    api_key_env: str | None = None
    """The *name* of the environment variable with the key."""
    api_key_secret: str | None = None
    """Instead of it: the name of the Prefect Secret block with the key. Only flows can read it."""
    concurrency: int = Field(64, ge=1, le=10_000)
    """The most requests in flight from one process; the engine finds out how many are good. Several processes (workers
    of a cluster) have this limit each, and divide the two limits below."""
    requests_per_minute: float | None = Field(None, gt=0)
    tokens_per_minute: float | None = Field(None, gt=0)
    attempt_timeout_s: float = Field(300.0, gt=0)
    request_timeout_s: float = Field(3600.0, gt=0)
    """Over all attempts of one request; time spent waiting for a first turn does not count."""
    push_back_patience_s: float = Field(600.0, gt=0)
    """A run ends where the endpoint has answered nothing but "later" (429, 503, 529) for this long, as where a quota is
    used up. Before its first answer 120 s are enough. Never longer than ``request_timeout_s``."""
    ready_timeout_s: float = Field(600.0, gt=0)
    """How long a command may take until its server answers."""
    environment: tuple[str, ...] = ()
    """Names of environment variables that the command's server gets beside the usual ones and HF_TOKEN."""
    length_retry_factor: float | None = Field(2.0, gt=1)
    """An answer cut off by its cap is asked for once more with the cap times this; None: keep it as it is."""
    transport: Literal["http", "batch"] = "http"
    wait_for_batch: bool = True
    """False: submit now, give ``pending`` outcomes, and let a later run collect."""
    batch_poll_s: float = Field(30.0, gt=0)
    batch_size: int = Field(20_000, ge=1, le=50_000)
    """Requests in one batch; the API allows 50,000."""
    batches: BatchSettings = BatchSettings()
    """Patience and sizes of the batch transport."""
    price: Price | None = None
    """Overrides the price list."""

    @field_validator("command", mode="before")
    @classmethod
    def _split_command(cls, value: object) -> object:
        return tuple(shlex.split(value)) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _where_from(self) -> "EndpointSpec":
        if self.base_url and self.command:
            raise ValueError("an endpoint has either a base_url or a command, not both")
        if self.api_key_env and self.api_key_secret:
            raise ValueError("a key comes from api_key_env or from api_key_secret, not from both")
        if self.base_url:
            try:
                base_url = parse_base_url(self.base_url).text
            except ConfigError as error:
                # A ValueError, so that pydantic names its place in the run file. The text shows only the URL's scheme.
                raise ValueError(str(error)) from None
            object.__setattr__(self, "base_url", base_url)
        if not self.identity:
            object.__setattr__(self, "identity", self.model)
        return self

    @property
    def answers_as(self) -> str:
        """Return the identity with ``{weights}`` computed: the hash of the weights that ``model`` names, anywhere."""
        return weights_identity(self.model) if self.identity == WEIGHTS else self.identity

    def at(self, base_url: str) -> "EndpointSpec":
        """Return the same endpoint at a known URL."""
        return self.model_copy(update={"base_url": base_url, "command": None})

    def with_batches(self) -> "EndpointSpec":
        """Return the same endpoint asked by batches."""
        return self.model_copy(update={"transport": "batch"})

    def api_key(self) -> str:
        """Return the key from the environment; endpoints without one get a placeholder.

        Raises:
            ConfigError: the named variable is not set, or no HTTP header can carry its value.
        """
        if self.api_key_env is None:
            if self.api_key_secret:
                raise ConfigError(
                    f"endpoint {self.name!r} takes its key from a Prefect Secret block, which only flows can read: "
                    "here give api_key_env"
                )
            return "none"
        key = os.environ.get(self.api_key_env, "").strip()
        if not key:
            raise ConfigError(
                f"endpoint {self.name!r} takes its key from the environment variable {self.api_key_env}, "
                "which is not set"
            )
        # Quotes of a word processor, a line break: the text must not show them, they are beside the key.
        if not key.isascii() or not key.isprintable() or " " in key:
            where = f"Secret block {self.api_key_secret!r}" if self.api_key_secret else f"variable {self.api_key_env}"
            raise ConfigError(
                f"endpoint {self.name!r}: the {where} holds characters that no key has (blanks, line breaks, "
                "typographic quotes or others outside ASCII): copy the key alone into it"
            )
        # From here on every error's text is searched for it, wherever the error comes from.
        get_redactor(key)
        return key


@asynccontextmanager
async def running(
    spec: EndpointSpec, logs: Path | None = None, notify: Callable[[str], None] | None = None
) -> AsyncIterator[str]:
    """Yield the base URL of the endpoint, starting its server where it has a command; see `model_server.serving`.

    Raises:
        ConfigError: the spec names neither a URL nor a command, or the command's program does not exist.
        EndpointError: the server ended or did not answer within ``ready_timeout_s``; the end of its log is in the text.
    """
    if spec.base_url:
        yield spec.base_url
        return
    if not spec.command:
        raise ConfigError(f"endpoint {spec.name!r} has neither base_url nor command: say where {spec.model!r} answers")
    async with serving(spec, logs, notify) as url:
        yield url
