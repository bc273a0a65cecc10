"""Each arm's rows and tokens counted from Parquet by an independent query: duckdb knows nothing of our views."""

from collections.abc import Iterator
from pathlib import Path

import duckdb
import pyarrow.parquet as pq
import pytest
from rows import correction_of, judged_path

from lema_core.artifacts import rows_from_batch, table_of
from lema_core.mixture import MixtureRules, RoundData, build_arm, get_arm
from lema_core.questions import QuestionsSpec, read_questions
from lema_core.records import Correction, Example, JudgedPath, Question

QUESTIONS = list(read_questions(QuestionsSpec(task="arithmetic", limit=80)))
PER_QUESTION = 7


ARM_QUERY = r"""
    with sized as (
        -- A token is what count_words counts: a run of word signs, or one sign that is neither one nor white space.
        -- Only targets count: the paper's 120 a row have no room for questions.
        select kind, len(regexp_extract_all(output, '\w+|[^\w\s]')) n
        from read_parquet(?)
    )
    select count(*), sum(n), max(n), count(*) filter (kind = 'correction') from sized
"""


def ask(query: str, file: Path) -> tuple:
    return duckdb.connect().execute(query, [str(file)]).fetchall()[0]


def judged(question: Question, index: int) -> JudgedPath:
    right = index < 6
    answer = question.gold if right else "77"
    text = question.rationale.replace("has", f"has, in telling {index},").replace(
        f"is {question.gold}.", f"is {answer}."
    )
    return judged_path(question, right=right, id=f"path-{question.id}-{index}", sample_index=index, text=text)


def corrected(question: Question) -> Correction:
    steps = question.rationale.splitlines()
    return correction_of(
        question,
        id=f"correction-{question.id}",
        path_id=f"path-{question.id}-6",
        corrector="teacher",
        original=judged(question, 6).text,
        explanation="The last step is right, but another answer is given.",
        correct_solution="\n".join(steps[-2:]).replace("has", "in the end has"),
        spliced=question.rationale.replace("has", "in the end has"),
    )


@pytest.fixture(scope="module")
def pool_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pool")
    paths = [judged(question, index) for question in QUESTIONS for index in range(PER_QUESTION)]
    corrections = [corrected(question) for question in QUESTIONS[:33]]
    for name, rows, record in (
        ("questions", QUESTIONS, Question),
        ("paths", paths, JudgedPath),
        ("corrections", corrections, Correction),
    ):
        pq.write_table(table_of(rows, record), folder / f"{name}.parquet")
    return folder


@pytest.fixture(scope="module")
def counts(pool_folder):
    def read(name, record) -> Iterator:
        for batch in pq.ParquetFile(pool_folder / f"{name}.parquet").iter_batches():
            yield from rows_from_batch(batch, record)

    source = RoundData(
        questions=lambda: read("questions", Question),
        paths=lambda: read("paths", JudgedPath),
        corrections=lambda: read("corrections", Correction),
    )
    made = {}

    def count(arm):
        if arm not in made:
            rows = [row for row in build_arm(get_arm(arm), (source,), MixtureRules(seed=4)) if isinstance(row, Example)]
            pq.write_table(table_of(rows, Example), pool_folder / f"arm-{arm}.parquet")
            made[arm] = ask(ARM_QUERY, pool_folder / f"arm-{arm}.parquet")
        return made[arm]

    return count


def test_cot_is_the_rationales_and_four_right_paths_a_question(pool_folder, counts):
    (rationales,) = ask(
        "select count(*) from read_parquet(?) where rationale is not null", pool_folder / "questions.parquet"
    )
    (paths,) = ask(
        """select sum(least(n, 4)) from
           (select count(*) n from read_parquet(?) where verdict = 'right' group by question_id)""",
        pool_folder / "paths.parquet",
    )
    assert counts("cot")[0] == rationales + paths


@pytest.mark.parametrize("arm", ["lema", "without_step", "without_explanation", "without_solution"])
def test_the_corrections_are_all_in_the_arm(pool_folder, counts, arm):
    (corrections,) = ask("select count(*) from read_parquet(?)", pool_folder / "corrections.parquet")
    rows, tokens, _, kinds = counts(arm)
    assert kinds == corrections
    assert rows == counts("cot")[0] + corrections
    assert counts("cot")[1] < tokens <= counts("lema")[1] + (0 if arm == "lema" else -corrections)


def test_the_size_matched_arms_have_the_other_arms_rows(counts):
    assert counts("lema_same_size")[0] == counts("cot")[0]
    assert counts("lema_same_size")[3] == counts("lema")[3]
    assert counts("cot_corrected")[0] == counts("lema")[0]
    assert counts("cot_corrected")[3] == 0


@pytest.mark.parametrize(("arm", "other"), [("cot_same_tokens", "lema"), ("lema_same_tokens", "cot")])
def test_the_token_matched_arms_have_the_other_arms_tokens_to_within_one_example(counts, arm, other):
    _, tokens, longest, _ = counts(arm)
    assert counts(other)[1] - longest < tokens <= counts(other)[1]
