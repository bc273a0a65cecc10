"""Damaged, hostile and strange sources of questions: rows or one error of ours, never another library's.

LEMA_SOURCES=812 makes as many variants (default 320); LEMA_SEED another set of them.
"""

import bz2
import gzip
import io
import json
import lzma
import os
import random
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from damage import overwritten, torn

from lema_core.errors import DataError, LemaError
from lema_core.questions import FieldMapping, QuestionsSpec, detect_task, identity, read_questions
from lema_core.questions.sources import read_rows
from lema_core.records import Question, Rejection

VARIANTS = int(os.environ.get("LEMA_SOURCES", "320"))
SEED = int(os.environ.get("LEMA_SEED", "7"))
ROWS: dict[str, list[dict[str, Any]]] = {
    "gsm8k": [
        {"question": f"What is {n} + 1? Zoë asks.", "answer": f"{n}+1=<<{n}+1={n + 1}>>\n#### {n + 1}"}
        for n in range(9)
    ],
    "svamp": [
        {"ID": f"c-{n}", "Body": f"Ann has {n} nuts", "Question": "How many?", "Answer": float(n), "Type": "x"}
        for n in range(9)
    ],
    "csqa": [
        {
            "answerKey": "B",
            "id": f"{n}",
            "question": {
                "stem": f"Where is {n}?",
                "choices": [{"label": label, "text": f"{label}{n}"} for label in "ABCDE"],
            },
        }
        for n in range(9)
    ],
    "math": [
        {"problem": f"Find ${n}x$.", "solution": f"It is $\\boxed{{{n}x}}$.", "level": "Level 1", "type": "Algebra"}
        for n in range(9)
    ],
    "numeric": [{"question": f"What is {n}?", "answer": n, "why": f"It is {n}."} for n in range(9)],
}
XML = (
    "<?xml version='1.0' encoding='UTF-8'?>\n<M><P>"
    + "".join(
        f"<Problem ID='a{n}' Grade='1'><Body>Ann has {n} nuts.</Body><Question>How many? é</Question>"
        f"<Answer>{n} (nuts)</Answer></Problem>"
        for n in range(9)
    )
    + "</P></M>"
)


def deep(levels: int) -> Any:
    value: Any = 1
    for level in range(levels):
        value = [value] if level % 2 else {"a": value}
    return value


VALUES: list[Any] = [
    None,
    True,
    [],
    {},
    "",
    " ",
    0,
    -1,
    1.5,
    float("nan"),
    float("inf"),
    10**4000,
    1e308,
    "\ud800",
    "a\0b",
    "x" * 3_000,
    "####",
    "#### ",
    "\\boxed{",
    "\\boxed{}",
    "1/0",
    ["a"],
    [None],
    [1, "a"],
    {"stem": None},
    {"stem": "s", "choices": None},
    {"stem": "s", "choices": [1]},
    {"stem": "s", "choices": {"label": ["A"], "text": []}},
    [{"label": []}],
    deep(90),
    deep(400),
    "}" * 500,
    "{" * 500,
    "\u202e\u0000",
    "٣",
    "²",
    "1e999",
    {"label": {"a": []}, "text": 3},
]


def zeroed(data: bytes, chance: random.Random) -> bytes:
    start = chance.randrange(len(data))
    return data[:start] + bytes(min(chance.randint(1, 500), len(data) - start)) + data[start + 500 :]


def grown(data: bytes, chance: random.Random) -> bytes:
    place = chance.randrange(len(data))
    return data[:place] + chance.randbytes(chance.randint(1, 60)) + data[place:]


def doubled(data: bytes, chance: random.Random) -> bytes:
    start = chance.randrange(len(data))
    return data[:start] + data[start : start + 90] + data[start:]


DAMAGES = (overwritten, torn, zeroed, grown, doubled)


def zipped(data: bytes, name: str = "q") -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, data)
    return file.getvalue()


