"""Deployments, schedules, resuming and crashes: a real Prefect server, real processes, killed for real."""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import psycopg
import pytest
import yaml
from support import (
    ask,
    ended,
    environment,
    kill_all,
    lema_command,
    parts,
    runs,
    start_run,
    start_server,
    state_of,
    until,
)

from flows.local_stack import stack
from flows.local_stack.postgres import Postgres
from flows.local_stack.server import stop
from lema_core.errors import ConfigError, LedgerError, LemaError
from lema_core.llm.ledger.claims import Claims
from lema_core.llm.ledger.store import LedgerStore
from lema_core.llm.simulated import Faults

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[2]


def test_registering_twice_is_registering_once(lema, checkout, prefect_api):
    for _ in range(2):
        lema("deploy")
    wanted = {one["name"] for one in yaml.safe_load((ROOT / "deployments" / "prefect.yaml").read_text())["deployments"]}
    found = {one["name"]: one for one in ask(prefect_api, "deployments/filter", {})}
    assert found.keys() == wanted
    assert not any(schedule["active"] for one in found.values() for schedule in one["schedules"])
    assert all("lema" in one["tags"] and one["description"] for one in found.values())
    assert {one["global_concurrency_limit"]["limit"] for one in found.values()} == {1}
    # A call that came while another works must not be lost: what it is about was not there when that one looked.
    assert {one["concurrency_options"]["collision_strategy"] for one in found.values()} == {"ENQUEUE"}
    for one in found.values():
        for name, field in one["parameter_openapi_schema"]["properties"].items():
            assert field["description"], name
    automations = [one["name"] for one in ask(prefect_api, "automations/filter", {})]
    assert sorted(automations) == ["lema: a run without heartbeats has crashed", "lema: resume what crashed"]


def test_a_scheduled_run_starts_by_itself_and_a_new_question_is_all_that_the_next_one_pays(
    checkout, serving, simulated, prefect_api, tmp_path
):
    questions = checkout / "questions.jsonl"
    known = (tmp_path / "known.jsonl").read_text().splitlines(keepends=True)
    questions.write_text("".join(known[:20]))
    mapping = "questions.mapping={question='text', gold='gold', rationale='rationale'}"
    place = ['questions.task="numeric"', f'questions.path="{questions}"', mapping]
    given = {"run_file": "deployments/runs/test.toml", "settings": place, "root": str(checkout / "out")}
    deployment = ask(prefect_api, "deployments/name/lema-corrections/corrections", method="GET")
    soon = time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime(time.time() + 8))
    # On a loaded machine the scheduler may miss the first moment: every half a minute, until one run is there.
    schedule = {"schedule": {"interval": 30, "anchor_date": soon}, "active": True, "parameters": given}
    (made,) = ask(prefect_api, f"deployments/{deployment['id']}/schedules", [schedule])
    scheduled = {
        "deployments": {"id": {"any_": [deployment["id"]]}},
        "flow_runs": {"state": {"type": {"any_": ["COMPLETED", "FAILED"]}}},
    }
    done = until("the scheduled run", lambda: ask(prefect_api, "flow_runs/filter", scheduled))[0]
    ask(prefect_api, f"deployments/{deployment['id']}/schedules/{made['id']}", method="DELETE")
    assert done["state_type"] == "COMPLETED", done["state"]["message"]
    assert done["name"] == "corrections: flow_test: numeric, simulated-student taught by reference-corrector"
    paid = simulated.stats.counts["ok"]
    assert paid > 20 * 3

    questions.write_text("".join(known[:21]))
    again = start_run(prefect_api, "lema-corrections/corrections", **given)
    assert ended(prefect_api, again)["type"] == "COMPLETED"
    # Three paths to the new question, and at most a correction of each.
    assert 3 <= simulated.stats.counts["ok"] - paid <= 6
    assert simulated.stats.report()["paid_twice"] == 0


