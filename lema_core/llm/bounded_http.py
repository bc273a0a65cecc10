"""HTTP with bounds: each reply of an endpoint has a size limit and a deadline, and each error is ours.

Nothing that a server sends is trusted: a body may be endless, unpack to a thousand times its size, or be no HTTP.
aiohttp's own limits bound the status line, each header (8,190 bytes) and their number (128); the rest is bounded here.
Its exceptions contain the request with its headers, so none leaves this module: what leaves is an `AttemptError`.
"""

import asyncio
import math
import sys
import zlib
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO
from urllib.parse import quote

import aiohttp
from yarl import URL

from lema_core.llm.responses import AttemptError
from lema_core.system.loopback import find_proxy

MOST_BYTES = 64 * 10**6
"""No reply may be larger, unpacked or not; only downloads into a file may."""
LEAST_CAP_BYTES = 128 * 1024
"""A reply may have this many bytes, however few tokens were requested: servers add fields of their own, and some do not
count thinking. A stream has up to a thousand answers in memory, so this bounds it."""
BYTES_A_TOKEN = 32
"""Most tokens are five bytes of JSON; escaped CJK takes nine, and a server may repeat the thinking in three fields."""
LOGPROB_BYTES = 400
"""Of one alternative of one token, with its text, its bytes and its number."""
UNCAPPED_TOKENS = 2**15
"""What a request without a cap allows: 1 MiB, or 200,000 tokens of English in one field."""
ERROR_BYTES = 64 * 1024
"""Read of the body of an error, for its message; the rest is dropped."""
ERROR_BODY_S = 5.0
"""How long to wait for that body once the status is known."""
SMALL_BYTES = 512 * 1024
"""Replies up to this size are read concurrently."""
ALL_SMALL_BYTES = 32 * 10**6
"""Memory for all small replies together; with many connections a reply counts as small up to its share of it."""
PIECE_BYTES = 256 * 1024
"""How much of a compressed body is unpacked at a time."""


@dataclass(frozen=True, slots=True)
class Reply:
    """A whole reply. The content of an error status (not 2xx) is its first `ERROR_BYTES`."""

    status: int
    headers: Mapping[str, str]
    content: bytes

    @property
    def is_success(self) -> bool:
        """Return whether the status is one of success."""
        return 200 <= self.status < 300


def reply_limit(body: Mapping[str, object], sent: int = 0) -> int:
    """Return the most bytes that an answer to a chat completion body may have; ``sent``: bytes of the request.

    Derived from the cap of tokens: a server that sends more ignored the request.
    """
    cap = body.get("max_tokens") or body.get("max_completion_tokens")
    tokens = cap if isinstance(cap, int) else UNCAPPED_TOKENS
    alternatives = 0
    if body.get("logprobs"):
        top = body.get("top_logprobs")
        alternatives = 1 + (top if isinstance(top, int) else 0)
    # Some servers repeat the prompt, or its tokens.
    size = tokens * (BYTES_A_TOKEN + LOGPROB_BYTES * alternatives) + 8 * sent
    return max(LEAST_CAP_BYTES, min(MOST_BYTES, size))