PACKERS = {"": bytes, ".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress, ".zip": zipped}


def strange_row(row: dict[str, Any], chance: random.Random) -> dict[str, Any]:
    name = chance.choice([*row])
    if chance.random() < 0.2:
        return {key: value for key, value in row.items() if key != name} | {chance.choice(["\ud800", "", "a.b"]): 1}
    return row | {name: chance.choice(VALUES)}


def encoded(rows: list[Any], kind: str) -> bytes:
    if kind == "parquet":
        file = io.BytesIO()
        pq.write_table(pa.Table.from_pylist(rows), file, compression="zstd" if len(rows[0]) % 2 else "none")
        return file.getvalue()
    return (json.dumps(rows) if kind == "json" else "".join(f"{json.dumps(row)}\n" for row in rows)).encode()


def variant(number: int) -> tuple[str, str, bytes]:
    """Return task, file name and bytes of one source."""
    chance = random.Random(SEED * 1_000_003 + number)  # noqa: S311
    kind = chance.choice(["jsonl", "json", "parquet", "parquet", "xml"])
    if kind == "xml":
        data = XML.encode()
        return "asdiv", "q.xml", chance.choice(DAMAGES)(data, chance)
    task = chance.choice([*ROWS])
    rows: list[Any] = [dict(row) for row in ROWS[task]]
    if kind != "parquet" and chance.random() < 0.5:
        place = chance.randrange(len(rows))
        rows[place] = strange_row(rows[place], chance) if chance.random() < 0.8 else chance.choice(VALUES)
        return task, f"q.{kind}", encoded(rows, kind)
    end = chance.choice([*PACKERS])
    if chance.random() < 0.5:
        return task, f"q.{kind}{end}", PACKERS[end](chance.choice(DAMAGES)(encoded(rows, kind), chance))
    return task, f"q.{kind}{end}", chance.choice(DAMAGES)(PACKERS[end](encoded(rows, kind)), chance)


def check(folder: Path, task: str, name: str, data: bytes) -> None:
    path = folder / name
    path.write_bytes(data)
    mapping = FieldMapping(rationale="why") if task == "numeric" else None
    spec = QuestionsSpec(task=task, path=str(path), mapping=mapping)

    def rows() -> None:
        for row in read_questions(spec, identity(spec)["source"]):
            assert isinstance(row, Question | Rejection)

    for read in (rows, lambda: detect_task(str(path))):
        failure = refused(read)
        assert failure is None or len(str(failure).encode()) < 2_000
        assert failure is None or failure.__cause__ is None, "another library's error stands in its traceback"


def refused(read: Callable[[], object]) -> LemaError | None:
    try:
        read()
    except LemaError as error:
        return error
    return None


@pytest.mark.parametrize("part", range(8))
def test_damaged_sources_give_rows_or_one_error_of_ours(tmp_path, part):
    for number in range(part, VARIANTS, 8):
        try:
            check(tmp_path, *variant(number))
        except Exception as error:
            error.add_note(f"variant {number} of seed {SEED}: {variant(number)[:2]}")
            raise


LAUGHS = "<!DOCTYPE l [<!ENTITY a 'ha'>" + "".join(
    f"<!ENTITY {chr(98 + n)} '{f'&{chr(97 + n)};' * 10}'>" for n in range(12)
)
HAND_MADE: dict[str, bytes] = {
    "empty.jsonl": b"",
    "empty.json": b"",
    "empty.parquet": b"",
    "empty.xml": b"",
    "empty.jsonl.gz": b"",
    "empty.jsonl.zip": b"",
    "blank.jsonl": b"\n \n\t\n",
    "nul.jsonl": bytes(1_000),
    "nul.parquet": bytes(1_000),
    "deep.jsonl": b"[" * 100_000 + b"]" * 100_000,
    "deep.json": b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    "deep_row.jsonl": b'{"question":"q","answer":' + b"[" * 900 + b"]" * 900 + b"}",
    "huge_int.jsonl": b'{"question":"q","answer":' + b"9" * 5_000 + b"}",
    "nan.jsonl": b'{"question":"q","answer":NaN}',
    "infinity.jsonl": b'{"question":"q","answer":-Infinity}',
    "big_float.jsonl": b'{"question":"q","answer":1e999}',
    "surrogate.jsonl": b'{"question":"q \\ud800","answer":"\\udfff"}',
    "surrogate_key.jsonl": b'{"\\ud800":"q","answer":"1"}',
    "latin1.jsonl": '{"question":"é","answer":"1"}'.encode("latin1"),
    "utf16.jsonl": '{"question":"q","answer":"1"}\n{"question":"p","answer":"1"}'.encode("utf-16"),
    "utf32.json": '[{"question":"q","answer":"1"}]'.encode("utf-32"),
    "text.jsonl": b"hello\nworld\n",
    "list.jsonl": b"[1,2]",
    "string.json": b'"x"',
    "number.json": b"3",
    "null.jsonl": b"null",
    "mixed.json": b'[{"question":"q","answer":"1"},3]',
    "two.json": b"{}{}",
    "laughs.xml": (LAUGHS + "]><l>&m;</l>").encode(),
    "external.xml": b"<!DOCTYPE l [<!ENTITY x SYSTEM 'file:///etc/passwd'>]>"
    b"<l><Problem ID='&x;'><Body>&x;</Body></Problem></l>",
    "encoding.xml": b"<?xml version='1.0' encoding='no-such'?><a/>",
    "utf7.xml": b"<?xml version='1.0' encoding='utf-7'?><a/>",
    "multibyte.xml": b"<?xml version='1.0' encoding='shift_jis'?><a/>",
    "idna.xml": b"<?xml version='1.0' encoding='idna'?><a/>",
    "rot.xml": b"<?xml version='1.0' encoding='rot13'?><a/>",
    "zlib.xml": b"<?xml version='1.0' encoding='zlib'?><a/>",
    "undefined.xml": b"<?xml version='1.0' encoding='undefined'?><a/>",
    "utf16.xml": XML.replace("UTF-8", "UTF-16").encode("utf-16"),
    "deep.xml": b"<a>" * 50_000 + b"</a>" * 50_000,
    "nul.xml": b"<a>\0</a>",
    "not.xml": b"%PDF-1.4",
    "plain.jsonl.gz": b"no gzip",
    "plain.jsonl.bz2": b"no bz2",
    "plain.jsonl.xz": b"no xz",
    "plain.jsonl.zip": b"no zip",
    "plain.jsonl.zst": b"no zst",
    "plain.jsonl.lz4": b"no lz4",
    "no_files.jsonl.zip": b"PK\5\6" + bytes(18),
    "inner.jsonl.gz": gzip.compress(b'{"question":"q"'),
    "twice.jsonl.gz": gzip.compress(gzip.compress(b"{}")),
    "many.parquet": b"PAR1" + b"\xff" * 200 + b"\xff\xff\xff\x7fPAR1",
    "short.parquet": b"PAR1PAR1",
    "footer.parquet": b"PAR1" + bytes(40) + (40).to_bytes(4, "little") + b"PAR1",
    "encrypted.parquet": b"PARE" + bytes(60) + b"PARE",
}


@pytest.mark.parametrize("name", HAND_MADE)
def test_hand_made_sources(tmp_path, name):
    for task in ("asdiv",) if name.endswith(".xml") else ("numeric", "asdiv", "csqa"):
        check(tmp_path, task, name, HAND_MADE[name])


def test_archives_of_more_than_one_file_are_refused(tmp_path):
    path = tmp_path / "q.jsonl.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.jsonl", "{}")
        archive.writestr("b.jsonl", "{}")
    with pytest.raises(DataError, match="holds 2 files"):
        list(read_rows(str(path)))


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress], ids=["gz", "bz2", "xz"])
def test_a_bomb_is_refused_before_it_fills_memory_or_disk(tmp_path, monkeypatch, pack):
    monkeypatch.setattr("lema_core.questions.sources.BOMB_BYTES", 1 << 20)
    end = {gzip.compress: "gz", bz2.compress: "bz2", lzma.compress: "xz"}[pack]
    path = tmp_path / f"q.jsonl.{end}"
    path.write_bytes(pack(b" " * (64 << 20)))
    with pytest.raises(DataError, match="unpacks to more than"):
        list(read_rows(str(path)))
    with pytest.raises(DataError, match="unpacks to more than"):
        identity(QuestionsSpec(task="numeric", path=str(path)))


def test_one_endless_line_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("lema_core.questions.sources.LONGEST_LINE", 1_000)
    (tmp_path / "q.jsonl").write_bytes(b"[" + b" " * 5_000 + b"]")
    with pytest.raises(DataError, match="longer than"):
        list(read_rows(str(tmp_path / "q.jsonl")))


@pytest.mark.parametrize("path", ["/dev/zero", "/dev/null", "/", "/proc/self", ""])
def test_what_is_no_regular_file_is_refused(path):
    with pytest.raises(LemaError):
        list(read_rows(f"{path}"))
    with pytest.raises(LemaError):
        identity(QuestionsSpec(task="numeric", path=path))


@pytest.mark.parametrize(
    "name", ["gsm8k/test.jsonl", "svamp/SVAMP.json", "asdiv/ASDiv.xml", "csqa/dev_rand_split.jsonl", "math/test.jsonl"]
)
def test_published_files_with_changed_bytes(shared, tmp_path, name):
    path = shared / name
    if not path.exists():
        pytest.skip(f"no {name}")
    data, chance = path.read_bytes()[:60_000], random.Random(SEED)  # noqa: S311
    for _ in range(6):
        check(tmp_path, path.parent.name, path.name, chance.choice(DAMAGES)(data, chance))