def test_a_failed_shard_is_told_and_the_resume_deployment_finishes_it(checkout, serving, simulated, prefect_api, lema):
    simulated.faults = Faults(always_failing=0.05)
    lema("run", "run.toml", "--root", "undisturbed", "--set", "name=plain")
    simulated.stats.reset()
    told = run_with_a_shard_that_dies(checkout, prefect_api)
    assert "corrections: 1 of" in told
    assert "rows 30-" in told
    assert "the other shards are finished" in told
    assert "lema resume flow_test" in told
    assert "the deployment resume" in told
    resumed = start_run(prefect_api, "lema-resume/resume", root=str(checkout / "out"))
    state = ended(prefect_api, resumed)
    assert (state["type"], state["message"]) == ("COMPLETED", "finished flow_test")
    assert simulated.stats.report()["paid_twice"] == 0
    assert parts(checkout / "out") == parts(checkout / "undisturbed")
    nothing = ended(prefect_api, start_run(prefect_api, "lema-resume/resume", root=str(checkout / "out")))
    assert nothing["message"].startswith("nothing to do")


def run_with_a_shard_that_dies(checkout, api) -> str:
    """Run the flow in a process whose second shard of corrections is killed; return what the flow run says."""
    program = """
import lema_core.stages.corrections as stage
from flows.cli import app
whole = stage.correction_requests
def dying(rows, *rest, **options):
    rows = list(rows)
    dying.calls += 1
    if dying.calls == 2:
        raise MemoryError("the shard was killed")
    return whole(rows, *rest, **options)
dying.calls = 0
stage.correction_requests = dying
app()
"""
    words = [sys.executable, "-c", program, "run", "run.toml", "--root", "out"]
    done = subprocess.run(
        words, cwd=checkout, env=environment(api, checkout), capture_output=True, text=True, check=False, timeout=240
    )
    assert done.returncode == 1, done.stdout
    (run, *_) = runs(api, "flow_test: arithmetic")
    assert run["state_type"] == "FAILED"
    return run["state"]["message"]


def flow_process_of(process: subprocess.Popen, run: dict) -> psutil.Process:
    """Return the process in which `serve` runs a flow run."""

    def found():
        for child in psutil.Process(process.pid).children(recursive=True):
            if child.environ().get("PREFECT__FLOW_RUN_ID") == run["id"]:
                return child
        return None

    return until("the flow's process", found)


def test_a_killed_run_is_shown_as_crashed_and_resumed_by_the_automation(
    checkout, serving, simulated, prefect_api, finished
):
    simulated.faults = Faults(latency_s=0.2)
    # The automation starts the deployment with its defaults: the root of the checkout.
    run = start_run(prefect_api, "lema-run/whole-run", run_file="deployments/runs/test.toml")
    until("the first answers", lambda: simulated.stats.counts["ok"] > 40)
    victim = flow_process_of(serving, run)
    # Other tests of the session crash runs as well.
    before = {one["id"] for one in runs(prefect_api, "resume  under .lema")}
    kill_all(victim.pid)
    assert ended(prefect_api, run)["type"] == "CRASHED"
    asked = lambda: [one for one in runs(prefect_api, "resume  under .lema") if one["id"] not in before]  # noqa: E731
    (resumed,) = until("the automation", asked)
    state = ended(prefect_api, resumed)
    assert (state["type"], state["message"]) == ("COMPLETED", "finished flow_test")
    assert simulated.stats.report()["paid_twice"] <= 16
    assert parts(checkout / ".lema") == finished.parts


