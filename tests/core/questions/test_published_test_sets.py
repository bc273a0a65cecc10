"""MATH-500, GSM-Plus and AIME by name, from small made-up files of their published forms."""

import json
from pathlib import Path

import pytest

from lema_core.questions import QuestionsSpec, detect_task, identity, read_questions
from lema_core.questions.tasks import TASKS
from lema_core.questions.tasks.task import HubDataset
from lema_core.records import Question, Rejection

MATH500 = {
    "problem": "What is $\\frac{1}{2}+\\frac{1}{4}$?", "solution": "It is $\\boxed{\\frac{3}{4}}$.",
    "answer": "\\frac{3}{4}", "subject": "Prealgebra", "level": 2, "unique_id": "test/prealgebra/1.json",
}  # fmt: skip
GSM_PLUS = {
    "question": "Ann has 3 pens and buys 4.5 more. How many?", "solution": "3 + 4.5 = 7.5", "answer": "7.5",
    "perturbation_type": "numerical substitution", "seed_question": "Ann has 3 pens and buys 4 more. How many?",
    "seed_solution": "3 + 4 = 7\n#### 7", "seed_answer": "7",
}  # fmt: skip
AIME = [
    {
        "id": 60,
        "problem": "Find it.",
        "solution": "So it is $\\boxed{033}$.",
        "answer": "033",
        "url": "u",
        "year": "2024",
    },
    {"ID": "2024-I-1", "Problem": "Find it.", "Solution": "It is 33.", "Answer": 33},
    {"question": "Find it.", "answer": "33"},
    {"problem": "Find it.", "solution": "\\boxed{33}"},
]


def read(tmp_path: Path, task: str, *rows: dict) -> list[Question | Rejection]:
    file = tmp_path / f"{task}.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return list(read_questions(QuestionsSpec(task=task, path=str(file))))


def test_math_500_is_read_and_known_by_its_fields(tmp_path):
    (question,) = read(tmp_path, "math500", MATH500)
    assert (question.gold, question.level, question.subject) == ("\\frac{3}{4}", "2", "Prealgebra")
    assert question.rationale.endswith("The answer is $\\frac{3}{4}$.")
    assert detect_task(str(tmp_path / "math500.jsonl")) == "math500", "it has MATH's fields and more"


@pytest.mark.parametrize("between", ["- OR -", "--OR--", "  -OR-", "\u2013 OR \u2013"])
@pytest.mark.parametrize("task", ["math500", "math"])
def test_of_two_solutions_of_a_math_problem_the_first_is_the_rationale(tmp_path, task, between):
    first, second = "Half of 3 is $\\frac{3}{2}$.\nOR gates are no end.", "So $\\boxed{\\frac{3}{4}}$."
    row = MATH500 | {"solution": f"{first}\n\n{between}\n\n{second}"}
    (question,) = read(tmp_path, task, row)
    assert question.gold == "\\frac{3}{4}"
    assert question.rationale.endswith("OR gates are no end.\nThe answer is $\\frac{3}{4}$.")
    (alone,) = read(tmp_path, task, row | {"solution": f"{between}\n{second}"})
    assert "boxed" in alone.rationale, "nothing stands before it"


def test_gsm_plus_leaves_out_what_cannot_be_answered(tmp_path):
    lost = GSM_PLUS | {
        "question": "Ann buys pens. How many?",
        "answer": "None",
        "perturbation_type": "critical thinking",
    }
    odd = GSM_PLUS | {"question": "How many of which?", "answer": "several"}
    rows = read(tmp_path, "gsm_plus", GSM_PLUS, lost, odd)
    assert (rows[0].gold, rows[0].subject) == ("7.5", "numerical substitution")
    assert [row.reason for row in rows[1:]] == ["no_answer", "unusable_gold"], "one odd row does not stop the set"
    assert detect_task(str(tmp_path / "gsm_plus.jsonl")) == "gsm_plus"


@pytest.mark.parametrize("row", AIME)
def test_aime_is_read_in_every_spelling_of_the_hub(tmp_path, row):
    (question,) = read(tmp_path, "aime24", row)
    assert (question.text, question.gold) == ("Find it.", "33")


def test_the_sets_come_from_the_hub_by_name_and_its_split_can_be_named():
    assert {TASKS[name].hub for name in ("math500", "gsm_plus_mini")} == {
        HubDataset("HuggingFaceH4/MATH-500", train=None), HubDataset("qintongli/GSM-Plus", train=None, test="testmini"),
    }  # fmt: skip
    assert TASKS["aime24"].hub.test == "train", "the data set has one part"


def test_a_hub_split_that_is_not_set_names_nothing_anew(tmp_path):
    read(tmp_path, "math500", MATH500)
    spec = QuestionsSpec(task="math500", path=str(tmp_path / "math500.jsonl"))
    assert "hub_split" not in identity(spec)
    assert identity(spec.model_copy(update={"hub_split": "test"}))["hub_split"] == "test"
