"""The graph of a run: named before anything exists, the same for everybody who walks it."""

from pathlib import Path

import pytest
from support import RUN

from lema_core.pipeline import Pipeline
from lema_core.run.files import read_run_file
from lema_core.stages.corrections import Corrections
from lema_core.stages.quality_gate import PilotCorrections, PilotMistakes

MEASURED = ["evaluation.base='student'", "evaluation.samples=2"]
GATED = ["quality_gate.rows=2"]


def walk(folder: Path, root: str, *settings: str) -> dict[str, str]:
    """Return the artifacts of a run by the steps' titles."""
    file = folder / "run.toml"
    file.write_text(RUN.replace("{url}", "http://127.0.0.1:1/v1"))
    pipeline = Pipeline(read_run_file(file, [*MEASURED, *settings]), root)
    found = {stage.title: stage.ref.folder for stage in pipeline.stages()}
    assert not Path(root).exists(), "a walk writes nothing"
    return found


def test_the_stages_come_in_the_papers_order_and_a_walk_fills_the_artifacts(tmp_path):
    assert [*walk(tmp_path, str(tmp_path / "out"))] == [
        "questions", "test_questions", "reasoning_paths", "verdicts", "mistakes", "corrections", "mixture: cot",
        "mixture: lema", "evaluation: base", "votes: base",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "setting",
    ["name='other'", "runtime.shard_requests=7", "endpoints.student.base_url='http://127.0.0.1:2/v1'", "budget.usd=1"],
)
def test_where_and_how_a_run_works_names_nothing_anew(tmp_path, setting):
    assert walk(tmp_path, str(tmp_path / "a")) == walk(tmp_path, str(tmp_path / "b"), setting)


@pytest.mark.parametrize(
    ("setting", "kept"),
    [
        ("corrections.max_tokens=7", {"questions", "reasoning_paths", "mistakes", "mixture: cot", "votes: base"}),
        ("evaluation.samples=3", {"questions", "corrections", "mixture: lema", "evaluation: base"}),
        ("students.0.temperature=0.1", {"questions", "test_questions", "evaluation: base"}),
    ],
)
def test_an_option_names_its_stage_anew_and_what_is_made_from_it(tmp_path, setting, kept):
    before, after = walk(tmp_path, str(tmp_path / "a")), walk(tmp_path, str(tmp_path / "a"), setting)
    unchanged = {title for title in before if before[title] == after[title]}
    assert kept <= unchanged < set(before)


def test_a_pilot_is_needed_only_before_the_corrections_that_it_stands_for(tmp_path):
    file = tmp_path / "run.toml"
    file.write_text(RUN.replace("{url}", "http://127.0.0.1:1/v1"))
    stages = list(Pipeline(read_run_file(file, GATED), str(tmp_path / "out")).stages())
    (whole,) = (stage for stage in stages if type(stage) is Corrections)
    pilots = [stage for stage in stages if isinstance(stage, PilotMistakes | PilotCorrections)]
    assert len(pilots) == 2
    assert {stage.only_before for stage in pilots} == {whole.ref}
    assert not any(stage.calls(Pipeline(read_run_file(file), str(tmp_path)).store, lambda _: 1) for stage in pilots)
