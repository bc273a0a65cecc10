"""Servers on loopback: which requests they take, and whether a port is answered by the process that we started.

Loopback is no boundary. Every web page in the browser of this machine reaches it, by its address or by a host name of
the page's own that resolves to 127.0.0.1 (DNS rebinding). So each of our servers takes only requests that name it in
their Host header and that no page of another origin has sent. Against other users of the machine a secret is needed on
top: each server has its own.
"""

import os
import re
from collections.abc import Awaitable, Callable, Collection, Iterable, MutableMapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import psutil

__all__ = ["Gate", "GatedApp", "Refusal", "listens", "root_listens", "session_listens"]

_HOST = re.compile(r"(\[[0-9a-f:.]{2,45}\]|[^:\[\]]{1,255})(?::[0-9]{1,5})?")

UNFRAMED = "frame-ancestors 'none'"
"""A page of another port is of the same site: framed in it, a page of ours would have its stored login."""


class Refusal(NamedTuple):
    """Why a request is not taken."""

    status: int
    reason: str


@dataclass(frozen=True, slots=True)
class Gate:
    """Which requests a server on loopback takes."""

    hosts: Collection[str] = ("127.0.0.1", "localhost", "[::1]")
    """Names without a port: DNS rebinding changes the name, and an SSH tunnel changes the port."""
    origins: Collection[str] = ()
    """Origins beside the server's own, in lower case, as ``https://lema.example.org``."""

    def refusal(self, headers: Iterable[tuple[str, str]]) -> Refusal | None:
        """Return why a request with these headers is refused, or None."""
        values: dict[str, list[str]] = {}
        for name, value in headers:
            values.setdefault(name.lower(), []).append(value.strip().lower())
        host = values.get("host", [])
        named = _HOST.fullmatch(host[0]) if len(host) == 1 else None
        if named is None or named[1] not in self.hosts:
            return Refusal(400, f"the Host header does not name this server, which is {' or '.join(self.hosts)}")
        # One Origin header exactly: of two, the application could read the other one.
        origin = values.get("origin")
        if origin is not None:
            own = len(origin) == 1 and (origin[0] == f"http://{host[0]}" or origin[0] in self.origins)
            return None if own else _FOREIGN
        # Without an Origin: images, scripts and frames of a foreign page. A link that a person follows may pass.
        if set(values.get("sec-fetch-site", ())) & {"cross-site", "same-site"} and not (
            values.get("sec-fetch-mode") == ["navigate"] and values.get("sec-fetch-dest") == ["document"]
        ):
            return _FOREIGN
        return None


_FOREIGN = Refusal(403, "a page of another origin sent this request; only this server's own pages may")

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]


class GatedApp:
    """An ASGI application behind a gate: HTTP and web sockets alike; its pages cannot be framed.

    ``policy`` is more of a Content-Security-Policy that its pages get.
    """

    def __init__(self, app: App, gate: Gate, policy: str = "") -> None:
        self.app, self.gate = app, gate
        self._headers = (
            (b"x-frame-options", b"DENY"),
            (b"content-security-policy", "; ".join(filter(None, (UNFRAMED, policy))).encode()),
            (b"referrer-policy", b"same-origin"),
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] not in {"http", "websocket"}:
            await self.app(scope, receive, send)
            return
        refusal = self.gate.refusal(
            (name.decode("latin-1"), value.decode("latin-1")) for name, value in scope["headers"]
        )
        if refusal is None:
            await self.app(scope, receive, self._sending(send) if scope["type"] == "http" else send)
        elif scope["type"] == "websocket":
            # Closed before it was accepted: the server answers the handshake with 403.
            await send({"type": "websocket.close", "code": 1008, "reason": ""})
        else:
            plain = [(b"content-type", b"text/plain; charset=utf-8")]
            await send({"type": "http.response.start", "status": refusal.status, "headers": plain})
            await send({"type": "http.response.body", "body": refusal.reason.encode()})

    def _sending(self, send: Send) -> Send:
        async def sending(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), *self._headers]
            await send(message)

        return sending


def listens(pid: int, port: int) -> bool:
    """Tell whether a process listens on a port.

    A port that was free when it was chosen may be another process's by now, whose answers are not ours.
    """
    with suppress(psutil.Error):
        connections = psutil.Process(pid).net_connections(kind="tcp")
        return any(one.status == psutil.CONN_LISTEN and one.laddr.port == port for one in connections)
    return False


def session_listens(leader: int, port: int) -> bool:
    """Tell whether a process that we started in a session of its own listens on a port, or one that it started."""
    return any(listens(pid, port) for pid in _session(leader))


def _session(leader: int) -> Iterable[int]:
    """Yield a process and its descendants; a descendant whose parent ended is found by its session."""
    yield leader
    with suppress(psutil.Error):
        yield from (child.pid for child in psutil.Process(leader).children(recursive=True))
    for pid in psutil.pids():
        with suppress(OSError):
            if pid != leader and os.getsid(pid) == leader:
                yield pid


def root_listens(port: int) -> bool:
    """Tell whether the machine's root has a port, as Docker's proxy has the published ports of a container (Linux)."""
    listening, root = "0A", "0"
    for table in ("tcp", "tcp6"):
        with suppress(OSError):
            for line in Path("/proc/net", table).read_text(encoding="ascii").splitlines()[1:]:
                _, local, _, state, _, _, _, user, *_ = line.split()
                if state == listening and user == root and int(local.rpartition(":")[2], 16) == port:
                    return True
    return False