def test_a_run_without_a_worker_is_cancelled_from_the_ui_within_seconds(checkout, simulated, prefect_api, lema):
    simulated.faults = Faults(latency_s=0.5)
    given = environment(prefect_api, checkout)
    with subprocess.Popen(
        lema_command("run", "run.toml", "--root", "out", "--set", "name=to_cancel"), cwd=checkout, env=given,
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        until("the first answers", lambda: simulated.stats.counts["ok"] > 10)
        (run,) = runs(prefect_api, "to_cancel")
        ask(prefect_api, f"flow_runs/{run['id']}/set_state", {"state": {"type": "CANCELLING"}})
        asked = time.monotonic()
        assert process.wait(60) == 1
        assert time.monotonic() - asked < 30
        assert "lema resume to_cancel --root out" in process.stderr.read()
    assert state_of(prefect_api, run)["type"] == "CANCELLED"
    hits = simulated.stats.counts["hits"]
    simulated.faults = Faults()
    lema("resume", "--root", "out")
    assert simulated.stats.counts["hits"] > hits
    assert simulated.stats.report()["paid_twice"] == 0


@pytest.mark.skipif(
    "LEMA_ALL_TESTS" not in os.environ, reason="minutes: Prefect's client retries; set LEMA_ALL_TESTS=1"
)
@pytest.mark.timeout(600)
def test_a_run_outlives_its_prefect_server(checkout, simulated, tmp_path_factory, lema, finished):
    home = tmp_path_factory.mktemp("mortal") / "prefect"
    api = start_server(home)
    try:
        simulated.faults = Faults(latency_s=0.3)
        given = environment(api, checkout) | {"PREFECT_CLIENT_MAX_RETRIES": "2"}  # by default it ends after minutes
        with subprocess.Popen(
            lema_command("run", "run.toml", "--root", "out"), cwd=checkout, env=given,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        ) as process:  # fmt: skip
            until("the first answers", lambda: simulated.stats.counts["ok"] > 40)
            kill_all(json.loads((home / "server.json").read_text())["pid"])
            told = process.communicate(timeout=240)[0]
        assert "Traceback" not in told
        assert "failed to process item" not in told
        assert "Error logging to API" not in told
        assert told.count("The Prefect server does not answer. The run goes on") == 1
        assert process.returncode == 1
        assert told.count("error:") == 1
        assert "lema resume flow_test --root out" in told
        # Whatever the run said without its server: what it paid is there, and the same command finishes.
        lema("run", "run.toml", "--root", "out")
        assert simulated.stats.report()["paid_twice"] <= 16
        assert parts(checkout / "out") == finished.parts
    finally:
        stop(home)


@pytest.mark.skipif(not list(Path("/usr/lib/postgresql").glob("*/bin/initdb")), reason="PostgreSQL is not installed")
@pytest.mark.timeout(300)
def test_the_ledgers_database_is_gone_for_ten_seconds(checkout, simulated, prefect_api, finished):
    # Not under pytest's folder: that one is closed to other users, and PostgreSQL does not run as root.
    with tempfile.TemporaryDirectory(prefix="lema-database-") as folder:
        Path(folder).chmod(0o755)
        database = Postgres(Path(folder) / "postgres")
        database.start()
        with pytest.raises(psycopg.OperationalError, match="no password"):
            psycopg.connect(database.url("postgres").partition("?")[0])
        try:
            simulated.faults = Faults(latency_s=0.3)
            ledger = f"runtime.ledger={database.url('ledger')}"
            with subprocess.Popen(
                lema_command("run", "run.toml", "--root", "out", "--set", ledger), cwd=checkout,
                env=environment(prefect_api, checkout), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            ) as process:  # fmt: skip
                until("the first answers", lambda: simulated.stats.counts["ok"] > 30)
                kill_postgres(Path(folder) / "postgres")
                back = time.monotonic() + 10
                until("ten seconds", lambda: time.monotonic() > back)
                until("the database", lambda: restarted(database))
                told = process.communicate(timeout=240)[0]
            assert process.returncode == 0, told
            assert simulated.stats.report()["paid_twice"] == 0
            assert parts(checkout / "out") == finished.parts
        finally:
            database.stop()


def test_the_ledger_does_not_move_away_from_under_a_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    store = LedgerStore(".lema/ledger.sqlite")
    working = Claims(store)
    working.register()
    with pytest.raises(LemaError, match="1 processes are working with"):
        stack._move_ledger("postgresql://127.0.0.1:9/nowhere")
    assert not (tmp_path / ".lema" / "ledger.url").exists()
    working.unregister()
    with pytest.raises(LedgerError, match="cannot open"):
        stack._move_ledger("postgresql://127.0.0.1:9/nowhere")


def kill_postgres(data: Path) -> None:
    kill_all(int((data / "postmaster.pid").read_text().splitlines()[0]))


def restarted(database: Postgres) -> bool:
    """Start it again; right after a kill the kernel may still hold its shared memory."""
    try:
        database.start()
    except ConfigError:
        return False
    return True
