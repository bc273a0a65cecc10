"""Who may use the Prefect server of a folder: its authentication string, and addresses that log a browser in once.

The string is made with the folder and kept in it, in a file that only its owner can read. Commands, workers and the
runs that they start get it through their environment, never through their arguments, which every user can list.
"""

import base64
import hashlib
import hmac
import os
import re
import secrets
import time
from pathlib import Path

from lema_core.errors import ConfigError
from lema_core.system.private_files import private_folder, write_private_once

AUTH_FILE = "auth"
LOGIN_S = 24 * 3600
"""How long a printed address logs a browser in: runs are looked at the morning after."""
LOGIN_PATH = "/open"
_KNOWN = "PREFECT_SERVER_API_AUTH_STRING"


def auth_string(home: Path) -> str:
    """Return the authentication string of the server in ``home``, which is made where none exists.

    The first one is that of PREFECT_SERVER_API_AUTH_STRING where it is set, else random.

    Raises:
        ConfigError: the file holds none, or the folder belongs to another user.
    """
    file = private_folder(home) / AUTH_FILE
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
    return f"{_signed(auth, server, words)}.{words}"


class Logins:
    """The server's side of login tokens: each is taken once."""

    def __init__(self, auth: str, server: int) -> None:
        self._auth, self._server = auth, server
        self._used: dict[str, float] = {}
        """Tokens that were taken, with the time (seconds since 1970) after which they are refused anyway."""

    def take(self, token: str) -> bool:
        """Tell whether a token is ours, not expired and not used before; it is used now."""
        signature, _, words = token.partition(".")
        if not token.isascii() or not hmac.compare_digest(signature, _signed(self._auth, self._server, words)):
            return False
        now, until = time.time(), float(int(words.rpartition(".")[2], 16))
        self._used = {used: end for used, end in self._used.items() if end > now}
        if not now < until or token in self._used:
            return False
        self._used[token] = until
        return True


def _signed(auth: str, server: int, words: str) -> str:
    digest = hmac.digest(auth.encode(), f"login {server} {words}".encode(), hashlib.sha256)
    return base64.urlsafe_b64encode(digest[:18]).decode()
