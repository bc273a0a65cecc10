"""A run's data as files for other trainers: counted against the run's own artifacts, and pushed to a stand-in Hub."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import duckdb
import pytest

from lema_core.artifacts import ArtifactRef, Store
from lema_core.exporting import push
from lema_core.llm.simulated import SimulatedEndpoint
from lema_core.records import Example

pytestmark = pytest.mark.slow
SECRET = "hf_planted_for_this_test"


class Hub(BaseHTTPRequestHandler):
    """Takes what the Hub's client sends: create, preupload, commit."""

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.seen.append((self.path, self.headers.get("Authorization"), body))
        here = f"http://127.0.0.1:{self.server.server_port}/datasets/me/data"
        answer = {"url": here, "commitUrl": f"{here}/commit/{'0' * 40}", "commitOid": "0" * 40}
        if "/preupload/" in self.path:
            files = [
                {"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in json.loads(body)["files"]
            ]
            answer = {"files": files}
        self.reply(answer)

    def do_GET(self):
        self.reply({"id": "me/data", "sha": "0" * 40, "siblings": [], "tags": [], "downloads": 0, "likes": 0})

    def reply(self, answer):
        text = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_):
        pass


@pytest.fixture
def hub(monkeypatch):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.seen = []
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    yield server
    server.shutdown()
    server.server_close()


def test_a_runs_data_are_exported_and_pushed_and_its_votes_reported(
    lema, run_file, simulated: SimulatedEndpoint, hub, monkeypatch, tmp_path
):
    text = run_file.read_text().replace(
        "[questions]", 'licences = { data = "cc-by-4.0", student = "mit" }\n[questions]', 1
    )
    run_file.write_text(text + '[evaluation]\nbase = "student"\nmax_tokens = 200\nsamples = 3\n')
    early = lema("export", run_file, "--to", "x", "--root", "out", check=False)
    assert early.returncode == 1
    assert "has not finished" in early.stderr
    # The endpoint does not know the test questions, and this is not about their answers.
    lema("run", run_file, "--root", "out", "--set", "runtime.max_failed=1")
    report = next((tmp_path / "out" / "store" / "report").glob("*/report.md")).read_text()
    assert "maj@3" in report
    assert "votes: base" in lema("plan", run_file, "--root", "out").stdout

    monkeypatch.setenv("HF_TOKEN", SECRET)
    told = lema("export", run_file, "--to", "chat", "--root", "out", "--push", "me/data").stdout
    store = Store(str(tmp_path / "out" / "store"))
    mixtures = [ArtifactRef(m.stage, m.fingerprint) for m in store.manifests() if m.stage == "mixture"]
    counts = {}
    for arm in ("cot", "lema"):
        lines = [json.loads(line) for line in (tmp_path / "chat" / f"{arm}.jsonl").read_text().splitlines()]
        counts[arm] = len(lines)
        (rows,) = [rows for ref in mixtures if len(rows := list(store.rows(ref, Example))) == len(lines)]
        turns = [line["prompt"] + line["completion"] for line in lines]
        assert [[turn["content"] for turn in line] for line in turns] == [[r.input, r.output] for r in rows]
        assert {tuple(turn["role"] for turn in line) for line in turns} == {("user", "assistant")}
        assert f"{len(lines)} rows" in told
    card = (tmp_path / "chat" / "README.md").read_text()
    assert "license: cc-by-4.0" in card
    assert str(tmp_path) not in card

    assert "Sending README.md, cot.jsonl, lema.jsonl" in told
    assert SECRET not in told
    (commit,) = [body for path, _, body in hub.seen if "/commit/" in path]
    sent = [json.loads(line)["value"].get("path") for line in commit.splitlines()]
    assert {"README.md", "cot.jsonl", "lema.jsonl"} <= set(sent)
    assert all(authorization == f"Bearer {SECRET}" for _, authorization, _ in hub.seen)

    lema("export", run_file, "--format", "parquet", "--to", "tables", "--root", "out")
    for name, rows in (counts | {"paths": 120}).items():
        assert duckdb.read_parquet(f"{tmp_path}/tables/{name}.parquet").aggregate("count(*)").fetchall() == [(rows,)]
    assert sorted(p.name for p in (tmp_path / "tables").iterdir()) == [
        "README.md", "corrections.parquet", "cot.parquet", "lema.parquet", "paths.parquet",
    ]  # fmt: skip

    monkeypatch.delenv("HF_TOKEN")
    refused = lema("export", run_file, "--to", "chat", "--root", "out", "--push", "me/data", check=False)
    assert "HF_TOKEN" in refused.stderr


def test_a_model_is_pushed_as_one(hub, monkeypatch, tmp_path):
    monkeypatch.setenv("HF_TOKEN", SECRET)
    # In this process another test may have imported it before the environment named our Hub.
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", f"http://127.0.0.1:{hub.server_port}")
    (tmp_path / "README.md").write_text("---\nlicense: mit\n---\n")
    (tmp_path / "config.json").write_text("{}")
    for other in (".env", ".netrc", "notes.txt", "data.sqlite"):
        (tmp_path / other).write_text("words of mine")
    told = []
    names = ["config.json", "README.md"]
    address = push(tmp_path, names, "me/model", "model", private=True, notify=told.append)
    assert address.endswith("/me/model")
    assert "/datasets/" not in address
    assert address in told[0]
    assert "Sending README.md, config.json (" in told[0]
    assert [path for path, _, _ in hub.seen if "/models/me/model/commit/" in path]
    everything = b"".join(body for _, _, body in hub.seen)
    assert not [name for name in (b".env", b".netrc", b"notes.txt", b"sqlite", b"words") if name in everything]
