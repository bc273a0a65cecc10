"""A run on a local Dask cluster, its artifacts on an S3 server, its ledger in PostgreSQL: the same bytes as here."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import fsspec
import psutil
import pytest
from support import environment, lema_command, until

from lema_core.llm.ledger.database import connect
from lema_core.llm.simulated import Faults

pytestmark = pytest.mark.slow
pytest.importorskip("distributed")
pytest.importorskip("s3fs")
pytest.importorskip("moto")


@pytest.fixture(scope="module")
def s3(tmp_path_factory) -> Iterator[dict[str, str]]:
    """Start an S3 server of its own process; give the environment that leads to it. It has the bucket ``lema``."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": tmp_path_factory.mktemp("s3")}
    server = subprocess.Popen([sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)], **quiet)
    url = f"http://127.0.0.1:{port}"
    there = {
        "AWS_ENDPOINT_URL": url, "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
    }  # fmt: skip
    try:
        until("the bucket", lambda: bucket_at(url), alive=server)
        yield there
    finally:
        server.kill()
        server.wait()


def bucket_at(url: str) -> bool:
    """Tell whether the server is there to make its bucket."""
    try:
        urllib.request.urlopen(urllib.request.Request(f"{url}/lema", method="PUT")).read()
    except urllib.error.URLError:
        return False
    return True


@pytest.fixture
def ledger(postgres) -> str:
    name = f"scale{time.monotonic_ns()}"
    connect(postgres.url("postgres"), []).query(f"CREATE DATABASE {name}")
    return postgres.url(name)


def stored(s3: dict[str, str], prefix: str) -> dict[str, bytes]:
    """Return every Parquet part under a prefix of the bucket, as `support.parts` does of a folder."""
    options = {
        "endpoint_url": s3["AWS_ENDPOINT_URL"], "key": "test", "secret": "test", "skip_instance_cache": True,
        "use_listings_cache": False,
    }  # fmt: skip
    files = fsspec.filesystem("s3", **options)
    found = files.find(f"lema/{prefix}")
    return {path.removeprefix(f"lema/{prefix}/"): files.cat_file(path) for path in found if path.endswith(".parquet")}


def dask_workers(run: subprocess.Popen) -> list[psutil.Process]:
    spawned = psutil.Process(run.pid).children(recursive=True)
    return [one for one in spawned if any("spawn_main" in word for word in one.cmdline())]


@pytest.mark.timeout(900)  # two runs on a cluster, an object store and a database
def test_a_worker_killed_on_a_cluster_with_s3_and_postgres_changes_no_byte(
    run_file, simulated, s3, ledger, prefect_api, tmp_path, finished
):
    simulated.faults = Faults(latency_s=0.3)
    settings = ("--set", "runtime.workers=2", "--set", f"runtime.ledger={ledger}")
    run = subprocess.Popen(
        lema_command("run", run_file, "--root", "s3://lema/killed", *settings), cwd=tmp_path,
        env=environment(prefect_api, tmp_path) | s3, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    until("20 answers", lambda: simulated.stats.counts["ok"] >= 20, alive=run, every_s=0.01)
    before = {one.pid for one in dask_workers(run)}
    assert len(before) == 2
    os.kill(min(before), signal.SIGKILL)
    said, _ = run.communicate(timeout=200)
    assert run.returncode == 0, said
    assert "40 questions, 120 reasoning paths" in said
    assert stored(s3, "killed") == finished.parts
    # The student's 16 in flight of the worker that died; everything else was paid once, over both processes.
    assert simulated.stats.report()["paid_twice"] <= 16
    assert not any(psutil.pid_exists(pid) for pid in before)
    assert not Path(tmp_path / ".lema" / "ledger.sqlite").exists()

    # Without workers, from another directory: the same run finds everything there.
    hits = simulated.stats.counts["hits"]
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    again = subprocess.run(
        lema_command("run", run_file, "--root", "s3://lema/killed", "--set", f"runtime.ledger={ledger}"),
        cwd=elsewhere, env=environment(prefect_api, tmp_path) | s3, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert again.returncode == 0, again.stdout + again.stderr
    assert simulated.stats.counts["hits"] == hits
