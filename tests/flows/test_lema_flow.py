import json
import re

import pytest
from support import ask, environment, killed_at, lema_command, of_stage, parts, until

from lema_core.answers import judge
from lema_core.artifacts import Store
from lema_core.llm.simulated import Faults
from lema_core.records import Correction, Example, JudgedPath

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def again(finished) -> tuple[int, str]:
    """Run the same again: how many requests that took, and what it said."""
    hits = finished.endpoint.stats.counts["hits"]
    told = finished.lema("run", finished.run_file, "--root", "out", "--set", "name=finished").stdout
    return finished.endpoint.stats.counts["hits"] - hits, told


def test_the_data_stages_from_questions_to_mixture(finished, again):
    assert "40 questions, 120 reasoning paths" in finished.told
    store = Store(str(finished.root / "store"))
    (corrections,) = of_stage(store, "corrections")
    rows = list(store.rows(corrections, Correction))
    assert rows
    assert all(judge(row.spliced, row.gold, "numeric").verdict == "right" for row in rows)
    (mistakes,) = of_stage(store, "mistakes")
    wrong = {row.id for row in store.rows(mistakes, JudgedPath)}
    assert {row.path_id for row in rows} <= wrong
    kinds = [{e.kind for e in store.rows(ref, Example)} for ref in of_stage(store, "mixture")]
    assert sorted(kinds, key=len) == [{"cot"}, {"cot", "correction"}]
    report = next((finished.root / "store" / "report").glob("*/report.html")).read_text()
    assert "not a language model" in report

    # The same again: nothing is asked, everything is there.
    hits, told = again
    assert hits == 0
    assert "40 questions, 120 reasoning paths" in told
    lema = finished.lema
    plan = lema("plan", finished.run_file, "--root", "out").stdout
    assert "miss" not in plan

    # A row's ancestry goes back to the question, and names the request.
    told = lema("explain", rows[0].id, "--root", "out").stdout
    assert rows[0].path_id in told
    assert rows[0].question_id in told
    assert rows[0].request_key in told
    key = lema("ledger", "explain", rows[0].request_key, "--ledger", "out/ledger.sqlite").stdout
    assert "reference-corrector" in key


@pytest.mark.usefixtures("again")
def test_the_ui_shows_a_task_a_shard_and_cached_stages(prefect_api):
    runs = ask(
        prefect_api,
        "flow_runs/filter",
        {
            "flow_runs": {"name": {"like_": "finished: arithmetic, simulated-student taught by reference"}},
            "sort": "START_TIME_ASC",
        },
    )
    assert [run["state_type"] for run in runs] == ["COMPLETED", "COMPLETED"]

    def tasks(run: dict) -> list[tuple[str, str]]:
        found = ask(prefect_api, "task_runs/filter", {"flow_runs": {"id": {"any_": [run["id"]]}}})
        return [(task["name"], task["state_name"]) for task in found]

    # The server records task runs behind the flow.
    shards = {(f"reasoning_paths {start}-{start + 10}", "Completed") for start in range(0, 40, 10)}
    until("the first run's shards", lambda: shards <= set(tasks(runs[0])))
    cached = {("reasoning_paths", "Cached"), ("corrections", "Cached")}
    until("the second run's stages", lambda: cached <= set(tasks(runs[1])))
    filter_by_run = {"artifacts": {"flow_run_id": {"any_": [runs[0]["id"]]}}}
    found = {artifact["key"]: artifact for artifact in ask(prefect_api, "artifacts/filter", filter_by_run)}
    assert {"corrections", "report", "report-page", "progress-reasoning-paths"} <= found.keys()
    assert found["progress-reasoning-paths"]["description"].startswith("120/120, "), "the last look is shown too"
    table = {row["what"]: row["now"] for row in json.loads(found["requests-reasoning-paths"]["data"])}
    assert (table["done"], table["from the ledger"]) == ("120/120", "0")
    assert {"rate", "in flight", "oldest", "tokens", "ETA"} <= table.keys()


