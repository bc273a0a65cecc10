"""A chat endpoint on loopback that misbehaves in each of the ways that clients meet, or an attacker thinks of.

``http://127.0.0.1:PORT/NAME/v1`` shows the behaviour NAME; ``GET /_stats`` says how often each prompt of a behaviour
was posted since the last time. A behaviour is written in bytes on a socket, because a web framework would correct it.
"""

import asyncio
import base64
import gzip
import html
import json
import urllib.parse
import zlib
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

Outcome = Literal["answered", "nothing", "some"]
"""What a client should have at the end: every answer, none, or a mixture."""
BOMB_BYTES = 150 * 10**6
TIRED_BYTES = 400 * 10**6
"""Where an endless reply ends: a client that reads so far has failed, and the machine is shared."""


class Exchange:
    """One request and the socket to answer it on."""

    def __init__(self, writer: asyncio.StreamWriter, key: str, prompt: str, tries: int) -> None:
        self.writer = writer
        self.key = key
        self.prompt = prompt
        self.tries = tries
        """How often this prompt was posted before."""

    async def raw(self, *pieces: bytes, pause: float = 0.0) -> None:
        """Write bytes as they are."""
        for piece in pieces:
            self.writer.write(piece)
            await self.writer.drain()
            await asyncio.sleep(pause)

    async def reply(
        self, body: bytes | str | Any, status: str = "200 OK", *headers: str, kind: str = "application/json"
    ) -> None:
        """Write a whole and well-formed reply."""
        content = body if isinstance(body, bytes) else (body if isinstance(body, str) else json.dumps(body)).encode()
        lines = [f"HTTP/1.1 {status}", f"Content-Type: {kind}", f"Content-Length: {len(content)}", *headers]
        await self.raw("\r\n".join(lines).encode("utf-8", "surrogateescape") + b"\r\n\r\n" + content)

    async def endless(self, head: bytes, piece: bytes, pause: float = 0.0) -> None:
        """Write a head, and then a piece again and again."""
        await self.raw(head)
        for _ in range(TIRED_BYTES // len(piece)):
            await self.raw(piece, pause=pause)

    def cut(self) -> None:
        """Reset the connection."""
        self.writer.transport.abort()


Behave = Callable[[Exchange], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Behaviour:
    """What the endpoint does, and what a client is expected to make of it."""

    name: str
    family: str
    behave: Behave
    outcome: Outcome
    tries: int
    """Posts of one prompt at most: what the client's class of failure allows, or for classes that wait, what back-off
    lets through in the trial's time."""
    contact: bool = False
    """GET /models misbehaves too."""


def good(content: Any = "The answer is 4.", finish: Any = "stop", usage: Any = None, **more: Any) -> dict[str, Any]:
    """Return a well-formed answer."""
    usage = {"prompt_tokens": 12, "completion_tokens": 6, "total_tokens": 18} if usage is None else usage
    message = {"role": "assistant", "content": content}
    return {
        "id": "x",
        "object": "chat.completion",
        "model": "hostile",
        "choices": [{"index": 0, "message": message, "finish_reason": finish}],
        "usage": usage,
        **more,
    }


GOOD = json.dumps(good()).encode()
OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
WHOLE = OK + b"Content-Length: %d\r\n\r\n" % len(GOOD) + GOOD

MALFORMED, CONNECTION, SERVER_ERROR, ONCE, DEADLINE, PACED = 3, 8, 5, 1, 3, 12
"""Posts that each class allows; `PACED` is what a back-off that doubles lets through in a trial of some seconds."""

BEHAVIOURS: dict[str, Behaviour] = {}


def _add(family: str, name: str, behave: Behave, outcome: Outcome, tries: int, *, contact: bool = False) -> None:
    assert name not in BEHAVIOURS, name
    BEHAVIOURS[name] = Behaviour(name, family, behave, outcome, tries, contact)


def _raw(*pieces: bytes, pause: float = 0.0) -> Behave:
    return lambda exchange: exchange.raw(*pieces, pause=pause)


def _reply(body: Any, status: str = "200 OK", *headers: str, kind: str = "application/json") -> Behave:
    return lambda exchange: exchange.reply(body, status, *headers, kind=kind)


def _endless(head: bytes, piece: bytes, pause: float = 0.0) -> Behave:
    return lambda exchange: exchange.endless(head, piece, pause)


def _closing(content: bytes) -> Behave:
    async def behave(exchange: Exchange) -> None:
        await exchange.raw(content)
        exchange.writer.close()

    return behave


def _framing() -> None:
    broken = {
        "chunk_size": CHUNKED + b"zz\r\nhello\r\n0\r\n\r\n",
        "chunk_size_negative": CHUNKED + b"-5\r\nhello\r\n0\r\n\r\n",
        "chunk_size_huge": CHUNKED + b"f" * 40 + b"\r\nhello\r\n",
        "chunk_no_end_of_line": CHUNKED + b"5\r\nhelloworld\r\n0\r\n\r\n",
        "two_lengths": OK + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}x",
        "length_negative": OK + b"Content-Length: -5\r\n\r\n{}",
        "length_huge": OK + b"Content-Length: 99999999999999999999999999\r\n\r\n{}",
        "length_words": OK + b"Content-Length: many\r\n\r\n{}",
        "length_and_chunked": OK + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        "long_header": OK + b"X: " + b"a" * 20_000 + b"\r\nContent-Length: 2\r\n\r\n{}",
        "many_headers": OK + b"".join(b"X%d: a\r\n" % n for n in range(500)) + b"Content-Length: 2\r\n\r\n{}",
        "header_without_colon": OK + b"nonsense\r\nContent-Length: 2\r\n\r\n{}",
        "header_nul": OK + b"X: a\0b\r\nContent-Length: 2\r\n\r\n{}",
        "header_bare_return": OK + b"X: a\rb\r\nContent-Length: 2\r\n\r\n{}",
        "header_blank_name": OK + b" : a\r\nContent-Length: 2\r\n\r\n{}",
        "status_words": b"HTTP/1.1 abc OK\r\nContent-Length: 2\r\n\r\n{}",
        "status_missing": b"HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}",
        "status_four_digits": b"HTTP/1.1 2000 OK\r\nContent-Length: 2\r\n\r\n{}",
        "version": b"HTTP/3.7 200 OK\r\nContent-Length: 2\r\n\r\n{}",
        "bytes_after": OK + b"Content-Length: 2\r\n\r\n" + GOOD,
        "trailer": CHUNKED + b"%x\r\n" % len(GOOD) + GOOD + b"\r\n0\r\nbad trailer\r\n\r\n",
        "upgrade": b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
    }
    for name, content in broken.items():
        _add("framing", f"framing_{name}", _raw(content), "nothing", MALFORMED)
    sideways = OK + b"Transfer-Encoding: sideways\r\nConnection: close\r\n\r\n" + GOOD
    _add("framing", "framing_encoding_unknown", _closing(sideways), "answered", ONCE)
    pieces = [WHOLE[at : at + 1] for at in range(len(WHOLE))]
    _add("framing", "framing_byte_by_byte", _raw(*pieces), "answered", ONCE)
    _add("framing", "framing_continue_first", _raw(b"HTTP/1.1 100 Continue\r\n\r\n", WHOLE), "answered", ONCE)
    _add("framing", "framing_small_case", _raw(WHOLE.replace(b"Content-", b"content-")), "answered", ONCE)
    _add(
        "framing", "framing_ends_with_connection", _closing(OK + b"Connection: close\r\n\r\n" + GOOD), "answered", ONCE
    )


def _not_http() -> None:
    said = {
        "ssh": b"SSH-2.0-OpenSSH_9.6\r\n",
        "redis": b"-ERR unknown command 'POST'\r\n",
        "smtp": b"220 mail.example ESMTP\r\n",
        "tls_alert": b"\x15\x03\x01\x00\x02\x02\x0a",
        "mysql": b"J\x00\x00\x00\x0a8.0.36\x00\x08\x00\x00\x00",
        "http2": b"\x00\x00\x12\x04\x00\x00\x00\x00\x00\x00\x03\x00\x00\x00\x80",
        "html": b"<html><body>It works!</body></html>\r\n\r\n",
        "noise": bytes(range(256)) * 8,
    }
    for name, content in said.items():
        _add("not HTTP", f"contact_{name}", _raw(content), "nothing", 0, contact=True)


def _connections() -> None:
    async def cut(exchange: Exchange) -> None:
        exchange.cut()

    def cut_after(content: bytes) -> Behave:
        async def behave(exchange: Exchange) -> None:
            await exchange.raw(content, pause=0.02)
            exchange.cut()

        return behave

    async def silent(_exchange: Exchange) -> None:
        await asyncio.sleep(60)

    async def second_try(exchange: Exchange) -> None:
        if exchange.tries:
            await exchange.raw(WHOLE)
        else:
            exchange.cut()

    half = WHOLE[: len(WHOLE) - 20]
    _add("connections", "reset_at_once", cut, "nothing", CONNECTION)
    _add("connections", "reset_in_status", cut_after(b"HTTP/1."), "nothing", CONNECTION)
    _add("connections", "reset_in_headers", cut_after(OK), "nothing", CONNECTION)
    _add("connections", "reset_in_body", cut_after(half), "nothing", CONNECTION)
    _add("connections", "reset_in_chunks", cut_after(CHUNKED + b"20\r\n{"), "nothing", CONNECTION)
    _add("connections", "close_without_a_word", _closing(b""), "nothing", CONNECTION)
    _add("connections", "close_in_body", _closing(half), "nothing", CONNECTION)
    _add("connections", "close_in_chunks", _closing(CHUNKED + b"20\r\n{"), "nothing", CONNECTION)
    _add("connections", "silence", silent, "nothing", DEADLINE)
    _add("connections", "silence_after_status", lambda e: _then(e.raw(OK), silent(e)), "nothing", DEADLINE)
    _add("connections", "silence_in_body", lambda e: _then(e.raw(half), silent(e)), "nothing", DEADLINE)
    _add("connections", "second_try_works", second_try, "answered", CONNECTION)


async def _then(*steps: Awaitable[None]) -> None:
    for step in steps:
        await step


def _statuses() -> None:
    words = {"error": {"message": "no", "type": "some_error", "code": None}}
    tries = {
        **dict.fromkeys((401, 402, 403, 404), ONCE),
        **dict.fromkeys((400, 405, 406, 410, 411, 413, 415, 418, 422, 451), ONCE),
        **dict.fromkeys((408, 409, 425, 500, 501, 505, 507, 599), SERVER_ERROR),
        **dict.fromkeys((502, 504, 520, 521, 522, 523, 524), CONNECTION),
        **dict.fromkeys((429, 503, 529), PACED),
        **dict.fromkeys((300, 304, 305), ONCE),
        **dict.fromkeys((199, 204, 205, 999), SERVER_ERROR),
    }
    for status, most in tries.items():
        body = b"" if status in {204, 205, 304} else json.dumps(words).encode()
        _add("statuses", f"status_{status}", _reply(body, f"{status} Odd"), "nothing", most)
    bodies = {
        "empty": b"",
        "html": b"<html><h1>502 Bad Gateway</h1></html>",
        "binary": bytes(range(256)),
        "surrogate": b'{"error":{"message":"half \\ud83d a pair"}}',
        "deep": b"[" * 50_000,
        "deep_object": b'{"error":' * 30_000,
        "number": b"1" * 6000,
        "null": b"null",
        "escapes": json.dumps(
            {"error": {"message": "\x1b]0;owned\x07\x1b[2J\x1b]52;c;cm0=\x07\r\nerror: all is well"}}
        ).encode(),
        "bidi": json.dumps({"error": {"message": "\u202egnp.exe\u2066 \u200f"}}).encode(),
        "long": json.dumps({"error": {"message": "x" * 200_000}}).encode(),
    }
    for status, most in ((400, ONCE), (401, ONCE), (500, SERVER_ERROR)):
        for name, content in bodies.items():
            _add("status x body", f"body_{status}_{name}", _reply(content, f"{status} Odd"), "nothing", most)


def _shapes() -> None:
    quota = {"message": "You exceeded your current quota", "type": "insufficient_quota"}
    shapes: dict[str, tuple[str, Any, int]] = {
        "openai_quota": ("429", {"error": {**quota, "code": "insufficient_quota"}}, ONCE),
        "quota_in_type_code_429": ("429", {"error": {**quota, "code": "429"}}, ONCE),
        "quota_number_code": ("429", {"error": {**quota, "code": 429}}, ONCE),
        "quota_400": ("400", {"error": {"message": "no", "code": "insufficient_quota", "type": "billing"}}, ONCE),
        "gemini_list_400": (
            "400",
            [
                {
                    "error": {
                        "code": 400,
                        "message": "API key not valid.",
                        "status": "INVALID_ARGUMENT",
                        "details": [{"@type": "ErrorInfo", "reason": "API_KEY_INVALID"}],
                    }
                }
            ],
            ONCE,
        ),
        "gemini_list_429": (
            "429",
            [{"error": {"code": 429, "message": "Quota", "status": "RESOURCE_EXHAUSTED"}}],
            PACED,
        ),
        "anthropic_400": (
            "400",
            {"type": "error", "error": {"type": "invalid_request_error", "message": "credit balance"}},
            ONCE,
        ),
        "azure_filter": (
            "400",
            {"error": {"code": "content_filter", "innererror": {"code": "ResponsibleAIPolicyViolation"}}},
            ONCE,
        ),
        "azure_access": ("401", {"statusCode": 401, "message": "Access denied due to invalid subscription key"}, ONCE),
        "fastapi_detail": (
            "422",
            {"detail": [{"loc": ["body", "model"], "msg": "field required", "type": "missing"}]},
            ONCE,
        ),
        "fastapi_string": ("400", {"detail": "Unknown model"}, ONCE),
        "string": ("400", {"error": "bad"}, ONCE),
        "json_string": ("500", "only a string", SERVER_ERROR),
        "list_of_strings": ("400", ["a", "b"], ONCE),
        "error_number": ("400", {"error": 5}, ONCE),
        "error_null": ("500", {"error": None}, SERVER_ERROR),
        "vllm": (
            "404",
            {"object": "error", "message": "The model does not exist", "type": "NotFoundError", "code": 404},
            ONCE,
        ),
        "problem_json": ("400", {"title": "Bad", "status": 400, "detail": "why"}, ONCE),
        "message_object": ("400", {"error": {"message": {"nested": ["deep"]}, "code": {"a": 1}}}, ONCE),
    }
    for name, (status, body, tries) in shapes.items():
        _add("error shapes", f"shape_{name}", _reply(json.dumps(body), f"{status} Odd"), "nothing", tries)


def _inside() -> None:
    """Errors in a reply with status 200."""
    top: dict[str, tuple[Any, int]] = {
        "429": ({"error": {"message": "slow", "code": 429}}, PACED),
        "429_text": ({"error": {"message": "slow", "code": "rate_limit_exceeded"}}, PACED),
        "quota": ({"error": {"message": "no", "type": "insufficient_quota"}}, ONCE),
        "402": ({"error": {"message": "no", "code": 402}}, ONCE),
        "401": ({"error": {"message": "no", "code": 401}}, ONCE),
        "400": ({"error": {"message": "no", "code": 400}}, ONCE),
        "502": ({"error": {"message": "provider", "code": 502}}, CONNECTION),
        "503": ({"error": {"message": "busy", "code": "overloaded_error"}}, PACED),
        "unknown": ({"error": {"message": "?"}}, SERVER_ERROR),
        "string": ({"error": "broken"}, SERVER_ERROR),
        "true": ({"error": True}, SERVER_ERROR),
        "list": ([{"error": {"code": 500, "message": "x"}}], SERVER_ERROR),
        "vllm": ({"object": "error", "message": "bad", "code": 400}, ONCE),
        "anthropic": ({"type": "error", "error": {"type": "overloaded_error", "message": "busy"}}, PACED),
        "detail": ({"detail": "Internal"}, SERVER_ERROR),
        "errors": ({"success": False, "errors": [{"code": 7003, "message": "no route"}]}, SERVER_ERROR),
        "beside_an_answer": (good(error={"message": "half-way", "code": 500}), SERVER_ERROR),
        "beside_empty_choices": ({"choices": [], "error": {"message": "x", "code": 500}}, SERVER_ERROR),
    }
    for name, (body, tries) in top.items():
        _add("errors inside 200", f"inside_{name}", _reply(body), "nothing", tries)
    for name, choice, tries in (
        ("choice", {"error": {"code": 502, "message": "x"}, "finish_reason": "error"}, CONNECTION),
        ("choice_without_finish", {"error": {"code": 500, "message": "x"}}, SERVER_ERROR),
        ("finish_only", {"finish_reason": "error"}, SERVER_ERROR),
        ("finish_large", {"finish_reason": "ERROR"}, SERVER_ERROR),
        ("choice_string", {"error": "text"}, SERVER_ERROR),
    ):
        body = good("")
        body["choices"][0].update(choice)
        _add("errors inside 200", f"inside_{name}", _reply(body), "nothing", tries)
    _add("errors inside 200", "inside_error_null", _reply(good(error=None)), "answered", ONCE)
    _add("errors inside 200", "inside_error_empty", _reply(good(error={})), "answered", ONCE)


def _headers() -> None:
    asked = {
        "zero": "0",
        "zeros": "000.000",
        "past": "Thu, 01 Jan 1970 00:00:00 GMT",
        "nan": "nan",
        "inf": "inf",
        "negative": "-5",
        "superscript": "²",
        "arabic": "٣",
        "digits": "9" * 5000,
        "words": "soon",
        "empty": "",
        "bad_date": "Thu, 99 Foo 99999999999 99:99:99 GMT",
        "huge_year": "Thu, 01 Jan 999999999 00:00:00 GMT",
        "exponent": "1e400",
        "hex": "0x10",
        "underscore": "1_0",
        "plus": "+1",
        "date_without_zone": "Mon, 01 Jan 2001 00:00:00",
    }
    limited = json.dumps({"error": {"message": "slow down", "code": "rate_limit_exceeded"}})
    for name, value in asked.items():
        _add("Retry-After", f"after_{name}", _reply(limited, "429 Slow", f"Retry-After: {value}"), "nothing", PACED)
    for name, value in (("zero", "0"), ("nan", "nan"), ("negative", "-1"), ("words", "now")):
        behave = _reply(limited, "429 Slow", f"retry-after-ms: {value}")
        _add("Retry-After", f"after_ms_{name}", behave, "nothing", PACED)
    for name, value in (("day", "86400"), ("year", "31536000"), ("ms_inf", "999999999999999999999")):
        _add("Retry-After", f"after_{name}", _reply(limited, "429 Slow", f"Retry-After: {value}"), "nothing", PACED)
    for name, value in (
        ("zero", "0"),
        ("superscript", "²"),
        ("digits", "9" * 5000),
        ("negative", "-1"),
        ("nan", "nan"),
        ("float", "1.5"),
        ("huge", "9" * 15),
    ):
        lines = [
            f"x-ratelimit-limit-{what}: {value}\r\nx-ratelimit-remaining-{what}: {value}"
            for what in ("requests", "tokens")
        ]
        _add("limit headers", f"limit_{name}", _reply(good(), "200 OK", *lines), "answered", ONCE)
    _add(
        "limit headers",
        "limit_latin1",
        _raw(OK + b"X: \xff\xfe\r\nContent-Length: %d\r\n\r\n" % len(GOOD) + GOOD),
        "answered",
        ONCE,
    )
    _add(
        "limit headers",
        "cookies",
        _reply(good(), "200 OK", *(f"Set-Cookie: c{n}={'x' * 2000}" for n in range(50))),
        "answered",
        ONCE,
    )


def _sizes() -> None:
    big = b'{"choices":[{"message":{"content":"' + b"a" * 5_000_000 + b'"}}]}'
    _add("sizes", "size_5_mb_for_50_tokens", _reply(big), "nothing", MALFORMED)
    head = OK + b"Content-Length: 200000000\r\n\r\n"
    _add("sizes", "size_announced_200_mb", _endless(head, b"a" * 65536), "nothing", MALFORMED)
    _add("sizes", "size_announced_10_eb", _raw(OK + b"Content-Length: 9999999999999999\r\n\r\n{"), "nothing", MALFORMED)
    blanks = OK + b"Content-Length: %d\r\n\r\n" % (10_000_000 + len(GOOD)) + b" " * 10_000_000 + GOOD
    _add("sizes", "size_blanks_before", _raw(blanks), "nothing", MALFORMED)
    _add("sizes", "size_many_choices", _reply(good() | {"choices": good()["choices"] * 20_000}), "nothing", MALFORMED)
    _add("sizes", "size_100_kb_text", _reply(good("word " * 20_000)), "answered", ONCE)
    _add("sizes", "size_long_names", _reply(good(finish="f" * 50_000, model="m" * 50_000)), "answered", ONCE)
    statuses = (
        ("200 OK", MALFORMED),
        ("401 No", ONCE),
        ("400 Bad", ONCE),
        ("404 None", ONCE),
        ("500 Oops", SERVER_ERROR),
    )
    for status, tries in statuses:
        head, number = f"HTTP/1.1 {status}\r\n".encode(), status[:3]
        _add("endless", f"endless_{number}", _endless(head + b"\r\n", b"a" * 65536), "nothing", tries)
        chunk = b"10000\r\n" + b" " * 65536 + b"\r\n"
        _add(
            "endless",
            f"endless_chunks_{number}",
            _endless(head + b"Transfer-Encoding: chunked\r\n\r\n", chunk),
            "nothing",
            tries,
        )
        slow = _endless(head + b"\r\n", b"a", pause=0.02)
        _add("endless", f"endless_slow_{number}", slow, "nothing", max(tries, DEADLINE))
    _add("endless", "endless_header_line", _endless(b"HTTP/1.1 200 OK\r\nX: ", b"a" * 65536), "nothing", MALFORMED)
    _add("endless", "endless_headers", _endless(b"HTTP/1.1 200 OK\r\n", b"X: a\r\n" * 1000), "nothing", MALFORMED)
    _add("endless", "endless_status_line", _endless(b"HTTP/1.1 200 ", b"O" * 65536), "nothing", MALFORMED)
    _add(
        "endless",
        "endless_continue",
        _endless(b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 100, pause=0.01),
        "nothing",
        DEADLINE,
    )
    _add(
        "endless", "endless_chunk_extension", _endless(CHUNKED + b"5;a=", b"b" * 65536, pause=0.01), "nothing", DEADLINE
    )
    trailer = CHUNKED + b"%x\r\n" % len(GOOD) + GOOD + b"\r\n0\r\n"
    _add("endless", "endless_trailers", _endless(trailer, b"X: a\r\n" * 1000, pause=0.01), "nothing", DEADLINE)
    _add(
        "endless",
        "endless_json_blanks",
        _endless(CHUNKED, b"1000\r\n" + b" " * 4096 + b"\r\n", pause=0.0001),
        "nothing",
        MALFORMED,
    )
    _add("endless", "endless_tiny_chunks", _endless(CHUNKED, b"1\r\na\r\n" * 10_000), "nothing", MALFORMED)


@cache
def _bomb(size: int, bits: int = 31) -> bytes:
    packer = zlib.compressobj(1, zlib.DEFLATED, bits)
    return b"".join([*(packer.compress(b" " * 10**6) for _ in range(size // 10**6)), packer.flush()])


def _compression() -> None:
    packed = gzip.compress(GOOD)

    def encoded(content: bytes, encoding: str, status: str = "200 OK") -> Behave:
        return _reply(content, status, f"Content-Encoding: {encoding}")

    def bomb(encoding: str, status: str = "200 OK", bits: int = 31, layers: int = 1) -> Behave:
        async def behave(exchange: Exchange) -> None:
            content = await asyncio.to_thread(_bomb, BOMB_BYTES, bits)
            content = gzip.compress(content) if layers == 2 else content
            await exchange.reply(content, status, f"Content-Encoding: {encoding}")

        return behave

    cases: dict[str, tuple[bytes, str, Outcome, int]] = {
        "gzip": (packed, "gzip", "answered", ONCE),
        "x_gzip": (packed, "X-GZip", "answered", ONCE),
        "deflate": (zlib.compress(GOOD), "deflate", "answered", ONCE),
        "deflate_raw": (zlib.compress(GOOD)[2:-4], "deflate", "answered", ONCE),
        "identity": (GOOD, "identity", "answered", ONCE),
        "garbage_after": (packed + b"garbage", "gzip", "answered", ONCE),
        "not_gzip": (GOOD, "gzip", "nothing", MALFORMED),
        "cut": (packed[:-12], "gzip", "nothing", MALFORMED),
        "checksum": (packed[:-8] + b"\0" * 8, "gzip", "nothing", MALFORMED),
        "empty": (b"", "gzip", "nothing", MALFORMED),
        "brotli": (b"\x0b\x02\x80{}\x03", "br", "nothing", MALFORMED),
        "zstd": (b"(\xb5/\xfd\x04\x00", "zstd", "nothing", MALFORMED),
        "unknown": (GOOD, "rot13", "nothing", MALFORMED),
    }
    for name, (content, encoding, outcome, tries) in cases.items():
        _add("compression", f"packed_{name}", encoded(content, encoding), outcome, tries)
    _add("compression", "packed_bomb_gzip", bomb("gzip"), "nothing", MALFORMED)
    _add("compression", "packed_bomb_deflate", bomb("deflate", bits=15), "nothing", MALFORMED)
    _add("compression", "packed_bomb_two_layers", bomb("gzip, gzip", layers=2), "nothing", MALFORMED)
    _add("compression", "packed_error_bomb", bomb("gzip", "500 Oops"), "nothing", SERVER_ERROR)
    _add("compression", "packed_error_garbage", encoded(b"no", "gzip", "400 Bad"), "nothing", ONCE)


SPELLINGS: dict[str, Callable[[str], str]] = {
    "plain": lambda key: key,
    "header": lambda key: f"Authorization: Bearer {key}",
    "upper": str.upper,
    "lower": str.lower,
    "swapped": str.swapcase,
    "base64": lambda key: base64.b64encode(key.encode()).decode(),
    "base64_header": lambda key: base64.b64encode(f"Bearer {key}".encode()).decode(),
    "base64_inside": lambda key: base64.b64encode(f'{{"authorization": "Bearer {key}"}}'.encode()).decode(),
    "base64_url": lambda key: base64.urlsafe_b64encode(f"Bearer {key}".encode()).decode(),
    "base64_lines": lambda key: base64.encodebytes(
        f"a long text before it: Bearer {key}, and after".encode() * 2
    ).decode(),
    "hex": lambda key: key.encode().hex(),
    "percent": lambda key: urllib.parse.quote(key, safe=""),
    "percent_all": lambda key: "".join(f"%{ord(char):02x}" for char in key),
    "percent_twice": lambda key: urllib.parse.quote(urllib.parse.quote(key, safe=""), safe=""),
    "html": html.escape,
    "html_all": lambda key: "".join(f"&#{ord(char)};" for char in key),
    "html_hex": lambda key: "".join(f"&#x{ord(char):X};" for char in key),
    "unicode_escapes": lambda key: "".join(f"\\u{ord(char):04x}" for char in key),
    "json_in_json": lambda key: json.dumps(json.dumps({"key": key})),
    "line_end": lambda key: f"{key[:17]}\n{key[17:]}",
    "line_ends": lambda key: "\r\n  ".join(key[at : at + 12] for at in range(0, len(key), 12)),
    "upper_line_end": lambda key: f"{key[:17]}\n{key[17:]}".upper(),
}
"""How a server may repeat a key."""


def _echoes() -> None:
    def echo(spell: Callable[[str], str], *, error: bool) -> Behave:
        async def behave(exchange: Exchange) -> None:
            said = f"you sent {spell(exchange.key)} to me"
            if error:
                await exchange.reply({"error": {"message": said, "code": "x"}}, "400 Bad")
            else:
                await exchange.reply(good(said))

        return behave

    for name, spell in SPELLINGS.items():
        _add("key repeated", f"echo_text_{name}", echo(spell, error=False), "answered", ONCE)
        _add("key repeated", f"echo_error_{name}", echo(spell, error=True), "nothing", ONCE)

    def placed(make: Callable[[str], bytes]) -> Behave:
        return lambda exchange: exchange.raw(make(exchange.key))

    places: dict[str, tuple[Callable[[str], bytes], Outcome, int]] = {
        "status_line": (lambda key: f"HTTP/1.1 abc {key}\r\n\r\n".encode(), "nothing", MALFORMED),
        "reason": (lambda key: f"HTTP/1.1 400 {key}\r\nContent-Length: 0\r\n\r\n".encode(), "nothing", ONCE),
        "bad_header": (lambda key: f"HTTP/1.1 200 OK\r\n{key}\r\n\r\n".encode(), "nothing", MALFORMED),
        "long_header": (
            lambda key: b"HTTP/1.1 200 OK\r\nX: " + f"{key} ".encode() * 1000 + b"\r\n\r\n",
            "nothing",
            MALFORMED,
        ),
        "chunk_size": (lambda key: CHUNKED + f"{key}\r\n".encode(), "nothing", MALFORMED),
        "not_json": (lambda key: OK + f"Content-Length: {len(key)}\r\n\r\n{key}".encode(), "nothing", MALFORMED),
        "banner": (lambda key: f"220 hello {key}\r\n".encode(), "nothing", MALFORMED),
        "encoding": (
            lambda key: OK + f"Content-Encoding: {key}\r\nContent-Length: 2\r\n\r\n{{}}".encode(),
            "nothing",
            MALFORMED,
        ),
        "location": (
            lambda key: f"HTTP/1.1 307 Go\r\nLocation: http://127.0.0.1:1/{key}\r\nContent-Length: 0\r\n\r\n".encode(),
            "nothing",
            ONCE,
        ),
        "retry_after": (
            lambda key: f"HTTP/1.1 500 No\r\nRetry-After: {key}\r\nContent-Length: 0\r\n\r\n".encode(),
            "nothing",
            SERVER_ERROR,
        ),
    }
    for name, (make, outcome, tries) in places.items():
        _add("key repeated", f"echo_in_{name}", placed(make), outcome, tries)

    async def names(exchange: Exchange) -> None:
        await exchange.reply(good(finish=exchange.key, model=f"m {exchange.key}"))

    async def cut(exchange: Exchange) -> None:
        await exchange.reply("x" * 390 + exchange.key + "y" * 500, "400 Bad", kind="text/plain")

    _add("key repeated", "echo_in_names", names, "answered", ONCE)
    _add("key repeated", "echo_at_the_cut", cut, "nothing", ONCE)


def _redirects() -> None:
    for status in (301, 302, 303, 307, 308):
        for name, target in (
            ("other_port", "http://127.0.0.1:1/v1/chat/completions"),
            ("loop", "/redirect_{0}_loop/v1/chat/completions"),
        ):
            behave = _reply(b"", f"{status} Go", f"Location: {target.format(status)}")
            _add("redirects", f"redirect_{status}_{name}", behave, "nothing", ONCE)
    _add(
        "redirects",
        "redirect_to_answer",
        _reply(b"", "307 Go", "Location: /plain/v1/chat/completions"),
        "nothing",
        ONCE,
    )
    _add("redirects", "redirect_nowhere", _reply(b"", "302 Go"), "nothing", ONCE)
    _add(
        "redirects", "redirect_escapes", _reply(b"", "302 Go", "Location: http://a/\x1b]0;x\x07"), "nothing", MALFORMED
    )


def _contents() -> None:
    wrong: dict[str, Any] = {
        "empty": b"",
        "blank": b" ",
        "null": b"null",
        "number": b"5",
        "list": b"[]",
        "object": b"{}",
        "text": b'"hello"',
        "html": b"<html>Sign in</html>",
        "sse": b'data: {"choices":[{"delta":{"content":"hi"}}]}\n\ndata: [DONE]\n\n',
        "half": GOOD[:40],
        "latin1": b'{"choices":[{"message":{"content":"\xff\xfe"}}]}',
        "deep": b"[" * 100_000,
        "digits": b"9" * 5000,
        "choices_null": {"choices": None},
        "choices_empty": {"choices": []},
        "choices_object": {"choices": {"0": {}}},
        "choices_text": {"choices": "text"},
        "choice_null": {"choices": [None]},
        "message_null": {"choices": [{"message": None}]},
        "message_text": {"choices": [{"message": "hi"}]},
        "content_null": good(None),
        "content_number": good(5),
        "content_object": good({"a": 1}),
        "content_true": good(True),
        "content_list_empty": good([]),
        "content_images": good([{"type": "image_url", "image_url": {}}]),
        "parts_odd": good([{"type": ["text"], "text": "a"}, 5, None]),
        "completion": {"choices": [{"text": "old API"}]},
    }
    for name, body in wrong.items():
        _add("contents", f"content_{name}", _reply(body), "nothing", MALFORMED)
    right: dict[str, Any] = {
        "parts": good([{"type": "text", "text": "The answer "}, {"type": "text", "text": "is 4."}]),
        "parts_thinking": good([{"type": "thinking", "thinking": "hm"}, {"type": "text", "text": "4"}]),
        "parts_strings": good(["The answer ", "is 4."]),
        "nul": good("a\0b"),
        "surrogate": b'{"choices":[{"message":{"content":"half \\ud83d"}}]}',
        "escapes": good("\x1b]0;owned\x07\x1b[2J"),
        "finish_number": good(finish=5),
        "finish_list": good(finish=["stop"]),
        "model_object": good(model={"a": 1}),
        "bom": b"\xef\xbb\xbf" + GOOD,
        "empty_text": good(""),
        "utf16": json.dumps(good()).encode("utf-16"),
        "usage_missing": {"choices": good()["choices"]},
    }
    for name, body in right.items():
        _add("contents", f"content_{name}", _reply(body), "answered", ONCE)
    for name, usage in {
        "zero": {"prompt_tokens": 0, "completion_tokens": 0},
        "true": {"prompt_tokens": True, "completion_tokens": True},
        "false": {"prompt_tokens": False, "completion_tokens": False},
        "text": {"prompt_tokens": "12", "completion_tokens": "6"},
        "words": {"prompt_tokens": "x", "completion_tokens": "²"},
        "floats": {"prompt_tokens": 12.0, "completion_tokens": 6.5},
        "negative": {"prompt_tokens": -5, "completion_tokens": -6},
        "huge": {"prompt_tokens": 10**30, "completion_tokens": 2**63},
        "null": {"prompt_tokens": None, "completion_tokens": None},
        "list": [1, 2],
        "string": "many",
        "nested": {"prompt_tokens": {}},
    }.items():
        _add("usage", f"usage_{name}", _reply(good(usage=usage)), "answered", ONCE)
    for name, number in (("nan", "NaN"), ("infinity", "Infinity"), ("exponent", "1e999"), ("digits", "9" * 4000)):
        body = json.dumps(good(usage={"prompt_tokens": "N", "completion_tokens": "N"})).replace('"N"', number)
        _add("usage", f"usage_{name}", _reply(body), "answered", ONCE)


def _plain() -> None:
    _add("plain", "plain", _reply(good()), "answered", ONCE)

    async def models_endless(exchange: Exchange) -> None:
        if exchange.prompt:
            await exchange.reply(good())
        else:
            await exchange.endless(OK + b"\r\n", b" " * 65536)

    async def models_broken(exchange: Exchange) -> None:
        await (exchange.reply(good()) if exchange.prompt else exchange.reply(b"<html>", "404 None"))

    async def models_bomb(exchange: Exchange) -> None:
        packed = await asyncio.to_thread(_bomb, BOMB_BYTES, 31)
        await (
            exchange.reply(good()) if exchange.prompt else exchange.reply(packed, "200 OK", "Content-Encoding: gzip")
        )

    async def models_redirect(exchange: Exchange) -> None:
        await exchange.reply(b"", "307 Go", "Location: http://127.0.0.1:1/v1/models")

    async def models_401_endless(exchange: Exchange) -> None:
        await exchange.endless(b"HTTP/1.1 401 No\r\n\r\n", b"a" * 65536)

    async def models_cut(exchange: Exchange) -> None:
        exchange.cut()

    _add("first contact", "models_endless", models_endless, "answered", ONCE, contact=True)
    _add("first contact", "models_missing", models_broken, "answered", ONCE, contact=True)
    _add("first contact", "models_bomb", models_bomb, "answered", ONCE, contact=True)
    _add("first contact", "models_redirect", models_redirect, "nothing", 0, contact=True)
    _add("first contact", "models_401_endless", models_401_endless, "nothing", 0, contact=True)
    _add("first contact", "models_cut", models_cut, "nothing", 0, contact=True)


for _family in (
    _framing,
    _not_http,
    _connections,
    _statuses,
    _shapes,
    _inside,
    _headers,
    _sizes,
    _compression,
    _echoes,
    _redirects,
    _contents,
    _plain,
):
    _family()


class HostileEndpoint:
    """The server; ``port`` is set when it has started."""

    def __init__(self) -> None:
        self.port = 0
        self.posts: dict[str, Counter[str]] = defaultdict(Counter)
        self._server: asyncio.Server | None = None

    async def start(self, port: int = 0) -> None:
        """Listen on loopback."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", port, limit=2**24)
        self.port = self._server.sockets[0].getsockname()[1]

    def url(self, name: str) -> str:
        """Return the base URL of a behaviour."""
        return f"http://127.0.0.1:{self.port}/{name}/v1"

    async def stop(self) -> None:
        """Stop listening."""
        if self._server is not None:
            self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # Whatever the client does to the connection, it must not end the server.
        with suppress(OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, ValueError):
            while await self._one(reader, writer):
                pass
        with suppress(OSError):
            writer.close()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        method, target, _ = head[0].split(" ")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:] if line)}
        body = await reader.readexactly(int(headers.get("content-length", "0")))
        name = target.strip("/").split("/")[0]
        key = headers.get("authorization", "").removeprefix("Bearer ")
        if name == "_stats":
            await Exchange(writer, key, "", 0).reply({name: dict(counts) for name, counts in self.posts.items()})
            self.posts.clear()
            return True
        behaviour = BEHAVIOURS[name]
        if method == "GET" and not behaviour.contact:
            await Exchange(writer, key, "", 0).reply({"object": "list", "data": []})
            return True
        prompt = json.dumps(json.loads(body)["messages"]) if method == "POST" else ""
        tries = self.posts[name][prompt]
        if method == "POST":
            self.posts[name][prompt] += 1
        await behaviour.behave(Exchange(writer, key, prompt, tries))
        # Whether the connection can go on is for the client to find out.
        return not writer.is_closing() and behaviour.family in {
            "plain",
            "statuses",
            "contents",
            "usage",
            "limit headers",
        }


def make_bombs() -> None:
    """Compress what takes a second once, before a client waits for it."""
    _bomb(BOMB_BYTES, 31)
    _bomb(BOMB_BYTES, 15)


def families() -> Iterator[tuple[str, list[Behaviour]]]:
    """Yield the behaviours by family."""
    grouped: dict[str, list[Behaviour]] = defaultdict(list)
    for behaviour in BEHAVIOURS.values():
        grouped[behaviour.family].append(behaviour)
    yield from grouped.items()
