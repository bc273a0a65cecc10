"""Whatever an endpoint or a library does at the HTTP boundary becomes an error of ours, without the key."""

import asyncio
import io
import json
import math
import ssl
import traceback
import zlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import aiohttp
import pytest
from hostile_endpoint import SPELLINGS, HostileEndpoint
from hostile_trials import _holds_key

from lema_core.errors import AuthenticationError, ConfigError, EndpointError
from lema_core.llm import Completion, EndpointSpec, Engine, Failure
from lema_core.llm.batch.api import BatchApi
from lema_core.llm.bounded_http import LEAST_CAP_BYTES, MOST_BYTES, reply_limit, segment
from lema_core.llm.client import Client
from lema_core.llm.responses import AttemptError, error_from_status, parse_response
from lema_core.llm.settings import BatchSettings, EngineSettings
from lema_core.system.loopback import find_proxy, is_loopback, keep_loopback_direct

KEY = "sk-proj-REALKEY-never+echoed/0987654321&x"


@pytest.fixture
async def hostile() -> AsyncIterator[HostileEndpoint]:
    endpoint = HostileEndpoint()
    await endpoint.start()
    yield endpoint
    await endpoint.stop()


@pytest.fixture
def keyed(monkeypatch) -> str:
    monkeypatch.setenv("BOUNDARY_KEY", KEY)
    return "BOUNDARY_KEY"


@asynccontextmanager
async def client_of(url: str, keyed: str, **settings: Any) -> AsyncIterator[Client]:
    client = Client(EndpointSpec(model="m", base_url=url, api_key_env=keyed, concurrency=4), EngineSettings(**settings))
    try:
        yield client
    finally:
        await client.close()


def _with_headers() -> aiohttp.ClientResponseError:
    request = SimpleNamespace(real_url="http://x", headers={"Authorization": f"Bearer {KEY}"})
    return aiohttp.ClientResponseError(request, (), message=f"Bearer {KEY}", headers={"x": KEY})  # type: ignore[arg-type]


FOREIGN = [
    *(kind(f"it said {spell(KEY)}") for kind in (RuntimeError, KeyError, OSError) for spell in SPELLINGS.values()),
    *(
        kind(KEY)
        for kind in (ValueError, TypeError, OverflowError, RecursionError, MemoryError, AssertionError, LookupError)
    ),
    *(
        kind(KEY)
        for kind in (zlib.error, ssl.SSLError, TimeoutError, ConnectionResetError, EOFError, StopAsyncIteration)
    ),
    *(
        kind(KEY)
        for kind in (aiohttp.ClientError, aiohttp.ClientPayloadError, aiohttp.InvalidURL, aiohttp.ClientOSError)
    ),
    UnicodeDecodeError("utf-8", KEY.encode(), 0, 1, KEY),
    UnicodeEncodeError("ascii", KEY, 0, 1, KEY),
    ExceptionGroup(KEY, [ValueError(KEY)]),
    _with_headers(),
]


def _clean(error: BaseException) -> bool:
    """Say whether nothing of an error, its whole chain included, shows the key."""
    seen, chain = set(), [error]
    while chain:
        one = chain.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        if _holds_key(f"{one!r} {one} {vars(one)} {''.join(traceback.format_exception(one))}", KEY):
            return False
        chain += [next_one for next_one in (one.__cause__, one.__context__) if next_one is not None]
    return True


@pytest.mark.parametrize("number", range(len(FOREIGN)))
async def test_any_exception_at_the_client_becomes_ours(hostile, keyed, monkeypatch, number):
    async def broken(*_args, **_options):
        raise FOREIGN[number]

    async with client_of(hostile.url("plain"), keyed, preflight_waits_s=()) as client:
        monkeypatch.setattr(client._session._session, "request", broken)
        with pytest.raises(AttemptError) as asked:
            await client.complete({"messages": []}, 0, 5)
        assert asked.value.reason in {"connection", "malformed"}
        with pytest.raises(EndpointError) as contact:
            await client.preflight()
        with pytest.raises(AttemptError) as sent:
            await client.download("/files/x/content", io.BytesIO(), most=100, seconds=5)
        assert _clean(asked.value)
        assert _clean(contact.value)
        assert _clean(sent.value)


@pytest.mark.parametrize("error", FOREIGN[-4:], ids=lambda error: type(error).__name__)
async def test_any_exception_under_the_batch_api_becomes_ours(hostile, keyed, monkeypatch, tmp_path, error):
    async def broken(*_args, **_options):
        raise error

    once = BatchSettings(tries=1, unreachable_s=0)
    async with client_of(hostile.url("plain"), keyed) as client:
        monkeypatch.setattr(client._session._session, "request", broken)
        with pytest.raises(EndpointError) as found:
            await BatchApi(client, 5, tmp_path, once).status("batch")
        assert _clean(found.value)


