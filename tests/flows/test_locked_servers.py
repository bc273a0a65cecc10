"""Attacks on the local servers by a real web page, by DNS rebinding and by another user of the machine.

The page runs in a browser that is logged in to the UI, and it knows the authentication string, the ids and the control
token: its origin alone must be enough to refuse it. The other user knows none of them.
"""

import asyncio
import json
import multiprocessing
import os
import pwd
import re
import runpy
import stat
import threading
import urllib.error
import urllib.request
from base64 import b64encode
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from http.client import HTTPException
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import NamedTuple

import psutil
import pytest
import uvicorn
from support import AUTH, ask, chromium, home_of, until

from flows.local_stack.server import auth_string, login_url
from lema_core.llm.simulated import SimulatedEndpoint
from lema_core.rating.page import rating_app
from lema_core.rating.pilot import RatingSheet
from lema_core.run.spec import RunContext
from lema_core.system.loopback import free_port

pytestmark = pytest.mark.slow
KEY = "sk-SECRET-BLOCK-KEY-42"
NAME = "evil.example"
"""The attacker's host name, which resolves to 127.0.0.1 in this browser."""
REFUSED = re.compile("another origin|Host header")


class Targets(NamedTuple):
    """What the attacks are aimed at, and what a page has to know for them."""

    api: str
    auth: str
    """As clients send it."""
    deployment: str
    simulated: SimulatedEndpoint
    rating: str
    """The address of the rating page, with its secret."""
    sheet: RatingSheet

    def known(self, host: str) -> dict[str, str]:
        """Return what a page is given, with another host name for the same servers."""
        given = {
            "api": self.api,
            "rating": self.rating,
            "simulated": self.simulated.url.removesuffix("/v1"),
        }
        renamed = {name: url.replace("127.0.0.1", host) for name, url in given.items()}
        return renamed | {"auth": self.auth, "deployment": self.deployment, "token": self.simulated.control_token}

    def untouched(self) -> bool:
        """Tell whether no attack has had an effect."""
        return (
            ask(self.api, "flow_runs/filter", {"deployments": {"id": {"any_": [self.deployment]}}}) == []
            and self.simulated.stats.counts["ok"] == 1
            and self.simulated.faults.always_failing == 0
            and self.sheet.rated == 0
        )


@pytest.fixture(scope="module")
def targets(prefect_api, tmp_path_factory):
    """Make a Secret block, a deployment, a used simulated endpoint and a rating page."""
    kind = ask(prefect_api, "block_types/slug/secret", method="GET")["id"]
    (schema, *_) = ask(prefect_api, "block_schemas/filter", {"block_schemas": {"block_type_id": {"any_": [kind]}}})
    secret = {"name": "attacked", "data": {"value": KEY}, "block_type_id": kind, "block_schema_id": schema["id"]}
    block = ask(prefect_api, "block_documents/", secret)
    flow = ask(prefect_api, "flows/", {"name": "attacked"})["id"]
    deployment = ask(prefect_api, "deployments/", {"name": "attacked", "flow_id": flow})["id"]
    sheet = RatingSheet(tmp_path_factory.mktemp("pilot"), "anna", [correction()])
    endpoint = SimulatedEndpoint()
    with served(rating_app(sheet, "page-secret")) as page, endpoint.in_thread():
        endpoint.control_token = "control-token"
        used = b'{"model": "fixed", "messages": [{"role": "user", "content": "2+2?"}]}'
        assert answer(f"{endpoint.url}/chat/completions", used).status == 200
        encoded = b64encode(AUTH[prefect_api].encode()).decode()
        yield Targets(prefect_api, encoded, deployment, endpoint, f"{page}/page-secret", sheet)
    ask(prefect_api, f"deployments/{deployment}", method="DELETE")
    ask(prefect_api, f"block_documents/{block['id']}", method="DELETE")


@contextmanager
def served(application):
    """Serve an application in a thread; give its address."""
    port = free_port()
    server = uvicorn.Server(uvicorn.Config(application, port=port, log_level="warning"))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        until("the page", lambda: server.started)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join()


def correction():
    """Return a correction, as the report's tests make them."""
    samples = runpy.run_path(str(Path(__file__).parents[1] / "core" / "report" / "conftest.py"))
    return samples["correction"](0, *samples["PAIRS"][0])


def answer(url, data=None, **headers):
    """Return the answer to a program's request, also one of refusal."""
    try:
        return urllib.request.urlopen(urllib.request.Request(url, data, headers))
    except urllib.error.HTTPError as refused:
        return refused


