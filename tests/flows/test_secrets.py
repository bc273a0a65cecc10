"""A key kept as a Prefect Secret block: it reaches whoever sends requests, and no file."""

import subprocess
import sys

import pytest
from support import environment

pytestmark = pytest.mark.slow
SECRET = "sk-planted-5e1f0c"
KEPT = f"from prefect.blocks.system import Secret; Secret(value={SECRET!r}).save('teachers-key', overwrite=True)"


@pytest.mark.parametrize("workers", [(), ("--set", "runtime.workers=1")], ids=["here", "worker"])
def test_a_key_from_a_secret_block_reaches_the_endpoint_and_no_file(
    lema, run_file, simulated, prefect_api, tmp_path, workers
):
    subprocess.run([sys.executable, "-c", KEPT], env=environment(prefect_api, tmp_path), check=True)
    simulated.key = SECRET
    small = ("--set", "questions.limit=10", "--set", "test_questions.limit=3", *workers)
    refused = lema("run", run_file, "--root", "out", *small, check=False)
    assert refused.returncode == 1
    assert "key" in refused.stderr
    secret = [f"endpoints.{name}.api_key_secret=teachers-key" for name in ("student", "reference")]
    told = lema("run", run_file, "--root", "out", *small, *(word for one in secret for word in ("--set", one)))
    assert "10 questions, 30 reasoning paths" in told.stdout
    assert SECRET not in told.stdout + told.stderr
    written = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert written
    assert not [path for path in written if SECRET.encode() in path.read_bytes()]


def test_a_process_that_works_on_a_run_may_dump_no_core(tmp_path):
    # As a cluster's worker does, which no `lema` command started.
    work = f"""
import asyncio, ctypes, resource
from lema_core.specs import Runtime
from tasks._endpoints import process_engine

async def main():
    async with process_engine(Runtime(root={str(tmp_path)!r}, ledger={str(tmp_path / "ledger")!r}, run="r")):
        get_dumpable = 3
        print(resource.getrlimit(resource.RLIMIT_CORE)[0], ctypes.CDLL(None).prctl(get_dumpable))

asyncio.run(main())
"""
    done = subprocess.run(
        [sys.executable, "-c", work], env=environment("", tmp_path), check=True, capture_output=True, text=True
    )
    assert done.stdout.split() == ["0", "0"]
