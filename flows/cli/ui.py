"""A real Prefect server on loopback for people who have none: started in the background, found again, stopped.

The ephemeral server that Prefect would start by itself loses task records when the process ends, so nobody could look
at a run afterwards. Ours stays: ``lema run`` starts it once, ``lema ui stop`` ends it. With PREFECT_API_URL set, that
server is used and nothing is started.
"""

import fcntl
import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import psutil
import typer

from flows.cli.console import console
from lema_core.errors import LemaError

DEFAULT_PORT = 4200
START_SECONDS = 120
HOME = Path(".lema") / "prefect"
"""Under the current directory, beside the default root: a checkout has its own server and its own history."""

ui_app = typer.Typer(help="The Prefect server and UI that `lema run` starts when PREFECT_API_URL is not set.")

QUIET = {"PREFECT_SERVER_ANALYTICS_ENABLED": "false", "DO_NOT_TRACK": "1"}


def settings(home: Path, port: int) -> dict[str, str]:
    """Return the server's environment: loopback only, no telemetry, and room for bursts of task records."""
    return QUIET | {
        "PREFECT_HOME": str(home.resolve()),
        "PREFECT_SERVER_API_HOST": "127.0.0.1",
        # The UI takes its API address from these two, not from --port: a mismatch is a blank page.
        "PREFECT_SERVER_API_PORT": str(port),
        # The defaults record 22 to 40 task runs a second; a wide stage would overflow the queue and lose records.
        "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_READ_BATCH_SIZE": "200",
        "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_BATCH_SIZE": "200",
    }


def ensure_server() -> str:
    """Return the API URL to use, starting a server where none is set and none of ours answers; set it for Prefect."""
    given = os.environ.get("PREFECT_API_URL")
    if given:
        return given
    with _alone(HOME):
        port = running_port(HOME) or start(HOME)
    os.environ.update(QUIET, PREFECT_API_URL=api_url(port), PREFECT_HOME=str(HOME.resolve()))
    return api_url(port)


def api_url(port: int) -> str:
    """Return the API's address on this machine."""
    return f"http://127.0.0.1:{port}/api"


def ui_url(api: str, page: str = "") -> str:
    """Return a page of the UI that belongs to an API address."""
    return f"{api.removesuffix('/').removesuffix('/api')}/v2/{page}"


def running_port(home: Path) -> int | None:
    """Return the port of the server that was started from ``home``, or None where it is gone."""
    state = _state(home)
    if state is None or _process(state) is None or not _healthy(int(state["port"])):
        return None
    return int(state["port"])


def start(home: Path) -> int:
    """Start a server in the background, wait until it answers, and return its port.

    Raises:
        LemaError: it ended or did not answer; the message names its log.
    """
    home.mkdir(parents=True, exist_ok=True)
    port = _free_port()
    log = home / "server.log"
    with log.open("ab") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "prefect", "server", "start"], env=os.environ | settings(home, port),
            stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True,
        )  # fmt: skip
    state = {"pid": process.pid, "started": psutil.Process(process.pid).create_time(), "port": port}
    (home / "server.json").write_text(json.dumps(state), encoding="utf-8")
    _wait_until_healthy(process, port, log)
    return port


def stop(home: Path) -> bool:
    """Stop the server started from ``home``; tell whether there was one."""
    state = _state(home)
    process = _process(state) if state else None
    (home / "server.json").unlink(missing_ok=True)
    if process is None:
        return False
    group = [process, *process.children(recursive=True)]
    process.terminate()
    _, alive = psutil.wait_procs(group, timeout=10)
    for survivor in alive:
        survivor.kill()
    return True


@contextmanager
def _alone(home: Path) -> Iterator[None]:
    """Hold a lock that the kernel frees when we die: two runs at once must not start two servers."""
    home.mkdir(parents=True, exist_ok=True)
    with (home / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _state(home: Path) -> dict[str, float] | None:
    try:
        state: dict[str, float] = json.loads((home / "server.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return state


def _process(state: dict[str, float]) -> psutil.Process | None:
    try:
        process = psutil.Process(int(state["pid"]))
        # After a reboot the number may belong to somebody else's process.
        same = abs(process.create_time() - state["started"]) < 1
    except psutil.Error:
        return None
    return process if same else None


def _healthy(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"{api_url(port)}/health", timeout=5) as answer:  # noqa: S310 - loopback, fixed scheme
            return bool(answer.status == 200)
    except OSError:
        return False


def _free_port() -> int:
    for port in (DEFAULT_PORT, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise LemaError("no free port on 127.0.0.1 for the Prefect server; close something and run again")


def _wait_until_healthy(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if _healthy(port):
            return
        if process.poll() is not None:
            raise LemaError(f"the Prefect server ended with {process.returncode} before it answered; see {log}")
        time.sleep(0.2)
    raise LemaError(f"the Prefect server did not answer on port {port} within {START_SECONDS} s; see {log}")


@ui_app.command("start")
def start_command() -> None:
    """Start the server (if it is not there already) and say where its UI is."""
    console.print(f"Prefect UI: {ui_url(ensure_server(), 'dashboard')}")


@ui_app.command("stop")
def stop_command() -> None:
    """Stop the server that was started from this directory. Its history stays."""
    console.print("stopped" if stop(HOME) else "no server was running")


@ui_app.command("status")
def status_command(quiet: Annotated[bool, typer.Option(help="Print only the API URL.")] = False) -> None:
    """Say whether the server is running and where."""
    port = running_port(HOME)
    if port is None:
        console.print("not running; `lema ui start` starts it")
        raise typer.Exit(1)
    console.print(api_url(port) if quiet else f"running: {ui_url(api_url(port), 'dashboard')} (API {api_url(port)})")
