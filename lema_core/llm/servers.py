"""The servers that an endpoint's command starts: their processes, ports, logs, and what happens when one dies."""

import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from lema_core.errors import ConfigError, EndpointError
from lema_core.system.files import make_private_file
from lema_core.system.loopback import free_port, is_root_listening, is_session_listening
from lema_core.system.processes import (
    HUB_TOKEN,
    Devices,
    device_environment,
    die_with_parent,
    end_group,
    module_environment,
    program_environment,
    use_devices,
)

if TYPE_CHECKING:
    from lema_core.llm.endpoints import EndpointSpec

PORTS = 3
"""A chosen port may be taken before the server listens: the command is started with up to this many."""
LOG_TAIL = 2000
"""Characters of a server's log that an error shows."""

_down: set[str] = set()
"""URLs of our servers that died: being started again, or given up."""


def is_down(base_url: str | None) -> bool:
    """Return whether a server that we started is dead. Nothing is sent there: another process may take its port."""
    return base_url in _down


class _EarlyEndError(EndpointError):
    """The server ended before it answered."""


class Server:
    """One server of a command, under one port for all its restarts.

    Only of our own child process do we learn at once that it died; over HTTP a dead server looks like an outage of two
    minutes.
    """

    def __init__(
        self,
        spec: "EndpointSpec",
        log: Path,
        notify: Callable[[str], None],
        restart_waits_s: tuple[float, ...],
        number: int = 0,
        devices: Devices = (),
    ) -> None:
        self.ended: int | None = None
        """The exit status, while it is not running."""
        self.failure: EndpointError | None = None
        self._spec, self._log, self._notify = spec, log, notify
        self._restart_waits_s = restart_waits_s
        self._slot, self._devices = spec.first_slot + number, devices
        which = "the server" if spec.replicas == 1 else f"server {number + 1} of {spec.replicas}"
        self._named = f"{which} of endpoint {spec.name!r}"
        self._port = 0
        self._process: asyncio.subprocess.Process | None = None

    @property
    def url(self) -> str:
        """Return the base URL, whose port is known from the start on."""
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
            f"{self._named} was started {PORTS} times, and each time another process had "
            "taken its port. Expected the command itself to listen there (a container: start it yourself and give its "
            "base_url). Run the same command again"
        )

    async def keep_alive(self) -> None:
        """Start the server again when it dies; return with ``failure`` set when that does not help."""
        for wait in (*self._restart_waits_s, None):
            assert self._process is not None  # noqa: S101  start() was called
            self.ended = await self._process.wait()
            _down.add(self.url)
            if wait is None:
                break
            self._notify(f"{self.end_in_words()} It is started again in {wait:g} s.")
            try:
                await asyncio.sleep(wait)
                await end_group(self._process)
                if not await self._start_process():
                    break
                self.ended = None
                _down.discard(self.url)
            except _EarlyEndError:
                continue  # it died once more: the next wait may help, as after any other death
            except EndpointError as error:
                self.failure = error
                break
        self.failure = self.failure or EndpointError(
            f"{self.end_in_words()} It was started {1 + len(self._restart_waits_s)} times; what was paid is kept. "
            f"Mend the cause and run the same command again. The end of its log:\n{self._tail()}"
        )
        if self._spec.replicas > 1:
            self._notify(f"{self._named} is given up; the others go on as long as one lives. {self.failure}")

    async def stop(self) -> None:
        """End the server and everything that it started."""
        if self._process is not None:
            await end_group(self._process)
        _down.discard(self.url)

    def end_in_words(self) -> str:
        """Say that the server ended, how, and where its log is."""
        status = self.ended
        how = f"was ended by signal {-status}" if status is not None and status < 0 else f"ended with status {status}"
        last = next((line.strip() for line in reversed(self._tail().splitlines()) if line.strip()), "")
        named = self._named[0].upper() + self._named[1:]
        return f"{named} {how}. Its last words: {last[:300] or '(none)'}."

    async def _start_process(self) -> bool:
        """Start the process at our port and wait until it answers; False where another process has the port."""
        filled = {"{model}": self._spec.model, "{port}": str(self._port), "{slot}": str(self._slot)}
        words = list(self._spec.command or ())
        for name, value in filled.items():
            words = [word.replace(name, value) for word in words]
        self._process = await self._spawn(words)
        ready = False
        try:
            ready = await self._until_ready(self._process)
        finally:
            if not ready:
                await end_group(self._process)
        return ready

    async def _spawn(self, words: list[str]) -> asyncio.subprocess.Process:
        with use_devices(self._devices):
            environment = device_environment(program_environment((HUB_TOKEN, *self._spec.environment)))
        if " ".join(words[1:3]).startswith("-m lema_core."):
            environment = module_environment(environment)
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
        port = self._port
        deadline = asyncio.get_running_loop().time() + self._spec.ready_timeout_s
        while asyncio.get_running_loop().time() < deadline:
            if process.returncode is not None:
                if await _answers(port):
                    return False
                raise _EarlyEndError(
                    f"{self._named} ended with {process.returncode} before it answered. "
                    f"The end of its log:\n{self._tail()}"
                )
            if await _answers(port):
                # Prompts and the key are sent there. Docker's proxy is root's, whom every user trusts.
                return await asyncio.to_thread(is_session_listening, process.pid, port) or (
                    os.geteuid() != 0 and is_root_listening(port)
                )
            await asyncio.sleep(0.1)
        raise EndpointError(
            f"{self._named} did not answer GET /v1/models on port {port} within "
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
