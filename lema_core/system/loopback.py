"""Loopback is never reached by a proxy: what goes to a local model or server would leave the machine with its key."""

import ipaddress
import os
import urllib.request
from collections.abc import MutableMapping
from urllib.parse import urlsplit

from lema_core.errors import ConfigError

LOOPBACK = ("127.0.0.1", "::1", "localhost")
"""The names under which we reach our own servers."""


def keep_loopback_direct(environ: MutableMapping[str, str] = os.environ) -> None:
    """Except loopback from the proxies that an environment names: for all libraries, and for processes that inherit it.

    Both spellings are set: curl and Python read the small one first, others only the large one.
    """
    named = environ.get("no_proxy") or environ.get("NO_PROXY") or ""
    hosts = [host.strip() for host in named.split(",") if host.strip()]
    if "*" in hosts:
        return
    excepted = ",".join([*hosts, *(host for host in LOOPBACK if host not in hosts)])
    environ["NO_PROXY"] = environ["no_proxy"] = excepted


def is_loopback(host: str | None) -> bool:
    """Say whether a host's name or address is this machine's own."""
    name = (host or "").rstrip(".").lower()
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return address.is_loopback or address.is_unspecified or bool(mapped and mapped.is_loopback)


def proxy_of(url: str) -> str | None:
    """Return the proxy that the environment names for a URL; none for loopback, whatever the environment says.

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
    if not _is_http(named):
        # Its text may hold a password.
        raise ConfigError(
            f"the proxy that the environment names for {parts.scheme}:// addresses is not of the form http://host:port "
            f"(SOCKS is not supported): correct the variable, or name {parts.hostname} in NO_PROXY"
        )
    return named


def _is_http(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False
