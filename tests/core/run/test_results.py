"""A run read back by its name."""

from pathlib import Path

import pytest
from rows import correction_of, judged_path
from runs import SMOKE, make_run

from lema_core import Pipeline, check_correction, load_run
from lema_core.artifacts import ArtifactRef
from lema_core.errors import ConfigError, DataError
from lema_core.questions import QuestionsSpec, read_questions
from lema_core.records import Correction, Example, Question, Rejection

QUESTIONS = [
    row for row in read_questions(QuestionsSpec(task="arithmetic", limit=3, seed=1)) if isinstance(row, Question)
]
ONE = QUESTIONS[0]


@pytest.fixture
def root(tmp_path: Path) -> str:
    correction = correction_of(
        ONE, id="c1", path_id="p1", original="Step 1: 1.", corrector="c", explanation="e", spliced=ONE.rationale
    )
    rejection = Rejection(id="r1", parent_id="p2", reason="wrong_answer", detail="no", text="t")
    example = Example(id="e1", kind="cot", source_id="p1", question_id=ONE.id, input="i", output="o")
    rows = {
        "verdicts": [judged_path(ONE, id="p1", text="x", right=False), judged_path(ONE, id="p2", text="y")],
        "corrections": [correction, rejection],
        "mixture: cot": [example],
        "evaluation: base": [judged_path(ONE, id="a1", text="z")],
    }
    make_run(SMOKE, str(tmp_path), "mine", questions=3, rows=rows)
    return str(tmp_path)


def test_each_table_as_pandas_arrow_and_dictionaries(root: str) -> None:
    run = load_run("mine", root)
    assert (run.state, repr(run), run.spec.questions.limit) == ("completed", "<run mine: completed>", 3)
    assert list(run.questions.pandas()["text"]) == [question.text for question in QUESTIONS]
    assert [(row["id"], row["verdict"], row["round"]) for row in run.paths] == [("p1", "wrong", 0), ("p2", "right", 0)]
    assert run.corrections.arrow["evolution"].to_pylist() == ["none"]
    assert [(row["stage"], row["reason"]) for row in run.rejections] == [("corrections", "wrong_answer")]
    assert [(row["arm"], row["output"]) for row in run.examples] == [("cot", "o")]
    assert [(row["model"], row["test_set"], row["id"]) for row in run.evaluations] == [("base", "arithmetic", "a1")]
    # Not made yet: no rows, and the columns that it will have.
    assert len(run.test_questions) == 0
    assert "test_set" in run.test_questions.pandas().columns
    assert run.cost == 0.0
    assert run.report is None


def test_the_place_of_the_report(root: str) -> None:
    run = load_run("mine", root)
    stage = Pipeline(run.spec, root)
    list(stage.stages())
    identity = stage.report().identity
    folder = run.store.local_folder(ArtifactRef("report", identity.fingerprint))
    (folder / "report.html").write_text("<p>")
    run.store.publish_files(identity, ["report.html"], seconds=1.0)
    assert load_run("mine", root).report == str(folder / "report.html")


def test_a_table_as_a_data_set(root: str) -> None:
    pytest.importorskip("datasets", reason="training is not installed (lema-pipeline[train])")
    found = load_run("mine", root).corrections.dataset()
    assert found[0]["spliced"] == ONE.rationale


def test_an_unknown_run_is_an_error_with_those_there_are(root: str) -> None:
    with pytest.raises(ConfigError, match="there are: mine"):
        load_run("other", root)


TEXT = "Step 1.\nExplanation: 2 + 3 is 5.\nCorrect Solution:\n{{\nStep 1: 2 + 3 = {}.\nThe answer is {}.\n}}"


def test_a_correction_is_checked_in_one_call() -> None:
    wrong = "Step 1: 2 + 3 = 6.\nThe answer is 6."
    found = check_correction("2 + 3?", wrong, "5", TEXT.format(5, 5))
    assert isinstance(found, Correction)
    assert (found.step, found.wrong_answer, found.spliced) == (1, "6", "Step 1: 2 + 3 = 5.\nThe answer is 5.")
    refused = check_correction("2 + 3?", wrong, "5", TEXT.format(7, 7))
    assert isinstance(refused, Rejection)
    assert refused.reason in {"false_equation", "wrong_answer"}
    with pytest.raises(DataError, match="nothing to correct"):
        check_correction("2 + 3?", "The answer is 5.", "5", TEXT.format(5, 5))
