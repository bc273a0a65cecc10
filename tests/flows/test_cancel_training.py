"""A run that is cancelled while it trains leaves no process behind."""

import subprocess
import time

import psutil
import pytest
from support import ask, environment, lema_command, runs, state_of, until

pytestmark = pytest.mark.slow
ENDLESS = '[training]\nbase = "tiny"\nmax_steps = 100000\n[launch]\nranks = 1\n'


def test_training_is_gone_within_seconds(run_file, prefect_api, tmp_path):
    run_file.write_text(run_file.read_text() + ENDLESS)
    words = lema_command("run", run_file, "--root", "out", "--set", "name=endless", "--set", 'mixture.arms=["cot"]')
    given = environment(prefect_api, tmp_path)
    with (tmp_path / "said").open("w") as said:
        process = subprocess.Popen(words, cwd=tmp_path, env=given, stdout=said, stderr=said)
    try:
        family = until("training's steps", lambda: process.poll() is not None or trained(process, tmp_path))
        assert process.poll() is None, (tmp_path / "said").read_text()
        (run,) = runs(prefect_api, "endless")
        ask(prefect_api, f"flow_runs/{run['id']}/set_state", {"state": {"type": "CANCELLING"}})
        asked = time.monotonic()
        assert process.wait(120) == 1
        # Seconds on a quiet machine. The limits of the product add up to 40, and this one is shared.
        assert time.monotonic() - asked < 45
        assert not psutil.wait_procs(family, timeout=5)[1]
        assert state_of(prefect_api, run)["type"] == "CANCELLED"
        assert "lema resume endless" in (tmp_path / "said").read_text()
    finally:
        process.kill()
        process.wait()


def trained(process: subprocess.Popen, root) -> list[psutil.Process]:
    """Return the run's processes once one of them makes steps."""
    steps = [log for log in root.rglob("log.txt") if "step" in log.read_text(errors="replace")]
    family = psutil.Process(process.pid).children(recursive=True)
    ranks = [one for one in family if "lema_core.training.sft" in words_of(one)]
    return family if steps and ranks else []


def words_of(process: psutil.Process) -> str:
    """Return a process's command; nothing for one that has just ended."""
    try:
        return " ".join(process.cmdline())
    except psutil.NoSuchProcess:  # a zombie is one, too
        return ""
