import os

import pytest
from support import of_stage, parts

from lema_core.artifacts import Store
from lema_core.records import Correction, Example, Question

pytestmark = pytest.mark.slow

EVOLUTION = """
[evolution]
endpoint = "reference"
kinds = ["centric", "general"]
draws = 60
"""
ROUNDS = """
[evolution]
endpoint = "reference"
draws = 6
rounds = 2
[training]
base = "tiny"
max_steps = 3
batch_size = 8
[evaluation]
max_tokens = 8
[evaluation.serve]
model = "fine-tuned"
command = "{python} -m lema_core.llm.embedded --model {model} --port {port} --context 1024"
concurrency = 4
"""


def test_evolved_questions_are_new_answered_and_corrected(lema, run_file, simulated, tmp_path):
    arms = ("--set", 'mixture.arms=["cot", "lema", "evolution_none", "evolution_general"]')
    lema("run", run_file, "--root", "out", *arms)
    store = Store(str(tmp_path / "out" / "store"))
    before = {(ref.stage, ref.fingerprint) for ref in of_stage(store, "mixture")}

    run_file.write_text(run_file.read_text() + EVOLUTION)
    told = lema("run", run_file, "--root", "out", *arms)
    assert told.returncode == 0
    own = {row.text for row in store.rows(of_stage(store, "questions")[0], Question)}
    for created, novel, evolved in zip(
        *(of_stage(store, stage) for stage in ("evolution_created", "evolution_novel", "evolution")), strict=True
    ):
        assert store.manifest(created).rows_in == 60
        assert store.manifest(novel).rows_in == store.manifest(created).rows_out
        rows = list(store.rows(evolved, Question))
        assert rows
        assert all(row.gold and row.rationale and row.seed_question_id for row in rows)
        assert not own & {row.text for row in rows}
        assert len({row.text for row in rows}) == len(rows)
    collected = [{row.question_id for row in store.rows(ref, Correction)} for ref in of_stage(store, "corrections")]
    assert len(collected) == 3
    assert all(collected)

    # Arms that read nothing of the evolved questions are the artifacts they were.
    mixtures = {(ref.stage, ref.fingerprint) for ref in of_stage(store, "mixture")}
    assert before <= mixtures
    assert len(mixtures - before) == 2
    sizes = sorted(sum(e.kind == "correction" for e in store.rows(ref, Example)) for ref in of_stage(store, "mixture"))
    assert sizes[0] == 0
    assert sizes[1] < sizes[-1]

    hits = simulated.stats.counts["hits"]
    lema("run", run_file, "--root", "out", *arms)
    assert simulated.stats.counts["hits"] == hits
    assert "miss" not in lema("plan", run_file, "--root", "out", *arms).stdout
    row = next(store.rows(of_stage(store, "evolution")[0], Question))
    assert row.seed_question_id in lema("explain", row.id, "--root", "out").stdout


@pytest.mark.skipif("LEMA_ALL_TESTS" not in os.environ, reason="two minutes; LEMA_ALL_TESTS=1 runs it")
def test_a_later_round_asks_the_model_of_the_round_before(lema, run_file, tmp_path):
    run_file.write_text(run_file.read_text() + ROUNDS)
    arms = ("--set", 'mixture.arms=["round_2"]', "--set", "questions.limit=8", "--set", "students.0.samples=1")
    lema("run", run_file, "--root", "out", *arms)
    store = Store(str(tmp_path / "out" / "store"))
    assert len(of_stage(store, "training")) == 2, "round_1's model, which is round 2's student, and round_2's"
    (model,) = {ref.fingerprint for ref in of_stage(store, "training")[:1]}
    asked = [store.manifest(ref).identity for ref in of_stage(store, "reasoning_paths")]
    assert len(asked) == 3
    assert asked[-1]["spec"]["student"] == f"{model} served as Q8_0"
    held = parts(tmp_path / "out")
    lema("run", run_file, "--root", "out", *arms)
    assert parts(tmp_path / "out") == held
    assert "round_1" in next((tmp_path / "out" / "store" / "report").glob("*/report.html")).read_text()


def test_rounds_without_training_are_refused_before_anything_is_paid(lema, run_file, simulated):
    run_file.write_text(run_file.read_text() + EVOLUTION + "rounds = 2\n")
    refused = lema("run", run_file, "--root", "out", check=False)
    assert refused.returncode == 1
    assert "add [training] and [evaluation]" in refused.stderr
    assert simulated.stats.counts["hits"] == 0