@pytest.fixture(scope="module")
def evil():
    """Serve an empty page on another port of loopback; give the port."""

    class Page(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(b"<!doctype html><title>evil</title>")

        def log_message(self, *_):
            pass

    http = HTTPServer(("127.0.0.1", 0), Page)
    thread = threading.Thread(target=http.serve_forever)
    thread.start()
    yield http.server_port
    http.shutdown()
    http.server_close()
    thread.join()


@pytest.fixture(scope="module")
def context(targets):
    """Give a browser's context in which a person is logged in to the UI."""
    from playwright.sync_api import sync_playwright

    flags = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", f"--host-resolver-rules=MAP {NAME} 127.0.0.1"]
    with sync_playwright() as playwright, playwright.chromium.launch(executable_path=chromium(), args=flags) as started:
        opened = started.new_context()
        page = opened.new_page()
        page.goto(login_url(targets.api, "dashboard", home_of(targets.api)))
        page.get_by_text("Logout").first.wait_for()
        page.close()
        yield opened


ATTACKS = """
async ({api, auth, deployment, simulated, token, rating}) => {
  const json = {"Content-Type": "application/json"}, basic = {Authorization: `Basic ${auth}`};
  const asked = async (url, options) => {
    try {
      const answer = await fetch(url, options);
      return `${answer.type} ${answer.status} ${await answer.text()}`;
    } catch (error) { return `error ${error.message}`; }
  };
  const post = (url, body, headers = {}) => asked(url, {method: "POST", body: JSON.stringify(body), headers});
  // Sent without asking first; its answer cannot be read, but it may have an effect.
  const blind = (url, body) => asked(url, {method: "POST", mode: "no-cors", body: JSON.stringify(body)});
  const socket = (path) => new Promise((done) => {
    const opened = new WebSocket(`${api.replace("http", "ws")}${path}`, "prefect");
    opened.onopen = () => opened.send(JSON.stringify({type: "auth", token: atob(auth)}));
    opened.onmessage = (event) => done(`message ${event.data}`);
    opened.onclose = (event) => done(`error ${event.code}`);
  });
  const framed = (url) => new Promise((done) => {
    const frame = document.createElement("iframe");
    frame.src = url;
    frame.onload = () => done("error, as the frame's content shows");
    document.body.append(frame);
  });
  const loaded = (url) => new Promise((done) => {
    const script = document.createElement("script");
    script.src = url;
    script.onload = () => done("loaded"); script.onerror = () => done("error");
    document.body.append(script);
  });
  const run = `${api}/deployments/${deployment}/create_flow_run`, command = {job_variables: {command: "touch pwned"}};
  return {
    "secret": await post(`${api}/block_documents/filter`, {include_secrets: true}, {...json, ...basic}),
    "secret without asking": await post(`${api}/block_documents/filter`, {include_secrets: true}),
    "run": await post(run, command, {...json, ...basic}),
    "run blind": await blind(run, command),
    "settings": await asked(`${api}/admin/settings`, {headers: basic}),
    "health": await asked(`${api}/health`),
    "ui settings": await asked(`${api.replace("/api", "")}/ui-settings`),
    "login": await post(`${api.replace("/api", "")}/open`, {token: "x"}, json),
    "events": await socket("/events/out"),
    "events in": await socket("/events/in"),
    "logs": await socket("/logs/out"),
    "task runs": await socket("/task_runs/subscriptions/scheduled"),
    "frame": await framed(`${api.replace("/api", "")}/v2/dashboard`),
    "script": await loaded(`${simulated}/stats`),
    "reset": await post(`${simulated}/reset`, {}, {Authorization: `Bearer ${token}`}),
    "reset blind": await blind(`${simulated}/reset`, {}),
    "faults": await blind(`${simulated}/faults`, {always_failing: 1}),
    "stats": await asked(`${simulated}/stats`),
    "completion": await blind(`${simulated}/v1/chat/completions`, {model: "fixed", messages: []}),
    "read pair": await asked(`${rating}/pair/1`),
    "rate": await post(`${rating}/pair/1`, {rating: "good"}, json),
    "rate blind": await blind(`${rating}/pair/1`, {rating: "good"}),
    "stored login": String(localStorage.getItem("prefect-password")),
  };
}
"""
SOCKET = """
({url, auth}) => new Promise((done) => {
  const opened = new WebSocket(url, "prefect");
  opened.onopen = () => opened.send(JSON.stringify({type: "auth", token: atob(auth)}));
  opened.onmessage = (event) => done(JSON.parse(event.data));
  opened.onclose = (event) => done(event.code);
})
"""
FORM = """
(url) => {
  const form = document.createElement("form");
  form.method = "POST"; form.action = url; form.enctype = "text/plain";
  document.body.append(form); form.submit();
}
"""


@pytest.mark.parametrize("origin", ["http://127.0.0.1", "http://localhost", f"http://{NAME}"])
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", NAME])
def test_a_page_of_another_origin_reads_and_does_nothing(context, targets, evil, origin, host):
    page = context.new_page()
    page.goto(f"{origin}:{evil}/")
    found = page.evaluate(ATTACKS, targets.known(host))
    got = {name: text for name, text in found.items() if not text.startswith(("error", "opaque 0"))}
    assert got == {"stored login": "null"}
    (frame,) = page.frames[1:]
    assert REFUSED.search(frame.content())
    for url in (f"{targets.simulated.url.removesuffix('/v1')}/reset", f"{targets.rating}/pair/1"):
        with page.expect_navigation():
            page.evaluate(FORM, url.replace("127.0.0.1", host))
        assert REFUSED.search(page.content())
        page.goto(f"{origin}:{evil}/")
    page.close()
    assert targets.untouched()


def test_a_rebound_name_reaches_no_server(context, targets):
    page = context.new_page()
    for url in (targets.api, targets.api.removesuffix("/api"), targets.simulated.url, targets.rating):
        reached = page.goto(url.replace("127.0.0.1", NAME) + "/")
        assert (reached.status, "Host header" in page.content()) == (400, True), url
        # From there everything is of the same origin.
        said = page.evaluate("url => fetch(url, {method: 'POST', body: '{}'}).then(a => a.status)", "/reset")
        assert said == 400
    page.close()
    assert targets.untouched()


def test_the_ui_works_for_whom_the_printed_address_logged_in(context, targets):
    base, seen = targets.api.removesuffix("/api"), {"answers": [], "elsewhere": []}
    page = context.new_page()
    page.on("response", lambda got: seen["answers"].append((got.status, got.url)))
    page.on("requestfinished", lambda sent: seen["elsewhere"].append(sent.url))
    page.goto(f"{base}/v2/blocks")
    page.get_by_text("attacked").first.wait_for()
    page.goto(f"{base}/v2/deployments")
    page.get_by_text("attacked").first.wait_for()
    page.goto(f"{base}/v2/events")
    page.wait_for_load_state("networkidle")
    assert not [url for status, url in seen["answers"] if status in (400, 401, 403)]
    assert not [url for url in seen["elsewhere"] if not url.startswith((base, "data:"))]
    assert page.url.startswith(f"{base}/v2/events")
    # As the UI opens one for a run's logs.
    opened = page.evaluate(SOCKET, {"url": targets.api.replace("http", "ws") + "/logs/out", "auth": targets.auth})
    assert opened == {"type": "auth_success"}
    page.close()


def test_a_printed_address_logs_in_once(context, targets):
    url = login_url(targets.api, "runs", home_of(targets.api))
    assert AUTH[targets.api] not in url
    first, second = (context.browser.new_context() for _ in range(2))
    page = first.new_page()
    page.goto(url)
    page.wait_for_url("**/v2/runs*", wait_until="commit")
    assert page.evaluate("localStorage.getItem('prefect-password')") == targets.auth
    page.goto(url)
    page.wait_for_url("**/v2/runs*", wait_until="commit")
    late = second.new_page()
    late.goto(url)
    late.get_by_text("was used already").wait_for()
    assert late.url.endswith("/open/runs"), "the token is out of the address"
    assert late.evaluate("localStorage.getItem('prefect-password')") is None
    late.goto(f"{targets.api.removesuffix('/api')}/v2/dashboard")
    late.wait_for_url("**/login*")
    first.close()
    second.close()


def test_programs_need_the_string_on_every_route_but_health(targets):
    base = targets.api.removesuffix("/api")
    basic = {"Authorization": f"Basic {targets.auth}"}
    described = json.load(answer(f"{base}/openapi.json"))
    paths = [path for path, methods in described["paths"].items() if "get" in methods]
    assert len(paths) > 20
    open_ones = {path for path in paths if answer(f"{targets.api}{re.sub('{.*?}', 'x', path)}").status != 401}
    assert open_ones == {"/health", "/ready"}
    assert answer(f"{targets.api}/admin/version", **basic).status == 200
    for wrong in ("lema:wrong", "", targets.auth[:-4]):
        assert answer(f"{targets.api}/admin/version", Authorization=f"Basic {wrong}").status == 401
    for name in (NAME, f"127.0.0.1.{NAME}", ""):
        assert answer(f"{targets.api}/admin/version", Host=name, **basic).status == 400


NOBODY = "nobody"


def as_nobody(attempt, *given):
    """Call a function as another user of the machine, in a process of its own, and return what it found."""
    if os.geteuid() != 0:
        pytest.skip("only root can become another user")
    other = pwd.getpwnam(NOBODY)

    def become(pipe):
        os.setgroups([])
        os.setgid(other.pw_gid)
        os.setuid(other.pw_uid)
        pipe.send(attempt(*given))

    receiving, sending = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.get_context("fork").Process(target=become, args=(sending,))
    process.start()
    sending.close()
    with suppress(EOFError):
        found = receiving.recv()
        process.join()
        return found
    raise AssertionError(f"the other user's process ended with {process.exitcode}")


def readable(folder: int, names: list[str]) -> dict[str, int]:
    """Read files below an open folder, as one who may enter it; return the sizes of those that can be read."""
    found = {}
    for name in names:
        with suppress(OSError), os.fdopen(os.open(name, os.O_RDONLY, dir_fd=folder), "rb") as file:
            found[name] = len(file.read())
    return found


def test_another_user_can_copy_nothing(targets):
    home = home_of(targets.api)
    auth_string(home)
    files = [f"{home.name}/{file.relative_to(home)}" for file in home.rglob("*") if file.is_file()]
    assert {f"{home.name}/{name}" for name in ("auth", "prefect.db", "server.log", "server.json")} <= set(files)
    folder = os.open(home.parent, os.O_RDONLY)
    try:
        assert readable(folder, files).keys() == set(files)
        assert as_nobody(readable, folder, files) == {}
    finally:
        os.close(folder)
    assert stat.S_IMODE(home.stat().st_mode) == 0o700
    assert {stat.S_IMODE((home / name).stat().st_mode) for name in ("auth", "prefect.db", "prefect.db-wal")} == {0o600}


def test_another_user_reads_and_starts_nothing(targets):
    body, json_type = b'{"include_secrets": true}', {"Content-Type": "application/json"}
    root = targets.simulated.url.removesuffix("/v1")
    attempts = {
        "secret": (f"{targets.api}/block_documents/filter", body),
        "run": (f"{targets.api}/deployments/{targets.deployment}/create_flow_run", b"{}"),
        "reset": (f"{root}/reset", b"{}"),
        "faults": (f"{root}/faults", b'{"always_failing": 1}'),
        "pair": (f"{targets.rating.rpartition('/')[0]}/pair/1", None),
        "rate": (f"{targets.rating.rpartition('/')[0]}/pair/1", b'{"rating": "good"}'),
    }

    def tried():
        return {name: answer(url, data, **json_type).status for name, (url, data) in attempts.items()}

    def listed():
        """Return what a list of processes shows: arguments and environments that can be read."""
        seen = b""
        for folder in Path("/proc").glob("[0-9]*"):
            for name in ("cmdline", "environ"):
                with suppress(OSError):
                    seen += (folder / name).read_bytes()
        return seen

    assert as_nobody(tried) == dict.fromkeys(("secret", "run", "reset", "faults"), 401) | dict.fromkeys(
        ("pair", "rate"), 404
    )
    shown = as_nobody(listed)
    assert b"flows.local_stack.server_program" in shown
    assert AUTH[targets.api].encode() not in shown
    assert targets.untouched()


def test_a_cluster_on_this_machine_takes_no_work_of_others(tmp_path):
    pytest.importorskip("distributed")
    # The browser's driver keeps an event loop in this thread.
    with ThreadPoolExecutor(1) as thread:
        thread.submit(asyncio.run, cluster_attacked(tmp_path)).result()


async def cluster_attacked(tmp_path):
    import distributed

    from tasks.dask_cluster import _local

    runtime = RunContext(root=str(tmp_path), ledger=str(tmp_path / "ledger"), run="r", workers=1)
    before = listeners(set())
    async with _local(runtime) as cluster:
        address = cluster.scheduler_address
        assert address.startswith("tls://127.0.0.1:")
        assert await said_to(address, cluster.security) == "OK"
        assert await said_to(address, distributed.Security.temporary()) == "refused"
        assert await said_to(address.replace("tls", "tcp"), distributed.Security()) == "refused"
        paths = ("/", "/status", "/info/main/workers.html", "/json/counts.json", "/metrics")
        opened = listeners(before)
        assert len(opened) > 2
        assert {await asyncio.to_thread(answered, port, path) for port in opened for path in paths} <= {0, 404}


async def said_to(address, security) -> str:
    """Ask a Dask scheduler who is there, as any client does first."""
    from distributed.core import connect

    try:
        async with asyncio.timeout(10):
            comm = await connect(address, timeout=3, **security.get_connection_args("client"))
            try:
                await comm.write({"op": "identity", "reply": True})
                return "OK" if (await comm.read())["type"] == "Scheduler" else "another answer"
            finally:
                comm.abort()
    except (OSError, TimeoutError):
        return "refused"


def listeners(before: set[int]) -> set[int]:
    """Return the ports on which this process and those that it started listen by now."""
    this = psutil.Process()
    return {
        connection.laddr.port
        for process in (this, *this.children(recursive=True))
        for connection in process.net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN
    } - before


def answered(port, path) -> int:
    """Return the status of an HTTP answer; 0 where the port speaks another language."""
    try:
        return answer(f"http://127.0.0.1:{port}{path}").status
    except (OSError, HTTPException):
        return 0
