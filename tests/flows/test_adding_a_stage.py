"""A new stage takes four files: its module, a line of the pipeline, a field of the run file, and the report."""

import shutil
import subprocess
from pathlib import Path

import pytest
from support import environment, lema_command

ROOT = Path(__file__).resolve().parents[2]
STAGE = '''
"""A look at the first corrections."""

from dataclasses import dataclass
from functools import cached_property

from lema_core.artifacts import ArtifactRef, Identity, PartWriter, Shard, Store
from lema_core.records import Correction
from lema_core.stages import Section
from lema_core.stages.stage import RowCount, RowStage


class NoopAuditSpec(Section):
    """Which corrections are looked at."""

    rows: int = 3
    """How many of them."""


@dataclass(frozen=True)
class NoopAudit(RowStage):
    """The first corrections, as they are."""

    name = "noop_audit"
    revision = 1
    record = Correction

    spec: NoopAuditSpec
    corrections: ArtifactRef

    @cached_property
    def identity(self) -> Identity:
        return self._identity(self.spec, [self.corrections])

    def row_bound(self, rows: RowCount) -> int:
        return self.spec.rows

    def write(self, store: Store, shard: Shard, part: PartWriter) -> None:
        for row in store.rows(self.corrections, Correction, 0, self.spec.rows):
            part.rows_in += 1
            part.add(row)
'''
EDITS = {
    "lema_core/pipeline.py": {
        "from lema_core.stages.quality_gate": "from lema_core.stages.noop_audit import NoopAudit\n\\g",
        "    def _warm_student(": (
            "        if run.noop_audit and artifacts.main_corrections:\n"
            "            yield (audit := self._add(NoopAudit(run.noop_audit, artifacts.main_corrections)))\n"
            '            artifacts.others["noop_audit"] = audit.ref\n\n\\g'
        ),
    },
    "lema_core/run/spec.py": {
        "from lema_core.stages.quality_gate": "from lema_core.stages.noop_audit import NoopAuditSpec\n\\g",
        "    mixture: MixtureSpec": "    noop_audit: NoopAuditSpec | None = None\n\\g",
    },
    "lema_core/report/notes.py": {
        "    if artifacts.perplexities": (
            '    if audit := artifacts.others.get("noop_audit"):\n'
            '        yield f"An audit looked at {store.manifest(audit).rows_out} corrections."\n\\g'
        ),
    },
}


@pytest.fixture
def extended(tmp_path: Path, run_file: Path) -> Path:
    """Give a copy of the code with the stage added, and a run file that asks for it."""
    for package in ("lema_core", "tasks", "flows"):
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "lema_core" / "stages" / "noop_audit.py").write_text(STAGE.lstrip())
    for name, edits in EDITS.items():
        text = (tmp_path / name).read_text()
        for place, added in edits.items():
            assert text.count(place) == 1, (name, place)
            text = text.replace(place, added.replace("\\g", place))
        (tmp_path / name).write_text(text)
    run_file.write_text(run_file.read_text() + "[noop_audit]\nrows = 2\n")
    assert len(EDITS) + 1 <= 4
    return run_file


@pytest.mark.slow
def test_a_stage_of_four_files_is_planned_made_shown_and_reported(extended, prefect_api, tmp_path):
    def lema(*words: object) -> str:
        # Without -P the interpreter finds the copy first: it is in the working directory.
        command = [word for word in lema_command(*words, "--root", "out") if word != "-P"]
        done = subprocess.run(
            command, cwd=tmp_path, env=environment(prefect_api, tmp_path),
            capture_output=True, text=True, timeout=240, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    (line,) = (line for line in lema("plan", extended).splitlines() if line.startswith(" noop_audit"))
    assert line.split()[2:] == ["miss", "≤2"]
    lema("run", extended)
    assert "miss" not in lema("plan", extended)
    (report,) = (tmp_path / "out" / "store" / "report").glob("*/report.md")
    assert "An audit looked at 2 corrections." in report.read_text()
