"""A real Prefect server on loopback for people who have none: started in the background, found again, stopped.

The ephemeral server that Prefect would start by itself loses task records when the process ends, so nobody could look
at a run afterwards. Ours stays: ``lema run`` starts it once, ``lema ui stop`` ends it. With PREFECT_API_URL set, that
server is used and nothing is started.
"""

import fcntl
import os
import socket
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from flows.operations.background import Background
from flows.operations.postgres import Postgres
from lema_core.errors import LemaError

DEFAULT_PORT = 4200
START_SECONDS = 120
HOME = Path(".lema") / "prefect"
"""Under the current directory, beside the default root: a checkout has its own server and its own history."""

HEARTBEAT_S = 30
"""The most often that Prefect lets a flow run give a sign of life."""
QUIET = {
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DO_NOT_TRACK": "1",
    # By the default of 180 s a killed run would be noticed after nine minutes.
    "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": str(HEARTBEAT_S),
}


def settings(home: Path, port: int) -> dict[str, str]:
    """Return the server's environment: loopback only, no telemetry, and room for bursts of task records."""
    database = Postgres(home.parent / "postgres")
    kept = (
        {"PREFECT_API_DATABASE_CONNECTION_URL": database.url("prefect", "postgresql+asyncpg")} if database.made else {}
    )
    return (
        QUIET
        | kept
        | {
            "PREFECT_HOME": str(home.resolve()),
            "PREFECT_SERVER_API_HOST": "127.0.0.1",
            # The UI takes its API address from these two, not from --port: a mismatch is a blank page.
            "PREFECT_SERVER_API_PORT": str(port),
            # The defaults record 22 to 40 task runs a second; a wide stage would overflow the queue and lose records.
            "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_READ_BATCH_SIZE": "200",
            "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_BATCH_SIZE": "200",
        }
    )


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
    facts = Background(home, "server").facts()
    return int(facts["port"]) if facts and _answers(int(facts["pid"]), int(facts["port"])) else None


def start(home: Path) -> int:
    """Start a server in the background, wait until it answers, and return its port.

    Raises:
        LemaError: it ended or did not answer; the message names its log.
    """
    database = Postgres(home.parent / "postgres")
    if database.made:
        # Once `lema up` made it, the history lies there, also for a server that `lema run` starts.
        database.start()
    for wished in (DEFAULT_PORT, 0, 0):
        port = _free_port(wished)
        if port and _started(home, port):
            return port
    raise LemaError("the ports for the Prefect server were taken by others, three times; run the same command again")


def _started(home: Path, port: int) -> bool:
    """Start a server at a port that was free a moment ago; False: another process took it meanwhile."""
    background = Background(home, "server")
    command = [sys.executable, "-m", "prefect", "server", "start"]
    process = background.start(command, settings(home, port), port=port)
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if _answers(process.pid, port):
            return True
        if process.poll() is not None:
            if _free_port(port) is None:
                return False
            raise LemaError(
                f"the Prefect server ended with {process.returncode} before it answered; see {background.log}"
            )
        time.sleep(0.2)
    background.stop()
    raise LemaError(f"the Prefect server did not answer on port {port} within {START_SECONDS} s; see {background.log}")


def stop(home: Path) -> bool:
    """Stop the server started from ``home``; tell whether there was one."""
    return Background(home, "server").stop()


@contextmanager
def _alone(home: Path) -> Iterator[None]:
    """Hold a lock that the kernel frees when we die: two runs at once must not start two servers."""
    try:
        home.mkdir(parents=True, exist_ok=True)
        lock = (home / "lock").open("w")
    except OSError as error:
        raise LemaError(
            f"{home.absolute()} cannot be written ({error}), and the Prefect server keeps its records there. "
            "Change to a folder that you may write to, or set PREFECT_API_URL to a server that runs."
        ) from error
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _answers(pid: int, port: int) -> bool:
    """Tell whether this very process answers there: another folder's server at the same port is not ours."""
    try:
        listening = psutil.Process(pid).net_connections(kind="tcp")
        if not any(one.status == psutil.CONN_LISTEN and one.laddr.port == port for one in listening):
            return False
        with urllib.request.urlopen(f"{api_url(port)}/health", timeout=5) as answer:  # noqa: S310 - loopback, fixed scheme
            return bool(answer.status == 200)
    except (OSError, psutil.Error):
        return False


def _free_port(wished: int) -> int | None:
    """Return the port, any free one for 0, or None where it is taken."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", wished))
        except OSError:
            return None
        return int(probe.getsockname()[1])