@pytest.mark.parametrize(
    "name", ["contact_ssh", "contact_redis", "contact_tls_alert", "contact_http2", "contact_noise"]
)
async def test_what_is_no_http_server_is_one_clear_error_at_first_contact(hostile, keyed, name):
    async with client_of(hostile.url(name), keyed, preflight_waits_s=(0.01,)) as client:
        with pytest.raises(EndpointError, match="does not speak HTTP") as found:
            await client.preflight()
        assert len(str(found.value)) < 1500
        assert "\n" not in str(found.value)


async def test_tls_on_a_plain_port_and_nothing_at_all(hostile, keyed):
    for url in (
        hostile.url("plain").replace("http://", "https://"),
        "http://127.0.0.1:9/v1",
        "http://no.such.host.invalid/v1",
    ):
        async with client_of(url, keyed, connect_s=1.0, preflight_waits_s=()) as client:
            with pytest.raises(EndpointError, match="cannot reach"):
                await client.preflight()


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("models_endless", None),
        ("models_missing", None),
        ("models_bomb", None),
        ("models_401_endless", AuthenticationError),
        ("models_redirect", EndpointError),
    ],
)
async def test_first_contact_reads_the_status_and_not_what_has_no_end(hostile, keyed, name, error):
    async with client_of(hostile.url(name), keyed) as client:
        if error is None:
            await client.preflight()
        else:
            with pytest.raises(error):
                await client.preflight()


async def test_a_redirect_is_not_followed_and_says_that_the_base_url_is_wrong(fake, hostile, keyed, ask, tmp_path):
    spec = EndpointSpec(model="m", base_url=hostile.url("redirect_307_other_port"), api_key_env=keyed)
    async with Engine.open(ledger=str(tmp_path / "ledger.sqlite")) as engine:
        with pytest.raises(EndpointError, match="base_url is wrong"):
            _ = [outcome async for outcome in engine.stream(spec, ask(1))]
    assert fake.hits == 0


async def test_a_download_goes_into_the_file_up_to_its_limit(hostile, keyed):
    async with client_of(hostile.url("plain"), keyed) as client:
        file = io.BytesIO()
        reply = await client.download("/models", file, most=1000, seconds=5)
        assert (reply.status, json.loads(file.getvalue())) == (200, {"object": "list", "data": []})
        with pytest.raises(AttemptError, match="more than 10 bytes"):
            await client.download("/models", io.BytesIO(), most=10, seconds=5)
    async with client_of(hostile.url("models_endless"), keyed) as client:
        file = io.BytesIO()
        with pytest.raises(AttemptError, match="more than 3000000 bytes"):
            await client.download("/models", file, most=3_000_000, seconds=30)
        assert len(file.getvalue()) <= 3_000_000


def test_a_part_of_a_path_stays_one_part():
    assert segment("../../admin?x=1#y") == "%2E%2E%2F%2E%2E%2Fadmin%3Fx%3D1%23y"


@pytest.mark.parametrize(
    ("body", "limit"),
    [
        ({"max_tokens": 50}, LEAST_CAP_BYTES),
        ({"max_completion_tokens": 100_000}, 3_200_000),
        ({"max_tokens": 10**9}, MOST_BYTES),
        ({}, 2**20),
        ({"max_tokens": 2000, "logprobs": True, "top_logprobs": 20}, 2000 * (32 + 21 * 400)),
    ],
)
def test_the_limit_follows_the_cap(body, limit):
    assert reply_limit(body) == limit


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        ({"prompt_tokens": 12, "completion_tokens": 6}, (12, 6)),
        ({"prompt_tokens": "12", "completion_tokens": "6"}, (12, 6)),
        ({"prompt_tokens": 12.0, "completion_tokens": 6.0}, (12, 6)),
        *(
            (wrong, (11, 4))
            for wrong in (
                None,
                [],
                "x",
                {},
                {"prompt_tokens": 0, "completion_tokens": 0},
                {"prompt_tokens": True, "completion_tokens": True},
                {"prompt_tokens": -1, "completion_tokens": -1},
                {"prompt_tokens": 1.5, "completion_tokens": math.nan},
                {"prompt_tokens": math.inf, "completion_tokens": 1e300},
                {"prompt_tokens": 10**8, "completion_tokens": 10**30},
                {"prompt_tokens": "²", "completion_tokens": "9" * 5000},
                {"prompt_tokens": {}, "completion_tokens": []},
                {"prompt_tokens": "-3", "completion_tokens": " 6"},
            )
        ),
    ],
)
def test_usage(usage, expected):
    body = {"choices": [{"message": {"content": "x" * 15}}], "usage": usage}
    found = parse_response(json.dumps(body).encode(), 40)
    assert (found.prompt_tokens, found.completion_tokens) == expected
    assert type(found.prompt_tokens) is type(found.completion_tokens) is int


