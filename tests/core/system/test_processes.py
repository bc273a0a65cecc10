import asyncio
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from support import hide_our_packages, shifted, until

from flows.local_stack.background import Background
from lema_core.answers.worker_pool import Workers
from lema_core.llm.endpoints import EndpointSpec, running
from lema_core.questions import get_task
from lema_core.scoring.pool import check_scorer
from lema_core.system import processes
from lema_core.system.foreign_models import ChatTemplates
from lema_core.system.processes import (
    STARTED_BY,
    ProcessIdentity,
    end_group,
    identity_of,
    is_alive,
    is_alive_by_clock,
    is_orphan,
    this_process,
)

TASKS = Path(__file__).resolve().parents[3] / "deployments" / "tasks"
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


RANK = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(1, flush=True); time.sleep(60)"
LAUNCHER = f"""
import subprocess, sys, time
subprocess.Popen([sys.executable, "-c", {RANK!r}], start_new_session=True)
time.sleep(60)
"""


async def test_a_rank_in_a_session_of_its_own_is_ended_though_it_holds_the_output():
    """As torchrun's ranks: the group does not have them, and the pipe to us stays open while one lives."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", LAUNCHER, stdout=asyncio.subprocess.PIPE, start_new_session=True
    )
    assert process.stdout is not None
    await process.stdout.readline()
    (rank,) = psutil.Process(process.pid).children()
    async with asyncio.timeout(20):
        await end_group(process, patience=0.2)
    assert process.returncode == -15
    assert not psutil.wait_procs([rank], timeout=5)[1]


def test_a_process_whose_starter_has_ended_is_an_orphan(monkeypatch):
    monkeypatch.setenv(STARTED_BY, str(os.getppid()))
    assert not is_orphan()
    monkeypatch.setenv(STARTED_BY, str(2**22 + 1))
    assert is_orphan()
    monkeypatch.delenv(STARTED_BY)
    assert not is_orphan()


def test_a_process_is_known_by_its_machine_id_and_start() -> None:
    me = this_process()
    assert is_alive(me) is True
    assert is_alive(me.model_copy(update={"started": me.started + 1})) is False
    assert is_alive(me.model_copy(update={"machine": "elsewhere"})) is None
    for no_process in (0, -1, 2**40):
        assert is_alive(me.model_copy(update={"pid": no_process})) is False


def test_a_process_that_nobody_has_waited_for_is_dead() -> None:
    child = os.posix_spawn("/bin/sleep", ["sleep", "60"], os.environ)
    identity = identity_of(child)
    assert is_alive(identity) is True
    os.kill(child, signal.SIGKILL)
    until("the child's end", lambda: is_alive(identity) is False)
    assert psutil.pid_exists(child)
    os.waitpid(child, 0)
    assert is_alive(identity) is False


def test_a_stopped_process_lives() -> None:
    child = os.posix_spawn("/bin/sleep", ["sleep", "60"], os.environ)
    os.kill(child, signal.SIGSTOP)
    assert is_alive(identity_of(child)) is True
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


def test_the_identity_is_the_same_in_every_process_of_a_machine_and_holds_no_clock() -> None:
    code = (
        "import os; from lema_core.system.processes import identity_of; "
        "print(identity_of(os.getppid()).model_dump_json())"
    )
    seen = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert ProcessIdentity.model_validate_json(seen) == this_process()
    started = Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19]
    assert this_process().started == int(started)
    assert Path("/proc/sys/kernel/random/boot_id").read_text().strip() in this_process().machine


def test_without_a_boot_id_the_start_is_taken_in_seconds(monkeypatch) -> None:
    monkeypatch.setattr(processes, "boot_id", lambda: "")
    me = this_process()
    assert abs(me.started - psutil.Process().create_time()) < 0.01
    assert is_alive(me) is True
    assert is_alive(me.model_copy(update={"started": me.started - 5})) is False
    assert is_alive(me.model_copy(update={"pid": 2**22 + 1})) is False


@pytest.mark.parametrize(("shift", "alive"), [(0.0, True), (5.0, False)])
def test_a_process_of_an_older_version_is_known_by_its_start_in_seconds(shift, alive) -> None:
    assert is_alive_by_clock(os.getpid(), psutil.Process().create_time() + shift) is alive


def test_what_runs_in_the_background_is_found_whatever_the_clock_says(tmp_path) -> None:
    background = Background(tmp_path, "sleeper")
    process = background.start(["/bin/sleep", "60"], {}, port=1)
    facts = background.facts()
    assert facts is not None
    assert (facts["pid"], facts["port"]) == (process.pid, 1)
    asked = (
        "import psutil; from pathlib import Path; from flows.local_stack.background import Background;"
        f"print(psutil.Process({process.pid}).create_time());"
        f"print(Background(Path({str(tmp_path)!r}), 'sleeper').facts() is not None)"
    )
    started = psutil.Process(process.pid).create_time()
    for step in (2, -86_400):
        env = shifted(tmp_path / str(step), step)
        told = subprocess.run([sys.executable, "-c", asked], env=env, capture_output=True, text=True, check=True).stdout
        moved, found = told.split()
        assert abs(float(moved) - started - step) < 0.1, "the clock is not set as a daemon sets it"
        assert found == "True"
    # As versions wrote it that took the start in seconds.
    old = {"pid": process.pid, "started": started, "port": 1}
    (tmp_path / "sleeper.json").write_text(json.dumps(old))
    assert background.facts() == old
    assert background.stop()
    assert not psutil.pid_exists(process.pid)
    assert not background.stop()


async def test_packages_of_the_working_directory_hide_none_of_ours(tmp_path, monkeypatch):
    hide_our_packages(tmp_path)
    monkeypatch.chdir(tmp_path)
    workers, templates = Workers(), ChatTemplates()
    try:
        assert workers.match("1/2", "0.5").outcome == "equal"
        assert templates.render("{{ messages[0].content }}", [{"role": "user", "content": "Hi"}]) == "Hi"
    finally:
        workers.close()
        templates.close()
    await check_scorer(get_task(str(TASKS / "code_task.py")))
    command = (sys.executable, "-m", "lema_core.llm.simulated", "--port", "{port}")
    async with running(EndpointSpec(model="m", command=command)) as url:
        assert url
