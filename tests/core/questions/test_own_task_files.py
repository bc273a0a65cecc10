"""Tasks of one's own: files and entry points that can be used, and a clear error for each that cannot."""

import os
import shutil
import subprocess
import sys
import textwrap
from importlib import metadata
from pathlib import Path

import pytest

from lema_core import prompts
from lema_core.errors import ConfigError, DataError
from lema_core.pipeline import Pipeline
from lema_core.questions import QuestionsSpec, get_task, identity, read_questions
from lema_core.run.files import read_run_file
from lema_core.stages.stage import Stage

SHIPPED = Path(__file__).resolve().parents[3] / "deployments" / "tasks"
TASK = """
from lema_core import FieldMapping, Score, Task

def score(question, gold, text, context):
    return Score("right")

TASK = Task(name="mine", prompts="own.toml", scorer=score, train="rows.jsonl", mapping=FieldMapping(gold="g"))
NUMBERS = Task(name="numbers", family="numeric", prompts="gsm8k", train="rows.jsonl", mapping=FieldMapping(gold="g"))
"""
PROMPTS = """
[texts]
rubric = "be fair"
[path]
instruction = "Solve it."
examples = []
[correction]
instruction = "Correct it."
examples = []
"""
RUN = """
name = "own"
[questions]
task = "tasks/mine.py"
[test_questions]
task = "tasks/mine.py"
split = "test"
path = "{folder}/tasks/rows.jsonl"
limit = 1
[[students]]
endpoint = "student"
[corrections]
endpoint = "student"
[evaluation]
base = "student"
[mixture]
[endpoints.student]
model = "m"
base_url = "http://127.0.0.1:1"
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Write a task with its prompts and questions, and a run file beside its folder."""
    tasks = tmp_path / "tasks"
    tasks.mkdir()
    (tasks / "mine.py").write_text(TASK)
    (tasks / "own.toml").write_text(PROMPTS)
    (tasks / "rows.jsonl").write_text('{"question": "one", "g": "1"}\n{"question": "two", "g": "2"}\n')
    (tmp_path / "run.toml").write_text(RUN.replace("{folder}", str(tmp_path)))
    return tasks


def stages(folder: Path, *settings: str) -> dict[str, Stage]:
    run = read_run_file(folder.parent / "run.toml", settings)
    return {stage.title: stage for stage in Pipeline(run, str(folder.parent / "root")).stages()}


def names(folder: Path) -> dict[str, str]:
    return {title: stage.ref.fingerprint for title, stage in stages(folder).items()}


def changed(folder: Path, file: str, old: str, new: str) -> set[str]:
    """Return which artifacts get another name by an edit."""
    before = names(folder)
    text = (folder / file).read_text()
    assert old in text
    (folder / file).write_text(text.replace(old, new))
    after = names(folder)
    return {title for title in before if before[title] != after[title]}


JUDGED = {"verdicts", "mistakes", "corrections", "mixture: cot", "mixture: lema", "evaluation: base"}


def test_a_task_brings_its_questions_mapping_and_prompts(folder):
    task = get_task(str(folder / "mine.py"))
    assert [row.gold for row in read_questions(QuestionsSpec(task=str(folder / "mine.py")))] == ["1", "2"]
    assert prompts.load(task.prompts).path.instruction == "Solve it."
    assert get_task(f"{folder / 'mine.py'}:NUMBERS").family == "numeric"
    assert get_task("mine").reference == task.reference, "rows name it by its name"


def test_the_run_file_has_the_last_word_on_the_source(folder):
    (folder / "others.jsonl").write_text('{"q": "three", "a": "3"}\n')
    spec = QuestionsSpec.model_validate({
        "task": str(folder / "mine.py"), "path": str(folder / "others.jsonl"), "mapping": {"question": "q", "gold": "a"}
    })  # fmt: skip
    assert [row.gold for row in read_questions(spec)] == ["3"]
    with pytest.raises(ConfigError, match="names no file of test questions"):
        list(read_questions(QuestionsSpec(task=str(folder / "mine.py"), split="test")))


def test_an_edited_scorer_judges_again_and_samples_nothing_again(folder):
    assert changed(folder, "mine.py", 'Score("right")', 'Score("wrong")') == JUDGED


def test_edited_texts_judge_again_and_an_edited_prompt_asks_again(folder):
    assert changed(folder, "own.toml", "be fair", "be strict") == JUDGED
    assert changed(folder, "own.toml", "Correct it.", "Correct this.") >= {"corrections"}
    assert "reasoning_paths" not in changed(folder, "own.toml", "Correct this.", "Correct that.")
    assert "questions" not in changed(folder, "own.toml", "Solve it.", "Solve this.")
    assert "reasoning_paths" in changed(folder, "own.toml", "Solve this.", "Solve that.")


