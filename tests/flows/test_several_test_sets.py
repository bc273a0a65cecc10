"""Runs and sweeps with several test sets, from made-up files in the published forms to the pages."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from support import of_stage, parts

from lema_core.artifacts import Store
from lema_core.llm.simulated import Library, SimulatedEndpoint
from lema_core.questions import QuestionsSpec, read_questions
from lema_core.records import Question
from lema_core.reference_corrector import Problem

pytestmark = pytest.mark.slow
FILES = (("gsm8k", "gsm8k.jsonl"), ("svamp", "svamp.json"))
RUNS = Path(__file__).resolve().parents[2] / "deployments" / "runs"


def write_sets(folder: Path) -> str:
    """Write SVAMP's and ASDiv's forms, one question of them taken from the training questions; return the setting."""
    taught = [q for q in read_questions(QuestionsSpec(task="arithmetic", limit=16, seed=1)) if isinstance(q, Question)]
    svamp = [
        {"Body": f"Ann has {n} pens", "Question": "How many has she after buying 2?", "Answer": float(n + 2)}
        for n in range(3, 6)
    ]
    (folder / "svamp.json").write_text(json.dumps(svamp))
    problems = [(f"Tom sees {n} birds.", "How many legs have they?", 2 * n) for n in range(3, 5)]
    problems += [(taught[0].text, "", int(taught[0].gold))]
    rows = (
        f'<Problem ID="p{number}"><Body>{body}</Body><Question>{question}</Question><Answer>{answer}</Answer></Problem>'
        for number, (body, question, answer) in enumerate(problems)
    )
    (folder / "asdiv.xml").write_text(f"<Machine-Reading-Corpus-File>{''.join(rows)}</Machine-Reading-Corpus-File>")
    sets = [
        '{task="arithmetic", limit=4, seed=1}', f'{{task="svamp", path="{folder}/svamp.json"}}',
        f'{{name="asdiv", task="asdiv", path="{folder}/asdiv.xml"}}',
    ]  # fmt: skip
    return f"test_questions=[{', '.join(sets)}]"


def library(folder: Path) -> Library:
    """Return what a simulated endpoint must know to answer questions of the made-up files."""
    known = Library.read([])
    (folder / "gsm8k.jsonl").write_text(
        "".join(f'{{"question": "What is {n} + 1?", "answer": "It is {n + 1}.\\n#### {n + 1}"}}\n' for n in range(5))
    )
    for task, file in FILES:
        for row in read_questions(QuestionsSpec(task=task, path=str(folder / file))):
            if isinstance(row, Question):
                known.add(Problem(row.text, row.gold, row.rationale, row.candidates))
    return known


@pytest.mark.timeout(900)  # two runs with six evaluations, each of a server of its own
def test_three_test_sets_in_one_run_have_a_column_each(lema, tmp_path) -> None:
    pytest.importorskip("trl", reason="training is not installed (lema-pipeline[train])")
    options = (
        "questions.limit=16",
        "mixture.arms=['lema']",
        "training.max_steps=2",
        "training.batch_size=4",
        "launch.ranks=1",
    )
    short = [word for option in (*options, write_sets(tmp_path)) for word in ("--set", option)]
    printed = lema("run", RUNS / "smoke.toml", "--root", "out", *short).stdout
    assert "Accuracy on svamp (3 questions)" in printed
    assert "Accuracy on each test set" in printed
    store = Store(str(tmp_path / "out" / "store"))
    assert len(of_stage(store, "evaluation")) == 6, "base and lema, on three sets"
    (mixture,) = of_stage(store, "mixture")
    reasons = store.manifest(mixture).reasons
    assert reasons["test_overlap"] >= 1, "a training question of the third test set is trained on by no arm"
    page = (Path(store.folder(of_stage(store, "report")[0])) / "report.md").read_text()
    assert "| right, by test set | arithmetic (4) | svamp (3) | asdiv (3) | average |" in page

    before = parts(tmp_path / "out")
    lema("run", RUNS / "smoke.toml", "--root", "out", *short)
    assert parts(tmp_path / "out") == before
    assert "miss" not in lema("plan", RUNS / "smoke.toml", "--root", "out", *short).stdout


def test_a_sweep_of_two_test_sets_has_a_column_each(lema, run_file, tmp_path) -> None:
    write_sets(tmp_path)
    known = library(tmp_path)
    sets = ", ".join(f'{{task="{task}", path="{tmp_path}/{file}"}}' for task, file in FILES)
    asked = "evaluation={base='measured', max_tokens=64}"
    with SimulatedEndpoint(known, error_rate=0.5).in_thread() as endpoint:
        measured = f'endpoints.measured={{model="simulated-student", base_url="{endpoint.url}"}}'
        settings = (f"test_questions=[{sets}]", asked, measured, "ablation.arms=['cot']")
        swept = [word for setting in settings for word in ("--set", setting)]
        printed = lema("sweep", run_file, "--root", "out", *swept).stdout
    assert "svamp (3)" in printed
    assert "average" in printed
    store = Store(str(tmp_path / "out" / "store"))
    folder = Path(store.folder(of_stage(store, "ablation")[0]))
    cells = pq.read_table(folder / "cells.parquet").to_pylist()
    found = {(cell["arm"], cell["test_set"]): cell["questions"] for cell in cells}
    assert found[("base", "gsm8k")] == 5
    assert found[("base", "svamp")] == 3
    assert "<h3>svamp</h3>" in (folder / "report.html").read_text()


def test_one_command_evaluates_on_several_sets_and_compares_each(lema, tmp_path) -> None:
    write_sets(tmp_path)
    with SimulatedEndpoint(library(tmp_path), error_rate=0.5).in_thread() as endpoint:
        named = (
            "evaluate",
            tmp_path / "gsm8k.jsonl",
            tmp_path / "svamp.json",
            "--limit",
            "3",
            "--base-url",
            endpoint.url,
            "--root",
            "out",
        )
        printed = lema(*named, "--model", "simulated-student").stdout
        assert "on 3 questions (gsm8k)" in printed
        assert "on 3 questions (svamp)" in printed
        assert "Average over the test sets" in printed
        store = Store(str(tmp_path / "out" / "store"))
        found = of_stage(store, "evaluation")
        against = [word for ref in reversed(found) for word in ("--against", ref.fingerprint[:10])]
        hits = endpoint.stats.counts["hits"]
        both = lema(*named, "--model", "simulated-student", "--identity", "other", *against).stdout
        assert both.count("Against ") == 2
        assert endpoint.stats.counts["hits"] == hits + 6
