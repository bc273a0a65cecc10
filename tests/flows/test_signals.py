"""Signals to every kind of command, at every stage that has something to lose: nothing that arrived is paid again.

`lema complete` is here in all combinations; the others by what differs in mechanism: a run on Prefect in this process,
its training, an evaluation, a pilot, a worker and its runs.
"""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from support import (
    ask,
    environment,
    lema_command,
    runs,
    shifted,
    start_run,
    state_of,
    until,
)  # fmt: skip

from lema_core.llm.ledger.store import LedgerStore
from lema_core.llm.simulated import Faults
from lema_core.run.records import read_record

SOON_S = 15
"""From a signal to the end, where answers take a second or two."""


class Command:
    """A command that runs, what it says, and the processes that it has started."""

    def __init__(self, process: subprocess.Popen[bytes], said: Path) -> None:
        self.process, self._said = process, said
        self.family = list[psutil.Process]()

    @property
    def said(self) -> str:
        return self._said.read_text()

    def stop(self, sign: signal.Signals, soon_s: float = SOON_S) -> int:
        """Send a signal and return the exit status; check that the end comes soon, and is every process's."""
        self.family = psutil.Process(self.process.pid).children(recursive=True)
        self.process.send_signal(sign)
        asked = time.monotonic()
        self.process.wait(120)
        assert time.monotonic() - asked < soon_s, self.said
        assert not psutil.wait_procs(self.family, timeout=5)[1]
        return self.process.returncode

    def ended_well(self, sign: signal.Signals) -> None:
        """Check the exit status and that one sentence says how it ended."""
        assert self.process.returncode == 128 + sign, self.said
        assert "Traceback" not in self.said
        assert "Error" not in self.said
        name = "Ctrl-C" if sign is signal.SIGINT else sign.name
        assert self.said.count(f"ended by {name}: what was finished or paid is kept") == 1, self.said


@contextmanager
def running(folder: Path, *words: object, env: dict[str, str] | None = None) -> Iterator[Command]:
    with (folder / "said").open("wb") as said:
        process = subprocess.Popen(
            lema_command(*words), cwd=folder, env=env or dict(os.environ), stdin=subprocess.DEVNULL, stdout=said,
            stderr=said, start_new_session=True,
        )  # fmt: skip
    try:
        yield Command(process, folder / "said")
    finally:
        for one in psutil.Process(process.pid).children(recursive=True) if process.poll() is None else ():
            one.kill()
        process.kill()
        process.wait()


def kept(ledger: Path) -> int:
    """Return how many completions a ledger holds."""
    store = LedgerStore(str(ledger))
    try:
        return int(store.database.query("SELECT COUNT(*) FROM completions")[0][0])
    finally:
        store.close()


def owners(ledger: Path) -> int:
    """Return how many processes are signed in at a ledger."""
    store = LedgerStore(str(ledger))
    try:
        return len(store.database.query("SELECT owner FROM owners"))
    finally:
        store.close()


def requests(folder: Path, count: int) -> Path:
    rows = ({"id": f"r{n}", "messages": [{"role": "user", "content": f"question {n}"}]} for n in range(count))
    (folder / "r.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder / "r.jsonl"


def completing(folder: Path, url: str, *more: object) -> list[object]:
    return [
        *("complete", requests(folder, 24), "--base-url", url, "--model", "fixed", "--out", folder / "out"),
        *("--concurrency", "8", *more),
    ]


BOTH = pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM])


def handles(process: subprocess.Popen[bytes], sign: signal.Signals) -> bool:
    """Return whether a process has a handler of a signal, by the kernel's mask of them."""
    caught = re.search(r"^SigCgt:\s*(\w+)", Path(f"/proc/{process.pid}/status").read_text(), re.MULTILINE)
    return bool(caught and int(caught[1], 16) >> (sign - 1) & 1)


@BOTH
@pytest.mark.parametrize(
    "words", ["run run.toml", "sweep run.toml", "evaluate arithmetic --model m", "complete r.jsonl"]
)
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the kernel's mask of handled signals")
def test_a_command_that_is_still_starting_ends_with_its_sentence(tmp_path, words, sign) -> None:
    with running(tmp_path, *words.split()) as command:
        # SIGTERM has no handler until the first import of ours; SIGINT has one of Python's before.
        until("our handlers", lambda: handles(command.process, signal.SIGTERM), command.process, every_s=0.005)
        command.stop(sign)
        command.ended_well(sign)


