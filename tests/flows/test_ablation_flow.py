import csv
import os
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from support import environment, killed_at, lema_command, of_stage, parts

from lema_core.artifacts import ArtifactRef, Store
from lema_core.llm.simulated import Faults
from lema_core.records import Example
from lema_core.run.records import read_record

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[2]

MINE = """
[arms.mine]
about = "corrections alone"
views = [{ rows = "corrections", format = "correction" }]
"""
SWEEP = f"""{MINE}
[arms.too_large]
about = "an arm that the pool cannot fill"
views = [{{ rows = "corrections", format = "correction" }}]
fill = [{{ rows = "rationales", format = "cot", where = {{ levels = ["nowhere"] }} }}]
match = {{ arm = "lema", by = "rows" }}
[ablation]
arms = ["cot", "lema", "mine", "too_large"]
[ablation.settings.few]
mistakes.per_question = 1
[ablation.settings.many]
"""


def test_a_cell_that_fails_leaves_the_others_alone_and_nothing_upstream_is_made_twice(
    lema, run_file, simulated, tmp_path
):
    run_file.write_text(run_file.read_text() + SWEEP)
    planned = lema("plan", run_file, "--root", "out").stdout
    assert planned.count("\n reasoning_paths") == 1, "both settings share the paths"
    assert planned.count("mistakes") == 2
    assert planned.count("mixture: cot") == 1, "cot reads the verdicts, and no mistakes: the same in either setting"
    assert planned.count("mixture: lema") == 2

    ended = lema("sweep", run_file, "--root", "out", check=False)
    assert ended.returncode == 1
    assert "2 of 8 cells did not finish; the others are kept" in ended.stderr
    assert "too_large, seed 0" in ended.stderr
    assert "more are required, but the pool has only" in ended.stderr
    assert "lema resume flow_test --root out" in ended.stderr
    store = Store(str(tmp_path / "out" / "store"))
    counts = {
        stage: len(of_stage(store, stage)) for stage in ("questions", "reasoning_paths", "mistakes", "corrections")
    }
    assert counts == {"questions": 2, "reasoning_paths": 1, "mistakes": 2, "corrections": 2}
    (table,) = of_stage(store, "ablation")
    folder = Path(store.folder(table))
    cells = pq.read_table(folder / "cells.parquet").to_pylist()
    assert len(cells) == 8
    assert {c["arm"] for c in cells if c["error"]} == {"too_large"}
    for cell in cells:
        if not cell["error"]:
            assert cell["examples"] == len(list(store.rows(ArtifactRef("mixture", cell["mixture"]), Example)))
    sizes = {(c["setting"], c["arm"]): c["examples"] for c in cells}
    assert sizes["few", "mine"] < sizes["many", "mine"]
    assert len(list(csv.DictReader((folder / "arms.csv").open()))) == 8
    assert "too_large" in (folder / "report.html").read_text()

    # It goes on as the sweep it was: nothing is asked, nothing is made again, and the same cells fail.
    hits, held = simulated.stats.counts["hits"], parts(tmp_path / "out")
    again = lema("resume", "--root", "out", check=False)
    assert "2 of 8 cells did not finish" in again.stderr
    assert simulated.stats.counts["hits"] == hits
    assert parts(tmp_path / "out") == held

    # A run of the same file is of the arms of [mixture], and no sweep.
    assert "40 questions, 120 reasoning paths" in lema("run", run_file, "--root", "out").stdout
    assert len(of_stage(store, "ablation")) == 1
    assert read_record(str(tmp_path / "out"), "flow_test").spec.ablation is None


def test_a_wrong_sweep_is_refused_before_anything_is_paid(lema, run_file, simulated):
    wrong = SWEEP.replace("mistakes.per_question", "mistakes.per_queston")
    run_file.write_text(run_file.read_text() + wrong)
    refused = lema("sweep", run_file, "--root", "out", check=False)
    assert refused.returncode == 1
    assert "ablation.settings.few" in refused.stderr
    assert "did you mean 'per_question'" in refused.stderr
    assert simulated.stats.counts["hits"] == 0


def test_cells_that_wait_for_a_batch_are_collected_by_a_later_run(lema, run_file, simulated, tmp_path):
    run_file.write_text(run_file.read_text() + '[ablation]\narms = ["cot", "mine"]\n' + MINE)
    batch = ("endpoints.reference.transport=batch", "endpoints.reference.wait_for_batch=false")
    simulated.faults = Faults(batch_delay_s=3600)
    words = [word for setting in batch for word in ("--set", setting)]
    waiting = lema("sweep", run_file, "--root", "out", *words, check=False)
    assert waiting.returncode == 1
    assert "2 of 2 cells did not finish" in waiting.stderr
    assert "submitted and not finished" in waiting.stderr
    assert read_record(str(tmp_path / "out"), "flow_test").state == "waiting"
    simulated.faults = Faults()
    for submitted in simulated.batches.batches.values():
        submitted["ready_at"] = 0
    assert "mine" in lema("resume", "--root", "out").stdout
    assert simulated.stats.report()["paid_twice"] == 0


@pytest.mark.skipif("LEMA_ALL_TESTS" not in os.environ, reason="two minutes; LEMA_ALL_TESTS=1 runs it")
def test_kill_9_in_the_middle_and_no_finished_cell_is_made_again(lema, tmp_path, prefect_api):
    words = ("sweep", ROOT / "deployments" / "runs" / "ablation_smoke.toml", "--root", "out")
    store = Store(str(tmp_path / "out" / "store"))
    killed_at(
        "two models", lambda: len(of_stage(store, "training")) >= 2, lema_command(*words), cwd=tmp_path,
        env=environment(prefect_api, tmp_path),
    )  # fmt: skip
    trained = {ref: store.manifest(ref).created for ref in of_stage(store, "training")}
    done = lema("resume", "--root", "out")
    assert "lema" in done.stdout
    models = of_stage(store, "training")
    assert len(models) == 4
    assert {ref: store.manifest(ref).created for ref in trained} == trained
    assert len(of_stage(store, "evaluation")) == 5
    assert "miss" not in lema("plan", words[1], "--root", "out").stdout
    (table,) = of_stage(store, "ablation")
    rows = pq.read_table(Path(store.folder(table)) / "arms.parquet").to_pylist()
    assert [(row["arm"], len(row["seeds"])) for row in rows] == [("base", 0), ("cot", 2), ("lema", 2)]
    assert rows[2]["low"] <= rows[2]["difference"] <= rows[2]["high"]