def test_an_empty_answer_may_cost_nothing():
    body = {"choices": [{"message": {"content": ""}}], "usage": {"prompt_tokens": 12, "completion_tokens": 0}}
    assert parse_response(json.dumps(body).encode(), 40).completion_tokens == 0


def test_an_error_after_half_an_answer_is_paid_for():
    body = {
        "choices": [{"message": {"content": "half"}, "error": {"code": 502}, "finish_reason": "error"}],
        "usage": {"prompt_tokens": 12, "completion_tokens": 6},
    }
    with pytest.raises(AttemptError) as found:
        parse_response(json.dumps(body).encode(), 40)
    assert found.value.paid is not None
    assert found.value.paid.completion_tokens == 6


@pytest.mark.parametrize(
    ("error", "reason", "fatal"),
    [
        ({"code": 429}, "rate_limit", False),
        ({"code": "429"}, "rate_limit", False),
        ({"type": "rate_limit_error"}, "rate_limit", False),
        ({"status": "RESOURCE_EXHAUSTED"}, "rate_limit", False),
        ({"code": 503}, "overload", False),
        ({"type": "overloaded_error"}, "overload", False),
        ({"code": 529}, "overload", False),
        ({"code": 500}, "server_error", False),
        ({"code": "internal"}, "server_error", False),
        ({}, "server_error", False),
        ({"code": 502}, "connection", False),
        ({"code": 408}, "server_error", False),
        ({"status": "DEADLINE_EXCEEDED"}, "connection", False),
        ({"code": 400}, "bad_request", False),
        ({"status": "INVALID_ARGUMENT"}, "bad_request", False),
        ({"code": "content_filter"}, "content_filter", False),
        ({"innererror": {"code": "ResponsibleAIPolicyViolation"}}, "content_filter", False),
        ({"code": 401}, "bad_request", True),
        ({"code": "invalid_api_key"}, "bad_request", True),
        ({"code": 402}, "bad_request", True),
        ({"code": "429", "type": "insufficient_quota"}, "bad_request", True),
        ({"code": "insufficient_quota", "type": "429"}, "bad_request", True),
        ({"code": 404}, "bad_request", True),
    ],
)
@pytest.mark.parametrize("place", ["top", "choice", "list", "beside"])
def test_an_error_inside_200_has_the_class_of_its_code(error, reason, fatal, place):
    error = {"message": "no"} | error
    body = {
        "top": {"error": error},
        "choice": {"choices": [{"error": error, "message": {"content": ""}, "finish_reason": "error"}]},
        "list": [{"error": error}],
        "beside": {"choices": [{"message": {"content": "text"}, "finish_reason": "stop"}], "error": error},
    }[place]
    with pytest.raises(AttemptError) as found:
        parse_response(json.dumps(body).encode(), 1)
    assert (found.value.reason, found.value.fatal is not None) == (reason, fatal)
    assert "with an error inside: no" in found.value.detail


@pytest.mark.parametrize(
    "body",
    [
        {"error": {"message": "the words", "code": "c"}},
        [{"error": {"message": "the words", "status": "X"}}],
        {"error": "the words"},
        {"detail": "the words"},
        {"detail": [{"msg": "the words", "loc": ["a"]}]},
        {"detail": {"error": "the words"}},
        {"message": "the words"},
        {"object": "error", "message": "the words"},
        {"errors": [{"message": "the words"}]},
        {"errors": ["the words"]},
        {"fault": {"faultstring": "the words"}},
        {"title": "the words", "status": 400},
        "the words",
        ["the words"],
        {"error": {"message": {"message": "the words"}}},
        {"type": "error", "error": {"type": "t", "message": "the words"}},
        {"error": {"message": "", "details": [{"message": "the words"}]}},
        {"error_description": "the words", "error": "x"},
    ],
)
def test_the_words_of_an_error_are_found_in_any_shape(body):
    detail = error_from_status(400, {}, json.dumps(body).encode(), "w").detail
    assert detail.startswith("HTTP 400: ")
    assert "the words" in detail
    assert "{" not in detail


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[" * 99_999,
        b'{"error":' * 99_999,
        b"1" * 9999,
        b"\xff\0",
        b"null",
        b"5",
        b"[[[[]]]]",
        b'{"error":{"code":null}}',
    ],
)
@pytest.mark.parametrize("status", [100, 199, 300, 304, 400, 401, 404, 429, 500, 999])
def test_no_body_of_any_status_raises(content, status):
    assert isinstance(error_from_status(status, {"retry-after": "x"}, content, "w"), AttemptError)


def test_a_fatal_error_shows_no_escape_and_no_half_surrogate():
    body = b'{"error":{"message":"a\\u001b]0;x\\u0007\\ud83d\\r\\nerror: all is well"}}'
    for status in (401, 402, 404):
        text = str(error_from_status(status, {}, body, "w").fatal)
        assert text.isprintable()
        text.encode()


