"""A real Prefect server on loopback for people who have none: started in the background, found again, stopped.

The ephemeral server that Prefect would start by itself loses task records when the process ends, so runs could not be
viewed afterwards. Ours stays: ``lema run`` starts it once, ``lema ui stop`` ends it. With PREFECT_API_URL set, that
server is used and nothing is started.

A user of this server can read its Secret blocks and start programs through its worker. So it asks for the
authentication string of its folder and takes requests of no other origin (``server_program``). The string is made
with the folder and kept in a file that only its owner can read. Commands, workers and the runs that they start get it
through their environment, never through their arguments, which every user can list.
"""

import base64
import fcntl
import hashlib
import hmac
import os
import re
import secrets
import socket
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.error import HTTPError
from urllib.parse import urlsplit

from flows.local_stack.background import Background
from flows.local_stack.postgres import Postgres
from lema_core.errors import ConfigError, LemaError
from lema_core.system.files import make_private_folder, write_private_once
from lema_core.system.loopback import is_listening
from lema_core.system.processes import module_environment, program_environment

AUTH_FILE = "auth"
LOGIN_S = 24 * 3600
"""How long a printed address logs a browser in: people look at a run the morning after."""
LOGIN_PATH = "/open"
_KNOWN = "PREFECT_SERVER_API_AUTH_STRING"


def auth_string(home: Path) -> str:
    """Return the authentication string of the server in ``home``, which is made where none exists.

    The first one is that of PREFECT_SERVER_API_AUTH_STRING where it is set, else random.

    Raises:
        ConfigError: the file holds none, or the folder belongs to another user.
    """
    file = make_private_folder(home) / AUTH_FILE
    try:
        if not file.exists():
            write_private_once(file, os.environ.get(_KNOWN) or f"lema:{secrets.token_urlsafe(24)}")
        text = file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file.absolute()} cannot be read or written ({error}); {_remedy(file)}") from None
    if not re.fullmatch(r"[!-~]{8,}", text):
        raise ConfigError(
            f"{file.absolute()} holds no authentication string: expected at least 8 visible ASCII characters on one "
            f"line; {_remedy(file)}"
        )
    return text


def _remedy(file: Path) -> str:
    return f"stop the server (lema down, or lema ui stop) and remove {file.name}: the next start makes a new one"


def stored_login(auth: str) -> str:
    """Return the string as the UI keeps it in the browser, and as clients send it after ``Basic``."""
    return base64.b64encode(auth.encode()).decode()


def login_token(auth: str, server: int) -> str:
    """Return a token that logs a browser in once, within a day, to the server process with this id.

    It is signed, so that a command can make it without asking the server.
    """
    words = f"{secrets.token_urlsafe(9)}.{int(time.time()) + LOGIN_S:x}"
    return f"{_sign(auth, server, words)}.{words}"


class Logins:
    """The server's side of login tokens: each is taken once."""

    def __init__(self, auth: str, server: int) -> None:
        self._auth, self._server = auth, server
        self._used: dict[str, float] = {}
        """Tokens that were taken, with the time (seconds since 1970) after which they are refused anyway."""

    def take(self, token: str) -> bool:
        """Return whether a token is ours, not expired and not used before; it is used now."""
        signature, _, words = token.partition(".")
        if not token.isascii() or not hmac.compare_digest(signature, _sign(self._auth, self._server, words)):
            return False
        now, until = time.time(), float(int(words.rpartition(".")[2], 16))
        self._used = {used: end for used, end in self._used.items() if end > now}
        if not now < until or token in self._used:
            return False
        self._used[token] = until
        return True


def _sign(auth: str, server: int, words: str) -> str:
    digest = hmac.digest(auth.encode(), f"login {server} {words}".encode(), hashlib.sha256)
    return base64.urlsafe_b64encode(digest[:18]).decode()


DEFAULT_PORT = 4200
START_SECONDS = 120
HOME = Path(".lema") / "prefect"
"""Under the current directory, beside the default root: a checkout has its own server and its own history."""

HEARTBEAT_S = 30
"""The shortest heartbeat interval that Prefect accepts."""
QUIET = {
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DO_NOT_TRACK": "1",
    # With the default of 180 s a killed run would be detected after nine minutes.
    "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": str(HEARTBEAT_S),
}


def settings(home: Path, port: int) -> dict[str, str]:
    """Return the server's environment: loopback only, locked, no telemetry, and room for bursts of task records."""
    database = Postgres(home.parent / "postgres")
    # Behind a proxy the page has another address, which the user names.
    ui_api = os.environ.get("PREFECT_UI_API_URL") or api_url(port)
    page = urlsplit(ui_api)
    origins = dict.fromkeys((f"{page.scheme}://{page.netloc}", f"http://127.0.0.1:{port}", f"http://localhost:{port}"))
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
            "PREFECT_UI_API_URL": ui_api,
            # By default every web page may read every answer, Secret blocks too.
            "PREFECT_SERVER_CORS_ALLOWED_ORIGINS": ",".join(origins),
            "PREFECT_SERVER_API_AUTH_STRING": auth_string(home),
            # The defaults record 22 to 40 task runs a second; a wide stage would overflow the queue and lose records.
            "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_READ_BATCH_SIZE": "200",
            "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_BATCH_SIZE": "200",
        }
    )


