"""URLs that people write into run files and options: parsed strictly, in one place, and without secrets.

A URL of a ledger, a root, a source, an endpoint or a scheduler stands in run files, records, errors and the parameters
of flows. So none of them may hold a password or a key, and a URL that is not plainly of an expected kind is refused
rather than taken for the path of a file. No error shows more of a refused URL than its scheme.
"""

import re
from collections.abc import Collection
from dataclasses import dataclass
from urllib.parse import unquote_plus

from lema_core.errors import ConfigError

HTTP = frozenset({"http", "https"})
POSTGRES = frozenset({"postgresql", "postgres"})
_KEY_GOES = "name the environment variable that holds the key by api_key_env"
_PGPASSWORD = "give the password in the environment variable PGPASSWORD, in ~/.pgpass, or in a file named ?passfile="

_SCHEME = re.compile(r"\s*([A-Za-z][A-Za-z0-9+.\-]*)://")
_DATABASE = re.compile(r"^\s*(postgres\w*|pgsql|psql|pg|sqlite\w*|mysql\w*|mariadb\w*)(\+\w*)?(:|//)", re.IGNORECASE)
_CONNINFO = re.compile(r"(^|\s)(host|hostaddr|dbname|user|password|passfile|service|sslmode)\s*=", re.IGNORECASE)
_BARE_LOGIN = re.compile(r"^\s*(//)?[^/\s:]+:.*@", re.DOTALL)
"""``user:password@host`` without a scheme; a file of such a name is written with ``./`` before it."""
_UNSAFE = re.compile(r"[\x00-\x20\x7f-\x9f\\\s]|[\ud800-\udfff]")
_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+(?:%25[\w.~-]+)?\]|(?:[^\[\]:@%\s]|%[0-9A-Fa-f]{2})*)(:\d{0,5})?")
_SECRET_NAME = re.compile(
    r"pass(?!file$)|pwd|secret|token|key(?!word|epa|board)|cred|sig(nature)?$|^sig|auth|bearer|jwt|sas$|session|cookie|"
    r"^code$|^pw$|^pin$|login"
)
_SECRET_VALUE = re.compile(
    r"(sk|pk|rk|hf|gh[a-z]|xox[a-z]|glpat|gsk|nvapi|AKIA|ASIA|AIza|eyJ)[-_A-Za-z0-9]*[-_A-Za-z0-9.]{12,}|"
    r"(?=[^/]*\d)(?=[^/]*[A-Za-z])[A-Za-z0-9_+=~-]{24,}"
)
_OF_LIBPQ = frozenset({
    "host", "hostaddr", "port", "dbname", "user", "passfile", "channel_binding", "connect_timeout",
    "client_encoding", "options", "application_name", "fallback_application_name", "keepalives", "keepalives_idle",
    "keepalives_interval", "keepalives_count", "tcp_user_timeout", "replication", "gssencmode", "sslmode",
    "sslnegotiation", "sslcompression", "sslcert", "sslkey", "sslcertmode", "sslrootcert", "sslcrl", "sslcrldir",
    "sslsni", "requirepeer", "ssl_min_protocol_version", "ssl_max_protocol_version", "krbsrvname", "gsslib",
    "gssdelegation", "service", "servicefile", "target_session_attrs", "load_balance_hosts", "require_auth",
})  # fmt: skip
"""Parameters that libpq takes in a URL, less those that are secrets."""
_PAIRS_BEFORE_HOST = frozenset({"github"})
"""``github://owner:repository@branch/path``: the part before the ``@`` is no password."""


@dataclass(frozen=True, slots=True)
class Url:
    """A URL without secrets, in its parts."""

    scheme: str
    """In lower case."""
    user: str
    hosts: tuple[str, ...]
    """Without ports and brackets; PostgreSQL takes several, all other schemes have one, which may be empty."""
    path: str
    query: str

    text: str
    """The whole URL, its scheme in lower case."""

    @property
    def host(self) -> str:
        """Return the first host in lower case."""
        return self.hosts[0].lower()

    @property
    def shown(self) -> str:
        """Return the URL for messages: without its query and its user."""
        return f"{self.scheme}://{','.join(self.hosts)}{self.path}"


def scheme_of(text: str) -> str | None:
    """Return the scheme of ``scheme://...`` in lower case, None where the text is no such URL."""
    found = _SCHEME.match(text)
    return found[1].lower() if found else None


