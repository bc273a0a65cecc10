"""Sources of questions: what they give, and how each bad one is refused before anything is paid."""

import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from lema_core.errors import ConfigError, DataError
from lema_core.questions import TASKS, FieldMapping, QuestionsSpec, identity, read_questions, source_fingerprint
from lema_core.records import Question, Rejection

GSM = {
    "question": "Ann has 2 bags with 3 nuts each and finds 4 nuts. How many nuts has she?",
    "answer": "The bags hold 2*3=<<2*3=6>>6 nuts.\nSo she has 6+4=<<6+4=10>>10 nuts.\n#### 10",
}


def write(folder: Path, rows: list[object], name: str = "questions.jsonl") -> str:
    path = folder / name
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return str(path)


def read(path: str, task: str = "numeric", **options: object) -> list[Question | Rejection]:
    return list(read_questions(QuestionsSpec(task=task, path=path, **options)))


def test_gsm8k_rows_become_numbered_rationales_without_marks(tmp_path):
    (question,) = read(write(tmp_path, [GSM]), "gsm8k")
    assert question.gold == "10"
    assert question.rationale == (
        "Step 1: The bags hold 2*3=6 nuts.\nStep 2: So she has 6+4=10 nuts.\nThe answer is 10."
    )
    assert question.origin == "questions.jsonl:1"


def test_a_mapping_reads_fields_of_any_name_and_depth(tmp_path):
    row = {"body": {"text": "How many?"}, "n": 72.0, "why": "40 + 32 = 72", "grade": 3}
    mapping = FieldMapping(question="body.text", gold="n", rationale="why", level="grade")
    (question,) = read(write(tmp_path, [row]), mapping=mapping)
    assert (question.text, question.gold, question.level) == ("How many?", "72", "3")
    assert question.rationale == "Step 1: 40 + 32 = 72\nThe answer is 72."


@pytest.mark.parametrize("gold", ["72", "1,000", "5.5", "3/4", "-3", "$12", 7, 2.5, 10**399])
def test_numeric_golds_that_parse(tmp_path, gold):
    (question,) = read(write(tmp_path, [{"question": "How many?", "answer": gold}]))
    assert question.gold == str(gold)


def test_a_choice_may_be_given_by_its_letter_or_its_text(tmp_path):
    rows = [
        {"question": "Which?", "answer": "b", "options": ["oak", "elm"]},
        {"question": "And which?", "answer": "Oak", "options": ["oak", "elm"]},
        {"question": "Which letter?", "answer": "B", "options": ["c", "d", "b"]},
    ]
    questions = read(write(tmp_path, rows), "choice", mapping=FieldMapping(candidates="options"))
    assert [question.gold for question in questions] == ["elm", "oak", "b"]


def test_parquet_json_and_gzip_give_what_jsonl_gives(tmp_path):
    rows = [{"question": f"What is {n} + 1?", "answer": str(n + 1)} for n in range(5)]
    texts = [question.text for question in read(write(tmp_path, rows))]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "q.parquet")
    (tmp_path / "q.json").write_text(json.dumps(rows))
    (tmp_path / "q.jsonl.gz").write_bytes(gzip.compress((tmp_path / "questions.jsonl").read_bytes()))
    for name in ("q.parquet", "q.json", "q.jsonl.gz"):
        assert [question.text for question in read(str(tmp_path / name))] == texts


def test_offset_and_limit_cut_the_rows(tmp_path):
    rows = [{"question": f"What is {n} + 1?", "answer": str(n + 1)} for n in range(9)]
    questions = read(write(tmp_path, rows), offset=3, limit=2)
    assert [question.gold for question in questions] == ["4", "5"]


def test_ids_come_from_content_not_from_place(tmp_path):
    rows = [{"question": f"What is {n} + 1?", "answer": str(n + 1)} for n in range(3)]
    first = {question.id for question in read(write(tmp_path, rows))}
    second = {question.id for question in read(write(tmp_path, rows[::-1], "other.jsonl"))}
    assert first == second
    assert len(first) == 3