class BoundedSession:
    """HTTP to one base URL, in one event loop. ``redact`` removes secrets from every text that leaves it.

    Every method raises AttemptError for whatever goes wrong: ``deadline``, ``connection`` (nothing, or half of a reply,
    arrived) or ``malformed`` (what arrived is no HTTP, cannot be unpacked, or is too large).
    """

    def __init__(
        self,
        base_url: str,
        headers: Mapping[str, str],
        redact: Callable[[str], str],
        connections: int,
        connect_s: float,
    ) -> None:
        self._base = URL(base_url)
        self._redact = redact
        self._connect_s = connect_s
        named = find_proxy(base_url)
        proxy = URL(named) if named else None
        self._proxy = proxy and proxy.with_user(None)
        login: dict[str, str] = {}
        if proxy is not None and proxy.user is not None:
            login["Proxy-Authorization"] = aiohttp.encode_basic_auth(proxy.user, proxy.password or "")
        secure = self._base.scheme == "https"
        # A tunnel is opened by a request of its own; without one the proxy reads the request itself.
        self._tunnel = login if secure and login else None
        # Not the session's: aiohttp would send those to the proxy too, the key with them.
        self._headers = {"Accept-Encoding": "gzip, deflate", **headers, **({} if secure else login)}
        connector = aiohttp.TCPConnector(limit=connections)
        self._session = aiohttp.ClientSession(
            connector=connector,
            # Our own deadline ends an attempt; a second timer for each would only cost CPU.
            timeout=aiohttp.ClientTimeout(sock_connect=connect_s),
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
        )
        self._urls: dict[str, URL] = {}
        self._small = min(SMALL_BYTES, ALL_SMALL_BYTES // connections)
        # One large reply at a time: 64 replies just below their limits would fill the memory together.
        self._large = asyncio.Semaphore(1)

    async def send(
        self,
        method: str,
        path: str,
        *,
        most: int,
        seconds: float,
        data: bytes | aiohttp.FormData | None = None,
        params: Mapping[str, str] | None = None,
        into: BinaryIO | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Reply:
        """Send a request; return the reply, of at most ``most`` bytes, that came within ``seconds``.

        ``path`` begins with a slash and goes below the base URL as it is: make parts from outside by `segment`. With
        ``into`` the body is written there as it comes, and the reply's content is empty unless it is an error. After an
        AttemptError the file has the beginning of the body.
        """
        response: aiohttp.ClientResponse | None = None
        sent = {**self._headers, **(headers or {})}
        if isinstance(data, bytes):
            sent["Content-Type"] = "application/json"
        timer = asyncio.timeout(seconds)
        try:
            async with timer:
                response = await self._session.request(
                    method,
                    self._url(path, params),
                    data=data,
                    headers=sent,
                    allow_redirects=False,
                    proxy=self._proxy,
                    proxy_headers=self._tunnel,
                )
                if not 200 <= response.status < 300:
                    content = await _read_error_body(response, timer)
                elif into is None:
                    content = await self._read_body(response, most)
                else:
                    content = b""
                    async for piece in _pieces(response, most):
                        into.write(piece)
                return Reply(response.status, response.headers, content)
        except AttemptError as error:
            failed = error
        # Of any class: a library's exception may contain our headers.
        except Exception as error:  # noqa: BLE001 see above
            if timer.expired():
                failed = AttemptError("deadline", f"no answer within {round(seconds, 2):g} s", maybe_paid=True)
            else:
                failed = self._to_attempt_error(error, answered=response is not None)
        finally:
            # The rest of an unread body would precede the next reply of this connection.
            if response is not None and response.content.is_eof() and response.content.exception() is None:
                response.release()
            elif response is not None:
                response.close()
        failed.answered = response is not None
        # Outside of the handler, so that no traceback finds the library's exception as the context of ours.
        raise failed

    async def close(self) -> None:
        """Close the connections."""
        await self._session.close()

    def _url(self, path: str, params: Mapping[str, str] | None) -> URL:
        known = self._urls.get(path)
        if known is None:
            base = self._base
            # Not joinpath(): it would resolve dots.
            known = URL(f"{base.with_query(None)}".rstrip("/") + path, encoded=True).with_query(base.query)
            if len(self._urls) < 16:
                self._urls[path] = known
        return known.update_query(params) if params else known

    async def _read_body(self, response: aiohttp.ClientResponse, most: int) -> bytes:
        pieces, size, large = list[bytes](), 0, False
        try:
            async for piece in _pieces(response, most):
                pieces.append(piece)
                size += len(piece)
                if size > self._small and not large:
                    await self._large.acquire()
                    large = True
        finally:
            if large:
                # The next waiter continues when this task next yields: by then the caller has parsed the content.
                self._large.release()
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _to_attempt_error(self, error: Exception, *, answered: bool) -> AttemptError:
        """Return what an exception of the libraries means, in words without secrets."""
        detail = self._redact(f"{type(error).__name__}: {error}")
        if isinstance(error, aiohttp.ClientHttpProxyError):
            detail = f"the proxy answered HTTP {error.status}"
        elif isinstance(error, aiohttp.ConnectionTimeoutError):
            detail = f"no connection within {self._connect_s:g} s"
        if isinstance(error, _NOT_SENT):
            return AttemptError("connection", detail, not_sent=True)
        if isinstance(error, zlib.error):
            return AttemptError("malformed", f"the reply cannot be unpacked ({detail})", maybe_paid=True)
        # The same bad bytes fail the body instead of the reply when the head came in a packet of its own. A body that
        # was cut off is a `PayloadEncodingError`: that is a lost connection.
        cause = error.__cause__ if isinstance(error, aiohttp.ClientPayloadError) else error
        cut_off = isinstance(cause, aiohttp.http_exceptions.PayloadEncodingError) and cause is not error
        if isinstance(cause, aiohttp.ClientResponseError | aiohttp.http_exceptions.HttpProcessingError) and not cut_off:
            return AttemptError("malformed", f"the reply is no valid HTTP ({detail})", maybe_paid=True)
        lost = isinstance(error, aiohttp.ClientError | OSError) or not answered
        return AttemptError("connection" if lost else "malformed", detail, maybe_paid=True)


_NOT_SENT = (
    aiohttp.ClientHttpProxyError,
    aiohttp.ConnectionTimeoutError,
    aiohttp.ClientConnectorError,
    aiohttp.InvalidURL,
    UnicodeError,
)
"""Exceptions that come before anything was sent to the endpoint."""


def segment(text: str) -> str:
    """Return a part of a path that an endpoint named, such that it stays one part."""
    return quote(text, safe="").replace(".", "%2E")


async def _read_error_body(response: aiohttp.ClientResponse, timer: asyncio.Timeout) -> bytes:
    """Return the first bytes of an error's body, as far as they arrive: the status matters most."""
    pieces, size = list[bytes](), 0
    left = (timer.when() or math.inf) - asyncio.get_running_loop().time()
    try:
        # Half of the time left: an endless body must not turn a refusal into a deadline.
        async with asyncio.timeout(min(ERROR_BODY_S, left / 2)):
            async for piece in _pieces(response, sys.maxsize):
                pieces.append(piece)
                size += len(piece)
                if size >= ERROR_BYTES:
                    break
    # The end may be missing, broken, or never arrive.
    except Exception:  # noqa: BLE001, S110 see above
        pass
    return b"".join(pieces)[:ERROR_BYTES]


async def _pieces(response: aiohttp.ClientResponse, most: int) -> AsyncIterator[bytes]:
    """Yield a body unpacked, of at most ``most`` bytes before and after."""
    announced = response.content_length
    if announced is not None and announced > most:
        raise _too_large_error(most, f"it announces {announced}")
    unpack = _unpacker_for(response.headers)
    arrived = size = 0
    async for data in response.content.iter_any():
        arrived += len(data)
        if arrived > most:
            raise _too_large_error(most)
        if unpack is None:
            yield data
            continue
        for piece in unpack.pieces(data):
            size += len(piece)
            if size > most:
                raise _too_large_error(most, f"unpacked from {arrived}")
            yield piece
    if unpack is not None and arrived:
        unpack.finish()


def _too_large_error(most: int, more: str = "") -> AttemptError:
    return AttemptError(
        "malformed",
        f"the reply has more than {most} bytes{f' ({more})' if more else ''}, the most that its max_tokens allows (a "
        "request without max_tokens is taken to allow 32,768)",
        maybe_paid=True,
    )


def _unpacker_for(headers: Mapping[str, str]) -> "_Unpacker | None":
    encoding = headers.get("Content-Encoding", "").strip().lower()
    if encoding in {"", "identity"}:
        return None
    if encoding in {"gzip", "x-gzip"}:
        return _Unpacker(31)
    if encoding == "deflate":
        return _Unpacker(15)
    raise AttemptError(
        "malformed", f"the reply is compressed in a way that was not asked for: {encoding[:40]!r}", maybe_paid=True
    )


class _Unpacker:
    """Unpacks one stream of gzip (window bits 31) or deflate (15, or -15 without zlib's header) in bounded pieces.

    What follows the stream is left: a stream of many tiny members would take quadratic time.
    """

    def __init__(self, bits: int) -> None:
        self._bits = bits
        self._inflate: Any = None
        self._begun = b""

    def pieces(self, data: bytes) -> Iterator[bytes]:
        """Yield what more data unpacks to."""
        if self._inflate is None:
            self._begun += data
            if len(self._begun) < 2:
                return
            data, self._begun = self._begun, b""
            headless = self._bits == 15 and (data[0] & 15 != 8 or int.from_bytes(data[:2], "big") % 31)
            self._inflate = zlib.decompressobj(-15 if headless else self._bits)
        while not self._inflate.eof and (piece := self._inflate.decompress(data, PIECE_BYTES)):
            yield piece
            data = self._inflate.unconsumed_tail

    def finish(self) -> None:
        """Check that the stream has ended."""
        if self._inflate is None or not self._inflate.eof:
            raise AttemptError("malformed", "the reply cannot be unpacked: it is cut off", maybe_paid=True)
