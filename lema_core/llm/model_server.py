"""The server of an endpoint's command: started, watched while it is used, started again when it dies, ended.

Only of our own child process do we learn at once that it died; over HTTP a dead server looks like an outage of two
minutes.
"""

import asyncio
import logging
import os
import re
import socket
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from lema_core.errors import ConfigError, EndpointError
from lema_core.system.files import make_private_file
from lema_core.system.loopback import is_root_listening, is_session_listening
from lema_core.system.processes import HUB_TOKEN, device_environment, die_with_parent, end_group, program_environment

if TYPE_CHECKING:
    from lema_core.llm.endpoints import EndpointSpec

PORTS = 3
"""A chosen port may be taken before the server listens: the command is started with up to this many."""
RESTART_WAITS_S = (1.0, 5.0, 20.0)
"""A server that dies while it is used is started again after these waits; then the run ends."""
LOG_TAIL = 2000
"""Characters of a server's log that an error shows."""

_restarting: set[str] = set()
_logger = logging.getLogger(__name__)


def is_restarting(base_url: str | None) -> bool:
    """Return whether the server at a URL died and is being started again: its refused connections are no outage."""
    return base_url in _restarting


@asynccontextmanager
async def serving(
    spec: "EndpointSpec", logs: Path | None = None, notify: Callable[[str], None] | None = None
) -> AsyncIterator[str]:
    """Yield the base URL of the server of ``spec.command``, which runs until the end of the block.

    When it dies for good, the block is cancelled, and that ends as an `EndpointError` with the end of the log.

    Args:
        spec: an endpoint with a command.
        logs: folder that keeps the server's log; without one it is deleted at the end.
        notify: called with what a person should know: that it died, and that it is started again.

    Raises:
        ConfigError: the command's program does not exist.
        EndpointError: the server did not answer within ``ready_timeout_s``, ended before, or died too often.
    """
    with tempfile.TemporaryDirectory(prefix="lema-endpoint-") as folder:
        server = _Server(
            spec, (logs or Path(folder)) / f"{re.sub('[^A-Za-z0-9._-]', '_', spec.name)}.log", notify or _logger.warning
        )
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


class _Server:
    """One command's server, under one port for all its restarts."""

    def __init__(self, spec: "EndpointSpec", log: Path, notify: Callable[[str], None]) -> None:
        self.ended: int | None = None
        """The exit status, while it is not running."""
        self.failure: EndpointError | None = None
        self._spec, self._log, self._notify = spec, log, notify
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
        for wait in (*RESTART_WAITS_S, None):
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
            except EndpointError as error:
                self.failure = error
                break
            finally:
                _restarting.discard(self.url)
        self.failure = self.failure or EndpointError(
            f"{self.end_in_words()} It was started {1 + len(RESTART_WAITS_S)} times; what was paid is kept. Mend the "
            f"cause and run the same command again. The end of its log:\n{self._tail()}"
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
            EndpointError: it ended, or did not answer within ``ready_timeout_s``.
        """
        name, port = self._spec.name, self._port
        deadline = asyncio.get_running_loop().time() + self._spec.ready_timeout_s
        while asyncio.get_running_loop().time() < deadline:
            if process.returncode is not None:
                if await _answers(port):
                    return False
                raise EndpointError(
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


def free_port() -> int:
    """Return a port of the loopback interface that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


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
