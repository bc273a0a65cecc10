"""A real Prefect server for the session, a simulated endpoint in this process, and the command line as users run it."""

import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support import RUN, environment, lema_command

from flows.operations import server
from lema_core.llm.simulated import Library, SimulatedEndpoint
from lema_core.questions import QuestionsSpec, read_questions
from lema_core.records import Question


@pytest.fixture(scope="session")
def prefect_api(tmp_path_factory) -> Iterator[str]:
    """Start a real Prefect server once and give its API address."""
    home = tmp_path_factory.mktemp("prefect")
    port = server.start(home)
    yield server.api_url(port)
    server.stop(home)


@pytest.fixture
def lema(prefect_api, tmp_path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run ``lema`` in a folder of its own, against the session's Prefect server."""

    def run(*words: object, check: bool = True, **options: object) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            lema_command(*words), cwd=tmp_path, env=environment(prefect_api, tmp_path), capture_output=True, text=True,
            timeout=240, check=False, **options,
        )  # fmt: skip
        if check:
            assert done.returncode == 0, done.stdout + done.stderr
        return done

    return run


@pytest.fixture
def simulated(tmp_path) -> Iterator[SimulatedEndpoint]:
    """Give an endpoint in this process that knows the questions of RUN and counts what is paid."""
    file = tmp_path / "known.jsonl"
    rows = read_questions(QuestionsSpec(task="arithmetic", limit=60, seed=3))
    lines = ({"text": r.text, "gold": r.gold, "rationale": r.rationale} for r in rows if isinstance(r, Question))
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with SimulatedEndpoint(Library.read([file])).in_thread() as endpoint:
        yield endpoint


@pytest.fixture
def run_file(tmp_path, simulated) -> Path:
    """Write RUN for the simulated endpoint."""
    path = tmp_path / "run.toml"
    path.write_text(RUN.replace("{url}", simulated.url))
    return path
