"""The smoke run file, shortened: every stage with its real parts, a model trained, served, evaluated and told of."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest
from support import parts

from lema_core.artifacts import ArtifactRef, Store

pytest.importorskip("trl", reason="training is not installed (lema-pipeline[train])")
pytestmark = pytest.mark.slow

SMOKE = Path(__file__).resolve().parents[2] / "deployments" / "runs" / "smoke.toml"
SHORT = [
    word
    for option in (
        "questions.limit=16", "students.0.samples=2", "test_questions.limit=4", "mixture.arms=['lema']",
        "training.max_steps=3", "training.batch_size=4", "evaluation.perplexity=6", "launch.ranks=1",
    )
    for word in ("--set", option)
]  # fmt: skip


def test_from_questions_to_a_fine_tuned_model_and_its_report(lema, tmp_path):
    told = lema("run", SMOKE, "--root", "out", *SHORT).stdout
    assert "Accuracy on 4 held-out questions" in told
    store = Store(str(tmp_path / "out" / "store"))
    made = {m.stage: ArtifactRef(m.stage, m.fingerprint) for m in store.manifests()}
    assert {"tokens", "training", "evaluation", "perplexity", "report"} <= made.keys()
    model = Path(store.folder(made["training"]))
    assert (model / "model" / "config.json").exists()
    assert pq.read_table(model / "metrics.parquet").num_rows == 3
    pairs = pq.read_table(Path(store.folder(made["perplexity"])) / "perplexity.parquet").to_pylist()
    assert pairs
    assert all(pair["mistaken"] > 1 and pair["corrected"] > 1 for pair in pairs)
    page = (Path(store.folder(made["report"])) / "report.html").read_text()
    assert "delta-PPL" in page
    assert (Path(store.folder(made["report"])) / "model_card_lema.md").exists()

    before = parts(tmp_path / "out")
    lema("run", SMOKE, "--root", "out", *SHORT)
    assert parts(tmp_path / "out") == before
    assert "miss" not in lema("plan", SMOKE, "--root", "out", *SHORT).stdout

    lema("export", SMOKE, "--format", "model", "--arm", "lema", "--to", "shared", "--root", "out", *SHORT)
    weights = "model.safetensors"
    assert (tmp_path / "shared" / weights).read_bytes() == (model / "model" / weights).read_bytes()
    assert {"config.json", "tokenizer.json", "README.md"} <= {path.name for path in (tmp_path / "shared").iterdir()}
    assert "base_model:" in (tmp_path / "shared" / "README.md").read_text()