def ensure_server() -> str:
    """Return the API URL to use, starting a server where none is set and none of ours answers; set it for Prefect.

    Raises:
        LemaError: it cannot be started, or one runs that does not ask for this folder's authentication string.
    """
    given = os.environ.get("PREFECT_API_URL")
    if given:
        return given
    with _locked(HOME):
        port = running_port(HOME)
        if port is None:
            port = start(HOME)
        else:
            check_lock(HOME, port)
    os.environ.update(QUIET | client_settings(HOME, port))
    return api_url(port)


def client_settings(home: Path, port: int) -> dict[str, str]:
    """Return the environment of a program that uses the server of ``home``."""
    return {
        "PREFECT_API_URL": api_url(port),
        "PREFECT_API_AUTH_STRING": auth_string(home),
        "PREFECT_HOME": str(home.resolve()),
    }


def api_url(port: int) -> str:
    """Return the API's address on this machine."""
    return f"http://127.0.0.1:{port}/api"


def ui_url(api: str, page: str = "") -> str:
    """Return a page of the UI that belongs to an API address."""
    return f"{api.removesuffix('/').removesuffix('/api')}/v2/{page}"


def login_url(api: str, page: str = "", home: Path = HOME) -> str:
    """Return an address of the UI to print: one that logs a browser in once where the server is that of ``home``."""
    facts = Background(home, "server").facts()
    if facts is None or api != api_url(int(facts["port"])):
        return ui_url(api, page)
    # A fragment is not sent to servers, so no log of theirs holds it.
    return f"{api.removesuffix('/api')}{LOGIN_PATH}/{page}#{login_token(auth_string(home), int(facts['pid']))}"


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
        # Once `lema up` made it, it holds the history, also for a server that `lema run` starts.
        database.start()
    for wished in (DEFAULT_PORT, 0, 0):
        port = _free_port(wished)
        if port and _start_at(home, port):
            return port
    raise LemaError("the ports for the Prefect server were taken by others, three times; run the same command again")


def _start_at(home: Path, port: int) -> bool:
    """Start a server at a port that was free a moment ago; False: another process took it meanwhile."""
    background = Background(home, "server")
    command = [sys.executable, "-m", "flows.local_stack.server_program"]
    # Its own settings and no provider's key: the server needs none.
    inherited = program_environment([name for name in os.environ if name.startswith("PREFECT_")])
    process = background.start(command, module_environment(inherited) | settings(home, port), port=port)
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
    """Stop the server started from ``home``; return whether there was one."""
    return Background(home, "server").stop()


def check_lock(home: Path, port: int) -> None:
    """Refuse a server that does not ask for the string of ``home``: one that an older LeMa started, or another string.

    Raises:
        LemaError: it takes requests without the string, or not with it.
    """
    remedy = (
        "Stop it when no run uses it (`lema down`, or `lema ui stop` without a worker), then run the same command again"
    )
    if _status(port, "/admin/version") == 200:
        raise LemaError(
            f"the Prefect server at {api_url(port)} was started by an older LeMa and takes requests of every web page "
            f"and user of this machine. {remedy}"
        )
    if _status(port, "/admin/version", auth_string(home)) == 401:
        raise LemaError(
            f"the Prefect server at {api_url(port)} does not take the authentication string in {home / AUTH_FILE}: the "
            f"file was changed after its start. {remedy}"
        )


def _status(port: int, path: str, auth: str | None = None) -> int:
    """Return the status of an answer of our server; 0 where none came."""
    headers = {"Authorization": f"Basic {stored_login(auth)}"} if auth else {}
    request = urllib.request.Request(f"{api_url(port)}{path}", headers=headers)  # noqa: S310 - loopback, fixed scheme
    try:
        with urllib.request.urlopen(request, timeout=5) as answer:  # noqa: S310 - as above
            return int(answer.status)
    except HTTPError as error:
        return error.code
    except OSError:
        return 0


@contextmanager
def _locked(home: Path) -> Iterator[None]:
    """Hold a lock that the kernel releases when we die: two runs must not start two servers."""
    try:
        lock = (make_private_folder(home) / "lock").open("w")
    except OSError as error:
        raise LemaError(
            f"{home.absolute()} cannot be written ({error}), and the Prefect server keeps its records there. "
            "Change to a folder that you may write to, or set PREFECT_API_URL to a server that runs."
        ) from error
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _answers(pid: int, port: int) -> bool:
    """Return whether this very process answers: another folder's server may have the same port."""
    return is_listening(pid, port) and _status(port, "/health") == 200


def _free_port(wished: int) -> int | None:
    """Return the port, any free one for 0, or None where it is taken."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", wished))
        except OSError:
            return None
        return int(probe.getsockname()[1])