def parse_url(text: str, what: str, schemes: Collection[str], secrets_go: str) -> Url:
    """Return a URL in its parts.

    Args:
        text: the URL as it was written.
        what: what it is, for the message: ``base_url``, ``the ledger``.
        schemes: those that are expected; another one is refused.
        secrets_go: the end of the message where the URL holds a secret: how it is given instead.

    Raises:
        ConfigError: it is no URL of these schemes, it is malformed, or it holds a password or a key. The message shows
            nothing of it but its scheme.
    """
    scheme = scheme_of(text)
    if scheme is None or scheme not in schemes:
        expected = " or ".join(f"{known}://" for known in sorted(schemes, reverse=True)[:4])
        seen = f"starts with {scheme}://" if scheme else "is no URL"
        raise ConfigError(f"{what} {seen}, which is not usable here. Expected {expected}")
    rest = text.strip()[len(scheme) + 3 :]
    authority, path, query, fragment = _split(rest)
    # The authority may be the first half of ``user:password@host``.
    if "@" in path + query + fragment and (
        scheme in POSTGRES or (":" in authority and "@" not in authority and scheme not in _PAIRS_BEFORE_HOST)
    ):
        # A password with / ? or # ends the authority early, and its second half would be taken for a path.
        raise ConfigError(
            _holds(what, scheme, "an @ behind its host, as where a password stands before it", secrets_go)
        )
    user, at, place = authority.rpartition("@")
    if "@" in user or (":" in unquote_plus(user) and scheme not in _PAIRS_BEFORE_HOST) or (at and scheme in HTTP):
        raise ConfigError(_holds(what, scheme, "a user with a password, or a key, before its host", secrets_go))
    if name := _secret_in(query, scheme):
        raise ConfigError(_holds(what, scheme, f"{name} in its query", secrets_go))
    hosts = place.split(",") if scheme in POSTGRES else [place]
    strict = rest if scheme in HTTP | POSTGRES else authority
    if _UNSAFE.search(strict) or "\0" in rest or not all(map(_is_host, hosts)):
        raise ConfigError(
            f"{what} (a {scheme}:// URL) is malformed: its host is not of the form name, name:port or [IPv6]:port, or "
            "it holds blanks or control characters. If these belong to a password, it is not for the URL: "
            f"{secrets_go}"
        )
    if scheme in HTTP and (fragment or not place.partition(":")[0]):
        raise ConfigError(
            f"{what} (a {scheme}:// URL) has no host, or a part behind #. Expected {scheme}://host:port/v1"
        )
    names = tuple(_HOST.fullmatch(host)[1].strip("[]") for host in hosts)  # type: ignore[index]
    return Url(scheme, user, names, path, query, f"{scheme}://{rest}")


def parse_base_url(text: str, what: str = "base_url") -> Url:
    """Return an endpoint's address in its parts.

    Raises:
        ConfigError: as ``parse_url``.
    """
    found = parse_url(text, what, HTTP, _KEY_GOES)
    if "@" in found.text:
        raise ConfigError(_holds(what, found.scheme, "an @, as where a user stands before its host", _KEY_GOES))
    return found


def postgres_url(text: str) -> Url | None:
    """Return the parts of a ledger's PostgreSQL URL, None where the text is the path of a file.

    Raises:
        ConfigError: it is a URL or a connection string of another kind, is malformed, or holds a password.
    """
    scheme = scheme_of(text)
    if scheme in POSTGRES:
        return parse_url(text, "the ledger's URL", POSTGRES, _PGPASSWORD)
    if scheme or "://" in text or any(pattern.search(text) for pattern in (_DATABASE, _CONNINFO, _BARE_LOGIN)):
        raise ConfigError(
            f"the ledger is neither the path of a file nor a postgresql:// URL{f' ({scheme}://)' if scheme else ''}. "
            "Give a SQLite file as a plain path, or a database as postgresql://user@host/name; its password comes from "
            "PGPASSWORD or a passfile"
        )
    if not text.strip() or "\0" in text:
        raise ConfigError("the ledger's place is empty or holds a NUL. Give a file or a postgresql:// URL")
    return None


def _holds(what: str, scheme: str, secret: str, secrets_go: str) -> str:
    return (
        f"{what} (a {scheme}:// URL) holds {secret}. Files, records, errors and the UI would show it: take it "
        f"out and {secrets_go}"
    )


def _is_host(text: str) -> bool:
    found = _HOST.fullmatch(text)
    return found is not None and int((found[2] or "")[1:] or 0) < 65536


def _split(rest: str) -> tuple[str, str, str, str]:
    """Return authority, path, query and fragment."""
    rest, _, fragment = rest.partition("#")
    rest, _, query = rest.partition("?")
    authority, slash, path = rest.partition("/")
    return authority, slash + path, query, fragment


def _secret_in(query: str, scheme: str) -> str | None:
    """Return the first parameter that is a secret, by its name or by the look of its value."""
    for piece in filter(None, re.split("[&;]", query)):
        name, _, value = (unquote_plus(part) for part in piece.partition("="))
        plain = re.sub(r"[^a-z0-9]", "", name.lower())
        if scheme in POSTGRES:
            secret = name not in _OF_LIBPQ or bool(_CONNINFO.search(value))
        else:
            secret = bool(_SECRET_NAME.search(plain) or _SECRET_VALUE.search(value) or _SECRET_VALUE.search(name))
        if secret:
            # Of a parameter's name no more than letters: it may be the secret itself.
            return f"{plain!r}" if re.fullmatch("[a-z]{1,24}", plain) else "a parameter that may be a secret"
    return None
