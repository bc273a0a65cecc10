"""docs/tasks.md stays true: its run-file pieces are valid, its Python runs, its tables name what exists."""

import re
import tomllib
from pathlib import Path

import pytest

from lema_core import mixture, prompts
from lema_core.questions import TASKS, QuestionsSpec, Task

PAGE = (Path(__file__).resolve().parents[3] / "docs" / "tasks.md").read_text(encoding="utf-8")


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


@pytest.mark.parametrize("text", blocks("toml"))
def test_every_run_file_piece_is_a_valid_spec(text):
    QuestionsSpec.model_validate(tomllib.loads(text)["questions"])


def test_the_example_runs(capsys):
    exec(compile(blocks("python")[0], "tasks.md", "exec"), {})  # noqa: S102  # our own page
    assert "Counter({'cot': 100})" in capsys.readouterr().out


def test_the_added_task_reads_its_rows():
    names = {}
    exec(compile(blocks("python")[1], "tasks.md", "exec"), names)  # noqa: S102  # our own page
    task = names["TASK"]
    assert isinstance(task, Task)
    draft = task.draft({"q": "What is 5 + 7?", "result": 12, "how": "5 + 7 = 12"})
    assert draft.rationale == "Step 1: 5 + 7 = 12\nThe answer is 12."


def test_the_page_names_every_task_arm_and_prompt_set():
    for name in (*TASKS, *mixture.ARMS, *prompts.names()):
        assert f"`{name}`" in PAGE, name
