"""Several servers behind one endpoint: load, a server that dies, misbehaves or comes back, and what stays the same."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import AsyncExitStack, suppress

import psutil
import pytest
from aiohttp import web
from pydantic import ValidationError
from support import lema_command, until

from lema_core.errors import AuthenticationError, EndpointError
from lema_core.llm import Completion, EndpointSpec, Engine, running
from lema_core.llm.settings import EngineSettings
from lema_core.system.loopback import free_port
from lema_core.system.processes import replica_devices, use_devices
from tests.core.llm.conftest import FakeEndpoint

SETTINGS = EngineSettings(preflight_waits_s=(), probe_wait_s=0.05, longest_probe_wait_s=0.4, retry_wait_s=0.01)


@pytest.fixture
async def servers():
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(FakeEndpoint()) for _ in range(3)]


def at(servers, **settings) -> EndpointSpec:
    urls = tuple(server if isinstance(server, str) else server.url for server in servers)
    return EndpointSpec(model="fake", base_url=urls, **({"concurrency": 8} | settings))


async def answers(spec, requests, ledger, settings=SETTINGS) -> list:
    async with asyncio.timeout(60), Engine.open(ledger, settings=settings) as engine:
        return [outcome async for outcome in engine.stream(spec, requests)]


def is_whole(outcomes, count: int) -> bool:
    return len(outcomes) == count and all(isinstance(outcome, Completion) for outcome in outcomes)


async def test_the_load_is_shared_evenly_and_the_concurrency_holds_for_each_server(servers, ask, ledger) -> None:
    for server in servers:
        server.latency = 0.05
    assert is_whole(await answers(at(servers), ask(120), ledger), 120)
    assert [server.most_in_flight for server in servers] == [8, 8, 8]
    assert min(server.hits for server in servers) >= 30


async def test_a_slow_server_gets_fewer_requests(servers, ask, ledger) -> None:
    slow, quick = servers[:2]
    slow.latency, quick.latency = 0.4, 0.02
    assert is_whole(await answers(at([slow, quick]), ask(150), ledger), 150)
    assert slow.hits < quick.hits / 2


async def test_where_the_servers_are_does_not_change_what_was_paid(servers, ask, ledger) -> None:
    first = await answers(at(servers[:2]), ask(30), ledger)
    for spec in (at(servers[:1]), at(servers[1::-1]), at(servers)):
        assert await answers(spec, ask(30), ledger) == first
    assert sum(server.hits for server in servers) == 30


async def test_a_server_that_is_away_from_the_start_costs_nothing_and_returns(servers, ask, ledger) -> None:
    there, late = servers[0], FakeEndpoint()
    there.latency = 0.05
    late.port = free_port()
    async with asyncio.timeout(60), Engine.open(ledger, settings=SETTINGS) as engine:
        stream = engine.stream(at([there, late.url], concurrency=2), ask(300))
        outcomes = [await anext(stream) for _ in range(20)]
        assert there.hits >= 20
        async with late:
            outcomes += [outcome async for outcome in stream]
            assert late.hits > 50
    assert is_whole(outcomes, 300)
    assert there.hits + late.hits == 300, "a refused connection sends nothing"


async def test_the_endpoint_fails_only_when_all_are_away(servers, ask, ledger) -> None:
    with pytest.raises(EndpointError, match="cannot reach"):
        await answers(at(["http://127.0.0.1:9/v1", "http://127.0.0.1:10/v1"]), ask(3), ledger)
    impatient = EngineSettings(preflight_waits_s=(), probe_wait_s=0.05, unreachable_s=0.5, retry_wait_s=0.01)
    async with asyncio.timeout(60), Engine.open(ledger, settings=impatient) as engine:
        stream = engine.stream(at(servers[:2], concurrency=4), ask(500))
        [await anext(stream) for _ in range(10)]
        for server in servers[:2]:
            await server.stop()
        with pytest.raises(EndpointError, match="stopped answering"):
            [outcome async for outcome in stream]


DENIALS = {
    "fails at once": (500, {"error": {"message": "engine is dead"}}, {}),
    "another model": (404, {"error": {"message": "no such model", "code": "model_not_found"}}, {}),
    "no credit": (402, {"error": {"message": "no credit left"}}, {}),
    "no JSON": (200, "<html>it works</html>", {}),
    "refuses a parameter": (400, {"error": {"message": "unknown field"}}, {}),
    "asks to wait for an hour": (429, {"error": {"message": "later"}}, {"Retry-After": "7200"}),
    "cuts every connection": (0, "", {}),
}


@pytest.mark.parametrize("name", DENIALS)
async def test_a_server_that_answers_nothing_takes_no_row_and_few_requests(servers, ask, ledger, name) -> None:
    bad, good = servers[:2]
    bad.decide = lambda _body, _tries: DENIALS[name]
    good.latency = 0.02
    assert is_whole(await answers(at([bad, good]), ask(200), ledger), 200)
    # Not the least busy server for ever, although it has nothing in flight: the first burst, and trials.
    assert bad.hits <= 40


async def test_the_prompts_own_fault_stays_a_row_and_blames_no_server(servers, ask, ledger) -> None:
    def decide(body, _tries):
        if body["messages"][0]["content"].endswith("7"):
            return 400, {"error": {"message": "this prompt is not taken"}}, {}
        return None

    for server in servers:
        server.decide = decide
        server.latency = 0.01
    async with Engine.open(ledger, settings=SETTINGS) as engine:
        # All have answered before the first bad prompt.
        stream = engine.stream(at(servers, concurrency=2), [*ask(6, start=10), *ask(100, start=20)])
        outcomes = [outcome async for outcome in stream]
    failed = [outcome for outcome in outcomes if not isinstance(outcome, Completion)]
    assert Counter(outcome.reason for outcome in failed) == {"bad_request": 10}
    assert sum(server.hits for server in servers) == 106


async def test_an_endpoint_whose_servers_all_refuse_is_stopped_as_early_as_one_server(servers, ask, ledger) -> None:
    for server in servers:
        server.decide = lambda _body, _tries: (400, {"error": {"message": "'max_tokens' is not supported"}}, {})
    with pytest.raises(EndpointError, match="'max_tokens' is not supported"):
        await answers(at(servers), ask(400), ledger)
    # What was in flight when the first refusal came, and eight requests at two servers each, one after the other.
    assert sum(server.hits for server in servers) <= 3 * 8 + 2 * 8


async def test_a_key_that_one_server_refuses_is_an_error_at_first_contact(servers, ask, ledger) -> None:
    servers[1].models_status = 401
    with pytest.raises(AuthenticationError, match=str(servers[1].port)):
        await answers(at(servers), ask(3), ledger)
    assert sum(server.hits for server in servers) == 0


async def test_a_server_that_lists_other_models_is_warned_of(servers, ask, ledger, caplog) -> None:
    async def lists(_request):
        return web.json_response({"data": [{"id": "other-7b"}]})

    strange = FakeEndpoint()
    strange._models = lists
    async with strange:
        assert is_whole(await answers(at([servers[0], strange]), ask(3), ledger), 3)
    assert "lists other models than 'fake': other-7b" in caplog.text


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"base_url": ["http://a/v1", "http://a/v1"]}, "lists one server twice"),
        ({"base_url": ["http://a/v1", "ftp://b"]}, "base_url"),
        ({"base_url": "http://a/v1", "replicas": 2}, "how often a command is started"),
        ({"base_url": ["http://a/v1", "http://b/v1"], "transport": "batch"}, "batches are kept by one server"),
        ({"command": "serve {port}", "replicas": 2, "transport": "batch"}, "batches are kept by one server"),
    ],
)
def test_what_cannot_work_is_refused(fields, words) -> None:
    with pytest.raises(ValidationError, match=words):
        EndpointSpec(model="m", **fields)


def test_a_list_of_one_is_that_url() -> None:
    assert EndpointSpec(model="m", base_url=["http://a/v1"]) == EndpointSpec(model="m", base_url="http://a/v1")


SERVER = """
import asyncio, os, sys
from lema_core.llm.simulated import Faults, SimulatedEndpoint