BAD = {
    "malformed line": (['{"question": "a"'], "questions.jsonl:1 is not JSON"),
    "not an object": (["[1, 2]"], "questions.jsonl:1 holds a JSON list"),
    "missing field": (['{"question": "How many?", "result": "3"}'], "no field 'answer'; seen: question, result"),
    "empty file": ([""], "No question in"),
    "gold without a value": (['{"question": "How many?", "answer": "many"}'], "does not parse as numeric"),
    **{
        f"gold {gold}": ([json.dumps({"question": "How many?", "answer": gold})], "does not parse as numeric")
        for gold in ("3 dollars 50 cents", "not 5", "18; 19", "x=5, y=6", "1/0", "5 (or 6)")
    },
    "empty gold": (['{"question": "How many?", "answer": ""}'], "does not parse"),
    "gold of a wrong type": (['{"question": "How many?", "answer": [3]}'], "holds list"),
    "empty question": (['{"question": " ", "answer": "3"}'], "the question is empty"),
    "second line bad": (['{"question": "How many?", "answer": "3"}', "{"], "questions.jsonl:2"),
    "equal questions": (['{"question": "How many?", "answer": "3"}'] * 2, "questions.jsonl:2 and questions.jsonl:1"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_file_is_refused_with_its_place(tmp_path, case):
    lines, message = BAD[case]
    path = tmp_path / "questions.jsonl"
    path.write_text("\n".join(lines))
    with pytest.raises(DataError) as error:
        read(str(path))
    assert message in str(error.value)


def test_a_missing_file_and_an_unknown_kind_are_refused(tmp_path):
    with pytest.raises(DataError, match="No file at"):
        read(str(tmp_path / "nowhere.jsonl"))
    (tmp_path / "q.xls").write_text("x")
    with pytest.raises(DataError, match="of kind 'xls'"):
        read(str(tmp_path / "q.xls"))


def test_a_torn_compressed_file_is_refused(tmp_path):
    whole = gzip.compress(b'{"question": "1 + 1?", "answer": "#### 2"}' * 100)
    (tmp_path / "q.jsonl.gz").write_bytes(whole[:-12])
    with pytest.raises(DataError, match="cannot be read as JSON lines"):
        read(str(tmp_path / "q.jsonl.gz"))


def test_a_torn_parquet_file_is_refused(tmp_path):
    (tmp_path / "q.parquet").write_bytes(b"PAR1 and then nothing")
    with pytest.raises(DataError, match="cannot be read as Parquet"):
        read(str(tmp_path / "q.parquet"))


def test_a_task_format_names_the_missing_fields(tmp_path):
    with pytest.raises(DataError, match=r"no field answer, which the format of gsm8k needs; it has question"):
        read(write(tmp_path, [{"question": "How many?"}]), "gsm8k")
    with pytest.raises(DataError, match="no line `#### <gold>`"):
        read(write(tmp_path, [{"question": "How many?", "answer": "ten"}]), "gsm8k")


def test_two_rows_with_one_mapped_id_are_refused_with_both_places(tmp_path):
    rows = [{"question": "One?", "answer": "1", "id": "a"}, {"question": "Two?", "answer": "2", "id": "a"}]
    with pytest.raises(DataError, match=r"questions.jsonl:2 and questions.jsonl:1"):
        read(write(tmp_path, rows), mapping=FieldMapping(id="id"))


def test_another_id_does_not_make_an_equal_question_another(tmp_path):
    rows = [{"question": "One?", "answer": "5", "id": "a"}, {"question": "One?", "answer": "6", "id": "b"}]
    with pytest.raises(DataError, match=r"questions.jsonl:2 and questions.jsonl:1"):
        read(write(tmp_path, rows), mapping=FieldMapping(id="id"))


def test_equal_questions_are_rejected_rows_where_the_spec_says_so(tmp_path):
    rows = [{"question": "One?", "answer": "1"}] * 3
    questions = read(write(tmp_path, rows), on_duplicate="reject")
    assert [type(row).__name__ for row in questions] == ["Question", "Rejection", "Rejection"]
    assert {row.reason for row in questions[1:]} == {"duplicate_question"}
    assert len({row.id for row in questions}) == 3


def test_a_choice_that_is_none_of_the_candidates_is_refused(tmp_path):
    row = {"question": "Which?", "answer": "ash", "options": ["oak", "elm"]}
    with pytest.raises(DataError, match="none of the choices"):
        read(write(tmp_path, [row]), "choice", mapping=FieldMapping(candidates="options"))


def test_identity_follows_the_bytes_and_not_the_folder(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    here, there = (
        QuestionsSpec(task="numeric", path=write(tmp_path / name, [{"question": "One?", "answer": "1"}]))
        for name in ("a", "b")
    )
    assert identity(here) == identity(there)
    write(tmp_path / "b", [{"question": "One?", "answer": "2"}])
    assert identity(here) != identity(there)
    assert identity(here) != identity(here.model_copy(update={"limit": 1}))
    json.dumps(identity(here))


def test_an_unknown_task_or_option_is_refused():
    with pytest.raises(ConfigError, match="no task 'gsm9k'"):
        list(read_questions(QuestionsSpec(task="gsm9k")))
    with pytest.raises(ValidationError):
        QuestionsSpec(task="gsm8k", limt=3)
    with pytest.raises(ValidationError, match="one source"):
        QuestionsSpec(task="gsm8k", path="a.jsonl", hub="b/c")


def test_a_task_without_data_of_its_own_asks_for_a_path():
    with pytest.raises(ConfigError, match="Set `path`"):
        list(read_questions(QuestionsSpec(task="numeric")))


def test_every_task_has_a_prompt_set_and_a_way_to_its_data():
    from lema_core.prompts import names

    for task in TASKS.values():
        assert task.prompts in names()
        assert (task.shape == "choice") == (task.family == "choice")


def test_hub_names_the_commit_it_was_pinned_to_without_asking_the_network():
    spec = QuestionsSpec(task="gsm8k", hub_revision="abc123")
    assert source_fingerprint(spec) == "hub:openai/gsm8k@abc123"


@pytest.mark.parametrize("kind", ["jsonl", "json", "parquet", "jsonl.gz"])
@pytest.mark.parametrize("limit", [None, 3])
def test_a_source_that_changes_after_its_identity_was_made_gives_no_table(tmp_path, kind, limit):
    def put(rows: list[dict[str, str]]) -> None:
        text = json.dumps(rows) if kind == "json" else "".join(f"{json.dumps(row)}\n" for row in rows)
        if kind == "parquet":
            pq.write_table(pa.Table.from_pylist(rows), path)
        else:
            path.write_bytes(gzip.compress(text.encode()) if kind.endswith("gz") else text.encode())

    path, rows = tmp_path / f"q.{kind}", [{"question": f"What is {n} + 1?", "answer": str(n + 1)} for n in range(9)]
    put(rows)
    spec = QuestionsSpec(task="numeric", path=str(path), limit=limit)
    known = source_fingerprint(spec)
    assert len(list(read_questions(spec, known))) == (limit or 9)
    put([*rows, {"question": "And 7 + 7?", "answer": "14"}])
    with pytest.raises(DataError, match="changed while it was read"):
        list(read_questions(spec, known))


def test_a_source_that_grows_while_it_is_read_gives_no_table(tmp_path):
    path = Path(write(tmp_path, [{"question": f"What is {n} + 1?", "answer": str(n + 1)} for n in range(60_000)]))
    spec = QuestionsSpec(task="numeric", path=str(path))
    rows = read_questions(spec, source_fingerprint(spec))
    next(rows)
    with path.open("a") as file:
        file.write('{"question": "And 7 + 7?", "answer": "14"}\n')
    with pytest.raises(DataError, match="changed while it was read"):
        list(rows)


def test_a_remote_source_is_hashed_as_it_is_read():
    import fsspec

    fsspec.filesystem("memory").pipe_file("/q.jsonl", b'{"question": "1 + 1?", "answer": "2"}\n')
    spec = QuestionsSpec(task="numeric", path="memory://q.jsonl")
    known = source_fingerprint(spec)
    assert len(list(read_questions(spec, known))) == 1
    fsspec.filesystem("memory").pipe_file("/q.jsonl", b'{"question": "1 + 2?", "answer": "3"}\n')
    with pytest.raises(DataError, match="changed while it was read"):
        list(read_questions(spec, known))


@pytest.mark.parametrize(
    "path", ["s3://key:S3cret@b/q.jsonl", "https://h/q.jsonl?X-Amz-Signature=S3cret0", "nope://b/q.jsonl"]
)
def test_a_source_with_a_secret_or_of_no_known_kind_is_no_spec(path):
    with pytest.raises(ValidationError) as refused:
        QuestionsSpec(task="numeric", path=path)
    assert "S3cret" not in refused.value.errors()[0]["msg"]
