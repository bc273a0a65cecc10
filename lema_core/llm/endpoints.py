"""An endpoint is one or several URLs, or a command that starts servers; its identity is what answers, not where.

``running(spec)`` yields the URLs to use: at once where they are known, after a readiness check for a command, whose
whole process groups are stopped at the end.
"""

import asyncio
import json
import logging
import os
import re
import shlex
import tempfile
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from lema_core.errors import ConfigError, EndpointError
from lema_core.llm.embedded import weights_identity
from lema_core.llm.parameters import HEADERS, Parameters, Params, Renames
from lema_core.llm.rules import AUTO, NONE, detect_family
from lema_core.llm.servers import Server
from lema_core.llm.settings import DEFAULTS, BatchSettings, EngineSettings
from lema_core.system.processes import replica_devices
from lema_core.system.redaction import get_redactor
from lema_core.system.urls import parse_base_url

_logger = logging.getLogger(__name__)


class Price(BaseModel):
    """Dollars for a million tokens. The batch price is half of it, as at OpenAI, unless given."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    input_per_million: float = Field(ge=0)
    output_per_million: float = Field(ge=0)
    cached_input_per_million: float | None = Field(None, ge=0)
    """Of prompt tokens that the endpoint reads from its prompt cache; not given: the input's price."""
    cache_write_per_million: float | None = Field(None, ge=0)
    """Of prompt tokens that the endpoint writes into its prompt cache; not given: the input's price."""
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
    base_url: str | tuple[str, ...] | None = None
    """``http(s)://host:port/v1``, or a list of them: servers of one model, each request going to the least busy one."""
    api: Literal["openai", "anthropic"] = "openai"
    """What its servers speak: OpenAI's chat completions, or Anthropic's Messages API with its batches and prompt cache
    (Claude natively; needs the extra ``anthropic``, and ``base_url = "https://api.anthropic.com"``)."""
    command: tuple[str, ...] | None = None
    """A server to start; ``{model}``, ``{port}`` and ``{slot}`` are filled in. Written as words or as one string."""
    replicas: int = Field(1, ge=1, le=64)
    """How often the command is started, each server on a port of its own. Visible GPUs are divided among them."""
    first_slot: int = Field(0, ge=0)
    """The number that ``{slot}`` is for the first of them; the others count on from it."""
    identity: str = ""
    """What answers: by default the model's name; ``{weights}`` is the hash of the weights of a local model."""
    api_key_env: str | None = None
    """The *name* of the environment variable with the key."""
    params: Params = Field(default_factory=Parameters)
    """Parameters of every request to it, above a stage's options: any field of the chat API (``reasoning_effort``,
    ``verbosity``, ``stop``, ``max_completion_tokens``, ``chat_template_kwargs``, the fields of ``extra_body``), and
    ``headers``. ``temperature = "omit"`` leaves a field out. What changes the answer is part of a request's key."""
    rename: Renames = Field(default_factory=Parameters)
    """Fields that this endpoint knows by another name, as ``max_tokens = "max_completion_tokens"``. Never part of a
    key."""
    rules: Literal["auto", "none", "openai-reasoning", "claude", "gemini", "qwen-thinking", "llamacpp"] = "auto"
    """Which known rules its requests follow: those of the model's family, found by its name (``auto``), those of a
    family, or ``none``: then no refusal is followed either. Never part of a key. ``lema plan`` shows what they do."""
    api_key_secret: str | None = None
    """Instead of it: the name of the Prefect Secret block with the key. Only flows can read it."""
    concurrency: int = Field(64, ge=1, le=10_000)
    """The most requests in flight from one process; the engine finds out how many are good. Several processes (workers
    of a cluster) have this limit each, and divide the two limits below. All three hold for each URL and replica."""
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
        if self.replicas > 1 and not self.command:
            raise ValueError("replicas is how often a command is started: without one, list the servers as base_url")
        if self.transport == "batch" and max(1, len(self.urls)) * self.replicas > 1:
            raise ValueError("batches are kept by one server: transport 'batch' takes one base_url and no replicas")
        if self.base_url is not None:
            try:
                urls = tuple(parse_base_url(url).text for url in self.urls)
            except ConfigError as error:
                # A ValueError, so that pydantic names its place in the run file. The text shows only the URL's scheme.
                raise ValueError(str(error)) from None
            if len(set(urls)) < len(urls):
                raise ValueError("base_url lists one server twice: each of them once")
            # A list of one is that URL: the same endpoint, however it is written.
            object.__setattr__(self, "base_url", urls[0] if len(urls) == 1 else urls)
        if not self.identity:
            object.__setattr__(self, "identity", self.model)
        return self

    @property
    def family(self) -> str:
        """Return the family whose rules its requests follow, ``none`` without one."""
        return detect_family(self.model, self.command or ()) if self.rules == AUTO else self.rules

    @property
    def headers(self) -> dict[str, str]:
        """Return the HTTP headers that every request to it carries."""
        found: Any = self.params.get(HEADERS) or {}
        return dict(found)

    @property
    def urls(self) -> tuple[str, ...]:
        """Return the base URL of each server; empty while a command's are not started."""
        return (self.base_url,) if isinstance(self.base_url, str) else self.base_url or ()

    @property
    def first_url(self) -> str | None:
        """Return the base URL of the first server, for what is looked up by a provider's host."""
        return self.urls[0] if self.urls else None

    @property
    def where(self) -> str:
        """Return the model and its servers, in words."""
        return f"{self.model!r} at {', '.join(self.urls) or None}"

    @property
    def answers_as(self) -> str:
        """Return the identity with ``{weights}`` computed: the hash of the weights that ``model`` names, anywhere."""
        return weights_identity(self.model) if self.identity == WEIGHTS else self.identity

    def opens_thinking(self) -> bool:
        """Return whether its prompts end inside a block of thinking; see `tokenizers.opens_thinking`."""
        # Imported where an answer was cut off: tokenizers take long to load.
        from lema_core.llm.costs.tokenizers import opens_thinking

        return opens_thinking(self.model, json.dumps(self.params.get("chat_template_kwargs") or {}, sort_keys=True))

    def at(self, base_url: str | tuple[str, ...]) -> "EndpointSpec":
        """Return the same endpoint at known URLs."""
        update: dict[str, Any] = {"base_url": base_url, "command": None, "replicas": 1, "first_slot": 0}
        if self.rules == AUTO and self.family != NONE:
            # The command may say what the model's name does not.
            update["rules"] = self.family
        return self.model_copy(update=update)

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
    spec: EndpointSpec,
    logs: Path | None = None,
    notify: Callable[[str], None] | None = None,
    settings: EngineSettings = DEFAULTS,
) -> AsyncIterator[str | tuple[str, ...]]:
    """Yield the base URL of the endpoint, several as a tuple; servers of its command run until the end of the block.

    When the last of these servers dies for good, the block is cancelled, and that ends as an `EndpointError` with the
    end of the log.

    Args:
        spec: where completions come from.
        logs: folder that keeps the servers' logs; without one they are deleted at the end.
        notify: called with what a person should know: that a server died, and that it is started again.
        settings: how often, and after which waits, it is started again.

    Raises:
        ConfigError: the spec names neither a URL nor a command, or the command's program does not exist.
        EndpointError: a server did not answer within ``ready_timeout_s`` or ended before, or all died too often.
    """
    if spec.base_url:
        yield spec.base_url
        return
    if not spec.command:
        raise ConfigError(f"endpoint {spec.name!r} has neither base_url nor command: say where {spec.model!r} answers")
    with tempfile.TemporaryDirectory(prefix="lema-endpoint-") as folder:
        name = re.sub("[^A-Za-z0-9._-]", "_", spec.name)
        servers = [
            Server(
                spec,
                (logs or Path(folder)) / (f"{name}.log" if spec.replicas == 1 else f"{name}-{number}.log"),
                notify or _logger.warning,
                settings.restart_waits_s,
                number,
                devices,
            )
            for number, devices in enumerate(replica_devices(spec.replicas))
        ]
        watch: asyncio.Task[None] | None = None
        user = asyncio.current_task()
        try:
            await _start_together(servers)
            watch = asyncio.create_task(_keep_alive(servers, user))
            yield servers[0].url if len(servers) == 1 else tuple(server.url for server in servers)
        except asyncio.CancelledError:
            # As asyncio.timeout does: if we alone cancelled the block, it ends with our error.
            failures = [server.failure for server in servers if server.failure]
            if len(failures) < len(servers) or user is None or user.uncancel() > 0:
                raise
            raise failures[-1] from None
        except EndpointError as error:
            ended = " ".join(server.end_in_words() for server in servers if server.ended is not None)
            if watch is None or not ended:
                raise
            raise EndpointError(f"{ended} {error}") from None
        finally:
            if watch is not None:
                watch.cancel()
                await asyncio.wait([watch])
            await asyncio.gather(*(server.stop() for server in servers))


async def _start_together(servers: Sequence[Server]) -> None:
    """Start servers at the same time; the first error ends the start of the others."""
    try:
        async with asyncio.TaskGroup() as group:
            for server in servers:
                group.create_task(server.start())
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None


async def _keep_alive(servers: Sequence[Server], user: "asyncio.Task[object] | None") -> None:
    """Start servers again that die; cancel the task that uses them once the last one is dead for good."""
    await asyncio.gather(*(server.keep_alive() for server in servers))
    if user is not None:
        user.cancel()