def test_other_questions_are_other_questions_and_a_moved_task_is_the_same(folder):
    assert changed(folder, "rows.jsonl", "two", "three") >= {"questions", "reasoning_paths", "verdicts"}
    before = names(folder)
    moved = folder.parent / "elsewhere"
    shutil.move(folder.parent / "tasks", moved)
    text = (folder.parent / "run.toml").read_text()
    (folder.parent / "run.toml").write_text(text.replace("tasks/", "elsewhere/"))
    assert names(folder) == before


def test_questions_made_by_code_are_named_by_what_they_are(folder):
    file = folder / "drafted.py"
    file.write_text(
        textwrap.dedent("""
        from lema_core import Task
        from lema_core.questions.tasks.task import Draft

        def draft(row):
            return Draft(text=row["question"], gold=row["g"])

        TASK = Task(name="drafted", family="numeric", prompts="gsm8k", train="rows.jsonl", draft=draft)
        """)
    )
    spec = QuestionsSpec(task=str(file))
    before = identity(spec)
    file.write_text(file.read_text().replace("def draft(row):\n", "def draft(row):\n    # the same\n"))
    assert identity(spec) == before
    file.write_text(file.read_text().replace('gold=row["g"]', 'gold=row["g"] + "0"'))
    assert identity(spec)["rows"] != before["rows"]


def test_a_file_that_is_used_belongs_to_the_scorer(folder):
    (folder / "helper.py").write_text("SHARE = 1\n")
    text = (folder / "mine.py").read_text().replace("scorer=score, train", 'scorer=score, uses=("helper.py",), train')
    (folder / "mine.py").write_text("import helper\n" + text)
    assert changed(folder, "helper.py", "1", "2") == JUDGED


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("def score(", "def score((", "mine.py:4: "),
        ('return Score("right")', "return", None),
        ("TASK = Task", "OTHER = Task", "it has OTHER, NUMBERS"),
        ('name="mine"', 'name="gsm8k"', "that of a bundled task"),
        ('name="mine"', 'name="My Task"', "lower-case letters"),
        ("scorer=score, ", "", "neither a family nor a scorer"),
        ("def score(question, gold, text, context)", "def score(question, gold)", "cannot be called as score"),
        ("def score(question, gold, text, context)", "def score(*, a)", "cannot be called as score"),
        ('prompts="own.toml"', 'prompts="none.toml"', "none.toml"),
        ('prompts="own.toml"', 'prompts="none"', "expected a .toml file beside the task, or one of"),
        ("from lema_core import FieldMapping", "from lema_core import FieldMaping, FieldMapping", "FieldMaping"),
        ("TASK = Task", "raise SystemExit('stop')\nTASK = Task", "SystemExit: stop"),
        ("scorer=score, ", "scorer=score, colour=1, ", "colour"),
        ("scorer=score, ", 'scorer=score, shape="round", ', "expected steps, choice or whole"),
        ("scorer=score, ", 'scorer=score, family="number", ', "expected numeric, latex"),
        ("scorer=score, ", 'scorer=score, uses=("gone.py",), ', "gone.py"),
        ("scorer=score, ", 'scorer=score, judge=Judge(endpoint="judge"), ', "async def"),
        ("scorer=score, ", 'family="text", judge=Judge(endpoint="judge"), ', "no scorer"),
        ("scorer=score, ", 'scorer=score, judge=Judge(endpoint="judge", requests=0), ', "at least 1"),
    ],
)
def test_what_is_wrong_with_a_task_is_said_before_anything_is_asked(folder, old, new, said):
    text = (folder / "mine.py").read_text().replace("import FieldMapping, Score", "import FieldMapping, Judge, Score")
    assert old in text
    (folder / "mine.py").write_text(text.replace(old, new))
    if said is None:
        assert names(folder)  # what a scorer returns is seen when it runs: it costs a row
        return
    with pytest.raises(ConfigError) as error:
        names(folder)
    assert said in str(error.value)
    assert str(folder) in str(error.value), "it names the file"


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("[path]", "[path", "cannot be read as TOML"),
        ("[path]", "[paths]", "malformed at path"),
        ('instruction = "Correct it."', "", "malformed at correction.instruction"),
        ("[correction]", "colour = 1\n[correction]", "malformed at path.colour"),
    ],
)
def test_what_is_wrong_with_a_prompt_set_is_said(folder, old, new, said):
    (folder / "own.toml").write_text(PROMPTS.replace(old, new))
    with pytest.raises(ConfigError, match=said):
        names(folder)


