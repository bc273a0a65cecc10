"""Each arm over one pool: built, counted from Parquet by another query, tokenised, and trained for two steps.

One process loads torch and TRL, which takes longest, and forks for each arm: one accelerator per process.
"""

import os
import subprocess
import sys
from pathlib import Path

import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from rows import correction_of, judged_path

from lema_core.artifacts.parquet import table_of
from lema_core.mixture import RoundData, build_arm, get_arm
from lema_core.questions import QuestionsSpec, read_questions
from lema_core.records import Correction, Example, JudgedPath, MaskedExample
from lema_core.training.data import ExampleTokenizer, TokenisedData, load_tokenizer, read_examples, tokenise
from lema_core.training.specs import LaunchSpec, TrainingSpec, dump_specs

ARMS = ("fix_continue", "fix_continue_masked", "fresh_restart", "placebo", "rft", "dpo_outcome", "kto")
QUESTIONS = list(read_questions(QuestionsSpec(task="arithmetic", limit=16, seed=2)))
TRAIN = """
import os, sys, traceback
from pathlib import Path
from lema_core.training import options, trainers
from lema_core.training.sft import train
from lema_core.training.specs import load_specs
for name in sys.argv[2:]:
    folder = Path(sys.argv[1]) / name
    child = os.fork()
    if not child:
        try:
            train(*load_specs((folder / "spec.json").read_text()), folder / "tokens", folder / "out")
            os._exit(0)
        except BaseException:
            print(name, traceback.format_exc(), flush=True)
            os._exit(1)
    if os.waitpid(child, 0)[1]:
        sys.exit(1)
"""


def wrong(question):
    return question.rationale.replace(f"= {question.gold}", "= 77").replace(f"is {question.gold}", "is 77")


CORRECTIONS = [
    correction_of(
        q, id=f"c-{q.id}", path_id=f"w-{q.id}", corrector="gpt", original=wrong(q), explanation=f"It is {q.gold}.",
        spliced=q.rationale,
    )
    for q in QUESTIONS[:10]
]  # fmt: skip
PATHS = [judged_path(q, id=f"r-{q.id}", text=q.rationale.replace("has", "now has")) for q in QUESTIONS[4:]]
PATHS += [judged_path(q, right=False, id=f"w-{q.id}", text=wrong(q)) for q in QUESTIONS[:10]]


@pytest.fixture(scope="module")
def pool(tmp_path_factory) -> Path:
    """Write the pool as tables: what the other queries read."""
    folder = tmp_path_factory.mktemp("pool")
    pq.write_table(table_of(CORRECTIONS, Correction), folder / "corrections.parquet")
    pq.write_table(table_of(PATHS, JudgedPath), folder / "paths.parquet")
    return folder


@pytest.fixture(scope="module")
def trained(tiny_base, tmp_path_factory) -> Path:
    """Build, tokenise and train every arm; return the folder with a folder for each."""
    root = tmp_path_factory.mktemp("arms")
    source = RoundData(lambda: iter(QUESTIONS), lambda: iter(PATHS), lambda: iter(CORRECTIONS))
    for name in ARMS:
        arm, folder = get_arm(name), root / name
        folder.mkdir()
        record = MaskedExample if arm.masked else Example
        rows = [row for row in build_arm(arm, (source,)) if isinstance(row, Example)]
        pq.write_table(table_of(rows, record), folder / "examples.parquet")
        spec = TrainingSpec(
            base=tiny_base, objective=arm.objective, max_steps=2, batch_size=8, learning_rate=1e-3, precision="fp32",
            save_steps=2,
        )  # fmt: skip
        (folder / "spec.json").write_text(dump_specs(spec, LaunchSpec(ranks=1, zero_stage=0, threads=1)))
        tokens = ExampleTokenizer(load_tokenizer(tiny_base), "chat")
        tokenise(read_examples(folder / "examples.parquet"), tokens, spec, folder / "tokens")
    given = os.environ | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0", "RANK": "0", "WORLD_SIZE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", TRAIN, str(root), *ARMS], env=given, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return root


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", ARMS)
def test_an_arm_is_trained_on_the_rows_that_the_pool_has_for_it(trained, pool, name):
    corrections, paths = (pq.read_table(pool / f"{part}.parquet") for part in ("corrections", "paths"))
    right, bad = (paths.filter(pc.equal(paths["verdict"], verdict)) for verdict in ("right", "wrong"))
    both = set(right["question_id"].to_pylist()) & set(bad["question_id"].to_pylist())
    cot = len(QUESTIONS) + right.num_rows
    wanted = {
        "rft": {"cot": right.num_rows},
        "dpo_outcome": {"preference": len(both)},
        "kto": {"desirable": right.num_rows, "undesirable": bad.num_rows},
        "placebo": {"cot": cot, "correction": corrections.num_rows},
        "fresh_restart": {"cot": cot, "fresh_restart": corrections.num_rows},
    }.get(name, {"cot": cot, "fix_continue": corrections.num_rows})
    examples = pq.read_table(trained / name / "examples.parquet")
    counted = examples.group_by("kind").aggregate([("id", "count")])
    assert dict(zip(*(counted[column].to_pylist() for column in ("kind", "id_count")), strict=True)) == wanted

    data = TokenisedData(trained / name / "tokens")
    masked = sum(stop - first for row in data[:] for first, stop in [row.masked or (0, 0)])
    assert bool(masked) == (name == "fix_continue_masked")
    read = sum(row.prompt_tokens * (2 if row.worse_ids else 1) for row in data[:])
    assert data.counts["trained_tokens"] == sum(data.lengths()) - read - masked
    figures = pq.read_table(trained / name / "out" / "metrics.parquet").to_pydict()
    assert figures["step"] == [1, 2]
    assert all(loss > 0 for loss in figures["loss"])
    weights = {(trained / one / "out" / "model" / "model.safetensors").read_bytes() for one in (name, "rft")}
    assert len(weights) == (1 if name == "rft" else 2), "each arm is a model of its own"
