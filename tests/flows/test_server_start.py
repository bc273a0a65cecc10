"""Folders that start a Prefect server at the same moment: each gets its own."""

import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from support import AUTH, hide_our_packages, home_of, lema_command

from flows.local_stack import server
from flows.local_stack.server import auth_string
from lema_core.errors import LemaError

pytestmark = pytest.mark.slow
START = """
import sys
from pathlib import Path
from flows.local_stack import server
server._free_port = lambda wished, real=server._free_port: int(sys.argv[2]) if wished == 4200 else real(wished)
print(server.start(Path(sys.argv[1])), flush=True)
"""


def works_in(port: int, home: Path) -> bool:
    """Tell whether the server at a port takes the string of a folder, and works there."""
    AUTH[server.api_url(port)] = auth_string(home)
    return home_of(server.api_url(port)) == home


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
        assert all(works_in(port, home) for port, home in zip(ports, homes, strict=True))
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
    home = tmp_path / server.HOME
    hide_our_packages(tmp_path)
    monkeypatch.chdir(tmp_path)
    try:
        port = server.start(home)
        assert port != taken
        assert works_in(port, home)
        assert server.running_port(home) == port
        commands_find_the_string(tmp_path, port, monkeypatch)
    finally:
        server.stop(home)


def commands_find_the_string(folder: Path, port: int, monkeypatch) -> None:
    """Use the server of a folder as commands do in it, with nothing set."""
    monkeypatch.chdir(folder)
    for name in ("PREFECT_API_URL", "PREFECT_API_AUTH_STRING", "PREFECT_HOME", *server.QUIET):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    api, auth = server.api_url(port), auth_string(folder / server.HOME)

    def lema(*words: str) -> str:
        return subprocess.run(lema_command(*words), capture_output=True, text=True, check=True).stdout

    printed = lema("ui", "status")
    assert f"{api.removesuffix('/api')}/open/dashboard#" in printed
    assert auth not in printed
    exports = dict(line.removeprefix("export ").split("=", 1) for line in lema("ui", "env").splitlines())
    assert (exports["PREFECT_API_URL"], exports["PREFECT_API_AUTH_STRING"]) == (api, auth)
    assert server.ensure_server() == api
    assert (os.environ["PREFECT_API_URL"], os.environ["PREFECT_API_AUTH_STRING"]) == (api, auth)
    # What is started from here gets it by its environment: so does a flow's process.
    ask_version = "from prefect import get_client; print(get_client(sync_client=True).api_version())"
    told = subprocess.run([sys.executable, "-c", ask_version], capture_output=True, text=True, check=True)
    assert told.stdout.strip()

    (folder / server.HOME / "auth").write_text("lema:changed-while-it-runs")
    monkeypatch.delenv("PREFECT_API_URL")
    with pytest.raises(LemaError, match="does not take the authentication string"):
        server.ensure_server()
