"""Collecting batches on a schedule: a real Prefect server, the flow of the deployment in a process of its own."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

from support import environment

from lema_core.llm.batch.records import has_open_batches
from lema_core.llm.ledger.store import LedgerStore, pack
from lema_core.llm.simulated import Faults, SimulatedEndpoint
from lema_core.llm.simulated.batches import BatchError, Batches
from lema_core.run.records import read_record

PROGRAM = """
import asyncio, sys
from flows.deployed import collect_batch
state = asyncio.run(collect_batch(sys.argv[1], return_state=True))
print(f"{state.name}: {state.message}")
"""


def collect(api: str, folder: Path) -> str:
    """Run the flow once; return the name and the message of its state."""
    words = [sys.executable, "-c", PROGRAM, str(folder / "out")]
    done = subprocess.run(
        words, cwd=folder, env=environment(api, folder), capture_output=True, text=True, check=False, timeout=240
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.splitlines()[-1]


def test_a_run_is_collected_when_its_batches_are_done_also_after_a_poll_that_failed(
    lema, run_file, simulated, prefect_api, tmp_path, monkeypatch
):
    simulated.faults = Faults(batch_delay_s=3600)
    batch = ("--set", "endpoints.reference.transport=batch", "--set", "endpoints.reference.wait_for_batch=false")
    small = ("--set", "runtime.shard_requests=10", "--set", "runtime.shards_in_flight=1")
    lema("run", run_file, "--root", "out", *batch, *small, check=False)
    # All shards submit together, although the run file has them one by one.
    asked = [one["request_counts"]["total"] for one in simulated.batches.batches.values()]
    assert sum(asked) >= 50
    assert len(asked) <= 3
    assert read_record(str(tmp_path / "out"), "flow_test").state == "waiting"

    assert collect(prefect_api, tmp_path) == "Submitted: batches are not done yet of flow_test"
    assert read_record(str(tmp_path / "out"), "flow_test").state == "waiting"

    def away(self, remote):
        raise BatchError(400, "closed for today")

    with monkeypatch.context() as patch:
        patch.setattr(Batches, "get", away)
        assert "closed for today" in collect(prefect_api, tmp_path)
    assert read_record(str(tmp_path / "out"), "flow_test").state == "failed"

    for one in simulated.batches.batches.values():
        one["ready_at"] = 0
    simulated.faults = Faults()
    assert collect(prefect_api, tmp_path) == "Completed: finished flow_test"
    assert read_record(str(tmp_path / "out"), "flow_test").state == "completed"
    assert simulated.stats.report()["paid_twice"] == 0


def test_a_batch_is_given_up_by_its_id(lema, tmp_path):
    store = LedgerStore(str(tmp_path / "ledger.sqlite"))
    store.database.query("INSERT INTO batches VALUES ('b', 'm', 'r', '', 'remote', 'submitted')")
    store.database.query("INSERT INTO batch_lines VALUES ('b', 'k', ?, 1, NULL, 7.0, 100.0)", (pack("{}"),))
    words = ("ledger", "forget-batch", "b", "--ledger", "ledger.sqlite")
    assert "1 requests are bought again" in lema(*words).stdout
    assert not has_open_batches(store, "r")
    assert "no batch 'b' is under way" in lema(*words, check=False).stderr


def test_ctrl_c_says_what_stays_submitted_and_the_same_command_collects_it(tmp_path: Path) -> None:
    requests = tmp_path / "r.jsonl"
    asked = [{"id": f"{index}", "messages": [{"role": "user", "content": f"q{index}"}]} for index in range(3)]
    requests.write_text("".join(json.dumps(one) + "\n" for one in asked))
    with SimulatedEndpoint(faults=Faults(batch_delay_s=3600)).in_thread() as endpoint:
        words = [str(Path(sys.executable).parent / "lema"), "complete", str(requests), "--base-url", endpoint.url]
        words += ["--model", "fixed", "--out", str(tmp_path / "out"), "--transport", "batch"]
        with subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
            ledger = tmp_path / "out" / "ledger.sqlite"
            while not (ledger.is_file() and endpoint.batches.batches and "submitted" in states(ledger)):
                assert process.poll() is None
                time.sleep(0.1)
            process.send_signal(signal.SIGINT)
            _, said = process.communicate(timeout=60)
        assert process.returncode != 0
        assert "3 requests are submitted in batches (batch-000001" in said
        assert "the same command collects them" in said
        for one in endpoint.batches.batches.values():
            one["ready_at"] = 0
        done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=60)
        assert "3 answered" in done.stdout, done.stdout + done.stderr
        assert len(endpoint.batches.batches) == 1


def states(ledger: Path) -> list[str]:
    return [row[0] for row in LedgerStore(str(ledger)).database.query("SELECT state FROM batches")]
