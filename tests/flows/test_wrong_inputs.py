"""Every command with what is missing, a folder, binary, empty, of another kind, unreadable: one error, no traceback.

In this process, through the command line's own parser; nothing is sent anywhere but to closed ports of loopback.
"""

import os
import subprocess
from pathlib import Path
from types import MappingProxyType

import pytest
from support import RUN, lema_command
from typer.testing import CliRunner

from flows.cli import app

ODD = os.fsdecode(b"odd\xff")
SECRET = "S3cret"
TO = ("--base-url", "http://127.0.0.1:9/v1", "--model", "m")
OUT = (*TO, "--out", "o")
ROOT = ("--root",)
BINARY = bytes(range(256)) * 20
FILES = MappingProxyType(
    {
        "empty": b"",
        "empty.toml": b"",
        "empty.jsonl": b"",
        "bin": BINARY,
        "bin.toml": BINARY,
        "bin.jsonl": BINARY,
        "bad.parquet": b"PAR1" + bytes(100) + b"PAR1",
        "file": b"x",
        "not.sqlite": b"not a database" * 400,
        "deep.toml": b"a=" + b"[" * 5_000 + b"]" * 5_000,
        "int.toml": b"q=" + b"9" * 5_000,
        "latin.toml": b'name="\xe9"',
        "r.jsonl": b'{"id":"1","messages":[{"role":"user","content":"x"}]}\n',
        "q.jsonl": b'{"question":"q","answer":"1"}\n',
        "latin.jsonl": b'{"id":"1","messages":[{"role":"user","content":"\xff"}]}\n',
        "v.jsonl": b'{"gold":"1","pred":"1"}\n',
        "choices.jsonl": b'{"gold":"1","pred":"1","candidates":3}\n',
        "one.jsonl": b'{"gold":"1"}\n',
        "torn/store/questions/0123456789abcdef/manifest.json": b"{",
        "record/runs/x.json": b"\xff\xfe",
        "url/ledger.url": b"\xff",
        "secret/ledger.url": b"postgresql://u:S3cret@h/db",
        "bad/ledger.sqlite": b"x" * 5_000,
        "folder/ledger.sqlite/x": b"",
        "runs/runs/x.json/y": b"",
        "hub/config.json": b"[]",
    }
)
PLANNED = [
    "training.base=./nope",
    "training.base=/nope/model",
    "training.base=../bin",
    "questions.path=dir",
    "questions.path=bin",
    "questions.path=bin.jsonl",
    "questions.path=bad.parquet",
    "questions.path=s3://b/x.jsonl",
    "questions.path=nope://x",
    "questions.path=http://127.0.0.1:9/x.jsonl",
    "questions.path=s3://k:S3cret@b/x.jsonl",
    f"questions.path={ODD}",
    "questions.path=/dev/zero",
    "runtime.ledger=dir",
    "runtime.ledger=not.sqlite",
    "runtime.ledger=s3://x",
    "runtime.ledger=postgresql://u:S3cret@h/db",
    "runtime.ledger=postgresql://u@127.0.0.1:9/db",
    "runtime.ledger=mysql://u:S3cret@h/db",
    "endpoints.student.base_url=http://[",
    "endpoints.student.base_url=ftp://x",
    "endpoints.student.base_url=http://u:S3cret@h",
    "endpoints.student.base_url=http://h/v1?api_key=S3cret",
    "x",
    "=",
    "questions=3",
    "a.b.c=1",
    "students.5.samples=1",
    "students.0=3",
    "name=../x",
    "name=",
    f"name={ODD}",
    "questions.mapping=3",
    "runtime.scheduler=tcp://u:S3cret@h:1",
    "x=" + "[" * 5_000,
    "questions.limit=" + "9" * 5_000,
]
ROOTS = [
    "s3://bucket/x",
    "nope://x",
    "s3://k:S3cret@b/x",
    "sftp://127.0.0.1:9/x",
    "hdfs://127.0.0.1:9/x",
    "zip://x.zip",
    "smb://127.0.0.1/x",
    "ftp://127.0.0.1:9/x",
    "reference://x",
    "gdrive://x",
    "s3://a::b",
    "url",
    "secret",
    "bad",
    "folder",
    ODD,
    "f\0x",
    "dbfs://x",
    "blockcache://x",
]
CASES: list[tuple[str, ...]] = [
    *(("plan", "run.toml", "--set", setting) for setting in PLANNED),
    *(
        ("plan", file)
        for file in (
            "no.toml",
            "dir",
            "bin.toml",
            "empty.toml",
            "latin.toml",
            "deep.toml",
            "int.toml",
            ODD,
            "/dev/null",
            "/dev/zero",
            "http://x/y.toml",
        )
    ),
    *(("plan", "run.toml", *ROOT, root) for root in ROOTS),
    *(
        (command, "run.toml", *more, *ROOT, root)
        for root in ("s3://bucket/x", "nope://x", "url", "bad")
        for command, more in (("run", ()), ("export", ("--to", "out")), ("evaluate", TO))
    ),
    *(("explain", "p-0", *ROOT, root) for root in ("s3://bucket/x", "nope://x", "torn", "dir", ODD)),
    *(("resume", *ROOT, root) for root in ("s3://bucket/x", "nope://x", "record", "runs", "dir", "file")),
    ("resume", "x", *ROOT, "record"),
    ("resume", ODD),
    ("run", "no.toml"),
    ("run", "bin.toml"),
    ("sweep", "no.toml"),
    *(("complete", file, *OUT) for file in ("no", "dir", "bin", "empty", "bin.jsonl", "latin.jsonl", ODD, "/dev/null")),
    *(("complete", "r.jsonl", *TO, "--out", out) for out in ("file", "file/x", "/dev/null", "/proc/x", ODD, "r.jsonl")),
    *(
        ("complete", "r.jsonl", "--base-url", url, "--model", "m", "--out", "o")
        for url in (
            "",
            "x",
            "http://",
            "http://[",
            "http://h:x/",
            "http://u:S3cret@h/",
            "http://h/v1?api_key=S3cret",
            "http://\0",
            "http://h h/",
            "http://127.0.0.1:99999/v1",
            "file:///etc/passwd",
        )
    ),
    *(
        ("complete", "r.jsonl", *OUT, "--ledger", ledger)
        for ledger in ("dir", "not.sqlite", "file/x", "s3://x", "postgresql://u:S3cret@h/db", "/proc/x/y", ODD, "\0")
    ),
    *(
        ("complete", "r.jsonl", *OUT, *more)
        for more in (
            ("--price", "x"),
            ("--price", "nan,1"),
            ("--price", "1,2,3"),
            ("--transport", "x"),
            ("--api-key-env", "NOPE_X"),
            ("--identity", "{weights}"),
            ("--concurrency", "100000"),
        )
    ),
    *(
        ("verify", file)
        for file in (
            "no",
            "dir",
            "bin",
            "empty",
            "bin.jsonl",
            "bad.parquet",
            "choices.jsonl",
            "one.jsonl",
            "s3://b/x.jsonl",
            ODD,
            "nope://x.jsonl",
            "http://127.0.0.1:9/x.jsonl",
            "/dev/null",
            "",
        )
    ),
    *(
        ("verify", "v.jsonl", "--out", out)
        for out in ("dir", "file/x.jsonl", "/dev/full", "v.jsonl", ODD, "/proc/x.jsonl")
    ),
    ("verify", "choices.jsonl", "--out", "x.parquet"),
    ("verify", "v.jsonl", "--family", "x"),
    ("verify",),
    *(
        ("rate", place, "--out", "ro", "--rater", "a", "--no-browser")
        for place in (
            "no",
            "dir",
            "bin",
            "bad.parquet",
            "s3://b/x",
            "nope://x",
            ODD,
            "torn/store/questions/0123456789abcdef",
        )
    ),
    *(
        ("ledger", *words, "--ledger", ledger)
        for words in (("explain", "x"), ("export", "x.parquet"), ("backup", "b.sqlite"))
        for ledger in ("no", "dir", "not.sqlite", "postgresql://u:S3cret@h/d", "s3://x", ODD, "\0", "file/x")
    ),
    *(("ledger", "--ledger", ledger) for ledger in ("no", "dir", "not.sqlite", "x://y")),
    *(
        ("ledger", "import", file, "--ledger", "new.sqlite")
        for file in ("no", "dir", "bin", "empty", "bad.parquet", ODD)
    ),
    *(("doctor", file) for file in ("no.toml", "dir", "bin.toml", "empty.toml", ODD)),
    *(
        ("evaluate", file, *TO)
        for file in (
            "no.jsonl",
            "dir",
            "bin",
            "bin.jsonl",
            "bad.parquet",
            "empty.jsonl",
            "no.toml",
            "bin.toml",
            "s3://b/x.jsonl",
            "nope://x",
            ODD,
            "",
        )
    ),
    ("evaluate", "q.jsonl", "--task", "nope", *TO),
    ("evaluate", "q.jsonl", "--task", "numeric"),
    ("evaluate", "q.jsonl", "--task", "numeric", *TO, "--against", "no"),
    ("options", "nope"),
    ("options", ODD),
    ("simulate", "--port", "99999"),
    ("simulate", "--fault", "x", "--port", "0"),
    *(("simulate", "--questions", file, "--port", "0") for file in ("no", "bin", "bin.jsonl", "bad.parquet", ODD)),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("wrong")
    for name, content in FILES.items():
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_bytes(content)
    (place / "dir").mkdir()
    (place / "run.toml").write_text(RUN.replace("{url}", "http://127.0.0.1:9/v1"))
    return place


@pytest.mark.parametrize("words", CASES, ids=lambda words: ascii(" ".join(words))[:70])
def test_a_wrong_input_is_one_error(folder: Path, monkeypatch, words):
    monkeypatch.chdir(folder)
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", "none")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "none")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    done = CliRunner().invoke(app, words)
    assert isinstance(done.exception, SystemExit), f"{done.exception!r}: {done.output}"
    assert done.exit_code != 0
    assert "Traceback" not in done.output
    assert "did not expect this" not in done.output
    assert SECRET not in done.output
    assert len(done.output) < 5_000
    done.output.encode()


@pytest.mark.parametrize("words", [("plan", "run.toml"), ("options", "corrections"), ("verify", "v.jsonl")])
def test_a_terminal_without_our_characters_gets_others(folder: Path, words):
    environment = os.environ | {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(lema_command(*words), cwd=folder, env=environment, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.isascii()
