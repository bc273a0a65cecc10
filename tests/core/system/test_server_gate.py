"""Which requests our servers on loopback take, and whose answers on a port are ours."""

import os
import signal
import socket
import subprocess
import sys

import pytest
from starlette.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

from lema_core.errors import EndpointError
from lema_core.llm import servers
from lema_core.llm.endpoints import EndpointSpec, running
from lema_core.llm.simulated import SimulatedEndpoint
from lema_core.system.loopback import FilteredApp, RequestFilter, is_listening, is_session_listening

OWN = "127.0.0.1:4200"
TAKEN = [
    {"host": OWN},  # a program
    {"host": "localhost:4200"},
    {"host": "LocalHost:4200"},
    {"host": "[::1]:4200"},
    {"host": "127.0.0.1"},
    {"host": OWN, "origin": "http://127.0.0.1:4200"},
    {"host": "localhost:8080", "origin": "http://localhost:8080"},  # through an SSH tunnel
    {"host": "127.0.0.1", "origin": "http://127.0.0.1"},
    {"host": OWN, "sec-fetch-site": "none", "sec-fetch-mode": "navigate", "sec-fetch-dest": "document"},
    {"host": OWN, "sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "document"},
    {"host": OWN, "sec-fetch-site": "same-origin", "sec-fetch-mode": "cors", "sec-fetch-dest": "empty"},
]
FOREIGN = [
    {"origin": origin}
    for origin in (
        "https://evil.example",
        "http://evil.example:4200",
        "http://127.0.0.1:4201",
        "http://127.0.0.1",
        "https://127.0.0.1:4200",
        "http://localhost:4200",  # the page of another server, where localhost is ::1
        "http://[::1]:4200",
        "http://127.0.0.1:4200.evil.example",
        "http://127.0.0.1:4200@evil.example",
        "http://127.0.0.1:42000",
        "http://127.0.0.1:4200/",
        "null",
        "file://",
        "",
        "chrome-extension://abcdef",
    )
] + [
    {"sec-fetch-site": site, "sec-fetch-mode": mode, "sec-fetch-dest": dest}
    for site in ("cross-site", "same-site")
    for mode, dest in (("no-cors", "image"), ("no-cors", "script"), ("navigate", "iframe"), ("navigate", "object"))
]
NAMES = [
    "evil.example",
    "evil.example:4200",
    "127.0.0.1.evil.example:4200",
    "127.0.0.1.nip.io",
    "localhost.evil.example",
    "localhost.",
    "127.0.0.1@evil.example",
    "evil.example#127.0.0.1",
    "127.0.0.1:4200, evil.example",
    "127.0.0.1:port",
    "0.0.0.0:4200",
    "127.0.0.2",
    "127.1",
    "2130706433",
    "[::]",
    "[::ffff:127.0.0.1]",
    "prefect-in-memory",
    "",
]


@pytest.mark.parametrize("headers", TAKEN)
def test_programs_and_own_pages_are_taken(headers):
    assert RequestFilter().refusal(headers.items()) is None


@pytest.mark.parametrize("headers", FOREIGN)
def test_pages_of_other_origins_are_refused(headers):
    assert RequestFilter().refusal([("Host", OWN), *headers.items()]).status == 403


@pytest.mark.parametrize("name", NAMES)
def test_other_host_names_are_refused(name):
    assert RequestFilter().refusal([("host", name)]).status == 400
    # A rebound page is of the same origin as the name that it uses.
    assert RequestFilter().refusal([("host", name), ("origin", f"http://{name}")]).status == 400


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [("host", OWN), ("host", "evil.example")],
        [("host", OWN), ("host", OWN)],
        [("host", OWN), ("origin", f"http://{OWN}"), ("origin", "https://evil.example")],
    ],
)
def test_none_or_two_of_a_header_are_refused(headers):
    assert RequestFilter().refusal(headers) is not None


def test_a_named_proxy_is_taken():
    proxied = RequestFilter(hosts=(*RequestFilter().hosts, "lema.example.org"), origins=("https://lema.example.org",))
    of_proxy = [("host", "lema.example.org"), ("origin", "https://lema.example.org")]
    assert proxied.refusal(of_proxy) is None
    assert RequestFilter().refusal(of_proxy).status == 400
    assert proxied.refusal([("host", "lema.example.org"), ("origin", "https://evil.example")]).status == 403


async def echo(scope, receive, send):
    """Answer every request, and accept every web socket."""
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.close", "code": 1000})
        return
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"reached"})


def test_an_application_behind_the_gate():
    client = TestClient(FilteredApp(echo, RequestFilter()), base_url="http://127.0.0.1:4200")
    own = client.get("/")
    assert (own.status_code, own.text, own.headers["x-frame-options"]) == (200, "reached", "DENY")
    for method in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"):
        foreign = client.request(method, "/", headers={"Origin": "https://evil.example"})
        assert (foreign.status_code, "reached" in foreign.text) == (403, False)
        assert "access-control-allow-origin" not in foreign.headers
        assert client.request(method, "/", headers={"Host": "evil.example"}).status_code == 400
    with client.websocket_connect("ws://127.0.0.1:4200/", headers={"Origin": "http://127.0.0.1:4200"}):
        pass
    for headers in ({"Origin": "https://evil.example"}, {"Host": "evil.example"}):
        with (
            pytest.raises(WebSocketDisconnect) as closed,
            client.websocket_connect("ws://127.0.0.1:4200/", headers=headers),
        ):
            pass
        assert closed.value.code == 1008


LISTEN = """
import socket, sys, time
with socket.create_server(("127.0.0.1", 0)) as server:
    print(server.getsockname()[1], flush=True)
    time.sleep(60)
"""


def test_a_port_is_of_the_process_that_listens_or_of_its_session():
    by_shell = f'{sys.executable} -c "$0" & wait'
    with subprocess.Popen(
        ["sh", "-c", by_shell, LISTEN], stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as one:
        try:
            port = int(one.stdout.readline())
            assert is_session_listening(one.pid, port)
            assert not is_listening(one.pid, port)
            with socket.create_server(("127.0.0.1", 0)) as ours:
                assert not is_session_listening(one.pid, ours.getsockname()[1])
        finally:
            os.killpg(one.pid, signal.SIGKILL)


async def test_a_server_whose_port_another_process_took_is_started_again(monkeypatch):
    async with SimulatedEndpoint() as other:
        free, offered = servers.free_port, []

        def offer():
            offered.append(free() if offered else other.port)
            return offered[-1]

        monkeypatch.setattr(servers, "free_port", offer)
        spec = EndpointSpec(model="fixed", command=f"{sys.executable} -m lema_core.llm.simulated --port {{port}}")
        async with running(spec) as url:
            assert offered[0] == other.port
            assert url == f"http://127.0.0.1:{offered[1]}/v1"
        # A server that never gets its port is not replaced by the other one.
        monkeypatch.setattr(servers, "free_port", lambda: other.port)
        with pytest.raises(EndpointError, match="another process had taken its port"):
            async with running(spec.model_copy(update={"command": ("sleep", "60")})):
                pass
        assert other.stats.counts["hits"] == 0
