"""An endpoint is a URL, or a command that starts a server; its identity is what answers, not where.

``running(spec)`` yields the URL to use: at once for a URL, after a readiness check for a command, whose whole process
group is stopped at the end.
"""

import asyncio
import os
import shlex
import socket
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from lema_core import devices
from lema_core.errors import ConfigError, EndpointError
from lema_core.llm.batch.settings import BatchSettings
from lema_core.llm.embedded import weights_identity
from lema_core.processes import die_with_parent, end_group
from lema_core.redaction import redactor_of
from lema_core.server_gate import root_listens, session_listens
from lema_core.urls import parse_base_url


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
    """At most so many requests in flight from one process; the engine finds out how many are good. Several processes
    (workers of a cluster) have so many each, and divide the two limits below."""
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
            object.__setattr__(self, "base_url", _address(self.base_url))
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

    def by_batch(self) -> "EndpointSpec":
        """Return the same endpoint asked by batches."""
        return self.model_copy(update={"transport": "batch"})

    def api_key(self) -> str:
        """Return the key from the environment; endpoints without one get a placeholder.

        Raises:
            ConfigError: the named variable is not set, or no HTTP header can carry what it holds.
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
        redactor_of(key)
        return key


def _address(base_url: str) -> str:
    try:
        return parse_base_url(base_url).text
    except ConfigError as error:
        # So that pydantic gives it a place in the run file. The text shows nothing of the URL but its scheme.
        raise ValueError(str(error)) from None


def free_port() -> int:
    """Return a port of the loopback interface that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@asynccontextmanager
async def running(spec: EndpointSpec) -> AsyncIterator[str]:
    """Yield the base URL of the endpoint, starting its server where it has a command.

    Raises:
        ConfigError: the spec names neither a URL nor a command, or the command's program does not exist.
        EndpointError: the server ended or did not answer within ``ready_timeout_s``; the end of its log is in the text.
    """
    if spec.base_url:
        yield spec.base_url
        return
    if not spec.command:
        raise ConfigError(f"endpoint {spec.name!r} has neither base_url nor command: say where {spec.model!r} answers")
    with tempfile.TemporaryDirectory(prefix="lema-endpoint-") as folder:
        process, port = await _started(spec, Path(folder) / "server.log")
        try:
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            await end_group(process)


PORTS = 3
"""A chosen port may be taken before the server listens: the command is started with up to this many."""


async def _started(spec: EndpointSpec, log: Path) -> tuple[asyncio.subprocess.Process, int]:
    """Start the server of a command, wait until it answers, and return it with its port."""
    for _ in range(PORTS):
        port = free_port()
        words = [word.replace("{model}", spec.model).replace("{port}", str(port)) for word in spec.command or ()]
        process = await _start(spec, words, log)
        ready = False
        try:
            ready = await _until_ready(spec, process, port, log)
        finally:
            if not ready:
                await end_group(process)
        if ready:
            return process, port
    raise EndpointError(
        f"the server of endpoint {spec.name!r} was started {PORTS} times, and each time another process had taken its "
        "port. Expected the command itself to listen there (a container: start it yourself and give its base_url). Run "
        "the same command again"
    )


async def _start(spec: EndpointSpec, words: list[str], log: Path) -> asyncio.subprocess.Process:
    with log.open("wb") as out:
        try:
            return await asyncio.create_subprocess_exec(
                *words,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                env=devices.environment(),
                start_new_session=True,
                # A run that is killed must not leave a model server behind, with its memory and its GPU.
                preexec_fn=die_with_parent,
            )
        except OSError as error:
            raise ConfigError(f"endpoint {spec.name!r}: cannot start {words[0]!r} ({error.strerror})") from None


async def _until_ready(spec: EndpointSpec, process: asyncio.subprocess.Process, port: int, log: Path) -> bool:
    """Wait until the server answers; False where another process has its port.

    Raises:
        EndpointError: it ended, or did not answer within ``ready_timeout_s``.
    """
    deadline = asyncio.get_running_loop().time() + spec.ready_timeout_s
    while asyncio.get_running_loop().time() < deadline:
        if process.returncode is not None:
            if await _answers(port):
                return False
            raise EndpointError(
                f"the server of endpoint {spec.name!r} ended with {process.returncode} before it answered. "
                f"The end of its log:\n{_tail(log)}"
            )
        if await _answers(port):
            # Prompts and the key are sent there. Docker's proxy is root's, whom every user trusts.
            return await asyncio.to_thread(session_listens, process.pid, port) or (
                os.geteuid() != 0 and root_listens(port)
            )
        await asyncio.sleep(0.1)
    raise EndpointError(
        f"the server of endpoint {spec.name!r} did not answer GET /v1/models on port {port} within "
        f"{spec.ready_timeout_s:.0f} s. The end of its log:\n{_tail(log)}"
    )


async def _answers(port: int) -> bool:
    """Ask for /v1/models: servers listen long before their model is loaded, and answer 503 meanwhile."""
    try:
        async with asyncio.timeout(5):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            try:
                writer.write(b"GET /v1/models HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
                await writer.drain()
                status = (await reader.readline()).split()
            finally:
                writer.close()
    except (OSError, TimeoutError):
        return False
    return len(status) > 1 and status[1].isdigit() and int(status[1]) < 500


def _tail(log: Path) -> str:
    return log.read_text("utf-8", "replace")[-2000:] or "(empty)"