log = open(sys.argv[2], "a", buffering=1)

def respond(request):
    log.write(request.body["messages"][0]["content"] + "\\n")  # as it is about to be paid
    return None

async def main():
    async with SimulatedEndpoint(port=int(sys.argv[1]), faults=Faults(latency_s=0.05), respond=respond):
        print("up", flush=True)
        await asyncio.sleep(600)

asyncio.run(main())
"""


@pytest.mark.slow
def test_a_server_killed_in_the_middle_changes_no_byte_and_pays_at_most_what_was_in_flight(tmp_path) -> None:
    count, concurrency = 600, 8
    (tmp_path / "server.py").write_text(SERVER)
    file = tmp_path / "requests.jsonl"
    file.write_text(
        "".join(
            json.dumps({"id": f"r{n}", "messages": [{"role": "user", "content": f"What is {n} plus two?"}]}) + "\n"
            for n in range(count)
        )
    )

    def complete(out: str, servers) -> subprocess.Popen:
        urls = [word for port, _, _ in servers for word in ("--base-url", f"http://127.0.0.1:{port}/v1")]
        options = ["--model", "fixed", "--concurrency", concurrency, "--out", tmp_path / out]
        return subprocess.Popen(lema_command("complete", file, *urls, *options), stderr=subprocess.PIPE, text=True)

    servers = []
    for number in range(3):
        port, log = free_port(), tmp_path / f"paid-{number}.txt"
        command = [sys.executable, tmp_path / "server.py", str(port), log]
        servers.append((port, log, subprocess.Popen(command, stdout=subprocess.PIPE, text=True)))
    try:
        for _, _, process in servers:
            assert process.stdout.readline() == "up\n"
        client = complete("killed", servers)
        _, log, process = servers[1]
        until("half of its share", lambda: len(log.read_text().splitlines()) > count / 6, client, every_s=0.01)
        os.kill(process.pid, signal.SIGKILL)
        _, said = client.communicate()
        assert client.returncode == 0, said
        paid = [line for _, log, _ in servers for line in log.read_text().splitlines()]
        assert len(set(paid)) == count
        assert len(paid) - count <= concurrency, "only what was in flight at the dead server is paid twice"
        assert complete("undisturbed", servers[:1]).wait() == 0
    finally:
        for _, _, process in servers:
            process.kill()
    for name in ("completions.parquet", "rejected.parquet"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "undisturbed" / name).read_bytes()


def command(**fields) -> EndpointSpec:
    words = (sys.executable, "-m", "lema_core.llm.simulated", "--port", "{port}", "--seed", "{slot}")
    return EndpointSpec(name="s", model="fixed", command=words, **({"replicas": 3, "concurrency": 4} | fields))


async def test_replicas_of_a_command_have_ports_slots_and_logs_of_their_own(tmp_path) -> None:
    async with running(command(first_slot=4), tmp_path) as urls:
        assert len(set(urls)) == 3
        slots = {process.cmdline()[-1] for process in simulated()}
        assert slots == {"4", "5", "6"}
    assert {path.name for path in tmp_path.iterdir()} == {"s-0.log", "s-1.log", "s-2.log"}


def simulated() -> Iterator[psutil.Process]:
    """Yield our children that are servers; a dead one has no command line."""
    for child in psutil.Process().children():
        with suppress(psutil.NoSuchProcess):
            if "--seed" in child.cmdline():
                yield child


def servers_of(urls) -> list[psutil.Process]:
    """Return the processes of replicas, in the order of their URLs."""
    children = {child.cmdline()[4]: child for child in simulated()}
    return [children[url.split(":")[2].removesuffix("/v1")] for url in urls]


async def test_a_replica_that_dies_is_started_again_while_the_others_go_on(tmp_path, ask, ledger) -> None:
    said: list[str] = []
    settings = EngineSettings(restart_waits_s=(0.1,), probe_wait_s=0.05)
    async with running(command(), tmp_path, said.append, settings) as urls, Engine.open(ledger) as engine:
        stream = engine.stream(command().at(urls), ask(600))
        outcomes = [await anext(stream) for _ in range(30)]
        servers_of(urls)[1].kill()
        outcomes += [outcome async for outcome in stream]
        assert is_whole(outcomes, 600)
        await asyncio.to_thread(until, "the third server", lambda: len(list(simulated())) == 3)
    assert len(said) == 1
    assert "Server 2 of 3 of endpoint 's' was ended by signal 9" in said[0]


async def test_the_run_ends_when_the_last_replica_is_dead_for_good(tmp_path, ask, ledger) -> None:
    said: list[str] = []
    settings = EngineSettings(restart_waits_s=(), probe_wait_s=0.05)

    async def lose_all() -> None:
        async with running(command(), tmp_path, said.append, settings) as urls, Engine.open(ledger) as engine:
            for server, start in zip(servers_of(urls), (0, 100, 200), strict=True):
                assert is_whole([o async for o in engine.stream(command().at(urls), ask(100, start=start))], 100)
                server.kill()
            await asyncio.sleep(60)

    with pytest.raises(EndpointError, match=r"of 3 of endpoint 's' was ended by signal 9"):
        await lose_all()
    assert len(said) == 3


def test_visible_gpus_are_divided_among_replicas(monkeypatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,3,6,7")
    assert replica_devices(1) == [()]
    assert sorted(gpu for share in replica_devices(2) for gpu in share) == ["2", "3", "6", "7"]
    assert [len(share) for share in replica_devices(2)] == [2, 2]
    with use_devices(("6", "7")):
        assert replica_devices(2) == [("6",), ("7",)]
