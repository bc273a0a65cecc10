"""Loopback: our servers there are reached without a proxy, and take requests from their own pages and programs only.

A proxy would carry what goes to a local model out of the machine, with its key. And loopback is no boundary: every
web page in the browser of this machine reaches it, by its address or by a host name of the page's own that resolves
to 127.0.0.1 (DNS rebinding). So each of our servers takes only requests that name it in their Host header and that no
page of another origin has sent. Against other users of the machine each server has a secret of its own.
"""

import ipaddress
import os
import re
import socket
import urllib.request
from collections.abc import Awaitable, Callable, Collection, Iterable, MutableMapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import psutil

from lema_core.errors import ConfigError

LOOPBACK = ("127.0.0.1", "::1", "localhost")
"""The names under which we reach our own servers."""


def keep_loopback_direct(environ: MutableMapping[str, str] = os.environ) -> None:
    """Except loopback from the proxies of an environment, for all libraries and for programs that inherit it.

    Both spellings are set: curl and Python read the lower-case one first, others only the upper-case one.
    """
    named = environ.get("no_proxy") or environ.get("NO_PROXY") or ""
    hosts = [host.strip() for host in named.split(",") if host.strip()]
    if "*" in hosts:
        return
    excepted = ",".join([*hosts, *(host for host in LOOPBACK if host not in hosts)])
    environ["NO_PROXY"] = environ["no_proxy"] = excepted


def is_loopback(host: str | None) -> bool:
    """Return whether a host's name or address is this machine's own."""
    name = (host or "").rstrip(".").lower()
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return address.is_loopback or address.is_unspecified or bool(mapped and mapped.is_loopback)


def find_proxy(url: str) -> str | None:
    """Return the environment's proxy for a URL; None for loopback, whatever the environment says.

    Raises:
        ConfigError: it names one that is no HTTP proxy.
    """
    parts = urlsplit(url)
    if parts.hostname is None or is_loopback(parts.hostname) or urllib.request.proxy_bypass(parts.hostname):
        return None
    proxies = urllib.request.getproxies()
    named = proxies.get(parts.scheme) or proxies.get("all")
    if not named:
        return None
    named = named if "://" in named else f"http://{named}"
    try:
        parts_named = urlsplit(named)
        usable = parts_named.scheme in {"http", "https"} and bool(parts_named.hostname) and parts_named.port != 0
    except ValueError:
        usable = False
    if not usable:
        # Its text may hold a password.
        raise ConfigError(
            f"the proxy that the environment names for {parts.scheme}:// addresses is not of the form http://host:port "
            f"(SOCKS is not supported): correct the variable, or name {parts.hostname} in NO_PROXY"
        )
    return named


__all__ = ["FilteredApp", "Refusal", "RequestFilter", "is_listening", "is_root_listening", "is_session_listening"]
_HOST = re.compile(r"(\[[0-9a-f:.]{2,45}\]|[^:\[\]]{1,255})(?::[0-9]{1,5})?")
UNFRAMED = "frame-ancestors 'none'"
"""A page of another port is of the same site: framed in it, a page of ours would have its stored login."""


class Refusal(NamedTuple):
    """Why a request is refused."""

    status: int
    reason: str


@dataclass(frozen=True, slots=True)
class RequestFilter:
    """Which requests a server on loopback accepts."""

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


class FilteredApp:
    """An ASGI application behind a request filter, for HTTP and web sockets; its pages cannot be framed.

    ``policy`` extends the Content-Security-Policy of its pages.
    """

    def __init__(self, app: App, request_filter: RequestFilter, policy: str = "") -> None:
        self.app, self.filter = app, request_filter
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
        refusal = self.filter.refusal(
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


def is_listening(pid: int, port: int) -> bool:
    """Return whether a process listens on a port.

    A port that was free when it was chosen may belong to another process now, whose answers are not ours.
    """
    with suppress(psutil.Error):
        connections = psutil.Process(pid).net_connections(kind="tcp")
        return any(
            connection.status == psutil.CONN_LISTEN and connection.laddr.port == port for connection in connections
        )
    return False


def is_session_listening(leader: int, port: int) -> bool:
    """Return whether a process that leads a session of ours, or one that it started, listens on a port."""
    return any(is_listening(pid, port) for pid in _session(leader))


def _session(leader: int) -> Iterable[int]:
    """Yield a process and its descendants; a descendant whose parent ended is found by its session."""
    yield leader
    with suppress(psutil.Error):
        yield from (child.pid for child in psutil.Process(leader).children(recursive=True))
    for pid in psutil.pids():
        with suppress(OSError):
            if pid != leader and os.getsid(pid) == leader:
                yield pid


def is_root_listening(port: int) -> bool:
    """Return whether root listens on a port, as Docker's proxy does for published ports of a container (Linux)."""
    listening, root = "0A", "0"
    for table in ("tcp", "tcp6"):
        with suppress(OSError):
            for line in Path("/proc/net", table).read_text(encoding="ascii").splitlines()[1:]:
                _, local, _, state, _, _, _, user, *_ = line.split()
                if state == listening and user == root and int(local.rpartition(":")[2], 16) == port:
                    return True
    return False


def free_port() -> int:
    """Return a port of the loopback interface that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
