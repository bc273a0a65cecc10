"""The chaos scenarios in their small form, and the tools they do their damage with."""

import os
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from chaos import SCENARIOS, choose_scenarios, scenario_run
from chaos.__main__ import app
from chaos.damage import completions, garble, tear_tail
from chaos.simulated_run import library_for, run_file_text, simulated_run
from chaos.snapshot import content_hash
from support import AUTH, environment
from typer.testing import CliRunner

from lema_core.errors import ConfigError, LedgerError
from lema_core.llm.ledger.store import LedgerStore
from lema_core.run.files import read_run_file

WHOLE = """
name = "whole"
title = "With an emoji \U0001f98a and a \\"quote\\""
[questions]
task = "arithmetic"
limit = 8
[test_questions]
task = "arithmetic"
split = "test"
limit = 4
[[students]]
endpoint = "gpu"
samples = 2
temperature = 1e-05
[corrections]
endpoint = "teacher"
[mixture]
arms = ["cot", "lema"]
[training]
base = "tiny"
[evaluation]
base = "gpu"
[evaluation.serve]
model = "fine-tuned"
command = "serve {model} --port {port}"
[budget]
usd = 5
[runtime]
ledger = "postgresql://somewhere/ledger"
shard_requests = 4
[endpoints.gpu]
model = "Qwen/Qwen2.5-1.5B-Instruct"
command = "serve {model} --port {port}"
[endpoints.teacher]
model = "gpt-4.1"
base_url = "https://api.example.com/v1"
api_key_env = "SOME_KEY"
transport = "batch"
"""
URL = "http://127.0.0.1:9/v1"
TESTS = Path(__file__).resolve().parents[1]


@pytest.fixture
def whole(tmp_path):
    path = tmp_path / "whole.toml"
    path.write_text(WHOLE, encoding="utf-8")
    return read_run_file(path)


def test_every_endpoint_is_simulated_and_no_key_or_budget_is_left(whole):
    run = simulated_run(whole, URL, with_training=False)
    assert {name: endpoint.model for name, endpoint in run.endpoints.items()} == {
        "gpu": "simulated-student/gpu",
        "teacher": "reference-corrector",
    }
    assert {endpoint.base_url for endpoint in run.endpoints.values()} == {URL}
    assert {(one.command, one.api_key_env, one.transport) for one in run.endpoints.values()} == {(None, None, "http")}
    assert (run.training, run.evaluation, run.budget.usd, run.runtime.ledger) == (None, None, None, None)
    assert simulated_run(whole, URL, with_training=True).training == whole.training
    assert len(library_for(whole).problems) == 12


@pytest.mark.parametrize("with_training", [False, True])
def test_the_run_file_that_is_written_says_what_was_read(whole, tmp_path, with_training):
    run = simulated_run(whole, URL, with_training=with_training)
    (tmp_path / "again.toml").write_text(run_file_text(run), encoding="utf-8")
    assert read_run_file(tmp_path / "again.toml") == run


def test_scenarios_have_names_of_their_own_and_a_wrong_one_is_told(whole):
    assert len({scenario.name for scenario in SCENARIOS}) == len(SCENARIOS)
    assert {"transport", "kill", "full-disk"} == {scenario.name for scenario in choose_scenarios((), quick=True)}
    assert [scenario.name for scenario in choose_scenarios(["kill"], quick=True)] == ["kill"]
    with pytest.raises(ConfigError, match="kill-paying"):
        choose_scenarios(["kil"], quick=False)


@pytest.fixture
def dead_ledger(tmp_path):
    """A ledger as a kill leaves it: every commit in the log, nothing in the main file."""
    store = LedgerStore(str(tmp_path / "live.sqlite"))
    for number in range(60):
        with store.database.transaction():
            values = (f"k{number:03}", "m", b"r" * 300, b"a" * 300, "stop", 1, 1, "m", None, "run", "2025-01-01")
            store.database.insert("completions", [values])
    dead = tmp_path / "dead" / "ledger.sqlite"
    dead.parent.mkdir()
    for suffix in ("", "-wal", "-shm"):
        shutil.copy(tmp_path / f"live.sqlite{suffix}", f"{dead}{suffix}")
    store.close()
    return dead


def test_a_torn_log_loses_its_last_commits_and_nothing_else(dead_ledger):
    lost = tear_tail(dead_ledger)
    assert 0 < lost < 30
    assert completions(dead_ledger) == 60 - lost
    with sqlite3.connect(dead_ledger) as database:
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert [row[0] for row in database.execute("SELECT key FROM completions ORDER BY key")] == [
            f"k{number:03}" for number in range(60 - lost)
        ]


@pytest.mark.parametrize("start", [0, 4096])
def test_noise_in_the_ledgers_file_is_one_error_and_is_taken_back(dead_ledger, start):
    with garble(dead_ledger, start), pytest.raises(LedgerError, match=r"ledger\.sqlite"):
        LedgerStore(str(dead_ledger)).lookup(["k001"])
    assert completions(dead_ledger) == 60


def test_of_a_trainings_figures_all_counts_but_the_clock(tmp_path):
    def written(name, **columns):
        pq.write_table(pa.table({"step": [1, 2], "loss": [3.0, 2.5]} | columns), tmp_path / name)
        return content_hash(tmp_path / name)

    assert written("a", tokens_per_second=[5.0, 6.0]) == written("b", tokens_per_second=[7.0, 8.0])
    assert written("a", tokens_per_second=[5.0, 6.0]) != written("c", tokens_per_second=[5.0, 6.0], loss=[3.0, 2.6])
    assert written("d") != written("e", loss=[3.0, 2.6])


@pytest.mark.slow
def test_the_table_and_the_exit_code_tell_when_a_scenario_did_not_hold(run_file, tmp_path, monkeypatch, prefect_api):
    monkeypatch.setenv("PREFECT_API_URL", prefect_api)
    monkeypatch.setenv("PREFECT_API_AUTH_STRING", AUTH[prefect_api])
    monkeypatch.setattr(scenario_run, "ENTRY", "import sys; sys.exit('error: it does not start')")
    shown = CliRunner().invoke(app, [str(run_file), "--only", "transport", "--folder", str(tmp_path / "chaos")])
    assert shown.exit_code == 1
    assert "it does not start" in shown.output


@pytest.mark.slow
def test_faults_a_kill_and_a_full_disk_change_nothing(prefect_api, run_file, tmp_path):
    small = ("--set", "questions.limit=20", "--set", "students.0.samples=2", "--set", "runtime.shard_requests=10")
    words = [sys.executable, "-m", "chaos", str(run_file), "--quick", "--folder", str(tmp_path / "chaos"), *small]
    # The root first: with the tests alone, tests/flows would stand for the package flows of an editable installation.
    paths = os.pathsep.join(filter(None, [str(TESTS.parent), str(TESTS), os.environ.get("PYTHONPATH")]))
    given = environment(prefect_api, tmp_path) | {"PYTHONPATH": paths}
    done = subprocess.run(words, cwd=tmp_path, env=given, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = {line.split()[0]: line.split()[1:] for line in done.stdout.splitlines() if line.strip().endswith("held")}
    assert rows.keys() == {"transport", "kill", "full-disk"}
    assert int(rows["transport"][1]) > 0
    assert rows["kill"][0] == "1"