def test_a_run_that_asks_for_what_a_task_cannot_do_is_refused(folder):
    with pytest.raises(ConfigError, match="two of its answers cannot be compared"):
        stages(folder, "evolution.draws=1", "evolution.endpoint=student")
    text = (folder / "mine.py").read_text()
    (folder / "mine.py").write_text(text.replace("scorer=score,", 'scorer=score, family="text",'))
    with pytest.raises(ConfigError, match=r"no part \[evolution\]"):
        stages(folder, "evolution.draws=1", "evolution.endpoint=student")
    text = (folder / "mine.py").read_text().replace("def score", "async def score")
    text = text.replace("import FieldMapping", "import FieldMapping, Judge")
    (folder / "mine.py").write_text(text.replace("scorer=score,", 'scorer=score, judge=Judge(endpoint="judge"),'))
    with pytest.raises(ConfigError, match=r"no \[endpoints.judge\]"):
        stages(folder)


def test_samples_of_a_task_with_a_scorer_are_planned_for_pass_at_k(folder):
    assert stages(folder, "evaluation.samples=4")["votes: base"].samples == 4


def test_two_tasks_of_one_name_are_refused(folder):
    (folder / "other.py").write_text(TASK + "\n")
    with pytest.raises(ConfigError, match="two tasks of the run are called 'mine'"):
        stages(folder, "test_questions.task=tasks/other.py")


@pytest.mark.parametrize("name", ["tasks/none.py", "https://example.org/task.py", "no_such_task", "tasks/mine.py:x y"])
def test_a_reference_to_nothing_is_refused(folder, name):
    with pytest.raises((ConfigError, DataError), match="task"):
        stages(folder, f"questions.task={name}")


def test_reading_a_run_file_runs_no_code(folder):
    (folder / "mine.py").write_text(f"open({str(folder / 'ran')!r}, 'w')\n" + TASK)
    read_run_file(folder.parent / "run.toml")
    assert not (folder / "ran").exists()
    names(folder)
    assert (folder / "ran").exists()


def test_an_installed_package_offers_a_task_by_its_entry_point(folder, monkeypatch):
    package = folder / "site"
    package.mkdir()
    for file in ("own.toml", "rows.jsonl"):
        shutil.copy(folder / file, package / file)
    (package / "packaged_task.py").write_text(TASK.replace('name="mine"', 'name="packaged"'))
    info = package / "packaged-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: packaged\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[lema.tasks]\nfrom_a_package = packaged_task:TASK\n")
    monkeypatch.syspath_prepend(str(package))
    assert metadata.entry_points(group="lema.tasks")
    made = stages(folder, "questions.task=from_a_package")
    assert made["verdicts"].task.startswith("from_a_package#")
    assert [row.task for row in read_questions(QuestionsSpec(task="from_a_package"))] == ["packaged"] * 2


def test_the_shipped_tasks_are_short_and_can_be_read():
    for name, count in (("code_task", 8), ("judged_task", 6)):
        file = SHIPPED / f"{name}.py"
        assert len(file.read_text().splitlines()) <= 40
        assert len(list(read_questions(QuestionsSpec(task=str(file))))) == count
        assert list(read_questions(QuestionsSpec(task=str(file), split="test")))


@pytest.mark.parametrize("name", ["code_task", "judged_task"])
def test_the_worked_corrections_of_the_shipped_tasks_are_read(name):
    from lema_core.corrections import parse_correction
    from lema_core.corrections.parsing import ParsedCorrection

    task = get_task(str(SHIPPED / f"{name}.py"))
    for example in prompts.load(task.prompts).correction.examples:
        found = parse_correction(example.correction, task.shape)
        assert isinstance(found, ParsedCorrection), found
        assert found.steps
        if name == "code_task":
            assert found.steps[0].endswith("```")


def test_what_lies_beside_a_task_hides_no_package_that_is_installed_in_editable_form(folder, tmp_path):
    """Such a package has a finder that is asked after all of ``sys.path``."""
    for name in ("tasks", "flows"):
        (folder / name).mkdir()
    (folder / "beside.py").write_text("FOUND = 1\n")
    (folder / "mine.py").write_text("import beside\n" + TASK)
    root = str(SHIPPED.parents[1])
    program = f"""
import sys
from importlib.machinery import PathFinder

class Editable:
    @staticmethod
    def find_spec(name, path=None, target=None):
        return PathFinder.find_spec(name, [{root!r}]) if path is None else None

sys.path = [place for place in sys.path if place != {root!r}]
sys.meta_path.append(Editable)
from lema_core.questions import get_task
get_task({str(folder / "mine.py")!r})
import flows, tasks
print(flows.__file__, tasks.__file__)
"""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [sys.executable, "-P", "-c", program]
    done = subprocess.run(command, cwd=tmp_path / "tasks", env=environment, capture_output=True, text=True, check=False)
    assert done.stdout.split() == [f"{root}/flows/__init__.py", f"{root}/tasks/__init__.py"], done.stderr
