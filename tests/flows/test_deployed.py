"""The deployments' flows in processes of their own: signals, records of other versions, other questions, preflights."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, temporary_settings
from support import AUTH, ask, environment, runs, until

from flows.deployed import _select_records, trained_artifacts
from flows.registration import deployments_to_serve
from lema_core.artifacts import Shard
from lema_core.errors import ConfigError
from lema_core.llm.simulated import Faults
from lema_core.pipeline import Pipeline
from lema_core.records import Example
from lema_core.run.files import read_run_file
from lema_core.run.records import awaits_batches, find_unfinished, read_record, read_records, record_run, write_record

PROGRAM = """
import asyncio, json, sys
import flows.deployed
name, given = sys.argv[1], json.loads(sys.argv[2])
state = asyncio.run(getattr(flows.deployed, name)(**given, return_state=True))
print(f"{state.name}: {state.message}")
"""


def words(flow: str, **given: object) -> list[str]:
    return [sys.executable, "-c", PROGRAM, flow, json.dumps(given)]


def told(api: str, folder: Path, flow: str, **given: object) -> str:
    """Run a flow of the deployments; return the name and the message of its state."""
    done = subprocess.run(
        words(flow, **given), cwd=folder, env=environment(api, folder), capture_output=True, text=True, check=False,
        timeout=240,
    )  # fmt: skip
    return done.stdout + done.stderr[-2000:]


def started(api: str, folder: Path, name: str) -> subprocess.Popen:
    """Start the run file's whole run under a name."""
    given = {"run_file": "run.toml", "settings": [f"name={name}", "questions.limit=16"], "root": "out"}
    return subprocess.Popen(
        words("whole_run", **given), cwd=folder, env=environment(api, folder), stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip


def of_another_version(root: Path, name: str) -> None:
    """Turn a run's record into one with an option that there is no more."""
    file = root / "runs" / f"{name}.json"
    record = json.loads(file.read_text())
    record["spec"] |= {"name": "old", "of_old": 1}
    del record["sha256"]  # older versions wrote none
    file.with_name("old.json").write_text(json.dumps(record))


@pytest.mark.slow
@pytest.mark.skipif("LEMA_ALL_TESTS" not in os.environ, reason="most of a minute; LEMA_ALL_TESTS=1 runs it")
def test_a_process_that_is_ended_is_resumed_and_one_that_was_cancelled_is_not(
    run_file, simulated, prefect_api, tmp_path
):
    simulated.faults, root = Faults(latency_s=1), str(tmp_path / "out")
    processes = [started(prefect_api, tmp_path, name) for name in ("wished", "flow_test")]
    for name in ("wished", "flow_test"):
        until("its record", lambda name=name: read_record(root, name))
    until("the first answers", lambda: simulated.stats.counts["ok"])
    (run,) = runs(prefect_api, "wished: ")
    ask(prefect_api, f"flow_runs/{run['id']}/set_state", {"state": {"type": "CANCELLING"}})
    for process in processes:
        process.send_signal(signal.SIGTERM)
        process.wait(60)
    assert read_record(root, "wished").state == "cancelled"
    assert (read_record(root, "flow_test").state, read_record(root, "flow_test").crashes) == ("failed", 1)

    of_another_version(tmp_path / "out", "flow_test")
    simulated.faults = Faults()
    assert "the run 'old' was recorded by another version" in told(prefect_api, tmp_path, "resume", root="out")
    assert {one.name: one.state for one in read_records(root)} == {
        "flow_test": "completed", "wished": "cancelled", "old": "failed",
    }  # fmt: skip


def test_a_signal_is_a_crash_unless_somebody_wished_it(run_file, tmp_path):
    run, root = read_run_file(run_file), str(tmp_path)
    for crashes in (1, 2):
        with pytest.raises(asyncio.CancelledError), record_run(run, root):
            raise asyncio.CancelledError
        assert (read_record(root, run.name).state, read_record(root, run.name).crashes) == ("failed", crashes)
    with pytest.raises(asyncio.CancelledError), record_run(run, root, lambda: True):
        raise asyncio.CancelledError
    assert (read_record(root, run.name).state, read_record(root, run.name).crashes) == ("cancelled", 0)


def test_a_record_of_another_version_hides_no_other(run_file, tmp_path):
    run, root = read_run_file(run_file), str(tmp_path)
    write_record(root, run, "failed")
    of_another_version(tmp_path, run.name)
    assert sorted(one.name for one in read_records(root)) == [run.name, "old"]
    assert find_unfinished(root, run.name) == run
    with pytest.raises(ConfigError, match=r"'old' was recorded by another version.*\n.*of_old: there is no such"):
        find_unfinished(root, "old")
    (tmp_path / "runs" / "torn.json").write_text("{")
    with pytest.raises(ConfigError, match=r"torn\.json is no record"):
        read_records(root)


@pytest.mark.slow
def test_nothing_is_paid_where_a_later_endpoint_does_not_answer(run_file, simulated, prefect_api, tmp_path):
    away = ["endpoints.reference.base_url=http://127.0.0.1:9/v1"]
    said = told(prefect_api, tmp_path, "whole_run", run_file="run.toml", settings=away, root="out")
    assert "reference" in said
    assert simulated.stats.counts["hits"] == 0
    assert read_record(str(tmp_path / "out"), "flow_test").state == "failed"


TRAINED = """
[training]
base = "smollm2"
[evaluation]
base = "student"
[evaluation.serve]
model = "simulated-student"
base_url = "{url}"
"""


def test_trained_arms_are_found_for_other_questions_than_the_runs_own(run_file, simulated, tmp_path):
    run_file.write_text(run_file.read_text() + TRAINED.replace("{url}", simulated.url))
    root, others = str(tmp_path / "out"), read_run_file(run_file, ["test_questions.limit=5"])
    with pytest.raises(ConfigError, match=r"no arm of .* is trained under"):
        trained_artifacts(others, str(run_file), root)
    pretend_to_have_trained(run_file, tmp_path / "out", "lema")
    assert list(trained_artifacts(others, str(run_file), root).models) == ["lema"]


def pretend_to_have_trained(run_file: Path, root: Path, arm: str) -> None:
    """Publish an arm's model, empty: an endpoint that is there already answers for it."""
    pipeline = Pipeline(read_run_file(run_file), str(root))
    (model,) = (stage for stage in pipeline.stages() if stage.title == f"training: {arm}")
    with pipeline.store.part(model.ref, Shard(0, 0, 0), Example) as part:
        pass
    pipeline.store.publish(model.identity, [part.summary], seconds=1.0)


def test_serving_takes_no_deployment_of_another_project_away(checkout, prefect_api, monkeypatch):
    monkeypatch.chdir(checkout)
    access = {PREFECT_API_URL: prefect_api, PREFECT_API_AUTH_STRING: AUTH[prefect_api]}
    with temporary_settings(access), get_client(sync_client=True) as client:
        pool = client.create_work_pool(WorkPoolCreate(name="theirs", type="process"))
        flow = client.create_flow_from_name("theirs")
        theirs = client.create_deployment(flow, "evaluate", work_pool_name=pool.name, tags=["lema"])
        ours = client.create_deployment(
            client.create_flow_from_name("lema-evaluate"), "evaluate", work_pool_name=pool.name, tags=["lema"]
        )
        try:
            names = [one.name for one in deployments_to_serve()]
            assert "evaluate" in names
            assert [one.id for one in client.read_deployments() if one.name == "evaluate"] == [theirs]
            assert ours != theirs
        finally:
            client.delete_deployment(theirs)
            client.delete_work_pool(pool.name)


def test_a_run_whose_ledger_is_away_keeps_nobody_from_the_others(run_file, tmp_path):
    run = read_run_file(run_file, [])
    away = run.runtime.model_copy(update={"ledger": "postgresql://nobody@127.0.0.1:9/none"})
    write_record(str(tmp_path), run.model_copy(update={"name": "away", "runtime": away}), "failed")
    write_record(str(tmp_path), run.model_copy(update={"name": "here"}), "waiting")
    found, failures = _select_records(str(tmp_path), lambda record: awaits_batches(record, str(tmp_path)))
    assert [record.name for record in found] == ["here"]
    (told,) = failures
    assert told.startswith("away: cannot open the ledger postgresql://127.0.0.1/none")
