"""An endpoint is a URL, or a command that starts a server; its identity is what answers, not where.

``running(spec)`` yields the URL to use: at once for a URL, after a readiness check for a command, whose whole process
group is stopped at the end.
"""

import asyncio
import logging
import os
import re
import shlex
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from lema_core.errors import ConfigError, EndpointError
from lema_core.llm.embedded import weights_identity
from lema_core.llm.parameters import HEADERS, Parameters, Params, Renames
from lema_core.llm.rules import AUTO, NONE, detect_family
from lema_core.llm.settings import DEFAULTS, BatchSettings, EngineSettings
from lema_core.system.files import make_private_file
from lema_core.system.loopback import free_port, is_root_listening, is_session_listening
from lema_core.system.processes import HUB_TOKEN, device_environment, die_with_parent, end_group, program_environment
from lema_core.system.redaction import get_redactor
from lema_core.system.urls import parse_base_url

PORTS = 3
"""A chosen port may be taken before the server listens: the command is started with up to this many."""
LOG_TAIL = 2000
"""Characters of a server's log that an error shows."""

_restarting: set[str] = set()
"""URLs of our servers that died and are being started again."""
_logger = logging.getLogger(__name__)


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
    def family(self) -> str:
        """Return the family whose rules its requests follow, ``none`` without one."""
        return detect_family(self.model, self.command or ()) if self.rules == AUTO else self.rules

    @property
    def headers(self) -> dict[str, str]:
        """Return the HTTP headers that every request to it carries."""
        found: Any = self.params.get(HEADERS) or {}
        return dict(found)

    @property
    def answers_as(self) -> str:
        """Return the identity with ``{weights}`` computed: the hash of the weights that ``model`` names, anywhere."""
        return weights_identity(self.model) if self.identity == WEIGHTS else self.identity

    def at(self, base_url: str) -> "EndpointSpec":
        """Return the same endpoint at a known URL."""
        update: dict[str, Any] = {"base_url": base_url, "command": None}
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


def is_restarting(base_url: str | None) -> bool:
    """Return whether the server at a URL died and is being started again: its refused connections are no outage."""
    return base_url in _restarting


@asynccontextmanager
async def running(
    spec: EndpointSpec,
    logs: Path | None = None,
    notify: Callable[[str], None] | None = None,
    settings: EngineSettings = DEFAULTS,
) -> AsyncIterator[str]:
    """Yield the base URL of the endpoint; the server of its command runs until the end of the block.

    When that server dies for good, the block is cancelled, and that ends as an `EndpointError` with the end of the log.

    Args:
        spec: where completions come from.
        logs: folder that keeps the server's log; without one it is deleted at the end.
        notify: called with what a person should know: that the server died, and that it is started again.
        settings: how often, and after which waits, it is started again.

    Raises:
        ConfigError: the spec names neither a URL nor a command, or the command's program does not exist.
        EndpointError: the server did not answer within ``ready_timeout_s``, ended before, or died too often.
    """
    if spec.base_url:
        yield spec.base_url
        return
    if not spec.command:
        raise ConfigError(f"endpoint {spec.name!r} has neither base_url nor command: say where {spec.model!r} answers")
    with tempfile.TemporaryDirectory(prefix="lema-endpoint-") as folder:
        log = (logs or Path(folder)) / f"{re.sub('[^A-Za-z0-9._-]', '_', spec.name)}.log"
        server = _Server(spec, log, notify or _logger.warning, settings.restart_waits_s)
        await server.start()
        user = asyncio.current_task()
        watch = asyncio.create_task(server.keep_alive(user))
        try:
            yield server.url
        except asyncio.CancelledError:
            # As asyncio.timeout does: if we alone cancelled the block, it ends with our error.
            if server.failure is None or user is None or user.uncancel() > 0:
                raise
            raise server.failure from None
        except EndpointError as error:
            if server.ended is None:
                raise
            raise EndpointError(f"{server.end_in_words()} {error}") from None
        finally:
            watch.cancel()
            with suppress(asyncio.CancelledError):
                await watch
            await server.stop()


class _EarlyEndError(EndpointError):
    """The server ended before it answered."""


