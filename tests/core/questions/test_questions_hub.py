"""A data set on the Hub: read from Parquet files, and a clear message where it cannot be had."""

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lema_core.errors import ConfigError, EndpointError
from lema_core.questions import QuestionsSpec, read_questions, source_fingerprint


def no_route():
    raise ConnectionError("no route to host")


@pytest.fixture
def local_hub(tmp_path, monkeypatch):
    folder = tmp_path / "datasets" / "openai" / "gsm8k@refs%2Fconvert%2Fparquet" / "main" / "train"
    folder.mkdir(parents=True)
    for part in range(2):
        rows = [{"question": f"What is {part} + {n}?", "answer": f"{part}+{n}\n#### {part + n}"} for n in range(3)]
        pq.write_table(pa.Table.from_pylist(rows), folder / f"000{part}.parquet")
    local = fsspec.filesystem("dir", path=str(tmp_path), target_protocol="file")
    monkeypatch.setattr("huggingface_hub.HfFileSystem", lambda: local)
    monkeypatch.setattr("huggingface_hub.HfApi", no_route)


def test_all_parquet_files_of_a_split_are_read_in_order(local_hub):
    questions = list(read_questions(QuestionsSpec(task="gsm8k")))
    assert [question.gold for question in questions] == ["0", "1", "2", "1", "2", "3"]
    assert questions[4].origin == "openai/gsm8k/main/train:5"


def test_a_split_that_is_not_there_is_named(local_hub):
    with pytest.raises(ConfigError, match="no Parquet files under main/test"):
        list(read_questions(QuestionsSpec(task="gsm8k", split="test")))
    with pytest.raises(ConfigError, match="has no train split"):
        list(read_questions(QuestionsSpec(task="asdiv")))


def test_an_unreachable_hub_is_an_endpoint_error_with_the_remedy(local_hub):
    with pytest.raises(EndpointError, match="set `path` to a local copy"):
        source_fingerprint(QuestionsSpec(task="gsm8k"))


def test_the_rows_are_read_at_the_commit_that_the_identity_names(local_hub, tmp_path):
    old = tmp_path / "datasets" / "openai" / "gsm8k@abc123" / "main" / "train"
    old.mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist([{"question": "What is 7 + 1?", "answer": "#### 8"}]), old / "0000.parquet")
    rows = list(read_questions(QuestionsSpec(task="gsm8k"), "hub:openai/gsm8k@abc123"))
    assert [row.gold for row in rows] == ["8"], "the branch has moved on since"


@pytest.mark.parametrize(
    "damage", [lambda data: data[:90], lambda data: data[:200] + bytes(90) + data[290:], lambda _: b""]
)
def test_damage_on_the_way_from_the_hub_is_one_error_of_ours(local_hub, tmp_path, damage):
    path = next(tmp_path.rglob("0001.parquet"))
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(EndpointError, match="could not be had"):
        list(read_questions(QuestionsSpec(task="gsm8k")))
