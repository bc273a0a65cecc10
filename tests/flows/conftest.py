"""A real Prefect server for the session, a simulated endpoint in this process, and the command line as users run it."""

import fcntl
import json
import os
import shutil
import signal
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import NamedTuple

import psutil
import pytest
from support import PATIENCE_S, RUN, ask, environment, lema_command, parts, run_lema, start_server, until

from flows.local_stack import server
from lema_core.llm.simulated import Library, SimulatedEndpoint
from lema_core.questions import QuestionsSpec, read_questions
from lema_core.records import Question

ROOT = Path(__file__).resolve().parents[2]
Lema = Callable[..., subprocess.CompletedProcess[str]]


class Finished(NamedTuple):
    """A run of RUN that nothing disturbed."""

    root: Path
    run_file: Path
    endpoint: SimulatedEndpoint
    told: str
    parts: dict[str, bytes]
    lema: Lema


@pytest.fixture(scope="session")
def prefect_api(tmp_path_factory) -> Iterator[str]:
    """Start a real Prefect server once and give its API address.

    Its database costs 13 CPU seconds of migrations: the first worker of a session makes it for all of them.
    """
    home = tmp_path_factory.mktemp("prefect")
    shared = tmp_path_factory.getbasetemp()
    made = (shared.parent if "PYTEST_XDIST_WORKER" in os.environ else shared) / "prefect.db"
    with made.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if made.exists():
            shutil.copy(made, home / made.name)
            api = None
        else:
            api = start_server(home)
            with closing(sqlite3.connect(home / made.name)) as own, closing(sqlite3.connect(made)) as copy:
                own.backup(copy)
    yield api or start_server(home)
    server.stop(home)


def _command(api: str, folder: Path) -> Lema:
    def run(*words: object, check: bool = True) -> subprocess.CompletedProcess[str]:
        done = run_lema(*words, cwd=folder, env=environment(api, folder))
        if check:
            assert done.returncode == 0, done.stdout + done.stderr
        return done

    return run


@contextmanager
def _endpoint(folder: Path) -> Iterator[SimulatedEndpoint]:
    file = folder / "known.jsonl"
    rows = read_questions(QuestionsSpec(task="arithmetic", limit=60, seed=3))
    lines = ({"text": r.text, "gold": r.gold, "rationale": r.rationale} for r in rows if isinstance(r, Question))
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with SimulatedEndpoint(Library.read([file])).in_thread() as endpoint:
        yield endpoint


def _written(folder: Path, endpoint: SimulatedEndpoint) -> Path:
    path = folder / "run.toml"
    path.write_text(RUN.replace("{url}", endpoint.url))
    return path


@pytest.fixture
def lema(prefect_api, tmp_path) -> Lema:
    """Run ``lema`` in a folder of its own, against the session's Prefect server."""
    return _command(prefect_api, tmp_path)


@pytest.fixture
def simulated(tmp_path) -> Iterator[SimulatedEndpoint]:
    """Give an endpoint in this process that knows the questions of RUN and counts what is paid."""
    with _endpoint(tmp_path) as endpoint:
        yield endpoint


@pytest.fixture
def run_file(tmp_path, simulated) -> Path:
    """Write RUN for the simulated endpoint."""
    return _written(tmp_path, simulated)


@pytest.fixture(scope="session")
def finished(prefect_api, tmp_path_factory) -> Iterator[Finished]:
    """Run RUN once, undisturbed, for all tests that look at it or compare with it; none may change it."""
    folder = tmp_path_factory.mktemp("finished")
    with _endpoint(folder) as endpoint:
        lema, path = _command(prefect_api, folder), _written(folder, endpoint)
        told = lema("run", path, "--root", "out", "--set", "name=finished").stdout
        yield Finished(folder / "out", path, endpoint, told, parts(folder / "out"), lema)


@pytest.fixture
def checkout(tmp_path, run_file) -> Path:
    """Give a folder like a clone: the deployments, and a run file for the simulated endpoint among them."""
    shutil.copytree(ROOT / "deployments", tmp_path / "deployments")
    shutil.copy(run_file, tmp_path / "deployments" / "runs" / "test.toml")
    return tmp_path


@pytest.fixture
def serving(checkout, prefect_api) -> Iterator[subprocess.Popen]:
    """Serve the deployments from the checkout, as `make serve` does."""
    given = environment(prefect_api, checkout) | {"PREFECT_RUNNER_POLL_FREQUENCY": "1"}
    with (checkout / "serve.log").open("wb") as out:
        process = subprocess.Popen(
            lema_command("serve"), cwd=checkout, env=given, stdout=out, stderr=out, start_new_session=True
        )
    log = checkout / "serve.log"
    until(f"serving, see {log}", lambda: registered(prefect_api), alive=process)
    yield process
    family = psutil.Process(process.pid).children(recursive=True)
    os.killpg(process.pid, signal.SIGTERM)
    process.wait(PATIENCE_S)
    _, alive = psutil.wait_procs(family, timeout=10)
    for one in alive:
        one.kill()


def registered(api: str) -> bool:
    """Tell whether the last of the deployments is there, and served rather than left to a worker."""
    found = {one["name"]: one for one in ask(api, "deployments/filter", {})}
    return "evaluate" in found and found["evaluate"]["work_pool_name"] is None
