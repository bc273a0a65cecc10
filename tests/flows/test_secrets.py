"""A key kept as a Prefect Secret block: it reaches whoever sends requests, and no file."""

import subprocess
import sys

import pytest
from support import environment

pytestmark = pytest.mark.slow
SECRET = "sk-planted-5e1f0c"
KEPT = f"from prefect.blocks.system import Secret; Secret(value={SECRET!r}).save('teachers-key', overwrite=True)"


@pytest.fixture(scope="module", autouse=True)
def _kept(prefect_api, tmp_path_factory):
    home = tmp_path_factory.mktemp("keeper")
    subprocess.run([sys.executable, "-c", KEPT], env=environment(prefect_api, home), check=True)


@pytest.fixture
def small(simulated) -> tuple[str, ...]:
    """Let the endpoint ask for the key; give the settings of a small run."""
    simulated.key = SECRET
    return ("--set", "questions.limit=10", "--set", "test_questions.limit=3")


def test_without_the_key_the_run_is_refused(lema, run_file, small):
    refused = lema("run", run_file, "--root", "out", *small, check=False)
    assert refused.returncode == 1
    assert "key" in refused.stderr


@pytest.mark.parametrize("workers", [(), ("--set", "runtime.workers=1")], ids=["here", "worker"])
def test_a_key_from_a_secret_block_reaches_the_endpoint_and_no_file(lema, run_file, small, tmp_path, workers):
    secret = [f"endpoints.{name}.api_key_secret=teachers-key" for name in ("student", "reference")]
    settings = (*small, *workers, *(word for one in secret for word in ("--set", one)))
    told = lema("run", run_file, "--root", "out", *settings)
    assert "10 questions, 30 reasoning paths" in told.stdout
    assert SECRET not in told.stdout + told.stderr
    written = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert written
    assert not [path for path in written if SECRET.encode() in path.read_bytes()]


def test_a_process_that_works_on_a_run_may_dump_no_core(tmp_path):
    # As a cluster's worker does, which no `lema` command started.
    work = f"""
import asyncio, ctypes, resource
from lema_core.run.spec import RunContext
from tasks.engine_session import process_engine

async def main():
    async with process_engine(RunContext(root={str(tmp_path)!r}, ledger={str(tmp_path / "ledger")!r}, run="r")):
        get_dumpable = 3
        print(resource.getrlimit(resource.RLIMIT_CORE)[0], ctypes.CDLL(None).prctl(get_dumpable))

asyncio.run(main())
"""
    done = subprocess.run(
        [sys.executable, "-c", work], env=environment("", tmp_path), check=True, capture_output=True, text=True
    )
    assert done.stdout.split() == ["0", "0"]
