"""LeMa's published evaluation files: read as they are, sent word for word."""

import json

import pytest

from lema_core.artifacts import ArtifactRef
from lema_core.errors import ConfigError, DataError
from lema_core.llm.endpoints import EndpointSpec
from lema_core.questions import QuestionsSpec, detect_task, read_questions
from lema_core.reasoning_paths import path_messages
from lema_core.stages.evaluation import Evaluation, EvaluationSpec

MODEL = EndpointSpec(model="m", base_url="http://127.0.0.1:1/v1")
WORKED = {
    "prompt": "Please solve the following math problem.\nQuestion: Ann has 3 pens and buys 4. How many pens?\n"
    "Answer: Let's think step by step.\n",
    "completion": "She has 3 + 4 = 7 pens. The answer is 7.",
}
CHOICE = {
    "prompt": "Please answer.\nQuestion: Where is milk kept?\nCandidate Answers: fridge, oven.\nAnswer:\n",
    "answer": "fridge",
    "candidates": ["fridge", "oven"],
}


def written(folder, *rows):
    file = folder / "test.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(file)


@pytest.mark.parametrize(
    ("row", "task", "gold"), [(WORKED, "lema_official", "7"), (CHOICE, "lema_official_csqa", "fridge")]
)
def test_a_row_is_sent_word_for_word_whatever_the_prompt_kind(tmp_path, row, task, gold):
    path = written(tmp_path, row)
    assert detect_task(path) == task
    (question,) = read_questions(QuestionsSpec(task=task, path=path))
    assert question.gold == gold
    for kind in ("few_shot", "zero_shot"):
        assert path_messages(question, kind) == ({"role": "user", "content": row["prompt"]},)


def test_our_own_prompts_are_no_part_of_the_identity_of_what_they_do_not_ask(monkeypatch):
    def fingerprint(task):
        return Evaluation(
            EvaluationSpec(), "base", MODEL, "few_shot", task, ArtifactRef("questions", "q")
        ).ref.fingerprint

    before = {task: fingerprint(task) for task in ("lema_official", "gsm8k")}
    monkeypatch.setattr("lema_core.reasoning_paths.fingerprint", lambda *_: "another text")
    assert fingerprint("lema_official") == before["lema_official"]
    assert fingerprint("gsm8k") != before["gsm8k"]


def test_a_completion_without_its_answer_is_told_with_its_place(tmp_path):
    path = written(tmp_path, WORKED, WORKED | {"prompt": "another", "completion": "She has seven."})
    with pytest.raises(DataError, match=r"test\.jsonl:2.*The answer is <gold>"):
        list(read_questions(QuestionsSpec(task="lema_official", path=path)))


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"question": "1 + 1?", "answer": "2"}, "the format of no published task"),
        ({"question": "1 + 1?", "answer": "1 + 1 = 2\n#### 2", **WORKED}, "the formats of gsm8k, lema_official"),
    ],
)
def test_a_file_that_could_be_anything_asks_for_the_task(tmp_path, row, said):
    with pytest.raises(ConfigError, match=said):
        detect_task(written(tmp_path, row))


@pytest.mark.shared
@pytest.mark.parametrize(
    ("file", "task", "rows"),
    [
        ("lema_official/gsm8k_test.jsonl", "lema_official", 1319),
        ("lema_official/csqa_dev.jsonl", "lema_official_csqa", 1221),
        ("gsm8k/test.jsonl", "gsm8k", 1319),
        ("csqa/dev_rand_split.jsonl", "csqa", 1221),
        ("math/test.jsonl", "math", 5000),
        ("svamp/SVAMP.json", "svamp", 1000),
    ],
)
def test_published_files_name_their_task_themselves(shared, file, task, rows):
    path = str(shared / file)
    assert detect_task(path) == task
    assert sum(1 for _ in read_questions(QuestionsSpec(task=task, path=path))) == rows


@pytest.mark.shared
def test_the_published_gold_answers_are_those_of_the_original_test_set(shared):
    official = read_questions(QuestionsSpec(task="lema_official", path=str(shared / "lema_official/gsm8k_test.jsonl")))
    original = read_questions(QuestionsSpec(task="gsm8k", path=str(shared / "gsm8k/test.jsonl")))
    pairs = [(a.gold.replace(",", ""), b.gold.replace(",", "")) for a, b in zip(official, original, strict=True)]
    assert all(float(a) == float(b) for a, b in pairs)
