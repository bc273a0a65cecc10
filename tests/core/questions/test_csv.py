"""Tables of text as sources: CSV, TSV, packed files."""

import gzip
from pathlib import Path

import pyarrow as pa
import pytest

from lema_core.errors import DataError
from lema_core.questions import FieldMapping, QuestionsSpec, read_questions
from lema_core.questions.sources import read_rows, source_sha256
from lema_core.records import Question

TEXT = 'prompt,answer\r\n"How many, in all?\nSay it.",12\r\n"She said ""two"".",2\r\n'


def packed(folder: Path, name: str, data: bytes) -> str:
    path = folder / name
    if name.endswith(".gz"):
        data = gzip.compress(data)
    elif name.endswith(".zst"):
        data = pa.compress(data, codec="zstd", asbytes=True)
    path.write_bytes(data)
    return str(path)


@pytest.mark.parametrize("name", ["q.csv", "q.csv.gz", "q.csv.zst", "q.CSV"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"], ids=["plain", "byte order mark"])
def test_quotes_line_breaks_and_marks(tmp_path: Path, name: str, mark: bytes) -> None:
    path = packed(tmp_path, name, mark + TEXT.encode())
    spec = QuestionsSpec(task="numeric", path=path, mapping=FieldMapping(question="prompt", gold="answer"))
    rows = list(read_questions(spec))
    assert all(isinstance(row, Question) for row in rows)
    assert [row.text for row in rows] == ["How many, in all?\nSay it.", 'She said "two".']
    # The hash is of the unpacked bytes, and the rows are compared with it.
    assert list(read_rows(path, source_sha256(path))) == list(read_rows(path))


def test_tabs_jsonl_zst_and_empty_files(tmp_path: Path) -> None:
    path = packed(tmp_path, "q.tsv", b"prompt\tanswer\n1, 2 or 3?\t3\n\n")
    assert [(place, dict(row)) for place, row in read_rows(path)] == [
        ("q.tsv:2", {"prompt": "1, 2 or 3?", "answer": "3"})
    ]
    assert [row for _, row in read_rows(packed(tmp_path, "q.jsonl.zst", b'{"a": 1}\n'))] == [{"a": 1}]
    assert list(read_rows(packed(tmp_path, "empty.csv", b""))) == []


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a,b\n1,2,3\n", "q.csv:2 has 3 values and the header 2 columns"),
        ("a,b\n1\n", "q.csv:2 has 1 values"),
        ("a,a\n1,2\n", "names the column 'a' twice"),
        ('a\n"open', "cannot be read as CSV"),
        ('a\n"x"y\n', "cannot be read as CSV"),
        ("a\n\xff\n", "cannot be read as CSV"),
    ],
)
def test_a_malformed_table_is_an_error_with_its_place(tmp_path: Path, text: str, said: str) -> None:
    path = packed(tmp_path, "q.csv", text.encode("latin-1"))
    with pytest.raises(DataError, match=said):
        list(read_rows(path))


def test_a_damaged_zst_file_is_an_error(tmp_path: Path) -> None:
    whole = Path(packed(tmp_path, "q.csv.zst", TEXT.encode() * 500)).read_bytes()
    for damaged in (whole[: len(whole) // 2], b"no zstd at all"):
        (tmp_path / "q.csv.zst").write_bytes(damaged)
        with pytest.raises(DataError):
            list(read_rows(str(tmp_path / "q.csv.zst")))
