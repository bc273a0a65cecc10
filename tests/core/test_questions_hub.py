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