class _Server:
    """One command's server, under one port for all its restarts.

    Only of our own child process do we learn at once that it died; over HTTP a dead server looks like an outage of two
    minutes.
    """

    def __init__(
        self, spec: EndpointSpec, log: Path, notify: Callable[[str], None], restart_waits_s: tuple[float, ...]
    ) -> None:
        self.ended: int | None = None
        """The exit status, while it is not running."""
        self.failure: EndpointError | None = None
        self._spec, self._log, self._notify = spec, log, notify
        self._restart_waits_s = restart_waits_s
        self._port = 0
        self._process: asyncio.subprocess.Process | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}/v1"

    async def start(self) -> None:
        """Start the server and wait until it answers.

        Raises:
            ConfigError: its program does not exist.
            EndpointError: it ended, did not answer in time, or never got a port.
        """
        self._log.parent.mkdir(parents=True, exist_ok=True)
        make_private_file(self._log)  # some servers write prompts into their log
        self._log.write_bytes(b"")
        for _ in range(PORTS):
            self._port = free_port()
            if await self._start_process():
                return
        raise EndpointError(
            f"the server of endpoint {self._spec.name!r} was started {PORTS} times, and each time another process had "
            "taken its port. Expected the command itself to listen there (a container: start it yourself and give its "
            "base_url). Run the same command again"
        )

    async def keep_alive(self, user: "asyncio.Task[object] | None") -> None:
        """Start the server again when it dies; cancel the task that uses it when that does not help."""
        for wait in (*self._restart_waits_s, None):
            assert self._process is not None  # noqa: S101  start() was called
            self.ended = await self._process.wait()
            if wait is None:
                break
            self._notify(f"{self.end_in_words()} It is started again in {wait:g} s.")
            _restarting.add(self.url)
            try:
                await asyncio.sleep(wait)
                await end_group(self._process)
                if not await self._start_process():
                    break
                self.ended = None
            except _EarlyEndError:
                continue  # it died once more: the next wait may help, as after any other death
            except EndpointError as error:
                self.failure = error
                break
            finally:
                _restarting.discard(self.url)
        self.failure = self.failure or EndpointError(
            f"{self.end_in_words()} It was started {1 + len(self._restart_waits_s)} times; what was paid is kept. "
            f"Mend the cause and run the same command again. The end of its log:\n{self._tail()}"
        )
        if user is not None:
            user.cancel()

    async def stop(self) -> None:
        """End the server and everything that it started."""
        if self._process is not None:
            await end_group(self._process)

    def end_in_words(self) -> str:
        """Say that the server ended, how, and where its log is."""
        status = self.ended
        how = f"was ended by signal {-status}" if status is not None and status < 0 else f"ended with status {status}"
        last = next((line.strip() for line in reversed(self._tail().splitlines()) if line.strip()), "")
        return f"The server of endpoint {self._spec.name!r} {how}. Its last words: {last[:300] or '(none)'}."

    async def _start_process(self) -> bool:
        """Start the process at our port and wait until it answers; False where another process has the port."""
        words = [
            word.replace("{model}", self._spec.model).replace("{port}", str(self._port))
            for word in self._spec.command or ()
        ]
        self._process = await self._spawn(words)
        ready = False
        try:
            ready = await self._until_ready(self._process)
        finally:
            if not ready:
                await end_group(self._process)
        return ready

    async def _spawn(self, words: list[str]) -> asyncio.subprocess.Process:
        environment = device_environment(program_environment((HUB_TOKEN, *self._spec.environment)))
        with self._log.open("ab") as out:
            try:
                return await asyncio.create_subprocess_exec(
                    *words,
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=out,
                    stderr=out,
                    env=environment,
                    start_new_session=True,
                    # A run that is killed must not leave a model server behind, with its memory and its GPU.
                    preexec_fn=die_with_parent,
                )
            except OSError as error:
                raise ConfigError(
                    f"endpoint {self._spec.name!r}: cannot start {words[0]!r} ({error.strerror})"
                ) from None

    async def _until_ready(self, process: asyncio.subprocess.Process) -> bool:
        """Wait until the server answers; False where another process has its port.

        Raises:
            _EarlyEndError: it ended.
            EndpointError: it did not answer within ``ready_timeout_s``.
        """
        name, port = self._spec.name, self._port
        deadline = asyncio.get_running_loop().time() + self._spec.ready_timeout_s
        while asyncio.get_running_loop().time() < deadline:
            if process.returncode is not None:
                if await _answers(port):
                    return False
                raise _EarlyEndError(
                    f"the server of endpoint {name!r} ended with {process.returncode} before it answered. "
                    f"The end of its log:\n{self._tail()}"
                )
            if await _answers(port):
                # Prompts and the key are sent there. Docker's proxy is root's, whom every user trusts.
                return await asyncio.to_thread(is_session_listening, process.pid, port) or (
                    os.geteuid() != 0 and is_root_listening(port)
                )
            await asyncio.sleep(0.1)
        raise EndpointError(
            f"the server of endpoint {name!r} did not answer GET /v1/models on port {port} within "
            f"{self._spec.ready_timeout_s:.0f} s. The end of its log:\n{self._tail()}"
        )

    def _tail(self) -> str:
        with self._log.open("rb") as log:
            log.seek(max(0, self._log.stat().st_size - LOG_TAIL))
            return log.read().decode("utf-8", "replace") or "(empty)"


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
    except (OSError, TimeoutError, ValueError):
        return False
    return len(status) > 1 and status[1].isdigit() and int(status[1]) < 500