STUCK = """
import asyncio, time
from flows.cli import _App
from flows.cli.console import exit_on_error
from lema_core.system import stopping

async def work():
    print("works", flush=True)
    await asyncio.to_thread(time.sleep, 60)

app = _App()
app.command()(exit_on_error(lambda: stopping.run(work())))
app()
"""


@BOTH
def test_a_thread_that_does_not_end_holds_up_neither_the_sentence_nor_the_end(tmp_path, sign) -> None:
    said = (tmp_path / "said").open("wb")
    process = subprocess.Popen([sys.executable, "-c", STUCK], stdout=said, stderr=said)
    command = Command(process, tmp_path / "said")
    try:
        until("it works", lambda: "works" in command.said, process)
        command.stop(sign)
        command.ended_well(sign)
    finally:
        process.kill()
        process.wait()


@BOTH
def test_complete_keeps_what_is_in_flight(simulated, tmp_path, sign) -> None:
    simulated.faults = Faults(latency_s=1.5)
    with running(tmp_path, *completing(tmp_path, simulated.url)) as command:
        until("all are out", lambda: simulated.stats.in_flight == 8, command.process, every_s=0.02)
        command.stop(sign)
        command.ended_well(sign)
    waited = re.search(r"waiting for 8 answers that are under way and paid, at most (\d+) s(.*)", command.said)
    assert waited is not None, command.said
    assert waited.groups() == (("300", "; another Ctrl-C gives them up") if sign is signal.SIGINT else ("10", ""))
    paid = simulated.stats.counts["ok"]
    assert kept(tmp_path / "out" / "ledger.sqlite") == paid
    assert paid >= 8
    simulated.faults = Faults()
    done = subprocess.run(
        lema_command(*completing(tmp_path, simulated.url)), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert simulated.stats.report()["paid_twice"] == 0


@pytest.mark.parametrize("twice", [False, True])
def test_an_endpoint_that_does_not_answer_is_given_up(simulated, tmp_path, twice) -> None:
    simulated.faults = Faults(latency_s=600)
    env = os.environ | {"LEMA_GRACE_S": "600" if twice else "1"}
    with running(tmp_path, *completing(tmp_path, simulated.url), env=env) as command:
        until("all are out", lambda: simulated.stats.in_flight == 8, command.process, every_s=0.02)
        command.process.send_signal(signal.SIGTERM)
        until("it waits", lambda: "waiting for 8 answers" in command.said, command.process)
        if twice:
            # One wish of several senders, as of a service manager that signals parent and child, is one signal.
            assert command.process.poll() is None
            time.sleep(1.2)
        command.stop(signal.SIGTERM) if twice else command.process.wait(SOON_S)
        command.ended_well(signal.SIGTERM)


def test_two_signals_at_once_are_one_wish(simulated, tmp_path) -> None:
    simulated.faults = Faults(latency_s=2.5)
    with running(tmp_path, *completing(tmp_path, simulated.url)) as command:
        until("all are out", lambda: simulated.stats.in_flight == 8, command.process, every_s=0.02)
        command.process.send_signal(signal.SIGTERM)
        time.sleep(0.1)
        command.stop(signal.SIGTERM)
        command.ended_well(signal.SIGTERM)
    assert kept(tmp_path / "out" / "ledger.sqlite") == simulated.stats.counts["ok"] >= 8


def test_an_error_says_nothing_of_ctrl_c(simulated, tmp_path) -> None:
    simulated.faults = Faults(latency_s=0.5)
    with running(tmp_path, *completing(tmp_path, simulated.url, "--budget-tokens", "1000")) as command:
        assert command.process.wait(60) == 1
    assert "error: the budget is reached" in command.said
    assert "Ctrl-C" not in command.said


def test_a_grace_period_that_is_no_number_is_one_error(simulated, tmp_path) -> None:
    with running(tmp_path, *completing(tmp_path, simulated.url), env=os.environ | {"LEMA_GRACE_S": "soon"}) as command:
        assert command.process.wait(60) == 1
    assert "error: LEMA_GRACE_S is 'soon'" in command.said
    assert "Traceback" not in command.said


@pytest.mark.parametrize("step", [2.0, -86_400.0])
def test_a_step_of_the_clock_makes_nobody_pay_twice(simulated, tmp_path, step) -> None:
    """Two processes share a ledger; the clock is set while both wait for the answers to what one has asked."""
    simulated.faults, ledger = Faults(latency_s=14), tmp_path / "ledger.sqlite"
    asked, moment = requests(tmp_path, 16), tmp_path / "moment"
    env = shifted(tmp_path / "clock", step, moment)
    words = [
        *("complete", asked, "--base-url", simulated.url, "--model", "fixed", "--concurrency", "16"),
        *("--ledger", ledger, "--out"),
    ]
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
    with running(tmp_path / "one", *words, "one", env=env) as one:
        until("all are out", lambda: simulated.stats.in_flight == 16, one.process, every_s=0.02)
        with running(tmp_path / "other", *words, "other", env=env) as other:
            until("both work", lambda: owners(ledger) == 2, other.process)
            moment.touch()
            assert simulated.stats.counts["ok"] == 0, "both are to wait for answers when the clock is set"
            assert one.process.wait(60) == 0, one.said
            assert other.process.wait(60) == 0, other.said
    report = simulated.stats.report()
    assert (report["ok"], report["paid_twice"]) == (16, 0)


def test_a_killed_process_is_not_waited_for_when_the_clock_goes_back_a_day(simulated, tmp_path) -> None:
    simulated.faults = Faults(latency_s=600)
    with running(tmp_path, *completing(tmp_path, simulated.url)) as command:
        until("all are out", lambda: simulated.stats.in_flight == 8, command.process, every_s=0.02)
    simulated.faults = Faults()
    with running(tmp_path, *completing(tmp_path, simulated.url), env=shifted(tmp_path / "set", -86_400)) as command:
        assert command.process.wait(SOON_S + 5) == 0, command.said


def test_ctrl_c_ends_a_simulated_endpoint_and_what_does_no_requests(tmp_path) -> None:
    for sign in (signal.SIGINT, signal.SIGTERM):
        with running(tmp_path, "simulate", "--port", "0") as command:
            until("it serves", lambda command=command: "models:" in command.said, command.process)
            assert command.stop(sign) == 0


SMALL = ["--set", "questions.limit=16", "--set", "students.samples=1"]


def a_run(folder: Path, *more: object) -> list[object]:
    return ["run", folder / "run.toml", "--root", "out", *more]


@pytest.mark.slow
@BOTH
def test_a_run_keeps_what_is_in_flight(run_file, simulated, prefect_api, tmp_path, lema, sign) -> None:
    simulated.faults, name = Faults(latency_s=1.5), f"signalled{int(sign)}"
    words = a_run(tmp_path, "--set", f"name={name}")
    with running(tmp_path, *words, env=environment(prefect_api, tmp_path)) as command:
        until("all are out", lambda: simulated.stats.in_flight == 16, command.process, every_s=0.02)
        command.stop(sign)
        command.ended_well(sign)
    assert kept(tmp_path / "out" / "ledger.sqlite") == simulated.stats.counts["ok"] >= 16
    record, (run,) = read_record(str(tmp_path / "out"), name), runs(prefect_api, name)
    wished = sign is signal.SIGINT
    assert (record.state, record.crashes) == (("cancelled", 0) if wished else ("failed", 1))
    assert state_of(prefect_api, run)["type"] == ("CANCELLED" if wished else "CRASHED")
    assert f"lema resume {name} --root out" in state_of(prefect_api, run)["message"]
    simulated.faults = Faults()
    lema("resume", name, "--root", "out")
    assert simulated.stats.report()["paid_twice"] == 0


@pytest.mark.slow
@pytest.mark.skipif("LEMA_ALL_TESTS" not in os.environ, reason="two minutes; LEMA_ALL_TESTS=1 runs it")
@BOTH
def test_a_run_that_trains_leaves_no_process(run_file, simulated, prefect_api, tmp_path, sign) -> None:
    run_file.write_text(run_file.read_text() + '[training]\nbase = "tiny"\nmax_steps = 100000\n[launch]\nranks = 1\n')
    words = a_run(tmp_path, "--set", "name=trains", "--set", 'mixture.arms=["cot"]')
    with running(tmp_path, *words, env=environment(prefect_api, tmp_path)) as command:
        until(
            "steps", lambda: [log for log in tmp_path.rglob("log.txt") if '"step"' in log.read_text()], command.process
        )
        command.stop(sign)
        assert len(command.family) > 1
        command.ended_well(sign)
    assert read_record(str(tmp_path / "out"), "trains").state == ("cancelled" if sign is signal.SIGINT else "failed")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("what", "sign"),
    [
        ("evaluate", signal.SIGTERM),
        ("evaluate", signal.SIGINT),
        ("sweep", signal.SIGTERM),
        ("sweep", signal.SIGINT),
        ("plan --pilot", signal.SIGTERM),
    ],
)
def test_other_commands_that_ask_keep_what_is_in_flight(run_file, simulated, prefect_api, tmp_path, what, sign) -> None:
    simulated.faults = Faults(latency_s=1.5)
    asked = ("--base-url", simulated.url, "--model", "fixed", "--concurrency", 4, "--root", "out")
    words = {
        "evaluate": ("evaluate", "arithmetic", "--limit", 40, *asked),
        "plan --pilot": ("plan", run_file, "--pilot", 16, "--root", "out"),
        "sweep": ("sweep", run_file, "--root", "out", "--set", "training.base=tiny"),
    }[what]
    with running(tmp_path, *words, env=environment(prefect_api, tmp_path)) as command:
        until("some are out", lambda: simulated.stats.in_flight >= 4, command.process, every_s=0.02)
        command.stop(sign)
        command.ended_well(sign)
    assert kept(tmp_path / "out" / "ledger.sqlite") == simulated.stats.counts["ok"] >= 4