def test_kill_9_again_and_again_and_the_same_command(lema, run_file, simulated, tmp_path, prefect_api, finished):
    simulated.faults = Faults(latency_s=0.05)
    for kills, after in enumerate([5, 60, 118, 140], start=1):
        killed_at(
            f"{after} answers", lambda after=after: simulated.stats.counts["ok"] >= after,
            lema_command("run", run_file, "--root", "killed"), cwd=tmp_path, env=environment(prefect_api, tmp_path),
        )  # fmt: skip
        assert simulated.stats.report()["paid_twice"] <= 16 * kills
        assert not of_stage(Store(str(tmp_path / "killed" / "store")), "mixture"), "it was killed before its end"
    lema("run", run_file, "--root", "killed")
    assert simulated.stats.report()["paid_twice"] <= 16 * kills
    assert parts(tmp_path / "killed") == finished.parts


def test_a_budgets_end_tells_what_the_whole_run_still_needs(lema, run_file, simulated, tmp_path):
    short = lema("run", run_file, "--root", "out", "--set", "budget.tokens=20000", check=False)
    assert short.returncode == 1
    told = re.search(r"the budget is reached: .*; of the whole run at most (\d+) requests remain, about", short.stderr)
    assert told, short.stderr
    paid = simulated.stats.counts["ok"]
    plan = lema("plan", run_file, "--root", "out").stdout
    assert f"At most {told[1]} requests" in plan
    lema("run", run_file, "--root", "out")
    assert 0 < simulated.stats.counts["ok"] - paid <= int(told[1])
    assert simulated.stats.report()["paid_twice"] == 0


def test_faults_change_no_row(lema, run_file, simulated, tmp_path, finished):
    simulated.faults = Faults(
        rate_limit=0.1, retry_after_s=0.05, server_error=0.1, cut_connection=0.1, malformed_body=0.05
    )
    lema("run", run_file, "--root", "stormy")
    assert parts(tmp_path / "stormy") == finished.parts


def test_an_outage_fails_the_run_and_what_fails_for_good_later_are_rows_with_a_reason(
    lema, run_file, simulated, tmp_path
):
    simulated.faults = Faults(always_failing=0.6)
    stopped = lema("run", run_file, "--root", "out", check=False)
    assert stopped.returncode == 1
    assert " server_error), more than runtime.max_failed = 0.2" in stopped.stderr
    store = Store(str(tmp_path / "out" / "store"))
    assert of_stage(store, "reasoning_paths") == []
    simulated.faults = Faults(always_failing=0.1)
    told = lema("resume", "--root", "out").stdout
    (paths,) = of_stage(store, "reasoning_paths")
    manifest = store.manifest(paths)
    assert manifest.rows_in == 120
    assert 0 < manifest.reasons["request_failed"] < 24
    rows = [row for row in store.rejections(paths) if row.reason == "request_failed"]
    assert len(rows) == manifest.reasons["request_failed"]
    assert all("500" in row.detail for row in rows)
    failed = sum(store.manifest(ref).reasons["request_failed"] for ref in (paths, *of_stage(store, "corrections")))
    assert f"{failed} requests failed ({failed} server_error)" in told
    assert simulated.stats.report()["paid_twice"] == 0


def test_batches_are_submitted_by_one_run_and_collected_by_a_later_one(lema, run_file, simulated, tmp_path, finished):
    simulated.faults = Faults(batch_delay_s=3600)
    batch = ("--set", "endpoints.reference.transport=batch", "--set", "endpoints.reference.wait_for_batch=false")
    submitted = lema("run", run_file, "--root", "batch", *batch, check=False)
    assert submitted.returncode == 1
    assert "submitted and not finished" in submitted.stderr
    waiting = lema("resume", "--root", "batch", check=False)
    assert "submitted and not finished" in waiting.stderr
    simulated.faults = Faults()
    for batch_at_server in simulated.batches.batches.values():
        batch_at_server["ready_at"] = 0
    lema("resume", "--root", "batch")
    assert parts(tmp_path / "batch") == finished.parts
    assert simulated.stats.report()["paid_twice"] == 0