async def test_parts_of_text_are_joined_and_paid_once(fake, spec, ask, ledger):
    parts = [
        {"type": "thinking", "thinking": "hm"},
        {"type": "text", "text": "The answer "},
        {"type": "text", "text": "is 4."},
    ]
    fake.decide = lambda _body, _tries: (
        200,
        {"choices": [{"message": {"content": parts}, "finish_reason": "stop"}]},
        {},
    )
    async with Engine.open(ledger=ledger) as engine:
        (outcome,) = [one async for one in engine.stream(spec, ask(1))]
    assert isinstance(outcome, Completion)
    assert (outcome.text, fake.hits) == ("The answer is 4.", 1)


async def test_what_cannot_be_unpacked_is_malformed_and_may_have_been_paid(hostile, keyed, ask, tmp_path):
    spec = EndpointSpec(model="m", base_url=hostile.url("packed_not_gzip"), api_key_env=keyed)
    async with Engine.open(ledger=str(tmp_path / "ledger.sqlite")) as engine:
        (outcome,) = [one async for one in engine.stream(spec, ask(1))]
    assert isinstance(outcome, Failure)
    assert (outcome.reason, outcome.attempts) == ("malformed", 3)


# --- proxies ---


class Proxy:
    """A real proxy on loopback that records what it is asked for and refuses it."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.seen.append((await reader.readuntil(b"\r\n\r\n")).decode("latin-1"))
        writer.write(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        await writer.drain()
        writer.close()


@pytest.fixture
async def proxy(monkeypatch) -> AsyncIterator[Proxy]:
    found = Proxy()
    server = await asyncio.start_server(found.serve, "127.0.0.1", 0)
    url = f"http://user:pass-word@127.0.0.1:{server.sockets[0].getsockname()[1]}"
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, url)
        monkeypatch.setenv(name.lower(), url)
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    yield found
    server.close()


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "127.1.2.3"])
async def test_loopback_never_goes_by_a_proxy(fake, proxy, spec, ask, ledger, host):
    if host == "127.1.2.3":
        assert find_proxy(f"http://{host}/v1") is None
        return
    local = spec.model_copy(update={"base_url": fake.url.replace("127.0.0.1", host)})
    async with Engine.open(ledger=ledger) as engine:
        outcomes = [one async for one in engine.stream(local, ask(3))]
    assert all(isinstance(one, Completion) for one in outcomes)
    assert proxy.seen == []


@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_other_hosts_go_by_the_proxy_with_its_login(proxy, keyed, scheme):
    async with client_of(f"{scheme}://models.example/v1", keyed) as client:
        if scheme == "http":
            reply = await client.send("GET", "/models", most=1000, seconds=5)
            assert reply.status == 502
        else:
            with pytest.raises(AttemptError, match="the proxy answered HTTP 502") as found:
                await client.send("GET", "/models", most=1000, seconds=5)
            assert found.value.not_sent
    (seen,) = proxy.seen
    assert "Proxy-Authorization: Basic" in seen
    assert (KEY in seen) == (scheme == "http")


def test_no_proxy_and_socks(monkeypatch):
    monkeypatch.setenv("http_proxy", "socks5://user:pass-word@host:1")
    with pytest.raises(ConfigError, match="SOCKS") as found:
        find_proxy("http://models.example/v1")
    assert "pass-word" not in str(found.value)
    monkeypatch.setenv("no_proxy", "models.example")
    assert find_proxy("http://models.example/v1") is None


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({}, "127.0.0.1,::1,localhost"),
        ({"NO_PROXY": "a.example, localhost"}, "a.example,localhost,127.0.0.1,::1"),
        ({"no_proxy": "b.example"}, "b.example,127.0.0.1,::1,localhost"),
    ],
)
def test_loopback_is_excepted_for_libraries_and_children(before, after):
    environ = dict(before)
    keep_loopback_direct(environ)
    keep_loopback_direct(environ)
    assert environ == {"NO_PROXY": after, "no_proxy": after}
    every = {"NO_PROXY": "*"}
    keep_loopback_direct(every)
    assert every == {"NO_PROXY": "*"}


def test_which_names_are_loopback():
    own = (
        "127.0.0.1",
        "127.9.9.9",
        "::1",
        "localhost",
        "LOCALHOST",
        "localhost.",
        "a.localhost",
        "::ffff:127.0.0.1",
        "0.0.0.0",  # noqa: S104 - a name to judge, not to bind
    )
    others = ("", None, "example.com", "127.0.0.1.example.com", "10.0.0.1", "localhost.example.com", "1270.0.0.1")
    assert all(map(is_loopback, own))
    assert not any(map(is_loopback, others))
