import asyncio
import os
import sys

import psutil
import pytest
from support import until

from lema_core.llm.endpoints import EndpointSpec, running
from lema_core.processes import end_group, living

HELPER = """
import signal, sys, time
from pathlib import Path

def tidy_up(*_):
    time.sleep(0.5)
    Path(sys.argv[1], "tidied").touch()
    sys.exit()

signal.signal(signal.SIGTERM, tidy_up)
Path(sys.argv[1], "ready").touch()
time.sleep(60)
"""
STUBBORN = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(1, flush=True); time.sleep(60)"


async def test_a_servers_helpers_may_tidy_up_after_the_server_itself_is_gone(tmp_path):
    (tmp_path / "helper.py").write_text(HELPER)
    server = f"{sys.executable} {tmp_path}/helper.py {tmp_path} & exec {sys.executable} -m http.server {{port}}"
    async with running(EndpointSpec(model="m", command=("sh", "-c", f"{server} --bind 127.0.0.1"))):
        await asyncio.to_thread(until, "the helper", (tmp_path / "ready").exists)
    assert (tmp_path / "tidied").exists()


async def test_a_group_that_does_not_listen_is_killed():
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", STUBBORN, stdout=asyncio.subprocess.PIPE, start_new_session=True
    )
    assert process.stdout is not None
    await process.stdout.readline()
    await end_group(process, patience=0.2)
    assert process.returncode == -9


@pytest.mark.parametrize(("shift", "lives"), [(0.0, True), (5.0, False)])
def test_a_process_is_told_by_its_id_and_start(shift, lives):
    started = psutil.Process().create_time()
    assert (living(os.getpid(), started + shift) is not None) is lives


def test_an_unburied_process_is_dead():
    child = os.posix_spawn("/bin/true", ["true"], os.environ)
    started = psutil.Process(child).create_time()
    until("the child's end", lambda: living(child, started) is None)
    assert psutil.pid_exists(child)
    os.waitpid(child, 0)
