"""`lema up` and `lema down` as people use them, and a worker that is killed together with the run it works on."""

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from support import AUTH, ended, kill_all, lema_command, runs, start_run, state_of, until

from flows.local_stack.server import api_url, auth_string
from lema_core.llm.simulated import Faults

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif("LEMA_ALL_TESTS" not in os.environ, reason="four minutes; LEMA_ALL_TESTS=1 runs it"),
    pytest.mark.skipif(
        not list(Path("/usr/lib/postgresql").glob("*/bin/initdb")), reason="PostgreSQL is not installed"
    ),
    pytest.mark.timeout(900),
]


@pytest.fixture
def place(checkout) -> Iterator[Path]:
    """Give a checkout outside pytest's folder, which PostgreSQL's user may not enter."""
    with tempfile.TemporaryDirectory(prefix="lema-stack-") as name:
        clone = Path(shutil.copytree(checkout, Path(name) / "clone"))
        for folder in (clone, clone.parent):
            folder.chmod(0o755)
        yield clone


@pytest.fixture
def stack(place) -> Iterator[Callable[..., str]]:
    """Run ``lema`` there, with no Prefect server given; stop what it started."""
    given = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")} | {"COLUMNS": "200"}

    def run(*words: object) -> str:
        done = subprocess.run(
            lema_command(*words), cwd=place, env=given, capture_output=True, text=True, timeout=300, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    yield run
    run("down")


def background(place: Path, name: str) -> dict:
    return json.loads((place / ".lema" / "prefect" / f"{name}.json").read_text())


def test_a_worker_is_killed_with_its_run_and_both_come_back(place, stack, simulated):
    told = stack("up")
    assert all(part in told for part in ("PostgreSQL", "Prefect", "deployments", "automations", "worker"))
    api = api_url(background(place, "server")["port"])
    AUTH[api] = auth_string(place / ".lema" / "prefect")
    first = background(place, "worker")["pid"]
    assert "worker" in stack("doctor")
    simulated.faults = Faults(latency_s=0.2)
    run = start_run(api, "lema-run/whole-run", run_file="deployments/runs/test.toml")
    until("the first answers", lambda: simulated.stats.counts["ok"] > 40)
    kill_all(first)
    assert state_of(api, run)["type"] == "RUNNING", "nobody is left who could say otherwise"

    stack("up")
    assert background(place, "worker")["pid"] != first
    assert ended(api, run)["type"] == "CRASHED"
    assert "No heartbeat" in state_of(api, run)["message"]
    resumed = until("the automation", lambda: runs(api, "resume  under .lema"))[-1]
    assert ended(api, resumed)["message"] == "finished flow_test"
    assert simulated.stats.report()["paid_twice"] <= 16
    assert (place / ".lema" / "ledger.url").read_text().startswith("postgresql://")
    assert not (place / ".lema" / "ledger.sqlite").exists()

    pids = [background(place, name)["pid"] for name in ("server", "worker")]
    told = stack("down")
    assert "PostgreSQL" in told
    assert not [pid for pid in pids if psutil.pid_exists(pid)]
