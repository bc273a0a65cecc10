"""Folders that start a Prefect server at the same moment: each gets its own."""

import os
import subprocess
import sys
import urllib.request
from json import loads

import psutil
import pytest

from flows.operations import server

pytestmark = pytest.mark.slow
START = """
import sys
from pathlib import Path
from flows.operations import server
server._free_port = lambda wished, real=server._free_port: int(sys.argv[2]) if wished == 4200 else real(wished)
print(server.start(Path(sys.argv[1])), flush=True)
"""


def home_of(port: int) -> str:
    """Return the folder that the server at a port says it works in."""
    with urllib.request.urlopen(f"{server.api_url(port)}/admin/settings") as answer:
        return loads(answer.read())["home"]


@pytest.mark.skipif("LEMA_ALL_TESTS" not in os.environ, reason="starts three servers; set LEMA_ALL_TESTS=1")
@pytest.mark.timeout(300)
def test_servers_that_choose_the_same_port_at_the_same_moment_are_two(tmp_path):
    homes = [tmp_path / "one", tmp_path / "two"]
    contested = server._free_port(0)
    words = [sys.executable, "-c", START]
    given = {name: value for name, value in os.environ.items() if name != "PREFECT_API_URL"}
    try:
        # Both find the port free: neither has it before its server listens.
        begun = [
            subprocess.Popen([*words, str(home), str(contested)], stdout=subprocess.PIPE, text=True, env=given)
            for home in homes
        ]
        ports = [int(one.communicate(timeout=120)[0]) for one in begun]
        assert contested in ports
        assert len(set(ports)) == 2
        assert [home_of(port) for port in ports] == [str(home) for home in homes]
        assert [server.running_port(home) for home in homes] == ports
    finally:
        stopped = [server.stop(home) for home in homes]
    assert stopped == [True, True]
    assert not [one for one in psutil.net_connections("tcp") if one.status == "LISTEN" and one.laddr.port in ports]


def test_a_server_of_somebody_else_at_our_port_is_not_ours(tmp_path, prefect_api, monkeypatch):
    taken = int(prefect_api.split(":")[2].removesuffix("/api"))
    assert server._answers(os.getpid(), taken) is False
    free = server._free_port
    # The port was free when we looked, and is taken when the server wants it.
    looks = iter([taken])
    monkeypatch.setattr(server, "_free_port", lambda wished: next(looks, None) or free(wished))
    try:
        port = server.start(tmp_path)
        assert port != taken
        assert home_of(port) == str(tmp_path)
        assert server.running_port(tmp_path) == port
    finally:
        server.stop(tmp_path)