@pytest.fixture
def registered(checkout, prefect_api) -> Iterator[dict[str, str]]:
    """Register the deployments and the automations of a checkout; give an environment for workers there."""
    given = environment(prefect_api, checkout) | {
        "PREFECT_WORKER_QUERY_SECONDS": "1",
        "PREFECT_RUNNER_POLL_FREQUENCY": "1",
    }
    done = subprocess.run(lema_command("deploy"), cwd=checkout, env=given, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    yield given
    # Whatever the automation asked for when no worker was left would begin in another test.
    waiting = {"flow_runs": {"state": {"type": {"any_": ["SCHEDULED", "PENDING"]}}}}
    for run in ask(prefect_api, "flow_runs/filter", waiting):
        ask(prefect_api, f"flow_runs/{run['id']}/set_state", {"state": {"type": "CANCELLED"}})


def served(api: str) -> bool:
    """Return whether the last deployment is registered, and served rather than left to a worker."""
    found = {one["name"]: one["work_pool_name"] for one in ask(api, "deployments/filter", {})}
    return found.get("ablation", "") is None


def resumes(api: str) -> int:
    """Return how often the automation has asked for the deployment ``resume``."""
    return len(ask(api, "flow_runs/filter", {"deployments": {"name": {"any_": ["resume"]}}}))


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("command", "signalled"),
    [
        ("worker", "run"),
        ("worker", "worker"),
        pytest.param(
            "serve", "worker", marks=pytest.mark.skipif("LEMA_ALL_TESTS" not in os.environ, reason="a minute more")
        ),
    ],
)
def test_a_run_under_a_worker_settles_and_says_that_it_was_ended(
    registered, checkout, simulated, prefect_api, command, signalled
) -> None:
    simulated.faults, root, name = Faults(latency_s=1.5), str(checkout / ".lema"), f"{command}_{signalled}"
    given = {"run_file": "deployments/runs/test.toml", "settings": [f"name={name}"], "root": ".lema"}
    with running(checkout, command, env=registered) as worker:
        if command == "serve":
            until("serving", lambda: served(prefect_api), worker.process)
        before = resumes(prefect_api)
        run = start_run(prefect_api, "lema-run/whole-run", **given)
        until("all are out", lambda: simulated.stats.in_flight == 16, worker.process, every_s=0.02)
        process = psutil.Process(read_record(root, name).owner.pid)
        assert process.ppid() == worker.process.pid
        if signalled == "run":
            process.terminate()
            assert not psutil.wait_procs([process], timeout=SOON_S)[1]
        else:
            worker.stop(signal.SIGTERM, soon_s=30)
            worker.ended_well(signal.SIGTERM)
        state = state_of(prefect_api, run)
        assert (state["type"], state["name"]) == ("CRASHED", "Crashed")
        assert "its process was ended by SIGTERM" in state["message"]
        assert read_record(root, name).state == "failed"
        assert kept(checkout / ".lema" / "ledger.sqlite") == simulated.stats.counts["ok"] >= 16
        until("the automation", lambda: resumes(prefect_api) > before)
        if signalled == "run":
            simulated.faults = Faults()
            until("the run's end", lambda: read_record(root, name).state == "completed", worker.process)
            assert simulated.stats.report()["paid_twice"] == 0
        assert resumes(prefect_api) == before + 1, "one resume for one end"
