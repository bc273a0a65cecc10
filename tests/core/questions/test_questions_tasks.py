"""The paper's tasks on their real data: row counts, golds that judge their own rationales right."""

from collections import Counter
from pathlib import Path

import pytest

from lema_core.answers import judge, match
from lema_core.questions import QuestionsSpec, get_task, read_questions
from lema_core.questions.tasks.published import boxed_gold
from lema_core.records import Question

DATA = Path(__file__).resolve().parents[3] / ".." / "shared" / "data"
shared = pytest.mark.shared
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="the real data folder is not beside the project")

COUNTS = {
    ("gsm8k", "gsm8k/train.jsonl"): (7473, 0),
    ("gsm8k", "gsm8k/test.jsonl"): (1319, 0),
    ("math", "math/test.jsonl"): (5000, 0),
    ("csqa", "csqa/train_rand_split.jsonl"): (9741, 0),
    ("csqa", "csqa/dev_rand_split.jsonl"): (1221, 0),
    ("svamp", "svamp/SVAMP.json"): (1000, 0),
    ("asdiv", "asdiv/ASDiv.xml"): (2084, 221),
}


@shared
@needs_data
@pytest.mark.parametrize(("task", "file"), COUNTS, ids=str)
def test_a_published_set_loads_with_the_papers_row_count(task, file):
    rows = list(read_questions(QuestionsSpec(task=task, path=str(DATA / file))))
    questions = [row for row in rows if isinstance(row, Question)]
    rejected = Counter(row.reason for row in rows if not isinstance(row, Question))
    assert (len(questions), rejected.total()) == COUNTS[task, file]
    assert set(rejected) <= {"not_numeric"}
    assert len({question.id for question in questions}) == len(questions)
    family = get_task(task).family
    for question in questions:
        # Gold against itself: a set whose golds the matcher does not know would judge every path wrong.
        assert match(question.gold, question.gold, family, question.candidates).outcome == "equal"
        if question.rationale is not None:
            assert judge(question.rationale, question.gold, family).verdict == "right", question.origin
            assert question.rationale.startswith("Step 1: ")


@shared
@needs_data
def test_csqa_has_five_candidates_and_its_gold_is_one():
    rows = read_questions(QuestionsSpec(task="csqa", path=str(DATA / "csqa/dev_rand_split.jsonl")))
    assert all(len(row.candidates) == 5 and row.gold in row.candidates for row in rows)


@pytest.mark.parametrize(
    ("text", "gold"),
    [
        (r"so $\boxed{5}$.", "5"),
        (r"$\boxed{\frac{1}{2}}$ and not $\boxed{\sqrt{\frac{3}{4}}}$", r"\sqrt{\frac{3}{4}}"),
        (r"we get $\boxed 7$ in the end", "7"),
        (r"\fbox{x}", "x"),
        (r"$\boxed{\left\{x:x>0\right.}$", r"\left\{x:x>0\right."),
        (r"the answers are $\boxed{-2}$ and $\boxed{1}$.", "-2, 1"),
        (r"$x$ must be $\boxed{3}$ or $\boxed{\frac{2}{5}}$.", r"3, \frac{2}{5}"),
        (r"This yields $\boxed{x+11}$ or $\boxed{11+x}$.", "11+x"),
        (r"$d = \boxed{15\frac{39}{40}},$ or $\boxed{\frac{639}{40}}$ inches.", r"\frac{639}{40}"),
        (r"$\boxed{44}\pmod{83}$. We check: $17\cdot 44 = 748$, so our answer is correct.", "44"),
        (r"\boxed{never closed", None),
        ("nothing", None),
    ],
)
def test_the_last_box_is_the_gold(text, gold):
    assert boxed_gold(text) == gold


def test_one_of_several_answers_is_the_last_box():
    solution = r"The foci are $\boxed{(10,0)}$ and $\boxed{(0,0)}$."
    assert boxed_gold(solution, "Enter only one of the foci, not both.") == "(0,0)"
    assert boxed_gold(solution, "Enter the foci.") == "(10,0), (0,0)"


def test_csqa_reads_the_hubs_flat_rows_like_the_published_ones():
    draft = get_task("csqa").draft
    flat = {
        "question": "Where?",
        "choices": {"label": ["A", "B"], "text": ["here", "there"]},
        "answerKey": "B",
    }
    nested = {
        "question": {
            "stem": "Where?",
            "choices": [{"label": "A", "text": "here"}, {"label": "B", "text": "there"}],
        },
        "answerKey": "B",
    }
    assert draft(flat) == draft(nested)
    assert draft(flat).gold == "there"


def test_svamp_joins_body_and_question_with_one_full_stop():
    draft = get_task("svamp").draft
    row = {"Body": "Dan had $ 3 left", "Question": "How much?", "Answer": 3.0, "Type": "Addition"}
    assert draft(row).text == "Dan had $ 3 left. How much?"
    assert draft(row | {"Body": "Dan had 3."}).text == "Dan had 3. How much?"
    assert draft(row | {"Answer": 2.5}).gold == "2.5"
    assert draft(row | {"Answer": 1234567.0}).gold == "1234567"


@pytest.mark.parametrize(
    ("answer", "gold"),
    [("9 (apples)", "9"), ("2.5 (cups of flour)", "2.5"), ("48", "48")],
)
def test_asdiv_takes_one_plain_number(answer, gold):
    row = {"ID": "1", "Body": "b", "Question": "q", "Answer": answer}
    assert get_task("asdiv").draft(row).gold == gold


@pytest.mark.parametrize("answer", ["5 (red); 3 (blue)", "12:30", "1/2", "Yes", "6th", "7 (a); 8 (b); 9 (c)", ""])
def test_asdiv_leaves_the_rest_out_with_a_reason(answer):
    row = {"ID": "1", "Body": "b", "Question": "q", "Answer": answer}
    assert get_task("asdiv").draft(row).reason == "not_numeric"


def test_the_added_task_generates_disjoint_parts():
    pytest.importorskip("reasoning_gym")

    def texts(split):
        rows = read_questions(QuestionsSpec(task="gsm_symbolic", limit=60, split=split))
        return {row.text for row in rows if isinstance(row, Question)}

    assert texts("train") == texts("train")
    assert not texts("train") & texts("test")
